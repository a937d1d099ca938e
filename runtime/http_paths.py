"""The paths of the ingress: from the raw request target to what is asked for, by dictionary look-ups.

A path is split at its slashes *before* anything is decoded, so `%2F` stays part of a key, and each part is decoded
exactly once.  The two families, as in Restate's ingress:

    /{Service}/{handler}[/send]        /{Object}/{key}/{handler}[/send]
    /restate/{verb}/…                  call, send, attach, output, lookup, invocation, workflow, awakeables, health

The file knows names and shapes; it does not know whether a key, an id or an argument is acceptable: the engine does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeAlias
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from .admission import Refused

_SERVICE_FORM = "/{service}/{handler}[/send]"
_KEYED_FORM = "/{service}/{{key}}/{handler}[/send]"
_RESTATE_FORMS = (
    "/restate/call/{service}[/{key}]/{handler}, /restate/send/{service}[/{key}]/{handler}, /restate/attach/{id}, "
    "/restate/output/{id}, /restate/invocation/{id}/attach, /restate/workflow/{name}/{key}/attach, "
    "/restate/awakeables/{id}/resolve, "
    "POST /restate/attach, POST /restate/output, POST /restate/lookup or /restate/health"
)
_INVOCATION_FORMS = (
    "/restate/invocation/{id}/attach, /restate/invocation/{service}[/{key}]/{handler}/{idempotency-key}/attach, "
    "or the same with /output; /restate/invocation/{id}/cancel, /restate/invocation/{id}/signals/{name}/resolve "
    "or the same with /reject"
)
_AWAKEABLE_FORMS = "/restate/awakeables/{id}/resolve or /restate/awakeables/{id}/reject"
_WORKFLOW_FORMS = "/restate/workflow/{name}/{key}/attach or /restate/workflow/{name}/{key}/output"

SIGNAL_BYTES_MAX = 512
"""As long as a key of an object."""

_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NAMES_SHOWN_MAX = 20
_TEXT_SHOWN_MAX = 80


class Handler(Protocol):
    """What a path needs to know of a handler."""

    @property
    def public(self) -> bool: ...
    @property
    def takes_nothing(self) -> bool: ...


class Served(Protocol):
    """What a path needs to know of a class that is served."""

    @property
    def keyed(self) -> bool: ...
    @property
    def handlers(self) -> Mapping[str, Handler]: ...


class Invoke(Struct, frozen=True, gc=False):
    """Call a handler, or send it a message."""

    service: str
    key: str
    handler: str
    send: bool


class Invocation(Struct, frozen=True, gc=False, tag="invocation", tag_field="target", rename="camel"):
    """An invocation, by its id."""

    invocation_id: str


class Workflow(Struct, frozen=True, gc=False, tag="workflow", tag_field="target", rename="camel"):
    """The one run of a workflow."""

    workflow_name: str
    workflow_key: str
    scope: str | None = None


class IdempotentInvocation(
    Struct, frozen=True, gc=False, tag="idempotentInvocation", tag_field="target", rename="camel"
):
    """An invocation, by the idempotency key it was made with."""

    service: str
    handler: str
    idempotency_key: str
    key: str | None = None
    scope: str | None = None


Target: TypeAlias = Invocation | Workflow | IdempotentInvocation


class Await(Struct, frozen=True, gc=False):
    """Wait for the outcome of `target`, or peek at it. None: the body names it."""

    target: Target | None
    peek: bool


class Lookup(Struct, frozen=True, gc=False):
    """Say the id of the invocation that the body names."""


class Complete(Struct, frozen=True, gc=False):
    """Give the awakeable `id` its value, or the invocation `id` a signal; or reject it, for the reason in the body."""

    id: str
    resolve: bool
    signal: str | None = None


class Cancel(Struct, frozen=True, gc=False):
    """Ask an invocation to end."""

    id: str


class Health(Struct, frozen=True, gc=False):
    """Say which services are served."""


Route: TypeAlias = Invoke | Await | Lookup | Complete | Cancel | Health


def parse_path(path: str, services: Mapping[str, Served]) -> Route:
    """What the raw path (without query) asks for.

    Raises Refused: 404 an unknown service or handler, 400 missing or extra parts, bad encoding, a handler that is not
    public.
    """
    parts = path.split("/")
    first = parts[1] if len(parts) > 1 else ""
    service = services.get(first)
    if service is not None:
        return _direct(parts, 1, first, service, send=None)
    if first == "restate":
        return _restate(parts, services)
    if len(parts) == 2:
        raise Refused(400, f"bad path {_shown(path)}, expected {_forms(services)}")
    return _direct(parts, 1, *_service(first, services), send=None)


def _direct(parts: list[str], at: int, service_name: str, service: Served, *, send: bool | None) -> Invoke:
    """`parts[at]` is the service's name. With `send` None a last part `send` decides between call and message."""
    handler_at = at + 2 if service.keyed else at + 1
    count = len(parts)
    if count == handler_at + 2 and send is None and parts[-1] == "send":
        send = True
    elif count != handler_at + 1:
        raise Refused(400, _wrong_parts(service_name, service, send))
    name, handler = parts[handler_at], service.handlers.get(parts[handler_at])
    if handler is None:
        name = decode(name)
        handler = _handler(name, service_name, service)
    if not handler.public:
        raise Refused(400, f"the handler {_shown(name)} of {_shown(service_name)} is not public")
    key = decode(parts[at + 1]) if service.keyed else ""
    return Invoke(service_name, key, name, bool(send))


def _restate(parts: list[str], services: Mapping[str, Served]) -> Route:
    verb, count = parts[2] if len(parts) > 2 else "", len(parts)
    if verb in ("call", "send") and count > 3:
        return _direct(parts, 3, *_service(parts[3], services), send=verb == "send")
    if verb in ("attach", "output") and count in (3, 4):
        target = Invocation(decode(parts[3])) if count == 4 else None
        return Await(target, peek=verb == "output")
    if verb == "invocation":
        return _by_invocation_path(parts, services)
    if verb == "workflow":
        return _by_workflow_path(parts)
    if verb in ("awakeables", "a"):
        return _by_awakeable_path(parts)
    if verb in ("lookup", "health") and count == 3:
        return Lookup() if verb == "lookup" else Health()
    if verb == "scope":
        raise Refused(400, "scopes are not supported; use the path without /scope/{scope}")
    raise Refused(400 if verb in ("call", "send", "attach", "output", "lookup", "health", "") else 404, _no_verb(verb))


def _by_awakeable_path(parts: list[str]) -> Complete:
    if len(parts) != 5 or parts[4] not in ("resolve", "reject"):
        raise Refused(400, f"bad path, expected {_AWAKEABLE_FORMS}")
    return Complete(decode(parts[3]), parts[4] == "resolve")


def _by_invocation_path(parts: list[str], services: Mapping[str, Served]) -> Await | Complete | Cancel:
    """`/restate/invocation/{id}/attach`, or the target and its idempotency key in place of the id.

    Restate's ingress has neither signals nor a way to cancel; both are for who knows an id, as `attach` is.
    """
    if len(parts) == 5 and parts[4] == "cancel":
        return Cancel(decode(parts[3]))
    if len(parts) == 7 and parts[4] == "signals" and parts[6] in ("resolve", "reject"):
        return Complete(decode(parts[3]), parts[6] == "resolve", _signal(parts[5]))
    peek = _peek(parts, _INVOCATION_FORMS)
    if len(parts) == 5:
        return Await(Invocation(decode(parts[3])), peek)
    if len(parts) < 7:
        raise Refused(400, f"bad path, expected {_INVOCATION_FORMS}")
    name, service = _service(parts[3], services)
    if len(parts) != (8 if service.keyed else 7):
        raise Refused(400, f"bad path, expected {_INVOCATION_FORMS}")
    *keyed, handler, idempotency_key = (decode(part) for part in parts[4:-1])
    return Await(IdempotentInvocation(name, handler, idempotency_key, keyed[0] if keyed else None), peek)


def _signal(part: str) -> str:
    name = decode(part)
    if not name or len(name.encode("utf-8", "replace")) > SIGNAL_BYTES_MAX:
        raise Refused(400, f"a signal's name has 1 to {SIGNAL_BYTES_MAX} bytes of UTF-8")
    return name


def _by_workflow_path(parts: list[str]) -> Await:
    peek = _peek(parts, _WORKFLOW_FORMS)
    if len(parts) != 6:
        raise Refused(400, f"bad path, expected {_WORKFLOW_FORMS}")
    return Await(Workflow(decode(parts[3]), decode(parts[4])), peek)


def _peek(parts: list[str], forms: str) -> bool:
    if len(parts) < 5 or parts[-1] not in ("attach", "output"):
        raise Refused(400, f"bad path, expected {forms}")
    return parts[-1] == "output"


def decode(part: str) -> str:
    """One part of a path, percent-decoded once. Raises Refused(400): a stray `%`, or bytes that are not UTF-8."""
    if "%" not in part and part.isascii():
        return part
    if _BAD_PERCENT.search(part):
        raise Refused(400, "bad path, '%' must be followed by two hexadecimal digits; write a percent sign as %25")
    try:
        # The parser hands raw bytes over as surrogate escapes: so bytes that came unencoded are checked too.
        return unquote_to_bytes(part.encode("utf-8", "surrogateescape")).decode("utf-8")
    except UnicodeError:
        raise Refused(400, "bad path, its percent-decoded bytes are not UTF-8") from None


def _service(part: str, services: Mapping[str, Served]) -> tuple[str, Served]:
    name = decode(part)
    service = services.get(name)
    if service is None:
        raise Refused(404, f"service {_shown(name)} not found; served are: {_listed(services)}")
    return name, service


def _handler(name: str, service_name: str, service: Served) -> Handler:
    handler = service.handlers.get(name)
    if handler is None:
        public = (other for other, definition in service.handlers.items() if definition.public)
        raise Refused(
            404,
            f"the service {_shown(service_name)} exists, but the handler {_shown(name)} was not found; "
            f"its handlers are: {_listed(public)}",
        )
    return handler


def _wrong_parts(name: str, service: Served, send: bool | None) -> str:
    form = (_KEYED_FORM if service.keyed else _SERVICE_FORM).format(service=_cut(name), handler="{handler}")
    if send is not None:
        form = f"/restate/{'send' if send else 'call'}" + form.removesuffix("[/send]")
    kind = "has a key" if service.keyed else "has no key"
    return f"bad path, {_shown(name)} {kind}: expected {form}; a slash in a key is written %2F"


def _forms(services: Mapping[str, Served]) -> str:
    return f"/{{service}}/{{handler}} or /{{object}}/{{key}}/{{handler}}; served are: {_listed(services)}"


def _no_verb(verb: str) -> str:
    return f"bad path after /restate/{_cut(verb)}, expected {_RESTATE_FORMS}"


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(_cut(name) for name in ordered[:_NAMES_SHOWN_MAX])
    more = len(ordered) - _NAMES_SHOWN_MAX
    return (shown or "none") + (f" and {more} more" if more > 0 else "")


def _shown(text: str) -> str:
    return f"'{_cut(text)}'"


def _cut(text: str) -> str:
    """Bounded, and encodable: what came in may hold surrogates, and may be 8 KiB long."""
    cut = text if len(text) <= _TEXT_SHOWN_MAX else text[:_TEXT_SHOWN_MAX] + "…"
    return cut.encode("utf-8", "replace").decode("utf-8")

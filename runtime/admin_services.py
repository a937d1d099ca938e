"""The admin API's `/services` and `/openapi`.

    GET    /services                          200 {"services": [ … ]}
    GET    /services/{service}                200 one of them: its handlers, with the schemas of what they take
    GET    /services/{service}/handlers       200 {"handlers": [ … ]};  …/handlers/{handler} for one of them
    GET    /services/{service}/openapi        200 OpenAPI 3.1 of the ingress; /openapi for all services,
                                              /openapi/admin of this API itself
    GET    /services/{service}/state/{key}    200 StateView
    POST   /services/{service}/state          202 {"object_key", "new_state" | "state", "version"?}: all of it anew
    DELETE /services/{service}/state/{key}    202 cleared, Lists and Maps too; `?version=…`

`new_state` is Restate's form, each value the bytes of its JSON as numbers; `state` has the values themselves.
404 unknown, 400 an unfit value, with its path, 409 the state has another version by now, or is in use.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from perdure.objects.definitions import HandlerDefinition, Kind, ServiceDefinition

from .admin_openapi import openapi_of_admin
from .admission import Refused
from .engine import Engine
from .http_paths import decode
from .http_replies import Reply
from .http_server import first_line, method_not_allowed, require_method
from .schemas import openapi_of, schema_of

FORMS = "/services, /services/{service}, …/handlers, …/openapi, …/state/{key}, /openapi, /openapi/admin"

_KINDS = {Kind.OBJECT: "VirtualObject", Kind.SERVICE: "Service", Kind.WORKFLOW: "Workflow"}
_QUERY_FIELDS_MAX = 4


class _Edit(msgspec.Struct, forbid_unknown_fields=True):
    object_key: str
    new_state: dict[str, list[int]] | msgspec.UnsetType = msgspec.UNSET
    state: dict[str, msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    version: str | None = None


_edit = msgspec.json.Decoder(_Edit).decode


async def answer(
    engine: Engine, request: web.BaseRequest, parts: Sequence[str], read: Callable[[], Awaitable[bytes]]
) -> Reply:
    """`parts` are those of the path behind `/services`, still encoded; `read` takes in the body.  Raises Refused."""
    services = engine.registry.services
    if not parts:
        require_method(request, "GET")
        return _json({"services": [about(service) for _, service in sorted(services.items())]})
    service = services.get(decode(parts[0]))
    if service is None:
        raise Refused(404, f"no service {decode(parts[0])[:80]!r} is served here; GET /services lists them")
    match [decode(part) for part in parts[1:]]:
        case ["state"]:
            require_method(request, "POST")
            return await _replace(engine, service, request, await read())
        case ["state", key]:
            return await _state(engine, service, key, request)
        case rest:
            require_method(request, "GET")
            return _json(_described(service, rest))


def openapi(engine: Engine, *, admin: bool) -> Reply:
    """Of all that is served, or of the admin API itself."""
    services = engine.registry.services.values()
    return _json(openapi_of_admin(services) if admin else openapi_of(services))


def _described(service: ServiceDefinition, rest: list[str]) -> object:
    match rest:
        case []:
            return about(service)
        case ["openapi"]:
            return openapi_of([service])
        case ["handlers"]:
            return {"handlers": [about_handler(handler) for handler in service.handlers.values()]}
        case ["handlers", name] if name in service.handlers:
            return about_handler(service.handlers[name])
        case ["handlers", name]:
            known = ", ".join(sorted(service.handlers))
            raise Refused(404, f"{service.name} has no handler {name[:80]!r}; it has: {known}")
        case _:
            raise Refused(404, f"there is {FORMS}")


def about(service: ServiceDefinition) -> dict[str, object]:
    lifetimes = service.lifetimes
    return {
        "name": service.name,
        "ty": _KINDS[service.kind],
        "public": any(handler.public for handler in service.handlers.values()),
        "revision": service.version,
        "handlers": [about_handler(handler) for handler in service.handlers.values()],
        "state": {name: schema_of(field.type) for name, field in service.fields.items()},
        "retention_seconds": lifetimes.retention_seconds,
        "retained_max": lifetimes.retained_max,
        "time_to_live_seconds": lifetimes.time_to_live_seconds,
        "documentation": service.cls.__doc__,
    }


def about_handler(handler: HandlerDefinition) -> dict[str, object]:
    takes = handler.input_type is not None
    return {
        "name": handler.name,
        "ty": "Exclusive" if handler.exclusive else "Shared",
        "public": handler.public,
        "stream": handler.stream,
        "input_description": "value of content-type 'application/json'" if takes else "none",
        "input_required": not handler.input_optional,
        "input_json_schema": schema_of(handler.input_type) if takes else None,
        "output_description": "value of content-type 'application/json'",
        "output_json_schema": schema_of(handler.output_type),
        "timeout_seconds": handler.timeout_seconds,
        "documentation": handler.fn.__doc__,
    }


async def _state(engine: Engine, service: ServiceDefinition, key: str, request: web.BaseRequest) -> Reply:
    if request.method == "DELETE":
        await engine.state.replace(service.name, key, {}, _version(request))
        return Reply(202, b"")
    if request.method != "GET":
        method_not_allowed("GET, DELETE")
    view = engine.state.read(service.name, key)
    await engine.caught_up()  # what is told must be durable
    return _json(view)


async def _replace(engine: Engine, service: ServiceDefinition, request: web.BaseRequest, body: bytes) -> Reply:
    if request.content_type != "application/json":  # the one type that a page of another site can't send unasked
        raise Refused(415, "the body is JSON: send content-type: application/json")
    try:
        edit = _edit(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"this is no edit of a state: {first_line(error)}; nothing was done") from None
    await engine.state.replace(service.name, edit.object_key, _given(edit), edit.version)
    return Reply(202, b"")


def _given(edit: _Edit) -> Mapping[str, bytes]:
    if isinstance(edit.state, dict) == isinstance(edit.new_state, dict):
        raise Refused(400, "give `state`, with JSON values, or `new_state`, with their bytes; nothing was done")
    if isinstance(edit.state, dict):
        return {name: bytes(value) for name, value in edit.state.items()}
    assert isinstance(edit.new_state, dict)
    try:
        return {name: bytes(value) for name, value in edit.new_state.items()}
    except ValueError:
        raise Refused(400, "new_state: a byte is a number from 0 to 255; nothing was done") from None


def _version(request: web.BaseRequest) -> str | None:
    query = request.raw_path.partition("?")[2]
    try:
        fields = dict(parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_QUERY_FIELDS_MAX))
    except ValueError:
        raise Refused(400, "bad query string") from None
    if unknown := fields.keys() - {"version"}:
        raise Refused(400, f"unknown query parameter {min(unknown)[:40]!r}; there is `version`; nothing was done")
    return fields.get("version")


def _json(value: object) -> Reply:
    return Reply(200, msgspec.json.encode(value))

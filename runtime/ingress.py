"""The HTTP ingress: calls, streams, messages, attach, output, awakeables, lookup, in the dialect of Restate's ingress.

Paths are read by `http_paths`, answers made by `http_replies`, slow and greedy clients held off by `http_limits`; what
is left here is the way of one request: head, body, `Engine.submit`, and its outcome as an answer.
What is ours alone: an invocation is cancelled, and given a signal, by whoever knows its id.
The file does not know what a turn or a journal is.  It never answers before what the engine gives it is durable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Protocol
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from .access import Access
from .admission import Refused, Request
from .durations import InvalidDuration, parse_duration_us
from .event_streams import Items, last_event_id, send_events, wants_events
from .http_limits import Connection, ConnectionLimits
from .http_paths import (
    Await,
    Cancel,
    Complete,
    Health,
    IdempotentInvocation,
    Invocation,
    Invoke,
    Route,
    Served,
    Target,
    parse_path,
)
from .http_replies import NOT_READY, Reply, error_reply, failure_reply
from .http_server import HttpServer, first_line, method_not_allowed, origin_form, require_method
from .records import Outcome, Success
from .settings import Settings

IDEMPOTENCY_KEY_BYTES_MAX = 512
"""As long as a key of an object; a UUID is 36."""

_WORKFLOW_RUN = "run"
_QUERY_FIELDS_MAX = 16

# What describes the message on the wire rather than the request, and is of no use to a handler. Credentials are left
# out too: headers are written to the journal, where a token would stay readable for as long as the segment lives.
_HEADERS_NOT_PASSED_ON = frozenset(
    (
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"authorization",
        b"cache-control",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"cookie",
        b"dnt",
        b"expect",
        b"host",
        b"idempotency-key",
        b"keep-alive",
        b"last-event-id",
        b"origin",
        b"pragma",
        b"priority",
        b"proxy-authorization",
        b"proxy-connection",
        b"referer",
        b"sec-fetch-dest",
        b"sec-fetch-mode",
        b"sec-fetch-site",
        b"sec-fetch-user",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"upgrade-insecure-requests",
        b"user-agent",
    )
)


class Submitted(Protocol):
    """What `Engine.submit` gives back."""

    @property
    def id(self) -> str: ...
    @property
    def previously(self) -> bool: ...
    @property
    def stream(self) -> bool: ...
    def accepted(self) -> Awaitable[None]: ...
    def outcome(self) -> Awaitable[Outcome]: ...


class Services(Protocol):
    @property
    def services(self) -> Mapping[str, Served]: ...


class Operations(Protocol):
    """What whoever knows an id may do with it."""

    def cancel(self, id: str, /) -> Awaitable[None]: ...
    def resolve_awakeable(self, id: str, value: bytes, /) -> Awaitable[None]: ...
    def reject_awakeable(self, id: str, reason: str, /) -> Awaitable[None]: ...
    def resolve_signal(self, id: str, name: str, value: bytes, /) -> Awaitable[None]: ...
    def reject_signal(self, id: str, name: str, reason: str, /) -> Awaitable[None]: ...


class Engine(Protocol):
    """The part of the engine that the ingress uses. Everything it awaits is durable when it is there."""

    @property
    def registry(self) -> Services: ...
    @property
    def operations(self) -> Operations: ...
    def submit(self, request: Request, *, public_only: bool = True) -> Submitted: ...
    def attach(self, id: str, /) -> Awaitable[Outcome]: ...
    def output(self, id: str, /) -> Awaitable[Outcome | None]: ...
    def items(self, id: str, after: int, /) -> Items | None: ...
    def find(self, service: str, key: str, handler: str, idempotency_key: str | None, /) -> str: ...
    def caught_up(self) -> Awaitable[None]: ...


class Ingress(HttpServer):
    """The HTTP server in front of one engine."""

    open_paths = frozenset(("/restate/health",))
    """For supervisors, who have no token."""

    def __init__(self, engine: Engine, settings: Settings, access: Access | None = None) -> None:
        limits = ConnectionLimits(
            header_timeout_seconds=settings.header_timeout_seconds,
            body_bytes_per_second_min=settings.body_bytes_per_second_min,
            body_grace_seconds=settings.body_grace_seconds,
            response_timeout_seconds=settings.response_timeout_seconds,
            keepalive_seconds=settings.keepalive_seconds,
            connections_max=settings.connections_max,
            connections_per_address_max=settings.connections_per_address_max,
        )
        super().__init__(limits, settings.body_bytes_max, access)
        self._engine = engine
        self._services = engine.registry.services
        self._health = msgspec.json.encode({"services": sorted(self._services)})

    # --- one request -------------------------------------------------------------------------------------------------

    async def caught_up(self) -> None:
        await self._engine.caught_up()

    def answer(self, request: web.BaseRequest, connection: Connection) -> Awaitable[web.StreamResponse]:
        path, _, query = origin_form(request.raw_path).partition("?")
        route = parse_path(path, self._services)
        if isinstance(route, Invoke):
            return self._invoke(route, query, request, connection)
        return self._ask(route, request, connection)

    async def _ask(self, route: Route, request: web.BaseRequest, connection: Connection) -> web.StreamResponse:
        if isinstance(route, Await):
            return await self._await(route, request, connection)
        if isinstance(route, Health):
            require_method(request, "GET")
            return Reply(200, self._health)
        require_method(request, "POST")
        if isinstance(route, Cancel):
            await self._engine.operations.cancel(route.id)
            return Reply(202, b"")
        if isinstance(route, Complete):
            return await self._complete(route, request, connection)
        found = self._find(await self._target(request, connection))
        await self._engine.caught_up()
        return Reply(200, msgspec.json.encode({"invocationId": found}), _id_field(found))

    async def _invoke(
        self, route: Invoke, query: str, request: web.BaseRequest, connection: Connection
    ) -> web.StreamResponse:
        if request.method != "POST":
            self._require_get(route, request.method)
        headers, idempotency_key = headers_of(request)
        delay = delay_us(query, send=route.send) if query else None
        content = request.content
        body = content.read_nowait() if content.is_eof() else await self.read(request, content, connection)
        if len(body) > self._body_bytes_max:
            raise self.too_large()
        submission = self._engine.submit(
            Request(
                service=route.service,
                key=route.key,
                handler=route.handler,
                arguments=body,
                send=route.send,
                delay_us=delay,
                idempotency_key=idempotency_key,
                headers=headers or None,
            )
        )
        if not route.send:
            if submission.stream:
                items = self._engine.items(submission.id, last_event_id(request))
                assert items is not None
                return await send_events(items, request, connection, {"x-restate-id": submission.id})
            return _outcome(await submission.outcome(), submission.id)
        await submission.accepted()
        status = b"PreviouslyAccepted" if submission.previously else b"Accepted"
        answer = b'{"invocationId":"%b","status":"%b"}' % (submission.id.encode("ascii"), status)
        return Reply(202, answer, _id_field(submission.id))

    def _require_get(self, route: Invoke, method: str) -> None:
        """To ask where nothing has to be said; a message, or an argument, is posted."""
        by_get = not route.send and self._services[route.service].handlers[route.handler].takes_nothing
        if not (by_get and method == "GET"):
            method_not_allowed("GET, POST" if by_get else "POST")

    async def _await(self, route: Await, request: web.BaseRequest, connection: Connection) -> web.StreamResponse:
        if route.target is None:
            require_method(request, "POST")
            found = self._find(await self._target(request, connection))
        else:
            require_method(request, "GET")
            found = self._find(route.target)
        items = self._engine.items(found, last_event_id(request)) if wants_events(request) else None
        if items is not None and not route.peek:
            return await send_events(items, request, connection, {"x-restate-id": found})
        if not route.peek:
            return _outcome(await self._engine.attach(found), found)
        outcome = await self._engine.output(found)
        if outcome is None:
            return error_reply(NOT_READY, "the invocation exists but has not completed yet", fields=_id_field(found))
        return _outcome(outcome, found)

    async def _complete(self, route: Complete, request: web.BaseRequest, connection: Connection) -> Reply:
        body = await self.read(request, request.content, connection)
        operations, id, signal = self._engine.operations, route.id, route.signal
        if route.resolve:
            done = (
                operations.resolve_awakeable(id, body)
                if signal is None
                else operations.resolve_signal(id, signal, body)
            )
        else:
            reason = _reason(request, body)
            done = (
                operations.reject_awakeable(id, reason)
                if signal is None
                else operations.reject_signal(id, signal, reason)
            )
        await done
        return Reply(202, b"")

    def _find(self, target: Target) -> str:
        """The invocation's id. Raises Refused(404)."""
        if isinstance(target, Invocation):
            return target.invocation_id
        if target.scope is not None:
            raise Refused(400, "scopes are not supported; leave `scope` out")
        if isinstance(target, IdempotentInvocation):
            return self._engine.find(target.service, target.key or "", target.handler, target.idempotency_key)
        return self._engine.find(target.workflow_name, target.workflow_key, _WORKFLOW_RUN, None)

    # --- the body ----------------------------------------------------------------------------------------------------

    async def _target(self, request: web.BaseRequest, connection: Connection) -> Target:
        """The invocation that the body of a POST names."""
        body = await self.read(request, request.content, connection)
        try:
            return _target_decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(400, f"bad target: {first_line(error)}; expected {_TARGET_FORMS}") from None


def headers_of(request: web.BaseRequest) -> tuple[dict[str, str], str | None]:
    """The headers a handler sees, in lower case, and the idempotency key."""
    headers: dict[str, str] = {}
    idempotency_key: str | None = None
    for raw_name, raw_value in request.raw_headers:
        name = raw_name.lower()
        if name not in _HEADERS_NOT_PASSED_ON:
            text = name.decode("latin-1")
            value = raw_value.decode("utf-8", "replace")
            # As HTTP joins them: a header given twice is one list.
            headers[text] = f"{headers[text]}, {value}" if text in headers else value
        elif name == b"idempotency-key":
            if idempotency_key is not None:
                raise Refused(400, "more than one idempotency-key header")
            idempotency_key = _idempotency_key(raw_value)
    return headers, idempotency_key


def _idempotency_key(value: bytes) -> str:
    value = value.strip(b" \t")
    if not value:
        raise Refused(400, "the idempotency-key is empty")
    if len(value) > IDEMPOTENCY_KEY_BYTES_MAX:
        raise Refused(400, f"the idempotency-key is longer than {IDEMPOTENCY_KEY_BYTES_MAX} bytes")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(400, "the idempotency-key is not UTF-8") from None


def _reason(request: web.BaseRequest, body: bytes) -> str:
    """Text as it comes, as with Restate; of what is said to be JSON, and is a string, what the string says."""
    if request.content_type == "application/json":
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(body, type=str)
    return body.decode("utf-8", "replace")


def delay_us(query: str, *, send: bool) -> int | None:
    """What `?delay=` says, in microseconds.  Raises Refused."""
    try:
        fields = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_QUERY_FIELDS_MAX)
    except ValueError:
        raise Refused(400, "bad query string") from None
    delays = [value for name, value in fields if name.lower() == "delay"]
    if send:
        # A misspelt delay would deliver at once what nobody can take back any more.
        _refuse_unknown([name for name, _ in fields])
    elif delays:
        raise Refused(400, "`delay` is for messages: a call waits for its result; use …/send?delay=…")
    if not delays:
        return None
    if len(delays) > 1:
        raise Refused(400, "`delay` is given more than once")
    try:
        return parse_duration_us(delays[0])
    except InvalidDuration as error:
        raise Refused(400, f"bad delay: {error}") from None


def _refuse_unknown(names: list[str]) -> None:
    unknown = next((name for name in names if name.lower() != "delay"), None)
    if unknown is not None:
        shown = unknown if len(unknown) <= 40 else unknown[:40] + "…"
        raise Refused(400, f"unknown query parameter {shown!r}; a message knows `delay`")


def _outcome(outcome: Outcome, id: str) -> Reply:
    if isinstance(outcome, Success):
        return Reply(200, outcome.value, _id_field(id))
    return failure_reply(outcome.failure, _id_field(id))


def _id_field(id: str) -> str:
    return f"x-restate-id: {id}\r\n"


_target_decoder: msgspec.json.Decoder[Target] = msgspec.json.Decoder(Target)
_TARGET_FORMS = (
    '{"target": "invocation", "invocationId": …}, {"target": "workflow", "workflowName": …, "workflowKey": …} or '
    '{"target": "idempotentInvocation", "service": …, "key": …, "handler": …, "idempotencyKey": …}'
)

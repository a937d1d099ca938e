"""What the ingress and the admin API have in common: an address, requests in flight, bodies, and errors as answers.

Slow and greedy clients are held off by `http_limits`, answers made by `http_replies`.
The file does not know a single path.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable
from typing import ClassVar, NoReturn

import structlog
from aiohttp import hdrs, web
from aiohttp.streams import StreamReader

from .access import Access
from .admission import Refused
from .gate import OutcomeUnknown
from .http_limits import Connection, ConnectionLimits, GuardedServer
from .http_replies import Reply, error_reply
from .tls import TlsDoor

_BACKLOG = 1024
_READ_OFF_THE_STATE = (404, 409)

log: structlog.stdlib.BoundLogger = structlog.get_logger("perdure")


class HttpServer:
    """A server; a subclass answers its requests, or raises Refused or OutcomeUnknown.

    `start` binds and returns the addresses; `close` stops accepting, lets requests in flight end, closes the rest.
    `source` is what errors name as where they come from.
    No request reaches the subclass before `access` has let it in; `open_paths` are those that need no token.
    """

    source = "ingress"
    open_paths: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, limits: ConnectionLimits, body_bytes_max: int, access: Access | None = None) -> None:
        self._limits = limits
        self._access = access or Access()
        self._body_bytes_max = body_bytes_max
        self._server: GuardedServer | None = None
        self._listener: asyncio.Server | None = None
        self._in_flight = 0
        self._idle: asyncio.Future[None] | None = None

    def answer(self, request: web.BaseRequest, connection: Connection) -> Awaitable[web.StreamResponse]:
        raise NotImplementedError

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> list[tuple[str, int]]:
        """Bind and accept. Port 0: any free one. Raises OSError when the address can't be bound."""
        loop = asyncio.get_running_loop()
        self._server = server = GuardedServer(self._handle, self._limits, loop)
        accept = server if tls is None else TlsDoor(server, tls, self._limits.header_timeout_seconds)
        self._listener = await loop.create_server(accept, host, port, backlog=_BACKLOG, reuse_address=True)
        addresses: list[tuple[str, int]] = [socket.getsockname()[:2] for socket in self._listener.sockets]
        self._access.listens_on(address for address, _ in addresses)
        return addresses

    @property
    def requests_in_flight(self) -> int:
        return self._in_flight

    @property
    def connections_open(self) -> int:
        return 0 if self._server is None else self._server.connections_open

    @property
    def answers_by_status(self) -> dict[int, int]:
        """How many there were since the start."""
        return {} if self._server is None else self._server.statuses

    def stop_accepting(self) -> None:
        """New connections are refused by the system; idle ones are closed; requests in flight go on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._server is not None:
            self._server.pre_shutdown()

    async def close(self, grace_seconds: float) -> None:
        """Stop; requests in flight have `grace_seconds` to end. What a longer one asked for goes on without it."""
        self.stop_accepting()
        server, self._server = self._server, None
        if server is None:
            return
        if self._in_flight:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._idle], timeout=grace_seconds)
        await server.stop()

    # --- one request -------------------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.request_began()
        self._in_flight += 1
        try:
            self._access.require(request, connection, self.open_paths)
            return await self.answer(request, connection)
        except Refused as refused:
            if hdrs.CONTENT_ENCODING in request.headers:
                connection.skip_rest()
            return await self._refuse(refused)
        except OutcomeUnknown:
            return error_reply(503, _OUTCOME_UNKNOWN, source=self.source)
        except ConnectionError:
            raise  # the client left in the middle of its request: nobody to answer
        except web.RequestPayloadError as error:
            return error_reply(
                400, f"bad request: the body is malformed ({first_line(error)})", source=self.source, close=True
            )
        except Exception:
            log.exception("request_failed", path=request.raw_path[:200])
            return error_reply(500, "internal error; the log has the details", source=self.source)
        finally:
            connection.request_ended()
            self._in_flight -= 1
            if not self._in_flight and self._idle is not None and not self._idle.done():
                self._idle.set_result(None)

    async def caught_up(self) -> None:
        """Until all that an answer could have been read off is synced."""
        raise NotImplementedError

    async def _refuse(self, refused: Refused) -> Reply:
        """What something else did may be the reason, and a crash could still undo that."""
        if refused.status in _READ_OFF_THE_STATE:
            try:
                await self.caught_up()
            except OutcomeUnknown:
                return error_reply(503, _OUTCOME_UNKNOWN, source=self.source)
        return _refusal(refused, self.source)

    async def read(self, request: web.BaseRequest, content: StreamReader, connection: Connection) -> bytes:
        """The whole body. Raises Refused(413); web.RequestPayloadError when its framing is broken."""
        if hdrs.CONTENT_ENCODING in request.headers:
            connection.skip_rest()
        length = request.content_length
        if length is not None and length > self._body_bytes_max:
            raise self.too_large()
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.body_expected(content)
        body = bytearray()
        while chunk := await content.readany():
            body += chunk
            if len(body) > self._body_bytes_max:
                raise self.too_large()
        connection.body_complete()
        return bytes(body)

    def too_large(self) -> Refused:
        return Refused(413, f"the body is too large; at most {self._body_bytes_max} bytes are taken")


def origin_form(target: str) -> str:
    """The path and query. A request to a proxy names the whole URL, which every server must understand (RFC 9112)."""
    if target.startswith("/"):
        return target
    scheme, separator, rest = target.partition("://")
    if separator and scheme.lower() in ("http", "https"):
        return "/" + rest.partition("/")[2]
    raise Refused(400, "bad path, it must begin with a slash")


class _MethodNotAllowed(Refused):
    """405, which must say what is allowed."""

    allowed: str


def require_method(request: web.BaseRequest, method: str) -> None:
    if request.method != method:
        method_not_allowed(method)


def method_not_allowed(allowed: str) -> NoReturn:
    error = _MethodNotAllowed(405, f"method not allowed, use {allowed.replace(', ', ' or ')}")
    error.allowed = allowed
    raise error


def _refusal(refused: Refused, source: str) -> Reply:
    fields = f"allow: {refused.allowed}\r\n" if isinstance(refused, _MethodNotAllowed) else ""
    if refused.status == 401:
        fields = "www-authenticate: Bearer\r\n"
    return error_reply(
        refused.status,
        refused.message,
        retry_after_seconds=refused.retry_after_seconds,
        fields=fields,
        source=source,
        # The rest of an oversized body is not waited for.
        close=refused.status == 413,
    )


def first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]


_OUTCOME_UNKNOWN = (
    "outcome unknown: the journal failed before this was safely written, so it may or may not have happened; "
    "ask again with the same idempotency-key once the runtime is back"
)

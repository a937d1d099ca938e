"""What a connection may take from us: time, bytes and places, on top of aiohttp's HTTP protocol.

aiohttp has no deadline for headers or bodies and no cap on connections (300 half-sent requests stayed open for as
long as they were watched).  Here each connection only counts bytes, and one sweep for all of them, four times a
second, compares the counts with what they were: no timer per request, nothing on the hot path but two additions.

    phase           begins                        ends in time, or
    head            connect, or the first byte    408 and closed after `header_timeout_seconds`
    body            the head is complete          408 and closed below `body_bytes_per_second_min`
    (handler)       the body is complete          no limit: a call may take days
    response        bytes wait to be sent         aborted below the same rate, over `response_timeout_seconds`
    idle            the response is sent          closed after `keepalive_seconds` (aiohttp's own timer)

The file knows nothing of services, engines or JSON; it says 408 and 503 in bytes made beforehand.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

import structlog
from aiohttp import web
from aiohttp.streams import StreamReader
from msgspec import Struct

from .http_replies import error_bytes, unreadable_reply

SWEEP_SECONDS = 0.25
"""How often the connections are looked at, so how late a deadline may be noticed; 1,000 of them take about 1 ms."""

LINGER_SECONDS = 5.0
"""After an answer that came before the end of its request (413, 404), so long is the rest read and thrown away:
closing at once would reset the connection and destroy the answer on its way."""

HEADER_BYTES_MAX = 8190
"""One header, and the request line. A key of 512 bytes, percent-encoded, is 1,536."""

HEADERS_MAX = 64

HEAD_BYTES_MAX = 64 * 1024
"""All of a head. aiohttp bounds each header and their number, together half a megabyte; thousands of connections with
half a megabyte each are what memory is not for."""

PIPELINED_BYTES_MAX = 1024 * 1024
"""Received behind a request that is still at work. aiohttp stops reading at 32 requests, however large their heads, or
at 128 KiB of a body; so honest clients never get here."""

_REFUSED_LINGER_MAX = 64
_REFUSED_LINGER_SECONDS = 1.0
"""Refused connections that wait for their peer to read the 503, and how long; beyond, they are reset."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("perdure")


class ConnectionLimits(Struct, frozen=True, kw_only=True):
    """See `Settings`, which holds these values and their reasons."""

    header_timeout_seconds: float = 10.0
    body_bytes_per_second_min: int = 1024
    body_grace_seconds: float = 10.0
    response_timeout_seconds: float = 30.0
    keepalive_seconds: float = 75.0
    connections_max: int = 4096
    connections_per_address_max: int = 1024


class Counted(Protocol):
    """A connection as `GuardedServer` keeps it, shaking hands or at work."""

    def check(self, now: float, limits: ConnectionLimits) -> None: ...
    def dismiss(self) -> None: ...


class Connection(web.RequestHandler):
    """One client's connection: aiohttp's protocol with deadlines."""

    __slots__ = (
        "_address",
        "_body",
        "_body_mark",
        "_body_since",
        "_guard",
        "_head_mark",
        "_head_number",
        "_head_since",
        "_received",
        "_refused",
        "_response_mark",
        "_response_since",
        "_sent",
        "_wire",
        "busy",
        "own_host",
        "streaming",
    )

    def __init__(self, guard: GuardedServer, **options: Any) -> None:
        super().__init__(guard, **options)
        self._guard = guard
        self._wire: asyncio.Transport | None = None
        self._address = ""
        self._refused = False
        self.busy = False
        self.streaming = False
        self.own_host: str | None = None
        """The Host that `access` last let in."""
        self._received = 0
        self._sent = 0
        # Each phase: since when (None: not in it), and the bytes received or sent before it.
        self._head_since: float | None = None
        self._head_mark = 0
        self._head_number = 0
        self._body_since: float | None = None
        self._body_mark = 0
        self._body: StreamReader | None = None
        self._response_since: float | None = None
        self._response_mark = 0

    @property
    def own_address(self) -> str:
        """The address of ours that the client asked; empty once it is gone."""
        name: object = None if self._wire is None else self._wire.get_extra_info("sockname")
        return str(cast("tuple[object, ...]", name)[0]) if isinstance(name, tuple) else ""

    # --- what the handler of a request tells -------------------------------------------------------------------------

    def request_began(self) -> None:
        """A head is complete and its handler runs."""
        self.busy = True
        self._head_since = None
        self._body_mark = self._received

    def request_ended(self) -> None:
        """The handler has its answer."""
        self.busy = self.streaming = False
        self._body = self._body_since = None

    def body_expected(self, content: StreamReader) -> None:
        """The handler waits for the rest of the body."""
        self._body = content
        self._body_since = self._loop.time()
        self._body_mark = self._received

    def body_complete(self) -> None:
        self._body = self._body_since = None
        self._body_mark = self._received

    def skip_rest(self) -> None:
        """Don't read what is left of the body, not even to throw it away: inflating it is what hurts."""
        self._lingering_time = 0

    def cut(self) -> None:
        """In the middle of an answer that has no end."""
        if self._wire is not None:
            self._wire.abort()

    def bytes_sent(self, size: int) -> None:
        """More of an answer was handed to the transport."""
        self._sent += size

    def answered(self, status: int, size: int) -> None:
        """An answer was handed to the transport."""
        self._sent += size
        statuses = self._guard.statuses
        statuses[status] = statuses.get(status, 0) + 1

    # --- asyncio's protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = wire = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._head_since = self._loop.time()
        self._address = network_of(transport.get_extra_info("peername"))
        if not self._guard.admit(self, self._address):
            self._refuse(wire)
            return
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._waiter is not None and self._head_number != self._request_count:
            self._head_number = self._request_count
            self._head_since = self._loop.time()
            self._head_mark = self._received
        self._received += len(data)
        super().data_received(data)
        if self.busy:
            self._received_while_busy()
        elif self._received - self._head_mark > HEAD_BYTES_MAX and self._waiter is not None and not self._waiter.done():
            self._close_with(_HEAD_TOO_LARGE, "the headers are too large")

    def _received_while_busy(self) -> None:
        if self._body is None:
            if self._received - self._body_mark > PIPELINED_BYTES_MAX:
                self._close_with(b"", "too much behind a request that is not answered yet")
        elif self._messages and not self._body.is_eof():
            # A message behind an unfinished body is the parser's error, which aiohttp would tell after this request:
            # the handler would wait for ever.
            self._body.set_exception(web.RequestPayloadError("bad chunk"))

    def connection_lost(self, exc: BaseException | None) -> None:
        self._wire = None
        self._guard.forget(self, self._address, refused=self._refused)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp could not parse the request, or the handler raised what it must not. JSON, and never a traceback."""
        if status >= 500:
            log.error("request_failed", exc_info=exc)
        return unreadable_reply(status, exc, message)

    # --- the sweep ---------------------------------------------------------------------------------------------------

    def check(self, now: float, limits: ConnectionLimits) -> None:
        """Close the connection if it overstays. Called a few times a second."""
        wire = self._wire
        if wire is None:
            return
        if self._refused:
            if self._head_since is not None and now - self._head_since > _REFUSED_LINGER_SECONDS:
                wire.abort()
            return
        waiting = wire.get_write_buffer_size()
        if waiting:
            self._check_response(wire, waiting, now, limits)
        else:
            self._response_since = None
        if self._body_since is not None:
            self._check_body(self._body_since, now, limits)
        elif self._head_since is not None and now - self._head_since > limits.header_timeout_seconds:
            self._close_with(_HEAD_TIMEOUT, "the headers took too long")

    def _check_body(self, since: float, now: float, limits: ConnectionLimits) -> None:
        elapsed = now - since
        if elapsed <= limits.body_grace_seconds:
            return
        if self._received - self._body_mark < elapsed * limits.body_bytes_per_second_min:
            self._close_with(_BODY_TIMEOUT, "the body came too slowly")
        else:
            # Judged anew, so that a fast start buys no long stall.
            self._body_since, self._body_mark = now, self._received

    def _check_response(self, wire: asyncio.Transport, waiting: int, now: float, limits: ConnectionLimits) -> None:
        drained = self._sent - waiting
        if self._response_since is None:
            self._response_since, self._response_mark = now, drained
            return
        elapsed = now - self._response_since
        if elapsed <= limits.response_timeout_seconds:
            return
        if drained - self._response_mark < elapsed * limits.body_bytes_per_second_min:
            log.debug("connection_closed", reason="the response was not read", address=self._address)
            wire.abort()
        else:
            self._response_since, self._response_mark = now, drained

    def _close_with(self, answer: bytes, reason: str) -> None:
        log.debug("connection_closed", reason=reason, address=self._address)
        wire = self._wire
        if wire is not None and answer and not wire.is_closing():
            wire.write(answer)
            self.answered(_status_of(answer), len(answer))
        self.force_close()

    def dismiss(self) -> None:
        """The process stops: who still waits for an answer gets a 503 rather than a broken connection."""
        if self.streaming:  # a 503 would be in the middle of what is sent
            self.cut()
        elif self.busy:
            self._close_with(_STOPPING, "the runtime is shutting down")

    def _refuse(self, transport: asyncio.Transport) -> None:
        """Too many connections: say so and half-close, so that the client reads the 503 rather than a reset."""
        self._refused = True
        self._force_close = True
        transport.write(_TOO_MANY)
        self.answered(_status_of(_TOO_MANY), len(_TOO_MANY))
        if self._guard.refused > _REFUSED_LINGER_MAX or not transport.can_write_eof():
            transport.abort()
        else:
            transport.write_eof()


class GuardedServer(web.Server):
    """aiohttp's low-level server whose connections are counted, capped and swept."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        limits: ConnectionLimits,
        loop: asyncio.AbstractEventLoop,
        request_factory: Callable[..., web.BaseRequest] | None = None,
    ) -> None:
        super().__init__(
            handler,
            loop=loop,
            request_factory=request_factory,
            # A client that left stops waiting for its answer; the invocation goes on.
            handler_cancellation=True,
        )
        self._limits = limits
        self._options: dict[str, Any] = {
            "loop": loop,
            "keepalive_timeout": limits.keepalive_seconds,
            "access_log": None,
            "max_line_size": HEADER_BYTES_MAX,
            "max_field_size": HEADER_BYTES_MAX,
            "max_headers": HEADERS_MAX,
            "lingering_time": LINGER_SECONDS,
        }
        self._open: set[Counted] = set()
        self._by_address: dict[str, int] = {}
        self._sweep_seconds = min(SWEEP_SECONDS, limits.header_timeout_seconds / 4, limits.body_grace_seconds / 4)
        self._timer = loop.call_later(self._sweep_seconds, self._sweep)
        self.refused = 0
        self.statuses: dict[int, int] = {}

    def __call__(self) -> Connection:
        return Connection(self, **self._options)

    @property
    def connections_open(self) -> int:
        return len(self._open) - self.refused

    def admit(self, connection: Counted, address: str) -> bool:
        """Whether there is a place for it. Counted either way, until `forget`."""
        self._open.add(connection)
        here = self._by_address.get(address, 0)
        if self.connections_open > self._limits.connections_max or here >= self._limits.connections_per_address_max:
            self.refused += 1
            return False
        self._by_address[address] = here + 1
        return True

    def forget(self, connection: Counted, address: str, *, refused: bool) -> None:
        self._open.discard(connection)
        if refused:
            self.refused -= 1
            return
        left = self._by_address.get(address, 1) - 1
        if left:
            self._by_address[address] = left
        else:
            self._by_address.pop(address, None)

    async def stop(self) -> None:
        """Close every connection; a request still in flight is answered with 503."""
        self._timer.cancel()
        for connection in list(self._open):
            connection.dismiss()
        # Zero would mean "no limit" to aiohttp.
        await self.shutdown(timeout=0.05)

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in list(self._open):
            connection.check(now, self._limits)
        self._timer = self._loop.call_later(self._sweep_seconds, self._sweep)


def _status_of(answer: bytes) -> int:
    """Of one made by `error_bytes`."""
    return int(answer.split(None, 2)[1])


def network_of(peername: object) -> str:
    """Whom to count a connection for: the IPv4 address, or the /64 that one IPv6 subscriber has to himself."""
    if not isinstance(peername, tuple):
        return ""
    host, *_ = cast("tuple[object, ...]", peername)
    text = str(host).partition("%")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return text


_HEAD_TIMEOUT = error_bytes(408, "the headers did not arrive in time")
_HEAD_TOO_LARGE = error_bytes(431, f"the headers are too large; at most {HEAD_BYTES_MAX} bytes are taken")
_BODY_TIMEOUT = error_bytes(408, "the body arrived too slowly")
_STOPPING = error_bytes(
    503, "the runtime is shutting down; what was accepted goes on: ask again with the same idempotency-key"
)
_TOO_MANY = error_bytes(503, "too many connections; close idle ones or try again later", retry_after_seconds=1)

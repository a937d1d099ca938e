"""Answers as bytes: the status line, the few headers and the JSON body in one piece.

aiohttp's own `Response` builds a multidict and serialises it for each answer, a fifth of the time of a small request.
`Reply` keeps to its interface (`prepare`, `write_eof`) and writes what was made beforehand.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, cast

import msgspec
from aiohttp import ClientConnectionResetError, web
from aiohttp.http import HttpVersion11
from aiohttp.http_exceptions import LineTooLong

from perdure.objects.errors import Failure

if TYPE_CHECKING:
    from aiohttp.http_writer import StreamWriter

NOT_READY = 470
"""Restate's status for an output that does not exist yet."""

_REASONS = {status.value: status.phrase for status in HTTPStatus} | {NOT_READY: "Not Ready"}
_START_LINES = {status: f"HTTP/1.1 {status} {reason}\r\n" for status, reason in _REASONS.items()}
JSON = "application/json"
_PARSER_TEXT_MAX = 120
_DRAIN_FROM_BYTES = 64 * 1024


class _Date:
    """The Date header, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = ""

    def line(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = time.strftime("date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime(second))
        return self._line


_date = _Date()


class CountsAnswers(Protocol):
    """The connection, as far as an answer needs it."""

    def answered(self, status: int, size: int) -> None: ...


class Reply(web.StreamResponse):
    """A complete answer. `fields` are whole header lines, each with its CRLF."""

    def __init__(
        self, status: int, body: bytes, fields: str = "", *, close: bool = False, content_type: str = JSON
    ) -> None:
        # Not StreamResponse's: it would make the headers' multidict and a state dictionary, which nobody reads.
        self._status = status
        self._answer = body
        self._fields = fields
        self._body_type = content_type
        self._keep_alive = False if close else None
        self._out: StreamWriter | None = None

    async def prepare(self, request: web.BaseRequest) -> StreamWriter | None:
        connection = ""
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        if not self._keep_alive:
            connection = "connection: close\r\n"
        elif request.version < HttpVersion11:
            connection = "connection: keep-alive\r\n"
        body = self._answer
        head = _head(self._status, self._fields + connection, len(body), content_type=self._body_type)
        self._answer = head + body if request.method != "HEAD" else head
        cast("CountsAnswers", request.protocol).answered(self._status, len(self._answer))
        self._out = writer = cast("StreamWriter", request.writer)
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Straight to the transport: the writer's own way is for what comes in parts, and costs two coroutines."""
        out = self._out
        assert out is not None
        transport = out.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError("the client has left")
        transport.write(self._answer)
        out.set_eof()
        if transport.get_write_buffer_size() > _DRAIN_FROM_BYTES:  # it reads slowly: no next request before it has read
            await out.drain()


class _ErrorBody(msgspec.Struct, omit_defaults=True):
    code: int
    message: str
    source: str
    type: str | None = None
    metadata: dict[str, str] | None = None


_encoder = msgspec.json.Encoder()


def error_reply(
    status: int,
    message: str,
    *,
    retry_after_seconds: int | None = None,
    fields: str = "",
    source: str = "ingress",
    close: bool = False,
) -> Reply:
    """An error of ours: the request was not understood, or can't be taken now."""
    body = _encode(_ErrorBody(status, message, source))
    return Reply(status, body, fields + _error_fields(retry_after_seconds, source), close=close)


def failure_reply(failure: Failure, fields: str = "") -> Reply:
    """The invocation ended in a terminal error: its status is the HTTP status, its class and metadata are told."""
    # A status that is no error would make a failure look like a result.
    status = failure.status if 400 <= failure.status <= 599 else 500
    return Reply(status, failure_body(failure), fields + "x-restate-error-source: invocation\r\n")


def failure_body(failure: Failure) -> bytes:
    """As JSON: code, message, source, type and metadata."""
    return _encode(_ErrorBody(failure.status, failure.message, "invocation", failure.type, failure.metadata))


def unreadable_reply(status: int, exc: BaseException | None, message: str | None) -> Reply:
    """aiohttp could not parse the request. The connection's state is unknown from here on, so it is closed."""
    if isinstance(exc, LineTooLong):
        return error_reply(431, "the request line or a header is too long", close=True)
    if status >= 500:
        return error_reply(500, "internal error; the log has the details", close=True)
    if message is not None and "content-encoding" in message:
        # What aiohttp says is which package to install here.
        return error_reply(415, "the body's content-encoding can't be read: use gzip or deflate, or none", close=True)
    text = (message or "malformed").strip().partition("\n")[0][:_PARSER_TEXT_MAX].rstrip(":")
    if "url path" in text:
        text += "; percent-encode what is not ASCII"
    return error_reply(status, f"bad request: {text}", close=True)


def error_bytes(status: int, message: str, *, retry_after_seconds: int | None = None) -> bytes:
    """A whole error answer for a connection that is closed after it, outside of any request."""
    body = _encode(_ErrorBody(status, message, "ingress"))
    return _head(status, _error_fields(retry_after_seconds) + "connection: close\r\n", len(body), date="") + body


def _head(status: int, fields: str, size: int, date: str | None = None, content_type: str = JSON) -> bytes:
    start = _START_LINES.get(status) or f"HTTP/1.1 {status} \r\n"
    when = _date.line() if date is None else date
    return f"{start}content-type: {content_type}\r\n{fields}{when}content-length: {size}\r\n\r\n".encode("ascii")


def _error_fields(retry_after_seconds: int | None, source: str = "ingress") -> str:
    retry = "" if retry_after_seconds is None else f"retry-after: {retry_after_seconds}\r\n"
    return f"{retry}x-restate-error-source: {source}\r\n"


def _encode(body: _ErrorBody) -> bytes:
    try:
        return _encoder.encode(body)
    except UnicodeEncodeError:  # a lone surrogate: user code may put anything into a message
        body.message = body.message.encode("utf-8", "replace").decode("utf-8")
        body.metadata = None
        return _encoder.encode(body)

"""Streams over HTTP: what a handler yields, as server-sent events (WHATWG HTML, section 9.2).

    id: 1                   how many items have come so far: what a reader that was cut off sends as `Last-Event-ID`
    data: "an item"         JSON, on one line

    id: 3
    event: end              no more will come; or `event: error`, with the JSON that any failure has as its body
    data: null

Between them, `: waiting` now and then: a proxy sees that the connection lives, and we, when a client is gone.
An answer is 200 from its first item on, or from the moment its handler takes long; one that fails before that has the
status of its failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from aiohttp import hdrs, web
from aiohttp.streams import StreamReader

from .admission import Refused
from .event_reader import Event, EventReader
from .gate import OutcomeUnknown
from .http_limits import Connection
from .http_replies import failure_body, failure_reply
from .records import Failed, Outcome

MIME_TYPE = "text/event-stream"
_WAITING_EVERY_SECONDS = 10.0
"""Proxies give up an idle connection after a minute or so."""
_WAITING = b": waiting\n\n"
_POSITION_DIGITS_MAX = 9


class Items(Protocol):
    """A reader of one stream (item_reader.ItemReader)."""

    @property
    def position(self) -> int: ...
    @property
    def over(self) -> bool: ...
    async def read(self) -> list[bytes] | Outcome: ...


def wants_events(request: web.BaseRequest) -> bool:
    return MIME_TYPE in request.headers.get(hdrs.ACCEPT, "")


def last_event_id(request: web.BaseRequest) -> int:
    """How many items the client has.  Raises Refused(400)."""
    text = request.headers.get("Last-Event-ID", "")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= _POSITION_DIGITS_MAX):
        raise Refused(400, "bad Last-Event-ID: it is the number in the `id` of the last event that came")
    return int(text)


async def send_events(
    items: Items, request: web.BaseRequest, connection: Connection, headers: dict[str, str]
) -> web.StreamResponse:
    """All of a stream, to its end.  What the client does not read, it is not sent; the handler does not wait for it."""
    if items.over:
        connection.answered(204, 0)
        return web.Response(status=204)  # tells an EventSource not to ask again
    response: web.StreamResponse | None = None
    while True:
        read: list[bytes] | Outcome | None
        try:
            async with asyncio.timeout(_WAITING_EVERY_SECONDS):
                read = await items.read()
        except TimeoutError:
            read = None
        except (OutcomeUnknown, Refused):
            if response is None:
                raise
            connection.cut()  # it is not at its end, and must not look so: the client asks for the rest
            return response
        if response is None and isinstance(read, Failed):
            return failure_reply(read.failure, "".join(f"{name}: {value}\r\n" for name, value in headers.items()))
        if response is None:
            response = await _begun(request, connection, headers)
        data = _WAITING if read is None else _events(read, items.position)
        connection.bytes_sent(len(data))
        await response.write(data)
        if read is not None and not isinstance(read, list):
            return response


async def _begun(request: web.BaseRequest, connection: Connection, headers: dict[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(headers={**headers, "cache-control": "no-store", "x-accel-buffering": "no"})
    response.content_type = MIME_TYPE
    connection.streaming = True
    connection.answered(200, 0)
    await response.prepare(request)
    return response


def _events(read: list[bytes] | Outcome, position: int) -> bytes:
    if isinstance(read, list):
        first = position - len(read) + 1
        return b"".join(b"id: %d\ndata: %b\n\n" % (first + number, item) for number, item in enumerate(read))
    if isinstance(read, Failed):
        return b"id: %d\nevent: error\ndata: %b\n\n" % (position + 1, failure_body(read.failure))
    return b"id: %d\nevent: end\ndata: null\n\n" % (position + 1)


async def events_of(content: StreamReader) -> AsyncIterator[Event]:
    """The events of an answer.  It ends where the answer does, which need not be the stream's end."""
    reader = EventReader()
    while piece := await content.readany():
        for event in reader.feed(piece):
            yield event

"""Streams over HTTP: server-sent events, that go on where they were cut off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, ClassVar

import aiohttp
import pytest

from perdure.objects import TerminalError, VirtualObject, handler, shared
from perdure.runtime import Client, event_streams
from perdure.runtime.event_reader import Event
from perdure.runtime.event_streams import events_of

if TYPE_CHECKING:
    from tests.runtime.ingress.conftest import Serve

URL = "http://127.0.0.1:{}"


async def open_gate() -> None:
    await Gate.opened.wait()


class Gate:
    opened: ClassVar[asyncio.Event]


class Teller(VirtualObject):
    @handler
    async def count(self, numbers: int) -> AsyncIterator[int]:
        for number in range(numbers):
            yield number

    @handler
    async def halves(self) -> AsyncIterator[str]:
        yield "one\n\ntwo"
        await self.ctx.run(open_gate)
        yield "three \u2028 ü"

    @handler
    async def late(self) -> AsyncIterator[str]:
        await self.ctx.run(open_gate)
        yield "at last"

    @handler
    async def refuses(self, after: int) -> AsyncIterator[int]:
        for number in range(after):
            yield number
        raise TerminalError("that was all", status=422)

    @handler
    async def large(self, size: int) -> AsyncIterator[str]:
        for _ in range(3):
            yield "x" * size

    @shared
    async def plain(self) -> str:
        return "no stream"


@pytest.fixture(autouse=True)
async def gate() -> asyncio.Event:
    Gate.opened = asyncio.Event()
    return Gate.opened


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        yield session


async def events(response: aiohttp.ClientResponse) -> list[Event]:
    return [event async for event in events_of(response.content)]


async def test_items_are_events(serve_classes: Serve, session: aiohttp.ClientSession) -> None:
    """With the number of items so far as their id, and an end."""
    served = await serve_classes(Teller)
    async with session.post(URL.format(served.port) + "/Teller/a/count", json=2) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-restate-id"].startswith("inv_")
        text = await response.text()
    assert text == "id: 1\ndata: 0\n\nid: 2\ndata: 1\n\nid: 3\nevent: end\ndata: null\n\n"


async def test_an_item_is_sent_when_it_is_there(
    serve_classes: Serve, session: aiohttp.ClientSession, gate: asyncio.Event
) -> None:
    """And whatever it holds, it is one line."""
    served = await serve_classes(Teller)
    async with session.post(URL.format(served.port) + "/Teller/a/halves") as response:
        stream = events_of(response.content)
        assert (await anext(stream)).data == b'"one\\n\\ntwo"'
        gate.set()
        assert json.loads((await anext(stream)).data) == "three \u2028 ü"
        assert (await anext(stream)).kind == "end"


async def test_a_client_that_was_cut_off_gets_the_rest(serve_classes: Serve, session: aiohttp.ClientSession) -> None:
    """By the same request, or by the id of the invocation."""
    served = await serve_classes(Teller)
    url, headers = URL.format(served.port), {"idempotency-key": "k", "last-event-id": "3"}
    async with session.post(f"{url}/Teller/a/count", json=5, headers={"idempotency-key": "k"}) as response:
        id = response.headers["x-restate-id"]
        await response.read()
    async with session.post(f"{url}/Teller/a/count", json=5, headers=headers) as response:
        assert [event.id for event in await events(response)] == ["4", "5", "6"]
        assert response.headers["x-restate-id"] == id
    accept = {"accept": "text/event-stream"}
    async with session.get(f"{url}/restate/attach/{id}", headers={**accept, "last-event-id": "4"}) as response:
        assert [event.kind for event in await events(response)] == ["message", "end"]
    async with session.get(f"{url}/restate/attach/{id}", headers=accept) as response:
        assert [event.id for event in await events(response)] == ["1", "2", "3", "4", "5", "6"]
    async with session.get(f"{url}/restate/attach/{id}", headers={**accept, "last-event-id": "6"}) as response:
        assert response.status == 204  # an EventSource stops asking
    async with session.get(f"{url}/restate/attach/{id}") as response:
        assert (response.status, await response.json()) == (200, None)


@pytest.mark.parametrize("position", ["6", "-1", "1.5", "x", "99999999999999999999", "٣"])
async def test_a_place_that_is_none_is_refused(
    serve_classes: Serve, session: aiohttp.ClientSession, position: str
) -> None:
    served = await serve_classes(Teller)
    url = URL.format(served.port)
    async with session.post(f"{url}/Teller/a/count", json=4, headers={"idempotency-key": "k"}) as response:
        await response.read()
    headers = {"idempotency-key": "k", "last-event-id": position}
    async with session.post(f"{url}/Teller/a/count", json=4, headers=headers) as response:
        assert response.status == 400
        assert ("yielded 4 items" if position == "6" else "Last-Event-ID") in (await response.json())["message"]


async def test_one_that_fails_first_has_the_status_of_its_failure(
    serve_classes: Serve, session: aiohttp.ClientSession
) -> None:
    served = await serve_classes(Teller)
    async with session.post(URL.format(served.port) + "/Teller/a/refuses", json=0) as response:
        assert response.status == 422
        assert response.content_type == "application/json"
        assert (await response.json())["message"] == "that was all"


async def test_one_that_fails_later_ends_with_an_error(serve_classes: Serve, session: aiohttp.ClientSession) -> None:
    served = await serve_classes(Teller)
    async with session.post(URL.format(served.port) + "/Teller/a/refuses", json=1) as response:
        assert response.status == 200
        [item, error] = await events(response)
    assert (item.data, error.kind, error.id) == (b"0", "error", "2")
    body = json.loads(error.data)
    assert (body["code"], body["message"], body["source"]) == (422, "that was all", "invocation")


async def test_a_long_wait_is_kept_alive(
    serve_classes: Serve, session: aiohttp.ClientSession, gate: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before the first item."""
    monkeypatch.setattr(event_streams, "_WAITING_EVERY_SECONDS", 0.01)
    served = await serve_classes(Teller)
    async with session.post(URL.format(served.port) + "/Teller/a/late") as response:
        assert await response.content.readuntil(b"\n\n") == b": waiting\n\n"
        gate.set()
        assert [event.data for event in await events(response)] == [b'"at last"', b"null"]


async def test_a_client_that_leaves_is_not_waited_for(
    serve_classes: Serve, session: aiohttp.ClientSession, gate: asyncio.Event
) -> None:
    """The handler goes on, and the connection's place is free."""
    served = await serve_classes(Teller)
    url = URL.format(served.port)
    async with session.post(f"{url}/Teller/a/halves", headers={"idempotency-key": "k"}) as response:
        await response.content.readuntil(b"\n\n")
        response.close()
    gate.set()
    async with session.post(f"{url}/Teller/a/halves", headers={"idempotency-key": "k"}) as response:
        assert [event.kind for event in await events(response)] == ["message", "message", "end"]


async def test_a_message_to_a_stream_is_read_later(serve_classes: Serve, session: aiohttp.ClientSession) -> None:
    """By its id: a page can read what another program began."""
    served = await serve_classes(Teller)
    url = URL.format(served.port)
    async with session.post(f"{url}/Teller/a/count/send", json=2) as response:
        id = (await response.json())["invocationId"]
    async with session.get(f"{url}/restate/attach/{id}", headers={"accept": "text/event-stream"}) as response:
        assert [event.data for event in await events(response)] == [b"0", b"1", b"null"]


async def test_events_of_what_does_not_yield_are_its_result(
    serve_classes: Serve, session: aiohttp.ClientSession
) -> None:
    served = await serve_classes(Teller)
    accept = {"accept": "text/event-stream"}
    async with session.post(URL.format(served.port) + "/Teller/a/plain", headers=accept) as response:
        assert (response.content_type, await response.json()) == ("application/json", "no stream")


async def test_a_stop_cuts_it_off_rather_than_ending_it(serve_classes: Serve, session: aiohttp.ClientSession) -> None:
    """A 503 in the middle of the events would look like one of them."""
    served = await serve_classes(Teller)
    async with session.post(URL.format(served.port) + "/Teller/a/halves") as response:
        await response.content.readuntil(b"\n\n")
        await served.ingress.close(0)
        with pytest.raises(aiohttp.ClientError):
            assert await response.content.read() == b""


async def test_the_client_reads_streams(serve_classes: Serve) -> None:
    """Items of any size, and failures as errors."""
    served = await serve_classes(Teller)
    async with Client(URL.format(served.port)) as client:
        teller = client.ref(Teller, "a")
        assert [number async for number in teller.count(1000)] == [*range(1000)]
        assert [len(text) async for text in teller.large(300_000)] == [300_000] * 3
        refusing = teller.refuses(2)
        assert [await anext(refusing), await anext(refusing)] == [0, 1]
        with pytest.raises(TerminalError, match="that was all") as failed:
            await anext(refusing)
        assert failed.value.status == 422


async def test_the_client_goes_on_where_it_was_cut_off(serve_classes: Serve) -> None:
    """By a proxy that breaks each connection after some bytes: every item once, in order."""
    served = await serve_classes(Teller)
    broken = 0

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal broken
        there, back = await asyncio.open_connection("127.0.0.1", served.port)

        async def up() -> None:
            while data := await reader.read(65536):
                back.write(data)
            back.close()  # or the server would keep the connection for the next request

        upward = asyncio.ensure_future(up())
        left = 900
        while left > 0 and (data := await there.read(left)):
            writer.write(data)
            left -= len(data)
        broken += left <= 0
        upward.cancel()
        back.transport.abort()
        await writer.drain()
        if left <= 0:
            writer.transport.abort()
        else:
            writer.close()

    proxy = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    async with proxy, Client(URL.format(proxy.sockets[0].getsockname()[1])) as client, asyncio.timeout(20):
        assert [number async for number in client.ref(Teller, "a").count(200)] == [*range(200)]
    assert broken >= 3

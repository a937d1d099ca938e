"""Slow and greedy clients, under deadlines made short."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import Any

import pytest

from perdure.runtime.records import Success

# Fixtures' types; see conftest.py, which tests can't import from.
Served = Any
Serve = Any

SHORT = 0.15
LONG = 60.0
HEAD = b"POST /Greeter/greet HTTP/1.1\r\nhost: x\r\n"


async def dribble(wire: Any, data: bytes, every_seconds: float) -> None:
    """Never lets the connection rest."""
    try:
        for byte in data:
            await wire.send(bytes([byte]))
            await asyncio.sleep(every_seconds)
    except ConnectionError:
        pass


@pytest.mark.parametrize("sent", [b"", b"P", HEAD, HEAD + b"x-a: "])
async def test_headers_must_end_in_time(serve: Serve, sent: bytes) -> None:
    ingress = await serve(header_timeout_seconds=SHORT, keepalive_seconds=LONG)
    wire = await ingress.connect()
    await wire.send(sent)

    answer = await wire.answer()

    assert answer.status == 408
    assert await wire.closed()


async def test_headers_that_dribble_in_must_end_in_time(serve: Serve) -> None:
    ingress = await serve(header_timeout_seconds=SHORT, keepalive_seconds=LONG)
    wire = await ingress.connect()
    began = time.monotonic()
    slow = asyncio.create_task(dribble(wire, HEAD + b"x: " + b"a" * 10_000, 0.02))

    assert (await wire.answer()).status == 408
    assert time.monotonic() - began < SHORT + 2
    slow.cancel()


async def test_headers_of_a_later_request_must_end_in_time_too(serve: Serve) -> None:
    ingress = await serve(header_timeout_seconds=SHORT, keepalive_seconds=LONG)
    wire = await ingress.connect()
    for _ in range(3):
        assert (await wire.request("GET", "/restate/health")).status == 200
    await wire.send(HEAD)

    assert (await wire.answer()).status == 408


async def test_an_idle_connection_is_kept_longer_than_headers_may_take(serve: Serve) -> None:
    ingress = await serve(header_timeout_seconds=0.1, keepalive_seconds=1.5)
    wire = await ingress.connect()
    await wire.request("GET", "/restate/health")

    await asyncio.sleep(0.4)

    assert (await wire.request("GET", "/restate/health")).status == 200
    assert await wire.closed()


async def test_a_slow_body_is_cut_off(serve: Serve) -> None:
    ingress = await serve(body_grace_seconds=SHORT, body_bytes_per_second_min=10_000)
    wire = await ingress.connect()
    await wire.send(HEAD + b"content-length: 100000\r\n\r\n")
    slow = asyncio.create_task(dribble(wire, b"1" * 1000, 0.02))

    answer = await wire.answer()

    assert answer.status == 408
    assert await wire.closed()
    assert not ingress.engine.requests
    slow.cancel()


async def test_a_body_that_stalls_after_a_fast_start_is_cut_off(serve: Serve) -> None:
    ingress = await serve(body_grace_seconds=SHORT, body_bytes_per_second_min=1000)
    wire = await ingress.connect()
    await wire.send(HEAD + b"content-length: 9000000\r\n\r\n" + b"1" * 1_000_000)

    assert (await wire.answer()).status == 408


async def test_a_body_that_is_fast_enough_may_take_longer_than_the_grace(serve: Serve) -> None:
    ingress = await serve(body_grace_seconds=SHORT, body_bytes_per_second_min=20)
    wire = await ingress.connect()
    await wire.send(HEAD + b"content-length: 302\r\n\r\n" + b'"')
    for _ in range(30):
        await wire.send(b"a" * 10)
        await asyncio.sleep(SHORT / 10)
    await wire.send(b'"')

    assert (await wire.answer()).status == 200


async def test_a_client_that_does_not_read_is_cut_off(serve: Serve) -> None:
    ingress = await serve(response_timeout_seconds=SHORT)
    ingress.engine.gives("Greeter", "greet", "x" * 9_000_000)
    wire = await ingress.connect()
    await wire.send(HEAD + b"\r\n")
    async with asyncio.timeout(5):
        while not ingress.engine.requests:
            await asyncio.sleep(0.001)
        wire.reader._transport.pause_reading()  # its own buffer would read on

        while ingress.ingress.connections_open:
            await asyncio.sleep(0.01)


async def test_a_client_that_never_reads_pipelined_answers_is_cut_off(serve: Serve) -> None:
    ingress = await serve(response_timeout_seconds=SHORT)
    ingress.engine.gives("Greeter", "greet", "x" * 500_000)
    wire = await ingress.connect()
    wire.reader._transport.pause_reading()
    wire.writer.write((HEAD + b"\r\n") * 500)

    async with asyncio.timeout(5):
        while not ingress.ingress.connections_open:
            await asyncio.sleep(0.001)
        while ingress.ingress.connections_open:
            await asyncio.sleep(0.01)
    assert len(ingress.engine.requests) < 100, "what nobody reads is not worked off"


async def test_a_slow_but_steady_reader_gets_everything(serve: Serve) -> None:
    ingress = await serve(response_timeout_seconds=SHORT, body_bytes_per_second_min=1000)
    ingress.engine.gives("Greeter", "greet", "x" * 9_000_000)
    wire = await ingress.connect()
    await wire.send(HEAD + b"\r\n")
    await wire.reader.readuntil(b"\r\n\r\n")

    read = 0
    while read < 9_000_002:
        read += len(await wire.reader.readexactly(min(300_000, 9_000_002 - read)))
        await asyncio.sleep(SHORT / 6)

    assert (await wire.request("GET", "/restate/health")).status == 200


async def test_a_steady_reader_of_many_answers_gets_them_all(serve: Serve) -> None:
    """Its answers never stop waiting to be sent, but they are others all the time."""
    ingress = await serve(response_timeout_seconds=SHORT, body_bytes_per_second_min=1000)
    ingress.engine.gives("Greeter", "greet", "x" * 299_998)
    wire = await ingress.connect()
    await wire.send((HEAD + b"\r\n") * 60)

    for _ in range(60):
        assert len((await wire.answer()).body) == 300_000
        await asyncio.sleep(SHORT / 10)


async def test_a_handler_may_take_longer_than_every_deadline(serve: Serve) -> None:
    ingress = await serve(
        header_timeout_seconds=SHORT,
        body_grace_seconds=SHORT,
        response_timeout_seconds=SHORT,
        keepalive_seconds=SHORT,
    )
    open_: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    ingress.engine.gives("Greeter", "greet", open_)
    wire = await ingress.connect()
    waiting = asyncio.create_task(wire.request("POST", "/Greeter/greet", b"1"))

    await asyncio.sleep(SHORT * 4)
    assert not waiting.done()
    wire.abort()
    with pytest.raises(EOFError):
        await waiting


# --- places -------------------------------------------------------------------------------------------------------


async def test_over_the_total_a_connection_gets_a_503_and_is_closed(serve: Serve) -> None:
    ingress = await serve(connections_max=3)
    wires = [await ingress.connect(f"127.0.0.{n + 1}") for n in range(3)]
    for wire in wires:
        assert (await wire.request("GET", "/restate/health")).status == 200

    refused = await ingress.connect("127.0.0.9")
    answer = await refused.request("GET", "/restate/health")

    assert answer.status == 503
    assert "too many connections" in answer.message
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["connection"] == "close"
    assert await refused.closed()
    assert (await wires[0].request("GET", "/restate/health")).status == 200


async def test_a_place_that_becomes_free_is_given_again(serve: Serve) -> None:
    ingress = await serve(connections_max=2)
    first, _second = await ingress.connect(), await ingress.connect()
    assert (await (await ingress.connect()).request("GET", "/restate/health")).status == 503

    first.abort()
    while ingress.ingress.connections_open > 1:
        await asyncio.sleep(0.001)

    assert (await (await ingress.connect()).request("GET", "/restate/health")).status == 200


async def test_one_address_can_not_take_every_place(serve: Serve) -> None:
    ingress = await serve(connections_max=100, connections_per_address_max=2)
    for _ in range(2):
        assert (await (await ingress.connect("127.0.0.7")).request("GET", "/restate/health")).status == 200

    assert (await (await ingress.connect("127.0.0.7")).request("GET", "/restate/health")).status == 503
    assert (await (await ingress.connect("127.0.0.8")).request("GET", "/restate/health")).status == 200


async def test_a_flood_of_refused_connections_is_shaken_off(serve: Serve) -> None:
    """They wait for their peer to read the 503, but few at a time and not for long."""
    ingress = await serve(connections_max=1)
    good = await ingress.connect()
    await good.request("GET", "/restate/health")
    flood = [await ingress.connect() for _ in range(300)]

    assert (await good.request("GET", "/restate/health")).status == 200
    assert ingress.ingress.connections_open == 1
    for wire in flood:
        with contextlib.suppress(EOFError):
            assert (await wire.answer()).status == 503
        assert await wire.closed()


async def test_good_clients_do_not_notice_a_thousand_slow_ones(serve: Serve) -> None:
    """Half-sent headers, half-sent bodies and idle connections, 1,000 together, and another client at work."""
    ingress = await serve(connections_max=2000, connections_per_address_max=2000)

    async def p99(count: int) -> float:
        wire = await ingress.connect()
        took: list[float] = []
        for n in range(count):
            began = time.perf_counter()
            assert (await wire.request("POST", "/Counter/a/add", b"%d" % n)).json == n
            took.append(time.perf_counter() - began)
        return sorted(took)[count * 99 // 100]

    alone = await p99(300)
    slow = [await ingress.connect() for _ in range(1000)]
    for n, wire in enumerate(slow):
        await wire.send((HEAD, HEAD + b"content-length: 10\r\n\r\n1", b"")[n % 3])
    assert ingress.ingress.connections_open == 1001

    beside = await p99(300)

    assert beside < max(10 * alone, 0.05), (
        f"p99 alone {alone * 1e3:.2f} ms, beside 1,000 slow ones {beside * 1e3:.2f} ms"
    )


async def test_a_thousand_slow_connections_are_all_closed_in_time(serve: Serve) -> None:
    ingress = await serve(
        connections_max=2000,
        connections_per_address_max=2000,
        header_timeout_seconds=0.5,
        body_grace_seconds=0.5,
        keepalive_seconds=0.5,
    )
    for n in range(1000):
        wire = await ingress.connect()
        with contextlib.suppress(ConnectionError):  # on a busy machine the time may be over
            await wire.send((HEAD, HEAD + b"content-length: 10\r\n\r\n1", b"")[n % 3])

    async with asyncio.timeout(10):
        while ingress.ingress.connections_open:
            await asyncio.sleep(0.01)
    assert (await ingress.get("/restate/health")).status == 200
    assert not ingress.engine.requests


async def test_many_pipelined_requests_are_not_all_taken_at_once(serve: Serve) -> None:
    """While one is at work, what stands behind it stays in the client's hands."""
    ingress = await serve()
    open_: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    ingress.engine.gives("Greeter", "greet", open_)
    wire = await ingress.connect()
    wire.writer.write((HEAD + b"\r\n") * 100_000)
    while not ingress.engine.requests:
        await asyncio.sleep(0.001)
    for _ in range(50):
        await asyncio.sleep(0.001)

    assert len(ingress.engine.requests) == 1
    assert wire.writer.transport.get_write_buffer_size() > 0


async def test_large_heads_behind_a_request_at_work_are_not_all_kept(serve: Serve) -> None:
    ingress = await serve()
    open_: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    ingress.engine.gives("Greeter", "greet", open_)
    wire = await ingress.connect()
    big = HEAD + b"".join(b"x-%d: " % n + b"a" * 8000 + b"\r\n" for n in range(7)) + b"\r\n"
    await wire.send(HEAD + b"\r\n")
    while not ingress.engine.requests:
        await asyncio.sleep(0.001)
    wire.writer.write(big * 100)

    assert await wire.closed()
    assert len(ingress.engine.requests) == 1


async def test_a_head_is_bounded_as_a_whole(ingress: Served) -> None:
    wire = await ingress.connect()
    await wire.send(HEAD + b"".join(b"x-%d: " % n + b"a" * 8000 + b"\r\n" for n in range(20)))

    answer = await wire.answer()

    assert answer.status == 431
    assert await wire.closed()


async def test_a_large_body_that_was_refused_is_no_large_head(ingress: Served) -> None:
    wire = await ingress.connect()
    for _ in range(2):
        answer = await wire.request("POST", "/Nope/x", b"1" * 300_000)
        assert answer.status == 404

    assert (await wire.request("GET", "/restate/health")).status == 200


async def test_a_body_behind_a_request_at_work_waits_for_its_turn(serve: Serve) -> None:
    ingress = await serve()
    open_: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    ingress.engine.gives("Greeter", "greet", open_)
    wire = await ingress.connect()
    number = b"1" * 3_000_000
    wire.writer.write(HEAD + b"\r\n" + b"POST /Counter/a/get HTTP/1.1\r\nhost: x\r\ncontent-length: 3000000\r\n\r\n")
    wire.writer.write(b'"' + number[2:] + b'"')
    while not ingress.engine.requests:
        await asyncio.sleep(0.001)
    for _ in range(50):
        await asyncio.sleep(0.001)
    open_.set_result(Success(b"1"))

    assert (await wire.answer()).json == 1
    assert (await wire.answer()).json == "a"


async def test_what_stands_behind_a_large_body_waits_for_its_turn(ingress: Served) -> None:
    open_: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    ingress.engine.gives("Greeter", "greet", open_)
    wire = await ingress.connect()
    await wire.send(HEAD + b"content-length: 2000002\r\n\r\n" + b'"' + b"1" * 2_000_000 + b'"')
    while not ingress.engine.requests:
        await asyncio.sleep(0.001)
    await wire.send(b"GET /Counter/next/get HTTP/1.1\r\nhost: x\r\n\r\n")
    open_.set_result(Success(b"1"))

    assert (await wire.answer()).json == 1
    assert (await wire.answer()).json == "next"


async def test_many_small_heads_are_no_large_one(ingress: Served) -> None:
    wire = await ingress.connect()
    for _ in range(30):
        assert (await wire.request("GET", "/restate/health", None, x_padding="a" * 5000)).status == 200
        await wire.send(b"GET /restate/health HTTP/1.1\r\n")
        await asyncio.sleep(0)
        await wire.send(b"host: x\r\n\r\n")
        assert (await wire.answer()).status == 200


async def test_who_is_refused_can_finish_his_request_and_read_why(serve: Serve) -> None:
    """Data that meets a closed socket is answered with a reset: many clients then tell of that, not of the 503."""
    ingress = await serve(connections_max=1)
    await (await ingress.connect()).request("GET", "/restate/health")

    def refused() -> bytes:
        with socket.create_connection(("127.0.0.1", ingress.port), timeout=5) as client:
            for part in (b"POST /Counter/a/add HTTP/1.1\r\n", b"host: x\r\n", b"content-length: 1\r\n\r\n1"):
                client.sendall(part)
                time.sleep(0.02)
            return client.recv(100)

    assert b"503" in await asyncio.to_thread(refused)

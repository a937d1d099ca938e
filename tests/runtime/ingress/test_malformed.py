"""Requests as no client sends them: refused without a 5xx, without a hang, and never understood in two ways."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

# Fixtures' types; see conftest.py, which tests can't import from.
Served = Any
Serve = Any

OK = b"GET /Counter/sentinel/get HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /Counter/a/add HTTP/1.1\r\nhost: x\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"

REFUSED = {
    # what frames a message is ambiguous: the seeds of request smuggling
    "length and chunked": POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\n12",
    "length list": POST + b"content-length: 1, 1\r\n\r\n1",
    "length signed": POST + b"content-length: +1\r\n\r\n1",
    "length negative": POST + b"content-length: -1\r\n\r\n1",
    "length hexadecimal": POST + b"content-length: 0x1\r\n\r\n1",
    "length with underscore": POST + b"content-length: 1_0\r\n\r\n1234567890",
    "length empty": POST + b"content-length: \r\n\r\n1",
    "length enormous": POST + b"content-length: 99999999999999999999999\r\n\r\n1",
    "length not ascii": POST + "content-length: \u0661\r\n\r\n1".encode(),
    "space before colon": POST + b"content-length : 1\r\n\r\n1",
    "chunked twice": POST + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked not last": POST + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "unknown coding": POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding with vertical tab": POST + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST /Counter/a/add HTTP/1.0\r\ntransfer-encoding: xx\r\n\r\n0\r\n\r\n",
    "folded header": POST + b"x-a: 1\r\n 2\r\n\r\n",
    "no name": POST + b": x\r\n\r\n",
    "no colon": POST + b"garbage\r\n\r\n",
    "nul in a value": POST + b"x-a: a\x00b\r\n\r\n",
    "bare cr in a value": POST + b"x-a: a\rb\r\n\r\n",
    "control in a name": POST + b"x\x01a: b\r\n\r\n",
    "space in a name": POST + b"x a: b\r\n\r\n",
    # the request line
    "no version": b"GET /Counter/a/get\r\n\r\n",
    "bad version": b"GET /Counter/a/get HTTP/9.9\r\nhost: x\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 40 + b"\r\n\r\n",
    "empty method": b" /Counter/a/get HTTP/1.1\r\nhost: x\r\n\r\n",
    "bad method": b"G@T /Counter/a/get HTTP/1.1\r\nhost: x\r\n\r\n",
    "tab separated": b"GET\t/Counter/a/get\tHTTP/1.1\r\nhost: x\r\n\r\n",
    "space in path": b"GET /Counter/a b/get HTTP/1.1\r\nhost: x\r\n\r\n",
    "nul in path": b"GET /Counter/a\x00b/get HTTP/1.1\r\nhost: x\r\n\r\n",
    "raw utf-8 in path": "GET /Counter/é/get HTTP/1.1\r\nhost: x\r\n\r\n".encode(),
    "no slash": b"GET Counter/a/get HTTP/1.1\r\nhost: x\r\n\r\n",
    "long path": b"GET /Counter/" + b"a" * 10_000 + b"/get HTTP/1.1\r\nhost: x\r\n\r\n",
    "long header": POST + b"x-a: " + b"a" * 10_000 + b"\r\n\r\n",
    "long name": POST + b"a" * 10_000 + b": 1\r\n\r\n",
    "many headers": POST + b"".join(b"x-%d: 1\r\n" % n for n in range(5_000)) + b"\r\n",
    "header without end": POST + b"x-a: " + b"a" * 200_000,
    # keys
    "crlf in key": b"GET /Counter/a%0d%0aSet-Cookie:x/get HTTP/1.1\r\nhost: x\r\n\r\n",
    "nul in key": b"GET /Counter/%00/get HTTP/1.1\r\nhost: x\r\n\r\n",
    "half escape": b"GET /Counter/%2/get HTTP/1.1\r\nhost: x\r\n\r\n",
    "overlong utf-8": b"GET /Counter/%C0%AF/get HTTP/1.1\r\nhost: x\r\n\r\n",
    "surrogate": b"GET /Counter/%ED%A0%80/get HTTP/1.1\r\nhost: x\r\n\r\n",
    # paths that try to leave
    "dot dot": b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n",
    "encoded dot dot": b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n",
    "backslashes": b"GET /..\\..\\x/y HTTP/1.1\r\nhost: x\r\n\r\n",
    # bodies
    "chunk size not hexadecimal": CHUNKED + b"zz\r\n1\r\n0\r\n\r\n",
    "chunk size enormous": CHUNKED + b"fffffffffffffffff\r\n1\r\n0\r\n\r\n",
    "chunk size signed": CHUNKED + b"-1\r\n1\r\n0\r\n\r\n",
    "chunk size prefixed": CHUNKED + b"0x1\r\n1\r\n0\r\n\r\n",
    "chunk longer than said": CHUNKED + b"1\r\n1234\r\n0\r\n\r\n",
    "chunk extension without end": CHUNKED + b"1;" + b"a" * 20_000,
    "chunk extension with bare lf": CHUNKED + b"1;a\nb\r\n1\r\n0\r\n\r\n",
    "trailer without end": CHUNKED + b"1\r\n1\r\n0\r\nx: " + b"a" * 20_000,
    "connect": b"CONNECT example.com:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    "options star": b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
    "websocket": (
        b"GET /Counter/a HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    ),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
async def test_it_is_refused_and_what_follows_is_never_run_by_mistake(ingress: Served, data: bytes) -> None:
    """Another request stands right behind. Either the connection is closed, or both are understood as two."""
    wire = await ingress.connect()
    await wire.send(data + OK)

    answer = await wire.answer()

    assert 400 <= answer.status < 500
    assert answer.error["source"] == "ingress"
    assert not [request for request in ingress.engine.requests if request.handler == "add"]
    if answer.headers.get("connection") == "close":
        assert not ingress.engine.requests
        assert await wire.closed()
    assert (await ingress.get("/restate/health")).status == 200


EITHER = {
    "chunked in HTTP/1.0": b"POST /Counter/a/add HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n",
    "same length twice": POST + b"content-length: 1\r\ncontent-length: 1\r\n\r\n1",
    "bare lf": b"GET /Counter/a/get HTTP/1.1\nhost: x\n\n",
    "no host": b"GET /Counter/a/get HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /Counter/a/get HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    "leading empty lines": b"\r\n\r\nGET /Counter/a/get HTTP/1.1\r\nhost: x\r\n\r\n",
    "fragment": b"GET /Counter/a/get#x HTTP/1.1\r\nhost: x\r\n\r\n",
    "absolute form": b"GET http://y/Counter/a/get HTTP/1.1\r\nhost: x\r\n\r\n",
    "absolute form with user": b"GET http://u:p@y:99999/Counter/a/get HTTP/1.1\r\nhost: x\r\n\r\n",
    "odd absolute form": b"GET http://[::1/Counter/a/get HTTP/1.1\r\nhost: x\r\n\r\n",
    "method in lower case": b"get /Counter/a/get HTTP/1.1\r\nhost: x\r\n\r\n",
    "long chunk list": CHUNKED + b"1\r\n1\r\n" * 20_000 + b"0\r\n\r\n",
    "empty query": b"GET /Counter/a/get? HTTP/1.1\r\nhost: x\r\n\r\n",
    "many parts": b"GET " + b"/a" * 3000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "only slashes": b"GET " + b"/" * 5000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "http/1.1 h2c": POST + b"upgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 1\r\n\r\n1",
    "expect nonsense": POST + b"expect: 200-maybe\r\ncontent-length: 1\r\n\r\n1",
    "trailers": CHUNKED + b"1\r\n1\r\n0\r\nidempotency-key: x\r\n\r\n",
}


@pytest.mark.parametrize("data", EITHER.values(), ids=EITHER.keys())
async def test_what_http_leaves_open_is_answered_one_way_or_the_other(ingress: Served, data: bytes) -> None:
    wire = await ingress.connect()
    await wire.send(data + OK)

    answer = await wire.answer()

    assert answer.status < 500
    assert (await ingress.get("/restate/health")).status == 200


CUT = {
    "nothing": b"",
    "a method": b"GE",
    "a head": POST,
    "a body": POST + b"content-length: 10\r\n\r\n123",
    "chunks": CHUNKED + b"3\r\n12",
    "a chunk's end": CHUNKED + b"3\r\n123\r\n",
}


@pytest.mark.parametrize("data", CUT.values(), ids=CUT.keys())
@pytest.mark.parametrize("reset", [True, False])
async def test_a_request_that_is_cut_off_is_never_run(ingress: Served, data: bytes, reset: bool) -> None:
    wire = await ingress.connect()
    await wire.send(data)
    while not ingress.ingress.connections_open:
        await asyncio.sleep(0.001)

    if reset:
        wire.abort()
    else:
        wire.writer.write_eof()
        assert await wire.closed()

    async with asyncio.timeout(5):
        while ingress.ingress.connections_open or ingress.ingress.requests_in_flight:
            await asyncio.sleep(0.001)
    assert not ingress.engine.requests


async def test_a_bad_chunk_behind_a_good_start_ends_the_request(ingress: Served) -> None:
    """The handler already waits for the body when the framing breaks."""
    wire = await ingress.connect()
    await wire.send(CHUNKED + b"3\r\n123\r\n")
    while not ingress.ingress.requests_in_flight:
        await asyncio.sleep(0.001)
    await wire.send(b"zz\r\n456\r\n0\r\n\r\n")

    assert (await wire.answer()).status == 400
    assert await wire.closed()
    assert not ingress.engine.requests


async def test_random_damage_to_good_requests_never_makes_a_5xx_or_a_hang(serve: Serve) -> None:
    ingress = await serve(header_timeout_seconds=0.3, body_grace_seconds=0.3, keepalive_seconds=0.3)
    good = [
        OK,
        POST + b"content-length: 3\r\nidempotency-key: k\r\n\r\n123",
        CHUNKED + b"3\r\n123\r\n0\r\n\r\n",
        b"POST /restate/lookup HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /Counter/a%2Fb/add/send?delay=10s HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1",
    ]
    seed = 20_260_101
    draw = random.Random(seed)

    async def one(data: bytes) -> None:
        wire = await ingress.connect()
        await wire.send(data)
        wire.writer.write_eof()
        try:
            while True:
                answer = await wire.answer(head_only=data.startswith(b"HEAD"))
                assert answer.status < 500, f"seed {seed}: {data!r} gave {answer}"
        except EOFError:
            pass
        except (TimeoutError, AssertionError) as error:
            raise AssertionError(f"seed {seed}: {data!r}: {error!r}") from error
        finally:
            wire.abort()

    damaged: list[bytes] = []
    for _ in range(600):
        data = bytearray(b"".join(draw.choices(good, k=draw.randint(1, 3))))
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(data))
            match draw.randrange(4):
                case 0:
                    data[at] = draw.randrange(256)
                case 1:
                    del data[at : at + draw.randint(1, 8)]
                case 2:
                    data[at:at] = draw.randbytes(draw.randint(1, 4))
                case _:
                    data[at:at] = draw.choice([b"\r\n", b"\r", b"\n", b"\x00", b" ", b":", b"%", b"/", b"0"])
            if not data:
                break
        damaged.append(bytes(data))
    for batch in range(0, len(damaged), 50):
        await asyncio.gather(*map(one, damaged[batch : batch + 50]))
    assert (await ingress.get("/restate/health")).status == 200

"""What the client does when an answer does not come: ask again where that is safe, and say what is known."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from perdure.objects import RetryPolicy, Service, TerminalError, VirtualObject, Workflow, handler, shared
from perdure.runtime.admission import Refused
from perdure.runtime.client import Client
from perdure.runtime.gate import OutcomeUnknown

Scripted = Any  # the fixture's type; see conftest.py
QUICK = RetryPolicy(first_delay=0.001, max_delay=0.002, max_attempts=5)


class Counter(VirtualObject):
    @handler
    async def add(self, amount: int = 1) -> int:
        return amount

    @shared
    async def get(self) -> int:
        return 0


class Mail(Service):
    @handler
    async def mail(self) -> None: ...


class Signup(Workflow):
    @handler
    async def run(self) -> int:
        return 1

    @shared
    async def status(self) -> int:
        return 1


def answer(status: int, value: object, **headers: str) -> bytes:
    body = json.dumps(value).encode()
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def refusal(status: int, **headers: str) -> bytes:
    return answer(status, {"code": status, "message": "not now", "source": "ingress"}, **headers)


OK = answer(200, 7)
SENT = answer(202, {"invocationId": "inv_1", "status": "Accepted"})


@pytest.mark.parametrize(
    "failure",
    [
        None,  # closed without an answer
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12",),  # closed in the middle of one
        refusal(502),
        refusal(503),
        refusal(504),
        refusal(408),
        refusal(429, retry_after="0"),
        refusal(507, retry_after="0"),
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 6\r\n\r\n<html>",  # a proxy's
    ],
)
async def test_what_may_have_got_lost_is_sent_again_with_the_same_key(scripted: Scripted, failure: Any) -> None:
    scripted.will(failure, failure, OK)
    async with Client(scripted.url, retry=QUICK) as client:
        assert await client.ref(Counter, "a").add(3) == 7

    assert len(scripted.received) == 3
    assert len(set(scripted.keys)) == 1
    assert scripted.keys[0]


async def test_two_calls_have_two_keys(scripted: Scripted) -> None:
    scripted.will(OK, OK)
    async with Client(scripted.url) as client:
        await client.ref(Counter, "a").add(3)
        await client.ref(Counter, "a").add(3)

    assert len(set(scripted.keys)) == 2


async def test_reads_and_runs_of_workflows_need_no_key(scripted: Scripted) -> None:
    scripted.will(OK, OK, OK)
    async with Client(scripted.url) as client:
        await client.ref(Counter, "a").get()
        await client.ref(Signup, "a").run()
        await client.ref(Signup, "a").status()

    assert scripted.keys == [None, None, None]


async def test_everything_else_has_one(scripted: Scripted) -> None:
    scripted.will(answer(200, None), SENT, SENT)
    async with Client(scripted.url) as client:
        await client.ref(Mail).mail()
        await client.send(client.ref(Counter, "a").get)
        await client.send(client.ref(Counter, "a").add, 1)

    assert None not in scripted.keys


async def test_my_own_key_is_the_one_that_is_sent(scripted: Scripted) -> None:
    scripted.will(None, OK, SENT)
    async with Client(scripted.url, retry=QUICK) as client:
        mine = client.ref(Counter, "a").add.options(idempotency_key="mine")
        await mine(1)
        await client.send(mine, 1)

    assert scripted.keys == ["mine"] * 3


async def test_messages_are_sent_again_too(scripted: Scripted) -> None:
    scripted.will(None, refusal(503), SENT)
    async with Client(scripted.url, retry=QUICK) as client:
        handle = await client.send_after(1.5, client.ref(Counter, "a/b").add, 1)

    assert handle.id == "inv_1"
    assert {request.path for request in scripted.received} == {"/restate/send/Counter/a%2Fb/add?delay=1500000us"}
    assert len(set(scripted.keys)) == 1


async def test_attaching_is_repeated_without_a_key(scripted: Scripted) -> None:
    scripted.will(None, refusal(503), OK)
    async with Client(scripted.url, retry=QUICK) as client:
        assert await client.handle("inv_1", int).attach() == 7

    assert {(request.method, request.path) for request in scripted.received} == {("GET", "/restate/attach/inv_1")}


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
async def test_a_handlers_own_error_is_never_repeated(scripted: Scripted, status: int) -> None:
    """However much its status looks like a proxy's."""
    body = {"code": status, "message": "no", "source": "invocation", "type": "X", "metadata": {"a": "b"}}
    scripted.will(answer(status, body, retry_after="0"))
    async with Client(scripted.url, retry=QUICK) as client:
        with pytest.raises(TerminalError, match="no") as caught:
            await client.ref(Counter, "a").add(1)

    assert (caught.value.status, caught.value.metadata) == (status, {"a": "b"})
    assert len(scripted.received) == 1


@pytest.mark.parametrize("status", [400, 404, 405, 409, 413, 415, 431, 470, 500, 501])
async def test_a_clear_refusal_is_never_repeated(scripted: Scripted, status: int) -> None:
    scripted.will(refusal(status))
    async with Client(scripted.url, retry=QUICK) as client:
        with pytest.raises(Refused, match="not now") as caught:
            await client.ref(Counter, "a").add(1)

    assert caught.value.status == status


@pytest.mark.parametrize(
    "data", [b"<html>no</html>", b"[]", b'"text"', b"null", b"\xff\xfe", b'{"message": 3}', b'{"code": "x"}', b""]
)
async def test_an_answer_that_is_none_of_ours_is_shown(scripted: Scripted, data: bytes) -> None:
    scripted.will(b"HTTP/1.1 403 No\r\ncontent-length: %d\r\n\r\n" % len(data) + data)
    async with Client(scripted.url, retry=QUICK) as client:
        with pytest.raises(Refused, match="HTTP 403"):
            await client.ref(Counter, "a").add(1)


async def test_a_redirect_is_not_followed(scripted: Scripted) -> None:
    """The token and the arguments are meant for the address that was given."""
    scripted.will(answer(307, None, location="http://127.0.0.1:1/"))
    async with Client(scripted.url, token="secret", retry=QUICK) as client:
        with pytest.raises(Refused):
            await client.ref(Counter, "a").add(1)

    assert scripted.received[0].headers["authorization"] == "Bearer secret"


async def test_when_no_answer_ever_comes_the_outcome_is_unknown(scripted: Scripted) -> None:
    scripted.will(*[None] * 5)
    async with Client(scripted.url, retry=QUICK) as client:
        with pytest.raises(OutcomeUnknown, match=r"Counter\['a'\].add: no answer .* may or may not have happened"):
            await client.ref(Counter, "a").add(1)

    assert len(scripted.received) == 5


async def test_one_lost_answer_makes_the_outcome_unknown_whatever_follows(scripted: Scripted) -> None:
    scripted.will(None, *[refusal(429, retry_after="0")] * 4)
    async with Client(scripted.url, retry=QUICK) as client:
        with pytest.raises(OutcomeUnknown):
            await client.ref(Counter, "a").add(1)


@pytest.mark.parametrize("status", [429, 503, 507])
async def test_refused_every_time_nothing_happened(scripted: Scripted, status: int) -> None:
    scripted.will(*[refusal(status, retry_after="0")] * 5)
    async with Client(scripted.url, retry=QUICK) as client:
        with pytest.raises(Refused, match="not now") as caught:
            await client.ref(Counter, "a").add(1)

    assert (caught.value.status, caught.value.retry_after_seconds) == (status, 0)


async def test_where_nobody_listens_nothing_happened() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    async with Client(url, retry=QUICK) as client:
        with pytest.raises(ConnectionError, match=r"cannot reach http://127.* in 5 attempts .* nothing happened"):
            await client.ref(Counter, "a").add(1)


async def test_a_server_that_comes_up_late_is_found(scripted: Scripted) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    scripted.will(OK)
    retry = RetryPolicy(first_delay=0.005, max_delay=0.005, max_duration=10)
    async with Client(f"http://127.0.0.1:{port}", retry=retry) as client:
        call = asyncio.create_task(client.ref(Counter, "a").add(1))
        await asyncio.sleep(0.02)
        assert not call.done()
        server = await asyncio.start_server(scripted.serve, "127.0.0.1", port)

        assert await call == 7
        server.close()


async def test_it_gives_up_after_its_duration(scripted: Scripted) -> None:
    scripted.will(*[refusal(503)] * 1000)
    retry = RetryPolicy(first_delay=0.01, max_delay=0.01, max_duration=0.1)
    async with Client(scripted.url, retry=retry) as client:
        with pytest.raises(OutcomeUnknown):
            await client.ref(Counter, "a").add(1)

    assert 3 < len(scripted.received) < 20


async def test_retry_after_is_waited_for_unless_it_is_too_long(scripted: Scripted) -> None:
    scripted.will(refusal(429, retry_after="30"))
    retry = RetryPolicy(first_delay=0.001, max_duration=5)
    async with Client(scripted.url, retry=retry) as client:
        with pytest.raises(Refused) as caught:
            await client.ref(Counter, "a").add(1)

    assert caught.value.retry_after_seconds == 30


async def test_a_cancelled_call_is_not_repeated(scripted: Scripted) -> None:
    scripted.will(*[refusal(503)] * 1000)
    async with Client(scripted.url, retry=RetryPolicy(first_delay=10)) as client:
        call = asyncio.create_task(client.ref(Counter, "a").add(1))
        while not scripted.received:
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    assert len(scripted.received) == 1


@pytest.mark.parametrize(
    ("key", "path"),
    [("a/b c", "a%2Fb%20c"), ("..", "%2E%2E"), (".", "%2E"), ("a.b", "a.b"), ("%2F", "%252F"), ("é", "%C3%A9")],
)
async def test_a_key_is_one_part_of_the_path_for_everybody_on_the_way(scripted: Scripted, key: str, path: str) -> None:
    scripted.will(OK)
    async with Client(scripted.url + "/behind/a/proxy/") as client:
        await client.ref(Counter, key).add(1)

    assert scripted.received[0].path == f"/behind/a/proxy/restate/call/Counter/{path}/add"


async def test_a_long_wait_starts_the_count_of_failures_anew(scripted: Scripted, monkeypatch: Any) -> None:
    """A call that was at work for days, and then lost its connection, has all its attempts left."""
    loop = asyncio.get_running_loop()
    time, passed = loop.time, 0.0

    def work_for_long() -> None:
        nonlocal passed
        passed += 1000

    monkeypatch.setattr(loop, "time", lambda: time() + passed)
    scripted.at_work = work_for_long
    scripted.will(*[None] * 20, OK)
    async with Client(scripted.url, retry=QUICK) as client:
        assert await client.ref(Counter, "a").add(1) == 7

    assert len(scripted.received) == 21

"""The ingress in front of the real engine: what a user with curl sees."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import pytest
from msgspec import Meta

from perdure.objects import Limits, Rate, Service, TerminalError, VirtualObject, handler, shared

# Fixtures' types; see conftest.py, which tests can't import from.
Served = Any
Serve = Any


class OverdrawnInIngressTest(TerminalError):
    status = 409


class Counter(VirtualObject):
    value: int = 0

    @handler
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    @handler
    async def reset(self) -> None:
        self.value = 0

    @handler
    async def spend(self, *, amount: Annotated[int, Meta(gt=0)], why: str = "") -> int:
        if amount > self.value:
            raise OverdrawnInIngressTest(f"{self.key} has {self.value}", metadata={"balance": str(self.value)})
        self.value -= amount
        return self.value

    @handler
    async def bad_result(self) -> int:
        self.value = 1_000_000
        return object()  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    @handler
    async def sleep(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "woken"

    @handler
    async def call_me(self) -> int:
        return await self.ctx.ref(Counter, self.key).add(1)

    @handler
    async def limited(self) -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    @handler(public=False)
    async def private(self) -> None: ...

    @shared
    async def get(self) -> int:
        return self.value


class Echo(Service):
    @handler
    async def echo(self, value: Any) -> Any:
        return value


@pytest.fixture
async def served(serve_classes: Serve) -> Served:
    return await serve_classes(Counter, Echo)


async def test_the_counter_of_the_examples(served: Served) -> None:
    assert (await served.post("/Counter/a/add", 3)).json == 3
    assert (await served.get("/Counter/a/add")).json == 4
    assert (await served.get("/Counter/a/get")).json == 4
    assert (await served.post("/Counter/a/reset", None)).body == b"null"
    assert (await served.get("/Counter/a/get")).json == 0
    assert (await served.get("/Counter/b/get")).json == 0


async def test_a_message_its_output_and_its_result(served: Served) -> None:
    id = (await served.post("/Counter/a/sleep/send", 0.05)).headers["x-restate-id"]

    assert (await served.get(f"/restate/output/{id}")).status == 470
    assert (await served.get(f"/restate/attach/{id}")).json == "woken"
    assert (await served.get(f"/restate/output/{id}")).json == "woken"


async def test_a_delayed_message(served: Served) -> None:
    id = (await served.post("/Counter/a/add/send?delay=50ms", 3)).headers["x-restate-id"]

    assert (await served.get("/Counter/a/get")).json == 0
    assert (await served.get(f"/restate/attach/{id}")).json == 3


async def test_an_idempotency_key(served: Served) -> None:
    first = await served.post("/Counter/a/add", 3, idempotency_key="k")
    again = await served.request("POST", "/Counter/a/add", b" 3 ", idempotency_key="k")
    found = {
        "target": "idempotentInvocation",
        "service": "Counter",
        "key": "a",
        "handler": "add",
        "idempotencyKey": "k",
    }

    assert (first.json, again.json) == (3, 3)
    assert (await served.post("/restate/lookup", found)).json == {"invocationId": first.headers["x-restate-id"]}
    assert (await served.post("/restate/output", found)).json == 3
    assert (await served.post("/Counter/a/add", 4, idempotency_key="k")).status == 409
    assert (await served.post("/Counter/a/add/send", 3, idempotency_key="k")).json == {
        "invocationId": first.headers["x-restate-id"],
        "status": "PreviouslyAccepted",
    }


async def test_errors_of_handlers(served: Served) -> None:
    refused = await served.post("/Counter/a/spend", {"amount": 5})
    assert refused.status == 409
    assert refused.error == {
        "code": 409,
        "message": "a has 0",
        "source": "invocation",
        "type": "OverdrawnInIngressTest",
        "metadata": {"balance": "0"},
    }
    deadlock = await served.post("/Counter/a/call_me", None)
    assert (deadlock.status, deadlock.error["type"]) == (409, "DeadlockError")
    assert (await served.post("/Counter/a/limited", None)).status == 504
    unencodable = await served.post("/Counter/a/bad_result", None)
    assert (unencodable.status, unencodable.error["source"]) == (500, "invocation")
    assert "object" in unencodable.message
    assert (await served.get("/Counter/a/get")).json == 0, "the turn was rolled back"


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/Counter/a/add", b'"x"', 400, "$"),
        ("/Counter/a/add", b"1.5", 400, "$"),
        ("/Counter/a/add", b"{", 400, "$"),
        ("/Counter/a/add", b"1 2", 400, "$"),
        ("/Counter/a/add", b"NaN", 400, "$"),
        ("/Counter/a/add", b"1e999", 400, "$"),
        ("/Counter/a/add", b"1" * 5000, 400, "$"),
        ("/Counter/a/spend", b"5", 400, "$"),
        ("/Counter/a/spend", b"{}", 400, "amount"),
        ("/Counter/a/spend", b'{"amount": 0}', 400, "$.amount"),
        ("/Counter/a/spend", b'{"amount": "x"}', 400, "$.amount"),
        ("/Counter/a/spend", b'{"amount": 1, "whi": ""}', 400, "whi"),
        ("/Counter/a/spend", b'{"amount": 1, "why": "\\ud800"}', 400, "$"),
        ("/Counter/a/reset", b"5", 400, "$"),
        ("/Echo/echo", b"[" * 200_000, 400, "$"),
        ("/Echo/echo", b'{"a":' * 100_000, 400, "$"),
        ("/Echo/echo", b"[NaN]", 400, "$"),
        ("/Echo/echo", b'"\xff"', 400, "$"),
        ("/Echo/echo", b'"\xed\xa0\x80"', 400, "$"),
        ("/Echo/echo", b"", 400, ""),
        ("/Counter/%01/get", b"", 400, "control"),
        ("/Counter/" + "x" * 513 + "/get", b"", 400, "512"),
        ("/Counter//get", b"", 400, "empty"),
        ("/Counter/a/private", b"", 400, "not public"),
        ("/Counter/a/nope", b"", 404, "nope"),
        ("/Nope/a/nope", b"", 404, "Nope"),
        ("/restate/attach/inv_nope", None, 404, ""),
        ("/restate/output/nope", None, 404, ""),
        ("/restate/invocation/Counter/a/add/nope/attach", None, 404, ""),
        ("/restate/workflow/Counter/a/attach", None, 404, ""),
    ],
)
async def test_bad_input_is_refused_and_leaves_no_record(
    served: Served, path: str, body: bytes | None, status: int, text: str
) -> None:
    before = served.engine._journal.next_lsn

    answer = await served.request("GET" if body is None else "POST", path, body)

    assert answer.status == status, answer.body
    assert text in answer.message
    assert answer.error["source"] == "ingress"
    assert served.engine._journal.next_lsn == before


async def test_a_full_mailbox_is_429_but_not_for_a_known_idempotency_key(serve_classes: Serve) -> None:
    served = await serve_classes(Counter, mailbox_per_key_max=1)
    await served.post("/Counter/a/sleep/send", 60)
    waiting = await served.post("/Counter/a/add/send", 1, idempotency_key="k")

    full = await served.post("/Counter/a/add", 2)

    assert full.status == 429
    assert int(full.headers["retry-after"]) >= 1
    assert (await served.post("/Counter/a/add/send", 1, idempotency_key="k")).json == {
        "invocationId": waiting.headers["x-restate-id"],
        "status": "PreviouslyAccepted",
    }
    assert (await served.get("/Counter/a/get")).status == 200
    assert (await served.post("/Counter/b/add", 2)).status == 200


class Seldom(VirtualObject, limits=Limits(rate_per_key=Rate(count=1, per=3_600))):
    @handler
    async def ask(self) -> str | None:
        return self.ctx.invocation.headers.get("x-perdure-priority")


async def test_a_request_that_is_too_many_is_429_but_not_for_a_known_idempotency_key(serve_classes: Serve) -> None:
    served = await serve_classes(Seldom)
    first = await served.post("/Seldom/a/ask", idempotency_key="k")
    assert first.status == 200
    before = served.engine._journal.next_lsn

    for path in ("/Seldom/a/ask", "/Seldom/a/ask/send", "/restate/call/Seldom/a/ask"):
        too_many = await served.post(path)
        assert too_many.status == 429
        assert 3_595 <= int(too_many.headers["retry-after"]) <= 3_600
        assert "nothing was kept" in too_many.message
    assert served.engine._journal.next_lsn == before
    assert (await served.post("/Seldom/a/ask", idempotency_key="k")).status == 200
    assert (await served.post("/Seldom/b/ask")).status == 200


async def test_a_priority_is_a_header_and_nothing_else_than_three_words(serve_classes: Serve) -> None:
    served = await serve_classes(Seldom)
    assert (await served.post("/Seldom/a/ask", X_Perdure_Priority="high")).json == "high"
    refused = await served.post("/Seldom/b/ask", x_perdure_priority="urgent")
    assert refused.status == 400
    assert refused.message == "x-perdure-priority: 'urgent': give high, normal or low"


async def test_a_client_that_leaves_cancels_nothing(served: Served) -> None:
    wire = await served.connect()
    await wire.send(b"POST /Counter/a/sleep HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nidempotency-key: k\r\n\r\n0.05")
    while not served.ingress.requests_in_flight:
        await asyncio.sleep(0.001)
    wire.abort()
    while served.ingress.requests_in_flight:
        await asyncio.sleep(0.001)

    assert (await served.post("/Counter/a/sleep", 0.05, idempotency_key="k")).json == "woken"


async def test_every_answer_to_many_clients_is_their_own(served: Served) -> None:
    async def client(key: int) -> list[object]:
        wire = await served.connect()
        return [(await wire.request("POST", f"/Counter/{key}/add", b"1")).json for _ in range(50)]

    assert await asyncio.gather(*map(client, range(20))) == [list(range(1, 51))] * 20


@pytest.mark.parametrize("value", [0, None, "", [], {}, "ünï\u2028", 1.5, 2**53, {"a": [1, {"b": None}]}])
async def test_values_come_back_as_they_went(served: Served, value: object) -> None:
    answer = await served.post("/Echo/echo", value)

    assert answer.json == value, json.dumps(value)

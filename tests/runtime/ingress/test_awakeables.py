"""Awakeables and signals given from outside, and an invocation cancelled by who knows its id."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.objects import TerminalError, VirtualObject, Workflow, handler, shared

# Fixtures' types; see conftest.py, which tests can't import from.
Served = Any
Serve = Any


class Order(VirtualObject):
    asked: str = ""

    @handler
    async def approve(self) -> str:
        """Waits for a number or nothing."""
        approval = self.ctx.awakeable(int | None)
        self.asked = approval.id
        await asyncio.sleep(0)
        try:
            return f"got {await approval}"
        except TerminalError as error:
            return f"{error.status}: {error}"

    @handler
    async def hear(self) -> str:
        try:
            return f"heard {await self.ctx.signal('go', int | None)}"
        except TerminalError as error:
            return f"{error.status}: {error}"

    @handler
    async def sleep(self) -> None:
        await asyncio.sleep(3600)

    @shared
    async def asks(self) -> str:
        return self.asked


class Signup(Workflow):
    @handler
    async def run(self) -> str:
        return await self.ctx.signal("ready", str)


@pytest.fixture
async def served(serve_classes: Serve) -> Served:
    return await serve_classes(Order, Signup)


async def sent(served: Served, path: str) -> str:
    """The id of a message that was accepted."""
    answer = await served.request("POST", f"{path}/send", b"")
    assert answer.status == 202
    return str(answer.json["invocationId"])


async def awaiting(served: Served) -> tuple[str, str]:
    """The ids of an invocation that waits for an approval, and of its awakeable."""
    id = await sent(served, "/Order/o1/approve")
    for _ in range(1000):
        answer = await served.get("/Order/o1/asks")
        if answer.json:
            return id, str(answer.json)
    raise AssertionError("it never asks")


async def result(served: Served, id: str) -> object:
    return (await served.get(f"/restate/attach/{id}")).json


# --- awakeables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["/restate/awakeables", "/restate/a"])
@pytest.mark.parametrize(("body", "got"), [(b"42", "got 42"), (b"", "got None"), (b"null", "got None")])
async def test_resolve(served: Served, prefix: str, body: bytes, got: str) -> None:
    """202 with an empty body, as Restate's ingress; nothing stands for null."""
    id, awakeable = await awaiting(served)

    answer = await served.request("POST", f"{prefix}/{awakeable}/resolve", body)

    assert (answer.status, answer.body) == (202, b"")
    assert await result(served, id) == got


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"too late", "text/plain", "too late"),
        (b'"too late"', "application/json", "too late"),
        (b'"too late"', "text/plain", '"too late"'),
        (b'{"why": 1}', "application/json", '{"why": 1}'),
        (b"too late", "application/json", "too late"),
        ("zu spät".encode(), "text/plain", "zu spät"),
        (b"\xff", "text/plain", "\ufffd"),
    ],
)
async def test_reject(served: Served, body: bytes, content_type: str, reason: str) -> None:
    """The reason is the text of the body, or the string that it is in JSON."""
    id, awakeable = await awaiting(served)

    answer = await served.request("POST", f"/restate/awakeables/{awakeable}/reject", body, content_type=content_type)

    assert answer.status == 202
    assert await result(served, id) == f"500: {reason}"


@pytest.mark.parametrize("body", [b"", b"  \n", b'""'])
async def test_a_rejection_needs_a_reason(served: Served, body: bytes) -> None:
    """400, and it stays open."""
    id, awakeable = await awaiting(served)

    answer = await served.request(
        "POST", f"/restate/awakeables/{awakeable}/reject", body, content_type="application/json"
    )

    assert answer.status == 400
    assert "reason" in answer.message
    assert (await served.post(f"/restate/awakeables/{awakeable}/resolve", 1)).status == 202
    assert await result(served, id) == "got 1"


@pytest.mark.parametrize("body", [b'"text"', b"1.5", b"[1]"])
async def test_a_value_of_another_type(served: Served, body: bytes) -> None:
    """400 that says what it has to be; it stays open."""
    id, awakeable = await awaiting(served)

    answer = await served.request("POST", f"/restate/awakeables/{awakeable}/resolve", body)

    assert answer.status == 400
    assert "int" in answer.message
    assert (await served.post(f"/restate/awakeables/{awakeable}/resolve", 7)).status == 202
    assert await result(served, id) == "got 7"


@pytest.mark.parametrize("body", [b"{", b"nul", b"1 2", b"NaN", b"\xff", b'"\\ud800"', b"[" * 100_000])
async def test_what_is_no_json(served: Served, body: bytes) -> None:
    _, awakeable = await awaiting(served)

    assert (await served.request("POST", f"/restate/awakeables/{awakeable}/resolve", body)).status == 400


async def test_the_same_value_again_is_202_and_another_409(served: Served) -> None:
    """Also after the handler has ended, for as long as its outcome is kept."""
    id, awakeable = await awaiting(served)
    path = f"/restate/awakeables/{awakeable}"
    first = await served.request("POST", f"{path}/resolve", b"42")
    assert await result(served, id) == "got 42"

    again = [
        await served.request("POST", f"{path}/resolve", b"42"),
        await served.request("POST", f"{path}/resolve", b" 42 "),
    ]
    others = [await served.post(f"{path}/resolve", 43), await served.request("POST", f"{path}/reject", b"no")]

    assert [answer.status for answer in (first, *again)] == [202, 202, 202]
    assert [answer.status for answer in others] == [409, 409]
    assert await result(served, id) == "got 42"


@pytest.mark.parametrize("verb", ["resolve", "reject"])
@pytest.mark.parametrize("id", ["awk_" + "0" * 32, "x", "", "%20", "inv_" + "0" * 35])
async def test_an_unknown_one(served: Served, verb: str, id: str) -> None:
    """404, whatever it looks like: who guesses learns nothing."""
    answer = await served.request("POST", f"/restate/awakeables/{id}/{verb}", b"1")

    assert answer.status == 404


async def test_one_whose_handler_was_killed(served: Served) -> None:
    """Nobody waits any more."""
    id, awakeable = await awaiting(served)
    await served.engine.operations.kill(id)

    answer = await served.post(f"/restate/awakeables/{awakeable}/resolve", 1)

    assert answer.status == 404
    assert "ended" in answer.message


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/restate/awakeables/x/resolve", 405),
        ("PUT", "/restate/awakeables/x/reject", 405),
        ("POST", "/restate/awakeables/x", 400),
        ("POST", "/restate/awakeables", 400),
        ("POST", "/restate/awakeables/x/finish", 400),
        ("POST", "/restate/awakeables/x/resolve/now", 400),
        ("POST", "/restate/awakeables/%2/resolve", 400),
        ("GET", "/restate/invocation/x/cancel", 405),
        ("POST", "/restate/invocation/x/kill", 400),
        ("POST", "/restate/invocation/x/signals//resolve", 400),
        ("POST", f"/restate/invocation/x/signals/{'n' * 513}/resolve", 400),
        ("GET", "/restate/invocation/x/signals/go/resolve", 405),
    ],
)
async def test_bad_paths(served: Served, method: str, path: str, status: int) -> None:
    """An error that shows the right form."""
    answer = await served.request(method, path, b"1" if method == "POST" else None)

    assert answer.status == status
    if status == 400 and "%2" not in path and "n" * 513 not in path and "//" not in path:
        assert "/restate/" in answer.message


@pytest.mark.parametrize(
    "path",
    ["/restate/awakeables/{a}/resolve", "/restate/invocation/{i}/cancel", "/restate/invocation/{i}/signals/s/resolve"],
)
@pytest.mark.parametrize("content_type", ["text/plain", "application/json"])
async def test_a_web_page_is_refused(served: Served, path: str, content_type: str) -> None:
    id, awakeable = await awaiting(served)

    answer = await served.post(
        path.format(a=awakeable, i=id), 1, origin="http://evil.example", content_type=content_type
    )

    assert answer.status == 403
    assert (await served.get(f"/restate/output/{id}")).status == 470


async def test_a_large_value_is_refused(serve_classes: Serve) -> None:
    served = await serve_classes(Order, body_bytes_max=10)
    _, awakeable = await awaiting(served)

    assert (await served.request("POST", f"/restate/awakeables/{awakeable}/resolve", b"1" * 11)).status == 413


# --- signals and cancel: ours ---------------------------------------------------------------------------------------


async def test_a_signal(served: Served) -> None:
    """Kept until it is asked for; an empty body is null."""
    id = await sent(served, "/Order/o1/hear")

    answer = await served.post(f"/restate/invocation/{id}/signals/go/resolve", 5)

    assert (answer.status, answer.body) == (202, b"")
    assert await result(served, id) == "heard 5"


async def test_a_rejected_signal(served: Served) -> None:
    id = await sent(served, "/Order/o1/hear")

    answer = await served.request("POST", f"/restate/invocation/{id}/signals/go/reject", b"not today")

    assert answer.status == 202
    assert await result(served, id) == "500: not today"


async def test_signals_names_are_decoded_once(served: Served) -> None:
    id = await sent(served, "/Order/o1/hear")

    answers = [await served.post(f"/restate/invocation/{id}/signals/{name}/resolve", 5) for name in ("a%2Fb", "%67o")]

    assert [answer.status for answer in answers] == [202, 202]
    assert await result(served, id) == "heard 5"


@pytest.mark.parametrize("waits", [True, False], ids=["waited for", "kept"])
async def test_a_signal_of_another_type(served: Served, waits: bool) -> None:
    """400 if the handler waits for it; what was kept until it asked raises there: its type was not known before."""
    if waits:
        id = await sent(served, "/Order/o1/hear")
        await served.get("/Order/o1/asks")
    else:
        await sent(served, "/Order/o1/sleep")
        id = await sent(served, "/Order/o1/hear")

    answer = await served.post(f"/restate/invocation/{id}/signals/go/resolve", "text")

    if waits:
        assert answer.status == 400
        assert "int" in answer.message
        assert (await served.post(f"/restate/invocation/{id}/signals/go/resolve", 1)).status == 202
        assert await result(served, id) == "heard 1"
    else:
        assert answer.status == 202
        await cancel_all(served, "sleep")
        assert str(await result(served, id)).startswith("400: signal go ")


async def cancel_all(served: Served, handler: str) -> None:
    for invocation in [*served.engine.kernel.invocations.values()]:
        if invocation.handler == handler:
            await served.engine.operations.cancel(invocation.id)


async def test_signals_nobody_would_get(served: Served) -> None:
    """404: unknown, or it has ended; 400: no JSON, no reason."""
    id = await sent(served, "/Order/o1/hear")
    path = f"/restate/invocation/{id}/signals/go"
    bad = [await served.request("POST", f"{path}/resolve", b"{"), await served.request("POST", f"{path}/reject", b"")]
    assert [answer.status for answer in bad] == [400, 400]
    await served.post(f"{path}/resolve", 1)
    await result(served, id)

    assert (await served.post(f"{path}/resolve", 2)).status == 404
    assert (await served.post("/restate/invocation/inv_0/signals/go/resolve", 2)).status == 404


async def test_cancel(served: Served) -> None:
    """202, also for one that was cancelled or has ended: who asks again after a lost answer is answered alike."""
    id = await sent(served, "/Order/o1/sleep")

    answers = [await served.request("POST", f"/restate/invocation/{id}/cancel", b"") for _ in range(3)]
    outcome = await served.get(f"/restate/attach/{id}")
    answers.append(await served.request("POST", f"/restate/invocation/{id}/cancel", b""))

    assert [answer.status for answer in answers] == [202] * 4
    assert outcome.status == 409
    assert outcome.error["source"] == "invocation"
    assert (await served.request("POST", "/restate/invocation/inv_0/cancel", b"")).status == 404


async def test_a_workflow_is_signalled_by_the_id_of_its_run(served: Served) -> None:
    id = await sent(served, "/Signup/s1/run")

    await served.post(f"/restate/invocation/{id}/signals/ready/resolve", "yes")

    assert (await served.get("/restate/workflow/Signup/s1/attach")).json == "yes"

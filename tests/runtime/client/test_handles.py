"""What a handle can do from outside: over HTTP, and in the process itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from perdure.objects import RetryPolicy, TerminalError, VirtualObject, handler, shared
from perdure.runtime import Client, OutcomeUnknown, Refused, RemoteHandle, Runtime

Scripted = Any  # see conftest.py, which tests can't import from

ACCEPTED = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
SOON = (
    b"HTTP/1.1 503 Busy\r\nretry-after: 0\r\ncontent-type: application/json\r\ncontent-length: 49\r\n\r\n"
    b'{"code":503,"message":"later","source":"ingress"}'
)
QUICK = RetryPolicy(first_delay=0.001, max_delay=0.001, max_attempts=3)


class Waiter(VirtualObject):
    asked: str = ""
    log: list[str]

    @handler
    async def approve(self) -> int:
        approval = self.ctx.awakeable(int)
        self.asked = approval.id
        return await approval

    @handler
    async def hear(self, count: int = 1) -> list[int]:
        return [await self.ctx.signal("go", int) for _ in range(count)]

    @handler
    async def nothing(self) -> None:
        await self.ctx.signal("go", type(None))

    @handler
    async def sleep(self) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            self.log.append("left")

    @shared
    async def asks(self) -> str:
        return self.asked

    @shared
    async def notes(self) -> list[str]:
        return self.log


Outside = Client | Runtime


@pytest.fixture(params=["client", "runtime"])
async def outside(
    request: pytest.FixtureRequest, runtime: Callable[..., Coroutine[object, None, str]]
) -> AsyncIterator[Outside]:
    """A client of a runtime behind HTTP, and a runtime in this process: they do the same."""
    if request.param == "client":
        async with Client(await runtime(Waiter)) as client:
            yield client
    else:
        async with Runtime([Waiter], data_dir=None) as here:
            yield here


async def awaiting(outside: Outside) -> tuple[RemoteHandle[int], str]:
    handle = await outside.send(outside.ref(Waiter, "w").approve)
    while not (id := await outside.ref(Waiter, "w").asks()):
        await asyncio.sleep(0)
    return handle, id


async def test_an_awakeable_is_resolved(outside: Outside) -> None:
    handle, id = await awaiting(outside)

    await outside.resolve_awakeable(id, 42)

    assert await handle.attach() == 42


async def test_an_awakeable_is_rejected(outside: Outside) -> None:
    handle, id = await awaiting(outside)

    await outside.reject_awakeable(id, "not today, Jürgen")

    with pytest.raises(TerminalError, match=r"^not today, Jürgen$"):
        await handle.attach()


async def test_what_an_awakeable_does_not_take(outside: Outside) -> None:
    """404 unknown, 400 of another type, 409 completed otherwise; the same again is nothing."""
    handle, id = await awaiting(outside)

    await refused(404, outside.resolve_awakeable("awk_" + "0" * 32, 1))
    await refused(400, outside.resolve_awakeable(id, "text"))
    await outside.resolve_awakeable(id, 1)
    await outside.resolve_awakeable(id, 1)
    await refused(409, outside.resolve_awakeable(id, 2))
    await refused(409, outside.reject_awakeable(id, "no"))

    assert await handle.attach() == 1


async def refused(status: int, asked: Coroutine[object, None, None]) -> None:
    with pytest.raises(Refused) as caught:
        await asked
    assert caught.value.status == status


async def test_signals_come_in_order(outside: Outside) -> None:
    handle = await outside.send(outside.ref(Waiter, "w").hear, 3)

    for value in (1, 2, 3):
        await handle.signal("go", value)

    assert await handle.attach() == [1, 2, 3]


async def test_a_signal_without_a_meaning_of_its_own(outside: Outside) -> None:
    handle = await outside.send(outside.ref(Waiter, "w").nothing)

    await handle.signal("go", None)

    await handle.attach()


async def test_a_signal_is_rejected(outside: Outside) -> None:
    handle = await outside.send(outside.ref(Waiter, "w").hear)

    await handle.reject_signal("go", "closed")

    with pytest.raises(TerminalError, match=r"^closed$"):
        await handle.attach()


@pytest.mark.parametrize("name", ["a/b", "..", "ä?#%", "g o"])
async def test_a_signals_name_may_be_anything(outside: Outside, name: str) -> None:
    """It is encoded on the way and decoded once; nobody asks for this one."""
    handle = await outside.send(outside.ref(Waiter, "w").hear)

    await handle.signal(name, 1)
    await handle.signal("go", 2)

    assert await handle.attach() == [2]


async def test_cancel(outside: Outside) -> None:
    """Asked twice, or after its end, is nothing."""
    handle = await outside.send(outside.ref(Waiter, "w").sleep)
    await outside.ref(Waiter, "w").notes()

    await handle.cancel()
    await handle.cancel()

    with pytest.raises(TerminalError) as caught:
        await handle.attach()
    assert caught.value.status == 409
    assert await outside.ref(Waiter, "w").notes() == ["left"]
    await handle.cancel()


async def test_a_handle_made_of_an_id_is_the_same(outside: Outside) -> None:
    sent = await outside.send(outside.ref(Waiter, "w").hear)

    await outside.handle(sent.id).signal("go", 4)

    assert await outside.handle(sent.id, list[int]).attach() == [4]


async def test_what_is_unknown(outside: Outside) -> None:
    handle = outside.handle("inv_" + "0" * 35)

    await refused(404, handle.cancel())
    await refused(404, handle.signal("go", 1))
    await refused(404, handle.reject_signal("go", "no"))


async def test_what_has_ended_gets_no_signal(outside: Outside) -> None:
    handle = await outside.send(outside.ref(Waiter, "w").hear, 0)
    await handle.attach()

    await refused(404, handle.signal("go", 1))


@pytest.mark.parametrize("reason", ["", "  ", None])
async def test_a_rejection_needs_a_reason(outside: Outside, reason: Any) -> None:
    with pytest.raises(ValueError, match="needs a reason"):
        await outside.handle("inv_x").reject_signal("go", reason)
    with pytest.raises(ValueError, match="needs a reason"):
        await outside.reject_awakeable("awk_x", reason)


@pytest.mark.parametrize("value", [object(), float("nan"), "\ud800", 1 << 100, {1: object()}])
async def test_what_is_no_json_is_not_sent(outside: Outside, value: object) -> None:
    with pytest.raises(TypeError, match="can't be sent"):
        await outside.handle("inv_x").signal("go", value)
    with pytest.raises(TypeError, match="can't be sent"):
        await outside.resolve_awakeable("awk_x", value)


# --- answers that get lost ------------------------------------------------------------------------------------------


async def test_what_may_be_repeated_is_repeated(scripted: Scripted) -> None:
    """Cancelling, and completing an awakeable with the same value, come to the same however often they are done."""
    async with Client(scripted.url, retry=QUICK) as client:
        scripted.will(None, BUSY, ACCEPTED)
        await client.handle("inv_1").cancel()
        scripted.will(None, ACCEPTED)
        await client.resolve_awakeable("awk_1", 5)

    assert [request.path for request in scripted.received] == [
        *["/restate/invocation/inv_1/cancel"] * 3,
        *["/restate/awakeables/awk_1/resolve"] * 2,
    ]


@pytest.mark.parametrize("lost", [None, BUSY])
async def test_a_signal_whose_answer_got_lost_is_not_repeated(scripted: Scripted, lost: bytes | None) -> None:
    """It may have arrived, and a second one would be another value."""
    scripted.will(lost)
    async with Client(scripted.url, retry=QUICK) as client:
        with pytest.raises(OutcomeUnknown, match="signal go to inv_1") as caught:
            await client.handle("inv_1").signal("go", 5)

    assert len(scripted.received) == 1
    assert "idempotency_key" not in str(caught.value)


async def test_a_signal_that_was_not_taken_is_repeated(scripted: Scripted) -> None:
    """The runtime says that nothing was recorded and when to come again."""
    scripted.will(SOON, ACCEPTED)
    async with Client(scripted.url, retry=QUICK) as client:
        await client.handle("inv_1").signal("go", 5)

    assert [request.body for request in scripted.received] == [b"5", b"5"]

"""Sagas: what was done is undone for what is terminal, once, in reverse, whatever crashes on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import pytest

from perdure.objects import RetryPolicy, TerminalError, VirtualObject, handler, step

if TYPE_CHECKING:
    from tests.runtime.durable.conftest import World

    Worlds = Callable[..., World]

AT_ONCE = RetryPolicy(first_delay=1, factor=1, jitter=0)


class Town:
    """What the steps did, and how often an undo fails before it succeeds."""

    done: ClassVar[list[str]]
    failures: ClassVar[int]
    gate: ClassVar[asyncio.Event]


@pytest.fixture(autouse=True)
def town() -> type[Town]:
    Town.done, Town.failures, Town.gate = [], 0, asyncio.Event()
    return Town


def book(what: str) -> str:
    Town.done.append(f"booked {what}")
    return what


@step(retry=AT_ONCE)
async def cancel(what: str) -> None:
    if Town.failures:
        Town.failures -= 1
        Town.done.append(f"could not cancel {what}")
        raise ConnectionError("no answer")
    Town.done.append(f"cancelled {what}")


def refuse_to_cancel(what: str) -> None:
    raise TerminalError(f"{what} can't be cancelled")


async def for_ever() -> None:
    await asyncio.sleep(1_000_000)


class Hotel(VirtualObject):
    guests: list[str]

    @handler
    async def check_in(self, guest: str) -> None:
        self.guests.append(guest)

    @handler
    async def check_out(self, guest: str) -> None:
        self.guests.remove(guest)
        self.guests.append(f"no {guest}")


class Trip(VirtualObject):
    log: list[str]
    attempts: int = 0

    @handler
    async def plan(self, ends: str) -> str:
        async with self.ctx.saga() as saga:
            for what in ("flight", "car"):
                saga.undo(cancel, what)
                await self.ctx.run(book, what)
            saga.undo(self.ctx.ref(Hotel, "h").check_out, self.key)
            await self.ctx.ref(Hotel, "h").check_in(self.key)
            saga.undo(self.note, "undone")
            await self.end(ends)
        return "planned"

    @handler
    async def plan_within(self, seconds: float) -> str:
        try:
            async with asyncio.timeout(seconds):
                return await self.plan("refuses_late")
        except TimeoutError:
            return "too late"

    async def note(self, text: str) -> None:
        self.log.append(text)
        await self.ctx.sleep(1)

    async def end(self, ends: str) -> None:
        if ends == "terminal":
            raise TerminalError("no money", status=402)
        if ends == "wait":
            await self.ctx.run(for_ever)
        if ends == "timeout":
            async with asyncio.timeout(5):
                await self.ctx.run(for_ever)
        if ends == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(self.end("terminal"))
                group.create_task(self.end("wait"))
        if ends == "refuses_late":
            await self.ctx.sleep(4.5)
            raise TerminalError("no money")
        if ends == "bug":
            raise ValueError("a bug")

    @handler(retry=RetryPolicy(first_delay=1, jitter=0, max_attempts=3, then="fail"))
    async def fails_at_last(self) -> None:
        await self.plan("bug")

    @handler(retry=RetryPolicy(first_delay=1, jitter=0, max_attempts=3))
    async def pauses_at_last(self) -> None:
        await self.plan("bug")

    @handler
    async def undo_refused(self) -> None:
        async with self.ctx.saga() as saga:
            saga.undo(cancel, "flight")
            saga.undo(refuse_to_cancel, "car")
            saga.undo(cancel, "hotel")
            raise TerminalError("no money", status=402)

    @handler
    async def in_a_loop(self, words: list[str]) -> None:
        async with self.ctx.saga() as saga:
            given: list[str] = []
            for word in words:
                given.append(word)
                saga.undo(join, given)
            raise TerminalError("stop")

    @handler
    async def twice(self) -> None:
        async with self.ctx.saga() as outer:
            outer.undo(cancel, "outer")
            try:
                async with self.ctx.saga() as inner:
                    inner.undo(cancel, "inner")
                    raise TerminalError("inner")
            except TerminalError:
                self.log.append("caught")
            raise TerminalError("outer")

    @handler
    async def outside_its_block(self) -> str:
        saga = self.ctx.saga()
        try:
            saga.undo(cancel, "x")
        except RuntimeError as error:
            return str(error)
        return ""

    @handler
    async def given_a_coroutine(self) -> str:
        async with self.ctx.saga() as saga:
            running = cancel("x")
            try:
                saga.undo(running)  # type: ignore[call-overload, arg-type, unused-ignore]  # pyright: ignore[reportArgumentType]
            except TypeError as error:
                return str(error)
            finally:
                running.close()
        return ""


def join(words: list[str]) -> None:
    Town.done.append("+".join(words))


UNDONE = ["booked flight", "booked car", "cancelled car", "cancelled flight"]


def guests(world: World) -> bytes:
    return world.fields("Hotel", "h")["guests"]


def log_of(world: World) -> bytes:
    return world.fields("Trip", "ann").get("log", b"[]")


@pytest.mark.parametrize(("ends", "says"), [("terminal", "no money"), ("timeout", None), ("group", "no money")])
async def test_what_is_terminal_is_compensated_last_first(worlds: Worlds, ends: str, says: str | None) -> None:
    """A step, a reference's handler, an own method; then the outcome is what it was."""
    world = await worlds(Trip, Hotel).start()
    id = await world.send(world.ref(Trip, "ann").plan, ends)
    await world.advance(30)

    with pytest.raises(TerminalError, match=says):
        await world.result(id)
    assert Town.done == UNDONE
    assert guests(world) == b'["no ann"]'


async def test_a_success_undoes_nothing(worlds: Worlds) -> None:
    world = await worlds(Trip, Hotel).start()
    assert await world.call(world.ref(Trip, "ann").plan("well")) == "planned"
    assert Town.done == UNDONE[:2]


async def test_a_cancellation_is_compensated(worlds: Worlds) -> None:
    """The undos may wait; the invocation then ends as cancelled."""
    world = await worlds(Trip, Hotel).start()
    id = await world.send(world.ref(Trip, "ann").plan, "wait")

    await world.runtime.engine.operations.cancel(id)
    await world.advance(30)

    with pytest.raises(TerminalError) as ended:
        await world.result(id)
    assert ended.value.status == 409
    assert Town.done == UNDONE
    assert guests(world) == b'["no ann"]'
    assert log_of(world) == b'["undone"]'


async def test_an_error_that_is_retried_undoes_nothing(worlds: Worlds) -> None:
    """Also not when its policy ends in a pause: an operator may resume it."""
    world = await worlds(Trip, Hotel).start()
    id = await world.send(world.ref(Trip, "ann").pauses_at_last)

    await world.advance(600)

    assert world.view(id).status == "paused"
    assert Town.done == UNDONE[:2]
    assert guests(world) == b'["ann"]'


async def test_the_last_attempt_of_a_policy_that_fails_is_compensated(worlds: Worlds) -> None:
    """Once, at the third attempt; what was done before is not done again."""
    world = await worlds(Trip, Hotel).start()
    id = await world.send(world.ref(Trip, "ann").fails_at_last)
    await world.advance(1)
    assert Town.done == UNDONE[:2]

    await world.advance(30)

    with pytest.raises(TerminalError, match="a bug"):
        await world.result(id)
    assert Town.done == UNDONE
    assert guests(world) == b'["no ann"]'


@pytest.mark.parametrize("handler", ["plan", "fails_at_last"])
async def test_a_crash_in_the_middle_of_compensating_goes_on_there(worlds: Worlds, handler: str) -> None:
    """After each record: what was undone is not undone again."""
    world = await worlds(Trip, Hotel).start()
    ref = world.ref(Trip, "ann")
    id = await world.send(ref.plan, "terminal") if handler == "plan" else await world.send(ref.fails_at_last)
    await world.advance(30)
    assert world.invocation(id).ended
    kept = [*world.journal.records]

    for count in range(1, len(kept)):
        await world.begin_with(kept[:count])
        await world.advance(60)
        with pytest.raises(TerminalError):
            await world.result(id)
        assert guests(world) == b'["no ann"]', count
        assert log_of(world) == b'["undone"]', count
        assert "Paused" not in world.kinds(), count


async def test_replays_at_every_turn_compensate_once(worlds: Worlds) -> None:
    world = await worlds(Trip, Hotel, replay_always=True).start()
    id = await world.send(world.ref(Trip, "ann").fails_at_last)
    await world.advance(30)

    assert world.invocation(id).ended
    assert Town.done == UNDONE


async def test_an_undo_that_fails_is_retried_by_its_own_policy(worlds: Worlds) -> None:
    """The rest waits for it, also over a crash."""
    world = await worlds(Trip, Hotel).start()
    Town.failures = 2
    id = await world.send(world.ref(Trip, "ann").plan, "terminal")
    await world.advance(1.5)
    await world.restart()
    await world.advance(30)

    with pytest.raises(TerminalError, match="no money"):
        await world.result(id)
    assert Town.done == [*UNDONE[:2], *["could not cancel car"] * 2, *UNDONE[2:]]


async def test_an_undo_that_is_refused_does_not_stop_the_others(worlds: Worlds) -> None:
    """The outcome says so, with the first cause's status."""
    world = await worlds(Trip, Hotel).start()
    id = await world.send(world.ref(Trip, "ann").undo_refused)

    with pytest.raises(
        TerminalError, match=r"no money; 1 of its undos refused, first: car can't be cancelled"
    ) as ended:
        await world.result(id)
    assert ended.value.status == 402
    assert Town.done == ["cancelled hotel", "cancelled flight"]


async def test_arguments_of_an_undo_are_taken_at_once(worlds: Worlds) -> None:
    world = await worlds(Trip, Hotel).start()
    await world.send(world.ref(Trip, "ann").in_a_loop, ["a", "b", "c"])
    assert Town.done == ["a+b+c", "a+b", "a"]


async def test_sagas_nest(worlds: Worlds) -> None:
    world = await worlds(Trip, Hotel).start()
    await world.send(world.ref(Trip, "ann").twice)
    assert Town.done == ["cancelled inner", "cancelled outer"]
    assert log_of(world) == b'["caught"]'


async def test_an_undo_outside_its_block_says_so(worlds: Worlds) -> None:
    world = await worlds(Trip, Hotel).start()
    assert "outside its block" in await world.call(world.ref(Trip, "ann").outside_its_block())


async def test_an_undo_takes_the_function_not_what_it_returns(worlds: Worlds) -> None:
    world = await worlds(Trip, Hotel).start()
    assert "takes the function, not what it returns" in await world.call(world.ref(Trip, "ann").given_a_coroutine())


class Purse(VirtualObject):
    coins: int = 10

    @handler
    async def put_in(self, coins: int) -> None:
        self.coins += coins

    async def take_back(self, coins: int) -> None:
        self.coins += coins

    @handler
    async def spends(self, ends: str) -> None:
        async with self.ctx.saga() as saga:
            saga.undo(self.take_back, 3)
            self.coins -= 3
            await self.ctx.run(book, "flight")  # what was done so far is committed
            if ends == "timeout":
                async with asyncio.timeout(5):
                    await self.ctx.run(for_ever)
            if ends == "deadlock":
                await self.ctx.ref(Purse, self.key).put_in(3)
            raise TerminalError("no")


@pytest.mark.parametrize(("ends", "status"), [("terminal", 500), ("timeout", 504), ("deadlock", 409)])
async def test_what_an_undo_wrote_stays_whatever_is_undone_for(worlds: Worlds, ends: str, status: int) -> None:
    """A turn that ends with an uncaught timeout or a deadlock is rolled back; one that has undone for it isn't."""
    world = await worlds(Purse).start()
    id = await world.send(world.ref(Purse, "a").spends, ends)
    await world.advance(30)

    with pytest.raises(TerminalError) as ended:
        await world.result(id)
    assert ended.value.status == status
    assert world.fields("Purse", "a")["coins"] == b"10"


@pytest.mark.parametrize("ends", ["terminal", "timeout"])
async def test_a_cancellation_waits_until_all_is_undone(worlds: Worlds, ends: str) -> None:
    """It comes while the first of the undos sleeps; the rest is undone all the same, then it ends as cancelled."""
    world = await worlds(Trip, Hotel).start()
    id = await world.send(world.ref(Trip, "ann").plan, ends)
    await world.advance(5 if ends == "timeout" else 0)
    assert not world.invocation(id).ended

    await world.runtime.handle(id).cancel()
    await world.advance(30)

    with pytest.raises(TerminalError) as ended:
        await world.result(id)
    assert ended.value.status == 409
    assert Town.done == UNDONE
    assert guests(world) == b'["no ann"]'
    assert log_of(world) == b'["undone"]'


async def test_a_timeout_round_a_saga_waits_until_all_is_undone(worlds: Worlds) -> None:
    world = await worlds(Trip, Hotel).start()
    id = await world.send(world.ref(Trip, "ann").plan_within, 5)
    await world.advance(30)

    assert await world.result(id) == "too late"
    assert Town.done == UNDONE
    assert log_of(world) == b'["undone"]'

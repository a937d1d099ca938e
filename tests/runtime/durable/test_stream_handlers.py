"""Handlers that yield: each item is recorded before it is told, and every reader gets all of them, once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest

from perdure.objects import DeadlockError, RetryPolicy, TerminalError, VirtualObject, handler, shared
from perdure.runtime.admission import Refused
from perdure.runtime.item_reader import ItemReader
from perdure.runtime.records import Success

if TYPE_CHECKING:
    from tests.runtime.durable.conftest import World

    Worlds = Callable[..., World]


async def words(text: str) -> AsyncIterator[str]:
    for word in text.split():
        yield word


class Fails:
    times = 0


class Teller(VirtualObject):
    told: int = 0

    @handler
    async def count(self, numbers: int) -> AsyncIterator[int]:
        """Without a wait in between."""
        for number in range(numbers):
            self.told += 1
            yield number

    @handler
    async def tick(self, times: int) -> AsyncIterator[int]:
        for number in range(times):
            self.told += 1
            yield number
            await self.ctx.sleep(1)

    @handler
    async def speak(self, text: str) -> AsyncIterator[str]:
        async for word in self.ctx.stream(words, text):
            self.told += 1
            yield word

    @handler
    async def refuses(self, after: int) -> AsyncIterator[int]:
        for number in range(after):
            yield number
            await self.ctx.sleep(1)
        raise TerminalError("that was all", status=422)

    @handler(retry=RetryPolicy(first_delay=1, jitter=0))
    async def stumbles(self) -> AsyncIterator[int]:
        yield 1
        await self.ctx.sleep(1)
        yield 2
        if Fails.times:
            Fails.times -= 1
            raise ConnectionError("once")
        yield 3

    @handler
    async def unfit(self) -> AsyncIterator[int]:
        self.told = 7
        yield 1
        yield {1}  # type: ignore[misc]  # a lie that no checker saw

    @handler(timeout=5)
    async def endless(self) -> AsyncIterator[int]:
        number = 0
        while True:
            yield number
            number += 1
            await self.ctx.sleep(1)

    @handler
    async def of_myself(self) -> AsyncIterator[int]:
        async for number in self.ctx.ref(Teller, self.key).count(3):
            yield number

    @shared
    async def seen(self) -> AsyncIterator[int]:
        yield self.told

    @shared
    async def nothing(self) -> AsyncIterator[int]:
        for number in range(0):
            yield number

    @shared
    async def total(self) -> int:
        return self.told


class Listener(VirtualObject):
    heard: list[str]

    @handler
    async def listen(self, handler: str, number: int) -> list[int]:
        teller = self.ctx.ref(Teller, self.key)
        try:
            async for told in getattr(teller, handler)(number):
                self.heard.append(str(told))
        except TerminalError as error:
            self.heard.append(f"{error} {error.status}")
        return [int(text) for text in self.heard if text.isdigit()]

    @handler
    async def listen_with(self, key: str, times: int) -> list[int]:
        stream = self.ctx.ref(Teller, self.key).tick.options(idempotency_key=key)(times)
        return [number async for number in stream]

    @handler
    async def take(self, wanted: int) -> list[int]:
        taken: list[int] = []
        try:
            async with asyncio.timeout(wanted - 0.5):
                async for number in self.ctx.ref(Teller, self.key).endless():
                    taken.append(number)
        except TimeoutError:
            await self.ctx.sleep(5)
        return taken

    @handler
    async def in_a_circle(self) -> str:
        try:
            async for _ in self.ctx.ref(Circle, self.key).back():
                pass
        except DeadlockError:
            return "refused"
        return "no circle"


class Circle(VirtualObject):
    @handler
    async def back(self) -> AsyncIterator[str]:
        yield "first"
        yield await self.ctx.ref(Listener, self.key).in_a_circle()


@pytest.fixture
async def world(worlds: Worlds) -> World:
    return await worlds(Teller, Listener, Circle).start()


async def read(items: AsyncIterator[Any], into: list[Any]) -> list[Any]:
    async for item in items:
        into.append(item)
    return into


def reader_of(world: World, id: str, after: int = 0) -> ItemReader:
    items = world.runtime.engine.items(id, after)
    assert items is not None
    return items


def reading(world: World, stream: AsyncIterator[Any]) -> tuple[asyncio.Task[list[Any]], list[Any]]:
    got: list[Any] = []
    return asyncio.ensure_future(read(stream, got)), got


async def test_each_item_comes_as_it_is_yielded(world: World) -> None:
    """Not when the handler ends."""
    task, got = reading(world, world.ref(Teller, "a").tick(3))
    for number in range(3):
        await world.settle()
        assert got == [*range(number + 1)]
        await world.advance(1)
    assert await task == [0, 1, 2]
    assert await world.call(world.ref(Teller, "a").total()) == 3


async def test_an_item_is_not_told_before_it_is_synced(worlds: Worlds, held_journal: Any) -> None:
    """A crash could undo it.  Nor is it to somebody who comes when it is there already, but not synced."""
    world = await worlds(Teller, journal=held_journal).start()
    held_journal.held = True
    task, got = reading(world, world.ref(Teller, "a").count.options(idempotency_key="k")(2))
    await world.settle()
    late = asyncio.ensure_future(reader_of(world, world.runtime.engine.find("Teller", "a", "count", "k")).read())
    await world.settle()
    assert got == []
    assert not late.done()
    held_journal.release()
    assert await task == [0, 1]
    assert await late == [b"0", b"1"]


async def test_one_that_never_waits_comes_in_portions(world: World) -> None:
    """A turn has a few hundred items, and what is behind them is not made before they are recorded."""
    task, _ = reading(world, world.ref(Teller, "a").count(1000))
    await world.advance(1)
    assert await task == [*range(1000)]
    turns = [record for record in world.recorded() if type(record).__name__ == "Turn"]
    assert len(turns) == 4


async def test_a_shared_one_reads(world: World) -> None:
    """And one that yields nothing ends at once."""
    assert await world.call(read(world.ref(Teller, "a").count(4), [])) == [0, 1, 2, 3]
    assert await world.call(read(world.ref(Teller, "a").seen(), [])) == [4]
    assert await world.call(read(world.ref(Teller, "a").nothing(), [])) == []


async def test_it_fails_behind_what_it_has_yielded(world: World) -> None:
    """The items stay told."""
    task, got = reading(world, world.ref(Teller, "a").refuses(2))
    await world.advance(3)
    with pytest.raises(TerminalError, match="that was all"):
        await task
    assert got == [0, 1]


async def test_a_turn_that_failed_has_yielded_nothing(world: World) -> None:
    """Its second item was never told, so the attempt after it tells it once."""
    Fails.times = 2
    task, got = reading(world, world.ref(Teller, "a").stumbles())
    await world.advance(1)
    assert got == [1]
    await world.advance(10)
    assert await task == [1, 2, 3]


async def test_an_item_that_cannot_be_encoded_ends_it(world: World) -> None:
    """And undoes its turn, as a result like that does."""
    with pytest.raises(TerminalError, match="set"):
        await world.call(read(world.ref(Teller, "a").unfit(), []))
    assert await world.call(world.ref(Teller, "a").total()) == 0


async def test_it_may_take_so_long(world: World) -> None:
    task, got = reading(world, world.ref(Teller, "a").endless())
    await world.advance(6)
    with pytest.raises(TerminalError, match="timed out"):
        await task
    assert got == [0, 1, 2, 3, 4]


async def test_a_crash_repeats_and_loses_none(world: World) -> None:
    """After each record: who comes back with the number of items that it has gets the others."""
    handle = world.ref(Teller, "a").tick.options(idempotency_key="k")
    task, _ = reading(world, handle(4))
    await world.advance(5)
    assert await task == [0, 1, 2, 3]
    kept = [*world.journal.records]
    for count in range(1, len(kept) + 1):
        await world.begin_with(kept[:count])
        id = world.runtime.engine.find("Teller", "a", "tick", "k")
        told = world.invocation(id).items
        items = reader_of(world, id, told)
        await world.advance(6)
        got: list[bytes] = []
        while isinstance(portion := await items.read(), list):
            got += portion
        assert portion == Success(b"null")
        assert got == [b"%d" % number for number in range(told, 4)]
        assert await world.call(read(world.ref(Teller, "a").tick.options(idempotency_key="k")(4), [])) == [0, 1, 2, 3]
        assert await world.call(world.ref(Teller, "a").total()) == 4


async def test_a_step_that_yields_is_passed_on(world: World) -> None:
    assert await world.call(read(world.ref(Teller, "a").speak("to be or not"), [])) == ["to", "be", "or", "not"]


async def test_a_handler_reads_one(world: World) -> None:
    """Each item is a delivery to it."""
    assert await world.call(world.ref(Listener, "a").listen("count", 3)) == [0, 1, 2]


@pytest.mark.parametrize("evict", [False, True])
async def test_a_handler_reads_one_that_takes_its_time(world: World, evict: bool) -> None:
    """And sees its items as they come, also when it has left memory in between."""
    id = await world.send(world.ref(Listener, "a").listen, "tick", 3)
    for number in range(3):
        assert world.fields("Listener", "a")["heard"].count(b'"') == 2 * (number + 1)
        if evict:
            world.evict()
        await world.advance(1)
    assert await world.result(id) == [0, 1, 2]


async def test_a_handler_reads_one_that_fails(world: World) -> None:
    id = await world.send(world.ref(Listener, "a").listen, "refuses", 2)
    await world.advance(3)
    assert await world.result(id) == [0, 1]
    assert b"that was all 422" in world.fields("Listener", "a")["heard"]


async def test_handlers_read_the_same_one_by_its_key(world: World) -> None:
    """Who comes later gets it from the beginning, and so does who comes when it is over."""
    first = await world.send(world.ref(Listener, "a").listen_with, "k", 3)
    await world.advance(1)
    reader = world.ref(Teller, "a").tick.options(idempotency_key="k")(3)
    task, got = reading(world, reader)
    await world.settle()
    assert got == [0, 1]
    await world.advance(3)
    assert await task == [0, 1, 2]
    assert await world.result(first) == [0, 1, 2]
    assert await world.result(await world.send(world.ref(Listener, "a").listen_with, "k", 3)) == [0, 1, 2]


async def test_a_handler_attaches_in_the_middle(world: World) -> None:
    task, _ = reading(world, world.ref(Teller, "a").tick.options(idempotency_key="k")(4))
    await world.advance(1)
    late = await world.send(world.ref(Listener, "a").listen_with, "k", 4)
    await world.advance(5)
    assert await world.result(late) == [0, 1, 2, 3]
    await task


async def test_a_handler_that_stops_reading_cancels_it(world: World) -> None:
    """Its timeout does, as with any call."""
    id = await world.send(world.ref(Listener, "a").take, 3)
    await world.advance(20)
    assert await world.result(id) == [0, 1, 2]
    assert await world.call(world.ref(Teller, "a").total()) == 0  # the key is free


async def test_a_circle_is_refused(world: World) -> None:
    """A stream of one that waits for its reader would never go on."""
    assert await world.result(await world.send(world.ref(Listener, "a").in_a_circle)) == "refused"
    stream = world.ref(Teller, "a").of_myself()
    with pytest.raises(DeadlockError):
        await world.call(read(stream, []))


async def test_it_is_replayed_as_it_was(world: World) -> None:
    """By a restart in the middle, and the readers' replays too."""
    id = await world.send(world.ref(Listener, "a").listen, "tick", 3)
    await world.advance(1)
    await world.restart()
    await world.advance(5)
    assert await world.result(id) == [0, 1, 2]


async def test_what_it_yielded_goes_with_its_outcome(world: World) -> None:
    task, _ = reading(world, world.ref(Teller, "a").count.options(idempotency_key="k")(3))
    await world.settle()
    await task
    id = world.runtime.engine.find("Teller", "a", "count", "k")
    late = reader_of(world, id, 1)
    assert await world.call(late.read()) == [b"1", b"2"]
    half = reader_of(world, id, 1)
    await world.runtime.engine.operations.purge(id)
    with pytest.raises(Refused, match="purged"):
        await world.call(half.read())
    with pytest.raises(Refused, match="unknown"):
        world.runtime.engine.items(id)
    assert world.runtime.engine.kernel.item(id, 0) is None


async def test_no_more_than_it_has_yielded_can_be_skipped(world: World) -> None:
    task, _ = reading(world, world.ref(Teller, "a").count.options(idempotency_key="k")(3))
    await world.settle()
    await task
    id = world.runtime.engine.find("Teller", "a", "count", "k")
    assert reader_of(world, id, 4).over
    assert not reader_of(world, id, 3).over
    with pytest.raises(Refused, match="3 items"):
        world.runtime.engine.items(id, 5)


async def test_what_is_no_stream_has_no_items(world: World) -> None:
    id = await world.send(world.ref(Listener, "a").listen, "count", 1)
    assert world.runtime.engine.items(id) is None


async def test_a_reader_that_leaves_is_forgotten(world: World) -> None:
    """The handler does not wait for it, and nothing of it stays."""
    task, _ = reading(world, world.ref(Teller, "a").tick(3))
    await world.settle()
    task.cancel()
    await asyncio.wait([task])
    await world.advance(5)
    assert await world.call(world.ref(Teller, "a").total()) == 3
    assert not world.runtime.engine._ledger._readers  # pyright: ignore[reportPrivateUsage]


async def test_a_reader_is_told_that_the_process_stops(world: World) -> None:
    """It asks again."""
    task, got = reading(world, world.ref(Teller, "a").tick(3))
    await world.settle()
    await world.close()
    with pytest.raises(Exception, match="goes on after the next start"):
        await task
    assert got == [0]

"""What has ended is freed by reference counts alone: cycles would wait for the collector, and its pauses grow with
them.  Each way to wait keeps something that leads back to the handler; the run has to let go of all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from perdure.objects import List, OldState, VirtualObject, handler, shared
from perdure.runtime import Runtime
from tests.garbage import garbage
from tests.runtime.durable.conftest import World


async def double(number: int) -> int:
    return 2 * number


def half(number: int) -> int:
    return number // 2


async def count(until: int) -> AsyncIterator[int]:
    for number in range(until):
        yield number


async def never() -> None:
    await asyncio.Event().wait()


class Waiter(VirtualObject):
    seen: int = 0

    @handler
    async def step(self) -> int:
        return await self.ctx.run(double, 1)

    @handler
    async def thread(self) -> int:
        return await self.ctx.run(half, 2)

    @handler
    async def stream(self) -> int:
        return sum([number async for number in self.ctx.stream(count, 3)])

    @handler
    async def call(self) -> int:
        return await self.ctx.ref(Waiter, "another").step()

    @handler
    async def forgotten(self) -> None:
        """Calls nobody awaits, and a step that is still running at the end."""
        forgotten = self.ctx.ref(Waiter, "another").step()
        running = self.ctx.run(never)
        self.seen += len([forgotten, running])

    @handler
    async def gathered(self) -> tuple[int, int]:
        return await asyncio.gather(self.ctx.run(double, 1), self.ctx.ref(Waiter, "another").step())

    @handler
    async def sleeps(self) -> None:
        await self.ctx.sleep(60)

    @handler
    async def asks(self) -> int:
        return await self.ctx.awakeable(int)

    @handler
    async def gives_up(self) -> None:
        try:
            async with asyncio.timeout(1):
                await self.ctx.run(never)
        except TimeoutError:
            self.seen += 1


@pytest.mark.parametrize("name", ["step", "thread", "stream", "call", "forgotten", "gathered", "gives_up"])
async def test_an_ended_handler_leaves_nothing_to_the_collector(name: str) -> None:
    world = await World(Waiter).start()
    await _run(world.runtime, world, name)  # what is made once and kept
    with garbage() as left:
        await _run(world.runtime, world, name)
    await world.close()
    assert _ours(left) == []


def _ours(left: list[object]) -> list[str]:
    """The test client and asyncio leave some of theirs."""
    return [type(each).__name__ for each in left if "perdure" in type(each).__module__]


async def _run(runtime: Runtime, world: World, name: str) -> None:
    id = await world.send(getattr(runtime.ref(Waiter, "one"), name))
    await world.until(lambda: world.runtime.engine.operations.describe(id).status != "running" or name == "gives_up")
    await world.advance(2)
    await world.until(lambda: world.invocation(id).ended)
    await world.settle()


@pytest.mark.parametrize("temperature", ["warm"], indirect=True)  # or its run would have left by itself
@pytest.mark.parametrize("name", ["sleeps", "asks", "gathered"])
async def test_a_run_that_leaves_memory_leaves_nothing_to_the_collector(name: str) -> None:
    world = await World(Waiter).start()
    id = await world.send(getattr(world.runtime.ref(Waiter, "one"), name))
    await world.settle()
    with garbage() as left:
        world.runtime.engine.evict(id)
    await world.close()
    assert _ours(left) == []


class Older(VirtualObject, name="Counted"):
    numbers: list[int]

    @handler
    async def add(self) -> None:
        self.numbers.append(1)


class Newer(VirtualObject, name="Counted", version=2):
    numbers: List[int]

    def migrate(self, old: OldState) -> None:
        self.numbers.extend(old.pop("numbers"))

    @shared
    async def count(self) -> int:
        return len(self.numbers)

    @handler
    async def add(self) -> None:
        self.numbers.append(1)


@pytest.mark.parametrize("name", ["count", "add"])
async def test_a_run_that_migrated_leaves_nothing_to_the_collector(name: str) -> None:
    world = await World(Older).start()
    await world.call(world.ref(Older, "one").add())
    await world.restart(classes=[Newer])
    await world.settle()
    with garbage() as left:
        await world.call(getattr(world.ref(Newer, "one"), name)())
    await world.close()
    assert _ours(left) == []

"""What goes wrong in a handler's very first step is that handler's alone, on each Python."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from perdure.objects import VirtualObject, handler
from tests.runtime.durable.conftest import World


async def double(number: int) -> int:
    return 2 * number


async def never() -> None:
    await asyncio.Event().wait()


class NoFuture:
    """Looks like a future to asyncio, and refuses to be waited for."""

    _asyncio_future_blocking = False

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def add_done_callback(self, *_: object, **__: object) -> None:
        raise ValueError("no")

    def __await__(self) -> Generator[Any, None, None]:
        self._asyncio_future_blocking = True
        yield self


class Before(VirtualObject, name="Careful"):
    @handler
    async def go(self) -> None:
        await self.ctx.run(never)


class After(VirtualObject, name="Careful"):
    """Its code was changed, and cleans up with an await."""

    @handler
    async def go(self) -> None:
        try:
            await self.ctx.run(double, 2)
        finally:
            await asyncio.sleep(0)


class Odd(VirtualObject):
    @handler
    async def waits_for_no_future(self) -> None:
        await NoFuture()

    @handler
    async def fine(self) -> int:
        return await self.ctx.run(double, 4)


async def test_a_divergence_there_pauses_it_and_nothing_else() -> None:
    """At each start anew: a process that stopped instead would never come up again."""
    world = await World(Before, Odd).start()
    id = await world.send(world.ref(Before, "a").go)
    for _ in range(2):
        await world.restart(classes=[After, Odd])
        world.runtime.engine.kernel.wake(world.invocation(id))
        assert await world.call(world.ref(Odd, "b").fine()) == 8
        await world.runtime.engine.operations.cancel(id)
        await world.settle()
        assert world.view(id).status == "paused"
    await world.close()


async def test_an_error_of_asyncio_itself_is_a_failed_attempt() -> None:
    world = await World(Odd).start()
    id = await world.send(world.ref(Odd, "a").waits_for_no_future)
    assert await world.call(world.ref(Odd, "b").fine()) == 8
    view = world.view(id)
    assert view.status == "backing-off"
    assert view.last_failure is not None
    assert view.last_failure.type == "ValueError"
    await world.close()

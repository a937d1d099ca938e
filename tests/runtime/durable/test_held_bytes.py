"""What one invocation may hold before it ends is bounded: it is one row of the store, and a row has its limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from perdure.objects import Map, StepFailed, VirtualObject, handler
from perdure.runtime import Refused, kernel

if TYPE_CHECKING:
    from tests.runtime.durable.conftest import World

    Worlds = Callable[..., World]


class Hoard(VirtualObject):
    """Holds on to what it is given, and to what it asks for."""

    entries: Map[int, str]
    awakeable: str = ""

    @handler
    async def waits(self) -> int:
        total = 0
        while (text := await self.ctx.signal("more", str)) != "enough":
            total += len(text)
        return total

    @handler
    async def never_asks(self) -> str:
        awakeable = self.ctx.awakeable(str)
        self.awakeable = awakeable.id
        return await awakeable

    @handler
    async def fetches(self, times: int) -> str:
        for _ in range(times):
            await self.ctx.run(fetch)
        return "done"

    @handler
    async def passes_on(self, times: int) -> str:
        for _ in range(times):
            await self.ctx.ref(Hoard, "other").takes("x" * 1_000)
        return "done"

    @handler
    async def takes(self, text: str) -> None: ...

    @handler
    async def asks_all(self) -> list[str]:
        calls = [self.ctx.ref(Hoard, str(n)).gives() for n in range(10)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        return [f"{type(one).__name__} {getattr(one, 'status', len(str(one)))}" for one in results]

    @handler
    async def gives(self) -> str:
        return "x" * 1_000

    @handler
    async def clears(self) -> str:
        self.entries.clear()
        await self.ctx.sleep(1)
        return "done"

    @handler
    async def fills(self) -> None:
        for n in range(100):
            self.entries[n] = "x" * 1_000


async def fetch() -> str:
    return "x" * 1_000


FULL = {"invocation_bytes_max": 5_000}


@pytest.mark.parametrize("handler", ["waits", "never_asks"])
async def test_signals_beyond_what_an_invocation_may_hold_are_refused(worlds: Worlds, handler: str) -> None:
    """Whether it asks for them or not: each was one row of the store with it, and made every checkpoint fail."""
    world = await worlds(Hoard, **FULL).start()
    id = await world.send(getattr(world.ref(Hoard, "a"), handler))
    operations = world.runtime.engine.operations
    for _ in range(3):
        await operations.resolve_signal(id, "more", b'"' + b"x" * 900 + b'"')
        await world.settle()
    with pytest.raises(Refused) as refused:
        await operations.resolve_signal(id, "more", b'"' + b"x" * 2_500 + b'"')

    assert refused.value.status == 413
    assert "nothing recorded" in refused.value.message
    await world.restart()
    with pytest.raises(Refused):
        await world.runtime.engine.operations.resolve_signal(id, "more", b'"' + b"x" * 4_000 + b'"')


async def test_an_awakeable_takes_no_more_than_its_handler_may_hold(worlds: Worlds) -> None:
    world = await worlds(Hoard, **FULL).start()
    id = await world.send(world.ref(Hoard, "a").never_asks)
    awakeable = world.fields("Hoard", "a")["awakeable"].decode().strip('"')
    with pytest.raises(Refused) as refused:
        await world.runtime.engine.operations.resolve_awakeable(awakeable, b'"' + b"x" * 6_000 + b'"')
    assert refused.value.status == 413

    await world.runtime.engine.operations.resolve_awakeable(awakeable, b'"small"')
    assert await world.result(id) == "small"


async def test_a_step_whose_result_is_too_much_has_failed(worlds: Worlds) -> None:
    world = await worlds(Hoard, **FULL).start()
    assert await world.result(await world.send(world.ref(Hoard, "a").fetches, 3)) == "done"
    with pytest.raises(StepFailed, match="5000 bytes"):
        await world.result(await world.send(world.ref(Hoard, "a").fetches, 30))


@pytest.mark.parametrize("asks", ["passes_on", "clears"])
async def test_a_turn_that_would_hold_too_much_is_refused(worlds: Worlds, asks: str) -> None:
    """As one with too many entries: tried again, then an operator decides.  Nothing of it is lost."""
    world = await worlds(Hoard, **FULL).start()
    await world.result(await world.send(world.ref(Hoard, "a").fills))
    await world.send(world.ref(Hoard, "a").takes, "before")
    args = [30] if asks == "passes_on" else []
    id = await world.send(getattr(world.ref(Hoard, "a"), asks), *args)
    for _ in range(50):
        await world.advance(600)

    assert world.view(id).status == "paused"
    assert "5000 bytes" in str(world.view(id).last_failure)
    await world.restart()
    assert world.view(id).status == "paused"


async def test_the_results_of_open_calls_are_failures_beyond_what_a_row_can_hold(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They can't be refused, and whoever made them is not to be blamed."""
    monkeypatch.setattr(kernel, "HELD_BYTES_MAX", 5_000)
    world = await worlds(Hoard).start()
    id = await world.send(world.ref(Hoard, "a").asks_all)
    results = await world.result(id)
    assert sorted(set(results)) == ["TerminalError 413", "str 1000"]
    assert 1 <= results.count("str 1000") <= 4

    await world.restart()
    assert await world.result(id) == results


async def test_what_was_held_is_counted_the_same_after_a_crash(worlds: Worlds) -> None:
    world = await worlds(Hoard).start()
    id = await world.send(world.ref(Hoard, "a").waits)
    for text in ("x" * 100, "y" * 50):
        await world.runtime.engine.operations.resolve_signal(id, "more", f'"{text}"'.encode())
        await world.runtime.engine.operations.resolve_signal(id, "other", f'"{text}"'.encode())
    await world.settle()
    held = world.invocation(id).held_bytes
    assert held > 300

    await world.restart()

    assert world.invocation(id).held_bytes == held
    await world.runtime.engine.operations.resolve_signal(id, "more", b'"enough"')
    assert await world.result(id) == 150
    assert world.invocation(id).held_bytes == 0

"""Timers that are overdue after a long downtime fire some at a time; a crash in the midst of it loses none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from perdure.objects import VirtualObject, handler
from perdure.runtime import alarms

if TYPE_CHECKING:
    from tests.runtime.durable.conftest import World

    Worlds = Callable[..., World]

SLEEPERS = 40


class Sleeper(VirtualObject):
    woken: int = 0

    @handler
    async def sleep(self, seconds: float) -> None:
        await self.ctx.sleep(seconds)
        self.woken += 1


async def test_a_checkpoint_does_not_pass_over_what_is_overdue(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's agenda is read from the time of its last checkpoint on, and what is older must not be left behind."""
    monkeypatch.setattr(alarms, "_FIRED_AT_ONCE", 1)
    monkeypatch.setattr(alarms, "_FIRED_AT_LEAST", 1)
    world = await worlds(Sleeper).start()
    for number in range(SLEEPERS):
        await world.send(world.ref(Sleeper, f"s{number}").sleep, 10 + number / 1000)
    await world.close()
    until = world.clock.now_us() + 60_000_000
    while world.clock.advance_to_next(until):
        pass
    for _ in range(5):  # each fires a few, and is gone
        await world.restart()
        for _ in range(4):
            assert world.clock.advance_to_next(world.clock.now_us())
            await world.settle()
    await world.restart()
    await world.advance(60)
    woken = [world.fields("Sleeper", f"s{number}").get("woken") for number in range(SLEEPERS)]
    assert woken == [b"1"] * SLEEPERS

"""Schedules: each tick is one call, however often the process dies and whatever its clock does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from perdure.objects import VirtualObject, cron, every, handler
from perdure.runtime.records import Ticked
from perdure.runtime.schedules import TICK_HEADER

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]

SEED = 20_261_123
HOUR, DAY = 3_600.0, 86_400.0
BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")

HEARD: list[tuple[str, str]] = []
"""What the handlers were called with: the schedule, and the time of its tick."""


@pytest.fixture(autouse=True)
def nothing_heard() -> None:
    HEARD.clear()


class Clerk(VirtualObject):
    """Writes down its ticks in its state, so that what is lost by a crash is lost there too."""

    heard: list[str]

    @handler(
        schedules=[
            cron("30 2 * * *", timezone="Europe/Berlin", key="berlin"),
            cron("*/90 */6 * * *", timezone="America/New_York", key="york"),
            every(timedelta(hours=17), key="steady"),
        ]
    )
    async def note(self) -> None:
        self.heard.append((self.ctx.invocation.headers or {})[TICK_HEADER])


def ticks_of(world: World) -> list[tuple[str, int]]:
    return [(one.schedule, one.tick) for one in world.recorded() if isinstance(one, Ticked) and one.tick is not None]


async def test_a_tick_is_a_call(worlds: Worlds) -> None:
    world = await worlds(Clerk).start()

    await world.advance(3 * DAY)

    assert world.state("Clerk", "berlin")["heard"] == [f"2026-01-0{day}T01:30:00Z" for day in (1, 2, 3)]

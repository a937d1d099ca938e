"""A real process is killed while handlers wait for a place and for their rate: each of them ends, once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Perdure

LIMITED = """
import asyncio
from perdure.objects import Limits, Rate, Service, VirtualObject, handler, shared

async def press():
    await asyncio.sleep(0.05)

class Tally(VirtualObject):
    pressed: list[int]

    @handler
    async def order(self, count: int) -> None:
        for number in range(count):
            self.ctx.ref(Press).press.send(number)

    @handler
    async def note(self, number: int) -> None:
        self.pressed.append(number)

    @shared
    async def read(self) -> list[int]:
        return self.pressed

class Press(Service, limits=Limits(running=2, steps=1, rate=Rate(count=40, per=1, burst=4))):
    @handler
    async def press(self, number: int) -> None:
        await self.ctx.run(press)
        self.ctx.ref(Tally, "t").note.send(number)
"""
COUNT = 24


async def test_what_stands_in_line_at_a_kill_ends_once(perdure: Callable[..., Perdure], tmp_path: Path) -> None:
    (tmp_path / "limited.py").write_text(LIMITED)
    process = perdure(str(tmp_path / "limited.py"))
    await process.start()
    assert (await process.settle("/Tally/t/order", COUNT, key="order")).ok
    noted: list[int] = []
    for enough in (3, 8, 15):  # of what is noted by then, before the next kill
        while len(noted) < enough:
            noted = (await process.call("/Tally/t/read")).value
        assert len(noted) < COUNT
        process.kill()
        await process.exited()
        await process.start()
    async with asyncio.timeout(30):
        while len(noted) < COUNT:
            noted = (await process.call("/Tally/t/read")).value
    assert sorted(noted) == [*range(COUNT)]

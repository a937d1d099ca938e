"""A full disk, while steps end: what became of them is recorded when there is room, once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, ClassVar

import pytest

from perdure.journal import JournalFull
from perdure.objects import RetryPolicy, VirtualObject, handler, step
from tests.runtime.kept_journal import KeptJournal

if TYPE_CHECKING:
    from tests.runtime.durable.conftest import World

    Worlds = Callable[..., World]


class FullJournal(KeptJournal):
    """No room for records larger than `room`, nor for the next `refusals`."""

    room: int | None = None
    refusals = 0

    def reserve(self, size: int, headroom: int = 0) -> None:
        if self.refusals:
            self.refusals -= 1
            raise JournalFull("no room")
        if self.room is not None and size > self.room:
            raise JournalFull("no room")
        super().reserve(size, headroom)


class Outside:
    ran: ClassVar[list[str]]
    gate: ClassVar[asyncio.Event]


@pytest.fixture(autouse=True)
def outside() -> None:
    Outside.ran, Outside.gate = [], asyncio.Event()


@step(retry=RetryPolicy(max_attempts=1))
async def charge(name: str) -> str:
    Outside.ran.append(name)
    return name * 10_000


async def waits(name: str) -> str:
    Outside.ran.append(name)
    await Outside.gate.wait()
    return name


async def numbers() -> AsyncIterator[int]:
    await Outside.gate.wait()
    for number in range(6):
        yield number


class Shop(VirtualObject):
    done: int = 0

    @handler
    async def pays(self) -> int:
        charged = asyncio.create_task(self.ctx.run(charge, "a"))
        await self.ctx.run(waits, "b")
        self.done += 1
        return len(await charged)

    @handler
    async def counts(self) -> list[int]:
        return [number async for number in self.ctx.stream(numbers)]


async def test_a_step_whose_result_finds_no_room_is_not_run_again(worlds: Worlds) -> None:
    """Not even when its handler goes on meanwhile: it may run once, and has."""
    journal = FullJournal()
    world = await worlds(Shop, journal=journal).start()
    journal.room = 5_000
    id = await world.send(world.ref(Shop, "a").pays)
    assert Outside.ran == ["a", "b"]
    Outside.gate.set()
    await world.settle()

    journal.room = None
    await world.advance(5)

    assert await world.result(id) == 10_000
    assert Outside.ran == ["a", "b"]


@pytest.mark.parametrize("refusals", [1, 2, 9])
async def test_items_that_find_no_room_keep_their_order(worlds: Worlds, refusals: int) -> None:
    journal = FullJournal()
    world = await worlds(Shop, journal=journal).start()
    id = await world.send(world.ref(Shop, "a").counts)
    journal.refusals = refusals
    Outside.gate.set()
    await world.settle()

    await world.advance(30)

    assert await world.result(id) == [0, 1, 2, 3, 4, 5]


class Diary(VirtualObject):
    noted: list[str]

    @handler
    async def note(self, what: str) -> None:
        self.noted.append(what)

    @handler
    async def plans(self) -> None:
        for what in ("first", "second", "third"):
            self.ctx.ref(Diary, "later").note.send_after(1, what)


@pytest.mark.parametrize("refusals", [1, 2, 3, 9])
async def test_delayed_messages_that_find_no_room_keep_their_order(worlds: Worlds, refusals: int) -> None:
    journal = FullJournal()
    world = await worlds(Diary, journal=journal).start()
    await world.send(world.ref(Diary, "a").plans)
    journal.refusals = refusals

    await world.advance(30)

    assert world.fields("Diary", "later")["noted"] == b'["first","second","third"]'

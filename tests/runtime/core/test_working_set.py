"""What is asked of the store is answered as of now, though the store is as of the last checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from perdure.objects import VirtualObject, handler
from perdure.runtime import alarms, rows
from perdure.runtime.invocations import Invocation, ObjectEntry
from perdure.runtime.records import Notified
from perdure.runtime.store import MemoryStore
from perdure.runtime.working_set import WorkingSet

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]

HOUR = 3_600.0


class Echo(VirtualObject):
    @handler
    async def say(self, number: int) -> int:
        return number


class Sleeper(VirtualObject):
    awakeable: str = ""
    woken: bool = False

    @handler
    async def sleep(self, seconds: float) -> None:
        """Or until its awakeable is resolved, whichever is first."""
        awakeable = self.ctx.awakeable(bool)
        self.awakeable = awakeable.id
        try:
            async with asyncio.timeout(seconds):
                self.woken = await awakeable
        except TimeoutError:
            self.woken = True


def stored(*keys: bytes) -> WorkingSet:
    store = MemoryStore()
    store.commit([rows.put_of(key, b"") for key in keys], 1, b"")
    return WorkingSet(store)


def test_what_is_gone_since_the_last_checkpoint_hides_nothing_behind_it() -> None:
    """Neither on the agenda nor among the ended, whatever number was asked for."""
    ended = rows.ended_prefix("Account")
    memory = stored(
        *(rows.due_row((at, 0, "inv")) for at in (10, 20, 30)),
        *(ended + at.to_bytes(8) + b"inv" for at in (10, 20, 30)),
    )

    for at in (10, 20):
        memory.rows.put(rows.due_row((at, 0, "inv")), None)
        memory.rows.put(ended + at.to_bytes(8) + b"inv", None)

    assert memory.next_due((5, 0, "")) == 30
    assert memory.ended("Account", 1) == [(30, "inv")]
    assert memory.due((5, 0, ""), 40) == [(30, 0, "inv")]


async def test_what_is_nowhere_is_asked_for_once(worlds: Worlds) -> None:
    """An object without state comes and goes with each of its invocations."""
    asked: list[bytes] = []

    class Counting(MemoryStore):
        def get(self, key: bytes, group: bytes | None = None) -> bytes | None:
            asked.append(key)
            return super().get(key, group)

    world = worlds(Echo)
    world.store = Counting()
    await world.start()
    for n in range(5):
        assert await world.call("Echo/e/say", n) == n

    assert asked == [rows.object_key("Echo", "e")]


def test_what_is_nowhere_is_found_once_it_is_there() -> None:
    """And not any more once it is gone, in whatever steps it goes to the store."""
    store = MemoryStore()
    memory = WorkingSet(store)
    key = ("Account", "a")
    for _ in range(3):
        assert memory.objects.find(key) is None
        memory.objects.add(key, ObjectEntry(fields={"balance": b"1"}))
        _checkpoint(memory, store)
        memory.evict(0, lambda _: True)
        assert memory.objects.find(key) is not None
        memory.objects.remove(key)
        assert memory.objects.find(key) is None
        memory.objects.add(key, ObjectEntry())
        memory.objects.remove(key)
        assert memory.objects.find(key) is None
        _checkpoint(memory, store)


def _checkpoint(memory: WorkingSet, store: MemoryStore) -> None:
    memory.freeze(0)
    while memory.encode(100):
        pass
    store.commit(memory.frozen_rows(), store.lsn + 1, b"")
    while memory.thaw(100):
        pass


def test_what_cannot_leave_is_looked_at_once() -> None:
    """In portions, as all of it is: ten whose steps run, and no room for any."""
    store = MemoryStore()
    memory = WorkingSet(store)
    for n in range(10):
        memory.invocations.add(str(n), Invocation(str(n), bytes(16), "Account", "a", "deposit", True, b"1", 1))
    _checkpoint(memory, store)
    looked_at: list[str] = []

    def stay(invocation: Invocation) -> bool:
        looked_at.append(invocation.id)
        return False

    while memory.evict(0, stay, 4):
        assert len(looked_at) < 10
    assert sorted(looked_at) == sorted(memory.invocations.here)

    while memory.evict(0, lambda _: True, 4):
        pass
    assert memory.evicted == 10


async def test_a_timeout_that_is_no_longer_needed_keeps_no_other_from_firing(worlds: Worlds) -> None:
    """The next one on the store's agenda is gone, no checkpoint has been made since, and the one after it fires."""
    world = await worlds(Sleeper).start()
    world.evict_always = True
    for hours, key in enumerate("abc", start=1):
        world.submit(f"Sleeper/{key}/sleep", hours * HOUR)
    await world.settle()
    world.settings = type(world.settings)(memory_bytes_max=1)  # as usual: no checkpoint for so little
    await world.restart()
    await world.advance(0.9 * HOUR)

    await world.engine.operations.resolve_awakeable(world.state("Sleeper", "b")["awakeable"], b"true")
    await world.advance(3 * HOUR)

    assert [world.state("Sleeper", key)["woken"] for key in "abc"] == [True, True, True]


async def test_of_many_that_are_due_soon_some_have_their_timers_in_memory(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty wait for one midnight, thirty for the seconds around it: each wakes at its time, and few are known of."""
    monkeypatch.setattr(alarms, "_AHEAD_MAX", 4)
    monkeypatch.setattr(alarms, "_FIRED_AT_ONCE", 2)
    world = await worlds(Sleeper).start()
    naps = [HOUR] * 30 + [HOUR + n / 7 - 2 for n in range(30)]
    for n, seconds in enumerate(naps):
        world.submit(f"Sleeper/{n}/sleep", seconds)
    await world.settle()
    await world.restart()
    known: list[int] = []

    for _ in range(80):
        await world.advance(HOUR / 79)
        known.append(len(world.engine.kernel.timers))

    fired = [(record.at - world.started) / 1e6 for record in world.recorded() if isinstance(record, Notified)]
    assert fired == [pytest.approx(seconds, abs=1e-5) for seconds in sorted(naps)]
    assert max(known) <= (8 if world.cold else 60)

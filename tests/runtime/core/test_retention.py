"""Outcomes are kept by time and by number, as their class says or else the settings, then purged in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from perdure.journal import JournalFull
from perdure.objects import Service, VirtualObject, Workflow, handler, shared
from perdure.runtime.engine import Engine
from perdure.runtime.records import Purged, Success

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]

HOUR = 3600.0
SWEEP = 10.0
"""What is over is swept away together, every so often."""


class Plain(VirtualObject):
    n: int = 0

    @handler
    async def add(self) -> int:
        self.n += 1
        return self.n

    @handler
    async def wait_for(self, seconds: float) -> int:
        """Attaches to another's outcome, then waits for longer than that is kept."""
        other = await self.ctx.ref(Brief, "x").add.options(idempotency_key="k")()
        await asyncio.sleep(seconds)
        return other


class Brief(VirtualObject, retention=timedelta(minutes=1)):
    n: int = 0

    @handler
    async def add(self) -> int:
        self.n += 1
        return self.n


class Few(Service, retained_max=3):
    @handler
    async def echo(self, value: int) -> int:
        return value


class Both(Service, retention=60, retained_max=3):
    @handler
    async def echo(self, value: int) -> int:
        return value


class Order(Workflow, retention=timedelta(hours=1)):
    done: bool = False

    @handler
    async def run(self) -> str:
        self.done = True
        return "done"

    @shared
    async def look(self) -> bool:
        return self.done


class FewOrders(Workflow, retained_max=2):
    @handler
    async def run(self) -> str:
        return "done"

    @shared
    async def look(self) -> int:
        return 1


def purges(world: World) -> list[int]:
    """How many outcomes each such record of the journal took."""
    return [len(one.ids) for one in world.recorded() if isinstance(one, Purged)]


def keys_known(world: World, path: str, keys: int) -> list[int]:
    """Which of `k0`, `k1`, … still name an outcome."""
    service, *key, name = path.split("/")
    find = world.engine.kernel.find_by_idempotency_key
    return [number for number in range(keys) if find(service, "/".join(key), name, f"k{number}") is not None]


async def make(world: World, path: str, body: object, keys: int, every: float = 0) -> None:
    for number in range(keys):
        await world.call(path, body, idempotency_key=f"k{number}")
        if every:
            await world.advance(every)


# --- by time ----------------------------------------------------------------------------------------------------------


async def test_each_class_keeps_its_outcomes_for_its_own_time(worlds: Worlds) -> None:
    """A class that says nothing, for the settings' time."""
    world = await worlds(Plain, Brief, idempotency_retention_seconds=HOUR).start()
    plain = world.submit("Plain/a/add", idempotency_key="k")
    await world.advance(1)
    brief = world.submit("Brief/a/add", idempotency_key="k")
    await world.settle()

    await world.advance(59)
    assert world.submit("Brief/a/add", idempotency_key="k").id == brief.id
    await world.advance(1 + SWEEP)
    assert world.submit("Brief/a/add", idempotency_key="k").previously is False
    assert world.submit("Plain/a/add", idempotency_key="k").id == plain.id
    await world.advance(HOUR - 61)

    assert world.submit("Plain/a/add", idempotency_key="k").previously is False


async def test_a_free_key_does_the_thing_again(worlds: Worlds) -> None:
    world = await worlds(Brief).start()
    assert await world.call("Brief/a/add", idempotency_key="k") == 1
    assert await world.call("Brief/a/add", idempotency_key="k") == 1

    await world.advance(60 + SWEEP)

    assert await world.call("Brief/a/add", idempotency_key="k") == 2


async def test_a_workflow_speaks_of_its_runs(worlds: Worlds) -> None:
    """With them go state and promises; what else it answered is kept as anybody's."""
    settings = {"idempotency_retention_seconds": 3 * HOUR, "workflow_retention_seconds": 30 * HOUR}
    world = await worlds(Order, **settings).start()
    assert await world.call("Order/1/run") == "done"
    asked = world.submit("Order/1/look", idempotency_key="k")
    await world.settle()

    await world.advance(HOUR - 60)
    assert world.state("Order", "1") == {"done": True}
    await world.advance(60 + SWEEP)

    assert world.objects() == {}
    assert world.submit("Order/1/look", idempotency_key="k").id == asked.id
    assert await world.call("Order/1/look") is False
    assert await world.call("Order/1/run") == "done"


async def test_what_was_over_while_the_process_was_down_is_purged_at_the_start(worlds: Worlds) -> None:
    world = await worlds(Brief, Plain).start()
    await make(world, "Brief/a/add", None, 3)
    await make(world, "Plain/a/add", None, 3)
    await world.crash()
    world.sleep_while_down(120)

    await world.start()
    await world.settle()

    assert keys_known(world, "Brief/a/add", 3) == []
    assert keys_known(world, "Plain/a/add", 3) == [0, 1, 2]
    assert purges(world) == [3]


async def test_a_class_that_is_not_served_any_more_falls_back_to_the_settings(worlds: Worlds) -> None:
    """Its code, which would say otherwise, isn't there."""
    world = await worlds(Brief, Plain, idempotency_retention_seconds=HOUR).start()
    await make(world, "Brief/a/add", None, 2)
    await world.restart(classes=[Plain])

    await world.advance(HOUR - 60)
    assert keys_known(world, "Brief/a/add", 2) == [0, 1]
    await world.advance(60 + SWEEP)

    assert keys_known(world, "Brief/a/add", 2) == []


async def test_nothing_is_swept_for_nothing(worlds: Worlds) -> None:
    """The next sweep is when the next one is over, whatever was over before."""
    world = await worlds(Brief, Plain, idempotency_retention_seconds=HOUR).start()
    await make(world, "Brief/a/add", None, 2)
    await make(world, "Plain/a/add", None, 2)
    await world.advance(60 + 2 * SWEEP)
    assert purges(world) == [2]

    assert not world.clock.advance_to_next(world.started + round((HOUR - 1) * 1e6))


async def test_what_is_over_together_goes_together(worlds: Worlds) -> None:
    world = await worlds(Brief).start()
    await make(world, "Brief/a/add", None, 8, every=1)

    await world.advance(120)

    assert purges(world) == [1, 7]


# --- by number --------------------------------------------------------------------------------------------------------


async def test_the_oldest_go_first(worlds: Worlds) -> None:
    world = await worlds(Few, Plain).start()
    await make(world, "Few/echo", 1, 5, every=1)
    await make(world, "Plain/a/add", None, 5)

    await world.advance(SWEEP)

    assert keys_known(world, "Few/echo", 5) == [2, 3, 4]
    assert keys_known(world, "Plain/a/add", 5) == [0, 1, 2, 3, 4]


async def test_by_time_and_by_number_whichever_is_first(worlds: Worlds) -> None:
    world = await worlds(Both).start()
    await make(world, "Both/echo", 1, 5, every=1)
    await world.advance(SWEEP)
    assert keys_known(world, "Both/echo", 5) == [2, 3, 4]

    await world.advance(60)

    assert keys_known(world, "Both/echo", 5) == []


async def test_the_number_of_runs_that_are_kept(worlds: Worlds) -> None:
    """Other outcomes of a workflow's class are none of them."""
    world = await worlds(FewOrders).start()
    for number in range(4):
        await world.call(f"FewOrders/{number}/run")
        await world.advance(1)
    await make(world, "FewOrders/0/look", None, 4)

    await world.advance(SWEEP)

    kept = [number for number in range(4) if world.invocations(f"FewOrders/{number}/run")]
    assert kept == [2, 3]
    assert world.engine.kernel.counts.retained == {"FewOrders": 4, "FewOrders\1": 2}


async def test_the_settings_number_is_for_each_class(worlds: Worlds) -> None:
    world = await worlds(Plain, Brief, retained_max=2).start()
    await make(world, "Plain/a/add", None, 4)
    await make(world, "Brief/a/add", None, 3)

    await world.advance(SWEEP)

    assert world.engine.kernel.counts.retained == {"Plain": 2, "Brief": 2}


async def test_number_and_time_hold_after_a_restart(worlds: Worlds) -> None:
    world = await worlds(Few, Brief).start()
    await make(world, "Few/echo", 1, 5)
    await make(world, "Brief/a/add", None, 2)
    await world.restart()
    await world.settle()
    assert keys_known(world, "Few/echo", 5) == [2, 3, 4]

    await world.advance(60 + SWEEP)
    await world.restart()

    assert world.engine.kernel.counts.retained == {"Few": 3}
    assert world.dump() == world.rebuilt_dump()


# --- in the background ------------------------------------------------------------------------------------------------


async def test_many_are_purged_in_portions(worlds: Worlds) -> None:
    """Each is a record of its own, between two slices of turns; none is lost on the way, and the rows go with them."""
    world = await worlds(Brief).start()
    for number in range(1_000):
        world.submit(f"Brief/{number % 7}/add", idempotency_key=f"k{number}")
    await world.settle()

    await world.advance(60 + SWEEP)
    await world.call("Brief/a/add")
    await world.settle()

    assert purges(world) == [64] * 15 + [40]
    assert all(60 <= (one.at - world.started) / 1e6 <= 61 for one in world.recorded() if isinstance(one, Purged))
    assert world.engine.kernel.counts.retained == {}
    assert world.invocations("Brief/0/add") == []
    if world.store is not None:
        assert world.store.range(b"e", b"f", 10) == world.store.range(b"k", b"l", 10) == []
        assert world.store.range(b"i", b"j", 10) == []


async def test_what_was_purged_since_the_last_checkpoint_is_not_in_the_way(worlds: Worlds) -> None:
    """The store still has their rows, and what comes after them is found all the same."""
    settings = {"checkpoint_records_max": 2_000, "checkpoint_changes_max": 100_000}
    world = await worlds(Brief, **settings).start()
    for number in range(1_000):
        world.submit(f"Brief/{number % 7}/add", idempotency_key=f"k{number}")
    await world.settle()
    await world.crash()
    await world.start()

    await world.advance(60 + SWEEP)

    assert purges(world) == [64] * 15 + [40]


async def test_a_request_is_answered_between_two_portions(worlds: Worlds) -> None:
    world = await worlds(Brief, Plain).start()
    for number in range(300):
        world.submit(f"Brief/{number % 7}/add", idempotency_key=f"k{number}")
    await world.settle()
    world.clock.advance_to_next(world.clock.now_us() + 120_000_000)
    await world.settle()
    assert sum(purges(world)) < 300

    assert await world.call("Plain/a/add") == 1
    assert sum(purges(world)) < 300


async def test_a_full_disk_holds_it_up(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if a whole portion is over: nothing is tried again without a pause."""
    world = await worlds(Brief).start()
    for number in range(200):
        world.submit(f"Brief/{number % 7}/add", idempotency_key=f"k{number}")
    await world.settle()
    asked = 0

    def refuse(size: int, headroom: int = 0) -> None:
        nonlocal asked
        asked += 1
        raise JournalFull("no room")

    monkeypatch.setattr(world.journal, "reserve", refuse)
    await world.advance(60 + 10 * SWEEP)
    assert 1 <= asked <= 11
    monkeypatch.undo()
    await world.advance(SWEEP)

    assert purges(world) == [64, 64, 64, 8]


async def test_a_purge_behind_the_sweeps_back_is_no_harm(worlds: Worlds) -> None:
    """An operator purged what would have been the next."""
    world = await worlds(Brief).start()
    first = world.submit("Brief/a/add", idempotency_key="k")
    await world.settle()
    world.engine.operations.purge(first.id)
    await world.advance(30)
    await world.call("Brief/a/add", idempotency_key="k")

    await world.advance(59)
    assert await world.call("Brief/a/add", idempotency_key="k") == 2
    await world.advance(1 + SWEEP)

    assert await world.call("Brief/a/add", idempotency_key="k") == 3


async def test_a_store_that_is_behind_is_waited_for(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is purged has to be written down too, and stays in memory until it is."""
    behind = True

    def is_behind(_: Engine) -> bool:
        return behind

    monkeypatch.setattr(Engine, "_store_is_behind", is_behind)
    world = await worlds(Brief).start()
    await make(world, "Brief/a/add", None, 3)
    await world.advance(60 + SWEEP)
    assert purges(world) == []

    behind = False
    await world.advance(1)

    assert purges(world) == [3]


@pytest.mark.parametrize("evict", [False, True], ids=["driven on", "replayed"])
async def test_an_open_handler_that_had_the_outcome_keeps_it(worlds: Worlds, evict: bool) -> None:
    """It stands in its own journal: a replay after the purge gets the same."""
    world = await worlds(Plain, Brief).start()
    world.evict_always = evict
    await world.call("Brief/x/add", idempotency_key="k")
    waiting = world.submit("Plain/a/wait_for", HOUR)
    await world.advance(120)
    assert purges(world)

    await world.advance(HOUR)

    assert await world.outcome_of(waiting) == Success(b"1")
    assert "Paused" not in world.kinds()

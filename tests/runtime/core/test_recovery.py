"""Random programs, random crashes: whatever happens to the process, the end is that of an undisturbed run."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from perdure.runtime.kernel import Kernel
from perdure.runtime.records import Due, Invoked, Turn, encode
from perdure.runtime.recovery import RecoveryFailed, recover
from perdure.runtime.settings import Settings
from perdure.runtime.store import MemoryStore, StoreDamaged
from tests.runtime.core.programs import Drawn, Machine, all_ended_well, arrivals, life, memory
from tests.runtime.kept_journal import KeptJournal

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]


SEED = 20_261_126
PROGRAMS = 40
CRASHES_PER_PROGRAM = 6
SEEDS = range(SEED, SEED + PROGRAMS)


class DamagedStore(MemoryStore):
    def get(self, key: bytes, group: bytes | None = None) -> bytes | None:
        raise StoreDamaged(Path("store"), f"the row of key {key!r} is not what was written")


def another_life(worlds: Worlds, records: list[bytes], draw: random.Random) -> World:
    """The next process, on a prefix of the journal: at its time, with other random ids, forgetful or not."""
    world = worlds(Machine)
    world.journal = KeptJournal(records)
    world.random.seed(draw.random())
    world.evict_always = draw.random() < 0.5
    for record in world.recorded()[-1:]:
        world.clock.advance_to_next(record.at)
    return world


@pytest.mark.parametrize("wild", [False, True], ids=["commuting", "wild"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_random_program_survives_random_crashes(worlds: Worlds, seed: int, wild: bool) -> None:
    """The process dies at some prefixes of its journal, and a few times more afterwards; the end is the same."""
    drawn, draw = Drawn(seed, wild=wild), random.Random(seed)
    undisturbed = await life(worlds(Machine), drawn)
    all_ended_well(undisturbed)

    for _ in range(CRASHES_PER_PROGRAM):
        kept = undisturbed.journal.records[: draw.randint(0, len(undisturbed.journal.records))]
        world = await life(another_life(worlds, kept, draw), drawn, draw)

        all_ended_well(world)
        assert {name for _, _, name, _ in drawn.requests} <= set(arrivals(world))
        if not wild:
            assert memory(world, draws=False) == memory(undisturbed, draws=False), (seed, len(kept))
        await world.engine.close()


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_random_program_without_memory_comes_to_the_same_end(worlds: Worlds, seed: int) -> None:
    """Every suspended handler is evicted all the time, so every turn replays all those before it."""
    drawn = Drawn(seed, wild=False)
    undisturbed = await life(worlds(Machine), drawn)
    forgetful = worlds(Machine)
    forgetful.evict_always = True

    await life(forgetful, drawn)

    all_ended_well(forgetful)
    assert memory(forgetful) == memory(undisturbed), seed


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_journal_of_a_random_program_makes_the_kernel_that_ran_it(worlds: Worlds, seed: int) -> None:
    """At any moment, `apply` on the journal gives what the running kernel remembers."""
    drawn = Drawn(seed, wild=True)
    world = await worlds(Machine).start()
    for _, key, name, program in drawn.requests:
        world.submit(f"Machine/{key}/run", {"name": name, "program": program})

    for _ in range(12):
        await world.advance(0.4)
        assert world.rebuilt_dump() == world.dump(), seed


@pytest.mark.parametrize("seed", SEEDS[:4])
async def test_a_crash_at_every_single_record(worlds: Worlds, seed: int) -> None:
    """Once everything was accepted, each prefix of the journal ends in the undisturbed state."""
    drawn, draw = Drawn(seed, wild=False), random.Random(seed)
    drawn.requests = [(0.0, *request) for _, *request in drawn.requests]  # type: ignore[misc]  # the same tuples
    undisturbed = await life(worlds(Machine), drawn)
    accepted = len(drawn.requests)
    assert [type(record) for record in undisturbed.recorded()[:accepted]] == [Invoked] * accepted

    for keep in range(accepted, len(undisturbed.journal.records) + 1):
        world = another_life(worlds, undisturbed.journal.records[:keep], draw)
        await world.start()
        await world.advance(1000)

        all_ended_well(world)
        assert memory(world) == memory(undisturbed), (seed, keep)
        await world.engine.close()


# --- recovery itself --------------------------------------------------------------------------------------------------


def test_a_record_that_cannot_be_applied_refuses_the_start() -> None:
    """The line names its LSN; nothing was started."""
    journal = KeptJournal([encode(Due(1, "i")), encode(Turn(1, "nobody", 1, 1))])

    with pytest.raises(RecoveryFailed, match=r"record 2 .* can't be applied") as caught:
        recover(Kernel(), journal, None, Settings(), 0)

    assert caught.value.exit_code == 15


def test_a_record_of_another_version_refuses_the_start() -> None:
    journal = KeptJournal([b"\x63" + encode(Due(1, "i"))[1:]])

    with pytest.raises(RecoveryFailed, match=r"record 1 .*version 99"):
        recover(Kernel(), journal, None, Settings(), 0)


def test_a_store_that_cannot_be_read_refuses_the_start_as_that() -> None:
    """It is the store that is damaged, not the record that needed it."""
    store = DamagedStore()
    store.lsn = 1
    journal = KeptJournal([encode(Due(1, "i")), encode(Due(1, "i"))])

    with pytest.raises(StoreDamaged, match="the row of key"):
        recover(Kernel(store), journal, store, Settings(), 0)


async def test_a_restart_drives_only_what_has_something_to_do(worlds: Worlds) -> None:
    """A thousand sleeping handlers are not replayed by a start, but when their time has come."""
    world = await worlds(Machine).start()
    for n in range(200):
        world.submit(f"Machine/{n}/run", {"name": "n", "program": [{"do": "sleep", "seconds": 100.0}]})
    await world.settle()

    await world.restart()
    assert not world.engine.kernel.ready
    await world.advance(100)

    assert all(entry.holder is None for entry in world.engine.kernel.objects.values())

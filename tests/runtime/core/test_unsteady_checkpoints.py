"""Random programs on a store that lags, refuses and is lost sight of: the end is that of an undisturbed run.

A commit is made when the dice say so, fails for want of room now and then, or is still to be made when the process
dies.  So the next process finds the store as of some commit, and of the journal what came after it, or somewhat more.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest

from perdure.runtime import checkpoints, rows
from perdure.runtime.settings import Settings
from perdure.runtime.store import MemoryStore, Put, StoreFull
from tests.runtime.core.programs import Drawn, Machine, all_ended_well, arrivals, life, memory
from tests.runtime.kept_journal import KeptJournal

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]

SEED = 20_261_123
SEEDS = range(SEED, SEED + 40)
ALL = 10**6
ENCODED_AT_ONCE = "_ENCODED_AT_ONCE"


@pytest.fixture(autouse=True)
def temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither warm nor cold: each world here has limits of its own."""
    monkeypatch.setattr(checkpoints, ENCODED_AT_ONCE, 100)  # to be put back: they are drawn for each life


class TrimmedJournal(KeptJournal):
    """Keeps all, for the test to look at, and shows what trimming leaves: segments, so perhaps more than asked."""

    def __init__(self, records: Sequence[bytes], first_lsn: int) -> None:
        super().__init__(records)
        self._shown_from = first_lsn
        self.trimmed_to = first_lsn

    @property
    def first_lsn(self) -> int:
        return self._shown_from

    def trim(self, lsn: int) -> None:
        assert lsn <= self.synced_lsn + 1, "trimmed what is not synced"
        self.trimmed_to = max(self.trimmed_to, lsn)

    def read(self, from_lsn: int = 1) -> Iterator[tuple[int, bytes]]:
        assert from_lsn >= self._shown_from, "reads what was trimmed"
        return super().read(from_lsn)


class UnsteadyStore(MemoryStore):
    """Commits in a thread, as the one on a disk does; of those that the test lets it make some find no room."""

    blocking = True

    def __init__(self, draw: random.Random, full: float) -> None:
        super().__init__()
        self._draw = draw
        self._full = full
        self.commits = self.refused = 0

    def commit(self, puts: Sequence[Put], lsn: int, summary: bytes) -> None:
        if self._draw.random() < self._full:
            self.refused += 1
            raise StoreFull("no room")
        self.commits += 1
        super().commit(puts, lsn, summary)

    def as_found_by(self, draw: random.Random) -> UnsteadyStore:
        """What the next process finds: what was committed."""
        other = UnsteadyStore(draw, self._full)
        found = self.range(b"", b"\xff", ALL)
        MemoryStore.commit(other, [rows.put_of(key, value) for key, value in found], self.lsn, self.summary)
        return other


class HeldThread:
    """In the place of the store's thread: what it is given is done when the test says so."""

    def __init__(self) -> None:
        self._held: list[Callable[[], None]] = []

    def submit(self, work: Callable[..., Any], *args: object) -> Future[Any]:
        future: Future[Any] = Future()
        self._held.append(lambda: future.set_result(work(*args)))
        return future

    def release(self) -> None:
        if self._held:
            self._held.pop(0)()

    def shutdown(self) -> None: ...


class Unsteady:
    """A world with such a store, from life to life."""

    def __init__(self, world: World, draw: random.Random) -> None:
        self.world = world
        self._draw = draw
        self._thread = HeldThread()
        self._evict = world.evict
        self._pace = draw.choice([0.05, 0.3, 1.0])
        self._store = UnsteadyStore(draw, full=draw.choice([0.0, 0.3, 0.6]))
        self._journal = TrimmedJournal([], 1)
        world.evict_always = True  # at each round of the loop
        world.evict = self._at_each_round  # type: ignore[method-assign]
        self.seen: Counter[str] = Counter()

    async def start(self) -> None:
        draw, world = self._draw, self.world
        world.store, world.journal = self._store, self._journal
        setattr(checkpoints, ENCODED_AT_ONCE, draw.choice([1, 3, 100]))
        world.settings = Settings(
            checkpoint_records_max=draw.choice([1, 2, 5, 10]),
            checkpoint_changes_max=draw.choice([1, 5, 1000]),
            memory_bytes_max=draw.choice([1, 3_000, 10**6]),
        )
        await world.start()
        self._thread = HeldThread()
        made: Any = world.engine._checkpoints  # pyright: ignore[reportPrivateUsage]
        made._thread = self._thread

    async def crash(self) -> None:
        """Of the journal stays what the store stands for, and perhaps more; of commits that were not made, nothing."""
        draw, journal, store = self._draw, self._journal, self._store
        memory = self.world.engine.kernel.memory
        self.seen.update(commits=store.commits, refused=store.refused, trims=journal.trimmed_to > journal.first_lsn)
        self.seen.update(evicted=memory.evicted, loaded=memory.loaded)
        self._store = store.as_found_by(draw)  # before the engine closes, which makes a last commit
        kept = journal.records[: draw.randint(max(store.lsn, len(journal.records) - 3), len(journal.records))]
        await self.world.engine.close()
        self._journal = TrimmedJournal(kept, draw.randint(journal.first_lsn, journal.trimmed_to))

    def _at_each_round(self) -> None:
        if self._draw.random() < self._pace:
            self._thread.release()
        if self._draw.random() < 0.1:
            self._evict()


async def unsteady_life(unsteady: Unsteady, drawn: Drawn, draw: random.Random) -> None:
    """Clients ask again, after each crash, for all that they had asked for."""
    world = unsteady.world
    asked: list[tuple[str, dict[str, Any]]] = []

    def ask() -> None:
        for path, body in asked:
            world.submit(path, body, idempotency_key=body["name"])

    await unsteady.start()
    for at, key, name, program in drawn.requests:
        if at > world.now:
            await world.advance(at - world.now)
        asked.append((f"Machine/{key}/run", {"name": name, "program": program}))
        ask()
        if draw.random() < 0.3:
            await world.settle()
            await crash_and_ask_again(unsteady, ask)
    for _ in range(6):
        await world.advance(draw.choice([0.0, 0.3, 0.7, 1.6]))
        await crash_and_ask_again(unsteady, ask)
    await world.advance(1000)


async def crash_and_ask_again(unsteady: Unsteady, ask: Callable[[], None]) -> None:
    await unsteady.crash()
    await unsteady.start()
    ask()


@pytest.mark.parametrize("wild", [False, True], ids=["commuting", "wild"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_random_program_survives_crashes_on_an_unsteady_store(worlds: Worlds, seed: int, wild: bool) -> None:
    """Whatever the store stood for, and whatever had left memory: nothing is lost, nothing happens twice."""
    drawn, draw = Drawn(seed, wild=wild), random.Random(seed)
    undisturbed = await life(worlds(Machine), drawn)
    unsteady = Unsteady(worlds(Machine), draw)

    await unsteady_life(unsteady, drawn, draw)

    all_ended_well(unsteady.world)
    assert {name for _, _, name, _ in drawn.requests} <= set(arrivals(unsteady.world))
    if not wild:
        assert memory(unsteady.world, draws=False) == memory(undisturbed, draws=False), seed


@pytest.mark.parametrize("seed", SEEDS)
async def test_an_unsteady_store_and_memory_make_what_the_whole_journal_makes(worlds: Worlds, seed: int) -> None:
    """At any moment, of all rows: what `apply` makes of the records from the first one on."""
    drawn, draw = Drawn(seed, wild=True), random.Random(seed)
    unsteady = Unsteady(worlds(Machine), draw)
    world = unsteady.world
    await unsteady.start()
    for _, key, name, program in drawn.requests:
        world.submit(f"Machine/{key}/run", {"name": name, "program": program}, idempotency_key=name)

    for _ in range(8):
        await world.advance(draw.choice([0.3, 0.5]))
        assert world.rebuilt_dump() == world.dump(), seed
        if draw.random() < 0.5:
            await unsteady.crash()
            await unsteady.start()
            assert world.rebuilt_dump() == world.dump(), seed


async def test_these_stories_have_what_they_are_about(worlds: Worlds) -> None:
    """Commits made and refused, segments trimmed, things that left memory and came back."""
    seen: Counter[str] = Counter()
    for seed in SEEDS[:20]:
        draw = random.Random(seed)
        unsteady = Unsteady(worlds(Machine), draw)
        await unsteady_life(unsteady, Drawn(seed, wild=False), draw)
        seen += unsteady.seen

    print(dict(seen))
    assert min(seen[what] for what in ("commits", "refused", "trims", "evicted", "loaded")) > 10

"""A whole runtime in memory, on a clock that stands still: the world of each story told here.

Nothing waits for real time, and everything random comes from one seed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
import structlog
from structlog.typing import EventDict

from perdure.journal import MemoryJournal
from perdure.runtime import records
from perdure.runtime.admission import Request
from perdure.runtime.clock import ManualClock
from perdure.runtime.engine import Engine, Submission
from perdure.runtime.invocations import Invocation, ObjectEntry
from perdure.runtime.kernel import Kernel
from perdure.runtime.records import Failed, Invoked, Outcome, Record, Success
from perdure.runtime.registry import Registry
from perdure.runtime.settings import Settings
from perdure.runtime.slots import NoSlots, Slots
from perdure.runtime.store import MemoryStore
from tests.runtime.held_journal import HeldJournal
from tests.runtime.kept_journal import KeptJournal

SEED = 20_261_122
COLD: dict[str, Any] = {"checkpoint_records_max": 1, "checkpoint_changes_max": 1, "memory_bytes_max": 1}
STEPS_MAX = 200_000
"""Rounds of the loop before a world that doesn't come to rest is given up."""


class World:
    """One runtime, its clock and its journal.  `classes` may be changed between two starts."""

    cold = False
    """Whether everything leaves memory as soon as it can."""

    def __init__(self, *classes: type, journal: MemoryJournal | None = None, **settings: Any) -> None:
        self.classes: Sequence[type] = classes
        self.settings = Settings(**(COLD | settings if self.cold else settings))
        self.store = MemoryStore() if self.cold else None
        self.journal: MemoryJournal = KeptJournal() if journal is None else journal
        self.clock = ManualClock()
        self.slots: Slots | NoSlots = NoSlots()
        self.random = random.Random(SEED)
        self.started = self.clock.now_us()
        self.engine: Engine
        self.evict_always = False

    # --- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> World:
        self.engine = await Engine.open(
            Registry(self.classes),
            self.journal,
            self.settings,
            self.clock,
            slots=self.slots,
            entropy=self.random.randbytes,
            store=self.store,
        )
        return self

    async def crash(self, keep: int | None = None) -> None:
        """The process is gone, and with it all but the first `keep` records (all synced ones, if None)."""
        kept = self.journal.records[:keep]
        await self.engine.close()
        self.journal = KeptJournal(kept)
        if self.store is not None and self.store.lsn > len(kept):
            self.store = MemoryStore()

    async def restart(self, keep: int | None = None, *, classes: Sequence[type] | None = None) -> None:
        await self.crash(keep)
        if classes is not None:
            self.classes = classes
        self.slots = NoSlots()
        await self.start()

    def sleep_while_down(self, seconds: float) -> None:
        """Time passes, and no process is there to see it."""
        until = self.clock.now_us() + round(seconds * 1e6)
        while self.clock.advance_to_next(until):
            pass

    async def settle(self) -> None:
        """Until nothing is left to do at this moment."""
        engine = self.engine
        quiet = 0
        for _ in range(STEPS_MAX):
            await asyncio.sleep(0)
            # The loop's own queue can't be seen: three rounds without a slice, and it is empty.
            quiet = 0 if engine._driver._scheduled or self._can_run() else quiet + 1  # pyright: ignore[reportPrivateUsage]
            if self.evict_always:
                self.evict()
            if quiet == 3:
                return
        raise AssertionError(f"the world does not come to rest (seed {SEED})")

    def _can_run(self) -> bool:
        return bool(self.engine.kernel.ready) and self.journal.unsynced_bytes <= self.settings.unsynced_bytes_max

    async def advance(self, seconds: float) -> None:
        """Time passes; whatever is due on the way is done on the way."""
        until = self.clock.now_us() + round(seconds * 1e6)
        await self.settle()
        while self.clock.advance_to_next(until):
            await self.settle()
        await self.settle()

    def evict(self) -> None:
        """Every suspended handler leaves memory; it comes back by replay."""
        for id in [*self.engine.kernel.invocations]:
            self.engine.evict(id)

    # --- asking ---------------------------------------------------------------------------------------------------

    def submit(self, path: str, body: object = None, **options: Any) -> Submission:
        """`Account/alice/deposit`, or `Service/handler`.  A body None is an empty one."""
        service, *key, handler = path.split("/")
        arguments = b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
        request = Request(service=service, key="/".join(key), handler=handler, arguments=arguments, **options)
        submission = self.engine.submit(request)
        if not request.send:  # nobody complains of an answer that the story doesn't look at
            future = asyncio.ensure_future(submission.outcome())
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return submission

    async def outcome(self, path: str, body: object = None, **options: Any) -> Outcome:
        return await self.outcome_of(self.submit(path, body, **options))

    async def outcome_of(self, submission: Submission) -> Outcome:
        future = asyncio.ensure_future(submission.outcome())
        await self.settle()
        assert future.done(), "it has not ended"
        return future.result()

    async def call(self, path: str, body: object = None, **options: Any) -> Any:
        """The result; AssertionError if it failed or has not ended."""
        outcome = await self.outcome(path, body, **options)
        assert isinstance(outcome, Success), outcome
        return msgspec.json.decode(outcome.value)

    async def failure(self, path: str, body: object = None, **options: Any) -> str:
        """`type: message` of the failure; AssertionError if it didn't fail."""
        outcome = await self.outcome(path, body, **options)
        assert isinstance(outcome, Failed), outcome
        return f"{outcome.failure.type}: {outcome.failure.message}"

    # --- looking --------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return (self.clock.now_us() - self.started) / 1e6

    def state(self, service: str, key: str) -> dict[str, Any]:
        entry = self.engine.kernel.entry(service, key)
        return {} if entry is None else {name: msgspec.json.decode(data) for name, data in entry.fields.items()}

    def invocation(self, of: Submission | str) -> Invocation:
        found = self.engine.kernel.find(of if isinstance(of, str) else of.id)
        assert found is not None
        return found

    def invocations(self, target: str) -> list[Invocation]:
        return [one for one in everything(self.engine.kernel) if one.target == target]

    def objects(self) -> dict[tuple[str, str], ObjectEntry]:
        """All of them; in memory afterwards."""
        everything(self.engine.kernel)
        return self.engine.kernel.objects

    def recorded(self) -> list[Record]:
        return [records.decode(data) for data in self.journal.records]

    def dump(self) -> dict[str, Any]:
        """All that the running kernel remembers, as plain data."""
        return dump(self.engine.kernel)

    def rebuilt_dump(self) -> dict[str, Any]:
        """The same of a kernel to which the journal was applied, and nothing else was done."""
        return dump(rebuilt(self.journal.records))

    def kinds(self) -> list[str]:
        return [type(record).__name__ for record in self.recorded()]


def everything(kernel: Kernel) -> list[Invocation]:
    """All invocations; they are in memory afterwards, and all objects with them."""
    store = kernel.memory._store  # pyright: ignore[reportPrivateUsage]
    if store is not None:
        for row, _ in store.range(b"o", b"p", 10**6):
            kernel.entry(*row[1:].decode().split("\0"))
        for row, _ in store.range(b"i", b"j", 10**6):
            kernel.find(row[1:].decode())
    return [*kernel.invocations.values()]


def dump(kernel: Kernel) -> dict[str, Any]:
    """All a kernel remembers, wherever it is, as plain data that can be compared."""
    everything(kernel)
    live = kernel.timers._live  # pyright: ignore[reportPrivateUsage]
    heap = kernel.timers._heap  # pyright: ignore[reportPrivateUsage]
    store = kernel.memory._store  # pyright: ignore[reportPrivateUsage]
    overlay = kernel.memory.rows
    stored = {} if store is None else dict(row for kind in _KINDS for row in store.range(kind, kind + b"\xff", 10**6))
    entries = kernel.memory.entries
    over = {**overlay.frozen, **overlay.changed, **entries.frozen, **entries.changed}
    rows = {row: value for row, value in {**stored, **over}.items() if row[:1] in _KINDS}
    counts = msgspec.structs.asdict(kernel.counts)
    return {
        "objects": {
            key: (entry.fields, entry.lengths, entry.holder, [*entry.mailbox], entry.expires)
            for key, entry in kernel.objects.items()
        },
        "invocations": {id: _of_invocation(one) for id, one in kernel.invocations.items()},
        "rows": {row: value for row, value in rows.items() if value is not None},
        "retention": {family: kernel.first_ended(family, 10**6) for family in counts["retained"]},
        "timers": sorted((due, id, command) for due, count, id, command in heap if live.get((id, command)) == count),
        "counts": {name: count for name, count in counts.items() if name not in _PASSING},
    }


_KINDS = (b"c", b"k", b"w")
"""Of the small rows: entries of Lists and Maps, idempotency keys, awakeables.  The others follow from the rest."""

_PASSING = ("in_ready_queue", "agenda", "frozen_at")
"""What doesn't outlive the moment."""


def _of_invocation(invocation: Invocation) -> dict[str, Any]:
    fields = {name: value for name, value in msgspec.structs.asdict(invocation).items() if name not in _PASSING}
    return {**fields, "deliveries": [*invocation.deliveries], "waiters": invocation.waiters or []}


def rebuilt(data: Iterable[bytes]) -> Kernel:
    """A kernel to which the records were applied, and nothing else was done."""
    kernel = Kernel()
    for each in data:
        kernel.apply(records.decode(each))
    kernel.ended.clear()
    return kernel


@pytest.fixture(autouse=True, params=["warm", "cold"])
def temperature(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each story is told twice: with all in memory, and with everything leaving it as soon as it can."""
    monkeypatch.setattr(World, "cold", request.param == "cold")


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[EventDict]]:
    """The events that were logged; nothing of it is printed."""
    with structlog.testing.capture_logs() as events:
        yield events


@pytest.fixture
async def worlds() -> AsyncIterator[Callable[..., World]]:
    """Makes worlds, not yet started, and ends them."""
    made: list[World] = []

    def make(*classes: type, **options: Any) -> World:
        made.append(World(*classes, **options))
        return made[-1]

    yield make
    for world in made:
        if hasattr(world, "engine"):
            await world.engine.close()


@pytest.fixture
def invoked() -> Callable[..., Invoked]:
    """Builds an Invoked record; what a story doesn't care about is filled in."""

    def build(id: str, **fields: Any) -> Invoked:
        defaults: dict[str, Any] = {
            "at": 1,
            "seed": id.encode().ljust(16, b"-"),
            "service": "Account",
            "key": "a",
            "handler": "deposit",
            "exclusive": True,
            "arguments": b"1",
            "retained": False,
        }
        return Invoked(id=id, **{**defaults, **fields})

    return build


@pytest.fixture
def held_journal() -> HeldJournal:
    return HeldJournal(held=True)

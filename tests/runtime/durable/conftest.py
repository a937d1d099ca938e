"""A runtime in memory, on a clock that stands still, with steps that really run.

Nothing waits for real time but steps that do; everything random comes from one seed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, Self

import pytest
import structlog
from structlog.typing import EventDict

from perdure.journal import Journal, MemoryJournal
from perdure.runtime import ManualClock, Runtime, records
from perdure.runtime.invocations import Invocation
from perdure.runtime.operations import InvocationView
from perdure.runtime.settings import Settings
from perdure.runtime.store import MemoryStore
from tests.runtime.held_journal import HeldJournal
from tests.runtime.kept_journal import KeptJournal

COLD: dict[str, Any] = {"checkpoint_records_max": 1, "checkpoint_changes_max": 1, "memory_bytes_max": 1}

PATIENCE_SECONDS = 0.05
"""For a step of a few microseconds; one that isn't done by then is meant to go on for ever."""


class World:
    """One runtime, its clock and its journal.  `classes` may be changed between two starts."""

    cold = False
    """Whether everything leaves memory as soon as it can."""

    def __init__(self, *classes: type, journal: MemoryJournal | None = None, **settings: Any) -> None:
        self.classes: Sequence[type] = classes
        self.settings = Settings(**(COLD | settings if self.cold else settings))
        self.store = MemoryStore() if self.cold else None
        self.journal: MemoryJournal = journal or KeptJournal()
        self.clock = ManualClock()
        self.started_us = self.clock.now_us()
        self.runtime: Runtime

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> Self:
        journal: Journal = self.journal
        if self.store is not None and self.store.lsn >= journal.next_lsn:
            self.store = MemoryStore()
        self.runtime = self.make_runtime(journal)
        await self.runtime.__aenter__()
        return self

    def make_runtime(self, journal: Journal) -> Runtime:
        return Runtime(
            self.classes, data_dir=None, clock=self.clock, settings=self.settings, journal=journal, store=self.store
        )

    async def close(self) -> None:
        if self.open:
            await self.runtime.__aexit__(None, None, None)

    @property
    def open(self) -> bool:
        return hasattr(self, "runtime") and self.runtime._engine is not None  # pyright: ignore[reportPrivateUsage]

    async def crash(self, keep: int | None = None) -> None:
        """The process is gone, and with it all but the first `keep` records (all synced ones, if None)."""
        kept = self.journal.records[:keep]
        await self.close()
        self.journal = KeptJournal(kept)

    async def restart(self, keep: int | None = None, *, classes: Sequence[type] | None = None) -> None:
        await self.crash(keep)
        self.classes = self.classes if classes is None else classes
        await self.start()

    async def begin_with(self, kept: Sequence[bytes]) -> None:
        """As if the process had ended when these records were synced, and no more."""
        await self.close()
        self.journal = KeptJournal(kept)
        await self.start()

    async def settle(self) -> None:
        """Until nothing is left to do at this moment; steps that don't end are not waited for."""
        settled = asyncio.ensure_future(self.runtime.engine.settled())
        await asyncio.wait([settled], timeout=PATIENCE_SECONDS)
        settled.cancel()

    async def _while_steps_run(self, done: Callable[[], bool]) -> None:
        """On a busy machine a thread may take longer than our patience: what is expected to end is waited for."""
        async with asyncio.timeout(10):
            while not done() and self.runtime.engine.running_steps():
                await self.settle()

    async def advance(self, seconds: float) -> None:
        """Time passes; whatever is due on the way is done on the way."""
        until = self.clock.now_us() + round(seconds * 1e6)
        await self.settle()
        while self.clock.advance_to_next(until):
            await self.settle()
        await self.settle()

    async def until(self, done: Callable[[], object]) -> None:
        """Lets the loop turn until it is so."""
        async with asyncio.timeout(10):
            while not done():
                await asyncio.sleep(0)

    def evict(self) -> None:
        """Every suspended handler leaves memory; it comes back by replay."""
        for id in [*self.runtime.engine.kernel.invocations]:
            self.runtime.engine.evict(id)

    # --- asking ---------------------------------------------------------------------------------------------------

    def ref(self, cls: Any, key: str = "") -> Any:
        return self.runtime.ref(cls, key) if key else self.runtime.ref(cls)

    async def send(self, handler: Any, *args: Any, **kwargs: Any) -> str:
        """The id of the invocation it makes; its outcome is retained."""
        handle = await self.runtime.send(handler, *args, **kwargs)
        await self.settle()
        return handle.id

    async def result(self, id: str) -> Any:
        """What it ended with; raises as its caller would see it.  AssertionError if it has not ended."""
        await self.settle()
        await self._while_steps_run(lambda: self.invocation(id).ended)
        assert self.invocation(id).ended, f"it has not ended: {self.view(id)}"
        return await self.runtime.handle(id).attach()

    async def call(self, answer: Coroutine[object, None, Any]) -> Any:
        """The answer, which has to be there when nothing is left to do."""
        asked = asyncio.ensure_future(answer)
        await self.settle()
        await self._while_steps_run(asked.done)
        assert asked.done(), "it has not ended"
        return asked.result()

    # --- looking --------------------------------------------------------------------------------------------------

    def invocation(self, id: str) -> Invocation:
        found = self.runtime.engine.kernel.find(id)
        assert found is not None
        return found

    def fields(self, service: str, key: str) -> dict[str, bytes]:
        """The committed state of an object that has some."""
        entry = self.runtime.engine.kernel.entry(service, key)
        assert entry is not None
        return entry.fields

    def view(self, id: str) -> InvocationView:
        return self.runtime.engine.operations.describe(id)

    def recorded(self) -> list[records.Record]:
        return [records.decode(data) for data in self.journal.records]

    def kinds(self) -> list[str]:
        return [type(record).__name__ for record in self.recorded()]

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return (self.clock.now_us() - self.started_us) / 1e6


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
        await world.close()


@pytest.fixture
def held_journal() -> HeldJournal:
    return HeldJournal(held=False)

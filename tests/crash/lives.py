"""One life of an engine in this process: from the records it starts with to its end.

A crash is a second life on the first records of the journal: what had been synced, and no more.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from perdure.journal import MemoryJournal
from perdure.runtime import records
from perdure.runtime.admission import Request
from perdure.runtime.clock import ManualClock
from perdure.runtime.engine import Engine
from perdure.runtime.registry import Registry
from perdure.runtime.settings import Settings

START_US = 1_767_225_600_000_000


@dataclass
class Life:
    """`run_until` is each story's own: how time passes, and how patient it is with steps."""

    engine: Engine
    clock: ManualClock

    async def run_until(self, done: Callable[[], bool]) -> None:
        raise NotImplementedError

    async def result_of_play(self, service: str, arguments: bytes = b"") -> Any:
        """The result of `play`, asked for with the same idempotency key in each life."""
        request = Request(service=service, key="x", handler="play", arguments=arguments, idempotency_key="once")
        outcome = asyncio.ensure_future(self.engine.submit(request).outcome())
        await self.run_until(outcome.done)
        ended = outcome.result()
        assert isinstance(ended, records.Success), ended
        return msgspec.json.decode(ended.value)

    async def quiet(self) -> None:
        """Messages that nobody waits for are worked off, too."""
        await self.run_until(lambda: all(i.ended for i in self.engine.kernel.invocations.values()))

    def heard(self) -> dict[str, list[str]]:
        return {
            key: msgspec.json.decode(entry.fields["heard"])
            for (service, key), entry in self.engine.kernel.objects.items()
            if service == "Bell" and "heard" in entry.fields
        }


@asynccontextmanager
async def engine_on(
    registry: Registry, journal: MemoryJournal, settings: Settings, seed: int
) -> AsyncGenerator[tuple[Engine, ManualClock], None]:
    """Goes on at the time of the last record, with the same ids in each life.

    Nothing may reach the exception handler of the real loop.
    """
    escaped: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: escaped.append(context))
    clock = ManualClock(records.decode(journal.records[-1]).at if journal.records else START_US)
    engine = await Engine.open(registry, journal, settings, clock, entropy=random.Random(seed).randbytes)
    try:
        yield engine, clock
    finally:
        await engine.close()
    assert escaped == []

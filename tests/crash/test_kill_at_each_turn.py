"""A handler of many turns is killed, or dropped, at each of them, and ends as if nothing had been.

In one process a crash is a second engine on the first records of the journal: what had been synced, and no more.
The real process is killed by strace at its k-th sync.
"""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from perdure.journal import MemoryJournal
from perdure.runtime import records
from perdure.runtime.admission import Request
from perdure.runtime.registry import Registry
from perdure.runtime.settings import Settings
from perdure.runtime.targets import load_targets
from tests.crash.lives import Life, engine_on

if TYPE_CHECKING:
    from tests.conftest import Perdure

OBJECTS = "tests/crash/turns_objects.py"
SEED = 20_261_101
TWICE_KILLED = 150
HOUR_US = 3_600_000_000
TURN_AT_A_TIME = Settings(slice_turns_max=1)

CONDUCTED = [
    *["a gather", "b gather"],
    *["c group", "b group", "a group"],
    *["a fuse", "group failed"],
    *["timeout", "a in time"],
    *["d wait", "1 done, 1 to come", "c wait", "1 done, 0 to come"],
    *["f completed", "g completed", "e completed"],
]
HEARD = {
    **{"a": ["gather", "group", "fuse", "in time"], "b": ["gather", "group"], "c": ["group", "wait"], "d": ["wait"]},
    **{"e": ["completed"], "f": ["completed"], "g": ["completed"]},
}
INSISTED = [*(line for n in range(4) for line in (f"tried {n}", "guarded")), "end finally"]


class HookedJournal(MemoryJournal):
    """Tells whenever a turn that left a record was handed over; a turn of a replay leaves none."""

    def __init__(self, records: Sequence[bytes] = ()) -> None:
        super().__init__(records)
        self.after_turn: Callable[[], None] = lambda: None

    def holds(self, count: int) -> bool:
        return len(self.records) >= count

    def flush(self, *, alone: bool = False) -> None:
        before = self.synced_lsn
        super().flush(alone=alone)
        if self.synced_lsn > before:
            self.after_turn()


@dataclass
class World(Life):
    journal: HookedJournal

    async def play(self, service: str) -> Any:
        return await self.result_of_play(service)

    async def run_until(self, done: Callable[[], bool]) -> None:
        """Time stands still while anything can run, and then goes on to the next timer."""
        for _ in range(10_000):
            if done():
                return
            for _ in range(8):
                await asyncio.sleep(0)
            if not done() and not self.engine.kernel.ready:
                self.clock.advance_to_next(self.clock.now_us() + HOUR_US)
        raise AssertionError("it doesn't come to an end")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_targets([str(Path(__file__).parent / Path(OBJECTS).name)])


@asynccontextmanager
async def world(registry: Registry, synced: Sequence[bytes] = ()) -> AsyncGenerator[World, None]:
    journal = HookedJournal(synced)
    async with engine_on(registry, journal, TURN_AT_A_TIME, SEED) as (engine, clock):
        yield World(engine, clock, journal)


async def undisturbed(registry: Registry, service: str) -> tuple[list[bytes], Any]:
    async with world(registry) as life:
        result = await life.play(service)
        await life.quiet()
        return [*life.journal.records], result


# --- killed -----------------------------------------------------------------------------------------------------------


async def test_a_handler_of_every_kind_of_wait_sees_what_it_should(registry: Registry) -> None:
    """gather, TaskGroup, timeout, wait and as_completed, undisturbed: the measure for what follows."""
    async with world(registry) as life:
        assert await life.play("Conductor") == CONDUCTED
        await life.quiet()
        assert life.heard() == HEARD


async def test_a_kill_after_each_record_changes_nothing(registry: Registry) -> None:
    """Whatever had been synced, the next process comes to the same result and the same state."""
    synced, _ = await undisturbed(registry, "Conductor")

    for count in range(len(synced) + 1):
        async with world(registry, synced[:count]) as life:
            assert await life.play("Conductor") == CONDUCTED, f"after {count} records"
            await life.quiet()
            assert life.heard() == HEARD, f"after {count} records"

    print(f"{len(synced) + 1} kills")
    assert len(synced) > 40


async def test_a_second_kill_during_the_replay_changes_nothing(registry: Registry) -> None:
    """The process that recovers is killed in its turn, anywhere between its start and its end."""
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    synced, _ = await undisturbed(registry, "Conductor")

    for _ in range(TWICE_KILLED):
        first = dice.randrange(len(synced))
        async with world(registry, synced[:first]) as life:
            await life.play("Conductor")
            after_first = [*life.journal.records]
        second = dice.randint(first, len(after_first))
        async with world(registry, after_first[:second]) as life:
            assert await life.play("Conductor") == CONDUCTED, (first, second)
            await life.quiet()
            assert life.heard() == HEARD, (first, second)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing; on Debian: apt-get install strace")
async def test_a_real_process_killed_at_each_sync_comes_to_the_same_result(perdure: Callable[..., Perdure]) -> None:
    """For each k, until there is no k-th sync: SIGKILL at the entry of that fdatasync; the next process goes on."""
    server = perdure(OBJECTS)
    await server.start()
    when, killed = 0, True
    while killed:
        when += 1
        async with killer(await server.serving_pid(), when):
            try:
                await server.call(f"/Conductor/{when}/play", key="once")
                killed = False
            except aiohttp.ClientError:
                assert await server.exited() == -9
        if killed:
            await server.start()
        answer = await server.settle(f"/Conductor/{when}/play", key="once")

        assert answer.value == CONDUCTED, f"killed at sync {when}"
        heard = {key: (await server.call(f"/Bell/{key}/listen")).value for key in HEARD}
        assert heard == {key: rings * when for key, rings in HEARD.items()}, f"killed at sync {when}"
    print(f"killed at {when - 1} syncs")
    assert when > 5


@asynccontextmanager
async def killer(pid: int, when: int) -> AsyncGenerator[None, None]:
    """strace at the process's threads; only the journal's writer syncs.

    (strace 6.1 counts wrongly for signals under --seccomp-bpf, and without it a start under strace takes seconds.)
    """
    strace = await asyncio.create_subprocess_exec(
        *["strace", "-f", "-p", str(pid), "-o", "/dev/null", "-e", "trace=fdatasync"],
        *["-e", f"inject=fdatasync:signal=KILL:when={when}"],
        stderr=asyncio.subprocess.PIPE,
    )
    assert strace.stderr is not None
    try:
        said = await strace.stderr.readline()
        assert b"attached" in said, said
        yield
    finally:
        with suppress(ProcessLookupError):
            strace.terminate()
        await strace.communicate()


# --- dropped ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What users' code and the runtime have logged since the last look."""
    caplog.set_level(logging.DEBUG)
    with capture_logs() as events:

        def take() -> list[str]:
            lines = [record.getMessage() for record in caplog.records if record.name != "asyncio"]
            lines += [str(event) for event in events]
            caplog.clear()
            events.clear()
            return lines

        yield take


async def test_a_handler_that_lets_nothing_pass_is_dropped_at_each_turn_and_nothing_escapes(
    registry: Registry, logged: Callable[[], list[str]]
) -> None:
    """`except BaseException`, `finally` and `__aexit__` with calls in them: no call, no log, the same result."""
    synced, result = await undisturbed(registry, "Stubborn")
    assert result == INSISTED
    logs = logged()
    assert logs.count("guarded") == 4

    for drop_at in range(1, len(synced) + 1):
        async with world(registry) as life:
            life.journal.after_turn = dropper(life, [drop_at])
            assert await life.play("Stubborn") == INSISTED, f"dropped at {drop_at}"
            await life.quiet()
            assert life.journal.records == synced, f"dropped at {drop_at}"
        assert logged() == logs, f"dropped at {drop_at}"


async def test_a_handler_may_be_dropped_after_every_turn(registry: Registry, logged: Callable[[], list[str]]) -> None:
    """No coroutine lives longer than a turn, and each invocation's records are the same, byte for byte."""
    for service in ("Stubborn", "Conductor"):
        synced, result = await undisturbed(registry, service)
        logs = logged()

        async with world(registry) as life:
            life.journal.after_turn = dropper(life, range(len(synced) + 1))
            assert await life.play(service) == result
            await life.quiet()
            assert by_invocation(life.journal.records) == by_invocation(synced)
        assert logged() == logs


async def test_a_process_that_stops_at_each_turn_leaves_nothing_of_it_behind(
    registry: Registry, logged: Callable[[], list[str]]
) -> None:
    """Shutdown drops every handler: nothing is recorded by it, and the next process goes on."""
    synced, result = await undisturbed(registry, "Stubborn")
    logged()

    for stop_at in range(1, len(synced)):
        async with world(registry) as life:
            life.engine.submit(Request(service="Stubborn", key="x", handler="play", idempotency_key="once", send=True))
            await life.run_until(partial(life.journal.holds, stop_at))
            before = [*life.journal.records]
        assert life.journal.records == before, f"stopped at {stop_at}"
        assert "caught" not in "".join(logged()), f"stopped at {stop_at}"

        async with world(registry, before) as life:
            assert await life.play("Stubborn") == result, f"stopped at {stop_at}"
            await life.quiet()
            assert "caught" not in life.heard()


def dropper(life: World, at: Sequence[int]) -> Callable[[], None]:
    """Drops every coroutine there is when the journal is `at` records long, and sees that nothing came of it."""

    def drop() -> None:
        before = life.journal.next_lsn
        if before - 1 in at:
            for id in [*life.engine.kernel.invocations]:
                life.engine.evict(id)
            assert life.journal.next_lsn == before

    return drop


OF_A_SCHEDULE = records.Planned | records.Ticked | records.Unplanned


def by_invocation(synced: Sequence[bytes]) -> dict[str, list[bytes]]:
    """A replay takes its time, so that another invocation's turn may come before."""
    grouped: dict[str, list[bytes]] = {}
    for data in synced:
        record = records.decode(data)
        assert not isinstance(record, records.Purged | records.Expired | records.Edited | OF_A_SCHEDULE)
        grouped.setdefault(record.id, []).append(data)
    return grouped

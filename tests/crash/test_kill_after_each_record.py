"""A handler with every kind of wait in it is killed at each write, sync and step, and ends as if nothing had been.

`durable_objects.py` has the handler.  The real process ends by SIGKILL in the middle of its journal's work or of a
step's effect (`killed_by_the_disk.py`).  In one process a crash is a second engine on the first records of the
journal: what had been synced, and no more.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from perdure.journal import MemoryJournal
from perdure.runtime import records
from perdure.runtime.invocations import Status
from perdure.runtime.registry import Registry
from perdure.runtime.settings import Settings
from perdure.runtime.targets import load_targets
from tests.crash.lives import Life, engine_on

HERE = Path(__file__).parent
SEED = 20_261_131
SECOND_US = 1_000_000
PATIENCE_SECONDS = 0.02
"""For a step of a few milliseconds; one that isn't done by then sees the clock move on by at most a second."""
MOMENTS = ("before-write", "half-written", "before-sync", "after-sync", "before-effect", "after-effect")
AT_ONCE = 3
KILLS_MIN = 200

SAW = [
    *("async step", "sync step", *(f"round {n}" for n in range(6)), "flaky step", "at most once"),
    *("refused step: no 402", "token 1", "token 2", "token 3", "token 4", "slept"),
    *("a call", "b send", "b later", "c once", "c once", "early", "late", "early", "rejected"),
    *("tick 1", "tick 2", "tick 3", "granted", "an order: granted (1)"),
    *("gathered step", "gathered thread", "d gathered", "gathered sleep", "gathered awakeable"),
    *("group 0 second", "group 1 second", "group 2 second", "group failed", "timed out", "in time", "first of two"),
    *("as completed 1", "as completed 2", "e as completed", "nested second", "f nested", "beside the nested"),
    "compensate",
]
HEARD = {
    **{"a": ["call"], "b": ["send", "later"], "c": ["once"], "d": ["gathered"], "e": ["as completed"]},
    **{"f": ["nested"], "g": ["done", "undone"]},
}
DONE = {
    *("async step", "sync step", *(f"round {n}" for n in range(6)), "flaky step", "refused step"),
    *("token 1", "token 2", "token 3", "token 4", "gathered step", "gathered thread"),
    *(f"group {n} {which}" for n in range(3) for which in ("first", "second")),
    *("refused in a group", "in time", "first of two", "as completed 1", "as completed 2"),
    *("nested first", "nested second", "beside the nested"),
    *("done by a thread", "undone by a thread", "last step"),
}
PERHAPS_DONE = {"at most once", "endless in a group", "endless in a timeout"}
"""Given up if a kill comes in between: a bounded step for good, the others by the timeout or the group around them."""


def check_ledger(lines: Iterable[Sequence[str]], when: object) -> None:
    """A step may run again, until it is recorded; always with the same key, and a bounded one never."""
    keys: dict[str, list[str]] = defaultdict(list)
    for key, label in lines:
        keys[label].append(key)
    assert keys.keys() | PERHAPS_DONE == DONE | PERHAPS_DONE, when
    assert {label: len(set(seen)) for label, seen in keys.items()} == dict.fromkeys(keys, 1), when
    assert len(keys["at most once"]) <= 1, when


# --- the real process -------------------------------------------------------------------------------------------------


def test_a_process_killed_at_each_write_sync_and_effect_comes_to_the_same_result(tmp_path: Path) -> None:
    """Whatever had reached the disk, the next process comes to the same result: no step and no call counts twice."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        kills = [*threads.map(killed_at_each, MOMENTS, (tmp_path / moment for moment in MOMENTS))]

    print(f"{sum(kills)} kills: {dict(zip(MOMENTS, kills, strict=True))}")
    assert sum(kills) >= KILLS_MIN


def killed_at_each(moment: str, directory: Path) -> int:
    directory.mkdir()
    done = subprocess.run(
        [sys.executable, str(HERE / "killed_by_the_disk.py"), moment, str(directory)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lives = [json.loads(line) for line in done.stdout.splitlines()]
    for life in lives:
        when = (moment, life["count"])
        assert life["ended"] == 0, when
        assert life["saw"] == SAW, when
        assert life["heard"] == HEARD, when
        assert life["left"] == [], when
        check_ledger(life["ledger"], when)
    assert [life["killed"] for life in lives] == [*(True for _ in lives[1:]), False]
    return len(lives) - 1


# --- in one process ---------------------------------------------------------------------------------------------------


@dataclass
class World(Life):
    journal: MemoryJournal

    async def play(self, ledger: Path) -> Any:
        return await self.result_of_play("Journey", msgspec.json.encode(str(ledger)))

    async def run_until(self, done: Callable[[], bool]) -> None:
        """Time stands still while anything can run, and then goes on to the next timer; some steps run for ever."""
        for _ in range(10_000):
            settled = asyncio.ensure_future(self.engine.settled())
            await asyncio.wait([settled], timeout=PATIENCE_SECONDS)
            settled.cancel()
            if done():
                return
            self.clock.advance_to_next(self.clock.now_us() + SECOND_US)
        raise AssertionError("it doesn't come to an end")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_targets([str(HERE / "durable_objects.py")])


@asynccontextmanager
async def world(
    registry: Registry, synced: Sequence[bytes] = (), settings: Settings | None = None
) -> AsyncGenerator[World, None]:
    journal = MemoryJournal(synced)
    with capture_logs():
        async with engine_on(registry, journal, settings or Settings(), SEED) as (engine, clock):
            yield World(engine, clock, journal)


async def undisturbed(registry: Registry, ledger: Path) -> list[bytes]:
    async with world(registry, settings=Settings(slice_turns_max=1)) as life:
        assert await life.play(ledger) == SAW
        await life.quiet()
        assert life.heard() == HEARD
        return [*life.journal.records]


def lines_of(ledger: Path) -> list[list[str]]:
    return [line.split(" ", 1) for line in ledger.read_text().splitlines()]


async def test_a_crash_after_each_record_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    """Every prefix of the journal leads to the same result and the same state."""
    ledger = tmp_path / "ledger"
    synced = await undisturbed(registry, ledger)

    for count in range(len(synced) + 1):
        async with world(registry, synced[:count]) as life:
            assert await life.play(ledger) == SAW, f"after {count} records"
            await life.quiet()
            assert life.heard() == HEARD, f"after {count} records"
        check_recorded_once(life.journal.records)

    print(f"{len(synced) + 1} crashes")
    assert len(synced) > 100


def check_recorded_once(journal: Sequence[bytes]) -> None:
    """Each command has one final result, and nothing was paused."""
    seen: set[tuple[str, int]] = set()
    for data in journal:
        record = records.decode(data)
        assert not isinstance(record, records.Paused)
        if isinstance(record, records.Notified) and not record.more:
            assert (record.id, record.command) not in seen
            seen.add((record.id, record.command))


async def test_a_second_crash_on_the_way_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    """The process that recovered is gone too, anywhere between its start and its end."""
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    ledger = tmp_path / "ledger"
    synced = await undisturbed(registry, ledger)

    for _ in range(60):
        first = dice.randrange(len(synced))
        async with world(registry, synced[:first]) as life:
            await life.play(ledger)
            after_first = [*life.journal.records]
        second = dice.randint(first, len(after_first))
        async with world(registry, after_first[:second]) as life:
            assert await life.play(ledger) == SAW, (first, second)
            await life.quiet()
            assert life.heard() == HEARD, (first, second)


async def test_a_replay_at_every_turn_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    """`--replay-always`: the same result, and each step has run once."""
    ledger = tmp_path / "ledger"

    async with world(registry, settings=Settings(replay_always=True)) as life:
        assert await life.play(ledger) == SAW
        await life.quiet()
        assert life.heard() == HEARD

    check_recorded_once(life.journal.records)
    check_ledger(lines_of(ledger), "replay always")
    assert len(lines_of(ledger)) == len(DONE | PERHAPS_DONE)


async def test_a_drop_after_every_turn_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    """No coroutine lives longer than a turn; steps go on without theirs, and run once."""
    ledger = tmp_path / "ledger"

    async with world(registry, settings=Settings(slice_turns_max=1)) as life:
        driver = life.engine._driver  # pyright: ignore[reportPrivateUsage]
        plain, dropped = driver.after_slice, 0

        def drop() -> None:
            nonlocal dropped
            plain()
            before = life.journal.next_lsn
            for id, invocation in [*life.engine.kernel.invocations.items()]:
                if not invocation.in_ready_queue:  # else its replay, of a turn a slice, would begin anew for ever
                    dropped += invocation.status is Status.OPEN
                    life.engine.evict(id)
            assert life.journal.next_lsn == before

        driver.after_slice = drop
        assert await life.play(ledger) == SAW
        await life.quiet()
        assert life.heard() == HEARD

    assert dropped > 100
    check_recorded_once(life.journal.records)
    check_ledger(lines_of(ledger), "dropped")
    assert len(lines_of(ledger)) == len(DONE | PERHAPS_DONE)

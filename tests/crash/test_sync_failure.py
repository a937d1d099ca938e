"""A sync that fails: nothing of its batch is acknowledged, the process stops, and the next start is correct.

strace makes the n-th fdatasync fail with EIO, as a dying disk does.  It counts the calls of each thread for itself;
the main thread syncs a new segment before it is given its name, so `-P` with that name leaves the writer's alone.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

if TYPE_CHECKING:
    from tests.conftest import Answer, Perdure

SYNC_FAILED = 14
SEGMENT = "000000000001.segment"
AT_ONCE = 6
SEAL_SECONDS_MAX = 0.5
"""The log is sealed after 50 ms of idleness, which is a sync like any other."""

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is missing; on Debian: apt-get install strace"
)


def failing(calls: str, when: int, log: Path, *only: str) -> list[str]:
    """The command line under which the `when`-th of `calls` gives EIO."""
    strace = ["strace", "-f", "--seccomp-bpf", "-o", str(log), "-e", f"trace={calls}", *only]
    return [*strace, "-e", f"inject={calls}:error=EIO:when={when}"]


class Run:
    """A short run: one request after the other, some at once, a pause, and one more."""

    def __init__(self, server: Perdure) -> None:
        self._server = server
        self.answers: dict[str, Answer | None] = {}
        """By value; None: the connection broke."""
        self.stages: list[list[str]] = []
        """The values that were asked for at once, one stage after the other."""

    async def all(self) -> None:
        await self._append("first")
        await self._append("second")
        # Reads write nothing; afterwards there is an open connection for each of the requests.
        await asyncio.gather(*(self._server.call("/Ledger/l/read") for _ in range(AT_ONCE)), return_exceptions=True)
        await self._append(*(f"at once {n}" for n in range(AT_ONCE)))
        await self._until_sealed()
        await self._append("after the seal")

    async def _append(self, *values: str) -> None:
        self.stages.append([*values])
        answers = await asyncio.gather(*map(self._answer, values))
        self.answers |= dict(zip(values, answers, strict=True))

    async def _answer(self, value: str) -> Answer | None:
        try:
            return await self._server.call("/Ledger/l/append", value, key=value)
        except aiohttp.ClientError:
            return None

    async def _until_sealed(self) -> None:
        """Or until the process has ended, if it is the seal's sync that fails."""
        await asyncio.wait([asyncio.ensure_future(self._server.exited())], timeout=SEAL_SECONDS_MAX)

    @property
    def acknowledged(self) -> dict[str, int]:
        return {value: answer.value for value, answer in self.answers.items() if answer and answer.status == 200}

    @property
    def stages_with_an_unknown_outcome(self) -> list[int]:
        fates = [[_fate(self.answers[value]) for value in stage] for stage in self.stages]
        return [number for number, stage in enumerate(fates) if "outcome unknown" in stage]


async def test_each_failed_sync_stops_the_process_and_loses_nothing(
    perdure: Callable[..., Perdure], tmp_path: Path
) -> None:
    """For each n, until no n-th sync is left: no acknowledgement of that batch, 503, exit code 14, and all is there."""
    when = 0
    hit: dict[int, list[int]] = {}
    while True:
        when += 1
        server = perdure("tests/crash/storm_objects.py")
        log = tmp_path / f"strace-{when}"
        await server.start(*failing("fdatasync", when, log, "-P", str(server.data_dir / SEGMENT)))
        await server.serving()
        run = Run(server)

        await run.all()
        injected = "INJECTED" in log.read_text()
        code = await (server.exited() if injected else server.stop())

        if "INJECTED" not in log.read_text():
            assert code == 0
            break
        assert code == SYNC_FAILED, f"sync {when}: {server.events}"
        assert_nothing_follows_a_failure(run)
        hit[when] = run.stages_with_an_unknown_outcome
        await assert_the_next_start_is_correct(server, run)

    print(f"{when - 1} syncs failed; stages with an unknown outcome, by sync: {hit}")
    assert when > len(run.stages), "each stage has a sync of its own at least"
    # How many syncs were seals, for which nobody waits, depends on how slow the machine is; the first never is.
    assert hit[1] == [0]


def assert_nothing_follows_a_failure(run: Run) -> None:
    """Answers; `outcome unknown` for who waited for that sync; a refusal or a closed door for who came later.

    Those asked for at once may be in two batches, and their answers overtake each other on their ways here.
    """
    fates = [sorted((_fate(run.answers[value]) for value in stage), key=FATES.index) for stage in run.stages]
    in_order = [fate for stage in fates for fate in stage]
    assert in_order == sorted(in_order, key=FATES.index), run.answers


FATES = ["acknowledged", "outcome unknown", "refused"]
"""In this order; the second not if it was the sync of a seal that failed."""


def _fate(answer: Answer | None) -> str:
    if answer is None:
        return "refused"
    if answer.status == 200:
        return "acknowledged"
    message = answer.value["message"]
    assert answer.status == 503, answer
    assert "outcome unknown" in message or "nothing was recorded" in message
    return "outcome unknown" if "outcome unknown" in message else "refused"


async def assert_the_next_start_is_correct(server: Perdure, run: Run) -> None:
    """What was acknowledged is at its index; what wasn't can be asked for again with its key, and is there once."""
    await server.start()
    entries = (await server.call("/Ledger/l/read")).value
    assert {value: entries.index(value) for value in run.acknowledged} == run.acknowledged

    again = {value: await server.settle("/Ledger/l/append", value, key=value) for value in run.answers}
    entries = (await server.call("/Ledger/l/read")).value
    assert {value: answer.value for value, answer in again.items()} == {value: n for n, value in enumerate(entries)}
    assert len(entries) == len(run.answers)
    assert await server.stop() == 0


@pytest.mark.parametrize("calls", ["fdatasync", "fsync"])
async def test_a_sync_that_fails_at_the_start_refuses_it(
    perdure: Callable[..., Perdure], tmp_path: Path, calls: str
) -> None:
    """Nothing is served, the exit code says why, and what was acknowledged before is there at the next start."""
    server = perdure("tests/crash/storm_objects.py")
    await server.start()
    run = Run(server)
    await run.all()
    server.kill()
    await server.exited()

    await server.start(*failing(calls, 1, tmp_path / "strace"))
    code = await server.exited()

    assert code == SYNC_FAILED, server.events
    assert not [event for event in server.events if event.get("event") == "serving"]
    await assert_the_next_start_is_correct(server, run)

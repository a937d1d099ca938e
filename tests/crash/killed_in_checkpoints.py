"""Clients at work on a runtime that makes checkpoints all the time, killed at the k-th system call on its files.

    python -m tests.crash.killed_in_checkpoints FILES PHASE MOMENTS_MAX DIRECTORY

FILES is `store` or `journal`: whose system calls are counted.  PHASE is `work`; or `recovery`: then a first process is
killed by a client's hand, and the one that recovers from that at its k-th call; or `migration`: then a first process,
which ends well, has stored what an older version of the class had.  strace sends the SIGKILL, at the
entry of the call, for each kind of call and each k that an undisturbed run has; if that is more than MOMENTS_MAX, for
so many of them, drawn by a fixed seed.  One line of JSON for each.

Processes are forks of this one, so that none need import everything again.  Trimmed segments are copied aside, so what
the store holds can be compared with what the whole journal makes, both right after the kill and at the end.
"""

import asyncio
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
import uvloop

from perdure.journal import Log, LogOptions, read_offline
from perdure.journal.disk import RealDisk
from perdure.objects import OldState, VirtualObject, handler, shared
from perdure.runtime import Runtime, data_dir, engine, offline
from perdure.runtime.recovery import RecoveryFailed
from perdure.runtime.settings import Settings
from perdure.runtime.store import StoreError
from tests.runtime.kernel_dump import dump, rebuilt

SEED = 20_261_123
CLIENTS, REQUESTS = 4, 10
LEDGERS = "abcdefgh"
CALLS = ("pwrite64", "fdatasync", "fsync", "ftruncate", "rename", "unlink", "openat")
SEGMENTS_MAX = 150
TINY = Settings(checkpoint_records_max=6, checkpoint_changes_max=6, memory_bytes_max=1)
SMALL_LOG = LogOptions(segment_bytes=4 * 1024)
DIFFERENT_IN_TIME = ("counts", "timers")
"""Counts say when the store was written, too; a timer that is over has none in a kernel that comes from the store."""


class OldLedger(VirtualObject, name="Ledger"):
    """As it was deployed before."""

    lines: str = ""

    @handler
    async def append(self, value: str) -> None:
        self.lines += f"{value}\n"


class Ledger(VirtualObject, version=2):
    entries: list[str]

    def migrate(self, old: OldState) -> None:
        self.entries = old.pop("lines").splitlines()

    @handler
    async def append(self, value: str) -> int:
        self.entries.append(value)
        return len(self.entries) - 1

    @handler
    async def append_later(self, value: str) -> int:
        """Two turns, and a timer between them."""
        await asyncio.sleep(0.001)
        return await self.append(value)

    @handler
    async def append_to_both(self, value: str, other: str) -> int:
        """Here, and there: by an awaited call, and once more by a message."""
        self.entries.append(value)
        index = len(self.entries) - 1
        await self.ctx.ref(Ledger, other).append(f"{value} there")
        self.ctx.ref(Ledger, other).append.send(f"{value} sent")
        return index

    @handler
    async def append_step(self, value: str) -> int:
        return await self.append(await self.ctx.run(made, value))

    @shared
    async def read(self) -> list[str]:
        return self.entries


async def made(value: str) -> str:
    return value


# --- the journal ------------------------------------------------------------------------------------------------------


class KeepingDisk(RealDisk):
    """Copies each segment aside before its name is taken from it."""

    def rename(self, old: Path, new: Path) -> None:
        keep(old)
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        keep(path)
        super().remove(path)


def keep(path: Path) -> None:
    if path.suffix == ".segment":
        aside = path.parent.with_name("kept")
        shutil.copyfile(path, aside / "new")
        (aside / "new").replace(aside / path.name)


class SmallLog:
    @staticmethod
    def open(directory: Path) -> Log:
        return Log.open(directory, options=SMALL_LOG, disk=KeepingDisk())


async def whole_journal(life: Path) -> list[bytes]:
    """Every record there ever was."""
    whole = life / "whole"
    shutil.copytree(life / "kept", whole)
    for segment in (life / "data").glob("*.segment"):
        shutil.copyfile(segment, whole / segment.name)
    records = [record async for _, record in read_offline(whole)]
    shutil.rmtree(whole)
    return records


# --- one process ------------------------------------------------------------------------------------------------------


def requests(client: int) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Handler, ledger and arguments of each, the same in each life."""
    dice = random.Random(SEED + client)
    for n in range(REQUESTS):
        name = dice.choice(["append", "append", "append_later", "append_to_both", "append_step"])
        here, there = dice.sample(LEDGERS, 2)
        yield name, here, (f"{client}-{n}", there) if name == "append_to_both" else (f"{client}-{n}",)


async def work_before(life: Path) -> None:
    """What the version before has stored."""
    async with Runtime([OldLedger], data_dir=life / "data", settings=TINY) as runtime:
        for key in LEDGERS:
            for value in old_values(key):
                await runtime.ref(OldLedger, key).append(value)
        await runtime.engine.settled()


def old_values(key: str) -> list[str]:
    return [f"{key} before {n}" for n in range(3)]


async def work(life: Path, kill_after: int | None = None) -> None:
    """All clients, one request after the other; what was answered is noted before the next one."""
    answers = 0

    async def client(runtime: Runtime, number: int, noted: int) -> None:
        nonlocal answers
        for name, key, arguments in requests(number):
            target = getattr(runtime.ref(Ledger, key), name)
            index = await target.options(idempotency_key=arguments[0])(*arguments)
            os.write(noted, json.dumps([key, arguments[0], index]).encode() + b"\n")
            answers += 1
            if answers == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)

    noted = os.open(life / "answers", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    async with Runtime([Ledger], data_dir=life / "data", settings=TINY) as runtime, asyncio.timeout(30):
        await asyncio.gather(*(client(runtime, n, noted) for n in range(CLIENTS)))
        await runtime.engine.settled()
        ledgers = {key: await runtime.ref(Ledger, key).read() for key in LEDGERS}
    (life / "ledgers").write_text(json.dumps(ledgers))


def in_a_fork(do: Coroutine[object, None, None], strace: Callable[[int], list[str]] | None = None) -> int:
    """What became of it: an exit code, negative for a signal."""
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(ready, 1)
        try:
            uvloop.run(do)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    do.close()
    tracer = None if strace is None else attached(strace(pid))
    os.write(go, b".")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for end in (ready, go):
        os.close(end)
    if tracer is not None:
        tracer.communicate()
    return code


def attached(command: list[str]) -> subprocess.Popen[str]:
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    assert "attached" in said, said
    return tracer


def traced(files: str, life: Path, *inject: str) -> Callable[[int], list[str]]:
    """strace's command line.  It counts the calls of each thread and kind for itself."""
    data = life / "data"
    names = [f"store.sqlite{end}" for end in ("", "-wal", "-shm", "-new", "-new-wal", "-new-journal")]
    if files == "journal":
        names = ["", *(f"{n:012}.{kind}" for n in range(1, SEGMENTS_MAX) for kind in ("segment", "free"))]
    paths = [argument for name in names for argument in ("-P", str(data / name) if name else str(data))]
    return lambda pid: [
        *["strace", "-f", "-p", str(pid), "-o", str(life / "strace"), "-e", f"trace={','.join(CALLS)}", *paths],
        *[argument for each in inject for argument in ("-e", f"inject={each}")],
    ]


# --- the moments ------------------------------------------------------------------------------------------------------


def moments(files: str, phase: str, directory: Path) -> list[tuple[str, int]]:
    """Each kind of call and how often one thread makes it, in an undisturbed run."""
    life = new_life(directory / "undisturbed")
    if phase == "migration":
        assert in_a_fork(work_before(life)) == 0
    if phase == "recovery":
        assert in_a_fork(work(life, random.Random(SEED).randrange(10, 30))) == -signal.SIGKILL
    assert in_a_fork(work(life), traced(files, life)) == 0
    return moments_in(life / "strace")


def moments_in(strace: Path) -> list[tuple[str, int]]:
    """strace counts the calls of each thread by themselves."""
    counts = Counter(re.findall(r"^(\d+) +(\w+)\(", strace.read_text(), re.MULTILINE))
    most = {call: max(count for (_, name), count in counts.items() if name == call) for _, call in counts}
    return [(call, k) for call in sorted(most) for k in range(1, most[call] + 1)]


def some_of(every: list[tuple[str, int]], moments_max: int) -> list[tuple[str, int]]:
    """Of each kind alike, its last one always: of 500 writes one more tells little, of 5 syncs each does."""
    dice = random.Random(SEED)
    by_call = {call: [moment for moment in every if moment[0] == call] for call, _ in every}
    chosen: list[tuple[str, int]] = []
    for n, (_, kind) in enumerate(sorted(by_call.items(), key=lambda item: len(item[1]))):
        share = (moments_max - len(chosen)) // (len(by_call) - n)
        chosen += [*dice.sample(kind[:-1], min(share, len(kind)) - 1), kind[-1]]
    return chosen


def new_life(life: Path) -> Path:
    (life / "kept").mkdir(parents=True)
    return life


def compared(life: Path) -> dict[str, Any]:
    """Whether the store with what came after it is what the whole journal makes."""
    records = asyncio.run(whole_journal(life))
    if not records:
        return {"same": True, "records": 0, "trimmed": False}
    try:
        with offline.loaded(life / "data") as kernel:
            found, expected = dump(kernel), dump(rebuilt(records))
    except (RecoveryFailed, StoreError) as error:
        return {"same": False, "why": str(error)}
    for each in (found, expected):
        for part in DIFFERENT_IN_TIME:
            each.pop(part)
    return {"same": found == expected, "records": len(records), "trimmed": any((life / "kept").iterdir())}


def checked(life: Path, phase: str) -> dict[str, Any]:
    """What was answered and isn't there, what is there twice, and what was never sent."""
    ledgers: dict[str, list[str]] = json.loads((life / "ledgers").read_text())
    answers = [json.loads(line) for line in (life / "answers").read_text().splitlines()]
    entries = Counter(value for values in ledgers.values() for value in values)
    sent: set[str] = set()
    if phase == "migration":
        sent |= {value for key in LEDGERS for value in old_values(key)}
    for client in range(CLIENTS):
        for name, _, (value, *_) in requests(client):
            sent |= {value, *([f"{value} there", f"{value} sent"] if name == "append_to_both" else [])}
    return {
        "lost": [*(a for a in answers if ledgers[a[0]][a[2] : a[2] + 1] != [a[1]]), *sorted(sent - entries.keys())],
        "twice": [value for value, count in entries.items() if count > 1],
        "invented": sorted(entries.keys() - sent),
    }


def kill_at(files: str, phase: str, call: str, k: int, life: Path) -> dict[str, Any]:
    if phase == "migration":
        assert in_a_fork(work_before(life)) == 0
    if phase == "recovery":
        by_hand = random.Random(f"{SEED} {call} {k}").randrange(1, CLIENTS * REQUESTS)
        assert in_a_fork(work(life, by_hand)) == -signal.SIGKILL
    killed = in_a_fork(work(life), traced(files, life, f"{call}:signal=KILL:when={k}")) == -signal.SIGKILL
    at_once = compared(life) if any((life / "data").glob("*.segment")) else {"same": True}
    ended = in_a_fork(work(life))
    found = checked(life, phase) if ended == 0 else {}
    return {"killed": killed, "at_once": at_once, "ended": ended, "in_the_end": compared(life), **found}


def main(files: str, phase: str, moments_max: int, directory: Path) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    setattr(data_dir, "Log", SmallLog)  # noqa: B010  # a module's name, which type checkers guard
    setattr(engine, "HEADROOM_BYTES", 1024)  # noqa: B010  # of a megabyte there would be a hundred segments
    every = moments(files, phase, directory)
    for call, k in some_of(every, moments_max):
        life = new_life(directory / f"{call}-{k}")
        result = kill_at(files, phase, call, k, life)
        with suppress(OSError):
            shutil.rmtree(life)
        print(json.dumps({"call": call, "k": k, "of": len(every), **result}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))

"""`perdure store rebuild`, killed at the k-th system call on its files, and run again.

    python -m tests.crash.killed_in_rebuild MOMENTS_MAX DIRECTORY

strace sends the SIGKILL at the entry of the call, for some k of each kind of call, drawn by a fixed seed.
One line of JSON for each.  Processes are forks of this one.
"""

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import structlog

from perdure.journal import Log, LogOptions, read_offline
from perdure.runtime import Runtime, data_dir, engine, offline, recovery, store_commands
from perdure.runtime.settings import Settings
from tests.crash.killed_in_checkpoints import (
    CALLS,
    CLIENTS,
    DIFFERENT_IN_TIME,
    TINY,
    Ledger,
    in_a_fork,
    moments_in,
    requests,
    some_of,
)
from tests.runtime.kernel_dump import dump, rebuilt

STORE = "store.sqlite"
ENDS = ("", "-wal", "-shm")
NEW = ("", "-wal", "-shm", "-new", "-new-wal", "-new-journal")


class SmallLog:
    """Each life copies its journal."""

    @staticmethod
    def open(directory: Path) -> Log:
        return Log.open(directory, options=LogOptions(segment_bytes=64 * 1024))


async def make(directory: Path) -> None:
    """A journal that begins with record 1, and a store."""
    async with Runtime([Ledger], data_dir=directory, settings=Settings()) as runtime, asyncio.timeout(30):
        for client in range(CLIENTS):
            for name, key, arguments in requests(client):
                await getattr(runtime.ref(Ledger, key), name)(*arguments)
        await runtime.engine.settled()


async def rebuild(directory: Path) -> None:
    with redirect_stdout(StringIO()):
        assert store_commands.rebuild(directory) == 0


def traced(life: Path, *inject: str) -> Callable[[int], list[str]]:
    names = [*(f"{STORE}-rebuilding{end}" for end in NEW), *(f"{STORE}{end}" for end in ENDS)]
    paths = [argument for path in (life, *(life / name for name in names)) for argument in ("-P", str(path))]
    return lambda pid: [
        *["strace", "-f", "-p", str(pid), "-o", f"{life}.strace", "-e", f"trace={','.join(CALLS)}", *paths],
        *[argument for each in inject for argument in ("-e", f"inject={each}")],
    ]


def moments(life: Path) -> list[tuple[str, int]]:
    """Each kind of call and how often one thread makes it, in an undisturbed run."""
    assert in_a_fork(rebuild(life), traced(life)) == 0
    return moments_in(Path(f"{life}.strace"))


def what_stands(life: Path, old: bytes) -> str:
    """After the kill there is the old store, or none and the old one aside, or a new one and the old one aside."""
    path, aside = life / STORE, life / f"{STORE}.damaged"
    if path.exists() and path.read_bytes() == old:
        return "old"
    if not aside.exists() or aside.read_bytes() != old:
        return "the old store is gone"
    return "new" if path.exists() else "none"


def same(life: Path) -> bool:
    """Whether the store, with what came after it, is what the whole journal makes."""

    async def recorded() -> list[bytes]:
        return [record async for _, record in read_offline(life)]

    records = asyncio.run(recorded())
    with offline.loaded(life) as kernel:
        found, expected = dump(kernel), dump(rebuilt(records))
    for part in DIFFERENT_IN_TIME:
        found.pop(part)
        expected.pop(part)
    return found == expected


def kill_at(call: str, k: int, life: Path) -> dict[str, Any]:
    old = (life / STORE).read_bytes()
    killed = in_a_fork(rebuild(life), traced(life, f"{call}:signal=KILL:when={k}")) == -signal.SIGKILL
    stands = what_stands(life, old)
    at_once = same(life)
    again = in_a_fork(rebuild(life))
    left = sorted(path.name for path in life.glob(f"{STORE}-*"))
    return {"killed": killed, "stands": stands, "at_once": at_once, "again": again, "left": left, "same": same(life)}


def main(moments_max: int, directory: Path) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    setattr(data_dir, "Log", SmallLog)  # noqa: B010  # a module's name, which type checkers guard
    setattr(engine, "HEADROOM_BYTES", 1024)  # noqa: B010
    setattr(recovery, "_TIDY_EVERY", 32)  # noqa: B010  # so that there are several commits
    setattr(store_commands, "Settings", lambda: TINY)  # noqa: B010
    base = directory / "base"
    asyncio.run(make(base))
    every = moments(Path(shutil.copytree(base, directory / "undisturbed")))
    for call, k in some_of(every, moments_max):
        life = Path(shutil.copytree(base, directory / f"{call}-{k}"))
        print(json.dumps({"call": call, "k": k, "of": len(every), **kill_at(call, k, life)}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

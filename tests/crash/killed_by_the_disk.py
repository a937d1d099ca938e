"""Runs the journey of durable_objects.py, each time killed at another write or sync of its journal, or in a step.

    python tests/crash/killed_by_the_disk.py MOMENT DIRECTORY

MOMENT is `before-write`, `half-written`, `before-sync` or `after-sync`, or, of the steps' effects in the world outside,
`before-effect` or `after-effect`.  For k = 1, 2, … until there is no k-th: a
process (a fork of this one, so that it need not import everything again) ends by its own SIGKILL at that moment; the
next one goes on with its data directory and asks for the result with the same idempotency key.  One line of JSON for
each k.
"""

import asyncio
import importlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
import uvloop

from perdure.journal import Log, LogOptions
from perdure.journal.disk import RealDisk
from perdure.runtime import Runtime, data_dir

durable_objects: Any = importlib.import_module("durable_objects")  # beside this file, where type checkers don't look
CLASSES = [getattr(durable_objects, name) for name in ("Approval", "Bell", "Hand", "Journey")]
BELLS = "abcdefgpqr"


def patch(owner: object, name: str, value: object) -> None:
    setattr(owner, name, value)


def kill_at(moment: str, count: int) -> None:
    """Makes this process end at the `count`-th write or sync of the journal's files, or effect of a step."""
    left = count
    write, sync, note = RealDisk.write, RealDisk.sync, durable_objects.note

    def is_it() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def killed_write(disk: RealDisk, file: int, data: bytes | memoryview, offset: int) -> int:
        if is_it():
            if moment == "half-written":
                write(disk, file, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(disk, file, data, offset)

    def killed_sync(disk: RealDisk, file: int) -> None:
        last = is_it()
        if not (last and moment == "before-sync"):
            sync(disk, file)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    def killed_note(ledger: str, label: str) -> str:
        last = is_it()
        if not (last and moment == "before-effect"):
            note(ledger, label)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return label

    if moment in ("before-write", "half-written"):
        patch(RealDisk, "write", killed_write)
    elif moment in ("before-sync", "after-sync"):
        patch(RealDisk, "sync", killed_sync)
    else:
        patch(durable_objects, "note", killed_note)


async def journey(directory: Path) -> dict[str, Any]:
    async with Runtime(CLASSES, data_dir=directory / "data") as runtime, asyncio.timeout(30):
        play = runtime.ref(durable_objects.Journey, "x").play.options(idempotency_key="once")
        saw = await play(str(directory / "ledger"))
        heard = {key: await runtime.ref(durable_objects.Bell, key).listen() for key in BELLS}
        kernel = runtime.engine.kernel
        left = [one.target for one in kernel.invocations.values() if not one.ended]
    return {"saw": saw, "heard": {key: names for key, names in heard.items() if names}, "left": left}


class SmallLog:
    """The log as it is, but for the size of its files: two new ones of 64 MiB would take longer than all the rest."""

    @staticmethod
    def open(directory: Path) -> Log:
        return Log.open(directory, options=LogOptions(segment_bytes=1024 * 1024))


def in_a_fork(work: Callable[[], None]) -> int:
    """What became of it: an exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(moment: str, directory: Path) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    patch(data_dir, "Log", SmallLog)
    count, killed = 0, True
    while killed:
        count += 1
        life = directory / str(count)
        life.mkdir()

        def first(life: Path = life, count: int = count) -> None:
            kill_at(moment, count)
            uvloop.run(journey(life))

        def second(life: Path = life) -> None:
            (life / "result").write_text(json.dumps(uvloop.run(journey(life))))

        killed = in_a_fork(first) == -signal.SIGKILL
        ended = in_a_fork(second)
        result: dict[str, Any] = json.loads((life / "result").read_text()) if ended == 0 else {}
        ledger = [line.split(" ", 1) for line in (life / "ledger").read_text().splitlines()]
        shutil.rmtree(life)
        print(json.dumps({"count": count, "killed": killed, "ended": ended, "ledger": ledger, **result}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

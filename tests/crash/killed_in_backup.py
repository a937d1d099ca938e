"""`perdure backup` and `perdure restore`, killed at the k-th system call, and run again.

    python -m tests.crash.killed_in_backup MOMENTS_MAX DIRECTORY

strace sends the SIGKILL at the entry of the call, for some k of each kind of call, drawn by a fixed seed.
One line of JSON for each.  Processes are forks of this one.
"""

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from perdure.journal import verify
from perdure.runtime.backup import back_up, restore
from tests.crash.killed_in_checkpoints import in_a_fork, moments_in, some_of
from tests.runtime.used_data_dirs import append_to_small_segments, contents

CALLS = ("mkdir", "openat", "write", "pwrite64", "ftruncate", "fsync", "rename", "link", "unlink", "chmod", "fchmodat")


async def backup(life: Path, to: str) -> None:
    await back_up(life / "data", life / to)


async def restored(life: Path, to: str) -> None:
    await restore(life / "backup", life / to)


DOING = {"folder": (backup, "b"), "archive": (backup, "b.tar"), "restore": (restored, "d")}


def traced(life: Path, *inject: str) -> Callable[[int], list[str]]:
    return lambda pid: [
        *["strace", "-f", "-p", str(pid), "-o", f"{life}.strace", "-e", f"trace={','.join(CALLS)}"],
        *[argument for each in inject for argument in ("-e", f"inject={each}")],
    ]


def what_stands(life: Path, doing: str) -> str:
    """The target has its name only when it is whole: then it is worth as much as one that was not disturbed."""
    _, to = DOING[doing]
    target = life / to
    if not target.exists():
        return "none"
    again = life / "again"
    if doing == "restore":
        shutil.copytree(target, again)
    else:
        asyncio.run(restore(target, again))
    same = contents(again) == contents(life / "expected")
    asyncio.run(verify(again))
    shutil.rmtree(again)
    return "whole" if same else "something else"


def kill_at(doing: str, call: str, k: int, life: Path) -> dict[str, Any]:
    do, to = DOING[doing]
    source = contents(life / "data")
    killed = in_a_fork(do(life, to), traced(life, f"{call}:signal=KILL:when={k}")) == -signal.SIGKILL
    stands = what_stands(life, doing)
    untouched = contents(life / "data") == source
    again = in_a_fork(do(life, to)) if stands == "none" else 0
    left = sorted(path.name for path in life.iterdir() if "partial" in path.name)
    finally_ = what_stands(life, doing)
    return {"killed": killed, "stands": stands, "untouched": untouched, "again": again, "left": left, "end": finally_}


def moments(doing: str, life: Path) -> list[tuple[str, int]]:
    """Each kind of call and how often one thread makes it, in an undisturbed run."""
    do, to = DOING[doing]
    assert in_a_fork(do(life, to), traced(life)) == 0
    return moments_in(Path(f"{life}.strace"))


def main(moments_max: int, directory: Path) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    base = directory / "base"
    asyncio.run(append_to_small_segments(base / "data", range(12)))
    asyncio.run(back_up(base / "data", base / "backup"))
    asyncio.run(restore(base / "backup", base / "expected"))
    for doing in DOING:
        every = moments(doing, Path(shutil.copytree(base, directory / doing)))
        for call, k in some_of(every, moments_max // len(DOING)):
            life = Path(shutil.copytree(base, directory / f"{doing}-{call}-{k}"))
            print(json.dumps({"doing": doing, "call": call, "k": k, "of": len(every), **kill_at(doing, call, k, life)}))
            shutil.rmtree(life)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

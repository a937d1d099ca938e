"""A process that checkpoints, evicts and trims all the time is killed at its system calls, and loses nothing.

`killed_in_checkpoints.py` does it: real processes, SIGKILL by strace at the k-th call on the files of the store or of
the journal, at work, while objects of an older version are migrated, and during a recovery.  Then what was answered is
there, nothing is there twice, and the store with what came after it is what the whole journal makes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
FILES = ["store", "store", "journal", "journal", "store", "journal"]
PHASES = ["work", "recovery", "work", "recovery", "migration", "migration"]
MOMENTS_MAX = 18
"""Of each; there are some 900 in all, at half a second each."""
AT_ONCE = 2

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is missing; on Debian: apt-get install strace"
)


def killed_at_each(files: str, phase: str, directory: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.killed_in_checkpoints", files, phase, str(MOMENTS_MAX), str(directory)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [{"files": files, "phase": phase, **json.loads(line)} for line in done.stdout.splitlines()]


def test_a_kill_at_the_system_calls_of_checkpoints_migrations_and_recoveries_loses_nothing(
    tmp_path: Path,
) -> None:
    """Of each kind of call on each file some k-th ones, and for the next process the same."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        runs = threads.map(killed_at_each, FILES, PHASES, (tmp_path / str(n) for n in range(len(FILES))))
        lives = [life for run in runs for life in run]

    kills = sum(life["killed"] for life in lives)
    print(f"{kills} kills in {len(lives)} runs")
    assert [life for life in lives if life["ended"]] == []
    assert [life for life in lives if life["lost"] or life["twice"] or life["invented"]] == []
    assert [life for life in lives if not (life["at_once"]["same"] and life["in_the_end"]["same"])] == []
    assert [life for life in lives if not life["in_the_end"]["records"]] == []
    assert kills > 0.8 * len(lives)
    trimmed = sum(life["in_the_end"]["trimmed"] for life in lives)
    assert trimmed > 0.8 * len(lives), "where the store is slow, the work is done before the first checkpoint is"

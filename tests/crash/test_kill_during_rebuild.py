"""`perdure store rebuild` is killed at its system calls; nothing is lost, and the next one makes the store.

`killed_in_rebuild.py` does it: SIGKILL by strace at the k-th call on the store, the new one and their directory.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MOMENTS_MAX = 40
"""Of some 440, at a quarter of a second each: all syncs and renames, and some of the writes, the last ones too."""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing; on Debian: apt-get install strace")
def test_a_kill_during_a_rebuild_leaves_the_old_store_or_none_or_a_whole_new_one(tmp_path: Path) -> None:
    """Any of these stands for what the journal makes; the old file is there in each case, and nothing half made."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.killed_in_rebuild", str(MOMENTS_MAX), str(tmp_path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    lives = [json.loads(line) for line in done.stdout.splitlines()]

    print(f"{sum(life['killed'] for life in lives)} kills in {len(lives)} runs")
    assert {life["stands"] for life in lives} == {"old", "none", "new"}
    assert [life for life in lives if not (life["killed"] and life["at_once"] and life["same"])] == []
    assert [life for life in lives if life["again"] or life["left"]] == []

"""`perdure backup` and `perdure restore` are killed at their system calls: a target is whole, or has no name.

`killed_in_backup.py` does it: SIGKILL by strace at the k-th call of each kind that touches files.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MOMENTS_MAX = 45
"""Of some 300, at a third of a second each."""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing; on Debian: apt-get install strace")
def test_a_kill_leaves_no_half_backup_and_no_half_data_directory(tmp_path: Path) -> None:
    """The source is untouched, and the same command, given again, makes what the first one should have made."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.killed_in_backup", str(MOMENTS_MAX), str(tmp_path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    lives = [json.loads(line) for line in done.stdout.splitlines()]

    killed = [life for life in lives if life["killed"]]
    print(f"{len(killed)} kills in {len(lives)} runs: {dict(Counter(life['stands'] for life in killed))}")
    assert {life["stands"] for life in killed} == {"none", "whole"}
    assert {life["doing"] for life in killed} == {"folder", "archive", "restore"}
    assert len(killed) > 0.8 * len(lives)  # how a thread's calls are counted is not the same in every run
    assert [life for life in lives if not life["untouched"] or life["end"] != "whole"] == []
    assert [life for life in lives if life["again"]] == []
    # A kill right after an archive got its name leaves the folder that it was packed from.
    left = [life for life in lives if life["left"]]
    assert [life for life in left if (life["doing"], life["stands"]) != ("archive", "whole")] == []

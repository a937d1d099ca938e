"""Real processes whose system calls fail, or that are killed at them, by strace."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from perdure.journal import Log, LogOptions

WRITER = Path(__file__).with_name("writer.py")
CALLS = "pwrite64,preadv,preadv2,fdatasync,fsync,fallocate,rename,renameat,renameat2,unlink,unlinkat,flock"
KILL_POINTS = 60


@dataclass
class Run:
    code: int
    """Negative for a signal."""
    said: list[str]

    @property
    def acknowledged(self) -> int:
        return max((int(line.split()[1]) for line in self.said if line.startswith("acknowledged")), default=0)


@pytest.fixture
def strace() -> str:
    path = shutil.which("strace")
    if path is None:
        pytest.skip("needs strace, to make a real process's system calls fail: apt-get install strace")
    return path


def run_writer(
    strace: str, directory: Path, records: int, inject: str = "", *, thread: bool = True, log: str = "/dev/null"
) -> Run:
    """`inject` as strace takes it; it counts each system call by itself, and in each thread by itself."""
    tracer = [strace, "-f", "-qq", "-o", log, "-e", f"trace={CALLS}"]
    if inject:
        tracer += ["-e", f"inject={inject}"]
    if "KILL" not in inject:
        tracer.append("--seccomp-bpf")  # five times as fast, but it doesn't kill
    writer = [sys.executable, str(WRITER), str(directory), str(records), "1" if thread else "0"]
    done = subprocess.run(tracer + writer, capture_output=True, text=True, timeout=60, check=False)
    assert not done.stderr, done.stderr
    return Run(done.returncode, done.stdout.splitlines())


def recovered(directory: Path) -> int:
    """Starts on what is left, checks every record; returns the newest one's LSN."""
    with Log.open(directory, options=LogOptions(segment_bytes=4096)) as log:
        found = list(log.read())
        assert found == [(lsn, b"record %d " % lsn * 60) for lsn in range(log.first_lsn, log.next_lsn)]
        return log.next_lsn - 1


def test_nothing_disturbed(strace: str, tmp_path: Path) -> None:
    """The writer under the tracer alone, through several segments."""
    run = run_writer(strace, tmp_path / "log", 12)

    assert (run.code, run.acknowledged) == (0, 12)
    assert recovered(tmp_path / "log") == 12
    assert len(list((tmp_path / "log").glob("*.segment"))) > 1


def test_the_nth_sync_fails(strace: str, tmp_path: Path) -> None:
    """For each n of a short run: its batch is not acknowledged and nothing after it; exit 14; the next start is right.

    That is the n-th of the thread that opens, or else of the writer's.
    """
    for nth in count(1):
        directory = tmp_path / str(nth)
        run = run_writer(strace, directory, 9, f"fdatasync:error=EIO:when={nth}")
        if run.code == 0:
            assert run.acknowledged == 9
            assert nth > 9  # each batch's failed, and those of the steps between segments
            break
        assert run.code == 14, run
        assert re.search("failed$|the disk refused a sync: EIO", run.said[-1]), run
        assert recovered(directory) >= run.acknowledged
        again = run_writer(strace, directory, 2)
        assert (again.code, again.acknowledged) == (0, recovered(directory))


@pytest.mark.parametrize("errno", ["EIO", "EROFS"])
def test_the_nth_write_fails(strace: str, tmp_path: Path, errno: str) -> None:
    for nth in (2, 3, 5, 8):
        directory = tmp_path / str(nth)
        run = run_writer(strace, directory, 12, f"pwrite64:error={errno}:when={nth}")

        assert run.code == 14, run
        assert recovered(directory) >= run.acknowledged


def test_a_disk_that_is_full_for_a_while(strace: str, tmp_path: Path) -> None:
    """Each write from the 4th to the 6th is refused; the batch is kept, tried again, and acknowledged once."""
    run = run_writer(strace, tmp_path / "log", 12, "pwrite64:error=ENOSPC:when=4..6")

    assert (run.code, run.acknowledged) == (0, 12)
    assert run.said == [f"acknowledged {lsn}" for lsn in range(1, 13)]
    assert recovered(tmp_path / "log") == 12


def test_an_unreadable_segment(strace: str, tmp_path: Path) -> None:
    """EIO on read is damage, exit code 12, and not the end of the log."""
    directory = tmp_path / "log"
    run_writer(strace, directory, 12)
    preadv = "preadv2" if "preadv2" in calls_of(strace, tmp_path) else "preadv"

    run = run_writer(strace, directory, 1, f"{preadv}:error=EIO")

    assert run.code == 12, run
    assert "the disk can't read it: Input/output error" in run.said[-1]
    assert recovered(directory) == 12


def calls_of(strace: str, tmp_path: Path) -> list[str]:
    """The system calls of a start on an existing log and a run of 30 records, in order."""
    directory, log = tmp_path / "to count", tmp_path / "calls"
    run_writer(strace, directory, 1, thread=False)
    run_writer(strace, directory, 30, thread=False, log=str(log))
    return re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE)


def kill_points(calls: list[str], wanted: int) -> list[str]:
    """As strace names them: the call and how often it came; evenly spread over all of them."""
    seen: Counter[str] = Counter()
    points: list[str] = []
    for call in calls:
        seen[call] += 1
        points.append(f"{call}:signal=KILL:when={seen[call]}")
    return [points[index * len(points) // wanted] for index in range(wanted)]


def test_a_kill_at_every_kth_system_call(strace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another kill in the recovery after every third; nothing acknowledged is ever lost, and the log goes on."""
    calls = calls_of(strace, tmp_path)
    run_writer(strace, tmp_path / "before", 1, thread=False)
    kills = 0
    for number, point in enumerate(kill_points(calls, KILL_POINTS)):
        directory = tmp_path / str(number)
        shutil.copytree(tmp_path / "before", directory)
        runs = [run_writer(strace, directory, 30, point, thread=False)]
        if number % 3 == 0:
            again = f"{calls[number % 12]}:signal=KILL"
            runs.append(run_writer(strace, directory, 3, again, thread=False))
        kills += sum(run.code != 0 for run in runs)
        assert runs[0].code != 0, point
        assert recovered(directory) >= max(run.acknowledged for run in runs), (point, runs)

    with capsys.disabled():
        print(
            f"\n  killed at {KILL_POINTS} of {len(calls)} system calls, and in recoveries: {kills} kills, nothing lost"
        )
    assert kills > 1.2 * KILL_POINTS


def test_kills_of_the_writers_thread(strace: str, tmp_path: Path) -> None:
    """One life after the other on the same log, each cut off further on."""
    acknowledged = 0
    for nth in range(4, 28, 3):
        run = run_writer(strace, tmp_path / "log", 30, f"pwrite64,fdatasync:signal=KILL:when={nth}")
        acknowledged = max(acknowledged, run.acknowledged)
        assert run.code != 0
        assert recovered(tmp_path / "log") >= acknowledged

    assert acknowledged > 30

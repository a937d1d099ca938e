"""A process is killed at its system calls: the store is as before or as after the commit, never between."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from perdure.runtime.store import Store, verify
from perdure.runtime.store.sqlite_file import beside
from tests.runtime.store.writer import UUID, state

WRITER = Path(__file__).with_name("writer.py")
CALLS = "openat,pwrite64,fdatasync,fsync,ftruncate,fallocate,unlink,rename"
"""Those that change something: a kill at any other is one at the next of these."""
ROWS = 3
KILLS_OF_A_CALL = 60
"""Where one comes more often, as writing the pages of a new store, it is every so many-th."""


@dataclass
class Run:
    code: int
    said: list[str]

    @property
    def killed(self) -> bool:
        return self.code in (-signal.SIGKILL, 128 + signal.SIGKILL)

    @property
    def lsn(self) -> int:
        """The last that it told of."""
        return max((int(line.split()[1]) for line in self.said if line.startswith(("opened", "committed"))), default=0)


@pytest.fixture
def strace() -> str:
    path = shutil.which("strace")
    if path is None:
        pytest.skip("needs strace, to kill a real process at its system calls: apt-get install strace")
    return path


def run_writer(strace: str, path: Path, commits: int, inject: str = "", log: str = "/dev/null") -> Run:
    """Only system calls on the store's files and their folder are counted."""
    files = [option for file in (path, path.with_name(path.name + "-new")) for option in watched(file)]
    tracer = [strace, "-f", "-qq", "-o", log, *files, "-P", str(path.parent), "-e", f"trace={CALLS}"]
    if inject:
        tracer += ["-e", f"inject={inject}"]
    return run([str(path), str(commits), str(ROWS)], tracer)


def run(arguments: list[str], tracer: Sequence[str] = ()) -> Run:
    command = [*tracer, sys.executable, str(WRITER), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return Run(done.returncode, done.stdout.splitlines())


def watched(file: Path) -> list[str]:
    return [option for each in (file, *beside(file)) for option in ("-P", str(each))]


def calls_made(log: Path) -> Counter[str]:
    return Counter(line.split()[1].split("(")[0] for line in log.read_text().splitlines() if "(" in line)


def prepare(path: Path, original: Path | None) -> None:
    shutil.rmtree(path.parent, ignore_errors=True)
    if original is None:
        path.parent.mkdir()
    else:
        shutil.copytree(original.parent, path.parent)


def kill_everywhere(strace: str, tmp_path: Path, original: Path | None, commits: int, allowed: set[int]) -> set[int]:
    """Runs the writer on copies of `original`, killed each time elsewhere; returns the LSNs that were found then."""
    path = tmp_path / "killed" / "store"
    prepare(path, original)
    undisturbed = run_writer(strace, path, commits, log=str(tmp_path / "log"))
    assert undisturbed.code == 0
    kills: Counter[str] = Counter()
    found: set[int] = set()
    for call, count in sorted(calls_made(tmp_path / "log").items()):
        for nth in range(1, count + 1, -(-count // KILLS_OF_A_CALL)):
            prepare(path, original)
            last = run_writer(strace, path, commits, f"{call}:signal=KILL:when={nth}")
            assert last.killed, (call, nth, last)
            kills[call] += 1
            lsn = lsn_of(path)
            assert lsn in allowed, (call, nth)
            assert lsn >= last.lsn, (call, nth, "what was told of is gone")
            found.add(lsn)
    print(f"{kills.total()} kills: {dict(kills)}; LSNs found {found}")
    return found


def lsn_of(path: Path) -> int:
    """Opens what is left, and checks that it is the state of its LSN; none left is that of LSN 0."""
    with closing(Store.open(path, UUID)) as store:
        lsn = store.lsn
        model = state(lsn, ROWS)
        assert store.range(b"", b"\xff", 1000, model) == sorted(model.items())
        assert all(store.get(key) == value for key, value in model.items())
        assert store.summary == (b"summary %d" % lsn if lsn else b"")
    report = verify(path)
    assert report.whole, report.problems
    return lsn


def made(folder: Path, commits: int, *, killed: bool) -> Path:
    """A store after so many commits, closed, or of a process that was killed and left its WAL."""
    path = folder / "store"
    folder.mkdir()
    done = run([str(path), str(commits), str(ROWS), *(["die"] if killed else [])])
    assert done.killed == killed
    assert path.with_name("store-wal").exists() == killed
    return path


def test_a_kill_while_it_is_made_leaves_none_or_all_of_it(strace: str, tmp_path: Path) -> None:
    assert kill_everywhere(strace, tmp_path, None, 0, {0}) == {0}


def test_a_kill_during_a_commit_leaves_before_or_after(strace: str, tmp_path: Path) -> None:
    """From its opening to its closing, which moves the WAL into the file."""
    original = made(tmp_path / "original", 1, killed=False)

    assert kill_everywhere(strace, tmp_path, original, 1, {1, 2}) == {1, 2}


def test_a_kill_while_it_recovers_changes_nothing(strace: str, tmp_path: Path) -> None:
    """The start after a kill finds a WAL, and moves it into the file."""
    original = made(tmp_path / "original", 2, killed=True)

    assert kill_everywhere(strace, tmp_path, original, 0, {2}) == {2}

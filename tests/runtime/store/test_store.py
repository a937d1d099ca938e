"""What only a store on a disk does: refusing files, reading beside a commit, keeping its size, copying itself."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from perdure.runtime.store import (
    Put,
    Store,
    StoreDamaged,
    StoreError,
    StoreExists,
    StoreForeign,
    StoreInUse,
    StoreMissing,
    StoreNewer,
    StoreNotWritable,
    verify,
)
from perdure.runtime.store import sqlite_file as file_settings
from perdure.runtime.store import store as store_module

UUID = bytes(range(16))
MIB = 1024 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store.open(path, UUID)
    yield opened
    opened.close()


def rows(count: int, value: bytes = b"v" * 60) -> list[Put]:
    return [Put(b"key %06d" % number, value) for number in range(count)]


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.iterdir())


# --- opening ----------------------------------------------------------------------------------------------------------


def test_what_was_committed_is_there_after_a_restart(path: Path) -> None:
    with closing(Store.open(path, UUID)) as store:
        store.commit([Put(b"a", b"1"), Put(b"b", b"2", b"group")], 7, b"summary")

    with closing(Store.open(path, UUID)) as store:
        assert (store.uuid, store.lsn, store.summary) == (UUID, 7, b"summary")
        assert (store.get(b"a"), store.get(b"b", b"group")) == (b"1", b"2")


def test_a_closed_store_is_one_file(path: Path, store: Store) -> None:
    """So that a copy of it is a copy of all."""
    store.commit(rows(10), 1, b"")

    store.close()

    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()

    with pytest.raises(StoreError, match="closed"):
        store.get(b"a")
    with pytest.raises(StoreError, match="closed"):
        store.commit([], 1, b"")


def test_another_logs_store_is_refused(path: Path, store: Store) -> None:
    store.close()
    before = path.read_bytes()

    with pytest.raises(StoreForeign, match="belongs to log 000102") as refused:
        Store.open(path, bytes(16))
    assert refused.value.exit_code == 12
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == before


def test_a_newer_format_is_refused(path: Path, store: Store) -> None:
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE meta SET version = 2")
        other.execute("PRAGMA user_version = 2")

    for read in (lambda: Store.open(path, UUID), lambda: verify(path)):
        with pytest.raises(StoreNewer, match="newer release") as refused:
            read()
        assert refused.value.exit_code == 11


def test_a_store_locked_by_others_is_refused(path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_settings, "BUSY_SECONDS", 0.0)
    store.commit([Put(b"a", b"1")], 1, b"")
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other, closing(Store.open(path, UUID)) as opened:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreInUse, match="locked by another program") as refused:
            opened.commit([Put(b"a", b"2")], 2, b"")
        assert refused.value.exit_code == 10
        assert (opened.lsn, opened.get(b"a")) == (1, b"1")
        other.execute("ROLLBACK")
        opened.commit([Put(b"a", b"2")], 2, b"")
        assert opened.get(b"a") == b"2"


def test_a_folder_that_is_missing_or_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for path in (tmp_path / "missing" / "store", tmp_path / "file" / "store", tmp_path):
        with pytest.raises(StoreNotWritable) as refused:
            Store.open(path, UUID)
        assert refused.value.exit_code == 13
    with pytest.raises(StoreMissing):
        verify(tmp_path / "missing")


def test_what_a_lost_store_left_is_not_taken_for_the_new_ones(path: Path) -> None:
    """SQLite would apply the WAL of any file to any other."""
    store = Store.open(path, UUID)
    store.commit([Put(b"a", b"1")], 1, b"")
    subprocess.run(["cp", f"{path}-wal", path.with_name("kept")], check=True)
    store.close()
    path.unlink()
    path.with_name("kept").rename(f"{path}-wal")
    path.with_name("store-new").write_text("of a process that was killed when it made one")

    with closing(Store.open(path, UUID)) as store:
        assert (store.lsn, store.get(b"a")) == (0, None)


def test_errors_cross_processes() -> None:
    """They are raised in worker processes, too."""
    import pickle  # noqa: PLC0415

    error = StoreDamaged(Path("/store"), "rot")

    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301


# --- reading while it is written --------------------------------------------------------------------------------------


def test_reads_beside_commits_see_whole_commits(store: Store) -> None:
    """All rows of one commit have one value; each bucket is first used while another thread changes it."""
    groups = [b"group %d" % number for number in range(40)]
    keys = [(b"%s/%d" % (group, number), group) for group in groups for number in range(5)]
    stop = threading.Event()

    def commit(lsn: int) -> None:
        store.commit([Put(key, b"%d" % lsn, group) for key, group in keys], lsn, b"")

    def commit_on() -> int:
        lsn = 1
        while not stop.is_set():
            lsn += 1
            commit(lsn)
        return lsn

    commit(1)
    with ThreadPoolExecutor(1) as pool:
        last = pool.submit(commit_on)
        try:
            for _ in range(20):
                for group in groups:
                    seen = {value for _, value in store.range(group + b"/", group + b"0", 10, [group])}
                    assert len(seen) == 1
                    assert store.get(group + b"/3", group) is not None
        finally:
            stop.set()

    assert store.get(keys[0][0], groups[0]) == b"%d" % last.result()


def test_nobody_else_may_read_it(path: Path) -> None:
    """Whatever the umask, and whoever made the directory."""
    before = os.umask(0o022)
    try:
        with closing(Store.open(path, UUID)) as store:
            store.commit(rows(1), 1, b"")
            modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"store": 0o600, "store-wal": 0o600, "store-shm": 0o600}


# --- its size ---------------------------------------------------------------------------------------------------------


def test_the_wal_stays_small(path: Path, store: Store) -> None:
    """A hundred commits, each of which changes the same rows, while it is read."""
    for lsn in range(1, 101):
        store.commit(rows(500, b"%d" % lsn * 20), lsn, b"")
        assert store.get(b"key 000001") is not None

    wal = path.with_name("store-wal").stat().st_size
    print(f"{wal / MIB:.1f} MiB of WAL, {path.stat().st_size / MIB:.1f} MiB of file")
    assert wal < 2 * file_settings.WAL_BYTES_KEPT


def test_disk_use_returns_when_rows_go(path: Path, store: Store) -> None:
    """In portions: not all in one commit."""
    store.commit(rows(30_000, b"v" * 1000), 1, b"")
    largest = size(path)
    store.commit([Put(put.key, None) for put in rows(30_000)], 2, b"")
    for lsn in range(3, 15):
        store.commit([], lsn, b"")
    store.close()

    print(f"{largest / MIB:.1f} MiB, then {size(path) / MIB:.1f}")
    assert size(path) < 8 * MIB
    assert verify(path).whole


def test_a_commit_writes_to_no_file_elsewhere(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite keeps what a statement changes, as it was, in a file under /tmp, unless told not to."""
    monkeypatch.setattr(store_module, "PORTION_ROWS", 2_000)  # in one statement, more than it keeps in memory anyway
    with closing(Store.open(path, UUID)) as store:
        store.commit(rows(2_000), 1, b"")
        found: set[str] = set()

        def look() -> int:
            found.update(opened for opened in map(_target, Path("/proc/self/fd").iterdir()) if opened)
            return 0

        store._writer.set_progress_handler(look, 500)  # pyright: ignore[reportPrivateUsage]
        store.commit(rows(2_000, b"w" * 60), 2, b"")

    beside = {opened for opened in found if opened.startswith(str(path))}
    assert str(path) in beside, "nobody looked"
    assert not {opened for opened in found if "etilqs" in opened}, "SQLite's name for a temporary file"


def _target(descriptor: Path) -> str | None:
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:  # the one that the listing itself was read by
        return None


# --- verify and snapshot ----------------------------------------------------------------------------------------------


def test_verify_counts_and_tells_how_far_it_is(path: Path, store: Store) -> None:
    """Beside the live store, too."""
    store.commit(rows(25_000), 5, b"")
    told: list[tuple[int, int]] = []

    report = verify(path, lambda done, total: told.append((done, total)))

    assert report.whole
    assert (report.rows, report.row_bytes) == (25_000, 25_000 * 70)
    assert str(report).startswith("whole: stands for records up to 5, 25000 rows of 1750000 bytes; log 000102")
    assert told == [(10_000, 25_000), (20_000, 25_000), (25_000, 25_000)]


def test_verify_names_each_problem(path: Path, store: Store) -> None:
    store.commit(rows(100), 5, b"")
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE rows SET value = x'00' WHERE key = ?", (b"key 000007",))
        other.execute("DELETE FROM rows WHERE key = ?", (b"key 000008",))

    report = verify(path)

    assert not report.whole
    assert len(report.problems) == 3
    assert report.problems[0] == "the row of key b'key 000007' is not what was written"
    assert str(report).startswith("damaged (3 problems)")


def test_a_snapshot_is_of_one_moment_while_commits_go_on(path: Path, store: Store) -> None:
    """It is one of the states that were committed, though each page is copied at its own time."""
    store.commit(rows(20_000, b"1" * 60), 1, b"1")
    target = path.with_name("copy")
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        lsn = store.lsn + 1
        store.commit(rows(20_000, b"%d" % lsn)[:: len(told)], lsn, b"%d" % lsn)

    lsn = store.snapshot(target, progress)

    assert lsn == 1
    assert store.lsn == 1 + len(told) > 3
    assert told[-1][0] == told[-1][1]
    report = verify(target)
    assert report.whole
    with closing(Store.open(target, UUID)) as copy:
        assert (copy.lsn, copy.summary) == (1, b"1")
        assert copy.range(b"", b"\xff", 30_000) == [(put.key, b"1" * 60) for put in rows(20_000)]


def test_a_snapshot_refuses_a_target_that_exists(path: Path, store: Store) -> None:
    target = path.with_name("copy")
    target.write_text("mine")

    with pytest.raises(StoreExists, match="nothing was written"):
        store.snapshot(target)
    assert target.read_text() == "mine"
    with pytest.raises(StoreNotWritable):
        store.snapshot(path.parent / "missing" / "copy")


def test_an_interrupted_snapshot_leaves_nothing(path: Path, store: Store) -> None:
    class Interrupted(BaseException):
        pass

    def progress(done: int, total: int) -> None:
        raise Interrupted

    before = set(path.parent.iterdir())
    with pytest.raises(Interrupted):
        store.snapshot(path.with_name("copy"), progress)

    assert set(path.parent.iterdir()) == before

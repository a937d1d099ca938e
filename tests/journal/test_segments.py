"""Segments are preallocated, sealed, stepped into, recycled; and a free one is never believed."""

import os
import threading
from pathlib import Path
from random import Random

import pytest

from perdure.journal import Log, LogOptions
from perdure.journal.disk import RealDisk
from perdure.journal.frames import Kind
from perdure.journal.reading import read_frames
from perdure.journal.recovery import Scan
from perdure.journal.simulation import SimDisk

SEGMENT_BYTES = 8192
OPTIONS = LogOptions(segment_bytes=SEGMENT_BYTES, free_segments_max=3)


def names(directory: Path, kind: str) -> list[str]:
    return sorted(path.name for path in directory.glob(f"*.{kind}"))


def append_many(log: Log, count: int) -> None:
    for _ in range(count):
        log.reserve(1000)
        log.append(log.next_lsn.to_bytes(8, "big") * 125)
        log.flush()


def kinds(directory: Path) -> list[int]:
    return [frame.header.kind for frame in read_frames(RealDisk(), directory, Scan())]


def test_a_segment_has_its_room_from_the_start(tmp_path: Path) -> None:
    """So that a write into it can't find the disk full; and the next one stands ready."""
    with Log.open(tmp_path):
        [live], [free] = names(tmp_path, "segment"), names(tmp_path, "free")
        for name in (live, free):
            stat = (tmp_path / name).stat()
            assert stat.st_size == LogOptions().segment_bytes
            assert stat.st_blocks * 512 >= stat.st_size


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    """Records hold other people's data."""
    with Log.open(tmp_path / "journal"):
        assert (tmp_path / "journal").stat().st_mode & 0o077 == 0
        assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "journal").iterdir())


def test_a_full_segment_ends_with_a_frame_that_says_so(tmp_path: Path) -> None:
    with Log.open(tmp_path, options=OPTIONS) as log:
        append_many(log, 40)

    found = kinds(tmp_path)
    assert found.count(Kind.LAST) == len(names(tmp_path, "segment")) - 1 > 0
    assert found[-1] == Kind.SEAL


def test_a_log_tells_how_many_segments_it_has(tmp_path: Path) -> None:
    """As many as there are files; trimmed ones aren't counted."""
    with Log.open(tmp_path, options=LogOptions(segment_bytes=SEGMENT_BYTES, writer_thread=False)) as log:
        assert log.segments == 1
        append_many(log, 40)
        assert log.segments == len(names(tmp_path, "segment")) > 2
        log.trim(log.next_lsn)
        assert log.segments == len(names(tmp_path, "segment")) == 1


def test_trimmed_segments_are_used_again(tmp_path: Path) -> None:
    """Their old frames never verify; beyond a few free ones they are deleted, so the directory does not grow."""
    with Log.open(tmp_path, options=OPTIONS) as log:
        for _ in range(20):
            append_many(log, 40)
            log.trim(log.synced_lsn)
        expected = log.next_lsn

    with Log.open(tmp_path, options=OPTIONS) as log:
        found = list(log.read())
        assert log.next_lsn == expected
        assert log.first_lsn > 1
        assert len(names(tmp_path, "free")) <= OPTIONS.free_segments_max
    assert found == [(lsn, lsn.to_bytes(8, "big") * 125) for lsn in range(log.first_lsn, expected)]


def test_recycling_makes_no_new_files(tmp_path: Path) -> None:
    """In the steady state the same files go round, which also syncs faster."""
    with Log.open(tmp_path, options=LogOptions(segment_bytes=SEGMENT_BYTES, writer_thread=False)) as log:
        seen: list[set[int]] = []
        for _ in range(30):
            append_many(log, 5)
            log.trim(log.next_lsn)
            seen.append({path.stat().st_ino for path in tmp_path.iterdir()})

    assert set[int]().union(*seen[-5:]) <= set[int]().union(*seen[:10])


@pytest.mark.parametrize("content", [b"", b"junk" * 100, bytes(SEGMENT_BYTES)], ids=["empty", "junk", "zeros"])
def test_nothing_in_a_free_segment_is_believed(tmp_path: Path, content: bytes) -> None:
    """Whatever a crash left in it."""
    with Log.open(tmp_path, options=OPTIONS) as log:
        append_many(log, 3)
    (tmp_path / "000000000077.free").write_bytes(content)

    with Log.open(tmp_path, options=OPTIONS) as log:
        append_many(log, 30)
    with Log.open(tmp_path, options=OPTIONS) as log:
        assert len(list(log.read())) == 33


def test_a_copy_of_a_live_segment_as_a_free_one_is_harmless(tmp_path: Path) -> None:
    with Log.open(tmp_path, options=OPTIONS) as log:
        append_many(log, 20)
    first, *_ = names(tmp_path, "segment")
    (tmp_path / "000000000001.free").unlink(missing_ok=True)
    (tmp_path / "000000000001.free").write_bytes((tmp_path / first).read_bytes())

    with Log.open(tmp_path, options=OPTIONS) as log:
        append_many(log, 30)
    with Log.open(tmp_path, options=OPTIONS) as log:
        assert len(list(log.read())) == 50


def test_the_segment_size_may_change(tmp_path: Path) -> None:
    """Old segments keep theirs."""
    records = 0
    for segment_bytes in (8192, 65536, 4096, 1 << 20):
        with Log.open(tmp_path, options=LogOptions(segment_bytes=segment_bytes)) as log:
            assert len(list(log.read())) == records
            append_many(log, 30)
        records += 30


def test_names_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "1.segment").write_text("not ours: too few digits")
    with Log.open(tmp_path) as log:
        append_many(log, 1)

    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "1.segment").read_text() == "not ours: too few digits"


class Watched(RealDisk):
    """Says when a seal is on the disk: the sync after the last acknowledgement."""

    def __init__(self) -> None:
        self.log: Log | None = None
        self.sealed = threading.Event()

    def sync(self, file: int) -> None:
        super().sync(file)
        if self.log is not None and self.log.synced_lsn == 1:
            self.sealed.set()


def test_the_end_is_sealed_when_it_becomes_idle(tmp_path: Path) -> None:
    """Once; an idle log writes nothing more."""
    disk = Watched()
    log = Log.open(tmp_path, disk=disk)
    disk.log = log
    log.append(b"a")
    log.flush()

    assert disk.sealed.wait(10)
    assert kinds(tmp_path) == [Kind.BATCH, Kind.SEAL]
    log.close()
    assert kinds(tmp_path) == [Kind.BATCH, Kind.SEAL]


def test_a_restart_without_records_adds_nothing(tmp_path: Path) -> None:
    """Or a log in a restart loop would fill its disk with seals."""
    Log.open(tmp_path).close()
    assert kinds(tmp_path) == []
    with Log.open(tmp_path) as log:
        append_many(log, 1)
    before = kinds(tmp_path)
    for _ in range(3):
        Log.open(tmp_path).close()

    assert kinds(tmp_path) == before == [Kind.BATCH, Kind.SEAL]


def test_one_sync_for_each_commit() -> None:
    """And what is flushed while one is in flight goes together in the next, three flushes here."""
    log: Log | None = None
    seen = syncs = 0

    def flush_more(operation: str, name: str) -> None:
        nonlocal seen
        if operation == "sync" and log is not None:
            seen += 1
            for _ in range(3 if seen <= 10 else 0):
                log.append(b"meanwhile")
                log.flush()

    def on_synced(lsn: int) -> None:
        nonlocal syncs
        synced.append(lsn)
        syncs = disk.counts["sync"] - before
        if lsn == 31:
            done.set()

    done = threading.Event()
    synced: list[int] = []
    disk = SimDisk(Random(0), hook=flush_more)
    log = Log.open(Path("/journal"), disk=disk, options=LogOptions(segment_bytes=65536))
    log.subscribe(on_synced, lambda error: None)
    before = disk.counts["sync"]
    log.append(b"first")
    log.flush()
    assert done.wait(10)
    log.close()

    assert synced == list(range(1, 32, 3))
    assert syncs == len(synced)


def test_a_second_log_in_the_same_process_is_another(tmp_path: Path) -> None:
    with Log.open(tmp_path / "a") as a, Log.open(tmp_path / "b") as b:
        a.append(b"a")
        assert b.next_lsn == 1
    assert os.listdir(tmp_path / "a")

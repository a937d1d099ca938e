"""A failed sync is final: nothing more is acknowledged, nothing is tried again, the next start is correct."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from perdure.journal import JournalError, Log, LogOptions, SyncFailed, WriterFailed
from perdure.journal.disk import RealDisk
from perdure.journal.simulation import SimDisk, undisturbed

DIRECTORY = Path("/journal")
OPTIONS = LogOptions(segment_bytes=4096, writer_thread=False)
BATCHES = 12


def fail(operation: str, nth: int, code: int) -> Callable[[str, str], None]:
    """A hook that fails the n-th such operation, once: whoever asked again would be told that all is well."""
    seen = 0

    def hook(asked: str, name: str) -> None:
        nonlocal seen
        if asked == operation and name != "LOCK":
            seen += 1
            if seen == nth:
                raise OSError(code, os.strerror(code))

    return hook


class Run:
    """A short run against a disk that refuses something, and what was acknowledged in it."""

    def __init__(self, disk: SimDisk) -> None:
        self.acknowledged = 0
        self.failures: list[BaseException] = []
        self.after_failure: list[int] = []
        try:
            log = Log.open(DIRECTORY, options=OPTIONS, disk=disk)
        except SyncFailed as error:
            self.failures.append(error)
            return
        log.subscribe(self.on_synced, self.failures.append)
        for number in range(1, BATCHES + 1):
            log.append(b"%d" % number * 300)
            log.flush()
        log.close()

    def on_synced(self, lsn: int) -> None:
        if self.failures:
            self.after_failure.append(lsn)
        self.acknowledged = lsn


def recovered(disk: SimDisk) -> list[bytes]:
    disk.hook = undisturbed
    log = Log.open(DIRECTORY, options=OPTIONS, disk=disk)
    return [record for _, record in log.read()]


def operations(operation: str) -> int:
    """How many there are in a run that nothing disturbs."""
    asked: list[tuple[str, str]] = []
    disk = SimDisk(Random(0), hook=lambda each, name: asked.append((each, name)))
    assert Run(disk).acknowledged == BATCHES
    return sum(each == operation and name != "LOCK" for each, name in asked)


@pytest.mark.parametrize("operation", ["sync", "sync_directory", "write", "rename"])
def test_the_nth_operation_fails(operation: str) -> None:
    """For each n: one failure is told, no acknowledgement comes after, and the acknowledged is there on both disks.

    On the one after a kill, whose page cache still shows the lost bytes, and on the one after a power cut.
    """
    for nth in range(1, operations(operation) + 1):
        disk = SimDisk(Random(nth), hook=fail(operation, nth, errno.EIO))
        run = Run(disk)

        assert [type(error) for error in run.failures] == [SyncFailed], nth
        assert run.after_failure == []
        expected = [b"%d" % number * 300 for number in range(1, BATCHES + 1)]
        for after in (disk.crashed(Random(nth)), disk.killed()):
            found = recovered(after)
            assert len(found) >= run.acknowledged
            assert found == expected[: len(found)]


def test_a_sync_that_fails_for_want_of_space_is_as_final() -> None:
    """A full disk passes, but what a sync has lost is lost."""
    run = Run(SimDisk(Random(0), hook=fail("sync", 5, errno.ENOSPC)))

    assert [type(error) for error in run.failures] == [SyncFailed]


def test_what_the_cache_shows_is_written_again() -> None:
    """A kernel that keeps the lost pages shows a frame whose sync had failed: it must not be lost after all."""

    class KeepsTheCache(SimDisk):
        def drop_cache(self, file: int) -> None:
            pass

    for nth in range(2, operations("sync") + 1):
        disk = KeepsTheCache(Random(nth), hook=fail("sync", nth, errno.EIO))
        Run(disk)
        after = disk.killed()
        shown = recovered(after)

        assert recovered(after.crashed(Random(0))) == shown


def test_the_failure_is_one_line_for_people() -> None:
    run = Run(SimDisk(Random(0), hook=fail("sync", 5, errno.EIO)))

    [error] = run.failures
    assert isinstance(error, JournalError)
    assert error.exit_code == 14
    assert str(error).startswith("the disk refused a sync: EIO Input/output error; nothing more was acknowledged")
    assert "\n" not in str(error)


class FailingSyncs(RealDisk):
    def __init__(self) -> None:
        self.failing = False
        self.asked = 0

    def sync(self, file: int) -> None:
        if self.failing:
            self.asked += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(file)


class Heard:
    """What `on_failed` said, and a way to wait for it."""

    def __init__(self) -> None:
        self.failed = threading.Event()
        self.failures: list[BaseException] = []

    def on_failed(self, error: BaseException) -> None:
        self.failures.append(error)
        self.failed.set()


def test_the_writers_thread_stops_for_good(tmp_path: Path) -> None:
    """Later calls do nothing or say why; the disk is not asked again; closing is quiet, for it was told."""
    disk = FailingSyncs()
    log = Log.open(tmp_path, disk=disk)
    heard = Heard()
    log.subscribe(lambda lsn: pytest.fail("acknowledged"), heard.on_failed)
    disk.failing = True
    log.append(b"a")
    log.flush()
    assert heard.failed.wait(10)

    log.append(b"b")
    log.flush()
    log.trim(1)
    with pytest.raises(SyncFailed):
        log.reserve(1)
    log.close()
    assert disk.asked == 1
    assert log.synced_lsn == 0


def test_a_failure_that_nobody_heard_of_comes_out_of_close(tmp_path: Path) -> None:
    disk = FailingSyncs()
    log = Log.open(tmp_path, disk=disk)
    disk.failing = True
    log.append(b"a")

    with pytest.raises(SyncFailed):
        log.close()


def test_a_bug_in_a_callback_stops_the_writer_and_names_the_record(tmp_path: Path) -> None:
    """What went wrong inside is no reason to go on as if nothing were."""
    log = Log.open(tmp_path)
    heard = Heard()

    def on_synced(lsn: int) -> None:
        raise ZeroDivisionError("in a callback")

    log.subscribe(on_synced, heard.on_failed)
    log.append(b"a")
    log.flush()
    assert heard.failed.wait(10)
    log.close()

    [error] = heard.failures
    assert isinstance(error, WriterFailed)
    assert error.exit_code == 15
    assert "at record 2: ZeroDivisionError('in a callback')" in str(error)

"""A batch that is alone, on a quick disk, is written by the thread that flushes it; all the rules hold there too."""

import errno
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from perdure.journal import Log, LogOptions, SyncFailed
from perdure.journal.disk import RealDisk

ALWAYS = LogOptions(alone_seconds_max=60.0, segment_bytes=64 * 1024)
PATIENCE_SECONDS = 10.0


def allow(operation: str) -> None:
    """Nothing is wrong with this disk."""


class WatchedDisk(RealDisk):
    """Says which thread syncs; `refuse` may raise before a write or a sync."""

    def __init__(self) -> None:
        self.syncs: list[str] = []
        self.writes = 0
        self.refuse: Callable[[str], None] = allow

    def write(self, file: int, data: bytes | memoryview, offset: int) -> int:
        self.refuse("write")
        self.writes += 1
        return super().write(file, data, offset)

    def sync(self, file: int) -> None:
        self.refuse("sync")
        super().sync(file)
        self.syncs.append(threading.current_thread().name)


class Run:
    """A log whose writer has written one batch, so that it waits to seal the end and knows how quick the disk is."""

    def __init__(self, directory: Path, options: LogOptions = ALWAYS) -> None:
        self.disk = WatchedDisk()
        self.log = Log.open(directory, options=options, disk=self.disk)
        self.synced = threading.Semaphore(0)
        self.lsns: list[int] = []
        self.failures: list[BaseException] = []
        self.stalls: list[BaseException | None] = []
        self.log.subscribe(self._on_synced, self.failures.append, self.stalls.append)
        self.log.append(b"the writer's")
        self.log.flush()
        self.wait()
        self.at_rest()

    def _on_synced(self, lsn: int) -> None:
        self.lsns.append(lsn)
        self.synced.release()

    def wait(self) -> None:
        assert self.synced.acquire(timeout=PATIENCE_SECONDS)

    def at_rest(self) -> None:
        """Until the writer has put its tools away."""
        with self.log._writing:  # pyright: ignore[reportPrivateUsage]
            pass


def test_it_is_synced_when_flush_returns(tmp_path: Path) -> None:
    run = Run(tmp_path, LogOptions(alone_seconds_max=60.0, seal_after_seconds=60.0))
    run.disk.syncs.clear()
    for number in range(20):
        run.log.append(b"%d" % number)
        run.log.flush(alone=True)
        assert run.log.synced_lsn == run.lsns[-1] == number + 2
    assert set(run.disk.syncs) == {threading.current_thread().name}
    run.log.close()
    assert [record for _, record in Log.open(tmp_path).read()][1:] == [b"%d" % number for number in range(20)]


def test_a_slow_disk_is_the_writers(tmp_path: Path) -> None:
    run = Run(tmp_path, LogOptions(alone_seconds_max=0.0))
    run.disk.syncs.clear()
    run.log.append(b"alone")
    run.log.flush(alone=True)
    run.wait()
    assert threading.current_thread().name not in run.disk.syncs
    run.log.close()


def test_the_end_is_sealed_all_the_same(tmp_path: Path) -> None:
    """The writer wakes up by itself: without a seal a bit that flips in the last batch would pass for a torn tail."""
    run = Run(tmp_path, LogOptions(alone_seconds_max=60.0, seal_after_seconds=0.2))
    run.log.append(b"alone")
    run.log.flush(alone=True)
    sealed = threading.Event()

    def note(operation: str) -> None:
        if operation == "sync":
            sealed.set()

    run.disk.refuse = note
    assert sealed.wait(PATIENCE_SECONDS)
    run.at_rest()
    assert run.log._tail.sealed  # pyright: ignore[reportPrivateUsage]
    run.log.close()


def test_order_is_kept_however_batches_are_handed_over(tmp_path: Path) -> None:
    """Alone or not, at random, while the writer is at work and while it rests."""
    for seed in range(20):
        random, run = Random(seed), Run(tmp_path / str(seed))
        for number in range(300):
            run.log.append(b"%d" % number)
            if random.random() < 0.7:
                run.log.flush(alone=random.random() < 0.6)
            if random.random() < 0.05:
                run.at_rest()
        run.log.close()
        assert run.lsns == sorted(run.lsns), f"seed {seed}"
        assert len(set(run.disk.syncs)) == 2, f"seed {seed}: both threads write"
        records = [record for _, record in Log.open(tmp_path / str(seed)).read()]
        assert records[1:] == [b"%d" % number for number in range(300)], f"seed {seed}"


def test_a_failed_sync_is_final_there_too(tmp_path: Path) -> None:
    """Nothing is acknowledged, and nobody writes any more: not the owner, and not the writer for its seal."""
    run = Run(tmp_path, LogOptions(alone_seconds_max=60.0, seal_after_seconds=0.1))

    def refuse(operation: str) -> None:
        if operation == "sync":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    run.disk.refuse = refuse
    run.log.append(b"alone")
    run.log.flush(alone=True)
    assert [type(failure) for failure in run.failures] == [SyncFailed]
    assert run.lsns == [1]

    run.disk.refuse, run.disk.writes = allow, 0
    with pytest.raises(SyncFailed):
        run.log.reserve(1)
    run.log.append(b"more")
    run.log.flush(alone=True)
    thread = run.log._thread  # pyright: ignore[reportPrivateUsage]
    assert thread is not None
    thread.join(PATIENCE_SECONDS)  # it wakes up to seal, and sees
    assert not thread.is_alive()
    assert run.disk.writes == 0
    assert run.lsns == [1]
    run.log.close()


def test_a_full_disk_leaves_it_to_the_writer(tmp_path: Path) -> None:
    """The owner doesn't wait for room: the writer repeats the write, and acknowledges it when there is some."""
    run = Run(tmp_path, LogOptions(alone_seconds_max=60.0, full_retry_seconds=0.001))
    room = threading.Event()

    def refuse(operation: str) -> None:
        if operation == "write" and not room.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run.disk.refuse = refuse
    run.log.append(b"alone")
    run.log.flush(alone=True)
    assert run.lsns == [1]
    assert run.stalls[0] is not None
    run.log.append(b"behind it")
    run.log.flush(alone=True)
    room.set()
    while run.lsns[-1] < 3:
        run.wait()
    run.log.close()
    assert [record for _, record in Log.open(tmp_path).read()] == [b"the writer's", b"alone", b"behind it"]


def test_a_failed_seal_is_final_for_the_owner_too(tmp_path: Path) -> None:
    """Everything flushed is synced then, and the next sync would say that all is well."""
    run = Run(tmp_path, LogOptions(alone_seconds_max=60.0, seal_after_seconds=0.05))
    failing, go_on = threading.Event(), threading.Event()

    def refuse(operation: str) -> None:
        if operation == "sync" and threading.current_thread() is not threading.main_thread():
            failing.set()
            assert go_on.wait(PATIENCE_SECONDS)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    run.disk.refuse = refuse
    assert failing.wait(PATIENCE_SECONDS)
    run.log.append(b"while the seal fails")
    run.log.flush(alone=True)
    go_on.set()
    thread = run.log._thread  # pyright: ignore[reportPrivateUsage]
    assert thread is not None
    thread.join(PATIENCE_SECONDS)
    run.disk.refuse = allow
    run.log.append(b"after it")
    run.log.flush(alone=True)
    assert [type(failure) for failure in run.failures] == [SyncFailed]
    assert run.lsns == [1]
    run.log.close()


def test_the_queue_is_the_writers(tmp_path: Path) -> None:
    """Two threads that take from it would wait for each other: one for an item, with the lock, one for the lock."""
    run = Run(tmp_path)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(0.00001)
    try:
        for number in range(3_000):
            run.log.trim(1)
            run.log.append(b"%d" % number)
            run.log.flush(alone=True)
    finally:
        sys.setswitchinterval(usual)
    run.log.close()
    assert run.lsns[-1] == 3_001


def test_a_signal_in_the_middle_of_it_ends_the_log(tmp_path: Path) -> None:
    """What a handler of signals raises may leave half a batch behind: nothing is written or acknowledged after it."""
    run = Run(tmp_path)

    def interrupt(operation: str) -> None:
        if operation == "sync":
            raise KeyboardInterrupt

    run.disk.refuse = interrupt
    run.log.append(b"interrupted")
    with pytest.raises(KeyboardInterrupt):
        run.log.flush(alone=True)
    run.disk.refuse, run.disk.writes = allow, 0
    run.log.append(b"after it")
    run.log.flush(alone=True)
    assert run.lsns == [1]
    assert run.disk.writes == 0
    assert len(run.failures) == 1
    run.log.close()

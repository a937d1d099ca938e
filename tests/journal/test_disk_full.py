"""A full disk: refused before anything is applied, and where that came too late, nothing is dropped."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from perdure.journal import JournalError, JournalFull, Log, LogOptions, NotWritable
from perdure.journal.disk import RealDisk
from perdure.journal.simulation import SimDisk, undisturbed

DIRECTORY = Path("/journal")
SEGMENT_BYTES = 8192
OPTIONS = LogOptions(segment_bytes=SEGMENT_BYTES, writer_thread=False, full_retry_seconds=0.0)


def make_disk(segments: int) -> SimDisk:
    return SimDisk(Random(0), capacity_bytes=segments * SEGMENT_BYTES + 512)


def fill(log: Log, size: int = 100, headroom: int = 0) -> int:
    """Appends until there is no room; returns how many records."""
    for count in range(10_000):
        try:
            log.reserve(size, headroom)
        except JournalFull:
            return count
        log.append(bytes(size))
        log.flush()
    raise AssertionError("never full")


def fail_writes(disk: SimDisk, times: int, code: int = errno.ENOSPC) -> None:
    left = times

    def hook(operation: str, name: str) -> None:
        nonlocal left
        if operation == "write" and left > 0:
            left -= 1
            raise OSError(code, os.strerror(code))

    disk.hook = hook


def test_a_full_disk_is_noticed_before_the_append() -> None:
    """Every record that was reserved is synced without a stall; the next one is refused, in words."""
    log = Log.open(DIRECTORY, options=OPTIONS, disk=make_disk(4))
    stalls: list[BaseException | None] = []
    log.subscribe(lambda lsn: None, lambda error: None, stalls.append)

    count = fill(log)

    assert count > 4 * 8  # in frames of two sectors
    assert log.synced_lsn == count
    assert stalls == []
    with pytest.raises(JournalFull, match=r"journal full.*nothing was recorded"):
        log.reserve(100)
    assert log.next_lsn == count + 1


def test_small_records_fit_where_large_ones_do_not() -> None:
    log = Log.open(DIRECTORY, options=OPTIONS, disk=make_disk(4))
    fill(log, 4000)

    assert fill(log, 10) > 0


def test_headroom_is_left_for_what_must_be_finished() -> None:
    """Who asks for headroom is refused earlier, and the others then have that much left."""
    log = Log.open(DIRECTORY, options=OPTIONS, disk=make_disk(3))
    fill(log, 100, headroom=3000)

    assert fill(log, 500) >= 2


def test_it_recovers_when_space_returns() -> None:
    """By trimming, or by somebody else's deleting."""
    disk = make_disk(4)
    log = Log.open(DIRECTORY, options=OPTIONS, disk=disk)
    count = fill(log)

    log.trim(count // 2)
    more = fill(log)
    assert more > 0
    assert disk.capacity_bytes is not None
    disk.capacity_bytes += SEGMENT_BYTES
    assert fill(log) > 0


def test_a_full_log_starts_again() -> None:
    disk = make_disk(4)
    log = Log.open(DIRECTORY, options=OPTIONS, disk=disk)
    count = fill(log)
    log.close()

    again = Log.open(DIRECTORY, options=OPTIONS, disk=disk)

    assert len(list(again.read())) == count
    assert again.next_lsn == count + 1


def test_no_room_for_a_log_at_all() -> None:
    """Refused in one line that names the directory and what is needed, with nothing left behind."""
    disk = make_disk(0)

    with pytest.raises(
        NotWritable, match=r"/journal has no room for the first segment of 8 KiB: No space left"
    ) as caught:
        Log.open(DIRECTORY, options=OPTIONS, disk=disk)

    assert caught.value.exit_code == 13
    assert "\n" not in str(caught.value)
    assert disk.names(DIRECTORY) == ["LOCK"]


def test_no_descriptor_for_a_log_at_all() -> None:
    """The disk has room then, and the line doesn't say otherwise."""
    disk = make_disk(4)

    def hook(operation: str, name: str) -> None:
        if operation == "create" and name.endswith(".free"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    disk.hook = hook

    with pytest.raises(NotWritable, match=r"/journal can't be used: Too many open files") as caught:
        Log.open(DIRECTORY, options=OPTIONS, disk=disk)

    assert caught.value.exit_code == 13


def test_what_was_reserved_is_found_room_for_however_it_is_cut() -> None:
    """Random sizes and flushes, on a disk with room for a few segments: a reserved record never stalls."""
    for seed in range(200):
        random = Random(seed)
        disk = make_disk(random.randrange(2, 7))
        log = Log.open(DIRECTORY, options=OPTIONS, disk=disk)
        stalls: list[BaseException | None] = []
        log.subscribe(lambda lsn: None, lambda error: None, stalls.append)
        for _ in range(200):
            size = random.choice((0, 10, 100, 1000, 3000))
            try:
                log.reserve(size)
            except JournalFull:
                break
            log.append(bytes(size))
            if random.random() < 0.3:
                log.flush()
        log.flush()

        assert stalls == [], f"seed {seed}"
        assert log.synced_lsn == log.next_lsn - 1, f"seed {seed}"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_write_that_fails_all_the_same_is_kept(code: int) -> None:
    """Nothing is acknowledged, nothing more is reserved, what is synced is readable; then the same batch goes on."""
    disk = make_disk(9)
    log = Log.open(DIRECTORY, options=OPTIONS, disk=disk)
    synced: list[int] = []
    stalls: list[BaseException | None] = []
    log.subscribe(synced.append, lambda error: pytest.fail(str(error)), stalls.append)
    log.append(b"before")
    log.flush()

    fail_writes(disk, 2, code)
    log.append(b"first")
    log.flush()
    log.append(b"second")
    log.flush()
    assert synced == [1]
    assert [type(stall) for stall in stalls] == [JournalFull]
    with pytest.raises(JournalFull):
        log.reserve(1)

    log.append(b"third")
    log.flush()
    assert synced == [1, 2, 4]
    assert stalls[-1] is None
    log.reserve(1)
    log.close()
    again = Log.open(DIRECTORY, options=OPTIONS, disk=disk)
    assert [record for _, record in again.read()] == [b"before", b"first", b"second", b"third"]


def test_closing_while_full_says_what_was_never_acknowledged() -> None:
    disk = make_disk(9)
    log = Log.open(DIRECTORY, options=OPTIONS, disk=disk)
    log.append(b"a")
    fail_writes(disk, 1000)

    with pytest.raises(JournalFull, match="records after 0 were never acknowledged"):
        log.close()

    disk.hook = undisturbed
    Log.open(DIRECTORY, options=OPTIONS, disk=disk).close()


class Written(Random):
    """Decides how much of a refused write is on the disk all the same: these many bytes, then nothing."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(0)
        self._sizes = list(sizes)

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return self._sizes.pop(0) if self._sizes else 0


def test_a_seal_that_was_refused_keeps_its_place() -> None:
    """Found by the crash test: the seal was there all the same, and the next segment named a frame without it."""
    disk = make_disk(9)
    log = Log.open(DIRECTORY, options=OPTIONS, disk=disk)
    log.append(bytes(1000))
    log.flush()
    disk.random = Written(512)
    fail_writes(disk, 1)
    log.seal()
    log.append(bytes(5500))
    others: list[str] = []

    def refuse_the_last_frame(operation: str, name: str) -> None:
        """It is what the first segment gets after the header of the second; a file keeps the name it was opened by."""
        if operation == "write" and name != "000000000001.free":
            others.append(name)
        elif operation == "write" and others:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    disk.hook = refuse_the_last_frame
    log.flush()
    disk = disk.killed()
    disk.hook = undisturbed

    again = Log.open(DIRECTORY, options=OPTIONS, disk=disk)

    assert [lsn for lsn, _ in again.read()] == [1]


class FullForAWhile(RealDisk):
    """Refuses writes from now on, until told otherwise."""

    def __init__(self) -> None:
        self.full = False

    def write(self, file: int, data: bytes | memoryview, offset: int) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(file, data, offset)


@pytest.fixture
def stalling(tmp_path: Path) -> tuple[Log, FullForAWhile, Callable[[], BaseException | None]]:
    """A log with a writer's thread on a disk that can be full, and a wait for its next stall or recovery."""
    disk = FullForAWhile()
    log = Log.open(tmp_path, disk=disk, options=LogOptions(full_retry_seconds=0.001))
    stalls: list[BaseException | None] = []
    changed = threading.Semaphore(0)

    def on_stalled(error: BaseException | None) -> None:
        stalls.append(error)
        changed.release()

    def wait() -> BaseException | None:
        assert changed.acquire(timeout=10)
        return stalls[-1]

    log.subscribe(lambda lsn: None, lambda error: None, on_stalled)
    return log, disk, wait


def test_the_writers_thread_goes_on_by_itself(
    stalling: tuple[Log, FullForAWhile, Callable[[], BaseException | None]],
) -> None:
    """It tries the batch again from time to time, and says when it got through."""
    log, disk, wait = stalling
    disk.full = True
    log.append(b"a")
    log.flush()
    assert isinstance(wait(), JournalFull)
    assert log.synced_lsn == 0

    disk.full = False
    assert wait() is None
    log.close()
    assert log.synced_lsn == 1


def test_the_writers_thread_can_be_closed_while_the_disk_is_full(
    stalling: tuple[Log, FullForAWhile, Callable[[], BaseException | None]],
) -> None:
    log, disk, wait = stalling
    disk.full = True
    log.append(b"a")
    log.flush()
    wait()

    with pytest.raises(JournalError, match="never acknowledged"):
        log.close()


def test_a_short_write_is_completed(tmp_path: Path) -> None:
    """A write may take less than it was given without there being an error."""

    class Short(RealDisk):
        def write(self, file: int, data: bytes | memoryview, offset: int) -> int:
            return super().write(file, data[:100], offset)

    with Log.open(tmp_path, disk=Short()) as log:
        log.append(bytes(range(256)) * 10)

    with Log.open(tmp_path) as log:
        assert list(log.read()) == [(1, bytes(range(256)) * 10)]


def test_running_out_of_descriptors_passes(tmp_path: Path) -> None:
    """The free segment is open already, so the step into it needs none; only making another one waits."""

    class NoDescriptors(RealDisk):
        def create(self, path: Path) -> int:
            if not path.name.startswith("000000000001") and not path.name.startswith("000000000002"):
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return super().create(path)

    failed: list[BaseException] = []
    options = LogOptions(segment_bytes=16384, writer_thread=False)
    with Log.open(tmp_path, disk=NoDescriptors(), options=options) as log:
        log.subscribe(lambda lsn: None, failed.append)
        for _ in range(3):
            log.reserve(5000)
            log.append(bytes(5000))
            log.flush()

    assert log.synced_lsn == 3
    assert failed == []

"""The log on a disk: this file decides what is durable, and when anybody hears of it.

    owner's thread: append ... append, flush  ──queue──▶  writer: merge, one write, one sync  ──▶  on_synced
                    (the next batch fills meanwhile)

One batch is in flight at a time. The writer never touches the open batch. Each number that both see is written by
one of them only, so there is no lock between them.

The owner's thread never waits for the disk, with one exception: a batch that is `alone`, while the disk is quick, is
written and synced right there. Both hand-overs cost as much as such a sync, and the owner would only have waited.
Who writes holds `_writing`; the owner never waits for that either.

    refused by a full disk    the batch is kept and written again at the same place; `on_stalled`
    refused by a sync         final, never retried: nothing more is acknowledged; `on_failed`
    any other exception       a bug: likewise final; `on_failed`

Frames, segments and recovery are other files' business; what a record means is nobody's here.
"""

import errno
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from types import TracebackType
from typing import NamedTuple, Self
from weakref import WeakSet

from .disk import Disk, RealDisk
from .errors import JournalError, JournalFull, NotWritable, RecordTooLarge, WriterFailed
from .frames import FRAME_OVERHEAD_BYTES, LENGTH_BYTES, SECTOR_BYTES, split
from .journal import OnFailed, OnStalled, OnSynced
from .lock import take_lock
from .options import LogOptions
from .reading import read_frames
from .recovery import Scan
from .tail import Tail

_DEFAULTS = LogOptions()

# The most that a batch takes beside its records: its frame, and the seal that may follow it.
_BATCH_CLAIM = FRAME_OVERHEAD_BYTES + SECTOR_BYTES

# The most that a record takes beside its bytes; of those it claims a small part more, see `_claim_divisor`.
_RECORD_CLAIM = LENGTH_BYTES + 1
_FIRST_CLAIM = _RECORD_CLAIM + _BATCH_CLAIM


class _Batch(NamedTuple):
    records: Sequence[bytes]
    claimed: int
    """The claims of everything up to and with this batch, bytes."""


class Log:
    """A `Journal` in a directory. `Log.open(directory)` recovers it, or begins one where there is none."""

    def __init__(self, directory: Path, options: LogOptions, disk: Disk, lock: int, tail: Tail) -> None:
        """Only `open` knows how to prepare these."""
        self._directory = directory
        self._options = options
        self._disk = disk
        self._lock = lock
        self._tail = tail
        self._record_bytes_max = options.record_bytes_max
        self._frame_bytes_max = options.frame_bytes_max
        # Batches that had to be cut claim more, in proportion; with segments of the usual size that is nothing.
        self._claim_divisor = max(options.frame_bytes_max // (2 * _BATCH_CLAIM), 1)
        self._recovered_lsn = tail.synced_lsn

        # The owner's thread writes these.
        self._open: list[bytes] = []
        self._next_lsn = tail.synced_lsn + 1
        self._appended_bytes = 0
        self._claimed = 0
        self._trim_lsn = 0
        self._sealing = False
        self._closed = False

        # The writer writes these.
        self._synced_lsn = tail.synced_lsn
        self._synced_bytes = 0
        self._released = 0
        self._parts: deque[_Batch] = deque()
        self._stalled: JournalFull | None = None
        self._failure: BaseException | None = None
        self._commit_seconds = math.inf  # that the last batch took to be written and synced

        # Both write these, and either one's value is right: see _make_room.
        self._limit = tail.room()
        self._no_space_until = 0.0

        self._subscribers: list[tuple[OnSynced, OnFailed, OnStalled | None]] = []
        self._queue: SimpleQueue[_Batch | None] = SimpleQueue()
        self._writing = Lock()
        self._closing = Lock()
        self._closing.acquire()
        self._thread: Thread | None = None
        if options.writer_thread:
            # A daemon, for a process that exits without close() must not hang; it loses nothing but the seal.
            self._thread = Thread(target=self._write_until_closed, name="perdure-journal", daemon=True)
            self._thread.start()
        _open_logs.add(self)

    @classmethod
    def open(
        cls, directory: Path, *, options: LogOptions = _DEFAULTS, disk: Disk | None = None, uuid: bytes | None = None
    ) -> Self:
        """Takes the lock, recovers what is there, makes it durable. `uuid` is the identity of a new log.

        Raises DirectoryInUse, NewerFormat, Damaged, NotWritable, JournalFull or SyncFailed.
        """
        disk = RealDisk() if disk is None else disk
        try:
            disk.make_directory(directory)
            lock = take_lock(disk, directory)
        except OSError as error:
            raise _not_writable(directory, error) from error
        try:
            tail = _recover(disk, directory, options, os.urandom(16) if uuid is None else uuid)
        except OSError as error:
            disk.close(lock)
            raise _not_writable(directory, error) from error
        except BaseException:
            disk.close(lock)
            raise
        return cls(directory, options, disk, lock, tail)

    # -- what is known

    @property
    def uuid(self) -> bytes:
        return self._tail.uuid

    @property
    def first_lsn(self) -> int:
        return self._tail.first_lsn

    @property
    def next_lsn(self) -> int:
        return self._next_lsn

    @property
    def synced_lsn(self) -> int:
        return self._synced_lsn

    @property
    def unsynced_bytes(self) -> int:
        return self._appended_bytes - self._synced_bytes

    @property
    def appended_bytes(self) -> int:
        return self._appended_bytes

    @property
    def segments(self) -> int:
        return self._tail.segments

    @property
    def commit_seconds(self) -> float:
        return self._commit_seconds

    def read(self, from_lsn: int = 1) -> Iterator[tuple[int, bytes]]:
        """The records found at the start. Raises Damaged if the files are no longer what they were then."""
        if from_lsn > self._recovered_lsn:
            return
        for frame in read_frames(self._disk, self._directory, Scan()):
            if frame.next_lsn <= from_lsn:
                continue
            if frame.header.first_lsn > self._recovered_lsn:
                return
            for lsn, record in frame.records():
                if lsn >= from_lsn:
                    yield lsn, record

    def subscribe(self, on_synced: OnSynced, on_failed: OnFailed, on_stalled: OnStalled | None = None) -> None:
        self._subscribers.append((on_synced, on_failed, on_stalled))

    # -- the owner's side

    def reserve(self, size: int, headroom: int = 0) -> None:
        if size > self._record_bytes_max:
            raise RecordTooLarge(f"a record of {size} bytes; the journal takes at most {self._record_bytes_max}")
        needed = self._claimed + size + size // self._claim_divisor + _RECORD_CLAIM + _BATCH_CLAIM + headroom
        if needed > self._limit:
            self._make_room(needed)

    def append(self, record: bytes) -> int:
        size = len(record)
        self._claimed += size + size // self._claim_divisor + (_RECORD_CLAIM if self._open else _FIRST_CLAIM)
        self._appended_bytes += size
        self._open.append(record)
        lsn = self._next_lsn
        self._next_lsn = lsn + 1
        return lsn

    def flush(self, *, alone: bool = False) -> None:
        if not self._open or self._failure is not None or self._closed:
            return
        here = alone and self._begin_here()
        try:
            batch = _Batch(self._open, self._claimed)
            self._open = []
            if here:
                self._write_here(batch)
            else:
                self._hand_over(batch)
        finally:
            if here:
                self._writing.release()

    def trim(self, lsn: int) -> None:
        self._trim_lsn = max(self._trim_lsn, lsn)
        if self._failure is None and not self._closed:
            self._hand_over(None)

    def close(self) -> None:
        """Raises what nobody heard of: a failure without a subscriber, or JournalFull if the disk stayed full."""
        if self._closed:
            return
        self.flush()
        self._closed = True
        self._closing.release()
        self._hand_over(None)
        if self._thread is not None:
            self._thread.join()
        _open_logs.discard(self)
        self._close_files()
        if self._failure is not None and not self._subscribers:
            raise self._failure
        if self._parts and self._failure is None:
            raise JournalFull(
                f"closed while the disk is full: records after {self._synced_lsn} were never acknowledged"
            )

    def seal(self) -> None:
        """Seals the end now, as idleness would; for logs without a writer's thread, which notice no idleness."""
        if self._thread is None and self._failure is None and not self._closed:
            self._sealing = True
            self._write_inline()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make_room(self, needed: int) -> None:
        """Raises JournalFull unless everything up to the claim `needed` surely finds a place.

        A limit is a promise about all claims up to it, so an older one still holds when the writer has moved on.
        """
        if self._failure is not None:
            raise self._failure
        if self._stalled is not None:
            raise JournalFull(f"journal full: {self._stalled}")
        while needed > (limit := self._released + self._tail.room()):
            self._add_spare_or_raise()
        self._limit = limit

    def _add_spare_or_raise(self) -> None:
        now = time.monotonic()
        if now < self._no_space_until:
            raise JournalFull("journal full: no room for another segment; nothing was recorded, try again later")
        try:
            self._tail.add_spare()
        except JournalError as error:
            # Whatever the reason, there is no room; if the disk is broken, the writer finds out and says so.
            self._no_space_until = now + self._options.full_retry_seconds
            raise JournalFull(f"journal full: {error}; nothing was recorded, try again later") from error

    def _hand_over(self, batch: _Batch | None) -> None:
        self._queue.put(batch)
        if self._thread is None:
            self._write_inline()

    def _close_files(self) -> None:
        self._tail.close()
        with suppress(OSError):
            self._disk.close(self._lock)

    def abandon(self) -> None:
        """In a forked child: the log is the parent's, and so is the lock, as long as no descriptor stays here."""
        self._failure = JournalError("this process was forked from the one that holds the journal; use it there")
        self._closed = True
        self._limit = -1
        self._close_files()

    def _begin_here(self) -> bool:
        """Whether the owner may write this batch; it holds `_writing` then.

        Everything flushed before is synced, or the order would be lost; and the writer wakes up by itself to seal the
        end, which it does only while that is unsealed.
        """
        if (
            self._commit_seconds > self._options.alone_seconds_max
            or self._thread is None
            or self._synced_lsn + len(self._open) + 1 != self._next_lsn
            or not self._writing.acquire(blocking=False)
        ):
            return False
        if self._tail.sealed or self._stalled is not None or self._failure is not None:
            self._writing.release()
            return False
        return True

    def _write_here(self, batch: _Batch) -> None:
        """This batch and nothing else: the queue, trimming and the next spare are the writer's."""
        try:
            self._cut(batch)
            if not self._write_parts() or self._tail.wants_spare():
                self._queue.put(None)  # for the writer to go on
        except BaseException as error:
            self._fail(error)
            if not isinstance(error, Exception):  # a signal's: half of it may be done
                raise

    # -- the writer's side

    def _write_until_closed(self) -> None:
        going_on = True
        while going_on:
            batch = self._wait()
            with self._writing:
                going_on = self._failure is None and self._unless_it_fails(partial(self._go_on, batch))

    def _unless_it_fails(self, work: Callable[[], bool]) -> bool:
        """`work`, whose failure is known before anybody else may write; False then."""
        try:
            return work()
        except BaseException as error:
            self._fail(error)
            return False

    def _go_on(self, batch: _Batch | None) -> bool:
        """Writes all there is to write; False at the end."""
        self._merge(batch)
        while not self._work_off():
            if self._closing.acquire(timeout=self._options.full_retry_seconds):
                return False
        # Closed first, then the queue: what was flushed before close() is in it by then.
        if self._closed and self._queue.empty():
            self._seal()
            return False
        return True

    def _write_inline(self) -> None:
        """As the thread would, but a full disk is tried again at the next call."""
        try:
            if self._failure is None and self._work_off() and (self._closed or self._sealing):
                self._seal()
            self._sealing = False
        except Exception as error:
            self._fail(error)

    def _wait(self) -> _Batch | None:
        """Until something is handed over; the end is sealed when that takes long."""
        while True:
            with self._writing:
                sealed, synced = self._tail.sealed, self._synced_lsn
            try:
                return self._queue.get(timeout=None if sealed else self._options.seal_after_seconds)
            except Empty:
                with self._writing:
                    if self._failure is not None or self._stalled is not None:
                        return None
                    if self._synced_lsn == synced and not self._unless_it_fails(self._seal):  # else the owner wrote
                        return None

    def _work_off(self) -> bool:
        """Everything that was handed over; False if the disk is full."""
        while self._write_parts():
            self._replace_spare()
            if self._queue.empty():
                self._tail.trim(self._trim_lsn)
                return True
            self._merge(self._queue.get())
        return False

    def _merge(self, batch: _Batch | None) -> None:
        """All that was flushed while the last sync was in flight goes together."""
        if self._queue.empty():
            if batch is not None:
                self._cut(batch)
            return
        batches = [] if batch is None else [batch]
        while not self._queue.empty():
            if (batch := self._queue.get()) is not None:
                batches.append(batch)
        if batches:
            self._cut(_Batch([record for each in batches for record in each.records], batches[-1].claimed))

    def _cut(self, batch: _Batch) -> None:
        """A batch larger than a segment goes in parts; what it claimed bounds its size from above."""
        if batch.claimed - self._released <= self._frame_bytes_max:
            self._parts.append(batch)
            return
        parts = [_Batch(part, self._released) for part in split(batch.records, self._frame_bytes_max)]
        parts[-1] = _Batch(parts[-1].records, batch.claimed)
        self._parts.extend(parts)

    def _write_parts(self) -> bool:
        """False if the disk is full: the part stays first, to be written again at the same place."""
        while self._parts:
            records, claimed = self._parts[0]
            began = time.monotonic()
            try:
                lsn = self._tail.write(records)
            except JournalFull as error:
                self._stall(error)
                return False
            self._commit_seconds = time.monotonic() - began
            self._parts.popleft()
            self._acknowledge(lsn, records, claimed)
        return True

    def _acknowledge(self, lsn: int, records: Sequence[bytes], claimed: int) -> None:
        self._released = claimed
        self._limit = claimed + self._tail.room()
        self._synced_bytes += sum(map(len, records))
        self._synced_lsn = lsn
        if self._stalled is not None:
            self._stall(None)
        for on_synced, _, _ in self._subscribers:
            on_synced(lsn)

    def _stall(self, error: JournalFull | None) -> None:
        """Enters the disk-full state, or leaves it."""
        entered_or_left = (error is None) != (self._stalled is None)
        self._stalled = error
        if error is not None:
            self._limit = -1  # sends every reserve() to _make_room
        if entered_or_left:
            for _, _, on_stalled in self._subscribers:
                if on_stalled is not None:
                    on_stalled(error)

    def _replace_spare(self) -> None:
        """After the acknowledgement, which must not wait for it. A disk without room for one is reserve()'s concern."""
        if self._tail.wants_spare() and time.monotonic() >= self._no_space_until:
            try:
                self._tail.add_spare()
            except JournalFull:
                self._no_space_until = time.monotonic() + self._options.full_retry_seconds
            self._limit = self._released + self._tail.room()

    def _seal(self) -> bool:
        # Without room there is no seal; the next batch, or the next start, covers what it would have.
        with suppress(JournalFull):
            self._tail.seal()
        return True

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, JournalError):
            lsn = self._synced_lsn + 1
            internal = WriterFailed(
                f"internal error in the journal's writer at record {lsn}: {error!r}; stop the process"
            )
            internal.__cause__ = error
            error = internal
        self._failure = error
        self._limit = -1  # sends every reserve() to _make_room
        for _, on_failed, _ in self._subscribers:
            on_failed(error)


def _recover(disk: Disk, directory: Path, options: LogOptions, uuid: bytes) -> Tail:
    """Reads everything before anything is written, so that a log that is refused stays as it is."""
    scan = Scan()
    for _ in read_frames(disk, directory, scan, drop_cache=True):
        pass
    tail = Tail(disk, directory, options)
    try:
        if scan.headers:
            tail.adopt(scan)
        else:
            _create(tail, directory, options, uuid)
        with suppress(JournalFull):
            while tail.wants_spare():
                tail.add_spare()
    except BaseException:
        tail.close()
        raise
    return tail


def _create(tail: Tail, directory: Path, options: LogOptions, uuid: bytes) -> None:
    """Raises NotWritable if there is no room: nothing is waiting for it yet, so nothing goes on when there is."""
    try:
        tail.create(uuid)
    except JournalFull as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise _not_writable(directory, cause if isinstance(cause, OSError) else OSError(str(error))) from error
        raise NotWritable(
            f"{directory} has no room for the first segment of {_shown(options.segment_bytes)}: {cause.strerror}; "
            "nothing was recorded; make room or take another directory"
        ) from error


def _shown(size: int) -> str:
    mebibytes = size / (1024 * 1024)
    return f"{mebibytes:g} MiB" if mebibytes >= 1 else f"{size / 1024:g} KiB"


def _not_writable(directory: Path, error: OSError) -> NotWritable:
    reason = "it is a file, or lies below one" if error.errno in (errno.EEXIST, errno.ENOTDIR) else error.strerror
    return NotWritable(f"{directory} can't be used: {reason}; mend it or take another directory")


_open_logs: WeakSet[Log] = WeakSet()


def _abandon_all() -> None:
    for log in list(_open_logs):
        log.abandon()


os.register_at_fork(after_in_child=_abandon_all)

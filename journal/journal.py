"""The protocol that every journal keeps: an ordered, durable log of opaque records.

Records are numbered by LSN: the first is 1, each next one is one more, for the life of the log.
This file knows neither disks nor what a record means. `append`, `flush`, `reserve` and `trim` belong to one
thread; `on_synced` and its neighbours are called from whichever thread syncs.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

RECORD_BYTES_MAX = 16 * 1024 * 1024

OnSynced = Callable[[int], None]
OnFailed = Callable[[BaseException], None]
OnStalled = Callable[[BaseException | None], None]


class Journal(Protocol):
    """What the runtime needs of a journal, whichever it is."""

    @property
    def uuid(self) -> bytes:
        """16 bytes: the identity of this log, kept for its life."""
        ...

    @property
    def first_lsn(self) -> int:
        """The oldest record still here; equal to `next_lsn` when there is none. 1 unless the log was trimmed."""
        ...

    @property
    def next_lsn(self) -> int:
        """The LSN that the next `append` returns."""
        ...

    @property
    def synced_lsn(self) -> int:
        """Every record up to here survives power loss."""
        ...

    @property
    def unsynced_bytes(self) -> int:
        """Bytes of the records appended and not yet synced."""
        ...

    @property
    def appended_bytes(self) -> int:
        """Bytes of the records appended since the start."""
        ...

    @property
    def segments(self) -> int:
        """How many files hold records; 0 if it has none."""
        ...

    @property
    def commit_seconds(self) -> float:
        """How long the last group commit took to be written and synced; to be asked by `on_synced`."""
        ...

    def reserve(self, size: int, headroom: int = 0) -> None:
        """Makes sure that a record of `size` bytes has room on the disk, and `headroom` bytes besides it.

        Raises RecordTooLarge or JournalFull, and then nothing has changed.
        A caller that must be able to finish what it has begun asks for headroom when it begins something new.
        """
        ...

    def append(self, record: bytes) -> int:
        """Puts a record into the open batch and returns its LSN; never blocks, never fails after `reserve`."""
        ...

    def flush(self, *, alone: bool = False) -> None:
        """Hands the open batch to the writer; during a sync it waits for that to end.

        `alone`: the caller has nothing to do until it is synced, so the log may write and sync it before this returns.
        """
        ...

    def read(self, from_lsn: int = 1) -> Iterator[tuple[int, bytes]]:
        """The records found at the start, as (LSN, record); to be called before the first append."""
        ...

    def trim(self, lsn: int) -> None:
        """Records below `lsn` aren't needed any more; they may stay readable for a while."""
        ...

    def subscribe(self, on_synced: OnSynced, on_failed: OnFailed, on_stalled: OnStalled | None = None) -> None:
        """`on_synced(lsn)` comes once for each group commit, `on_failed(error)` once and then nothing more.

        `on_stalled(error)` says that the disk is full and the gate stays shut, `on_stalled(None)` that it goes on.
        All come from the thread that writes, mostly the writer's own, and must return soon.
        """
        ...

    def close(self) -> None:
        """Writes what is open, seals, syncs, releases the lock; calling it again is nothing."""
        ...

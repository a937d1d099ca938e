"""A journal in memory, for tests and for runtimes that may forget: the twin of `Log`, under the same tests.

What is here is "synced" as soon as it is flushed. It knows no disk, so it never stalls and never fails.
"""

import os
from collections.abc import Iterator, Sequence

from .errors import JournalFull, RecordTooLarge
from .journal import RECORD_BYTES_MAX, OnFailed, OnStalled, OnSynced


class MemoryJournal:
    """Keeps its records in the list `records`, which may be given to another MemoryJournal to "restart" on.

    `capacity_bytes` bounds the records kept, to try out a full journal; trimming makes room.
    """

    def __init__(
        self,
        records: Sequence[bytes] = (),
        *,
        first_lsn: int = 1,
        uuid: bytes | None = None,
        capacity_bytes: int | None = None,
    ) -> None:
        self.uuid = os.urandom(16) if uuid is None else uuid
        self.records: list[bytes] = list(records)
        """The synced records from `first_lsn` on."""
        self._first_lsn = first_lsn
        self._recovered = len(self.records)
        self._open: list[bytes] = []
        self._unsynced_bytes = 0
        self._appended_bytes = 0
        self._kept_bytes = sum(map(len, self.records))
        self._capacity_bytes = capacity_bytes
        self._subscribers: list[OnSynced] = []
        self._closed = False

    @property
    def first_lsn(self) -> int:
        return self._first_lsn

    @property
    def next_lsn(self) -> int:
        return self._first_lsn + len(self.records) + len(self._open)

    @property
    def synced_lsn(self) -> int:
        return self._first_lsn + len(self.records) - 1

    @property
    def unsynced_bytes(self) -> int:
        return self._unsynced_bytes

    @property
    def appended_bytes(self) -> int:
        return self._appended_bytes

    @property
    def segments(self) -> int:
        return 0

    @property
    def commit_seconds(self) -> float:
        return 0.0

    def reserve(self, size: int, headroom: int = 0) -> None:
        if size > RECORD_BYTES_MAX:
            raise RecordTooLarge(f"a record of {size} bytes; the journal takes at most {RECORD_BYTES_MAX}")
        if self._capacity_bytes is not None and self._kept_bytes + size + headroom > self._capacity_bytes:
            raise JournalFull(f"journal full: no room for {size} bytes; nothing was recorded, try again later")

    def append(self, record: bytes) -> int:
        lsn = self.next_lsn
        self._open.append(record)
        self._unsynced_bytes += len(record)
        self._appended_bytes += len(record)
        self._kept_bytes += len(record)
        return lsn

    def flush(self, *, alone: bool = False) -> None:
        if not self._open or self._closed:
            return
        self.records += self._open
        self._open = []
        self._unsynced_bytes = 0
        synced_lsn = self.synced_lsn
        for on_synced in self._subscribers:
            on_synced(synced_lsn)

    def read(self, from_lsn: int = 1) -> Iterator[tuple[int, bytes]]:
        start = max(from_lsn - self._first_lsn, 0)
        for index in range(start, self._recovered):
            yield self._first_lsn + index, self.records[index]

    def trim(self, lsn: int) -> None:
        count = min(max(lsn - self._first_lsn, 0), len(self.records))
        self._kept_bytes -= sum(map(len, self.records[:count]))
        del self.records[:count]
        self._first_lsn += count
        self._recovered = max(self._recovered - count, 0)

    def subscribe(self, on_synced: OnSynced, on_failed: OnFailed, on_stalled: OnStalled | None = None) -> None:
        self._subscribers.append(on_synced)

    def close(self) -> None:
        self.flush()
        self._closed = True

"""A journal in memory whose syncs a test releases, or fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.runtime.kept_journal import KeptJournal


class HeldJournal(KeptJournal):
    """While `held`, what is flushed is in flight until a test releases it: the disk takes as long as a story wants."""

    def __init__(self, records: Sequence[bytes] = (), *, held: bool) -> None:
        super().__init__(records)
        self.held = held
        self._in_flight: list[bytes] = []
        self._on_failed: list[Callable[[BaseException], None]] = []

    @property
    def next_lsn(self) -> int:
        return super().next_lsn + len(self._in_flight)

    def subscribe(self, on_synced: Any, on_failed: Any, on_stalled: Any = None) -> None:
        super().subscribe(on_synced, on_failed, on_stalled)
        self._on_failed.append(on_failed)

    def flush(self, *, alone: bool = False) -> None:
        if not self.held:
            super().flush(alone=alone)
            return
        self._in_flight += self._open
        self._open = []

    def release(self, count: int | None = None) -> None:
        """The next `count` records (all, if None) are synced."""
        released, self._in_flight = self._in_flight[:count], self._in_flight[len(self._in_flight[:count]) :]
        self.records += released
        self._unsynced_bytes -= sum(map(len, released))
        for on_synced in self._subscribers:
            on_synced(self.synced_lsn)

    def fail(self, error: BaseException) -> None:
        """The sync failed: what is in flight is lost."""
        for on_failed in self._on_failed:
            on_failed(error)

    def close(self) -> None:
        self.held = False
        self.release()
        super().close()

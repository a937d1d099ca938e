"""A journal in memory that keeps what it may forget: the tests look at all that was ever recorded."""

from __future__ import annotations

from perdure.journal import MemoryJournal


class KeptJournal(MemoryJournal):
    def trim(self, lsn: int) -> None:
        """Trimmed records may stay readable for a while: here, for ever."""

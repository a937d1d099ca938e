"""A journal whose oldest segments are gone must not look like a shorter history."""

from __future__ import annotations

import pytest

from perdure.journal import MemoryJournal
from perdure.runtime.kernel import Kernel
from perdure.runtime.recovery import RecoveryFailed, recover
from perdure.runtime.settings import Settings


def test_a_journal_without_its_beginning_is_refused() -> None:
    """One line, which says what is missing; without a store nothing else holds it."""
    journal = MemoryJournal([b"any"], first_lsn=7)

    with pytest.raises(RecoveryFailed, match=r"begins with record 7.*put them back from a backup"):
        recover(Kernel(), journal, None, Settings(), 0)

"""A data directory: the journal, and beside it what only this process needs."""

from __future__ import annotations

from pathlib import Path

from perdure.journal import Damaged, Log

from .slots import SLOTS_FILE, Slots


def open_journal(directory: Path) -> Log:
    """Opens the journal, or makes one in a new directory.  Raises JournalError.

    A directory that has been in use but holds no segment has lost its journal: an empty one made in its place would
    look like a fresh start, and every object would begin at its defaults.
    """
    used = (directory / SLOTS_FILE).exists()
    if used and not any(directory.glob("*.segment")):
        raise Damaged(
            SLOTS_FILE,
            0,
            1,
            f"{directory} was in use, but its journal (*.segment) is missing; put it back, or name an empty directory",
        )
    return Log.open(directory)


def open_slots(directory: Path) -> Slots:
    return Slots(directory / SLOTS_FILE)

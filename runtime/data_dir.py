"""A data directory: the journal, the store that checkpoints write, and what only this process needs.

The journal is the truth for as far back as it goes; below that the store is the only copy.  So a store that can't be
used is made anew if the journal still begins at its first record, and refused if not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

from perdure.journal import Damaged, Journal, Log

from .exits import DAMAGED, StartRefused
from .slots import SLOTS_FILE, Slots
from .store import Store, StoreDamaged, StoreForeign

log: structlog.stdlib.BoundLogger = structlog.get_logger("perdure")

STORE_FILE: Final = "store.sqlite"
_BESIDE: Final = ("", "-wal", "-shm")


class StoreLost(StartRefused):
    """The journal and the store together don't hold everything; nothing was started or changed."""

    exit_code = DAMAGED


def open_journal(directory: Path) -> Log:
    """Opens the journal, or makes one in a new directory.  Raises JournalError.

    A directory that has been in use but holds no segment has lost its journal: an empty one made in its place would
    look like a fresh start, and every object would begin at its defaults.
    """
    used = next((name for name in (SLOTS_FILE, STORE_FILE) if (directory / name).exists()), None)
    if used is not None and not any(directory.glob("*.segment")):
        raise Damaged(
            used,
            0,
            1,
            f"{directory} was in use, but its journal (*.segment) is missing; put it back, or name an empty directory",
        )
    return Log.open(directory)


def open_store(directory: Path, journal: Journal) -> Store:
    """The store that belongs to the journal, made anew if need be and possible.  Raises StoreLost, StoreError."""
    path = directory / STORE_FILE
    whole = journal.first_lsn == 1
    recorded = journal.next_lsn - 1
    if not path.exists():
        if not whole:
            raise StoreLost(f"{path} is missing, and {_trimmed(journal)}")
        if recorded:
            log.warning("the store is missing: it is made anew from the journal", records=recorded)
        return Store.open(path, journal.uuid)
    try:
        store = Store.open(path, journal.uuid)
    except (StoreDamaged, StoreForeign) as error:
        if not whole:
            raise StoreLost(f"{error}; and {_trimmed(journal)}") from error
        log.warning("the store can't be used: it is made anew from the journal", why=str(error), records=recorded)
        put_aside(path)
        return Store.open(path, journal.uuid)
    problem = _why_unfit(store, journal, path)
    if problem is not None:
        store.close()
        raise StoreLost(problem)
    return store


def _why_unfit(store: Store, journal: Journal, path: Path) -> str | None:
    recorded = journal.next_lsn - 1
    if store.lsn > recorded:
        return (
            f"{path} is newer than the journal: it stands for record {store.lsn}, the journal ends with {recorded}; "
            "records that were acknowledged are missing: nothing was started or changed, restore a backup"
        )
    if store.lsn + 1 < journal.first_lsn:
        return f"{path} is older than it should be: it stands for record {store.lsn}, and {_trimmed(journal)}"
    return None


def _trimmed(journal: Journal) -> str:
    return (
        f"the journal begins with record {journal.first_lsn}, what came before was in the store alone: nothing was "
        "started or changed, put the right store back or restore a backup"
    )


def put_aside(path: Path) -> Path:
    """Keeps what can't be used for whoever wants to look at it; the one before is overwritten."""
    for end in _BESIDE:
        beside = path.with_name(path.name + end)
        if beside.exists():
            beside.replace(path.with_name(f"{path.name}.damaged{end}"))
    return path.with_name(f"{path.name}.damaged")


def open_slots(directory: Path) -> Slots:
    return Slots(directory / SLOTS_FILE)

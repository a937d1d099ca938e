"""A data directory: the journal, the store that checkpoints write, and what only this process needs.

The journal is the truth for as far back as it goes; below that the store is the only copy.  So a store that can't be
used is made anew if the journal still begins at its first record, and refused if not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import structlog

from perdure.journal import Damaged, Journal, Log, NotAJournal

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
    _refuse_lost_journal(directory)
    return Log.open(directory)


def refuse_without_journal(directory: Path) -> None:
    """For whoever looks after a data directory, and must not make one.  Raises NotAJournal, Damaged."""
    try:
        os.listdir(directory)
    except OSError as error:
        raise NotAJournal(f"{directory} can't be read: {error.strerror}; name a data directory") from error
    _refuse_lost_journal(directory)
    if not _has_journal(directory):
        raise NotAJournal(f"{directory} is no data directory: there is no journal (*.segment) in it; nothing was done")


def _refuse_lost_journal(directory: Path) -> None:
    used = next((name for name in (SLOTS_FILE, STORE_FILE) if (directory / name).exists()), None)
    if used is not None and not _has_journal(directory):
        raise Damaged(
            used,
            0,
            1,
            f"{directory} was in use, but its journal (*.segment) is missing; put it back, or name an empty directory",
        )


def _has_journal(directory: Path) -> bool:
    return any(directory.glob("*.segment"))


def open_store(directory: Path, journal: Journal) -> Store:
    """The store that belongs to the journal, made anew if need be and possible.  Raises StoreLost, StoreError."""
    path = directory / STORE_FILE
    whole = journal.first_lsn == 1
    recorded = journal.next_lsn - 1
    if not path.exists():
        if not whole:
            raise StoreLost(f"{path} is missing, and {trimmed(journal.first_lsn)}")
        if recorded:
            log.warning("the store is missing: it is made anew from the journal", records=recorded)
        return Store.open(path, journal.uuid)
    try:
        store = Store.open(path, journal.uuid)
    except (StoreDamaged, StoreForeign) as error:
        if not whole:
            raise StoreLost(f"{error}; and {trimmed(journal.first_lsn)}") from error
        log.warning("the store can't be used: it is made anew from the journal", why=str(error), records=recorded)
        put_aside(path)
        return Store.open(path, journal.uuid)
    problem = why_too_new(path, store.lsn, recorded) or why_too_old(path, store.lsn, journal.first_lsn)
    if problem is not None:
        store.close()
        raise StoreLost(problem)
    return store


def why_too_new(path: Path, store_lsn: int, last_lsn: int) -> str | None:
    """Why the store at `path` can't belong to a journal that ends with `last_lsn`, for people; None: it can."""
    if store_lsn <= last_lsn:
        return None
    return (
        f"{path} is newer than the journal: it stands for record {store_lsn}, the journal ends with {last_lsn}; "
        "records that were acknowledged are missing: nothing was started or changed, restore a backup"
    )


def why_too_old(path: Path, store_lsn: int, first_lsn: int) -> str | None:
    """Likewise, of a journal that begins with `first_lsn`."""
    if store_lsn + 1 >= first_lsn:
        return None
    return f"{path} is older than it should be: it stands for record {store_lsn}, and {trimmed(first_lsn)}"


def trimmed(first_lsn: int) -> str:
    """Why a store can't be made anew, and what to do."""
    return (
        f"the journal begins with record {first_lsn}, what came before was in the store alone: nothing was "
        "started or changed, put the right store back or restore a backup"
    )


def put_aside(path: Path) -> Path:
    """Keeps what can't be used for whoever wants to look at it; the one before is overwritten.

    Killed in the middle, the next one goes on: a WAL is kept under the name of the file that it belongs to.
    """
    aside = path.with_name(f"{path.name}.damaged")
    if path.exists():
        for end in _BESIDE:
            aside.with_name(aside.name + end).unlink(missing_ok=True)
    for end in _BESIDE:
        beside = path.with_name(path.name + end)
        if beside.exists():
            beside.replace(aside.with_name(aside.name + end))
    return aside


def open_slots(directory: Path) -> Slots:
    return Slots(directory / SLOTS_FILE)

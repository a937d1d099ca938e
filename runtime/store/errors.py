"""What can go wrong with a store, named by what can be done about it.

Each error's text is the one line for people, and `exit_code` is what a process that stops because of it returns
(`runtime/exits.py`). Nothing of SQLite's leaves this package: `explained` says what one of its errors means here.
"""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

REBUILD = "`perdure store rebuild` makes it anew from the journal, if that still reaches back"


class StoreError(Exception):
    """Something is wrong with the store. Raised itself only for what nobody foresaw."""

    exit_code: int = 15


class StoreDamaged(StoreError):
    """The file doesn't say what was written to it: rebuild it, or restore a copy. No answer was given from it.

    Unlike StoreFull this doesn't pass. `path` is the file, `what` was found in it.
    """

    exit_code = 12

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"store damaged: {path}: {what}; no answer was given from it, nothing was changed; "
            f"see `perdure store verify`; {REBUILD}"
        )
        self.path = path
        self.what = what

    def __reduce__(self) -> tuple[type[StoreDamaged], tuple[Path, str]]:
        return (StoreDamaged, (self.path, self.what))


class StoreForeign(StoreError):
    """A whole store, but of another log: put the right file there, or rebuild. Nothing was touched."""

    exit_code = 12


class StoreNewer(StoreError):
    """A newer release wrote this store: start that release. Nothing was touched."""

    exit_code = 11


class StoreFull(StoreError):
    """The disk takes no more, or refused a write: nothing was changed, commit again when there is space."""

    exit_code = 15


class StoreInUse(StoreError):
    """Another program holds a lock on the file: end it, and try again. Nothing was changed."""

    exit_code = 10


class StoreNotWritable(StoreError):
    """The file can't be created, opened or written: mend its permissions or the mount. Nothing was changed."""

    exit_code = 13


class StoreFailed(StoreError):
    """A sync failed: what was written last may be lost, though the kernel says no more about it. Never tried again; the
    journal has it still, and the next start writes it anew."""

    exit_code = 14


class StoreMissing(StoreError):
    """There is no store where one was to be read: look for the right file."""

    exit_code = 2


class StoreExists(StoreError):
    """There is a file where a copy was to be written: name another. Nothing was touched."""

    exit_code = 2


# A disk that can't give back what it holds is damage, as for the journal; every other I/O error is a refused write.
_READ_ERRORS = {
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
    sqlite3.SQLITE_IOERR_DATA,
}
_SYNC_ERRORS = {sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC}
_DAMAGED = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CONSTRAINT,  # one index has a key that the other hasn't
}
_IN_USE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_NOT_WRITABLE = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH}
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}


def explained(error: sqlite3.Error | OSError, path: Path) -> StoreError:
    """What `error`, met on the file at `path`, means to whoever has to act."""
    if isinstance(error, OSError):
        return _full(path, error) if error.errno in _FULL_ERRNOS else _not_writable(path, error)
    extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)  # the module's own errors carry none
    primary = extended & 0xFF
    if primary in _DAMAGED or extended in _READ_ERRORS:
        return StoreDamaged(path, str(error))
    if primary in _FULL:
        return _failed(path, error) if extended in _SYNC_ERRORS else _full(path, error)
    if primary in _IN_USE:
        return StoreInUse(f"{path} is locked by another program: end it and try again; nothing was changed")
    if primary in _NOT_WRITABLE:
        return _not_writable(path, error)
    return StoreError(f"{path}: {error}; nothing was changed; this is a bug, please report it")


def _failed(path: Path, error: Exception) -> StoreFailed:
    return StoreFailed(f"a sync of {path} failed: {error}; the journal has everything, start again")


def _full(path: Path, error: Exception) -> StoreFull:
    return StoreFull(f"the disk refused a write to {path}: {error}; nothing was changed, try again when there is space")


def _not_writable(path: Path, error: Exception) -> StoreNotWritable:
    return StoreNotWritable(
        f"{path} can't be opened or written: {error}; mend its permissions or the mount; nothing was changed"
    )

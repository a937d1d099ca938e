"""A look into a store that may not be ours to write: beside a live process, or where nothing can be written at all.

A store is in WAL mode, which SQLite reads only where it finds the files beside it, or can make them.  A store that was
closed has none; so on a read-only mount SQLite has to be told that nobody changes the file (`immutable`).  It takes no
lock then, and whoever reaches the file by another mount could write it meanwhile: so it is compared afterwards.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .errors import StoreDamaged, StoreInUse, StoreNotWritable, explained
from .layout import Meta
from .sqlite_file import connect, read_meta


class _Rest(NamedTuple):
    """A store that nobody has open; while it is as it was, nobody has written to it."""

    inode: int
    bytes: int
    modified_ns: int


@contextmanager
def reading(path: Path) -> Generator[sqlite3.Connection]:
    """A connection that reads.  Raises StoreError, and what the body raises."""
    rest = _at_rest(path)
    try:
        connection = connect(path, writes=False, immutable=rest is not None)
    except (sqlite3.Error, OSError) as error:
        raise explained(error, path) from error
    try:
        yield connection
    except (sqlite3.Error, StoreDamaged):  # perhaps of pages that do not belong together
        _refuse_changed(path, rest)
        raise
    finally:
        connection.close()
    _refuse_changed(path, rest)


def meta_at(connection: sqlite3.Connection, path: Path) -> Meta:
    """The store's head, as the first thing that is read of it.  Raises StoreError."""
    try:
        return read_meta(connection, path)
    except sqlite3.Error as error:
        raise explained(error, path) from error


def _at_rest(path: Path) -> _Rest | None:
    """None where SQLite's own locks are to be had, as they nearly always are.  Raises StoreNotWritable."""
    try:
        if not os.statvfs(path).f_flag & os.ST_RDONLY:
            return None
        wal, shm = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
        if shm.exists():  # a process has it open, or was killed
            return None
        found = path.stat()
    except OSError:
        return None  # for SQLite to say
    if wal.exists() and wal.stat().st_size:
        raise StoreNotWritable(
            f"{path} can't be read where it is: its newest changes are in {wal.name}, which SQLite reads only where it "
            "can write, and this mount is read-only; copy the data directory to another place; nothing was changed"
        )
    return _Rest(found.st_ino, found.st_size, found.st_mtime_ns)


def _refuse_changed(path: Path, before: _Rest | None) -> None:
    if before is not None and _at_rest(path) != before:
        raise StoreInUse(
            f"{path} was changed while it was read on a read-only mount, by whoever can write it: try again; "
            "nothing was changed here"
        )

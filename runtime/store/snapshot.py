"""A store as a file: its head, a copy of a live one as of one moment, and how a new one gets its name."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from .errors import StoreExists, explained
from .layout import Meta
from .reading import meta_at, reading
from .sqlite_file import beside, sync

_PAGES_AT_ONCE = 256


def copy_store(
    source: Path,
    target: Path,
    on_progress: Callable[[int, int], None] | None = None,
    on_moment: Callable[[int], None] | None = None,
) -> int:
    """Returns the LSN of the copy, which is on the disk. Raises StoreError; nothing is left then.

    `on_moment` is called with that LSN once it is settled, before the pages are copied, which may take long.
    """
    partial = target.with_name(target.name + "-partial")
    for file in (target, partial):
        if file.exists():
            raise StoreExists(f"{file} exists: name another target, or remove it; nothing was written")
    try:
        return _copy_to(target, partial, source, on_progress, on_moment)
    except (sqlite3.Error, OSError) as error:
        raise explained(error, target) from error


def _copy_to(
    target: Path,
    partial: Path,
    source: Path,
    on_progress: Callable[[int, int], None] | None,
    on_moment: Callable[[int], None] | None,
) -> int:
    try:
        with reading(source) as reader:
            # Inside a transaction the copy sees one moment; without it each commit would make it begin anew.
            reader.execute("BEGIN")
            lsn = meta_at(reader, source).lsn
            if on_moment is not None:
                on_moment(lsn)
            _copy(reader, partial, on_progress)
        sync(partial)
        partial.rename(target)
        sync(target.parent)
    except BaseException:
        for file in (partial, *beside(partial)):
            file.unlink(missing_ok=True)
        raise
    return lsn


def head_of(path: Path) -> Meta:
    """What the store at `path` says of itself, also beside a live process.  Raises StoreError."""
    with reading(path) as reader:
        return meta_at(reader, path)


def uuid_of(path: Path) -> bytes:
    """The log that the store at `path` belongs to.  Raises StoreError."""
    return head_of(path).uuid


def put_in_place(new: Path, path: Path) -> None:
    """A closed store gets its name, at once and for good, where there is none.  Raises StoreError."""
    try:
        sync(new)
        for stale in beside(path):  # SQLite would apply any WAL to any file
            stale.unlink(missing_ok=True)
        sync(path.parent)  # before the file has its name, nothing of a former one is left beside it
        new.rename(path)
        sync(path.parent)
    except OSError as error:
        raise explained(error, path) from error


def _copy(reader: sqlite3.Connection, partial: Path, on_progress: Callable[[int, int], None] | None) -> None:
    copy = sqlite3.connect(partial, isolation_level=None)
    try:
        copy.execute("PRAGMA synchronous = OFF")  # synced once, when it is whole
        reader.backup(
            copy,
            pages=_PAGES_AT_ONCE,
            progress=None if on_progress is None else lambda _, remaining, total: on_progress(total - remaining, total),
        )
    finally:
        copy.close()

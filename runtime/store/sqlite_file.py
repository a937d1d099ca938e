"""The file as SQLite sees it: settings, tables, connections, how one comes into being, what is checked when it opens.

What this file does not know: what a commit or a read of rows is.
A connection's rollback, checkpoint and locks are SQLite's; no other code may open the file in this process while a
connection is open, since closing any descriptor of it would drop SQLite's locks.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import struct
from contextlib import suppress
from pathlib import Path

from .errors import REBUILD, StoreDamaged, StoreForeign, StoreNewer
from .layout import EMPTY_PAGE, PAGE_BYTES, PAGES, VERSION, Hasher, Meta, Sums

APPLICATION_ID = 0x50524453  # "PRDS"
PAGE_SIZE = 4096
CACHE_KIB = 4096
WAL_PAGES = 1000
WAL_BYTES_KEPT = 8 * 1024 * 1024
BUSY_SECONDS = 5.0

_SCHEMA = {
    "rows": "CREATE TABLE rows (id INTEGER PRIMARY KEY, key BLOB NOT NULL, bucket INTEGER NOT NULL,"
    " value BLOB NOT NULL, hash INTEGER NOT NULL)",
    "rows_by_key": "CREATE UNIQUE INDEX rows_by_key ON rows (key)",
    "rows_by_bucket": "CREATE UNIQUE INDEX rows_by_bucket ON rows (bucket, key)",
    "sums": "CREATE TABLE sums (page INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    "meta": "CREATE TABLE meta (id INTEGER PRIMARY KEY, version INTEGER NOT NULL, uuid BLOB NOT NULL,"
    " lsn INTEGER NOT NULL, summary BLOB NOT NULL, sums BLOB NOT NULL, hash BLOB NOT NULL)",
}

WRITE_META = "INSERT OR REPLACE INTO meta VALUES (1, ?, ?, ?, ?, ?, ?)"
WRITE_SUMS = "INSERT OR REPLACE INTO sums VALUES (?, ?)"


def connect(path: Path, *, writes: bool, immutable: bool = False) -> sqlite3.Connection:
    """A connection to a file that exists. Raises sqlite3.Error, as everything here that takes a connection does.

    `immutable`: without locks, of a file that nobody changes; see reading.py.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))  # SQLite would call it a disk error
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'rw' if writes else 'ro'}{'&immutable=1' if immutable else ''}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.text_factory = bytes  # a damaged value may be text, and of no encoding
        _settle(connection, writes=writes)
    except BaseException:
        connection.close()
        raise
    return connection


def _settle(connection: sqlite3.Connection, *, writes: bool) -> None:
    settings = {
        "cache_size": -CACHE_KIB,
        "mmap_size": 0,
        "trusted_schema": 0,
        "cell_size_check": 1,
        # Else a statement that changes many rows keeps their pages as they were in a file under /tmp.
        "temp_store": 2,
    }
    if writes:
        settings |= {
            "synchronous": 2,  # FULL: a commit is on the disk when it returns
            "wal_autocheckpoint": WAL_PAGES,
            "journal_size_limit": WAL_BYTES_KEPT,
            "secure_delete": 0,
        }
    for name, value in settings.items():
        connection.execute(f"PRAGMA {name} = {value}").fetchall()


def create(path: Path, uuid: bytes) -> None:
    """A store at LSN 0. It gets its name when it is whole and on the disk, so a crash leaves none or all of it."""
    new = path.with_name(path.name + "-new")
    for stale in (new, *beside(new), *beside(path)):  # the WAL of a lost file would be applied to this one
        stale.unlink(missing_ok=True)
    new.touch(mode=0o600)  # whoever may look into the directory may not look into this; the WAL is made like it
    connection = sqlite3.connect(new, isolation_level=None)
    try:
        for setting in (
            "journal_mode = OFF",  # nobody knows this file yet: it is synced when it is whole
            "synchronous = OFF",
            f"page_size = {PAGE_SIZE}",
            "auto_vacuum = INCREMENTAL",
            f"application_id = {APPLICATION_ID}",
            f"user_version = {VERSION}",
        ):
            connection.execute(f"PRAGMA {setting}")
        connection.execute("BEGIN")
        for statement in _SCHEMA.values():
            connection.execute(statement)
        hasher = Hasher(uuid)
        pages = [EMPTY_PAGE] * PAGES
        connection.executemany(WRITE_SUMS, enumerate(pages))
        write_meta(connection, hasher, Meta(VERSION, uuid, 0, b"", Sums(hasher, pages).total()))
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")  # kept in the file
    finally:
        connection.close()
    sync(new)
    sync(path.parent)  # before the file has its name, nothing of a former one is left beside it
    new.rename(path)
    sync(path.parent)


def write_meta(connection: sqlite3.Connection, hasher: Hasher, meta: Meta) -> None:
    connection.execute(WRITE_META, (*meta, hasher.meta(meta)))


def read_meta(connection: sqlite3.Connection, path: Path) -> Meta:
    """What the file says of itself, proved. Raises StoreDamaged, or StoreNewer if that is what it says."""
    _check_version(connection, path)
    found = connection.execute("SELECT version, uuid, lsn, summary, sums, hash FROM meta").fetchall()
    if len(found) == 1:
        *fields, digest = found[0]
        if [type(field) for field in fields] == [int, bytes, int, bytes, bytes]:
            meta = Meta(*fields)
            with suppress(ValueError, struct.error):  # sizes and numbers that nobody wrote
                if Hasher(meta.uuid).meta(meta) == digest:
                    return meta
    raise StoreDamaged(path, "its head is not what was written")


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    """Every later version keeps the application id, the user version, and that again as `version` in `meta`."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise StoreDamaged(path, "it is no store, or its first page is not what was written")
    if version > VERSION and connection.execute("SELECT version FROM meta").fetchall() == [(version,)]:
        raise StoreNewer(
            f"{path} was written by a newer release (format {version}, this one reads {VERSION}): start that release; "
            "nothing was changed"
        )
    if version != VERSION:
        raise StoreDamaged(path, "its format version is not what was written")
    found = dict(connection.execute("SELECT name, sql FROM sqlite_schema"))
    if found != {name.encode(): statement.encode() for name, statement in _SCHEMA.items()}:
        raise StoreDamaged(path, "its tables are not those that were made")


def read_sums(connection: sqlite3.Connection, path: Path, meta: Meta) -> Sums:
    """All sums, proved by `meta`. Raises StoreDamaged."""
    pages = [data for _, data in connection.execute("SELECT page, data FROM sums ORDER BY page LIMIT ?", (PAGES + 1,))]
    if [type(data) for data in pages] == [bytes] * PAGES and {len(data) for data in pages} == {PAGE_BYTES}:
        sums = Sums(Hasher(meta.uuid), pages)
        if sums.total() == meta.sums:
            return sums
    raise StoreDamaged(path, "the sums of its rows are not what was written")


def check_uuid(path: Path, meta: Meta, uuid: bytes) -> None:
    """Raises StoreForeign."""
    if meta.uuid != uuid:
        raise StoreForeign(
            f"{path} belongs to log {meta.uuid.hex()}, this is log {uuid.hex()}: put the right file there, "
            f"or {REBUILD}; nothing was changed"
        )


def sync(path: Path) -> None:
    """A file, or a directory and with it the names of what is in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def beside(path: Path) -> list[Path]:
    """The files that SQLite keeps next to one."""
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal")]

"""A store as of one moment, for another process than the one that writes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from .errors import StoreDamaged, explained
from .layout import Hasher, Meta
from .sqlite_file import connect, read_meta

_ROWS_AT_ONCE = 256
_GET = "SELECT key, bucket, value, hash FROM rows INDEXED BY rows_by_key WHERE key = ?"
_SCAN = "SELECT key, bucket, value, hash FROM rows INDEXED BY rows_by_key WHERE key >= ? AND key < ? ORDER BY key"


class Moment:
    """What was committed when it was opened.  The file's WAL grows for as long as it is open.

    Each row is compared with its hash.  That none is missing is for the owner and for `verify` to find out: here an
    answer is shown to a person, and nothing is decided by it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, meta: Meta, look_up: Callable[[], None]) -> None:
        """Use `open`."""
        self.meta = meta
        self._path = path
        self._connection = connection
        self._hasher = Hasher(meta.uuid)
        self._look_up = look_up

    @classmethod
    def open(cls, path: Path, look_up: Callable[[], None] = lambda: None) -> Self:
        """`look_up` is called now and then while rows are read, and may raise.  Raises StoreError."""
        try:
            connection = connect(path, writes=False)
            try:
                connection.execute("BEGIN")
                return cls(path, connection, read_meta(connection, path), look_up)
            except BaseException:
                connection.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise explained(error, path) from error

    def get(self, key: bytes) -> bytes | None:
        """Raises StoreError."""
        return next((value for _, value in self._select(_GET, (key,))), None)

    def scan(self, begin: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All rows with begin <= key < end, in key order.  Raises StoreError."""
        return self._select(_SCAN, (begin, end))

    def close(self) -> None:
        self._connection.close()

    def _select(self, statement: str, values: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes]]:
        try:
            cursor = self._connection.execute(statement, values)
            while found := cursor.fetchmany(_ROWS_AT_ONCE):
                self._look_up()
                for key, bucket, value, row_hash in found:
                    if not self._hasher.is_whole(bucket, key, value, row_hash):
                        raise StoreDamaged(self._path, f"the row of key {key!r} is not what was written")
                    yield key, value
        except sqlite3.Error as error:
            raise explained(error, self._path) from error

"""The store on a disk: two connections to one SQLite file, one that reads and one that commits.

    the loop's thread       get, range      its own connection, read-only; a snapshot for each call
    another thread          commit          rows in portions, then sums, then the head: one transaction

What is decided here: which buckets are known to be whole, and how a commit keeps the interpreter for no longer than
a portion. What this file does not know: what the bytes mean.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, Self

from .errors import StoreDamaged, explained
from .layout import BUCKETS, BUCKETS_IN_PAGE, PAGE_BYTES, VERSION, Hasher, Meta, Sums, SumsChange, SumsPage, sum_in_page
from .protocol import Put
from .snapshot import copy_store
from .sqlite_file import check_uuid, connect, create, read_meta, read_sums, write_meta

PORTION_ROWS = 64
"""Rows hashed between two calls of SQLite's: some 150 µs, for which the loop may have to wait."""
PORTION_BYTES = 256 * 1024
SUMS_PAGES = 16
"""Pages of sums, likewise."""
VACUUM_PAGES = 1024
"""Given back to the disk after a commit, at most: 4 MiB."""
FREE_PAGES_KEPT = 1024
"""Not given back, since the next commits would take them again."""

_GET = "SELECT bucket, value, hash FROM rows INDEXED BY rows_by_key WHERE key = ?"
_BUCKET = (
    "SELECT 0, data, NULL, NULL FROM sums WHERE page = ? UNION ALL"
    " SELECT 1, listed.key, value, hash"
    " FROM (SELECT key FROM rows INDEXED BY rows_by_bucket WHERE bucket = ?) AS listed"
    " CROSS JOIN rows INDEXED BY rows_by_key ON rows.key = listed.key"
)
"""Of one moment, since it is one statement; and each step of each statement is a round of the interpreter's lock."""
_RANGE = (
    "SELECT key, bucket, value, hash FROM rows INDEXED BY rows_by_key WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"
)
_RANGE_IN_BUCKET = (
    "SELECT key FROM rows INDEXED BY rows_by_bucket WHERE bucket = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?"
)


class Store:
    """An open store. `get` and `range` belong to the thread of the loop, `commit` and `snapshot` to any other."""

    blocking = True

    def __init__(
        self, path: Path, reader: sqlite3.Connection, writer: sqlite3.Connection, meta: Meta, sums: Sums
    ) -> None:
        """Use `open`."""
        self.path = path
        self._reader = reader
        self._writer = writer
        self._meta = meta
        self._sums = sums
        self._hasher = Hasher(meta.uuid)
        self._verified = bytearray(BUCKETS)

    @classmethod
    def open(cls, path: Path, uuid: bytes) -> Self:
        """Opens the store at `path`, or makes one at LSN 0 if there is none: whether there may be none is yours to say.

        All sums are verified, no row is. What an interrupted process had committed is made durable here.
        Raises StoreDamaged, StoreForeign, StoreNewer, StoreInUse, StoreNotWritable, StoreFull; the file is as it was.
        """
        if len(uuid) != 16:
            raise ValueError(f"a log's uuid has 16 bytes, not {len(uuid)}")
        with _explaining(path):
            if not path.exists():
                create(path, uuid)
            reader = connect(path, writes=False)
            try:
                with _snapshot(reader):
                    meta = read_meta(reader, path)
                    check_uuid(path, meta, uuid)
                    sums = read_sums(reader, path, meta)
                writer = connect(path, writes=True)
            except BaseException:
                reader.close()
                raise
            store = cls(path, reader, writer, meta, sums)
            try:
                # A kill may have come between a commit's write and its sync: the pages are in the cache, and nobody
                # knows whether they are on the disk. A checkpoint writes them anew, and syncs.
                writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except BaseException:
                store.close()
                raise
            return store

    @property
    def uuid(self) -> bytes:
        return self._meta.uuid

    @property
    def lsn(self) -> int:
        return self._meta.lsn

    @property
    def summary(self) -> bytes:
        return self._meta.summary

    def get(self, key: bytes, group: bytes | None = None) -> bytes | None:
        bucket = self._hasher.bucket(key if group is None else group)
        try:
            if not self._verified[bucket] and (value := self._verify(bucket).get(key)) is not None:
                return value
            return self._value(key, bucket)
        except sqlite3.Error as error:
            raise explained(error, self.path) from error

    def range(self, begin: bytes, end: bytes, limit: int, groups: Iterable[bytes] = ()) -> list[tuple[bytes, bytes]]:
        buckets = {self._hasher.bucket(group) for group in groups}
        with _explaining(self.path), _snapshot(self._reader):
            for bucket in buckets:
                if not self._verified[bucket]:
                    self._verify(bucket)
            rows = self._rows(begin, end, limit)
            self._check_none_hidden(rows, begin, end, limit, buckets)
        return rows

    def commit(self, puts: Sequence[Put], lsn: int, summary: bytes) -> None:
        if lsn < self._meta.lsn:
            raise ValueError(f"the store stands for record {self._meta.lsn} and can't go back to {lsn}")
        change = SumsChange()
        with _explaining(self.path):
            with _transaction(self._writer):
                for portion in _portions(puts):
                    self._write_rows(portion, change)
                pages = self._write_sums(change)
                meta = Meta(VERSION, self.uuid, lsn, summary, self._sums.total(pages))
                write_meta(self._writer, self._hasher, meta)
            self._sums.take(pages)
            self._meta = meta
        self._give_space_back()

    def snapshot(self, target: Path, on_progress: Callable[[int, int], None] | None = None) -> int:
        """Writes a copy as of one moment to `target`, while commits go on; returns its LSN.

        `on_progress(pages copied, pages in all)`. The copy is whole and on the disk when this returns, and `target`
        is not there before. The file's WAL grows until then. Raises StoreExists, StoreFull, StoreNotWritable.
        """
        with _explaining(target):
            return copy_store(self.path, target, on_progress)

    def close(self) -> None:
        with _explaining(self.path):
            self._reader.close()
            self._writer.close()  # the last one: it moves the WAL into the file, and removes it

    # --- reading ------------------------------------------------------------------------------------------------------

    def _value(self, key: bytes, bucket: int) -> bytes | None:
        found = self._reader.execute(_GET, (key,)).fetchall()
        if not found:
            return None
        at, value, row_hash = found[0]
        if at != bucket or not self._hasher.is_whole(bucket, key, value, row_hash):
            self._refuse_row(key, at, value, row_hash)
        whole: bytes = value
        return whole

    def _refuse_row(self, key: object, bucket: object, value: object, row_hash: object) -> NoReturn:
        """A row that is whole, but in another bucket, is its writer's mistake and no damage."""
        if self._hasher.is_whole(bucket, key, value, row_hash):
            raise ValueError(f"key {key!r} belongs to another group")
        raise StoreDamaged(self.path, f"the row of key {key!r} is not what was written")

    def _verify(self, bucket: int) -> dict[bytes, bytes]:
        """All of its rows. Each is looked up as `get` would; what was written and isn't found shows in the sum.

        The sum is the file's: what is in memory may be of a commit that the reader doesn't see yet.
        """
        rows: dict[bytes, bytes] = {}
        expected: tuple[int, int] | None = None
        count = xor = 0
        for is_row, key, value, row_hash in self._reader.execute(
            _BUCKET, (bucket // BUCKETS_IN_PAGE, bucket)
        ).fetchall():
            if not is_row:
                if isinstance(key, bytes) and len(key) == PAGE_BYTES:
                    expected = sum_in_page(key, bucket)
                continue
            if not self._hasher.is_whole(bucket, key, value, row_hash):
                raise StoreDamaged(self.path, f"the row of key {key!r} is not what was written")
            rows[key] = value
            count += 1
            xor ^= row_hash
        if expected is None:
            raise StoreDamaged(self.path, "the sums of its rows are not what was written")
        if (count, xor) != expected:
            problem = f"{count} rows where {expected[0]} were written, or not those (bucket {bucket})"
            raise StoreDamaged(self.path, problem)
        self._verified[bucket] = 1
        return rows

    def _rows(self, begin: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        rows: list[tuple[bytes, bytes]] = []
        last = begin
        for key, bucket, value, row_hash in self._reader.execute(_RANGE, (begin, end, limit)):
            if not self._hasher.is_whole(bucket, key, value, row_hash):
                raise StoreDamaged(self.path, f"the row of key {key!r} is not what was written")
            if not last <= key < end or (rows and key == last):
                raise StoreDamaged(self.path, f"the row of key {key!r} is out of order")
            rows.append((key, value))
            last = key
        return rows

    def _check_none_hidden(
        self, rows: list[tuple[bytes, bytes]], begin: bytes, end: bytes, limit: int, buckets: set[int]
    ) -> None:
        """A damaged page can lead a scan astray where it leads no look-up; the index, other pages, tells."""
        found = {key for key, _ in rows}
        if len(rows) == limit:
            end = rows[-1][0] if rows else begin
        for bucket in buckets:
            for (key,) in self._reader.execute(_RANGE_IN_BUCKET, (bucket, begin, end, limit)):
                if key not in found:
                    raise StoreDamaged(self.path, f"the row of key {key!r} is out of order")

    # --- writing ------------------------------------------------------------------------------------------------------

    def _write_rows(self, portion: dict[bytes, Put], change: SumsChange) -> None:
        hasher = self._hasher
        written: list[bytes | int] = []
        gone: list[bytes] = []
        for key, value, group in portion.values():
            if value is None:
                gone.append(key)
                continue
            bucket = hasher.bucket(key if group is None else group)
            row_hash = hasher.row(bucket, key, value)
            written += (key, bucket, value, row_hash)
            change.add(bucket, row_hash)
        self._remove_from_sums(list(portion), change)
        if gone:
            self._writer.execute(f"DELETE FROM rows WHERE key IN ({_places(len(gone))})", gone)
        if written:
            rows = len(written) // 4
            values = ",".join(["(?,?,?,?)"] * rows)
            done = self._writer.execute(
                f"INSERT INTO rows (key, bucket, value, hash) VALUES {values} ON CONFLICT (key) DO UPDATE"
                " SET value = excluded.value, hash = excluded.hash WHERE bucket = excluded.bucket",
                written,
            )
            if done.rowcount != rows:
                self._refuse_bucket(written)

    def _refuse_bucket(self, written: list[bytes | int]) -> NoReturn:
        """A row is there, but not in the bucket where it was to be changed."""
        for key, bucket in zip(written[::4], written[1::4], strict=True):
            for at, value, row_hash in self._writer.execute(_GET, (key,)):
                if at != bucket:
                    self._refuse_row(key, at, value, row_hash)
        raise StoreDamaged(self.path, "rows can't be changed that are not there")

    def _remove_from_sums(self, keys: list[bytes], change: SumsChange) -> None:
        """What the rows of these keys, as they are, add to their buckets.

        As one row of text: each row that SQLite gives costs a round of the interpreter's lock. On a damaged index it
        goes on to rows of other keys, whose hashes would then leave the sums, and nobody would miss them: `astray`.
        """
        [(found, astray)] = self._writer.execute(
            "SELECT group_concat(at.bucket || ':' || at.hash), total(at.key IS NOT listed.key OR at.hash IS NULL)"
            " FROM rows AS listed INDEXED BY rows_by_key CROSS JOIN rows AS at ON at.id = listed.id"
            f" WHERE listed.key IN ({_places(len(keys))})",
            keys,
        ).fetchall()
        if astray:
            raise StoreDamaged(self.path, "its index of keys leads to other keys' rows")
        for row in found.split(b",") if found else ():
            try:
                bucket, row_hash = map(int, row.split(b":"))
                change.remove(bucket, row_hash)
            except ValueError:
                raise StoreDamaged(self.path, "a row's bucket or hash is not what was written") from None

    def _write_sums(self, change: SumsChange) -> dict[int, SumsPage]:
        changed: dict[int, SumsPage] = {}
        numbers = change.pages()
        for begin in range(0, len(numbers), SUMS_PAGES):
            written: list[int | bytes] = []
            for number in numbers[begin : begin + SUMS_PAGES]:
                try:
                    page = changed[number] = self._sums.changed(number, change)
                except ValueError as error:
                    raise StoreDamaged(self.path, str(error)) from None
                written += (number, page.data)
            values = ",".join(["(?,?)"] * (len(written) // 2))
            self._writer.execute(f"INSERT OR REPLACE INTO sums VALUES {values}", written)
        return changed

    def _give_space_back(self) -> None:
        """In a transaction of its own, whose failure loses nothing: the next commit tries again."""
        with suppress(sqlite3.Error):
            free = self._writer.execute("PRAGMA freelist_count").fetchone()[0]
            if free > FREE_PAGES_KEPT:
                # executescript steps through all of it without the interpreter's lock.
                self._writer.executescript(f"PRAGMA incremental_vacuum({min(free - FREE_PAGES_KEPT, VACUUM_PAGES)})")


def _portions(puts: Iterable[Put]) -> Iterator[dict[bytes, Put]]:
    """Bounded in rows and bytes; of two puts for one key in a portion the later is left."""
    portion: dict[bytes, Put] = {}
    size = 0
    for put in puts:
        portion[put.key] = put
        size += len(put.key) + len(put.value or b"")
        if len(portion) >= PORTION_ROWS or size >= PORTION_BYTES:
            yield portion
            portion, size = {}, 0
    if portion:
        yield portion


def _places(count: int) -> str:
    return ",".join("?" * count)


@contextmanager
def _explaining(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise explained(error, path) from error


@contextmanager
def _snapshot(reader: sqlite3.Connection) -> Generator[None, None, None]:
    """All that is read inside is of one moment."""
    reader.execute("BEGIN")
    try:
        yield
    finally:
        with suppress(sqlite3.Error):  # a disk error may have ended it
            reader.execute("ROLLBACK")


@contextmanager
def _transaction(writer: sqlite3.Connection) -> Generator[None, None, None]:
    writer.execute("BEGIN IMMEDIATE")
    try:
        yield
        writer.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk may have ended it
            writer.execute("ROLLBACK")
        raise

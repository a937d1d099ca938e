"""`verify`: reads every row of a store and says what it found. Writes nothing, also beside a live process."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import StoreDamaged, StoreMissing, explained
from .layout import BUCKETS, Hasher, Meta
from .reading import reading
from .sqlite_file import read_meta, read_sums

OnProgress = Callable[[int, int], None]
"""Called with (rows read, rows in all)."""

_ROWS_BETWEEN_PROGRESS = 10_000
_PROBLEMS_NAMED = 100
"""A file with more is as lost as one with a million; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a store holds, and each thing that is wrong with it as one line. Without a head `meta` is None."""

    path: Path
    meta: Meta | None
    rows: int
    row_bytes: int
    problems: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        if self.meta is None:
            return f"damaged: {self.path}: {'; '.join(self.problems)}"
        state = "whole" if self.whole else f"damaged ({len(self.problems)} problems)"
        return (
            f"{state}: stands for records up to {self.meta.lsn}, {self.rows} rows of {self.row_bytes} bytes; "
            f"log {self.meta.uuid.hex()}"
        )


class _Verification:
    """One reading of one store, as of one moment."""

    def __init__(self, path: Path, on_progress: OnProgress | None) -> None:
        self.path = path
        self.meta: Meta | None = None
        self.rows = 0
        self.row_bytes = 0
        self.problems: list[str] = []
        self._on_progress = on_progress

    def read(self, connection: sqlite3.Connection) -> None:
        self.meta = read_meta(connection, self.path)
        sums = self._sums(connection, self.meta)
        found = self._read_rows(connection, self.meta, sum(count for count, _ in sums))
        for bucket, (written, there) in enumerate(zip(sums, found, strict=False)):
            if written != there:
                self.note(f"bucket {bucket}: {there[0]} whole rows where {written[0]} were written, or not those")

    def note(self, problem: str) -> None:
        if len(self.problems) < _PROBLEMS_NAMED:
            self.problems.append(problem)

    def check_structure(self, connection: sqlite3.Connection) -> None:
        for (text,) in connection.execute(f"PRAGMA integrity_check({_PROBLEMS_NAMED})"):
            for line in text.decode(errors="replace").splitlines():
                if line != "ok" and not line.startswith("***"):
                    self.note(line)

    def _sums(self, connection: sqlite3.Connection, meta: Meta) -> list[tuple[int, int]]:
        """None at all if they can't be trusted: then the rows are still read."""
        try:
            return list(read_sums(connection, self.path, meta))
        except StoreDamaged as damage:
            self.note(damage.what)
            return []

    def _read_rows(self, connection: sqlite3.Connection, meta: Meta, total: int) -> list[tuple[int, int]]:
        """Every row as it lies in the file; returns the sums of those that are whole."""
        hasher = Hasher(meta.uuid)
        found: list[tuple[int, int]] = [(0, 0)] * BUCKETS
        for key, bucket, value, row_hash in connection.execute("SELECT key, bucket, value, hash FROM rows NOT INDEXED"):
            self.rows += 1
            if self._on_progress is not None and self.rows % _ROWS_BETWEEN_PROGRESS == 0:
                self._on_progress(self.rows, total)
            if not hasher.is_whole(bucket, key, value, row_hash):
                self.note(f"the row of key {key!r} is not what was written")
                continue
            self.row_bytes += len(key) + len(value)
            _add(found, bucket, row_hash)
        if self._on_progress is not None:
            self._on_progress(self.rows, total)
        return found


def _add(sums: list[tuple[int, int]], bucket: int, row_hash: int) -> None:
    count, xor = sums[bucket]
    sums[bucket] = (count + 1, xor ^ row_hash)


def verify(path: Path, on_progress: OnProgress | None = None) -> Report:
    """Every row's hash, every bucket, the sum of sums, and SQLite's own structure.

    Raises StoreMissing, StoreNewer, StoreInUse, StoreNotWritable; damage is in the report.
    """
    if not path.exists():
        raise StoreMissing(f"{path} does not exist: there is no store to verify")
    verification = _Verification(path, on_progress)
    for check in (verification.read, verification.check_structure):
        try:
            with reading(path) as connection:
                connection.execute("BEGIN")
                check(connection)
        except StoreDamaged as damage:
            verification.note(damage.what)
        except (sqlite3.Error, OSError) as error:
            meaning = explained(error, path)
            if not isinstance(meaning, StoreDamaged):
                raise meaning from error
            verification.note(meaning.what)
    return Report(path, verification.meta, verification.rows, verification.row_bytes, tuple(verification.problems))

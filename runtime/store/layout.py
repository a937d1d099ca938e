"""What a store's rows, sums and head look like and what vouches for them; no I/O.

    row     bucket, key, value, hash           the hash covers the other three
    sums    for each bucket the number of its rows and the xor of their hashes, 336 buckets to a page
    meta    version, uuid, lsn, summary, the hash of all pages of sums, and a hash of it all

All hashes are BLAKE2b keyed with the log's uuid, so that keys made by strangers can't be made to meet in one bucket
and no row of another log's store verifies here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple, cast

VERSION = 1

BUCKETS_IN_PAGE = 336
"""A page of sums, 4,032 bytes, is a page of the file."""
PAGES = 780
BUCKETS = PAGES * BUCKETS_IN_PAGE
"""262,080: 4 rows in each at a million; README.md has what fewer cost."""

_SUM = struct.Struct("<Iq")
_ROW = struct.Struct("<II")
_META = struct.Struct("<I16sQI16s")
PAGE_BYTES = BUCKETS_IN_PAGE * _SUM.size
EMPTY_PAGE = bytes(PAGE_BYTES)


class Hasher:
    """The hashes of one log's store. Copying a keyed hash costs half of making one."""

    __slots__ = ("_bucket", "_row", "_sums", "_uuid")

    def __init__(self, uuid: bytes) -> None:
        self._uuid = uuid
        self._bucket = blake2b(key=uuid, digest_size=8, person=b"perdure.bucket")
        self._row = blake2b(key=uuid, digest_size=8, person=b"perdure.row")
        self._sums = blake2b(key=uuid, digest_size=16, person=b"perdure.sums")

    def bucket(self, group: bytes) -> int:
        state = self._bucket.copy()
        state.update(group)
        return int.from_bytes(state.digest(), "little") % BUCKETS

    def row(self, bucket: int, key: bytes, value: bytes) -> int:
        """Signed, since SQLite's integers are."""
        state = self._row.copy()
        state.update(_ROW.pack(bucket, len(key)) + key)
        state.update(value)
        return int.from_bytes(state.digest(), "little", signed=True)

    def is_whole(self, bucket: object, key: object, value: object, row_hash: object) -> bool:
        """Whether a row is as it was written, whatever a damaged page may hold in its places."""
        return (
            isinstance(bucket, int)
            and 0 <= bucket < BUCKETS
            and isinstance(key, bytes)
            and isinstance(value, bytes)
            and self.row(bucket, key, value) == row_hash
        )

    def page(self, number: int, data: bytes) -> bytes:
        state = self._sums.copy()
        state.update(number.to_bytes(4, "little") + data)
        return state.digest()

    def pages(self, digests: Iterable[bytes]) -> bytes:
        return blake2b(b"".join(digests), key=self._uuid, digest_size=16, person=b"perdure.pages").digest()

    def meta(self, meta: Meta) -> bytes:
        state = blake2b(key=self._uuid, digest_size=16, person=b"perdure.meta")
        state.update(_META.pack(meta.version, meta.uuid, meta.lsn, len(meta.summary), meta.sums) + meta.summary)
        return state.digest()


class Meta(NamedTuple):
    """What a store says of itself. `sums` vouches for all pages of sums, and so for every row."""

    version: int
    uuid: bytes
    lsn: int
    summary: bytes
    sums: bytes


def sum_in_page(data: bytes, bucket: int) -> tuple[int, int]:
    """(number of rows, xor of their hashes) of a bucket, from the page it lies in."""
    count, xor = _SUM.unpack_from(data, bucket % BUCKETS_IN_PAGE * _SUM.size)
    return count, xor


class SumsPage(NamedTuple):
    data: bytes
    digest: bytes


class Sums:
    """All pages of sums, as they were committed last."""

    def __init__(self, hasher: Hasher, pages: Iterable[bytes]) -> None:
        self._hasher = hasher
        self._pages = [SumsPage(data, hasher.page(number, data)) for number, data in enumerate(pages)]

    def total(self, changed: dict[int, SumsPage] | None = None) -> bytes:
        """What vouches for all pages, the `changed` ones in their places."""
        digests = [page.digest for page in self._pages]
        for number, page in (changed or {}).items():
            digests[number] = page.digest
        return self._hasher.pages(digests)

    def changed(self, number: int, change: SumsChange) -> SumsPage:
        """Page `number` after a change. Raises ValueError if more rows go than there were."""
        data = change.of_page(number, self._pages[number].data)
        return SumsPage(data, self._hasher.page(number, data))

    def take(self, changed: dict[int, SumsPage]) -> None:
        """They have been committed."""
        for number, page in changed.items():
            self._pages[number] = page

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(number of rows, xor of their hashes) of each bucket in turn."""
        for page in self._pages:
            yield from cast("Iterator[tuple[int, int]]", _SUM.iter_unpack(page.data))


class SumsChange:
    """What one transaction does to the sums, gathered row by row."""

    def __init__(self) -> None:
        self._by_page: dict[int, dict[int, tuple[int, int]]] = {}

    def add(self, bucket: int, row_hash: int) -> None:
        self._note(bucket, 1, row_hash)

    def remove(self, bucket: int, row_hash: int) -> None:
        """Both as a file has them. Raises ValueError if they can't be what was written."""
        if not (0 <= bucket < BUCKETS and -(2**63) <= row_hash < 2**63):
            raise ValueError("no bucket, or no hash")
        self._note(bucket, -1, row_hash)

    def pages(self) -> list[int]:
        return list(self._by_page)

    def of_page(self, number: int, data: bytes) -> bytes:
        """Page `number` as it will be, from what it was."""
        changed = bytearray(data)
        for bucket, (more, flipped) in self._by_page[number].items():
            count, xor = sum_in_page(data, bucket)
            if count + more < 0:
                raise ValueError(f"bucket {bucket} has more rows than it should")
            _SUM.pack_into(changed, bucket % BUCKETS_IN_PAGE * _SUM.size, count + more, xor ^ flipped)
        return bytes(changed)

    def _note(self, bucket: int, more: int, flipped: int) -> None:
        buckets = self._by_page.setdefault(bucket // BUCKETS_IN_PAGE, {})
        count, xor = buckets.get(bucket, (0, 0))
        buckets[bucket] = (count + more, xor ^ flipped)

"""Frames: how a batch of records lies on the disk. Bytes in, frames out; no file is touched here.

A frame is one batch, begins on a sector and is padded to one, so that writing it never rewrites a sector that holds
synced bytes. Its checksums are keyed with the log's UUID and the segment's number: bytes of a recycled segment's
former life, of another log, or inside a user's record never look like a frame. Each frame names the checksum of the
one before it, which makes a chain.

This file does not know whether a frame that fails to verify is a torn tail or rot: `recovery.py` tells.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import accumulate
from typing import NamedTuple

SECTOR_BYTES = 512
CHECKSUM_BYTES = 8
LENGTH_BYTES = 4  # each record's length, at the start of the body
MAGIC = b"PRDF"

# magic, body bytes, first LSN, synced LSN, count, kind, chain, body checksum; the header's own checksum follows
_HEADER = struct.Struct("<4sIQQII8s8s")
HEADER_BYTES = _HEADER.size + CHECKSUM_BYTES
FRAME_OVERHEAD_BYTES = HEADER_BYTES + SECTOR_BYTES - 1  # header and the most padding

# hashlib gives up the interpreter's lock from 2,048 bytes on, and a busy main thread gives it back 5 ms later. For a
# batch of the usual size, hashed in 20 µs, that is no bargain; a large one is worth it.
_PIECE_BYTES = 2047
_HELD_BYTES_MAX = 64 * 1024

NO_CHAIN = bytes(CHECKSUM_BYTES)
"""The chain before a log's very first frame."""


class Kind(IntEnum):
    BATCH = 0
    SEAL = 1  # empty; says how far the log is synced
    LAST = 2  # empty; ends a segment and says that the next one exists


class Seed:
    """The keyed checksums of one segment of one log."""

    __slots__ = ("_body", "_header")

    def __init__(self, uuid: bytes, segment: int) -> None:
        salt = segment.to_bytes(8, "little")
        self._header = hashlib.blake2b(key=uuid, salt=salt, person=b"perdure.frame", digest_size=CHECKSUM_BYTES)
        self._body = hashlib.blake2b(key=uuid, salt=salt, person=b"perdure.body", digest_size=CHECKSUM_BYTES)

    def of_header(self, header: bytes | memoryview) -> bytes:
        checksum = self._header.copy()
        checksum.update(header)
        return checksum.digest()

    def of_body(self, body: bytes | memoryview) -> bytes:
        checksum = self._body.copy()
        if _PIECE_BYTES < len(body) <= _HELD_BYTES_MAX:
            view = memoryview(body)
            for start in range(0, len(body), _PIECE_BYTES):
                checksum.update(view[start : start + _PIECE_BYTES])
        else:
            checksum.update(body)
        return checksum.digest()


class Header(NamedTuple):
    """A frame's header that verified."""

    body_bytes: int
    first_lsn: int
    synced_lsn: int
    record_count: int
    kind: int
    chain: bytes
    body_checksum: bytes
    checksum: bytes


class Frame(NamedTuple):
    """A whole frame that verified. `offset` and `end` are byte offsets in the segment."""

    offset: int
    end: int
    header: Header
    body: memoryview

    @property
    def next_lsn(self) -> int:
        return self.header.first_lsn + self.header.record_count

    @property
    def record_bytes(self) -> int:
        return len(self.body) - self.header.record_count * LENGTH_BYTES

    def records(self) -> Iterator[tuple[int, bytes]]:
        """Each record with its LSN, copied out."""
        body, count = self.body, self.header.record_count
        start = count * LENGTH_BYTES
        lengths = struct.unpack_from(f"<{count}I", body)
        for lsn, length in enumerate(lengths, self.header.first_lsn):
            yield lsn, bytes(body[start : start + length])
            start += length


class Built(NamedTuple):
    """A frame's bytes, padded, and its checksum, which the next frame's chain names."""

    data: bytes
    checksum: bytes


def round_up(size: int) -> int:
    """To whole sectors."""
    return -(-size // SECTOR_BYTES) * SECTOR_BYTES


def frame_bytes(records_bytes: int, count: int) -> int:
    """The room that a batch takes."""
    return round_up(HEADER_BYTES + LENGTH_BYTES * count + records_bytes)


def build_batch(seed: Seed, records: Sequence[bytes], first_lsn: int, chain: bytes) -> Built:
    lengths = struct.pack(f"<{len(records)}I", *map(len, records))
    body = b"".join((lengths, *records))
    return _build(seed, Kind.BATCH, first_lsn, chain, (len(records), body))


def build_seal(seed: Seed, next_lsn: int, chain: bytes) -> Built:
    return _build(seed, Kind.SEAL, next_lsn, chain)


def build_last(seed: Seed, next_lsn: int, chain: bytes) -> Built:
    """Depends on nothing but its place in the log, so that a torn one can be built again."""
    return _build(seed, Kind.LAST, next_lsn, chain)


def _build(seed: Seed, kind: Kind, first_lsn: int, chain: bytes, content: tuple[int, bytes] = (0, b"")) -> Built:
    count, body = content
    # One batch is in flight at a time, so everything before this frame is synced when it is made.
    synced_lsn = first_lsn - 1
    header = _HEADER.pack(MAGIC, len(body), first_lsn, synced_lsn, count, kind, chain, seed.of_body(body))
    checksum = seed.of_header(header)
    padding = bytes(-(HEADER_BYTES + len(body)) % SECTOR_BYTES)
    return Built(b"".join((header, checksum, body, padding)), checksum)


def read_header(data: memoryview, offset: int, seed: Seed) -> Header | None:
    """The header at `offset` if its checksum holds; whether it belongs there is another question."""
    body_at = offset + HEADER_BYTES
    if body_at > len(data) or bytes(data[offset : offset + 4]) != MAGIC:
        return None
    checksum = bytes(data[body_at - CHECKSUM_BYTES : body_at])
    if seed.of_header(data[offset : body_at - CHECKSUM_BYTES]) != checksum:
        return None
    _, body_bytes, first_lsn, synced_lsn, count, kind, chain, body_checksum = _HEADER.unpack_from(data, offset)
    return Header(body_bytes, first_lsn, synced_lsn, count, kind, chain, body_checksum, checksum)


def read_frame(data: memoryview, offset: int, seed: Seed) -> Frame | None:
    """The frame at `offset` if all of it verifies."""
    header = read_header(data, offset, seed)
    if header is None:
        return None
    body = data[offset + HEADER_BYTES : offset + HEADER_BYTES + header.body_bytes]
    if len(body) != header.body_bytes or seed.of_body(body) != header.body_checksum:
        return None
    return Frame(offset, offset + round_up(HEADER_BYTES + header.body_bytes), header, body)


def find_header(data: bytes | bytearray, offset: int, seed: Seed) -> int | None:
    """The offset of the first header that verifies at or after `offset`: the trace of a frame written there.

    `offset` is a sector's, and only sectors' first bytes are looked at: 64 MiB take a millisecond.
    """
    view = memoryview(data)
    firsts = bytes(view[offset::SECTOR_BYTES])
    sector = firsts.find(MAGIC[:1])
    while sector >= 0:
        at = offset + sector * SECTOR_BYTES
        if read_header(view, at, seed) is not None:
            return at
        sector = firsts.find(MAGIC[:1], sector + 1)
    return None


def split(records: Sequence[bytes], frame_bytes_max: int) -> Iterator[Sequence[bytes]]:
    """Cuts a batch that is larger than any frame; each record alone is known to fit."""
    ends = list(accumulate(LENGTH_BYTES + len(record) for record in records))
    room = frame_bytes_max - HEADER_BYTES
    start, taken = 0, 0
    for index, end in enumerate(ends):
        if end - taken > room:
            yield records[start:index]
            start, taken = index, ends[index - 1]
    yield records[start:]

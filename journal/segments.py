"""Segments: the files of a log, their names and their headers.

A live segment is named by its number, a free one (preallocated, or recycled) differently, and nothing in a free one
is ever believed. A segment goes live in this order: write its header, sync, rename, sync the directory. So a live
name with a bad header is rot, never a crash.

This file does not know frames, nor when a segment is full.
"""

import re
import struct
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from .errors import Damaged, NewerFormat
from .frames import CHECKSUM_BYTES, SECTOR_BYTES

FORMAT_VERSION = 1
SEGMENT_MAGIC = b"PERDUREJ"
LOCK_NAME = "LOCK"

# magic, format version, zero, UUID, number, segment bytes, first LSN, chain before it; then the checksum.
# These 72 bytes stay as they are in every later version, so that an old release knows a newer one from rot.
_HEADER = struct.Struct("<8sII16sQQQ8s")
_HEADER_BYTES = _HEADER.size + CHECKSUM_BYTES

_LIVE = re.compile(r"(\d{12})\.segment")
_FREE = re.compile(r"(\d{12})\.free")


class SegmentHeader(NamedTuple):
    uuid: bytes
    number: int
    segment_bytes: int
    first_lsn: int
    chain: bytes

    def pack(self, version: int = FORMAT_VERSION) -> bytes:
        """The first sector of the segment."""
        fields = _HEADER.pack(
            SEGMENT_MAGIC, version, 0, self.uuid, self.number, self.segment_bytes, self.first_lsn, self.chain
        )
        return (fields + _checksum(fields)).ljust(SECTOR_BYTES, b"\0")


def _checksum(fields: bytes | bytearray) -> bytes:
    return blake2b(fields, digest_size=CHECKSUM_BYTES, person=b"perdure.segment").digest()


def read_segment_header(name: str, data: bytes | bytearray, next_lsn: int) -> SegmentHeader:
    """The header of the live segment `name`; `next_lsn` is the record that its loss would endanger.

    Raises Damaged or NewerFormat.
    """
    fields, checksum = data[: _HEADER.size], bytes(data[_HEADER.size : _HEADER_BYTES])
    if len(data) < SECTOR_BYTES or _checksum(fields) != checksum:
        raise Damaged(name, 0, next_lsn, "the segment's header does not verify")
    magic, version, _, *rest = _HEADER.unpack(fields)
    if magic != SEGMENT_MAGIC:
        raise Damaged(name, 0, next_lsn, "the file is no segment")
    if version != FORMAT_VERSION:
        raise NewerFormat(
            f"{name} has journal format {version}, this release reads {FORMAT_VERSION}: start the newer release; "
            "nothing was changed"
        )
    return SegmentHeader(*rest)


def live_name(number: int) -> str:
    return f"{number:012d}.segment"


def free_name(number: int) -> str:
    return f"{number:012d}.free"


def live_numbers(names: Iterable[str]) -> list[int]:
    return _numbers(_LIVE, names)


def free_numbers(names: Iterable[str]) -> list[int]:
    return _numbers(_FREE, names)


def _numbers(pattern: re.Pattern[str], names: Iterable[str]) -> list[int]:
    return sorted(int(match[1]) for name in names if (match := pattern.fullmatch(name)))


def live_path(directory: Path, number: int) -> Path:
    return directory / live_name(number)


def free_path(directory: Path, number: int) -> Path:
    return directory / free_name(number)

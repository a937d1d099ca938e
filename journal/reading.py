"""Reads a log's segments from a `Disk` through a `Scan`, for whoever holds the lock. Changes nothing.

What the bytes mean is `recovery.py`'s affair; tools that read beside a live writer use `offline.py`.
"""

from collections.abc import Iterator
from pathlib import Path

from .disk import Disk
from .errors import Damaged
from .frames import Frame
from .recovery import Scan
from .segments import live_name, live_numbers


def read_frames(disk: Disk, directory: Path, scan: Scan, *, drop_cache: bool = False) -> Iterator[Frame]:
    """Each frame is to be done with before the next: the segments share a buffer, whose pages cost more than they.

    Raises Damaged, NewerFormat, or OSError for the directory.
    """
    numbers = live_numbers(disk.names(directory))
    buffer = bytearray()
    for number in numbers:
        buffer = _read_segment(disk, directory / live_name(number), buffer, scan.next_lsn, drop_cache)
        yield from scan.segment(live_name(number), buffer, newest=number == numbers[-1])
    scan.finish()


def _read_segment(disk: Disk, path: Path, buffer: bytearray, next_lsn: int, drop_cache: bool) -> bytearray:
    """Into the buffer, or a new one of the right size."""
    try:
        file = disk.open(path)
        try:
            if drop_cache:
                disk.drop_cache(file)
            size = disk.size(file)
            if len(buffer) != size:
                buffer = bytearray(size)
            return buffer if disk.read(file, buffer) == size else bytearray()
        finally:
            disk.close(file)
    except PermissionError:
        raise
    except OSError as error:
        raise Damaged(path.name, 0, next_lsn, f"the disk can't read it: {error.strerror}") from error

"""One process for each directory: an exclusive flock on the file LOCK, which names its holder.

flock goes with the open file and is shared with forked children, so a child must close the descriptor (`log.py` sees
to that) or it would keep the directory in use after its parent's death.
"""

import os
from contextlib import suppress
from pathlib import Path

from .disk import Disk
from .errors import DirectoryInUse
from .segments import LOCK_NAME


def take_lock(disk: Disk, directory: Path) -> int:
    """The descriptor that holds the lock. Raises DirectoryInUse, which names the holder, or OSError."""
    path = directory / LOCK_NAME
    try:
        file = disk.lock(path)
    except BlockingIOError:
        raise DirectoryInUse(
            f"{directory} is in use by process {_holder(disk, path)}: stop it, or take another directory; "
            "nothing was changed"
        ) from None
    # A courtesy to whoever comes second: padded, so that no part of a longer number stays.
    with suppress(OSError):
        disk.write(file, f"{os.getpid():<20}\n".encode(), 0)
    return file


def _holder(disk: Disk, path: Path) -> str:
    try:
        file = disk.open(path)
    except OSError:
        return "unknown"
    try:
        buffer = bytearray(20)
        return buffer[: disk.read(file, buffer)].decode("ascii", "replace").strip() or "unknown"
    finally:
        disk.close(file)

"""A copy of a log as files, also of one that is being written: for backups. Never writes where it reads.

What is copied are whole frames that verified, in files of the same names and sizes, so the copy is a log like any
other: open it, verify it. A batch that was being written meanwhile is in it whole, or not at all.
"""

from pathlib import Path

import aiofiles

from .offline import OfflineReader, OnProgress
from .segments import live_name
from .verify import Verified, found


async def copy_log(source: Path, target: Path, *, on_progress: OnProgress | None = None) -> Verified:
    """Copies the log in `source` to the folder `target`, which holds none; returns what the copy holds.

    All records are in it that were acknowledged before, as far back as the log goes. Nothing is synced here.
    Raises Damaged, NewerFormat, NotAJournal, NotWritable, or OSError for `target`, with part of a copy left there.
    """
    copied: list[Path] = []
    pass_ = 0

    async def on_segment(number: int, frames: memoryview, size: int) -> None:
        nonlocal pass_
        if reader.starts != pass_:  # it starts over: the first segments may be gone by now, and must not stay here
            pass_ = reader.starts
            while copied:
                copied.pop().unlink()
        path = target / live_name(number)
        copied.append(path)
        async with aiofiles.open(path, "wb", buffering=0) as file:
            rest = frames
            while rest:
                rest = rest[await file.write(rest) :]
            await file.truncate(size)

    reader = OfflineReader(source, on_progress, on_segment)
    frames = record_bytes = 0
    async for frame in reader.frames():
        frames += 1
        record_bytes += frame.record_bytes
    return found(reader.scan, frames, record_bytes)

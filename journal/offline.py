"""Reads a log without its lock, also beside a live writer. Never writes, and is off every hot path: hence aiofiles.

A torn tail is the end. What looks like damage may be a segment that was recycled, or a batch that was written, while
it was being read; so the reader starts over, going on after the last record it gave, and believes damage when it
finds the same twice in the same place.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import aiofiles

from .errors import Damaged, JournalError, NotAJournal, NotWritable
from .frames import Frame
from .recovery import Scan
from .segments import live_name, live_numbers, live_path

OnProgress = Callable[[int, int], None]
"""Called with (bytes read, bytes in all); both begin again when the reader starts over."""

OnSegment = Callable[[int, memoryview, int], Awaitable[None]]
"""Called with a segment's number, what of it is frames, and the size of its file; the bytes are gone afterwards."""

_CHUNK_BYTES = 4 * 1024 * 1024
_PASSES_MAX = 100  # against a writer that recycles faster than anybody reads


class OfflineReader:
    """One reading of the log in `directory`; `scan` says afterwards what was found."""

    def __init__(
        self, directory: Path, on_progress: OnProgress | None = None, on_segment: OnSegment | None = None
    ) -> None:
        self.directory = directory
        self.scan = Scan()
        self.starts = 0
        """How often it began at the first segment."""
        self._on_progress = on_progress
        self._on_segment = on_segment
        self._done_bytes = 0
        self._total_bytes = 0

    async def frames(self, from_lsn: int = 1) -> AsyncIterator[Frame]:
        """The frames that hold records from `from_lsn` on; each is to be done with before the next.

        Raises Damaged, NewerFormat, NotAJournal, or NotWritable if the files may not be read.
        """
        suspect: tuple[str, int] | None = None
        for _ in range(_PASSES_MAX):
            try:
                async for frame in self._one_pass():
                    if frame.next_lsn > from_lsn:
                        yield frame
                        from_lsn = frame.next_lsn
                return
            except FileNotFoundError:
                suspect = None
            except Damaged as damage:
                if suspect == (damage.file, damage.offset):
                    raise
                suspect = (damage.file, damage.offset)
        raise JournalError(f"{self.directory} changes faster than it can be read; try again when it is less busy")

    async def _one_pass(self) -> AsyncIterator[Frame]:
        self.starts += 1
        self.scan = scan = Scan()
        self._done_bytes = 0
        later = self._numbers(0)
        while later:
            number = later[0]
            data = await self._read_segment(number)
            # Looked for only now: a segment that is full by the time it was read is not the newest any more.
            later = self._numbers(number)
            for frame in scan.segment(live_name(number), data, newest=not later):
                yield frame
            if self._on_segment is not None:
                await self._on_segment(number, memoryview(data)[: scan.end], len(data))
        scan.finish()

    def _numbers(self, above: int) -> list[int]:
        try:
            numbers = live_numbers(os.listdir(self.directory))
        except OSError as error:
            raise NotAJournal(f"{self.directory} can't be read: {error.strerror}") from error
        if not numbers:
            raise NotAJournal(f"{self.directory} holds no journal")
        later = [number for number in numbers if number > above]
        self._total_bytes = self._done_bytes + sum(map(self._size, later))
        return later

    def _size(self, number: int) -> int:
        with suppress(OSError):
            return live_path(self.directory, number).stat().st_size
        return 0

    async def _read_segment(self, number: int) -> bytearray:
        buffer = bytearray()
        path = live_path(self.directory, number)
        try:
            async with aiofiles.open(path, "rb", buffering=0) as file:
                while chunk := await file.read(_CHUNK_BYTES):
                    buffer += chunk
                    self._progress(len(chunk))
        except FileNotFoundError:
            raise
        except PermissionError as error:
            raise NotWritable(f"{path} can't be read: {error.strerror}") from error
        except OSError as error:
            raise Damaged(path.name, len(buffer), self.scan.next_lsn, f"it can't be read: {error.strerror}") from error
        return buffer

    def _progress(self, count: int) -> None:
        self._done_bytes += count
        if self._on_progress is not None:
            self._on_progress(self._done_bytes, self._total_bytes)


async def read_offline(
    directory: Path, from_lsn: int = 1, *, on_progress: OnProgress | None = None
) -> AsyncIterator[tuple[int, bytes]]:
    """The records from `from_lsn` on, as (LSN, record). Raises what `OfflineReader.frames` does."""
    async for frame in OfflineReader(directory, on_progress).frames(from_lsn):
        for lsn, record in frame.records():
            if lsn >= from_lsn:
                yield lsn, record

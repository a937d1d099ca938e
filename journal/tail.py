"""The end of a log, where frames are written: one frame, one sync, and the step into the next segment.

Synchronous and without threads; `log.py` decides when. What it holds in memory changes only after the sync that makes
it true, so a write that found the disk full can be asked for again and lands at the same place.

    a frame:              write, sync
    the next segment:     header into a free one, sync, rename, sync the directory;  last frame, sync
    trim:                 rename to a free name, sync the directory; the oldest first, one at a time
"""

import errno
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

from .disk import Disk
from .errors import JournalError, JournalFull, SyncFailed
from .frames import NO_CHAIN, SECTOR_BYTES, Built, Seed, build_batch, build_last, build_seal, frame_bytes
from .options import LogOptions
from .recovery import Scan
from .segments import SegmentHeader, free_numbers, free_path, live_path

# What passes when somebody makes room; everything else is final.
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})


def refused(what: str, error: OSError) -> JournalError:
    """The journal's error for what the disk refused."""
    code = errno.errorcode.get(error.errno or 0, "?")
    if error.errno in _PASSING:
        return JournalFull(f"{what} was refused: {code} {error.strerror}; nothing is lost, goes on when there is room")
    return sync_failed(what, error)


def sync_failed(what: str, error: OSError) -> SyncFailed:
    code = errno.errorcode.get(error.errno or 0, "?")
    return SyncFailed(
        f"the disk refused {what}: {code} {error.strerror}; nothing more was acknowledged, "
        "what was waiting has an unknown outcome; look at the disk, then start again"
    )


class _Free(NamedTuple):
    """A free segment, held open: there may be no descriptor left when it is needed."""

    number: int
    file: int


class Tail:
    """Writes at the end of a log. Belongs to one thread, but for `add_spare` and `room`.

    Methods raise JournalFull, after which they may be called again, or SyncFailed, after which they may not.
    """

    def __init__(self, disk: Disk, directory: Path, options: LogOptions) -> None:
        self._disk = disk
        self._directory = directory
        self._options = options
        self._directory_file = disk.open_directory(directory)
        self._file = -1
        self._next_file = -1
        self._seal_begun = False
        self._offset = 0
        self._header = SegmentHeader(b"", 0, 0, 1, NO_CHAIN)
        self._seed = Seed(b"", 0)
        self._chain = NO_CHAIN
        self._segments: deque[SegmentHeader] = deque()
        self._spares: deque[_Free] = deque()
        self._free_numbers = count(1)
        self.synced_lsn = 0
        self.sealed = True

    @property
    def uuid(self) -> bytes:
        return self._header.uuid

    @property
    def first_lsn(self) -> int:
        return self._segments[0].first_lsn

    @property
    def segments(self) -> int:
        """Live ones, this one included."""
        return len(self._segments)

    # -- at the start

    def create(self, uuid: bytes) -> None:
        """A new log in a directory without one."""
        self._find_free()
        header = SegmentHeader(uuid, 1, self._options.segment_bytes, 1, NO_CHAIN)
        self._enter(self._go_live(header), header)

    def adopt(self, scan: Scan) -> None:
        """Goes on where `scan` ended; what it found last is written and synced once more.

        It was read, but perhaps from the page cache: after a sync that failed the kernel may still show bytes that
        never reached the disk.
        """
        self._find_free()
        self._segments.extend(scan.headers[:-1])
        self._enter(self._open_live(scan.headers[-1].number), scan.headers[-1])
        self._offset, self._chain, self.sealed = scan.end, scan.chain, scan.sealed
        self.synced_lsn = scan.next_lsn - 1
        self._repeat_last_frame(scan)
        self._sync_directory()

    def _repeat_last_frame(self, scan: Scan) -> None:
        repair = scan.last_frame
        if repair is None:
            return
        mine = repair.place.segment == self._header.number
        file = self._file if mine else self._open_live(repair.place.segment)
        try:
            self._write(file, repair.data, repair.place.offset)
            self._sync(file)
        finally:
            if not mine:
                self._disk.close(file)

    def _open_live(self, number: int) -> int:
        try:
            return self._disk.open(live_path(self._directory, number))
        except OSError as error:
            raise refused("opening a segment", error) from error

    # -- writing

    def write(self, records: Sequence[bytes]) -> int:
        """One batch, one frame; returns the LSN up to which all is synced."""
        if self._seal_begun:
            self.seal()
        if not self._fits(frame_bytes(sum(map(len, records)), len(records))):
            self._next_segment()
        self._put(build_batch(self._seed, records, self.synced_lsn + 1, self._chain))
        self.sealed = False
        self.synced_lsn += len(records)
        return self.synced_lsn

    def seal(self) -> None:
        """Says that everything before is synced, so that no damage to it can pass for a torn tail."""
        if self._next_file >= 0:
            # The next segment is live already and names this one's last frame: nothing may come between them.
            self._next_segment()
        elif not self.sealed:
            # A write that was refused may be on the disk for all that: what was begun at a place is what it gets.
            self._seal_begun = True
            self._put(build_seal(self._seed, self.synced_lsn + 1, self._chain))
            self.sealed = True
            self._seal_begun = False

    def _fits(self, size: int) -> bool:
        """Beside the seal and the last frame that may follow."""
        return self._offset + size + 2 * SECTOR_BYTES <= self._header.segment_bytes

    def _put(self, built: Built) -> None:
        self._write(self._file, built.data, self._offset)
        self._sync(self._file)
        self._offset += len(built.data)
        self._chain = built.checksum

    def _write(self, file: int, data: bytes | memoryview, offset: int) -> None:
        try:
            written = self._disk.write(file, data, offset)
        except OSError as error:
            raise refused("a write", error) from error
        if written < len(data):
            # Short. Asking for the rest either takes it or says why.
            self._write(file, memoryview(data)[written:], offset + written)

    def _sync(self, file: int) -> None:
        try:
            self._disk.sync(file)
        except OSError as error:
            # Final whatever it says, ENOSPC too: the pages may be marked clean and gone.
            raise sync_failed("a sync", error) from error

    def _sync_directory(self) -> None:
        try:
            self._disk.sync_directory(self._directory_file)
        except OSError as error:
            raise sync_failed("a sync of the directory", error) from error

    # -- the next segment

    def _next_segment(self) -> None:
        """Each half is done once, however often the disk is full in between."""
        next_lsn = self.synced_lsn + 1
        last = build_last(self._seed, next_lsn, self._chain)
        number = self._header.number + 1
        header = SegmentHeader(self.uuid, number, self._options.segment_bytes, next_lsn, last.checksum)
        if self._next_file < 0:
            self._next_file = self._go_live(header)
        self._put(last)
        self._disk.close(self._file)
        self._enter(self._next_file, header)
        self._next_file = -1
        self.sealed = True  # by the last frame

    def _go_live(self, header: SegmentHeader) -> int:
        """Makes a free segment the live one that `header` says, durably; returns its open file."""
        if not self._spares:
            self.add_spare()
        free = self._spares[0]
        self._write(free.file, header.pack(), 0)
        self._sync(free.file)
        try:
            self._disk.rename(free_path(self._directory, free.number), live_path(self._directory, header.number))
        except OSError as error:
            raise refused("a rename", error) from error
        self._spares.popleft()
        self._sync_directory()
        return free.file

    def _enter(self, file: int, header: SegmentHeader) -> None:
        self._file = file
        self._header = header
        self._offset = SECTOR_BYTES
        self._seed = Seed(header.uuid, header.number)
        self._chain = header.chain
        self._segments.append(header)

    # -- free segments

    def add_spare(self) -> None:
        """Preallocates one free segment; leaves nothing behind if it can't."""
        number = next(self._free_numbers)
        path = free_path(self._directory, number)
        try:
            file = self._disk.create(path)
        except OSError as error:
            raise refused("a new segment", error) from error
        try:
            self._disk.allocate(file, self._options.segment_bytes)
        except OSError as error:
            self._disk.close(file)
            self._remove(path)
            raise refused("a new segment", error) from error
        self._spares.append(_Free(number, file))

    def wants_spare(self) -> bool:
        return len(self._spares) < self._options.spare_segments

    def room(self) -> int:
        """Bytes of frames that surely find a place, in whatever batches they come.

        A batch that doesn't fit the rest of a segment leaves that rest unused; two neighbouring segments hold more
        than one segment's worth of batches, so of several spares every second one counts.
        """
        left = max(self._header.segment_bytes - self._offset - 2 * SECTOR_BYTES, 0)
        return max(left, self._options.frame_bytes_max * ((len(self._spares) + 1) // 2))

    def _find_free(self) -> None:
        """Free segments of an earlier life are used again; those of another size are removed."""
        numbers = free_numbers(self._disk.names(self._directory))
        self._free_numbers = count(max(numbers, default=0) + 1)
        for number in numbers:
            if len(self._spares) >= self._options.free_segments_max or not self._adopt_free(number):
                self._remove(free_path(self._directory, number))

    def _adopt_free(self, number: int) -> bool:
        try:
            file = self._disk.open(free_path(self._directory, number))
        except OSError:
            return False
        try:
            right_size = self._disk.size(file) == self._options.segment_bytes
            if right_size:
                # A crash may have come between the file's size and its room.
                self._disk.allocate(file, self._options.segment_bytes)
        except OSError:
            right_size = False
        if right_size:
            self._spares.append(_Free(number, file))
        else:
            self._disk.close(file)
        return right_size

    def _remove(self, path: Path) -> None:
        with suppress(OSError):
            self._disk.remove(path)

    # -- trimming

    def trim(self, lsn: int) -> None:
        """Recycles the segments that hold only records below `lsn`."""
        while len(self._segments) > 1 and self._segments[1].first_lsn <= lsn:
            self._recycle(self._segments[0])
            # One at a time: a crash may keep any of several renames, and a hole in the middle would look like rot.
            self._sync_directory()
            self._segments.popleft()

    def _recycle(self, header: SegmentHeader) -> None:
        path = live_path(self._directory, header.number)
        try:
            if not self._reuse(header, path):
                self._disk.remove(path)
        except OSError as error:
            raise sync_failed("recycling a segment", error) from error

    def _reuse(self, header: SegmentHeader, path: Path) -> bool:
        if len(self._spares) >= self._options.free_segments_max or header.segment_bytes != self._options.segment_bytes:
            return False
        number = next(self._free_numbers)
        file = self._disk.open(path)
        self._disk.rename(path, free_path(self._directory, number))
        self._spares.append(_Free(number, file))
        return True

    # -- the end

    def files(self) -> list[int]:
        """The open descriptors."""
        files = [self._file, self._next_file, self._directory_file, *(free.file for free in self._spares)]
        return [file for file in files if file >= 0]

    def close(self) -> None:
        """Closes the files; writes nothing."""
        for file in self.files():
            with suppress(OSError):
                self._disk.close(file)
        self._file = self._next_file = self._directory_file = -1
        self._spares.clear()

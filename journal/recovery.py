"""What a log says when it is read from its files: which frames hold, where the end is, torn tail or rot.

A frame that doesn't verify is a torn tail, and the log ends before it, only if it stands where the next frame
belongs and nothing shows that a later frame was ever written: any trace of the next batch proves this one synced.
Everything else is rot, and raises Damaged.

Segments are fed in one by one as bytes, so that the log at its start and the tools beside a live writer judge by the
same code. This file opens nothing and changes nothing.
"""

from collections.abc import Iterator
from typing import NamedTuple

from .errors import Damaged
from .frames import NO_CHAIN, SECTOR_BYTES, Built, Frame, Kind, Seed, build_last, find_header, read_frame, read_header
from .segments import SegmentHeader, live_name, read_segment_header


class Place(NamedTuple):
    """A byte in the log."""

    segment: int
    offset: int


class Repair(NamedTuple):
    """Bytes that the next writer writes (again) and syncs before it acknowledges anything."""

    place: Place
    data: bytes | memoryview


class Scan:
    """Reads a log from its oldest live segment on; its attributes say how far it is.

    Give each segment to `segment()`, in order and to the end, then call `finish()`.
    """

    def __init__(self) -> None:
        self.header: SegmentHeader | None = None
        """Of the segment last begun; None before the first."""
        self.first_lsn = 1
        self.next_lsn = 1
        self.chain = NO_CHAIN
        self.end = SECTOR_BYTES
        """Where the next frame belongs in the last segment, bytes."""
        self.sealed = True
        """The last frame is empty, or there is none: every record is covered by a later frame."""
        self.closed = False
        """The segment last read ends with its last frame."""
        self.last_frame: Repair | None = None
        """Nobody has proved that it was synced."""
        self.headers: list[SegmentHeader] = []
        self.mended = False
        """A crash came while the log stepped into its newest segment: the next writer completes that."""
        self._torn: Place | None = None

    def segment(self, name: str, data: bytes | bytearray, *, newest: bool) -> Iterator[Frame]:
        """The frames of one live segment; `newest` says that none follows. Raises Damaged or NewerFormat.

        The buffer may be used again for the next segment, when nobody holds a frame of this one.
        """
        header = self._begin(name, data, newest)
        seed = Seed(header.uuid, header.number)
        view = memoryview(data)
        while not self.closed and (frame := self._next_frame(view, seed)):
            self._advance(header.number, frame, view)
            yield frame
        if not self.closed:
            self._judge_tail(name, data, seed, newest)

    def finish(self) -> None:
        """After the newest segment. Raises Damaged."""
        if self.closed and self.header is not None:
            missing = live_name(self.header.number + 1)
            raise Damaged(missing, 0, self.next_lsn, "the segment is missing, though the one before it says it exists")

    def _begin(self, name: str, data: bytes | bytearray, newest: bool) -> SegmentHeader:
        header = read_segment_header(name, data, self.next_lsn)
        self._check_header(name, header, len(data))
        if self.header is None:
            self.first_lsn = self.next_lsn = header.first_lsn
            self.chain = header.chain
        else:
            self._check_successor(name, header, data, newest)
        self.header = header
        self.headers.append(header)
        self.end = SECTOR_BYTES
        self.closed = False
        return header

    def _check_header(self, name: str, header: SegmentHeader, size: int) -> None:
        if name != live_name(header.number):
            raise Damaged(name, 0, self.next_lsn, f"the file is segment {header.number} under a wrong name")
        if size < header.segment_bytes:
            what = f"the file was cut from {header.segment_bytes} to {size} bytes"
            raise Damaged(name, size, self.next_lsn, what)

    def _check_successor(self, name: str, header: SegmentHeader, data: bytes | bytearray, newest: bool) -> None:
        assert self.header is not None
        if header.uuid != self.header.uuid:
            raise Damaged(name, 0, self.next_lsn, "the segment belongs to another log")
        if header.number != self.header.number + 1:
            missing = live_name(self.header.number + 1)
            raise Damaged(missing, 0, self.next_lsn, f"the segment is missing, though {name} exists")
        if self._torn is not None:
            self._finish_switch(self._torn, header, data, newest)
        if (header.chain, header.first_lsn) != (self.chain, self.next_lsn):
            raise Damaged(name, 0, self.next_lsn, "the segment does not continue the one before it")

    def _finish_switch(self, torn: Place, header: SegmentHeader, data: bytes | bytearray, newest: bool) -> None:
        """The segment before `header` has no last frame. Legal only if the crash came while that was written.

        Then the next segment is still empty, and names as its chain the very frame that is missing.
        """
        last = self.rebuild_last()
        used = find_header(data, SECTOR_BYTES, Seed(header.uuid, header.number))
        if not newest or used is not None or last.checksum != header.chain:
            what = "the frame does not verify, though the next segment was begun after it"
            raise Damaged(live_name(torn.segment), torn.offset, self.next_lsn, what)
        self.last_frame = Repair(torn, last.data)
        self.chain = last.checksum
        self.sealed = self.mended = True
        self._torn = None

    def rebuild_last(self) -> Built:
        """The last frame as the segment would have it if it ended here."""
        assert self.header is not None
        return build_last(Seed(self.header.uuid, self.header.number), self.next_lsn, self.chain)

    def _next_frame(self, view: memoryview, seed: Seed) -> Frame | None:
        frame = read_frame(view, self.end, seed)
        return frame if frame is not None and self._continues(frame.header.chain, frame.header.first_lsn) else None

    def _continues(self, chain: bytes, first_lsn: int) -> bool:
        return chain == self.chain and first_lsn == self.next_lsn

    def _advance(self, segment: int, frame: Frame, view: memoryview) -> None:
        data = view[frame.offset : frame.end]
        last = frame.header.kind == Kind.LAST
        # Copied before the next segment comes, perhaps into the same buffer; what is larger need not be.
        self.last_frame = Repair(Place(segment, frame.offset), bytes(data) if last else data)
        self.chain = frame.header.checksum
        self.next_lsn = frame.next_lsn
        self.end = frame.end
        self.sealed = frame.header.kind != Kind.BATCH
        self.closed = last

    def _judge_tail(self, name: str, data: bytes | bytearray, seed: Seed, newest: bool) -> None:
        """At `self.end` there is no frame that belongs there. Returns if that is the log's end."""
        found = read_header(memoryview(data), self.end, seed)
        if found is not None and not self._continues(found.chain, found.first_lsn):
            raise Damaged(name, self.end, self.next_lsn, "a frame from another place of the log stands here")
        later = find_header(data, self.end + SECTOR_BYTES, seed)
        if later is not None:
            what = f"the frame does not verify, though a later one, at byte {later}, does"
            raise Damaged(name, self.end, self.next_lsn, what)
        if not newest:
            assert self.header is not None
            self._torn = Place(self.header.number, self.end)

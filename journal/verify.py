"""`perdure journal verify`: reads every byte of a log and says what it found. Never writes, needs no lock."""

from dataclasses import dataclass
from pathlib import Path

from .offline import OfflineReader, OnProgress
from .recovery import Scan


@dataclass(frozen=True, slots=True)
class Verified:
    """A log that is whole. LSNs count records; `records` are those still here."""

    uuid: bytes
    first_lsn: int
    next_lsn: int
    segments: int
    frames: int
    record_bytes: int
    sealed: bool
    """The end is covered. If not, a single flipped bit in the very last batch would pass for a torn tail."""

    @property
    def records(self) -> int:
        return self.next_lsn - self.first_lsn

    def __str__(self) -> str:
        span = f"records {self.first_lsn} to {self.next_lsn - 1}" if self.records else "no records"
        end = "sealed" if self.sealed else "not sealed (running, or killed)"
        return (
            f"whole: {span}, {self.record_bytes} bytes in {self.frames} frames and {self.segments} segments, {end}; "
            f"log {self.uuid.hex()}"
        )


async def verify(directory: Path, *, on_progress: OnProgress | None = None) -> Verified:
    """Raises Damaged, NewerFormat, NotAJournal, or NotWritable if the files may not be read."""
    reader = OfflineReader(directory, on_progress)
    frames = record_bytes = 0
    async for frame in reader.frames():
        frames += 1
        record_bytes += frame.record_bytes
    return found(reader.scan, frames, record_bytes)


def found(scan: Scan, frames: int, record_bytes: int) -> Verified:
    """What a scan that came to the end says."""
    return Verified(
        uuid=scan.headers[-1].uuid,
        first_lsn=scan.first_lsn,
        next_lsn=scan.next_lsn,
        segments=len(scan.headers),
        frames=frames,
        record_bytes=record_bytes,
        sealed=scan.sealed,
    )

"""The sizes and times of a log, each with its reason."""

from dataclasses import dataclass

from .frames import FRAME_OVERHEAD_BYTES, LENGTH_BYTES, SECTOR_BYTES
from .journal import RECORD_BYTES_MAX

# A segment's header, one seal and the last frame: a sector each, kept free of batches.
SEGMENT_OVERHEAD_BYTES = 3 * SECTOR_BYTES
SEGMENT_BYTES_MIN = SEGMENT_OVERHEAD_BYTES + 2 * SECTOR_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """How a `Log` behaves; a directory may be opened with other options than it was made with."""

    segment_bytes: int = 32 * 1024 * 1024
    """Size of new segments: the largest record fits, a start reads the last of them whole, and trimming gives space
    back in small change."""

    spare_segments: int = 1
    """Free segments held ready, so that the writer never waits for one and a full disk is noticed early."""

    free_segments_max: int = 4
    """Recycled segments kept beyond this are deleted. A recycled one syncs faster than a new one."""

    seal_after_seconds: float = 0.05
    """Idleness after which the end is sealed: long enough to cost a loaded log nothing."""

    alone_seconds_max: float = 0.0005
    """While a write and its sync take no longer, a batch that is `alone` is written by the thread that flushes it: both
    hand-overs cost as much. After one that took longer, the next is the writer's. 0: always the writer's."""

    full_retry_seconds: float = 0.25
    """How often a batch that found the disk full is tried again."""

    writer_thread: bool = True
    """False: `flush` writes and syncs by itself before it returns; for simulations, where threads have no place."""

    def __post_init__(self) -> None:
        if self.segment_bytes < SEGMENT_BYTES_MIN or self.segment_bytes % SECTOR_BYTES:
            raise ValueError(f"segment_bytes: a multiple of {SECTOR_BYTES}, at least {SEGMENT_BYTES_MIN}")

    @property
    def frame_bytes_max(self) -> int:
        """The largest frame that an empty segment takes."""
        return self.segment_bytes - SEGMENT_OVERHEAD_BYTES

    @property
    def record_bytes_max(self) -> int:
        return min(RECORD_BYTES_MAX, self.frame_bytes_max - FRAME_OVERHEAD_BYTES - LENGTH_BYTES)

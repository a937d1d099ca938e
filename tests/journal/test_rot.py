"""Damage at rest is refused, wherever it is: never wrong data, never a silent truncation."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from perdure.journal import Damaged, Log, LogOptions
from perdure.journal.frames import MAGIC, SECTOR_BYTES
from perdure.journal.recovery import Scan
from perdure.journal.simulation import SimDisk

DIRECTORY = Path("/journal")
Files = dict[str, bytearray]


class Sealed:
    """A closed log of some segments, as bytes that may be damaged and read again."""

    def __init__(
        self, segment_bytes: int, batches: int, *, trim: int = 0, record_bytes: int = 150, uuid: bytes = bytes(16)
    ) -> None:
        self.options = LogOptions(segment_bytes=segment_bytes, writer_thread=False, free_segments_max=1)
        self.disk = SimDisk(Random(0))
        random = Random(2)
        log = self.open(uuid)
        for _ in range(batches):
            for _ in range(random.randrange(1, 4)):
                log.append(random.randbytes(random.randrange(record_bytes)))
            log.flush()
        log.trim(trim)
        log.close()
        self.records = self.read(self.files())

    def open(self, uuid: bytes | None = None) -> Log:
        return Log.open(DIRECTORY, options=self.options, disk=self.disk, uuid=uuid)

    def files(self) -> Files:
        names = sorted(name for name in self.disk.names(DIRECTORY) if name.endswith(".segment"))
        return {name: bytearray(self.disk.content(DIRECTORY / name)) for name in names}

    def read(self, files: Files) -> list[tuple[int, bytes]]:
        scan = Scan()
        names = list(files)
        found = [
            record
            for name in names
            for frame in scan.segment(name, files[name], newest=name == names[-1])
            for record in frame.records()
        ]
        scan.finish()
        return found

    def outcome(self, files: Files) -> str:
        try:
            found = self.read(files)
        except Damaged:
            return "refused"
        return "harmless" if found == self.records else "WRONG"


def frames_of(data: bytearray) -> list[int]:
    """Offsets of the frames in a segment."""
    return [at for at in range(SECTOR_BYTES, len(data), SECTOR_BYTES) if data.startswith(MAGIC, at)]


def where(data: bytearray, offset: int) -> str:
    """What a byte of a whole segment is part of."""
    frames = [at for at in frames_of(data) if at <= offset]
    if offset < SECTOR_BYTES:
        return "segment header" if offset < 72 else "padding of a header"
    kind = data[frames[-1] + 28]
    used = 56 + int.from_bytes(data[frames[-1] + 4 : frames[-1] + 8], "little")
    if offset - frames[-1] >= used:
        return "free space" if kind else "padding of a frame"
    return ("frame of records", "seal", "last frame of a segment")[kind]


@pytest.mark.parametrize(("segment_bytes", "batches"), [(8192, 6), (4096, 6)], ids=["one segment", "two segments"])
def test_each_single_flipped_bit_is_refused_or_harmless(
    segment_bytes: int, batches: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """All 65,536 bits of a sealed journal of 8 KiB, one at a time."""
    sealed = Sealed(segment_bytes, batches, record_bytes=600)
    files = sealed.files()
    assert sum(map(len, files.values())) == 8192
    table: Counter[tuple[str, str]] = Counter()
    for data in files.values():
        whole = data.copy()
        for offset in range(len(data)):
            place = where(whole, offset)
            for bit in range(8):
                data[offset] ^= 1 << bit
                table[place, sealed.outcome(files)] += 1
                data[offset] ^= 1 << bit

    with capsys.disabled():
        print(f"\n  bits flipped one at a time: {table.total():,}, in {len(files)} segments")
        for (place, outcome), count in sorted(table.items()):
            print(f"  {count:>7,}  {outcome:<9} {place}")
    assert table.total() == 65_536
    assert not [key for key in table if key[1] == "WRONG"]
    assert {place for place, outcome in table if outcome == "harmless"} <= {
        *("padding of a header", "padding of a frame", "free space", "seal"),
    }


def test_without_a_seal_the_last_batch_would_not_be_covered() -> None:
    """Why there are seals: the very same flips in a log that was killed pass for a torn tail."""
    sealed = Sealed(8192, 10)
    [(name, data)] = sealed.files().items()
    *_, last, seal = frames_of(data)
    data[seal : seal + SECTOR_BYTES] = bytes(SECTOR_BYTES)
    data[last + 60] ^= 1

    assert sealed.outcome({name: data}) == "WRONG"


def test_what_is_refused_stays_as_it_is() -> None:
    """One line names the file, the place and the record; no byte of the directory changes."""
    sealed = Sealed(8192, 10)
    place = frames_of(sealed.files()["000000000001.segment"])[3] + 80
    sealed.disk.damage(DIRECTORY / "000000000001.segment", place, b"\xff\xff")
    before = sealed.files(), sorted(sealed.disk.names(DIRECTORY))
    sealed.disk.counts.clear()

    with pytest.raises(Damaged) as caught:
        sealed.open()

    assert (sealed.files(), sorted(sealed.disk.names(DIRECTORY))) == before
    assert sealed.disk.counts["write"] == 1  # the pid in LOCK
    assert caught.value.exit_code == 12
    assert caught.value.file == "000000000001.segment"
    assert caught.value.offset == place - 80
    assert 1 < caught.value.lsn < len(sealed.records)
    assert "\n" not in str(caught.value)
    assert f"000000000001.segment at byte {place - 80}, record {caught.value.lsn}" in str(caught.value)


def test_it_can_be_opened_again_after_a_refusal() -> None:
    """A refused open holds no lock and no file."""
    sealed = Sealed(8192, 10)
    sealed.disk.damage(DIRECTORY / "000000000001.segment", 520, b"\xff")
    for _ in range(2):
        with pytest.raises(Damaged):
            sealed.open()


@pytest.fixture
def sealed() -> Sealed:
    """Several segments, the first ones trimmed and recycled."""
    made = Sealed(4096, 40, trim=20)
    assert len(made.files()) > 4
    assert made.records[0][0] > 1
    return made


def test_two_swapped_segments(sealed: Sealed) -> None:
    files = sealed.files()
    a, b = list(files)[1:3]
    files[a], files[b] = files[b], files[a]

    assert sealed.outcome(files) == "refused"


def test_a_missing_segment(sealed: Sealed) -> None:
    """In the middle, and at the end, where the one before says that it exists."""
    files = sealed.files()
    for name in list(files)[1:]:
        assert sealed.outcome({other: data for other, data in files.items() if other != name}) == "refused"


def test_a_segment_cut_short(sealed: Sealed) -> None:
    """A file that an incomplete copy made shorter, at any sector."""
    files = sealed.files()
    for name, data in files.items():
        for size in range(0, len(data), SECTOR_BYTES):
            assert sealed.outcome({**files, name: data[:size]}) == "refused"


def test_the_last_segment_replaced_by_its_own_past(sealed: Sealed) -> None:
    """The same segment of the same log, without its later frames: the seal is what notices."""
    files = sealed.files()
    *_, name = files
    frames = frames_of(files[name])
    for at in frames[:-1]:
        files[name][at : at + SECTOR_BYTES] = bytes(SECTOR_BYTES)
        assert sealed.outcome(files) == "refused"


def test_a_segment_of_another_log(sealed: Sealed) -> None:
    files = sealed.files()
    other = Sealed(4096, 40, trim=20, uuid=b"another log's id").files()
    for name in files:
        assert sealed.outcome({**files, name: other[name]}) == "refused"


def test_any_frame_copied_over_any_other(sealed: Sealed) -> None:
    """Misdirected writes: within a segment, and between segments."""
    files = sealed.files()
    places = [(name, at) for name, data in files.items() for at in frames_of(data)]
    for source, source_at in places:
        block = bytes(files[source][source_at : source_at + SECTOR_BYTES])
        for target, target_at in places:
            if (source, source_at) == (target, target_at):
                continue
            data = files[target].copy()
            data[target_at : target_at + SECTOR_BYTES] = block
            outcome = sealed.outcome({**files, target: data})
            # Only the seal at the very end is no loss.
            assert outcome == "refused" or (target, target_at) == places[-1]


def overwrite(random: Random, data: bytearray) -> None:
    size = random.randrange(1, 2000)
    at = random.randrange(len(data))
    data[at : at + size] = random.randbytes(min(size, len(data) - at))


def zero_sector(random: Random, data: bytearray) -> None:
    at = random.randrange(0, len(data), SECTOR_BYTES)
    data[at : at + SECTOR_BYTES] = bytes(SECTOR_BYTES)


def move_sector(random: Random, data: bytearray) -> None:
    a, b = random.randrange(0, len(data), SECTOR_BYTES), random.randrange(0, len(data), SECTOR_BYTES)
    data[a : a + SECTOR_BYTES] = data[b : b + SECTOR_BYTES]


@pytest.mark.parametrize("damage", [overwrite, zero_sector, move_sector], ids=lambda damage: damage.__name__)
def test_random_damage_is_never_believed(sealed: Sealed, damage: Callable[[Random, bytearray], None]) -> None:
    """2,000 times, everywhere but at the very end, where a lost seal and a lost batch look like a torn tail."""
    whole = sealed.files()
    *names, _ = whole
    for seed in range(2000):
        random = Random(seed)
        name = random.choice(names)
        data = whole[name].copy()
        damage(random, data)

        assert sealed.outcome({**whole, name: data}) in {"refused", "harmless"}, f"seed {seed}"

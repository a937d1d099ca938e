"""`verify` and `dump` read a log without its lock, also while somebody writes it, and never write."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.journal import (
    Damaged,
    Log,
    LogOptions,
    NewerFormat,
    NotAJournal,
    describe_bytes,
    dump,
    read_offline,
    verify,
)
from perdure.journal.frames import NO_CHAIN
from perdure.journal.segments import SegmentHeader

OPTIONS = LogOptions(segment_bytes=16384)


def record_of(lsn: int) -> bytes:
    return b"record %d " % lsn * 20


def append_many(log: Log, count: int) -> None:
    for number in range(count):
        log.append(record_of(log.next_lsn))
        if number % 5 == 0:
            log.flush()
    log.flush()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A closed log of 300 records in several segments."""
    with Log.open(tmp_path, options=OPTIONS) as log:
        append_many(log, 300)
    return tmp_path


async def dumped(directory: Path, from_lsn: int = 1) -> list[str]:
    return [line async for line in dump(directory, from_lsn)]


async def test_verify_says_what_there_is(directory: Path) -> None:
    found = await verify(directory)

    assert (found.first_lsn, found.next_lsn, found.records) == (1, 301, 300)
    assert found.record_bytes == sum(len(record_of(lsn)) for lsn in range(1, 301))
    assert found.segments == len(list(directory.glob("*.segment"))) > 1
    assert found.sealed
    assert str(found).startswith("whole: records 1 to 300, ")
    assert found.uuid.hex() in str(found)


async def test_progress_goes_from_nothing_to_all(directory: Path) -> None:
    seen: list[tuple[int, int]] = []

    await verify(directory, on_progress=lambda done, total: seen.append((done, total)))

    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in directory.glob("*.segment"))


async def test_dump_gives_a_line_for_each_record(directory: Path) -> None:
    lines = await dumped(directory, 298)

    assert [line.split(" ", 1) for line in lines] == [
        [str(lsn), describe_bytes(record_of(lsn))] for lsn in (298, 299, 300)
    ]
    assert await dumped(directory, 301) == []


async def test_records_can_be_read_as_they_are(directory: Path) -> None:
    found = [each async for each in read_offline(directory, 299)]

    assert found == [(299, record_of(299)), (300, record_of(300))]


async def test_dump_describes_as_it_is_told(tmp_path: Path) -> None:
    """One line whatever the description holds, and a line also for what can't be described."""
    with Log.open(tmp_path) as log:
        log.append(b"a\nb\x1b[2J")
        log.append(b"\xff")

    lines = [line async for line in dump(tmp_path, describe=lambda record: record.decode())]

    assert lines[0] == "1 a\\nb\\x1b[2J"
    assert lines[1].startswith(r"2 1 bytes b'\xff' (not understood: UnicodeDecodeError")


async def test_nothing_is_written(directory: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    (directory / "LOCK").unlink()

    await verify(directory)
    await dumped(directory)

    before.pop("LOCK")
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before


async def test_damage_is_told_after_what_is_whole(directory: Path) -> None:
    segment = sorted(directory.glob("*.segment"))[1]
    data = bytearray(segment.read_bytes())
    data[3000] ^= 4
    data[3001] ^= 4
    at = data.rfind(b"PRDF", 0, 3000)
    segment.write_bytes(data)
    lines: list[str] = []

    with pytest.raises(Damaged) as caught:
        lines += [line async for line in dump(directory)]
    with pytest.raises(Damaged) as again:
        await verify(directory)

    assert (caught.value.file, caught.value.offset) == (segment.name, at)
    assert str(again.value) == str(caught.value)


async def test_a_torn_tail_is_the_end(directory: Path) -> None:
    """As it is for the next start; without its seal the log is told to be unsealed."""
    *_, segment = sorted(directory.glob("*.segment"))
    data = bytearray(segment.read_bytes())
    seal = data.rfind(b"PRDF")
    data[seal : seal + 20] = bytes(20)
    segment.write_bytes(data)

    found = await verify(directory)

    assert found.records == 300
    assert not found.sealed
    assert "not sealed" in str(found)


@pytest.mark.parametrize("name", ["missing", "empty", "file"])
async def test_no_journal_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")

    with pytest.raises(NotAJournal) as caught:
        await verify(tmp_path / name)

    assert caught.value.exit_code == 2
    assert str(tmp_path / name) in str(caught.value)


async def test_a_newer_version(directory: Path) -> None:
    first, *_ = sorted(directory.glob("*.segment"))
    header = SegmentHeader(bytes(16), 1, 16384, 1, NO_CHAIN).pack(version=9)
    first.write_bytes(header + first.read_bytes()[512:])

    with pytest.raises(NewerFormat):
        await verify(directory)


# -- beside a live writer


class LiveLog:
    """A log that goes on while it is read: at each piece that the reader takes, and now and then trimmed under it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = Log.open(directory, options=LogOptions(segment_bytes=16384, writer_thread=False))
        self.pieces = 0
        append_many(self.log, 500)

    def go_on(self, done: int, total: int) -> None:
        self.pieces += 1
        append_many(self.log, 6)
        if self.pieces % 25 == 0:
            self.log.trim(self.log.next_lsn - 300)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveLog]:
    made = LiveLog(tmp_path)
    yield made
    made.log.close()


async def test_a_live_directory_is_never_taken_for_damaged(live: LiveLog) -> None:
    """Segments come, go and are written while they are read: each reading is whole, and not behind the last."""
    last = 0
    for _ in range(8):
        found = await verify(live.directory, on_progress=live.go_on)
        assert found.next_lsn >= last
        last = found.next_lsn

    assert live.log.first_lsn > 1
    assert last > 1000


async def test_a_dump_of_a_live_directory_repeats_nothing(live: LiveLog) -> None:
    """Records that were trimmed meanwhile are missing at a seam; every one that comes is right, and comes once."""
    seams = 0
    for _ in range(5):
        lsns: list[int] = []
        async for line in dump(live.directory, describe=lambda record: record.decode(), on_progress=live.go_on):
            number, text = line.split(" ", 1)
            assert text == record_of(int(number)).decode()
            lsns.append(int(number))
        assert lsns == sorted(set(lsns))
        seams += lsns != list(range(lsns[0], lsns[-1] + 1))

    assert seams > 0

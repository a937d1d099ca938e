"""What every journal promises, on each kind of journal."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from perdure.journal import RECORD_BYTES_MAX, Journal, Log, LogOptions, MemoryJournal, RecordTooLarge
from perdure.journal.simulation import SimDisk

OpenJournal = Callable[[], Journal]


def memory_kind(_: Path) -> OpenJournal:
    last: list[MemoryJournal] = []

    def start() -> MemoryJournal:
        before = last[-1] if last else MemoryJournal()
        last.append(MemoryJournal(before.records, first_lsn=before.first_lsn, uuid=before.uuid))
        return last[-1]

    return start


def log_kind(directory: Path) -> OpenJournal:
    return lambda: Log.open(directory)


def tiny_segments_kind(directory: Path) -> OpenJournal:
    return lambda: Log.open(directory, options=LogOptions(segment_bytes=4096))


def simulated_kind(_: Path) -> OpenJournal:
    disk = SimDisk(Random(0))
    options = LogOptions(segment_bytes=4096, writer_thread=False)
    return lambda: Log.open(Path("/journal"), disk=disk, options=options)


KINDS = [memory_kind, log_kind, tiny_segments_kind, simulated_kind]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> OpenJournal:
    """Opens the journal, as a process does at its start; again after a close."""
    kind: Callable[[Path], OpenJournal] = request.param
    return kind(tmp_path / "journal")


@pytest.fixture
def journal(start: OpenJournal) -> Iterator[Journal]:
    opened = start()
    yield opened
    opened.close()


@dataclass
class Heard:
    """What the callbacks said."""

    synced: list[int]
    failed: list[BaseException]


def listen(journal: Journal) -> Heard:
    heard = Heard([], [])
    journal.subscribe(heard.synced.append, heard.failed.append)
    return heard


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited 10 s"
        time.sleep(0.0001)


def append_all(journal: Journal, *records: bytes) -> int:
    for record in records:
        journal.reserve(len(record))
        journal.append(record)
    return journal.next_lsn - 1


def test_the_first_record_is_number_one(journal: Journal) -> None:
    """And each next one is one more."""
    assert journal.next_lsn == 1
    assert (journal.append(b"a"), journal.append(b"b")) == (1, 2)
    assert journal.next_lsn == 3


def test_nothing_is_synced_before_flush(journal: Journal) -> None:
    """The open batch belongs to the owner."""
    heard = listen(journal)

    append_all(journal, b"abc", b"")

    assert journal.synced_lsn == 0
    assert journal.unsynced_bytes == 3
    assert heard.synced == []


def test_a_flush_is_acknowledged_up_to_its_last_record(journal: Journal) -> None:
    """What was appended after the flush is not in it."""
    heard = listen(journal)

    append_all(journal, b"a", b"b")
    journal.flush()
    journal.append(b"c")
    wait_until(lambda: bool(heard.synced))

    assert heard.synced == [2]
    assert journal.synced_lsn == 2
    assert journal.unsynced_bytes == 1


def test_appended_bytes_are_of_this_life(start: OpenJournal) -> None:
    """Synced or not; a restart begins anew."""
    journal = start()
    append_all(journal, b"abc", b"")
    journal.flush()
    append_all(journal, b"de")
    assert journal.appended_bytes == 5
    journal.close()

    journal = start()
    assert journal.appended_bytes == 0
    journal.close()


def test_whoever_hears_of_a_batch_may_ask_how_long_it_took(journal: Journal) -> None:
    heard: list[float] = []
    journal.subscribe(lambda _: heard.append(journal.commit_seconds), lambda _: None)
    append_all(journal, b"a")
    journal.flush()
    wait_until(lambda: len(heard) == 1)

    assert 0 <= heard[0] < 10


def test_an_empty_flush_is_nothing(journal: Journal) -> None:
    heard = listen(journal)

    journal.flush()
    append_all(journal, b"a")
    journal.flush()
    journal.flush()
    wait_until(lambda: journal.synced_lsn == 1)

    assert heard.synced == [1]


def test_records_are_there_after_a_restart(start: OpenJournal) -> None:
    """The same bytes under the same numbers, the empty ones too, and the next number goes on."""
    first = start()
    append_all(first, b"a", b"", b"\0" * 700)
    first.flush()
    append_all(first, b"not flushed")
    first.close()

    second = start()
    found = list(second.read())
    second.close()

    assert found == [(1, b"a"), (2, b""), (3, b"\0" * 700), (4, b"not flushed")]
    assert second.next_lsn == 5
    assert second.synced_lsn == 4
    assert second.uuid == first.uuid


def test_read_starts_where_it_is_told(start: OpenJournal) -> None:
    first = start()
    append_all(first, *(b"%d" % number for number in range(1, 51)))
    first.close()

    second = start()
    found = list(second.read(48))
    nothing = list(second.read(51))
    second.close()

    assert found == [(48, b"48"), (49, b"49"), (50, b"50")]
    assert nothing == []


def test_a_new_journal_reads_nothing(journal: Journal) -> None:
    assert list(journal.read()) == []
    assert journal.first_lsn == journal.next_lsn == 1


def test_journals_have_different_identities(tmp_path: Path) -> None:
    with Log.open(tmp_path / "a") as a, Log.open(tmp_path / "b") as b:
        assert len({a.uuid, b.uuid, MemoryJournal().uuid}) == 3
        assert len(a.uuid) == 16


def test_many_batches_keep_their_order(start: OpenJournal) -> None:
    """Also where a batch is larger than a segment of the tiny ones."""
    random = Random(1)
    records = [random.randbytes(random.choice((0, 1, 30, 400, 1500))) for _ in range(400)]
    journal = start()
    heard = listen(journal)
    for number, record in enumerate(records, 1):
        append_all(journal, record)
        if number % 7 == 0 or number % 90 > 60:
            journal.flush()
    journal.close()

    second = start()
    found = [record for _, record in second.read()]
    second.close()

    assert found == records
    assert heard.synced == sorted(set(heard.synced))
    assert heard.synced[-1] == 400
    assert heard.failed == []


def test_too_large_a_record_is_refused(journal: Journal) -> None:
    """And nothing has changed."""
    with pytest.raises(RecordTooLarge, match="16777217 bytes"):
        journal.reserve(RECORD_BYTES_MAX + 1)

    assert append_all(journal, b"a") == 1


def test_trimmed_records_need_not_be_there(start: OpenJournal) -> None:
    """The others are, under their old numbers, and new ones go on."""
    records = [b"%d" % number * 100 for number in range(1, 101)]
    first = start()
    append_all(first, *records)
    first.flush()
    wait_until(lambda: first.synced_lsn == 100)
    first.trim(80)
    append_all(first, b"101")
    first.close()

    second = start()
    found = dict(second.read())
    second.close()

    assert min(found) == second.first_lsn <= 80
    assert [found[lsn] for lsn in range(80, 101)] == records[79:]
    assert found[101] == b"101"
    assert second.next_lsn == 102


def test_trimming_ahead_keeps_the_numbers(start: OpenJournal) -> None:
    """Of a journal that was trimmed whole, the next record is still the next."""
    first = start()
    append_all(first, b"a", b"b")
    first.flush()
    first.trim(3)
    first.close()

    second = start()
    assert second.next_lsn == 3
    assert append_all(second, b"c") == 3
    second.close()


def test_closing_twice_is_nothing(start: OpenJournal) -> None:
    journal = start()
    journal.close()
    journal.close()
    journal.flush()
    journal.trim(1)

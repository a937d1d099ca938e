"""What every store does, the one on a disk and its twin in memory; and that random programs end as a dict would."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.runtime.store import MemoryStore, Put, Store, StoreWriter, verify

UUID = bytes(range(16))
Reopen = Callable[[], StoreWriter]


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreWriter]:
    opened: StoreWriter = Store.open(tmp_path / "store", UUID) if request.param == "disk" else MemoryStore(UUID)
    yield opened
    opened.close()


def test_a_new_store_stands_for_nothing(store: StoreWriter) -> None:
    assert (store.uuid, store.lsn, store.summary) == (UUID, 0, b"")
    assert store.get(b"key") is None
    assert store.range(b"", b"\xff", 10) == []


def test_a_commit_is_seen_at_once(store: StoreWriter) -> None:
    store.commit([Put(b"a", b"1"), Put(b"b", b"")], 7, b"summary")

    assert (store.lsn, store.summary) == (7, b"summary")
    assert (store.get(b"a"), store.get(b"b"), store.get(b"c")) == (b"1", b"", None)


def test_a_row_is_changed_and_deleted(store: StoreWriter) -> None:
    """Deleting what isn't there is nothing."""
    store.commit([Put(b"a", b"1"), Put(b"b", b"1")], 1, b"")
    store.commit([Put(b"a", b"2"), Put(b"b", None), Put(b"c", None)], 2, b"")

    assert store.range(b"", b"\xff", 10, [b"a", b"b", b"c"]) == [(b"a", b"2")]


def test_of_two_puts_for_one_key_the_later_holds(store: StoreWriter) -> None:
    """Near each other, and far apart in one long commit."""
    between = [Put(b"between %d" % number, b"") for number in range(200)]

    store.commit(
        [Put(b"a", b"1"), Put(b"a", b"2"), *between, Put(b"a", None), Put(b"b", b"3"), Put(b"b", b"4")], 1, b""
    )

    assert (store.get(b"a"), store.get(b"b")) == (None, b"4")


def test_a_range_is_in_the_order_of_bytes_and_leaves_out_its_end(store: StoreWriter) -> None:
    keys = [b"", b"\0", b"a", b"a\0", b"a\xff", b"b", b"\x7f", b"\x80", b"\xff\xff"]
    store.commit([Put(key, b"v" + key) for key in reversed(keys)], 1, b"")

    assert [key for key, _ in store.range(b"", b"\xff\xff", 100)] == sorted(keys)[:-1]
    assert store.range(b"a", b"b", 2) == [(b"a", b"va"), (b"a\0", b"va\0")]
    assert store.range(b"a", b"a", 5) == store.range(b"b", b"a", 5) == store.range(b"", b"b", 0) == []


def test_rows_of_a_group_are_read_together_and_one_by_one(store: StoreWriter) -> None:
    store.commit([Put(b"list/%03d" % number, b"%d" % number, b"list") for number in range(300)], 1, b"")

    assert store.get(b"list/007", b"list") == b"7"
    assert store.get(b"list/999", b"list") is None
    assert store.range(b"list/", b"list0", 300, [b"list"]) == [(b"list/%03d" % n, b"%d" % n) for n in range(300)]


def test_a_group_is_for_good(store: StoreWriter) -> None:
    """Read or written under another one is a mistake, which changes nothing."""
    store.commit([Put(b"a", b"1", b"one")], 1, b"")

    with pytest.raises(ValueError, match="another group"):
        store.get(b"a", b"two")
    with pytest.raises(ValueError, match="another group"):
        store.commit([Put(b"b", b"2"), Put(b"a", b"2", b"two")], 2, b"")
    assert (store.lsn, store.get(b"a", b"one"), store.get(b"b")) == (1, b"1", None)


def test_an_lsn_never_goes_back(store: StoreWriter) -> None:
    """The same one again is allowed: something beside the journal may have changed."""
    store.commit([Put(b"a", b"1")], 5, b"one")
    store.commit([Put(b"a", b"2")], 5, b"two")

    with pytest.raises(ValueError, match="can't go back"):
        store.commit([Put(b"a", b"3")], 4, b"three")
    assert (store.lsn, store.summary, store.get(b"a")) == (5, b"two", b"2")


def test_an_empty_commit_moves_the_lsn(store: StoreWriter) -> None:
    store.commit([], 9, b"nothing changed")

    assert (store.lsn, store.summary) == (9, b"nothing changed")


def test_any_bytes_are_keys_and_values(store: StoreWriter) -> None:
    """Also none, zeros, what is no text, and a value of a megabyte."""
    dice = random.Random(1)
    rows = {b"": b"", b"\0": b"\0", b"\xff\xfe": dice.randbytes(1_000_000), b"k" * 5000: b"v" * 5000}

    store.commit([Put(key, value) for key, value in rows.items()], 1, dice.randbytes(100_000))

    assert {key: store.get(key) for key in rows} == rows


def test_closing_twice_is_nothing(store: StoreWriter) -> None:
    store.close()
    store.close()


# --- random programs --------------------------------------------------------------------------------------------------

KEYS = [b"key %d" % number for number in range(40)]
GROUPS = {key: None if number < 20 else b"group %d" % (number % 3) for number, key in enumerate(KEYS)}
ALL_GROUPS = [GROUPS[key] or key for key in KEYS]


def put(key: bytes, value: bytes | None) -> Put:
    return Put(key, value, GROUPS[key])


puts = st.builds(put, st.sampled_from(KEYS), st.none() | st.binary(max_size=9))
steps = st.lists(puts, max_size=150) | st.sampled_from(["reopen", "look"])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(program=st.lists(steps, max_size=12))
def test_random_commits_end_as_in_a_dict(
    program: list[list[Put] | str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Both stores, reopened at any moment, looked at now and then so that some buckets are verified and some not."""
    path = tmp_path_factory.mktemp("random") / "store"
    disk, memory = Store.open(path, UUID), MemoryStore(UUID)
    model: dict[bytes, bytes] = {}

    for lsn, step in enumerate(program):
        if step == "reopen":
            disk.close()
            disk = Store.open(path, UUID)
        elif isinstance(step, list):
            for store in (disk, memory):
                store.commit(step, lsn, b"summary %d" % lsn)
            for put in {put.key: put for put in step}.values():
                if put.value is None:
                    model.pop(put.key, None)
                else:
                    model[put.key] = put.value
        else:
            assert disk.get(KEYS[lsn], GROUPS[KEYS[lsn]]) == model.get(KEYS[lsn])

    for store in (disk, memory):
        assert {key: value for key in KEYS if (value := store.get(key, GROUPS[key])) is not None} == model
        assert store.range(b"", b"\xff", 100, ALL_GROUPS) == sorted(model.items())
        assert (store.lsn, store.summary) == (memory.lsn, memory.summary)
    disk.close()
    report = verify(path)
    assert report.whole, report.problems
    assert report.rows == len(model)

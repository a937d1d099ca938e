"""Keys and partitions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.objects.ids import PARTITIONS, InvalidKey, partition_of, validate_idempotency_key, validate_key


@pytest.mark.parametrize("key", ["a", "a/b?c#d%2f", "..", " ", "ключ", "🔑", "x" * 512, "é" * 256, "e\u0301", "\u202e"])
def test_a_key_is_opaque(key: str) -> None:
    """Any Unicode, as long as it is short: a key is never a file name, and never normalised."""
    validate_key(key)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "the key is empty"),
        ("x" * 513, "513 bytes"),
        ("é" * 257, "514 bytes"),
        ("a\0b", r"control character '\\x00' at 1"),
        ("a\nb", "control character"),
        ("\x7f", "control character"),
        ("\u0085é", "control character"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_a_key_that_cannot_be_is_refused_with_the_reason(key: str, reason: str) -> None:
    with pytest.raises(InvalidKey, match=reason):
        validate_key(key)


def test_a_key_of_another_type_is_refused_by_name() -> None:
    with pytest.raises(InvalidKey, match="a key is a str, got int"):
        validate_key(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_an_idempotency_key_obeys_the_same_rule_under_its_name() -> None:
    validate_idempotency_key("order-7")
    with pytest.raises(InvalidKey, match="the idempotency key is empty"):
        validate_idempotency_key("")


@given(st.text())
def test_what_is_accepted_survives_a_round_trip(key: str) -> None:
    try:
        validate_key(key)
    except InvalidKey:
        return
    assert key.encode().decode() == key
    assert 0 <= partition_of("Account", key) < PARTITIONS


def test_a_partition_never_changes() -> None:
    """It is part of ids on disk: these figures are a record of the first release."""
    assert [partition_of("Account", key) for key in ("alice", "bob", "")] == [2767, 2741, 1401]
    assert partition_of("AccountA", "lice") != partition_of("Account", "Alice")

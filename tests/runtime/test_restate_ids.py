"""Each of our ids is one of Restate's, and comes back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.runtime.restate_ids import ours, theirs

OF_RESTATE = re.compile(r"inv_1[0-9a-zA-Z]{33}")


@given(partition=st.integers(0, 0xFFF), unique=st.integers(0, 2**128 - 1))
def test_an_id_comes_back(partition: int, unique: int) -> None:
    """Written in Restate's form, which has 38 characters, and read again."""
    id = f"inv_{partition:03x}{unique:032x}"

    assert OF_RESTATE.fullmatch(theirs(id))
    assert ours(theirs(id)) == id


def test_the_form_is_the_one_that_restates_command_line_reads() -> None:
    """It has printed this one for that of an order."""
    assert theirs("inv_4001219d403cba6e33aab4493ed06c5ed1f") == "inv_1000000000gw0y9FfN3tLr8hCZXWUfUgYD"


@pytest.mark.parametrize(
    "id",
    ["", "inv_", "inv_1", "awk_1", "inv_1gdJBtdVEcM942bjcDmb1c1khoaJe11Hbz", "inv_1" + "Z" * 33, "inv_1" + "0" * 34],
)
def test_what_can_be_none_of_ours_stays_as_it_is(id: str) -> None:
    """Nothing has that id; a partition or a number that is too large is not cut off to fit."""
    assert ours(id) == id


def test_what_is_no_id_of_ours_is_not_written_as_one() -> None:
    """Another's stays what it is."""
    assert theirs("inv_xyz") == "inv_xyz"

"""Tables on terminals of any width: what is there to be copied is never cut in two."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import pytest
from rich.console import Console, RenderableType

from perdure.runtime.terminal import Rows
from perdure.runtime.watching import Cropped

ID = "inv_374bb989a6e85b96028fdc51014b530d401"
AWAKEABLE = "awk_7cbd61083a29a61dd7bab863e694ee4f"
ROWS: Sequence[Mapping[str, object]] = [
    {
        "id": ID,
        "target": "Signup/x/run",
        "why": f"awakeable {AWAKEABLE}, sleep until 2026-11-26 03:06",
        "retries": None,
    },
    {"id": ID, "target": "Signup/a key with words in it/run", "why": "", "retries": None},
]
TITLES = {"id": "id", "target": "target", "why": "waits for", "retries": "retries"}


def shown(what: RenderableType, width: int, height: int = 25) -> list[str]:
    out = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    out.print(what)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 140, 300])
def test_an_id_stays_on_one_line(width: int) -> None:
    lines = shown(Rows(ROWS, TITLES), width)

    assert sum(ID in line for line in lines) == 2
    assert sum(AWAKEABLE in line for line in lines) == 1
    assert max(map(len, lines)) <= width


def test_too_narrow_for_columns_it_goes_down_instead_of_across() -> None:
    lines = shown(Rows(ROWS, TITLES), 60)

    assert [line.split()[0] for line in lines[:3]] == ["id", "target", "waits"]


def test_nothing_is_lost_where_not_even_an_id_fits() -> None:
    text = "".join(line.removeprefix("id").removeprefix("target").strip() for line in shown(Rows(ROWS[1:], TITLES), 30))

    assert ID in text
    assert "Signup/a key" in text


def test_a_column_that_is_empty_is_left_out() -> None:
    assert "retries" not in "".join(shown(Rows(ROWS, TITLES), 300))
    assert "retries" in "".join(shown(Rows([{**ROWS[0], "retries": 0}], TITLES), 300))
    assert "nothing" in "".join(shown(Rows([{"nothing": None}]), 300)), "of SQL each column is shown"


def test_what_a_screen_does_not_hold_is_told() -> None:
    rows = Rows([{"n": number} for number in range(30)])

    lines = shown(Cropped(rows), 80, height=10)

    assert len(lines) == 10
    assert lines[-1] == "and 25 lines more than the screen holds"
    assert shown(Cropped(rows), 80, height=34) == shown(rows, 80)

"""What commands show to people and to scripts.

Keys, errors and values come from strangers: what isn't printable never reaches a terminal as it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from .logs import printable

_PIPED_WIDTH: Final = 10_000
"""Piped, a row stays one line, however long."""
_ID_WIDTH: Final = 30
_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def console() -> Console:
    """Standard output as it is now."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False, emoji=False)


def text(value: object) -> Text:
    """Anything as text for a terminal: not read as markup, nothing in it steers anything."""
    if value is None:
        return Text("")
    return Text(printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))


class Rows:
    """A table, or where a terminal is too narrow for its longest words, as an ID is, each row below the other.

    One column for each of `titles`, field by title, but for those that nothing stands in; of the first row, all of
    them, if there are no titles.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str] | None = None) -> None:
        self._rows = rows
        self._titles = {name: name for name in rows[0]} if titles is None else _not_empty(rows, titles)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        across, unlimited = self._across(), options.update_width(_PIPED_WIDTH)
        needed = Measurement.get(console, unlimited, across)
        if needed.maximum <= options.max_width:
            yield across
        else:
            yield self._across(words_whole=True) if needed.minimum <= options.max_width else self._down()

    def _across(self, *, words_whole: bool = False) -> Table:
        made = Table()
        for name, title in self._titles.items():
            cells = [text(title), *(text(row.get(name)) for row in self._rows)]
            widest = max(cell.cell_len for cell in cells)
            word = max((cell_len(word) for cell in cells for word in cell.plain.split(" ")), default=0)
            # Rich takes from the widest columns first, also what would cut an ID in two.
            width = word if words_whole and _ID_WIDTH <= word < widest else None
            made.add_column(text(title), overflow="fold", no_wrap=words_whole and word == widest, width=width)
        for row in self._rows:
            made.add_row(*(text(row.get(name)) for name in self._titles))
        return made

    def _down(self) -> Table:
        made = Table.grid(padding=(0, 2))
        made.add_column(no_wrap=True)
        made.add_column(overflow="fold")
        for row in self._rows:
            for name, title in self._titles.items():
                if (value := text(row.get(name))).plain:
                    made.add_row(text(title), value)
            made.add_row()
        return made


def _not_empty(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> dict[str, str]:
    return {name: title for name, title in titles.items() if any(row.get(name) not in (None, "") for row in rows)}


def print_table(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str] | None = None) -> None:
    """Nothing, if there are no rows."""
    if rows:
        console().print(Rows(rows, titles))


def print_line(line: str) -> None:
    print(printable(line), flush=True)


def complain(line: str) -> None:
    """On stderr."""
    print(f"perdure: {printable(line)}", file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """On one line; whatever isn't printable, or not ASCII, is escaped."""
    print(json.dumps(value).replace("\x7f", "\\u007f"), flush=True)


def json_shown(body: bytes) -> str:
    """JSON as it came, the same value: what isn't printable in its strings is escaped as JSON does it."""
    came = body.decode("utf-8", "replace").strip()
    return came if came.isprintable() else "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in came)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1] if character > "\x7f" else f"\\u{ord(character):04x}"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def path_of(parts: Iterable[str | None]) -> str:
    """A target as it is typed: a slash, a percent sign and what isn't printable in a part of it percent-encoded."""
    return "/".join("".join(map(_typed, part)) for part in parts if part)


def _typed(character: str) -> str:
    if character.isprintable() and character not in "/%":
        return character
    return quote(character, safe="", errors="replace")


def seconds_between(earlier: str | None, later: str | None) -> float | None:
    """Of two times as ISO 8601; None where one is unknown."""
    if not earlier or not later:
        return None
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def duration(seconds: float | None) -> str:
    """`1.2 ms`, `3.41 s`, `2 h 5 min`; nothing for None."""
    if seconds is None:
        return ""
    seconds = max(seconds, 0.0)
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    left, parts = round(seconds), list[str]()
    for size, name in _UNITS:
        number, left = divmod(left, size)
        if number:
            parts.append(f"{number:,} {name}")
    return " ".join(parts[:2])


def clock(at: str | None) -> str:
    """A time as ISO 8601 for a table: to the millisecond, in UTC."""
    return "" if not at else at[:10] + " " + at[11:23].rstrip("Z")

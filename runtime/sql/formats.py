"""Rows as bytes: JSON as Restate's admin API gives it, JSON lines, CSV, Arrow (see `arrow`).

A blob is hexadecimal text; a column that its table declares to be BOOLEAN is true or false in JSON, 1 or 0 in CSV.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator

import msgspec

from . import arrow
from .protocol import Format
from .sandbox import ResultColumn
from .virtual import Value

Row = tuple[Value, ...]
_encode = msgspec.json.Encoder().encode


def written(columns: list[ResultColumn], rows: Iterable[Row], format: Format) -> Iterator[bytes]:
    """The answer, in pieces; a piece for each row, at least."""
    return _FORMATS[format](columns, rows)


def _json(columns: list[ResultColumn], rows: Iterable[Row]) -> Iterator[bytes]:
    yield b'{"rows":['
    separator = b""
    for row in _objects(columns, rows):
        yield separator + row
        separator = b","
    yield b"]}"


def _jsonl(columns: list[ResultColumn], rows: Iterable[Row]) -> Iterator[bytes]:
    for row in _objects(columns, rows):
        yield row + b"\n"


def _objects(columns: list[ResultColumn], rows: Iterable[Row]) -> Iterator[bytes]:
    names = [column.name for column in columns]
    booleans = [number for number, column in enumerate(columns) if column.type == "BOOLEAN"]
    for row in rows:
        values = [value.hex() if isinstance(value, bytes) else value for value in row]
        for number in booleans:
            if values[number] is not None:
                values[number] = bool(values[number])
        yield _encode(dict(zip(names, values, strict=True)))


def _csv(columns: list[ResultColumn], rows: Iterable[Row]) -> Iterator[bytes]:
    text = io.StringIO()
    writer = csv.writer(text)

    def line(values: Iterable[Value]) -> bytes:
        text.seek(0)
        text.truncate()
        writer.writerow(values)
        return text.getvalue().encode()

    yield line(column.name for column in columns)
    for row in rows:
        yield line(value.hex() if isinstance(value, bytes) else value for value in row)


_FORMATS: dict[Format, Callable[[list[ResultColumn], Iterable[Row]], Iterator[bytes]]] = {
    "json": _json,
    "jsonl": _jsonl,
    "csv": _csv,
    "arrow": arrow.written,
}

"""Rows as a stream of Arrow, in which Restate's command line asks for SQL.

Arrow wants one type for a column, before its first row; SQLite has one for a value.  So all rows are looked at first,
and a column in which several meet becomes text.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .sandbox import ResultColumn
    from .virtual import Value

INSTALLED: Final = find_spec("nanoarrow") is not None
"""It is an optional extra; what it costs to import is paid by who asks for it."""


def written(columns: list[ResultColumn], rows: Iterable[tuple[Value, ...]]) -> Iterator[bytes]:
    """The whole stream: its schema, and one batch."""
    import nanoarrow  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]
    from nanoarrow import ipc  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]

    na: Any = nanoarrow  # Any: they say nothing of their types
    writers: Any = ipc
    makers: dict[type, Callable[[], Any]] = {
        str: na.string,
        bytes: na.binary,
        bool: na.bool_,
        int: na.int64,
        float: na.float64,
    }
    found = [*rows]
    types: dict[str, Any] = {}
    arrays: list[Any] = []
    for number, column in enumerate(columns):
        values = [row[number] for row in found]
        kind = _type_of(column.type, values)
        types[column.name] = makers[kind]()
        arrays.append(na.c_array([None if value is None else kind(value) for value in values], types[column.name]))
    batch = na.c_array_from_buffers(na.struct(types), len(found), [None], children=arrays)
    out = io.BytesIO()
    with writers.StreamWriter.from_writable(out) as writer:
        writer.write_stream(batch)
    yield out.getvalue()


def _type_of(declared: str | None, values: list[Value]) -> type:
    kinds = {type(value) for value in values if value is not None}
    if declared == "BOOLEAN" and kinds <= {int}:
        return bool
    if not kinds:
        return int if declared == "INTEGER" else str
    if len(kinds) == 1:
        return kinds.pop()
    return float if kinds == {int, float} else str

"""Tables for SQLite whose rows are made by Python, one after the other, and whose columns only when they are asked for.

A table hands out things (an invocation, an object's field), and each of its columns says how to read one off such a
thing: a query that counts reads none.  Equality on the columns named in `looked_up` is told to `rows`, which may use
it to read less; SQLite compares again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast

import apsw

T = TypeVar("T")

Value = None | int | float | str | bytes
Wanted = Mapping[str, str]
"""By column: the text it must be equal to."""

_ALL_ROWS: Final = 1_000_000
_NARROWED_BY: Final = 1_000


@dataclass(frozen=True)
class Column(Generic[T]):
    """`type`: TEXT, INTEGER, BOOLEAN (0 or 1)."""

    name: str
    type: str
    of: Callable[[T], Value]


@dataclass(frozen=True)
class Table(Generic[T]):
    name: str
    columns: list[Column[T]]
    rows: Callable[[Wanted], Iterator[T]]
    looked_up: tuple[str, ...] = ()
    """The first alone narrows the search; each of the others only together with those before it."""


def register(connection: apsw.Connection, table: Table[Any]) -> None:
    """`table` is there under its name, without having been created."""
    connection.create_module(
        table.name,
        cast("Any", _Module(table)),  # Any: apsw asks for methods that a table like this has no use for
        use_bestindex_object=True,
        eponymous=True,
        eponymous_only=True,
        read_only=True,
    )


class _Module:
    def __init__(self, table: Table[Any]) -> None:
        self._table = table

    def Connect(self, *_: object) -> tuple[str, _VirtualTable]:
        columns = ", ".join(f'"{column.name}" {column.type}' for column in self._table.columns)
        return f"CREATE TABLE x ({columns})", _VirtualTable(self._table)


class _VirtualTable:
    def __init__(self, table: Table[Any]) -> None:
        self._table = table

    def BestIndexObject(self, plan: apsw.IndexInfo) -> bool:
        """Which comparisons are told to `rows`: those of text with text, as it stands."""
        usable: dict[str, int] = {}
        for number in range(plan.nConstraint):
            column = plan.get_aConstraint_iColumn(number)
            if (
                plan.get_aConstraint_usable(number)
                and plan.get_aConstraint_op(number) == apsw.SQLITE_INDEX_CONSTRAINT_EQ
                and column >= 0
                and plan.get_aConstraint_collation(number) == "BINARY"
            ):
                usable.setdefault(self._table.columns[column].name, number)
        told: list[str] = []
        for name in self._table.looked_up:
            if name not in usable:
                break
            told.append(name)
            plan.set_aConstraintUsage_argvIndex(usable[name], len(told))
        plan.idxStr = ",".join(told)
        rows = max(1, _ALL_ROWS // _NARROWED_BY ** len(told))
        plan.estimatedRows = rows
        plan.estimatedCost = float(rows)
        return True

    def Open(self) -> _Cursor:
        return _Cursor(self._table)

    def Disconnect(self) -> None: ...

    Destroy = Disconnect


_END: Final = object()


class _Cursor:
    def __init__(self, table: Table[Any]) -> None:
        self._rows_of = table.rows
        self._columns = [column.of for column in table.columns]
        self._rows: Iterator[object] = iter(())
        self._row: object = _END
        self._number = 0

    def Filter(self, _: int, told: str | None, values: tuple[Value, ...]) -> None:
        wanted: dict[str, str] = {}
        for name, value in zip(told.split(",") if told else [], values, strict=True):
            if not isinstance(value, str):  # SQLite may find a number equal to a text: it has to look at them all
                break
            wanted[name] = value
        self._rows = iter(self._rows_of(wanted))
        self._number = -1
        self.Next()

    def Next(self) -> None:
        self._row = next(self._rows, _END)
        self._number += 1

    def Eof(self) -> bool:
        return self._row is _END

    def Rowid(self) -> int:
        return self._number

    def Column(self, number: int) -> Value:
        return self._number if number < 0 else self._columns[number](self._row)

    def Close(self) -> None:
        self._rows = iter(())

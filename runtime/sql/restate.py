"""What Restate's tools find in their SQL, made of our tables: more names, ids in their form, state as bytes.

Restate speaks DataFusion's SQL, we SQLite's; where a question of its command line is none for SQLite, it is put as
one.  A question that somebody else wrote in words that only DataFusion knows (`now()`, intervals, `arrow_cast`) is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from ..restate_ids import OURS, ours, theirs
from .protocol import Query
from .sandbox import ResultColumn, StatementStopped
from .stored import Stored
from .tables import tables
from .virtual import Column, Table, Value, Wanted

DEPLOYMENT_ID: Final = "dp_1" + "1".zfill(22)
"""Restate registers services where they are deployed.  Ours are deployed in the process itself, once."""

_ONLY_THEIRS: Final = (
    "pinned_deployment_id",
    "pinned_service_protocol_version",
    "last_attempt_deployment_id",
    "last_attempt_server",
    "trace_id",
)
"""NULL in each row: nothing is pinned here, and nobody else serves.  Unless it is a column of ours by now."""

_RENAMED: Final = {
    "last_start_at": "running_at",
    "last_failure_related_entry_index": "last_failure_related_command_index",
    "last_failure_related_entry_name": "last_failure_related_command_name",
    "last_failure_related_entry_type": "last_failure_related_command_type",
}
_STATUS_THERE: Final = {"pending": "inboxed", "ready": "invoked", "running": "invoked", "backing-off": "invoked"}
"""In `sys_invocation_status`, which says what is stored, not what is going on."""

_COMPUTED_BOOLEANS: Final = ("pinned_deployment_exists",)
"""Of the command line's; to SQLite what is compared is 0 or 1."""


def restate_tables(stored: Stored, query: Query) -> list[Table[Any]]:
    """All of them, over what `stored` holds and what stands in the query itself."""
    by_name = {table.name: table for table in tables(stored, query)}
    invocations = _with_ids(by_name["sys_invocation"], ("id", "invoked_by_id"))
    names = {column.name for column in invocations.columns}
    invocations = _with(
        invocations,
        *(_renamed(invocations, name, of) for name, of in _RENAMED.items()),
        *(Column[Any](name, "TEXT", _null) for name in _ONLY_THEIRS if name not in names),
    )
    there = [
        invocations,
        replace(_changed(invocations, "status", _status_there), name="sys_invocation_status"),
        _journal(by_name["sys_journal"]),
        _with_ids(by_name["sys_inbox"], ("id",)),
        by_name["sys_promise"],
        _with_ids(by_name["sys_locks"], ("acquired_by",)),
        _keyed_service_status(_with_ids(by_name["sys_locks"], ("acquired_by",))),
        _with(by_name["sys_service"], Column[Any]("deployment_id", "TEXT", lambda _: DEPLOYMENT_ID)),
        _deployments(),
        _state(by_name["state"]),
    ]
    return [*there, _columns(there)]


def in_sqlite(statement: str) -> str:
    """The same question.

    DataFusion has `index` as a name like any other, and lets an alias be seen outside of the subquery it stands in.
    An id in our form means the same as in theirs; the command line takes one for the name of a service.  It describes
    none: it would break off half way.  Raises StatementStopped.
    """
    statement = _QUOTED_OR_INDEX.sub(lambda found: '"index"' if found[0].lower() == "index" else found[0], statement)
    statement = _COUNTED.sub(r"\1 AS inv", statement)
    if (found := _DESCRIBED.search(statement)) is not None:
        raise StatementStopped(400, f"Restate's command line describes ids of its own form only: {theirs(found[1])}")
    statement = OURS.sub(lambda found: theirs(found[0]), statement)
    return _ID_FOR_A_SERVICE.sub(r"id = '\1'", statement)


_QUOTED_OR_INDEX: Final = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\bindex\b""", re.IGNORECASE)
_COUNTED: Final = re.compile(r"(FROM \(SELECT\s+\*\s+FROM sys_invocation inv\s+LIMIT \d+\s+\))(?!\s*AS)")
_DESCRIBED: Final = re.compile(rf"WHERE inv\.id = '({OURS.pattern})'")
_ID_FOR_A_SERVICE: Final = re.compile(r"target LIKE '(inv_1[0-9A-Za-z]{33})/%'")


class FirstValue:
    """An aggregate of DataFusion's that SQLite has as a window function only; of rows in the order asked for."""

    def __init__(self) -> None:
        self._values: list[Value] = []

    def step(self, *values: Value) -> None:
        self._values = self._values or [*values]

    def final(self) -> Value:
        return self._values[0] if self._values else None


def told(columns: list[ResultColumn]) -> list[ResultColumn]:
    """With the types that its command line reads them as."""
    return [column._replace(type="BOOLEAN") if column.name in _COMPUTED_BOOLEANS else column for column in columns]


def _null(_: object) -> None:
    return None


def _with(table: Table[Any], *more: Column[Any]) -> Table[Any]:
    return replace(table, columns=[*table.columns, *more])


def _changed(table: Table[Any], name: str, how: Callable[[Value], Value]) -> Table[Any]:
    def changed(column: Column[Any]) -> Column[Any]:
        def of(row: object) -> Value:
            return how(column.of(row))

        return replace(column, of=of)

    return replace(table, columns=[changed(column) if column.name == name else column for column in table.columns])


def _renamed(table: Table[Any], name: str, of: str) -> Column[Any]:
    """The column `of` once more, under another name."""
    return replace(next(column for column in table.columns if column.name == of), name=name)


def _with_ids(table: Table[Any], names: Sequence[str]) -> Table[Any]:
    """Shown in their form, and looked up by it."""
    for name in names:
        table = _changed(table, name, lambda id: theirs(id) if isinstance(id, str) else id)

    def rows(wanted: Wanted, rows: Callable[[Wanted], Iterator[Any]] = table.rows) -> Iterator[Any]:
        return rows({name: ours(value) if name in names else value for name, value in wanted.items()})

    return replace(table, rows=rows)


def _status_there(status: Value) -> Value:
    return _STATUS_THERE.get(str(status), status)


def _journal(table: Table[Any]) -> Table[Any]:
    return _with(_with_ids(table, ("id", "invoked_id")), Column[Any]("version", "INTEGER", lambda _: 1))


def _keyed_service_status(locks: Table[Any]) -> Table[Any]:
    return replace(_with(locks, _renamed(locks, "invocation_id", "acquired_by")), name="sys_keyed_service_status")


def _state(table: Table[Any]) -> Table[Any]:
    """Restate knows no Lists and Maps; an edit leaves them as they are, so it need not see them."""

    def rows(wanted: Wanted) -> Iterator[Any]:
        return (found for found in table.rows(wanted) if found.entry is None)

    blob = Column[Any]("value", "BLOB", lambda found: found.value)
    columns = [blob if column.name == "value" else column for column in table.columns if column.name != "entry"]
    return replace(table, rows=rows, columns=columns)


def _deployments() -> Table[str]:
    columns = [
        Column[str]("id", "TEXT", lambda id: id),
        Column[str]("ty", "TEXT", lambda _: "http"),
        Column[str]("endpoint", "TEXT", lambda _: "in-process"),
    ]
    return Table("sys_deployment", columns, lambda _: iter((DEPLOYMENT_ID,)))


class _Described(NamedTuple):
    table: str
    number: int
    column: Column[Any]


def _columns(there: list[Table[Any]]) -> Table[_Described]:
    """`information_schema.columns`: SQLite finds a table of Python's whatever schema stands before its name."""

    def rows(_: Wanted) -> Iterator[_Described]:
        for table in there:
            for number, column in enumerate(table.columns, 1):
                yield _Described(table.name, number, column)

    columns = [
        Column[_Described]("table_name", "TEXT", lambda it: it.table),
        Column[_Described]("column_name", "TEXT", lambda it: it.column.name),
        Column[_Described]("ordinal_position", "INTEGER", lambda it: it.number),
        Column[_Described]("data_type", "TEXT", lambda it: it.column.type),
    ]
    return Table("columns", columns, rows)

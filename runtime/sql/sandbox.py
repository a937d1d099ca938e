"""One statement of a stranger's, in an SQLite of its own that holds nothing but the tables it is given.

SQLite refuses what isn't a question: a statement that writes, attaches, or sets anything is stopped before it runs.
What takes too much is stopped while it runs: time by a look every few thousand steps, memory by SQLite's own limit.
That leaves what one call of a function does, which nobody can interrupt; the process that waits kills this one then.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol, cast

import apsw

from .protocol import Stopped
from .virtual import Table, Value, register

VALUE_BYTES_MAX: Final = 16 * 1024 * 1024
"""One text or blob: as large as the largest record."""

_STEPS_BETWEEN_LOOKS: Final = 5_000
"""Some 0.3 ms."""

_LIMITS: Final = {
    apsw.SQLITE_LIMIT_LENGTH: VALUE_BYTES_MAX,
    apsw.SQLITE_LIMIT_SQL_LENGTH: 64 * 1024,
    apsw.SQLITE_LIMIT_COLUMN: 256,
    apsw.SQLITE_LIMIT_EXPR_DEPTH: 100,
    apsw.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    apsw.SQLITE_LIMIT_VDBE_OP: 100_000,
    apsw.SQLITE_LIMIT_FUNCTION_ARG: 100,
    apsw.SQLITE_LIMIT_ATTACHED: 0,
    apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,
    apsw.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    apsw.SQLITE_LIMIT_WORKER_THREADS: 0,
}

_QUESTIONS: Final = (apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE)
_QUESTIONS_ONLY: Final = "this is for questions: SELECT only, nothing else"
_OTHER_TABLES: Final = ("json_each", "json_tree")
_REFUSED_FUNCTIONS: Final = ("load_extension", "fts", "rtree", "geopoly", "sqlite_log")


class StatementStopped(Exception):
    """There is no answer; `stopped` says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.stopped = Stopped(status=status, message=message)


class ResultColumn(NamedTuple):
    """`type` as the table declared it; None for what was computed."""

    name: str
    type: str | None


class Aggregate(Protocol):
    """Takes in the rows of a group, then says what they are together."""

    def step(self, *values: Value) -> None: ...
    def final(self) -> Value: ...


class Sandbox:
    """`look_up` is called while a statement runs, and raises StatementStopped when it has taken too long."""

    def __init__(self, tables: Iterable[Table[Any]], memory_bytes_max: int, look_up: Callable[[], None]) -> None:
        apsw.hard_heap_limit(memory_bytes_max)
        self._connection = connection = apsw.Connection(":memory:")
        cast("Any", connection).execute("PRAGMA temp_store = MEMORY")  # a sort that doesn't fit must not fill the disk
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        for limit, value in _LIMITS.items():
            connection.limit(limit, value)
        self._names: list[str] = []
        for table in tables:
            register(connection, table)
            self._names.append(table.name)
        self._refused = ""
        self._statements = 0
        self._columns: list[ResultColumn] | None = None
        connection.authorizer = self._authorize
        connection.set_progress_handler(_going_on(look_up), _STEPS_BETWEEN_LOOKS)

    def add_aggregate(self, name: str, of: type[Aggregate]) -> None:
        """Of one argument; in place of SQLite's own of that name."""
        cast("Any", self._connection).create_aggregate_function(name, of, 1)  # Any: half a stub

    def run(self, statement: str) -> tuple[list[ResultColumn], Iterator[tuple[Value, ...]]]:
        """Its columns, and its rows as they are found.  Both raise StatementStopped."""
        cursor = self._connection.cursor()
        cursor.exec_trace = self._begins
        with self._explaining():
            found: apsw.Cursor = cast("Any", cursor).execute(statement, can_cache=False)  # Any: half a stub
        if self._columns is None:
            raise StatementStopped(400, "there is no statement: ask with SELECT …")
        return _named_apart(self._columns), self._rows(found)

    def close(self) -> None:
        self._connection.close(True)

    def _rows(self, cursor: apsw.Cursor) -> Iterator[tuple[Value, ...]]:
        with self._explaining():
            yield from cursor

    def _begins(self, cursor: apsw.Cursor, _: str, __: object) -> bool:
        if not cursor.has_vdbe:  # a comment
            return True
        if self._columns is not None:
            raise StatementStopped(400, "one statement at a time: there is more than one")
        described = cursor.description_full
        if not described:
            raise StatementStopped(400, _QUESTIONS_ONLY)
        self._columns = [ResultColumn(name, declared) for name, declared, *_ in described]
        return True

    def _authorize(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if action in _QUESTIONS:
            return apsw.SQLITE_OK
        if action == apsw.SQLITE_READ and (not second or first in self._names or first in _OTHER_TABLES):
            return apsw.SQLITE_OK  # without a column: its rows are counted, or it is a WITH of the statement's own
        if action == apsw.SQLITE_FUNCTION and not (second or "").lower().startswith(_REFUSED_FUNCTIONS):
            return apsw.SQLITE_OK
        if action == apsw.SQLITE_READ:
            self._refused = f"no such table: {first}"
        elif action == apsw.SQLITE_FUNCTION:
            self._refused = f"function {second} may not be used"
        else:
            name = apsw.mapping_authorizer_function.get(action)
            self._refused = f"{_QUESTIONS_ONLY} ({str(name).removeprefix('SQLITE_')})"
        return apsw.SQLITE_DENY

    @contextmanager
    def _explaining(self) -> Generator[None]:
        try:
            yield
        except apsw.InterruptError as error:
            raise StatementStopped(504, "it was stopped") from error
        except (apsw.NoMemError, MemoryError) as error:
            raise StatementStopped(413, "it needs more memory than a query may take: sort and group less") from error
        except apsw.TooBigError as error:
            raise StatementStopped(413, f"a value has more than {VALUE_BYTES_MAX} bytes") from error
        except apsw.BindingsError as error:
            raise StatementStopped(400, "there are no parameters: write the values into the statement") from error
        except UnicodeDecodeError as error:
            raise StatementStopped(400, "a text is no UTF-8: ask for hex(…) of it") from error
        except (apsw.Error, ValueError) as error:
            raise StatementStopped(400, self._refused or self._said(error)) from error

    def _said(self, error: Exception) -> str:
        """SQLite's own words are behind the name of their code."""
        words = " ".join(str(error).split())
        if words.startswith("no such table"):
            return f"{words}; there are {', '.join(self._names)}"
        return words


def _going_on(look_up: Callable[[], None]) -> Callable[[], bool]:
    """As SQLite asks: whether to stop."""

    def asked() -> bool:
        look_up()
        return False

    return asked


def _named_apart(columns: list[ResultColumn]) -> list[ResultColumn]:
    """Two columns of one name would be one in JSON: the later gets a number."""
    seen: set[str] = set()
    apart: list[ResultColumn] = []
    for name, declared in columns:
        count, free = 1, name
        while free in seen:
            free, count = f"{name}:{count}", count + 1
        seen.add(free)
        apart.append(ResultColumn(free, declared))
    return apart

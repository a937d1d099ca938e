"""`python -m perdure.runtime.sql.child`: the process that runs statements, one after the other.

It gives way to everything else on the machine, takes no more than its limits, and ends when the one that started it
does.  Whatever goes wrong in it is its own end, never the server's.
"""

from __future__ import annotations

import os
import queue
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from ..rows import UnreadableRow
from ..store import Moment, StoreError
from .formats import Row, written
from .protocol import DATA, END, FRAME, LENGTH, STOPPED, Ended, Query, Stopped
from .restate import FirstValue, in_sqlite, restate_tables, told
from .sandbox import Sandbox, StatementStopped
from .stored import Stored
from .tables import tables

_PIECE_BYTES: Final = 64 * 1024
_NICENESS: Final = 15

_BESIDE_SQLITE_BYTES: Final = 1024 * 1024 * 1024
"""Address space for the interpreter, its libraries and threads, most of it never touched; what is, is some 40 MiB."""

_query = msgspec.json.Decoder(Query).decode


def main() -> None:
    """Until the pipe ends."""
    _give_way()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    queries: queue.SimpleQueue[Query] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(queries,), daemon=True).start()
    while True:
        _answer(queries.get())


def _give_way() -> None:
    """Of no session of its own: Linux shares processors among sessions first, whatever niceness is inside of one."""
    with suppress(OSError):
        os.setpgid(0, 0)  # what is typed at the server's terminal is not for it
    with suppress(OSError):
        os.nice(_NICENESS)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _read(queries: queue.SimpleQueue[Query]) -> None:
    """In a thread, so that the end of the pipe is the end, whatever is being worked on."""
    pipe = sys.stdin.buffer
    while len(head := pipe.read(LENGTH.size)) == LENGTH.size:
        queries.put(_query(pipe.read(*LENGTH.unpack(head))))
    os._exit(0)


def _answer(query: Query) -> None:
    try:
        rows = _run(query)
    except StatementStopped as error:
        _say(STOPPED, msgspec.json.encode(error.stopped))
    except MemoryError:
        _say(STOPPED, msgspec.json.encode(Stopped(status=413, message="it needs more memory than a query may take")))
    except (StoreError, UnreadableRow, msgspec.MsgspecError) as error:
        _say(STOPPED, msgspec.json.encode(Stopped(status=500, message=f"the store can't be read: {error}")))
    else:
        _say(END, msgspec.json.encode(Ended(rows=rows)))


def _run(query: Query) -> int:
    limits = query.limits
    ends_at = time.monotonic() + limits.seconds

    def look_up() -> None:
        if time.monotonic() > ends_at:
            raise StatementStopped(504, f"it took more than {limits.seconds:g} s: ask for less, by id or by service")

    _limit(limits.seconds, limits.memory_bytes)
    moment = Moment.open(Path(query.path), look_up)
    try:
        made = (restate_tables if query.restate else tables)(Stored(moment), query)
        sandbox = Sandbox(made, limits.memory_bytes, look_up)
        if query.restate:
            sandbox.add_aggregate("first_value", FirstValue)
        try:
            return _give(query, sandbox)
        finally:
            sandbox.close()
    finally:
        moment.close()


def _give(query: Query, sandbox: Sandbox) -> int:
    limits = query.limits
    count = total = 0
    columns, rows = sandbox.run(in_sqlite(query.statement) if query.restate else query.statement)
    if query.restate:
        columns = told(columns)
    piece = bytearray()

    def counted() -> Iterator[Row]:
        nonlocal count
        for row in rows:
            count += 1
            if count > limits.rows:
                raise StatementStopped(413, f"the answer has more than {limits.rows} rows: add a LIMIT")
            yield row

    for part in written(columns, counted(), query.format):
        piece += part
        total += len(part)
        if total > limits.answer_bytes:
            raise StatementStopped(413, f"the answer has more than {limits.answer_bytes} bytes: ask for fewer columns")
        if len(piece) >= _PIECE_BYTES:
            _say(DATA, piece)
            piece = bytearray()
    _say(DATA, piece)
    return count


def _limit(seconds: float, memory_bytes: int) -> None:
    """Of the processor, from here on; and of memory, whatever it is taken for."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 2, resource.RLIM_INFINITY))
    space = memory_bytes + _BESIDE_SQLITE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (space, resource.RLIM_INFINITY))


def _say(kind: bytes, payload: bytes | bytearray) -> None:
    pipe = sys.stdout.buffer
    pipe.write(FRAME.pack(kind, len(payload)))
    pipe.write(payload)
    pipe.flush()


if __name__ == "__main__":
    main()

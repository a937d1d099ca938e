"""The ledger: where a decided record becomes memory, then disk, then something that may be told.

Order of a record: encode, reserve, apply, append.  Memory is ahead of the disk, and the gate keeps that inside: what
waits here is told when everything it could depend on is synced.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog

from perdure.journal import Journal, JournalError, JournalFull, RecordTooLarge
from perdure.objects.errors import text_of

from . import records
from .exits import InternalError
from .gate import OutcomeUnknown, OutputGate, fail
from .invocations import Invocation
from .kernel import Kernel
from .meter import Meter
from .record_lines import what_is_large
from .records import (
    Attempted,
    AwaitPromise,
    Call,
    CancelCall,
    CancelStep,
    CancelTimer,
    Command,
    Due,
    Failed,
    Invoked,
    Notified,
    Outcome,
    Paused,
    Record,
    Run,
    Timer,
    Turn,
)

if TYPE_CHECKING:
    from .traces import Tracer

log: structlog.stdlib.BoundLogger = structlog.get_logger("perdure")

_PRUNED_FROM = 16

_ALONE_MAX = 2
"""With more outputs waiting than this, the next requests can be read while the disk works."""


class Unrecordable(Exception):
    """Something in a record is no plain value: a lone surrogate in a name, an id that is no text."""


class Ledger:
    """`tracer` makes spans of what is recorded here; None if nobody wants any.

    `on_ended` and `on_rewound` are told what the last record did to an invocation, `on_synced` that there is room
    to go on, `on_failed` why nothing can."""

    def __init__(self, kernel: Kernel, journal: Journal, tracer: Tracer | None = None) -> None:
        self.kernel = kernel
        self.tracer = tracer
        self.meter = Meter()
        self.on_ended: Callable[[Invocation], None] = _nobody
        self.on_rewound: Callable[[Invocation], None] = _nobody
        self.on_synced: Callable[[], None] = _nothing
        self.on_failed: Callable[[BaseException], None] = _nobody
        self._journal = journal
        self._full = False
        self._broken: OutcomeUnknown | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.last_lsn = journal.next_lsn - 1
        self._gate = OutputGate(self.last_lsn)
        self._flushing = False
        self._written_here = 0  # synced by this thread in the flush at hand, and not told yet
        self._watchers: dict[str, list[asyncio.Future[Outcome]]] = {}
        self._readers: dict[str, set[asyncio.Future[None]]] = {}

    def begin(self) -> None:
        """After the recovery: what was read back is synced, and the writer's calls come here."""
        self._gate.synced = self.last_lsn
        self.meter.begin(self.last_lsn)
        if self.tracer is not None:
            self.tracer.synced(self.last_lsn)
        self._journal.subscribe(self._synced_in_writer, self._failed_in_writer)

    @property
    def unsynced_bytes(self) -> int:
        return self._journal.unsynced_bytes

    @property
    def full(self) -> bool:
        """The last record found no room on the disk."""
        return self._full

    @property
    def quiet(self) -> bool:
        """Nothing waits to be told."""
        return not len(self._gate)

    def commit(self, record: Record, headroom_bytes: int = 0) -> None:
        """Raises JournalFull, RecordTooLarge or Unrecordable, with nothing changed; OutcomeUnknown at the end."""
        kernel, journal = self.kernel, self._journal
        if self._broken is not None:  # a handler may have caught what stops the process, and gone on
            raise self._broken
        try:
            data = records.encode(record)
            if _may_surprise(record):
                records.decode(data)
        except records.UnknownRecord as error:
            raise Unrecordable(f"what was asked for can't be recorded: {error}") from error
        except (UnicodeEncodeError, OverflowError, TypeError, ValueError, RecursionError) as error:
            raise Unrecordable(f"what was asked for can't be recorded: {text_of(error)}") from error
        try:
            journal.reserve(len(data), headroom_bytes)
        except JournalFull as error:
            self._say_full(error)
            raise
        except RecordTooLarge as error:
            raise RecordTooLarge(f"{error}{what_is_large(record)}") from error
        except JournalError as error:  # it has failed already, and its writer's message is on its way
            self.on_failed(error)
            raise OutcomeUnknown("the journal failed: nothing was recorded, and the process stops") from error
        if self.tracer is not None:
            self.tracer.recording(record, kernel, journal.next_lsn)
        try:
            kernel.apply(record)
            self.last_lsn = journal.append(data)
        except Exception as error:
            name = type(record).__name__
            self.on_failed(InternalError(f"record {self._journal.next_lsn} ({name}) can't be applied: {error!r}"))
            raise
        if self._full:
            self._full = False
            log.info("there is room again: new requests are taken")
        if type(record) is Attempted or type(record) is Paused:
            self.meter.stumbled(kernel.invocations[record.id], record)  # it was changed just now
        if kernel.ended or kernel.yielded or kernel.rewound:
            self._tell_what_came_of_it()

    def _say_full(self, error: JournalFull) -> None:
        """Once, until there is room."""
        if not self._full:
            self._full = True
            log.error(
                "the disk is full: new requests get 507, what was accepted waits, nothing is lost; make room",
                why=str(error),
            )

    def flush(self) -> None:
        """Hands what is open to the journal's writer; if hardly anybody waits, this thread may do the writing.

        What waited for it is told at once, then, and may record more.
        """
        self._flushing = True
        try:
            self._journal.flush(alone=len(self._gate) <= _ALONE_MAX)
        finally:
            self._flushing = False
        if self._written_here:
            lsn, self._written_here = self._written_here, 0
            self._synced(lsn)

    # --- telling --------------------------------------------------------------------------------------------------

    def watch(self, invocation: Invocation) -> asyncio.Future[Outcome]:
        """Its outcome, when it is there and synced."""
        future: asyncio.Future[Outcome] = self._loop.create_future()
        if invocation.outcome is not None:
            self._gate.give(self.last_lsn, future, invocation.outcome)
        else:
            watching = self._watchers.setdefault(invocation.id, [])
            if len(watching) >= _PRUNED_FROM:  # clients that attach and leave, again and again
                watching[:] = [other for other in watching if not other.done()]
            watching.append(future)
        return future

    async def more_of(self, id: str) -> None:
        """Until the stream `id` has yielded again, or ended, and that is synced."""
        future: asyncio.Future[None] = self._loop.create_future()
        readers = self._readers.setdefault(id, set())
        readers.add(future)
        try:
            await future
        finally:
            readers.discard(future)
            if not readers and self._readers.get(id) is readers:
                del self._readers[id]

    def watched(self) -> list[asyncio.Future[Outcome]]:
        """What is still waited for."""
        return [future for futures in self._watchers.values() for future in futures if not future.done()]

    def answer(self, id: str, outcome: Outcome | None) -> None:
        """Tells those who watch `id`, when the newest record is synced."""
        for future in self._watchers.pop(id, ()):
            self._gate.give(self.last_lsn, future, outcome)

    def peek(self, outcome: Outcome | None) -> Awaitable[Outcome | None]:
        """`outcome`, told when the newest record is synced."""
        future: asyncio.Future[Outcome | None] = self._loop.create_future()
        self._gate.give(self.last_lsn, future, outcome)
        return future

    def synced(self, lsn: int) -> Awaitable[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        self._gate.give(lsn, future, None)
        return future

    def when_synced(self, callback: Callable[[], None]) -> None:
        """Calls it once all that is recorded now is synced; never if that fails."""
        self._gate.when(self.last_lsn, callback)

    def break_down(self, error: OutcomeUnknown) -> None:
        """Nobody is told anything but this any more, and nothing more is recorded."""
        self._broken = error
        self._gate.break_down(error)
        for future in self.watched():
            fail(future, error)
        for reading in [future for futures in self._readers.values() for future in futures]:
            fail(reading, error)
        self._watchers.clear()
        self._readers.clear()

    def _tell_of_ended(self) -> None:
        ended, self.kernel.ended = self.kernel.ended, []
        for invocation in ended:
            self.on_ended(invocation)
            if self.tracer is not None:
                self.tracer.ended(invocation, self.last_lsn)
            if invocation.id in self._watchers:
                self.answer(invocation.id, invocation.outcome)
            if invocation.stream:
                self._tell_readers(invocation.id)

    def _tell_what_came_of_it(self) -> None:
        if self.kernel.ended:
            self._tell_of_ended()
        if self.kernel.yielded:
            self._tell_of_yielded()
        if self.kernel.rewound:
            self._tell_of_rewound()

    def _tell_of_yielded(self) -> None:
        yielded, self.kernel.yielded = self.kernel.yielded, []
        for invocation in yielded:
            self._tell_readers(invocation.id)

    def _tell_readers(self, id: str) -> None:
        for future in self._readers.pop(id, ()):
            self._gate.give(self.last_lsn, future, None)

    def _tell_of_rewound(self) -> None:
        rewound, self.kernel.rewound = self.kernel.rewound, []
        for invocation in rewound:
            self.on_rewound(invocation)

    # --- from the writer's thread ---------------------------------------------------------------------------------

    def _synced_in_writer(self, lsn: int) -> None:
        self.meter.synced(lsn, self._journal.commit_seconds)
        if self._flushing and threading.get_ident() == self._thread:
            self._written_here = lsn
        else:
            self._loop.call_soon_threadsafe(self._synced, lsn)

    def _failed_in_writer(self, error: BaseException) -> None:
        self._loop.call_soon_threadsafe(self.on_failed, error)

    def _synced(self, lsn: int) -> None:
        if self.tracer is not None:
            self.tracer.synced(lsn)
        self._gate.opened(lsn)
        self.on_synced()


def _may_surprise(record: Record) -> bool:
    """Whether users' code had a hand in it beyond bytes that were checked.

    A name that is no text would be written and synced, and every start after it would fail to read it back.
    """
    if isinstance(record, Turn):
        if record.patched or type(record.outcome) is Failed:
            return True
        for command in record.commands:  # noqa: SIM110  # no generator for each turn
            if type(command) not in _PLAIN and not _is_plain_call(command):
                return True
        return False
    if isinstance(record, Notified):
        return type(record.outcome) is Failed
    if isinstance(record, Invoked):
        return record.headers is not None
    return not isinstance(record, Due)


_PLAIN = frozenset((Run, Timer, CancelTimer, CancelCall, CancelStep, AwaitPromise))
"""Numbers, bytes, and names that were looked at when they were asked for."""


def _is_plain_call(command: Command) -> bool:
    """To a handler that is served, under a key that was validated: what else users may add to a call is not there."""
    return type(command) is Call and command.idempotency_key is None and command.headers is None


def _nobody(_: object) -> None: ...


def _nothing() -> None: ...

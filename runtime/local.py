"""A runtime inside the caller's own process: for tests, and for programs that are their own server.

    async with Runtime([Counter], data_dir="data") as runtime:
        await runtime.ref(Counter, "a").add(3)

It is the engine that `perdure serve` runs, without HTTP.  `data_dir=None` keeps the journal in memory, so nothing
outlives the block.  With a `ManualClock` time stands still until `runtime.advance(…)` moves it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from perdure.journal import Journal, MemoryJournal
from perdure.objects import Service, VirtualObject, Workflow
from perdure.objects.durations import seconds_of
from perdure.objects.errors import exception_of
from perdure.objects.references import Target
from perdure.objects.values import Codec

from .admission import Request
from .clock import Clock, ManualClock, SystemClock
from .data_dir import open_journal, open_slots, open_store
from .engine import Engine, Submission
from .handler_context import headers_of
from .outside import Outside, RemoteHandle, checked_reason, packed
from .records import Failed, Outcome
from .registry import Registry
from .settings import Settings
from .slots import NoSlots, Slots
from .store import StoreWriter
from .trace_context import with_current_span

if TYPE_CHECKING:
    from .traces import Tracer

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="Service")
O = TypeVar("O", bound="VirtualObject | Workflow")  # noqa: E741  (the name that API.md gives it)


class Runtime(Outside):
    """Serves `classes` for as long as the `async with` block.

    A call raises TerminalError (as its own class) for what the handler decided, Refused for what was not accepted,
    OutcomeUnknown when the journal failed.  Raises DefinitionError for an unfit class, JournalError for an unfit
    `data_dir`.
    """

    def __init__(
        self,
        classes: Iterable[type[VirtualObject | Service | Workflow]],
        *,
        data_dir: str | Path | None,
        clock: Clock | None = None,
        settings: Settings | None = None,
        journal: Journal | None = None,
        store: StoreWriter | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        if (journal is not None or store is not None) and data_dir is not None:
            raise ValueError("Runtime takes a data_dir, or a journal and perhaps a store, not both")
        self._registry = Registry(classes)
        self._data_dir = None if data_dir is None else Path(data_dir)
        self._journal = journal
        self._store = store
        self._tracer = tracer
        self._clock = clock or SystemClock()
        self._settings = settings or Settings()
        self._engine: Engine | None = None
        super().__init__("runtime")

    async def __aenter__(self) -> Self:
        slots: Slots | NoSlots = NoSlots()
        if self._data_dir is not None:
            self._journal = open_journal(self._data_dir)
        journal, store = self._journal or MemoryJournal(), self._store
        try:
            if self._data_dir is not None:
                store = open_store(self._data_dir, journal)
                slots = open_slots(self._data_dir)
            self._engine = await Engine.open(
                self._registry,
                journal,
                self._settings,
                self._clock,
                slots=slots,
                store=store,
                tracer=self._tracer,
            )
        except BaseException:
            journal.close()
            if store is not None:
                store.close()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        engine, self._engine = self.engine, None
        await engine.close()

    @property
    def engine(self) -> Engine:
        """What runs behind it.  RuntimeError outside of the block."""
        if self._engine is None:
            raise RuntimeError("the runtime is not open: use it inside `async with Runtime(…) as runtime:`")
        return self._engine

    # --- calls and messages ---------------------------------------------------------------------------------------

    async def resolve_awakeable(self, id: str, value: object = None) -> None:
        """Gives an awakeable its value.  Refused: 404 unknown, 409 completed otherwise, 400 of another type."""
        await self.engine.operations.resolve_awakeable(id, packed(value))

    async def reject_awakeable(self, id: str, reason: str) -> None:
        """Makes an awakeable raise a TerminalError with this reason.  Refused as for `resolve_awakeable`."""
        await self.engine.operations.reject_awakeable(id, checked_reason(reason))

    # --- time -----------------------------------------------------------------------------------------------------

    async def advance(self, length: float | timedelta) -> None:
        """Moves a ManualClock on, timer by timer, each followed by all that it sets going.  TypeError for another.

        Time stands still while a step runs.  A step that waits for the test itself would wait for ever: run `advance`
        as a task of its own then.
        """
        clock = self._clock
        if not isinstance(clock, ManualClock):
            raise TypeError("only a ManualClock can be advanced: Runtime(…, clock=ManualClock())")
        until_us = clock.now_us() + round(seconds_of(length, "advance") * 1e6)
        await self.engine.settled()
        while clock.advance_to_next(until_us):
            await self.engine.settled()

    # --- inside ---------------------------------------------------------------------------------------------------

    async def _call(self, target: Target) -> Any:
        submission = self._submit(target, send=False)
        return target.handler.decode_result(_value_of(await submission.outcome()))

    async def _stream(self, target: Target) -> AsyncIterator[Any]:
        items = self.engine.items(self._submit(target, send=False).id)
        assert items is not None
        while isinstance(read := await items.read(), list):
            for item in read:
                yield target.handler.decode_result(item)
        _value_of(read)

    def _submit(self, target: Target, *, send: bool, delay_seconds: float | None = None) -> Submission:
        headers = headers_of(target)
        request = Request(
            service=target.service.name,
            key=target.key,
            handler=target.handler.name,
            arguments=target.arguments,
            send=send,
            delay_us=None if delay_seconds is None else round(delay_seconds * 1e6),
            idempotency_key=target.idempotency_key,
            headers=headers if self._tracer is None else with_current_span(headers),
        )
        return self.engine.submit(request, public_only=False)

    async def _send(self, target: Target, delay_seconds: float | None) -> RemoteHandle[Any]:
        submission = self._submit(target, send=True, delay_seconds=delay_seconds)
        await submission.accepted()
        return self._handle(submission.id, target.handler.decode_result)

    def _handle(self, id: str, decode: Callable[[bytes], Any]) -> RemoteHandle[Any]:
        return RemoteHandle(id, _InProcess(lambda: self.engine), decode)

    def _reader(self, codec: Codec) -> Callable[[bytes], Any]:
        return codec.unpack


class _InProcess:
    """How a runtime's handles reach their invocations."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine

    async def result_of(self, id: str) -> bytes:
        return _value_of(await self._engine().attach(id))

    async def cancel(self, id: str) -> None:
        await self._engine().operations.cancel(id)

    async def resolve_signal(self, id: str, name: str, value: bytes) -> None:
        await self._engine().operations.resolve_signal(id, name, value)

    async def reject_signal(self, id: str, name: str, reason: str) -> None:
        await self._engine().operations.reject_signal(id, name, reason)


def _value_of(outcome: Outcome) -> bytes:
    if isinstance(outcome, Failed):
        raise exception_of(outcome.failure)
    return outcome.value

"""Traces: the spans of what was recorded, given to OpenTelemetry once they can't be taken back.

A span is made of a record and the kernel's memory when the record is committed live; a replay and a recovery commit
nothing, so they make none.  It leaves when its record is synced: what a crash takes back has left no span, and is
done, recorded and told again.  Where a span begins is in the journal too, so that of an invocation which began before
a crash, or months ago, is whole.

    an invocation   from its acceptance (or when it was due) to its end, when it ends
    a call          the same of the invocation it made, seen from the caller, when that ends
    a message       the moment it was sent
    a step          from the turn that asked for it to what it ended with, when that is recorded
    a failure       of an attempt that is made again, or after which the invocation is paused: the moment of it

No key and no argument gets here; what an error says does, as in the log.
It imports OpenTelemetry, and is only imported where somebody wants traces (`perdure[traces]`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from opentelemetry import context as otel_context
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision, Sampler
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, set_span_in_context

from . import trace_context
from .invocations import Invocation
from .kernel import CANCELLED, KILLED, Kernel
from .records import (
    Attempted,
    CancelStep,
    Command,
    Failed,
    Notified,
    Outcome,
    Paused,
    Record,
    Run,
    Send,
    Trace,
    Turn,
)
from .trace_spans import CLIENT, CONSUMER, INTERNAL, PRODUCER, SERVER, Attributes, TracedSpan

if TYPE_CHECKING:
    from .admission import Request

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED: Final = TraceFlags(TraceFlags.DEFAULT)
_NO_STATE: Final = TraceState()
_TOLD_AT_ONCE: Final = frozenset((Send, CancelStep))


class Tracer:
    """Makes the spans of one engine.  `take` gets each when it has ended and is synced, and must not block."""

    def __init__(self, take: Callable[[TracedSpan], None], sampler: Sampler) -> None:
        self._take = take
        self._sampler = None if sampler is DEFAULT_ON else sampler  # which every request would have to ask
        self._waiting: deque[tuple[int, TracedSpan]] = deque()
        self._synced_lsn = 0
        self._last_turn: Turn | None = None

    # --- where a trace begins -------------------------------------------------------------------------------------

    def begin(self, id: str, request: Request) -> Trace:
        """The trace of a new invocation that somebody outside asked for: theirs, if they named one."""
        came_from = trace_context.from_headers(request.headers)
        return self._begin(id, f"{request.service}/{request.handler}", came_from, sent=request.send)

    def begin_tick(self, id: str, service: str, handler: str) -> Trace:
        """The same of a schedule's tick."""
        return self._begin(id, f"{service}/{handler}", None, sent=True)

    def _begin(self, id: str, name: str, came_from: Trace | None, *, sent: bool) -> Trace:
        """Whether it is sampled is decided here, recorded, and holds for all that comes of it."""
        if came_from is None:
            came_from = Trace(trace_context.trace_id_of(id), b"", True)
        sampled = came_from.sampled if self._sampler is None else self._is_sampled(self._sampler, came_from, name)
        return Trace(came_from.trace_id, came_from.parent, sampled, sent, came_from.state)

    def _is_sampled(self, sampler: Sampler, came_from: Trace, name: str) -> bool:
        context = otel_context.Context()
        if came_from.parent:
            parent = _span_context(came_from, came_from.parent, remote=True)
            context = set_span_in_context(NonRecordingSpan(parent), context)
        result = sampler.should_sample(context, int.from_bytes(came_from.trace_id), name)
        return result.decision is Decision.RECORD_AND_SAMPLE

    def step(self, trace: Trace, id: tuple[str, int]) -> TracedStep:
        """The span of a step, as its code is to see it."""
        return TracedStep(trace, trace_context.span_id_of(*id))

    # --- what is recorded -----------------------------------------------------------------------------------------

    def recording(self, record: Record, kernel: Kernel, lsn: int) -> None:
        """A record that is about to be applied."""
        if isinstance(record, Turn):
            self._turn(record, kernel, lsn)
        elif isinstance(record, Notified):
            if not record.more and (invocation := _sampled(kernel, record.id)) is not None:
                self._step_ended(invocation, record.command, record.outcome, record.at, lsn)
        elif isinstance(record, Attempted | Paused) and (invocation := _sampled(kernel, record.id)) is not None:
            self._stumbled(invocation, record, lsn)

    def ended(self, invocation: Invocation, lsn: int) -> None:
        """An invocation has ended by the record `lsn`, which was applied."""
        trace, outcome = invocation.trace, invocation.outcome
        if trace is None or not trace.sampled or outcome is None:
            return
        turn = self._last_turn
        attempt = turn.attempt if turn is not None and turn.id == invocation.id else None
        self._invocation_ended(invocation, trace, outcome, invocation.ended_at or 0, attempt, lsn)

    def read_ended(self, invocation: Invocation, turn: Turn, lsn: int) -> None:
        """A read that leaves no record; what it has seen is in the record `lsn`."""
        trace = invocation.trace
        if trace is not None and trace.sampled and turn.outcome is not None:
            self._invocation_ended(invocation, trace, turn.outcome, turn.at, turn.attempt, lsn)

    def synced(self, lsn: int) -> None:
        """Everything up to that record stays."""
        self._synced_lsn = lsn
        waiting = self._waiting
        while waiting and waiting[0][0] <= lsn:
            self._take(waiting.popleft()[1])

    # --- the spans ------------------------------------------------------------------------------------------------

    def _turn(self, record: Turn, kernel: Kernel, lsn: int) -> None:
        if record.outcome is not None:
            self._last_turn = record
        ends = record.outcome is not None
        if not (ends or any(type(command) in _TOLD_AT_ONCE for command in record.commands)):
            return
        invocation = _sampled(kernel, record.id)
        if invocation is None:
            return
        for command in record.commands:
            if isinstance(command, Send):
                if command.verdict is None:
                    self._sent(invocation, command, record.at, lsn)
            elif isinstance(command, CancelStep) and not ends:
                self._step_ended(invocation, command.step, CANCELLED, record.at, lsn)
        if ends and invocation.history is not None:
            for step in invocation.history.steps:
                self._step_ended(invocation, step, CANCELLED, record.at, lsn)

    def _sent(self, invocation: Invocation, command: Send, at: int, lsn: int) -> None:
        attributes: Attributes = {
            "messaging.system": "perdure",
            "messaging.operation.type": "send",
            "messaging.destination.name": f"{command.service}/{command.handler}",
            "perdure.invocation.id": invocation.id,
        }
        if command.due is not None:
            attributes["perdure.delay_ms"] = (command.due - at) // 1_000
        name = f"send {command.service}/{command.handler}"
        span_id = trace_context.span_id_of(invocation.id, command.index)
        self._give(invocation, span_id, _own_span(invocation), name, PRODUCER, at, at, attributes, None, lsn)

    def _step_ended(self, invocation: Invocation, index: int, outcome: Outcome | None, at: int, lsn: int) -> None:
        asked = _asked(invocation, index)
        if asked is None:
            return
        run, began = asked
        state = None if invocation.history is None else invocation.history.steps.get(index)
        attributes = _attributes_of(invocation, outcome)
        attributes["perdure.step"] = run.name
        attributes["perdure.attempt"] = 1 if state is None else state.attempts + 1
        span_id, kind = trace_context.span_id_of(invocation.id, index), INTERNAL
        self._give(invocation, span_id, _own_span(invocation), run.name, kind, began, at, attributes, outcome, lsn)

    def _stumbled(self, invocation: Invocation, record: Attempted | Paused, lsn: int) -> None:
        """What is paused or tried again for days shows at once, not when it ends."""
        name, parent, attempt = f"{invocation.service}/{invocation.handler}", _own_span(invocation), None
        paused = isinstance(record, Paused) or record.next_at is None
        attributes = _attributes_of(invocation, None)
        if isinstance(record, Attempted):
            attempt = invocation.attempts + 1
            if record.command is not None and (asked := _asked(invocation, record.command)) is not None:
                name, parent = asked[0].name, trace_context.span_id_of(invocation.id, record.command)
                state = None if invocation.history is None else invocation.history.steps.get(record.command)
                attempt = 1 if state is None else state.attempts + 1
                attributes["perdure.step"] = name
            attributes["perdure.attempt"] = attempt
        attributes["perdure.then"] = "pause" if paused else "retry"
        span_id, name = trace_context.attempt_id_of(invocation.id, lsn), f"{name} failed"
        at, failed = record.at, Failed(record.failure)
        self._give(invocation, span_id, parent, name, INTERNAL, at, at, attributes, failed, lsn)

    def _invocation_ended(
        self, invocation: Invocation, trace: Trace, outcome: Outcome, at: int, attempt: int | None, lsn: int
    ) -> None:
        name = f"{invocation.service}/{invocation.handler}"
        began = invocation.due or invocation.created_at
        attributes = _attributes_of(invocation, outcome)
        if trace.sent:
            attributes["messaging.system"] = "perdure"
            attributes["messaging.operation.type"] = "process"
            attributes["messaging.destination.name"] = name
        else:
            attributes["rpc.system"] = "perdure"
            attributes["rpc.service"] = invocation.service
            attributes["rpc.method"] = invocation.handler
            if invocation.parent is not None:
                call = {**attributes, "perdure.invocation.id": invocation.parent, "perdure.callee.id": invocation.id}
                by = trace_context.span_id_of(invocation.parent, 0)
                kind = CLIENT
                self._give(invocation, trace.parent, by, f"call {name}", kind, began, at, call, outcome, lsn)
        if attempt is not None:
            attributes["perdure.attempt"] = attempt
        begun = invocation.begun_at
        got_key_at = begun if begun is not None and begun > began else None
        kind = CONSUMER if trace.sent else SERVER
        self._give(
            invocation, _own_span(invocation), trace.parent, name, kind, began, at, attributes, outcome, lsn, got_key_at
        )

    def _give(
        self,
        invocation: Invocation,
        span_id: bytes,
        parent_id: bytes,
        name: str,
        kind: int,
        began: int,
        ended: int,
        attributes: Attributes,
        outcome: Outcome | None,
        lsn: int,
        got_key_at: int | None = None,
    ) -> None:
        trace = invocation.trace
        assert trace is not None
        error = None
        if type(outcome) is Failed and outcome is not CANCELLED:
            error = (outcome.failure.type, outcome.failure.message)
        remote = invocation.parent is None and parent_id == trace.parent
        span = TracedSpan(
            name,
            kind,
            trace.trace_id,
            span_id,
            parent_id,
            remote,
            began,
            ended,
            attributes,
            error,
            got_key_at,
            trace.state,
        )
        if lsn <= self._synced_lsn:
            self._take(span)
        else:
            self._waiting.append((lsn, span))


class TracedStep:
    """A step that belongs to a trace: what it sends out, and the spans that its code makes, are under its span."""

    __slots__ = ("_span_id", "_trace")

    def __init__(self, trace: Trace, span_id: bytes) -> None:
        self._trace = trace
        self._span_id = span_id

    @property
    def trace_id(self) -> str:
        return self._trace.trace_id.hex()

    def enter(self) -> object:
        """Makes it the current span of the context this is called in."""
        span = NonRecordingSpan(_span_context(self._trace, self._span_id))
        return otel_context.attach(set_span_in_context(span))


def _span_context(trace: Trace, span_id: bytes, *, remote: bool = False) -> SpanContext:
    return SpanContext(
        int.from_bytes(trace.trace_id),
        int.from_bytes(span_id),
        remote,
        _SAMPLED if trace.sampled else _NOT_SAMPLED,
        TraceState.from_header([trace.state]) if trace.state else _NO_STATE,
    )


def _sampled(kernel: Kernel, id: str) -> Invocation | None:
    """The invocation, if it is open and its spans are wanted."""
    invocation = kernel.find(id)
    if invocation is None or invocation.ended or invocation.trace is None or not invocation.trace.sampled:
        return None
    return invocation


def _own_span(invocation: Invocation) -> bytes:
    return trace_context.span_id_of(invocation.id, 0)


def _asked(invocation: Invocation, index: int) -> tuple[Run, int] | None:
    """The step that is open under that number, and when the turn that asked for it was committed.

    Most are in the last turn; a turn's commands are in the order of their numbers.
    """
    history = invocation.history
    if history is None or index not in history.steps:
        return None
    for turn in reversed(history.turns.values()):
        commands = turn.commands
        if commands and commands[0].index <= index:
            place = bisect_left(commands, index, key=_index_of)
            command = commands[place] if place < len(commands) else None
            return (command, turn.at) if isinstance(command, Run) and command.index == index else None
    return None


def _index_of(command: Command) -> int:
    return command.index


def _attributes_of(invocation: Invocation, outcome: Outcome | None) -> Attributes:
    attributes: Attributes = {
        "perdure.service": invocation.service,
        "perdure.handler": invocation.handler,
        "perdure.invocation.id": invocation.id,
    }
    if outcome is not None:
        attributes["perdure.outcome"] = _word_for(outcome)
    return attributes


def _word_for(outcome: Outcome) -> str:
    if not isinstance(outcome, Failed):
        return "succeeded"
    return "cancelled" if outcome is CANCELLED else "killed" if outcome is KILLED else "failed"

"""The driver: which turn is run next, and what becomes of it.

Turns are run in *slices*, callbacks of the process's loop: a burst of ready handlers can't starve the ingress.  A slice
ends with the hand-over of its records to the journal's writer, if anybody waits for them or nothing is left to run; so
an acceptance and the turns it starts share one sync.

It keeps the runs of handlers that are in memory, and drops them when they fail, are killed or haven't been needed for
long.  What a turn asked for it gives to the ledger; steps it leaves to steps.py, timers to alarms.py.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from random import Random
from typing import Final

import structlog
from msgspec.structs import replace

from perdure.journal import JournalFull, RecordTooLarge
from perdure.objects.errors import (
    Failure,
    InvalidArguments,
    ReplayMismatch,
    StepFailed,
    UnreadableState,
    failure_of,
    text_of,
)
from perdure.objects.retries import RetryPolicy

from . import attempts
from .clock import Clock
from .execution import Arguments, CollidedWith, Execution, TurnRefused
from .exits import InternalError
from .gate import OutcomeUnknown
from .handler_context import same_outcome
from .invocations import START, Delivery, Invocation, Status
from .kernel import KILLED
from .ledger import Ledger, Unrecordable
from .limit_views import LimitKind
from .limiter import Limiter
from .log_ids import trace_of
from .records import (
    Attempted,
    Begun,
    Failed,
    Invoked,
    Notified,
    Outcome,
    Paused,
    PutBack,
    Record,
    Success,
    Turn,
    size_of,
    size_of_turn,
)
from .registry import Registry
from .settings import Settings
from .slots import NoSlots, Slots
from .steps import Steps
from .watchdog import Watchdog

log: structlog.stdlib.BoundLogger = structlog.get_logger("perdure")

NO_ROOM_RETRY_US: Final = 500_000
_SLICE_SECONDS: Final = 0.01  # long turns end a slice before their number does
_ENTRIES_WEIGHED: Final = 64  # a turn that writes more of Lists and Maps may replace any amount: it is looked up
_FLUSH_BYTES: Final = 256 * 1024  # handed over although nobody waits for it yet


class Driver:
    def __init__(
        self,
        ledger: Ledger,
        registry: Registry,
        settings: Settings,
        clock: Clock,
        slots: Slots | NoSlots,
        call_soon: Callable[[Callable[[], None]], object],
        jitter: Random,
        limiter: Limiter | None = None,
    ) -> None:
        self.kernel = ledger.kernel
        self.registry = registry
        self.after_slice: Callable[[], None] = lambda: None
        self._ledger = ledger
        self._meter = ledger.meter
        self._settings = settings
        self._clock = clock
        self._slots = slots
        self._call_soon = call_soon
        self._jitter = jitter
        self._limiter = limiter
        self._watchdog = Watchdog(settings.watchdog_seconds, log=log, driver=Driver._take_turn)
        self._steps = Steps(self, ledger, clock, settings, jitter, slots, limiter)
        self._executions: dict[str, Execution] = {}
        self._unrecorded: dict[str, Invoked] = {}
        self._decoded: dict[str, Arguments] = {}
        self._without_room: dict[str, deque[Notified | Attempted | Paused]] = {}  # of steps, in order, by invocation
        self._keys_held: dict[tuple[str, str], str] = {}  # by steps of an invocation that has ended
        self._scheduled = False
        self._stopped = False
        ledger.on_ended = self._on_ended
        ledger.on_rewound = lambda invocation: self.evict(invocation.id)
        ledger.on_synced = self._on_synced
        if limiter is not None:
            limiter.on_free = self.schedule

    # --- life -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._warn_of_parked()
        self._watchdog.start()
        self.schedule()

    async def stop_steps(self, grace_seconds: float) -> None:
        await self._steps.stop(grace_seconds)

    def stop(self) -> None:
        """Drops every run: what was accepted goes on after the next start."""
        self._stopped = True
        self._watchdog.stop()
        if self._limiter is not None:
            self._limiter.stop()
        for execution in [*self._executions.values()]:
            execution.drop()
        self._executions.clear()

    @property
    def idle(self) -> bool:
        return not self._scheduled and not self.kernel.ready

    @property
    def runs(self) -> int:
        """How many handlers are in memory."""
        return len(self._executions)

    def unrecorded(self) -> Counter[tuple[str, str]]:
        """How many reads are open that the kernel doesn't know of, by service and handler."""
        return Counter((record.service, record.handler) for record in self._unrecorded.values())

    def running_steps(self) -> list[asyncio.Task[None]]:
        return self._steps.running()

    def schedule(self) -> None:
        if not self._scheduled and not self._stopped:
            self._scheduled = True
            self._call_soon(self._run_slice)

    def run_unrecorded(self, record: Invoked) -> Invocation:
        """A read leaves no record: it gets into the journal only if it turns out to need one."""
        invocation = _unrecorded_invocation(record)
        self._unrecorded[record.id] = record
        self.kernel.wake(invocation)
        return invocation

    def hand_over(self, invocation: Invocation, arguments: Arguments) -> None:
        """Its arguments, decoded when they were checked, for its first run.

        Not if it has to wait: they would stay in memory beside the bytes.
        """
        if invocation.status is Status.OPEN:
            self._decoded[invocation.id] = arguments

    def evict(self, id: str) -> None:
        """Drops a suspended handler's run; it comes back by replay when it is needed."""
        execution = self._executions.pop(id, None)
        if execution is not None:
            execution.drop()

    def may_leave(self, invocation: Invocation) -> bool:
        """Whether nothing holds it in memory; if only its run did, that is dropped."""
        id, alarm = invocation.id, invocation.next_alarm
        if self._limiter is not None and self._limiter.waits(id):
            return False
        if invocation.in_ready_queue or self._steps.busy(id) or (alarm is not None and alarm <= self._clock.now_us()):
            return False
        self.evict(id)
        return True

    def progress_of(self, id: str) -> dict[int, object]:
        return self._steps.progress_of(id)

    def held_back_by(self, id: str) -> LimitKind | None:
        """The limit that an invocation waits for."""
        return None if self._limiter is None else self._limiter.why_it_waits(id)

    def is_parked(self, invocation: Invocation) -> bool:
        """Its class or handler isn't served by this process."""
        return not self._is_served(invocation.service, invocation.handler)

    # --- what handlers' contexts ask (handler_context.World) ------------------------------------------------------

    @property
    def call_depth_max(self) -> int:
        return self._settings.call_depth_max

    def why_not_completed(self, id: str, outcome: Outcome) -> Failure | None:
        """Why the awakeable `id` doesn't take `outcome`; None if it does, or holds it already."""
        owner = self.kernel.awakeable(id)
        if owner is None:
            return Failure("TerminalError", f"no awakeable {id[:80]}: unknown, or no longer retained", 404)
        invocation, command = owner
        held = None if invocation.awakeables is None else invocation.awakeables.get(command)
        if held is not None:
            same = same_outcome(held, outcome)
            return None if same else Failure("TerminalError", f"awakeable {id} was completed before, otherwise", 409)
        if invocation.ended:
            return Failure("TerminalError", f"awakeable {id} is closed: its handler has ended", 404)
        if self._is_too_large(invocation, outcome):
            return Failure("TerminalError", self._full(f"awakeable {id}"), 413)
        if isinstance(outcome, Success) and (problem := self._why_unfit(invocation, command, outcome.value)):
            return Failure("TerminalError", f"awakeable {id} does not take this value: {problem}", 400)
        return None

    def _is_too_large(
        self, invocation: Invocation, outcome: Outcome | None = None, *, turn: Turn | None = None
    ) -> bool:
        """With `outcome`, which it was to be given; with `turn`, which it was to keep, and be able to roll back."""
        held = invocation.held_bytes + size_of(outcome)
        if turn is not None:
            held += size_of_turn(turn)
            if len(turn.entries) > _ENTRIES_WEIGHED:
                held += self.kernel.bytes_before(invocation, turn)
        return held >= self._settings.invocation_bytes_max

    def _full(self, what: str) -> str:
        return (
            f"{what} was refused and nothing recorded: its handler would hold more than "
            f"{self._settings.invocation_bytes_max} bytes before it ends"
        )

    def why_not_signalled(self, id: str, name: str, outcome: Outcome) -> Failure | None:
        """Why the invocation `id` doesn't take this signal; of what type it is, is known once it asks for it."""
        invocation = self.kernel.find(id)
        if invocation is None or invocation.ended:
            return Failure("TerminalError", f"no open invocation {id[:80]}: unknown, or it has ended", 404)
        if self._is_too_large(invocation, outcome):
            return Failure("TerminalError", self._full(f"signal {name} of {id}"), 413)
        receivers = None if invocation.history is None else invocation.history.receivers.get(name)
        if not receivers or not isinstance(outcome, Success):
            return None
        problem = self._why_unfit(invocation, receivers[0], outcome.value)
        if problem is None:
            return None
        return Failure("TerminalError", f"signal {name} of {id} does not take this value: {problem}", 400)

    def _why_unfit(self, invocation: Invocation, command: int, value: bytes) -> str | None:
        """What its type is, only the handler's code knows: it is replayed up to here if it isn't in memory."""
        execution = self._executions.get(invocation.id) or self._begin(invocation)
        try:
            while execution is not None and execution.replaying and (delivery := execution.next_turn()) is not None:
                execution.replay(delivery)
        except (ReplayMismatch, InvalidArguments, TurnRefused):
            if execution is not None:
                self._throw_away(execution)
            return None  # it is found out, and said, when the handler is driven
        return None if execution is None else execution.refuses(command, value)

    def is_last_attempt(self, invocation: Invocation, error: BaseException) -> bool:
        record = attempts.after_failure(
            invocation, error, self._retry_policy_of(invocation), self._clock.now_us(), uniform=0.0
        )
        return isinstance(record, Turn)

    # --- slices ---------------------------------------------------------------------------------------------------

    def _run_slice(self) -> None:
        self._scheduled = False
        if self._stopped:
            return
        ready, ledger, unsynced_bytes_max = self.kernel.ready, self._ledger, self._settings.unsynced_bytes_max
        until = time.monotonic() + _SLICE_SECONDS
        try:
            for _ in range(self._settings.slice_turns_max):
                if not ready or self._stopped or ledger.unsynced_bytes > unsynced_bytes_max:
                    break
                if time.monotonic() > until:
                    break
                invocation = ready.popleft()
                invocation.in_ready_queue = False
                self._advance(invocation)
                if self._limiter is not None:
                    self._settle(invocation)
        except OutcomeUnknown:
            return  # the journal has failed, and the process stops
        except Exception as error:
            self._ledger.on_failed(InternalError(f"a turn can't be driven ({error!r}); what was acknowledged is safe"))
        finally:
            self._watchdog.left()
            self._slots.idle()
        if self._stopped:
            return
        if not ready or not ledger.quiet or ledger.unsynced_bytes > min(_FLUSH_BYTES, unsynced_bytes_max):
            ledger.flush()
        if len(self._executions) > self._settings.executions_max:
            self._suspend_some()
        if ready and ledger.unsynced_bytes <= unsynced_bytes_max:
            self.schedule()
        self.after_slice()

    def _on_synced(self) -> None:
        if self.kernel.ready:
            self.schedule()

    def _advance(self, invocation: Invocation) -> None:
        """One turn of `invocation`, live or replayed."""
        if invocation.status is not Status.OPEN or invocation.next_attempt_at is not None:
            return
        if self._keys_held and invocation.exclusive and (invocation.service, invocation.key) in self._keys_held:
            return
        if self._limiter is not None and not self._may_run(self._limiter, invocation):
            return
        execution = self._executions.get(invocation.id)
        if execution is None and (execution := self._begin(invocation)) is None:
            return
        if 2 * len(self._executions) > self._settings.executions_max:  # soon some go, and this one was needed now
            self._executions[invocation.id] = self._executions.pop(invocation.id)
        try:
            delivery = execution.next_turn()
        except ReplayMismatch as problem:
            self._throw_away(execution)
            self._pause(invocation, problem)
            return
        if delivery is None:
            self._update_steps(execution)
            return
        self._slots.driving(invocation.id)
        self._watchdog.entered(invocation)
        self._take_turn(execution, delivery)

    def _may_run(self, limiter: Limiter, invocation: Invocation) -> bool:
        if not limiter.may_run(invocation):
            return False
        if limiter.is_late(invocation) and invocation.id not in self._executions:
            now = self._clock.now_us()
            acceptance = self._unrecorded.get(invocation.id)
            if acceptance is not None:
                self._unrecorded[invocation.id] = replace(acceptance, at=now)
                invocation.deliveries[0] = Delivery(now, START)
                return True
            try:
                self._ledger.commit(Begun(now, invocation.id))
            except JournalFull:
                self._try_again_when_there_is_room(invocation)
                return False
        return True

    def _settle(self, invocation: Invocation) -> None:
        """If it only waits from here on, another may go on in its place."""
        assert self._limiter is not None
        now = self.kernel.invocations.get(invocation.id, invocation)  # a read may have got into the journal meanwhile
        self._limiter.settle(now, busy=self._steps.busy(invocation.id))

    def _take_turn(self, execution: Execution, delivery: Delivery) -> None:
        try:
            if execution.replaying:
                self._meter.turns_replayed += 1
                execution.replay(delivery)
            else:
                self._meter.turns += 1
                self._take_live_turn(execution, delivery)
        except CollidedWith as collision:
            self._throw_away(execution)
            invocation = execution.invocation
            self._commit_or_stall(invocation, PutBack(self._clock.now_us(), invocation.id, collision.queued.id))
        except (TurnRefused, RecordTooLarge, Unrecordable) as refused:
            self._throw_away(execution)
            cause = refused.cause if isinstance(refused, TurnRefused) else refused
            if isinstance(cause, UnreadableState):
                self._pause(execution.invocation, cause)
            else:
                self._attempt_failed(execution.invocation, cause)
        except (ReplayMismatch, InvalidArguments) as problem:
            self._throw_away(execution)
            self._pause(execution.invocation, problem)
        except JournalFull:
            self._throw_away(execution)
            self._try_again_when_there_is_room(execution.invocation)
        else:
            self._after_turn(execution)

    def _take_live_turn(self, execution: Execution, delivery: Delivery) -> None:
        turn = execution.run(delivery, self._clock.now_us())
        if turn is None:
            return
        if turn.outcome is not None:
            self._commit_last_turn(execution, turn)
            return
        if execution.invocation.entries >= self._settings.invocation_entries_max:
            raise TurnRefused(_too_long(self._settings.invocation_entries_max))
        if self._is_too_large(execution.invocation, turn=turn):
            raise TurnRefused(_too_large(self._settings.invocation_bytes_max))
        if execution.invocation.id in self._unrecorded:
            execution.adopt(self._recorded(execution.invocation))
        self._ledger.commit(turn)
        if self._settings.replay_always:
            # For the next turn; its steps are started first, so that they aren't made twice.
            self._update_steps(execution)
            self.evict(execution.invocation.id)

    def _commit_last_turn(self, execution: Execution, turn: Turn) -> None:
        invocation = execution.invocation
        if invocation.id in self._unrecorded:
            if not turn.commands:
                del self._unrecorded[invocation.id], self._executions[invocation.id]
                invocation.status = Status.ENDED
                self._meter.ended(invocation, turn.outcome, self._clock.now_us())
                if (tracer := self._ledger.tracer) is not None:
                    tracer.read_ended(invocation, turn, self._ledger.last_lsn)
                self._ledger.answer(invocation.id, turn.outcome)
                execution.discard()
                return
            execution.adopt(self._recorded(invocation))
        # Taken out before the record is applied: what is still listed then was ended from outside.
        del self._executions[invocation.id]
        try:
            self._ledger.commit(turn)
        except (JournalFull, RecordTooLarge, Unrecordable):
            self._executions[invocation.id] = execution
            raise
        for name in execution.never_awaited():
            log.warning("never awaited", what=name, by=invocation.target, invocation=invocation.id)
        execution.discard()

    def _after_turn(self, execution: Execution) -> None:
        invocation = execution.invocation
        if invocation.ended:
            return
        if execution.position < len(invocation.deliveries) or execution.replaying:
            self.kernel.wake(invocation)
        else:
            self._update_steps(execution)

    def _update_steps(self, execution: Execution) -> None:
        if execution.invocation.history is not None:
            self._steps.update(execution.invocation, execution)

    # --- runs -----------------------------------------------------------------------------------------------------

    def _begin(self, invocation: Invocation) -> Execution | None:
        """None if it is parked: it goes on when its class is served again."""
        served = self.registry.handler(invocation.service, invocation.handler)
        if served is None:
            return None
        if invocation.last_turn:
            self._meter.runs_replayed += 1
        decoded = self._decoded.pop(invocation.id, None)
        execution = self._executions[invocation.id] = Execution(invocation, *served, self, self._settings, decoded)
        return execution

    def _throw_away(self, execution: Execution) -> None:
        self._executions.pop(execution.invocation.id, None)
        execution.drop()

    def _suspend_some(self) -> None:
        """The least recently driven go first; what has something to do stays."""
        too_many = len(self._executions) - self._settings.executions_max
        for id, execution in [*self._executions.items()][: 2 * too_many]:
            if not execution.invocation.in_ready_queue and id not in self._unrecorded:
                self.evict(id)

    def _on_ended(self, invocation: Invocation) -> None:
        self._meter.ended(invocation, invocation.outcome, self._clock.now_us())
        execution = self._executions.pop(invocation.id, None)
        self._decoded.pop(invocation.id, None)
        if self._limiter is not None:
            self._limiter.ended(invocation)
        if execution is not None:  # ended from outside: killed
            execution.drop()
        if self._steps.invocation_ended(invocation) and invocation.exclusive and invocation.outcome is not KILLED:
            self._hold_key(invocation)

    def _warn_of_parked(self) -> None:
        """What has begun, wherever it is, and what has not begun and could; others will be seen when they are due."""
        open_now = Counter(self.kernel.counts.begun_of)
        for one in self.kernel.invocations.values():
            if one.runnable and not one.last_turn:
                open_now[f"{one.service}/{one.handler}"] += 1
        parked = {target: count for target, count in open_now.items() if not self._is_served(*target.split("/"))}
        if parked:
            handlers = sorted(parked)
            log.warning("parked: not served by this process", invocations=sum(parked.values()), handlers=handlers[:10])

    def _is_served(self, service: str, handler: str) -> bool:
        return self.registry.handler(service, handler) is not None

    # --- turns that failed ----------------------------------------------------------------------------------------

    def _attempt_failed(self, invocation: Invocation, cause: BaseException) -> None:
        try:
            invocation = self._recorded(invocation)
        except JournalFull:
            self._try_again_when_there_is_room(invocation)
            return
        policy, now = self._retry_policy_of(invocation), self._clock.now_us()
        record = attempts.after_failure(invocation, cause, policy, now, self._jitter.random())
        log.warning(
            "attempt failed",
            invocation=invocation.id,
            **trace_of(invocation),
            target=invocation.target,
            attempt=invocation.attempts + 1,
            error=f"{type(cause).__name__}: {text_of(cause)}",
            then="fail" if isinstance(record, Turn) else "pause" if record.next_at is None else "retry",
            exc_info=cause,
        )
        self._commit_or_stall(invocation, record)

    def _retry_policy_of(self, invocation: Invocation) -> RetryPolicy:
        service, handler = self.registry.handler(invocation.service, invocation.handler) or (None, None)
        return (handler and handler.retry) or (service and service.retry) or self._settings.retry

    def _pause(self, invocation: Invocation, problem: BaseException) -> None:
        try:
            invocation = self._recorded(invocation)
        except JournalFull:
            self._try_again_when_there_is_room(invocation)
            return
        failure = attempts.failure_of_attempt(problem)
        log.error(
            "paused",
            invocation=invocation.id,
            **trace_of(invocation),
            target=invocation.target,
            error=failure.message,
            holds_key=invocation.exclusive,
            do=f"mend what it ran into, then PATCH /invocations/{invocation.id}/resume at the admin port, or cancel it",
        )
        self._commit_or_stall(invocation, Paused(self._clock.now_us(), invocation.id, failure))

    def _recorded(self, invocation: Invocation) -> Invocation:
        """A read that asks for something, or failed, gets into the journal after all."""
        acceptance = self._unrecorded.get(invocation.id)
        if acceptance is not None:
            self._ledger.commit(acceptance)
            del self._unrecorded[invocation.id]
        return self.kernel.invocations[invocation.id]

    def _commit_or_stall(self, invocation: Invocation, record: Record) -> None:
        try:
            self._ledger.commit(record)
        except JournalFull:
            self._try_again_when_there_is_room(invocation)

    def _try_again_when_there_is_room(self, invocation: Invocation) -> None:
        log.error("no room in the journal", invocation=invocation.id, target=invocation.target)
        self._clock.call_at(self._clock.now_us() + NO_ROOM_RETRY_US, lambda: self._look_again(invocation))

    def _look_again(self, invocation: Invocation) -> None:
        now = invocation if invocation.id in self._unrecorded else self.kernel.find(invocation.id)
        if now is not None and not self._stopped:
            self.kernel.wake(now)
            self.schedule()

    async def take_over(self) -> None:
        """If the last process died in a turn, that was an attempt, in case the turn was the reason.

        It counts before the turn is tried again, or a handler that kills the process would do so for ever.
        """
        words = self._slots.take_over()
        self._steps.recovered(words.steps)
        id = words.driven
        invocation = None if id is None else self.kernel.find(id)
        if invocation is None or invocation.status is not Status.OPEN:  # what put it there may have been lost
            return
        record = attempts.after_death(invocation, self._clock.now_us())
        paused = record.next_at is None
        log.warning("the process died while a handler ran", invocation=id, target=invocation.target, paused=paused)
        try:
            self._ledger.commit(record)
        except JournalFull:
            return
        self._ledger.flush()
        await self._ledger.synced(self._ledger.last_lsn)

    # --- what steps ask (steps.Recorder) --------------------------------------------------------------------------

    def record_of_step(self, invocation: Invocation, record: Notified | Attempted | Paused) -> None:
        """Commits it, now or as soon as there is room, and drives the invocation on."""
        if self._stopped or invocation.ended:
            return
        waiting = self._without_room.get(invocation.id)
        if waiting is not None:  # a stream's items keep their order
            waiting.append(record)
            return
        if isinstance(record, Notified) and self._is_too_large(invocation, record.outcome):
            record = _unrecordable(record, _too_large(self._settings.invocation_bytes_max))
        try:
            self._ledger.commit(record)
        except (RecordTooLarge, Unrecordable) as error:
            self.record_of_step(invocation, _unrecordable(record, error))
        except OutcomeUnknown:
            return  # the journal has failed, and the process stops
        except JournalFull:
            self._without_room[invocation.id] = deque((record,))
            self._record_when_there_is_room(invocation.id)
        if self._limiter is not None:
            self._settle(invocation)
        self.schedule()

    def waits_for_room(self, id: str) -> bool:
        """Whether what became of one of its steps is not recorded yet: until then none of them is started."""
        return id in self._without_room

    def _record_when_there_is_room(self, id: str) -> None:
        self._clock.call_at(self._clock.now_us() + NO_ROOM_RETRY_US, lambda: self._record_again(id))

    def _record_again(self, id: str) -> None:
        waiting = self._without_room.pop(id)
        while waiting and not self._stopped and id not in self._without_room:
            invocation = self.kernel.find(id)  # which may have left memory, and come back
            if invocation is None:
                return
            self.record_of_step(invocation, waiting.popleft())
        if id in self._without_room:
            self._without_room[id].extend(waiting)
        elif not self._stopped and (invocation := self.kernel.find(id)) is not None and not invocation.ended:
            self.kernel.wake(invocation)  # its steps may start again
            self.schedule()

    def pause_for(self, invocation: Invocation, problem: BaseException) -> None:
        """What was recorded can't be read by the code at hand."""
        self.evict(invocation.id)
        self._pause(invocation, problem)
        if self._limiter is not None:
            self._settle(invocation)
        self.schedule()

    def key_is_free(self, invocation: Invocation) -> None:
        """The last step of an ended invocation has left: the next one may start."""
        key = (invocation.service, invocation.key)
        if self._keys_held.get(key) == invocation.id:
            del self._keys_held[key]
            entry = self.kernel.entry(*key)
            holder = None if entry is None or entry.holder is None else self.kernel.find(entry.holder)
            if holder is not None:
                self.kernel.wake(holder)
                self.schedule()

    def _hold_key(self, invocation: Invocation) -> None:
        """A cancelled step may still be talking to the world outside on the key's behalf: for a while."""
        self._keys_held[invocation.service, invocation.key] = invocation.id
        until = self._clock.now_us() + round(self._settings.step_grace_seconds * 1e6)
        self._pass_key_on(invocation, until)

    def _pass_key_on(self, invocation: Invocation, at: int) -> None:
        if self._clock.now_us() >= at:
            self.key_is_free(invocation)
        else:  # a clock naps no longer than a minute
            self._clock.call_at(at, lambda: self._pass_key_on(invocation, at))


def _unrecorded_invocation(record: Invoked) -> Invocation:
    invocation = Invocation(
        record.id,
        record.seed,
        record.service,
        record.key,
        record.handler,
        record.exclusive,
        record.arguments,
        record.at,
        headers=record.headers,
        trace=record.trace,
    )
    invocation.status = Status.OPEN
    if record.trace is not None:
        invocation.begun_at = record.at
    invocation.deliveries.append(Delivery(record.at, START))
    return invocation


def _unrecordable(record: Notified | Attempted | Paused, why: Exception) -> Notified:
    command = getattr(record, "command", None) or 0
    failure = failure_of(StepFailed(f"the step's result can't be recorded: {why}"))
    return Notified(record.at, record.id, command, Failed(failure))


def _too_large(limit: int) -> Exception:
    return RuntimeError(
        f"the invocation would hold more than {limit} bytes of results, signals and arguments, which is the limit; "
        "keep large values elsewhere and pass on where they are, or send a message to a successor and end"
    )


def _too_long(limit: int) -> Exception:
    return RuntimeError(
        f"the invocation's journal has {limit} entries, which is the limit: every restart replays them; "
        "send a message to a successor and end"
    )

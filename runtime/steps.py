"""Which steps are started, tried again or given up.

Started once the record that asked for it is synced, and only if it is still wanted; found running by a replay; tried
again by its own policy, counting attempts that a crash cut off.  A result, an item or a final failure becomes a
Notified record; a failure that is tried again an Attempted one, so that a restart keeps to the backoff.

How an attempt runs is in step_runner.py.
"""

from __future__ import annotations

import asyncio
import math
from random import Random
from typing import Protocol

import structlog

from perdure.objects.errors import Failure, StepFailed, TerminalError, failure_of, text_of
from perdure.objects.retries import RetryPolicy

from .attempts import DEATHS_MAX, failure_of_attempt
from .clock import Clock
from .execution import Execution
from .invocations import Invocation, StepState
from .ledger import Ledger
from .limiter import Limiter
from .log_ids import trace_of
from .records import Attempted, Failed, Notified, Outcome, Paused, Success
from .settings import Settings
from .slots import NoSlots, Slots
from .step_calls import StepCall
from .step_runner import StepId, StepRunner

log: structlog.stdlib.BoundLogger = structlog.get_logger("perdure")


SOON_SECONDS = 10.0
"""A step that runs longer and then dies with its process just happened to be running."""


class Recorder(Protocol):
    """What the engine does for its steps."""

    def record_of_step(self, invocation: Invocation, record: Notified | Attempted | Paused) -> None:
        """Commits it, now or as soon as there is room, and drives the invocation on."""
        ...

    def waits_for_room(self, id: str) -> bool:
        """Whether something that it was given for this invocation is not recorded yet."""
        ...

    def pause_for(self, invocation: Invocation, problem: BaseException) -> None:
        """What was recorded can't be read by the code at hand."""
        ...

    def key_is_free(self, invocation: Invocation) -> None:
        """The last step of an ended invocation has left."""
        ...


class Steps:
    def __init__(
        self,
        recorder: Recorder,
        ledger: Ledger,
        clock: Clock,
        settings: Settings,
        jitter: Random,
        slots: Slots | NoSlots,
        limiter: Limiter | None = None,
    ) -> None:
        self._recorder = recorder
        self._ledger = ledger
        self._kernel = ledger.kernel
        self._clock = clock
        self._settings = settings
        self._jitter = jitter
        self._slots = slots
        self._limiter = limiter
        self._meter = ledger.meter
        self._runner = StepRunner(self, settings.step_threads_max)
        self._calls: dict[str, dict[int, StepCall]] = {}  # started or about to be, by invocation and command
        self._cut_off: dict[StepId, float] = {}
        self._ended: dict[str, Invocation] = {}

    def recovered(self, started: dict[StepId, float] | None) -> None:
        """`started`: what was running when the last process ended, and for how many seconds.

        None: it can't be told, so every step that was open and due may have been.
        """
        now = self._clock.now_us()
        if started is not None:
            self._cut_off = started
            self._slots.alive(now)
            for id, seconds in started.items():  # until what becomes of them is synced
                self._slots.step_started(id, max(1, now - round(seconds * 1e6)))
            return
        for invocation in [*self._kernel.invocations.values()]:
            self._may_have_started(invocation, now)
        for invocation in self._kernel.overdue(now):  # a retry that was due leaves no record when it starts
            self._may_have_started(invocation, now)
            self._kernel.memory.evict(self._settings.memory_bytes_max, lambda one: not one.in_ready_queue)

    def _may_have_started(self, invocation: Invocation, now: int) -> None:
        if invocation.history is not None:
            for command, state in invocation.history.steps.items():
                if state.next_attempt_at is None or state.next_attempt_at <= now:
                    self._cut_off[invocation.id, command] = math.inf
                    self._slots.step_started((invocation.id, command), 1)  # until what becomes of it is synced

    def update(self, invocation: Invocation, execution: Execution) -> None:
        """Starts what the handler waits for and nobody runs, and stops what it doesn't wait for any more."""
        wanted = {} if invocation.history is None else invocation.history.steps
        calls = self._calls.get(invocation.id)
        if calls:
            for command in [command for command in calls if command not in wanted]:
                self._stop(invocation.id, command)
        if not wanted or self._recorder.waits_for_room(invocation.id):  # else what has run would run again
            return
        for command, state in [*wanted.items()]:  # one that gives up at once is taken out
            if state.next_attempt_at is None and (calls is None or command not in calls):
                call = execution.step(command)
                if call is not None:
                    self._begin(invocation, command, state, call)

    def invocation_ended(self, invocation: Invocation) -> bool:
        """Stops its steps.  True if some of them still run, so that its key can't pass on yet."""
        for command in [*self._calls.get(invocation.id, ())]:
            self._stop(invocation.id, command)
        if self._runner.leaving(invocation.id):
            self._ended[invocation.id] = invocation
            return True
        return False

    def busy(self, id: str) -> bool:
        """Whether a step of that invocation runs, or is about to."""
        return id in self._calls or id in self._ended

    def running(self) -> list[asyncio.Task[None]]:
        return self._runner.running()

    def progress_of(self, id: str) -> dict[int, object]:
        return self._runner.progress_of(id)

    async def stop(self, grace_seconds: float) -> None:
        if self._limiter is not None:
            self._limiter.stop()
        await self._runner.stop(grace_seconds)

    # --- one attempt ----------------------------------------------------------------------------------------------

    def _begin(self, invocation: Invocation, command: int, state: StepState, call: StepCall) -> None:
        id = (invocation.id, command)
        self._calls.setdefault(invocation.id, {})[command] = call
        ran_seconds = self._cut_off.pop(id, None)
        if ran_seconds is not None:
            if self._cut_off_by_death(invocation, command, state, call, ran_seconds):
                self._release_when_synced(id)
                return
            self._slots.step_ended(id)
        self._ledger.when_synced(lambda: self._start(invocation, command, call))

    def _start(self, invocation: Invocation, command: int, call: StepCall) -> None:
        """Before it starts: is it still wanted?"""
        state = _open_step(invocation, command)
        calls = self._calls.get(invocation.id)
        if state is None or calls is None or calls.get(command) is not call:
            return
        id = (invocation.id, command)
        if self._limiter is not None and not self._limiter.step_may_start(
            invocation, id, lambda: self._start_in_its_place(invocation, command, call)
        ):
            return
        recorded: list[object] = []
        if state.items:
            try:
                recorded = [call.decode(item) for item in state.items]
            except Exception as error:  # what the journal has of the stream, the annotation doesn't read any more
                self._forget(invocation.id, command)
                if self._limiter is not None:
                    self._limiter.step_over(id)
                self._recorder.pause_for(invocation, error)
                return
        self._slots.step_started(id, self._clock.now_us())
        self._meter.of(invocation).steps_started += 1
        tracer, trace = self._ledger.tracer, invocation.trace
        traced = None if tracer is None or trace is None else tracer.step(trace, id)
        self._runner.start(id, invocation.seed, call, state.attempts + 1, recorded, traced)

    def _start_in_its_place(self, invocation: Invocation, command: int, call: StepCall) -> None:
        """It has waited for it, and may be wanted no more."""
        self._start(invocation, command, call)
        id = (invocation.id, command)
        if self._limiter is not None and not self._runner.runs(id):
            self._limiter.step_over(id)

    def _cut_off_by_death(
        self, invocation: Invocation, command: int, state: StepState, call: StepCall, ran_seconds: float
    ) -> bool:
        """The attempt before was cut off by the end of the process.  False if that is of no account.

        Of a bounded step it counts.  Of any other only if the process died soon after it began, three times in a row:
        then the step may be the reason, and an operator decides.
        """
        now = self._clock.now_us()
        if self._policy(call).max_attempts is not None:
            cut_off = RuntimeError("the attempt was cut off by the end of the process")
            self._retry_or_give_up(invocation, command, state, call, cut_off, at_once=True)
            return True
        if ran_seconds > SOON_SECONDS:
            return False
        self._forget(invocation.id, command)
        failure = Failure("ProcessDied", f"the process was killed while step {call.name} ran", 500)
        if state.deaths + 1 < DEATHS_MAX:
            record: Attempted | Paused = Attempted(now, invocation.id, failure, now, died=True, command=command)
        else:
            record = Paused(now, invocation.id, failure)
        log.warning(
            "the process died while a step ran", step=call.name, invocation=invocation.id, deaths=state.deaths + 1
        )
        self._recorder.record_of_step(invocation, record)
        return True

    def _stop(self, id: str, command: int) -> None:
        self._forget(id, command)
        self._runner.cancel((id, command))
        if self._limiter is not None:
            self._limiter.step_unwanted((id, command))
        self._release_when_synced((id, command))

    def _forget(self, id: str, command: int) -> StepCall | None:
        calls = self._calls.get(id)
        if calls is None:
            return None
        call = calls.pop(command, None)
        if not calls:
            del self._calls[id]
        return call

    def _release_when_synced(self, id: StepId) -> None:
        """Killed between its end and the sync of what it ended with, an attempt would be run again: it has to count."""

        def release() -> None:
            invocation = self._kernel.find(id[0])
            state = None if invocation is None else _open_step(invocation, id[1])
            if state is None or state.next_attempt_at is not None:  # else there was no room to record it
                self._slots.step_ended(id)

        self._ledger.when_synced(release)

    # --- StepOwner: how it went -----------------------------------------------------------------------------------

    def step_yielded(self, id: StepId, item: bytes) -> None:
        self._notify(id, Success(item), more=True)

    def step_ended(self, id: StepId, value: bytes) -> None:
        self._give_place_back(id)
        self._forget(*id)
        self._notify(id, Success(value))
        self._release_when_synced(id)

    def step_failed(self, id: StepId, error: BaseException) -> None:
        self._give_place_back(id)
        call = self._forget(*id)
        invocation = self._kernel.find(id[0])
        state = None if invocation is None else _open_step(invocation, id[1])
        if invocation is None or state is None or call is None:
            return
        if isinstance(error, TerminalError):
            self._meter.of(invocation).steps_failed += 1
            self._notify(id, Failed(failure_of(error)))
        else:
            self._retry_or_give_up(invocation, id[1], state, call, error)
        self._release_when_synced(id)

    def step_left(self, id: StepId) -> None:
        self._give_place_back(id)
        invocation = self._ended.get(id[0])
        if invocation is not None and not self._runner.leaving(id[0]):
            del self._ended[id[0]]
            self._recorder.key_is_free(invocation)

    def _give_place_back(self, id: StepId) -> None:
        """Unless the thread of an attempt that timed out runs on, or the next attempt does, in the same place."""
        if self._limiter is not None and not self._runner.runs(id):
            self._limiter.step_over(id)

    # --- what is recorded -----------------------------------------------------------------------------------------

    def _notify(self, id: StepId, outcome: Outcome, *, more: bool = False) -> None:
        invocation = self._kernel.find(id[0])
        if invocation is not None and _open_step(invocation, id[1]) is not None:
            self._recorder.record_of_step(
                invocation, Notified(self._clock.now_us(), invocation.id, id[1], outcome, more)
            )

    def _retry_or_give_up(
        self,
        invocation: Invocation,
        command: int,
        state: StepState,
        call: StepCall,
        error: BaseException,
        *,
        at_once: bool = False,
    ) -> None:
        self._forget(invocation.id, command)
        now, policy, attempt = self._clock.now_us(), self._policy(call), state.attempts + 1
        failing_seconds = (now - state.failing_since) / 1e6 if state.attempts else 0.0
        again = not isinstance(error, policy.never) and policy.allows(attempt, failing_seconds)
        log.warning(
            "step failed",
            step=call.name,
            invocation=invocation.id,
            **trace_of(invocation),
            target=invocation.target,
            attempt=attempt,
            error=f"{type(error).__name__}: {text_of(error)}",
            then="retry" if again else "fail",
        )
        if again:
            delay_seconds = 0.0 if at_once else policy.delay_seconds(attempt, self._jitter.random())
            next_at = now + round(delay_seconds * 1e6)
            self._recorder.record_of_step(
                invocation, Attempted(now, invocation.id, failure_of_attempt(error), next_at, command=command)
            )
            return
        message = f"step {call.name} failed for good after {attempt} attempts: {type(error).__name__}: {text_of(error)}"
        failure = failure_of(StepFailed(message))
        self._meter.of(invocation).steps_failed += 1
        self._recorder.record_of_step(invocation, Notified(now, invocation.id, command, Failed(failure)))

    def _policy(self, call: StepCall) -> RetryPolicy:
        return call.options.retry or self._settings.step_retry


def _open_step(invocation: Invocation, command: int) -> StepState | None:
    return None if invocation.history is None else invocation.history.steps.get(command)

"""What operators and the world outside may do to an invocation: see it, stop it, try it again, give it a value."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct

from perdure.journal import JournalFull, RecordTooLarge
from perdure.objects.errors import Failure, InvalidArguments

from .admission import Refused
from .clock import Clock
from .driver import Driver
from .handler_context import ANY_JSON, rejection
from .invocations import RUN_ONCE, Invocation, Status
from .ledger import Ledger, Unrecordable
from .limit_views import LimitKind
from .records import (
    Cancelled,
    Failed,
    Killed,
    Notified,
    Outcome,
    Paused,
    Purged,
    Record,
    Resumed,
    Signalled,
    Success,
)

PAUSED_BY_OPERATOR = Failure("Paused", "paused by an operator", 409)


class InvocationView(Struct, frozen=True, omit_defaults=True):
    """An invocation as operators see it.  Times are microseconds since the Unix epoch.

    `status`: scheduled (for later), pending (its key is held), ready (to be driven), running (a step is at work),
    backing-off (it or a step waits for its next attempt), suspended (it waits for something else), paused, completed.
    `held_back_by`: the limit that it waits for, as in `LimitView`, while it is ready.
    `progress`: what the heartbeats of its running steps said, by the number of the command.
    """

    id: str
    target: str
    status: str
    created_at: int
    retry_count: int = 0
    last_failure: Failure | None = None
    next_retry_at: int | None = None
    scheduled_at: int | None = None
    ended_at: int | None = None
    outcome: str | None = None
    failure: Failure | None = None
    caller: str | None = None
    idempotency_key: str | None = None
    waits_for: list[str] = []
    queued_behind_it: int = 0
    parked: bool = False
    progress: dict[int, object] = {}
    held_back_by: LimitKind | None = None


class Operations:
    """Each raises Refused at the call: 404 unknown, 409 not in a state for it, 507 no room."""

    def __init__(self, ledger: Ledger, driver: Driver, clock: Clock, known: Callable[[str], Invocation]) -> None:
        self._ledger = ledger
        self._driver = driver
        self._kernel = ledger.kernel
        self._clock = clock
        self._known = known

    def describe(self, id: str) -> InvocationView:
        invocation = self._known(id)
        next_retry_at, retries = _retries_of(invocation)
        entry = self._kernel.entry(invocation.service, invocation.key)
        holds_key = entry is not None and entry.holder == invocation.id
        outcome, held_back_by = invocation.outcome, self._driver.held_back_by(id)
        return InvocationView(
            id=invocation.id,
            target=invocation.target,
            status="ready" if held_back_by is not None else _status_of(invocation),
            created_at=invocation.created_at,
            retry_count=retries,
            last_failure=invocation.last_failure,
            next_retry_at=next_retry_at,
            scheduled_at=invocation.due,
            ended_at=invocation.ended_at,
            outcome=None if outcome is None else "failure" if isinstance(outcome, Failed) else "success",
            failure=outcome.failure if isinstance(outcome, Failed) else None,
            caller=invocation.parent,
            idempotency_key=None if invocation.idempotency_key == RUN_ONCE else invocation.idempotency_key,
            waits_for=invocation.waits_for(),
            queued_behind_it=len(entry.mailbox) if entry is not None and holds_key else 0,
            parked=not invocation.ended and self._driver.is_parked(invocation),
            progress=self._driver.progress_of(id),
            held_back_by=held_back_by,
        )

    def cancel(self, id: str) -> Awaitable[None]:
        """Asks the handler to end, as asyncio does: CancelledError at its await, and in what it calls.

        Nothing, if it was asked before or has ended: who repeats a request that got lost is answered alike.
        """
        invocation = self._known(id)
        if invocation.ended or invocation.cancel_requested:
            return self._ledger.synced(self._ledger.last_lsn)
        return self.commit(Cancelled(self._clock.now_us(), id))

    def kill(self, id: str) -> Awaitable[None]:
        """Ends it and its calls at once: no code of theirs has an effect from then on.  Nothing, if it has ended."""
        if self._known(id).ended:
            return self._ledger.synced(self._ledger.last_lsn)
        return self.commit(Killed(self._clock.now_us(), id))

    def pause(self, id: str) -> Awaitable[None]:
        """Keeps it where it is, with its journal and its key, until it is resumed, cancelled or killed."""
        invocation = self._known(id)
        if invocation.status is Status.PAUSED:
            return self._ledger.synced(self._ledger.last_lsn)
        if invocation.status is not Status.OPEN:
            raise Refused(409, f"{id} is {_plain_status(invocation)}: only what runs can be paused")
        done = self.commit(Paused(self._clock.now_us(), id, PAUSED_BY_OPERATOR))
        self._driver.evict(id)
        return done

    def resume(self, id: str) -> Awaitable[None]:
        """Tries a paused or backing-off invocation again at once, with its attempts counted anew."""
        invocation = self._known(id)
        if invocation.ended:
            raise Refused(409, f"{id} has ended: there is nothing to resume; restart-as-new makes it again")
        if invocation.status is not Status.OPEN and invocation.status is not Status.PAUSED:
            raise Refused(425, f"{id} is {_plain_status(invocation)}, it has not begun: there is nothing to resume")
        return self.commit(Resumed(self._clock.now_us(), id))

    def purge(self, id: str) -> Awaitable[None]:
        """Forgets the outcome of an ended invocation before its retention time is over."""
        if not self._known(id).ended:
            raise Refused(409, f"{id} has not ended: cancel or kill it first")
        return self.commit(Purged(self._clock.now_us(), [id]))

    def resolve_signal(self, id: str, name: str, value: bytes) -> Awaitable[None]:
        """A value for the handler's `ctx.signal(name, …)`, as JSON; nothing stands for null."""
        return self.signal(id, name, Success(_value(value)))

    def reject_signal(self, id: str, name: str, reason: str) -> Awaitable[None]:
        """The handler's `await ctx.signal(name, …)` raises a TerminalError with `reason`."""
        return self.signal(id, name, _rejected(reason))

    def signal(self, id: str, name: str, outcome: Outcome) -> Awaitable[None]:
        """A value for the handler's `ctx.signal(name, …)`; kept until it asks."""
        self._known(id)
        failure = self._driver.why_not_signalled(id, name, outcome)
        if failure is not None:
            raise Refused(failure.status, failure.message)
        return self.commit(Signalled(self._clock.now_us(), id, name, outcome))

    def resolve_awakeable(self, id: str, value: bytes) -> Awaitable[None]:
        """`value` is JSON; nothing stands for null.  Once; the same value again is nothing."""
        return self._complete(id, Success(_value(value)))

    def reject_awakeable(self, id: str, reason: str) -> Awaitable[None]:
        """Whoever waits gets a TerminalError with `reason`."""
        return self._complete(id, _rejected(reason))

    def _complete(self, id: str, outcome: Outcome) -> Awaitable[None]:
        failure = self._driver.why_not_completed(id, outcome)
        if failure is not None:
            raise Refused(failure.status, failure.message)
        owner = self._kernel.awakeable(id)
        assert owner is not None
        invocation, command = owner
        if invocation.awakeables is not None and invocation.awakeables.get(command) is not None:
            return self._ledger.synced(self._ledger.last_lsn)
        return self.commit(Notified(self._clock.now_us(), invocation.id, command, outcome))

    def commit(self, record: Record) -> Awaitable[None]:
        """What an operator decided.  Raises Refused if it can't be recorded."""
        try:
            self._ledger.commit(record)
        except JournalFull:
            raise Refused(507, "the disk is full: nothing was recorded", 5) from None
        except RecordTooLarge as error:
            raise Refused(413, str(error)) from None
        except Unrecordable as error:
            raise Refused(400, str(error)) from None
        self._driver.schedule()
        return self._ledger.synced(self._ledger.last_lsn)


def _value(body: bytes) -> bytes:
    """Nothing stands for null.  Raises Refused(400) for what is no JSON."""
    value = body or b"null"
    try:
        ANY_JSON.unpack_hostile(value)
    except InvalidArguments as error:
        raise Refused(400, str(error)) from None
    return value


def _rejected(reason: str) -> Failed:
    try:
        return rejection(reason)
    except ValueError as error:
        raise Refused(400, str(error)) from None


def _status_of(invocation: Invocation) -> str:
    """One of eight.  A turn is never seen at work, since nothing else runs meanwhile: `running` are its steps."""
    if invocation.status is not Status.OPEN:
        return _plain_status(invocation)
    if invocation.next_attempt_at is not None:
        return "backing-off"
    if invocation.in_ready_queue or not invocation.consumed:
        return "ready"
    if invocation.has_steps_to_run:
        return "running"
    return "backing-off" if invocation.history is not None and invocation.history.steps else "suspended"


def _plain_status(invocation: Invocation) -> str:
    return "completed" if invocation.ended else invocation.status.value


def _retries_of(invocation: Invocation) -> tuple[int | None, int]:
    """When it, or one of its steps, is tried again, and how often that was done."""
    steps = [] if invocation.history is None else [*invocation.history.steps.values()]
    due = [invocation.next_attempt_at, *(step.next_attempt_at for step in steps)]
    retries = max([invocation.attempts, *(step.attempts for step in steps)])
    return min((at for at in due if at is not None), default=None), retries

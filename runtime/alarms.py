"""What happens because time passes: timers fire, delayed invocations join, retries are due, outcomes are purged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice, takewhile
from typing import Final

from perdure.journal import JournalFull

from .clock import Alarm, Clock
from .driver import NO_ROOM_RETRY_US
from .gate import OutcomeUnknown
from .invocations import Invocation
from .ledger import Ledger
from .records import Due, Notified, Purged
from .settings import Settings
from .timers import JOIN_MAILBOX, RETRY

_SWEEP_US: Final = 10_000_000  # at the least: what is over together is purged together
_PURGED_AT_ONCE: Final = 1_000
_FIRED_AT_ONCE: Final = 256


class Alarms:
    """`schedule` is called when there may be something to drive."""

    def __init__(self, ledger: Ledger, clock: Clock, settings: Settings, schedule: Callable[[], None]) -> None:
        self._ledger = ledger
        self._kernel = ledger.kernel
        self._clock = clock
        self._retention_us = round(settings.idempotency_retention_seconds * 1e6)
        self._workflow_retention_us = round(settings.workflow_retention_seconds * 1e6)
        self._schedule = schedule
        self._stopped = False
        self._sweeping: Alarm | None = None
        self._alarm: Alarm | None = None
        self._alarm_at: int | None = None

    def begin(self) -> None:
        self._sweep()
        self.set()

    def stop(self) -> None:
        self._stopped = True
        for alarm in (self._alarm, self._sweeping):
            if alarm is not None:
                alarm.cancel()

    def set(self) -> None:
        """Looks when the next timer is due, and the next purge."""
        if self._sweeping is None and self._retained():
            self._set_sweep()
        due = self._kernel.timers.next_due()
        if due is None or due == self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = due
        self._alarm = self._clock.call_at(due, self._ring)

    def _ring(self) -> None:
        """Fires what is due, some at a time: a million timers of one instant must not starve the ingress."""
        self._alarm = self._alarm_at = None
        if self._stopped:
            return
        now = self._clock.now_us()
        with suppress(JournalFull, OutcomeUnknown):  # the timer that found no room is set again by _fire
            for count, (id, command) in enumerate(self._kernel.timers.due(now), start=1):
                self._fire(id, command, now)
                if count == _FIRED_AT_ONCE:
                    break
        self._schedule()

    def _fire(self, id: str, command: int, now: int) -> None:
        invocation = self._kernel.invocations.get(id)
        if invocation is None:
            return
        if command == RETRY:
            self._kernel.make_attempt(invocation)
            return
        if command != JOIN_MAILBOX and self._kernel.try_step(invocation, command):
            return
        try:
            self._ledger.commit(Due(now, id) if command == JOIN_MAILBOX else Notified(now, id, command))
        except JournalFull:
            self._kernel.timers.set(now + NO_ROOM_RETRY_US, id, command)
            raise

    def _retained(self) -> list[tuple[deque[Invocation], int]]:
        """What is kept, in the order of its end, and for how many microseconds."""
        kernel = self._kernel
        kept = ((kernel.retention, self._retention_us), (kernel.workflows, self._workflow_retention_us))
        return [(retained, kept_us) for retained, kept_us in kept if retained]

    def _set_sweep(self) -> None:
        now = self._clock.now_us()
        first = min((retained[0].ended_at or now) + kept_us for retained, kept_us in self._retained())
        self._sweeping = self._clock.call_at(max(first, now + _SWEEP_US), self._sweep)

    def _sweep(self) -> None:
        """Purges outcomes whose retention time is over."""
        self._sweeping = None
        if self._stopped:
            return
        now = self._clock.now_us()
        over = [id for retained, kept_us in self._retained() for id in _ended_before(retained, now - kept_us)]
        if over:
            with suppress(JournalFull, OutcomeUnknown):
                self._ledger.commit(Purged(now, over))
            self._schedule()
        if len(over) >= _PURGED_AT_ONCE:
            self._sweeping = self._clock.call_at(now, self._sweep)
        elif self._retained():
            self._set_sweep()


def _ended_before(retained: deque[Invocation], at: int) -> list[str]:
    over = takewhile(lambda one: one.ended_at is not None and one.ended_at <= at, retained)
    return [one.id for one in islice(over, _PURGED_AT_ONCE)]

"""What happens because time passes: timers fire, delayed invocations join, retries are due, outcomes are purged.

Only what is due soon has its timer in memory; the store's agenda has the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from perdure.journal import JournalFull

from .clock import Alarm, Clock
from .driver import NO_ROOM_RETRY_US
from .gate import OutcomeUnknown
from .ledger import Ledger
from .records import Due, Notified, Purged
from .settings import Settings
from .timers import JOIN_MAILBOX, RETRY, WAKE

_LOOK_AHEAD_US: Final = 60_000_000
_SWEEP_US: Final = 10_000_000  # at the least: what is over together is purged together
_PURGED_AT_ONCE: Final = 1_000
_FIRED_AT_ONCE: Final = 256


class Alarms:
    """`schedule` is called when there may be something to drive."""

    def __init__(self, ledger: Ledger, clock: Clock, settings: Settings, schedule: Callable[[], None]) -> None:
        self._ledger = ledger
        self._kernel = ledger.kernel
        self._clock = clock
        self._settings = settings
        self._schedule = schedule
        self._stopped = False
        self._sweeping: Alarm | None = None
        self._alarm: Alarm | None = None
        self._alarm_at: int | None = None

    def begin(self) -> None:
        now = self._clock.now_us()
        self._kernel.agenda_until = self._kernel.counts.frozen_at or now  # 0: nothing was ever written down
        self._look_ahead(now)
        self._sweep()
        self.set()

    def stop(self) -> None:
        self._stopped = True
        for alarm in (self._alarm, self._sweeping):
            if alarm is not None:
                alarm.cancel()

    def set(self) -> None:
        """Looks when the next timer is due, and the next purge."""
        kernel = self._kernel
        if self._sweeping is None and kernel.counts.retained:
            self._set_sweep()
        due = kernel.timers.next_due()
        if kernel.agenda_next is not None:
            look_at = kernel.agenda_next - _LOOK_AHEAD_US // 2
            due = look_at if due is None else min(due, look_at)
        if due is None or due == self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = due
        self._alarm = self._clock.call_at(due, self._ring)

    def _look_ahead(self, now: int) -> None:
        self._kernel.look_ahead(now + _LOOK_AHEAD_US)

    def _ring(self) -> None:
        """Fires what is due, some at a time: a million timers of one instant must not starve the ingress."""
        self._alarm = self._alarm_at = None
        if self._stopped:
            return
        now = self._clock.now_us()
        with suppress(JournalFull, OutcomeUnknown):  # the timer that found no room is set again by _fire
            agenda_next = self._kernel.agenda_next
            if agenda_next is not None and agenda_next - _LOOK_AHEAD_US // 2 <= now:
                self._look_ahead(now)
            for count, (id, command) in enumerate(self._kernel.timers.due(now), start=1):
                self._fire(id, command, now)
                if count == _FIRED_AT_ONCE:
                    break
        self._schedule()

    def _fire(self, id: str, command: int, now: int) -> None:
        if command == WAKE:
            self._kernel.find(id)  # which sets its timers
            return
        if command == RETRY:
            self._kernel.make_attempt(id)
            return
        if command != JOIN_MAILBOX and self._kernel.try_step(id, command):
            return
        if self._kernel.find(id) is None:
            return
        try:
            self._ledger.commit(Due(now, id) if command == JOIN_MAILBOX else Notified(now, id, command))
        except JournalFull:
            self._kernel.timers.set(now + NO_ROOM_RETRY_US, id, command)
            raise

    # --- what is over ---------------------------------------------------------------------------------------------

    def _set_sweep(self) -> None:
        now = self._clock.now_us()
        first = min((self._first_over(family, now) for family in self._families()), default=now)
        self._sweeping = self._clock.call_at(max(first, now + _SWEEP_US), self._sweep)

    def _first_over(self, family: str, now: int) -> int:
        """When the oldest of a family has to go."""
        oldest = self._kernel.first_ended(family, 1)
        too_many = self._kernel.counts.retained[family] > self._settings.retained_max
        return now if too_many or not oldest else oldest[0][0] + self._kept_us(family)

    def _sweep(self) -> None:
        """Purges outcomes whose retention time is over, and the oldest of what is kept by number."""
        self._sweeping = None
        if self._stopped:
            return
        with suppress(OutcomeUnknown):  # the store can't be read, and the process stops
            self._purge(self._clock.now_us())

    def _purge(self, now: int) -> None:
        over: list[str] = []
        for family in self._families():
            over += self._over(family, now, _PURGED_AT_ONCE - len(over))
        if over:
            with suppress(JournalFull):
                self._ledger.commit(Purged(now, over))
            self._schedule()
        if len(over) >= _PURGED_AT_ONCE:
            self._sweeping = self._clock.call_at(now, self._sweep)
        elif self._kernel.counts.retained:
            self._set_sweep()

    def _families(self) -> list[str]:
        return sorted(self._kernel.counts.retained)

    def _over(self, family: str, now: int, limit: int) -> list[str]:
        too_many = self._kernel.counts.retained[family] - self._settings.retained_max
        ended_before = now - self._kept_us(family)
        oldest = self._kernel.first_ended(family, limit)
        return [id for place, (at, id) in enumerate(oldest) if at <= ended_before or place < too_many]

    def _kept_us(self, family: str) -> int:
        is_run = family.endswith("\1")
        settings = self._settings
        seconds = settings.workflow_retention_seconds if is_run else settings.idempotency_retention_seconds
        return round(seconds * 1e6)

"""What happens because time passes: timers fire, delayed invocations join, retries are due.

Only what is due soon has its timer in memory, and of that a few thousand at a time; the store's agenda has the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Final

from perdure.journal import JournalFull

from .clock import Alarm, Clock
from .driver import NO_ROOM_RETRY_US
from .gate import OutcomeUnknown
from .ledger import Ledger
from .records import Due, Notified
from .timers import JOIN_MAILBOX, RETRY, WAKE, Timer

_LOOK_AHEAD_US: Final = 60_000_000
_AHEAD_MAX: Final = 4_096
_FIRED_AT_ONCE: Final = 256
_FIRED_AT_LEAST: Final = 16


class Alarms:
    """`schedule` is called when there may be something to drive."""

    def __init__(self, ledger: Ledger, clock: Clock, schedule: Callable[[], None]) -> None:
        self._ledger = ledger
        self._kernel = ledger.kernel
        self._clock = clock
        self._schedule = schedule
        self._stopped = False
        self._alarm: Alarm | None = None
        self._alarm_at: int | None = None
        self._no_room_until = 0

    def begin(self) -> None:
        now = self._clock.now_us()
        self._kernel.agenda_until = (self._kernel.counts.frozen_at or now, 0, "")  # 0: nothing was ever written down
        self._look_ahead(now)
        self.set()

    def stop(self) -> None:
        self._stopped = True
        if self._alarm is not None:
            self._alarm.cancel()

    def set(self) -> None:
        """Looks when the next timer is due."""
        kernel = self._kernel
        due = min((at for at in (kernel.timers.next_due(), self._look_at()) if at is not None), default=None)
        if due is not None:
            due = max(due, self._no_room_until)
        if due is None or due == self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = due
        self._alarm = self._clock.call_at(due, self._ring)

    def _look_at(self) -> int | None:
        """When to look into the agenda again. With many timers in memory those that are due before have to fire first:
        a million handlers may wait for the same midnight."""
        agenda_next, timers = self._kernel.agenda_next, self._kernel.timers
        if agenda_next is None:
            return None
        if len(timers) < _AHEAD_MAX:
            return agenda_next - _LOOK_AHEAD_US // 2
        due = timers.next_due()
        return agenda_next if due is None or due >= agenda_next else None

    def _look_ahead(self, now: int) -> None:
        self._kernel.look_ahead(now + _LOOK_AHEAD_US, _AHEAD_MAX)

    def _ring(self) -> None:
        """Fires what is due, some at a time: a million timers of one instant must not starve the ingress."""
        self._alarm = self._alarm_at = None
        if self._stopped:
            return
        now = self._clock.now_us()
        with suppress(JournalFull, OutcomeUnknown):  # what found no room was put back by _fire
            look_at = self._look_at()
            if look_at is not None and look_at <= now:
                self._look_ahead(now)
            # What has fired and waits for its turn is held in memory.
            count = max(_FIRED_AT_LEAST, _FIRED_AT_ONCE - len(self._kernel.ready))
            for timer in islice(self._kernel.timers.due(now), count):
                self._fire(timer, now)
        self._schedule()

    def _fire(self, timer: Timer, now: int) -> None:
        id, command = timer.id, timer.command
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
            self._kernel.timers.put_back(timer)  # before those that are due after it
            self._no_room_until = now + NO_ROOM_RETRY_US
            raise

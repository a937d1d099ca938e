"""Schedules: what is called because it is time, once for each tick.

A tick becomes one record that says both: it is done with, and this invocation was made for it.  So a crash leaves both
or neither, and no tick is fired twice or lost.  What is kept of a schedule is until when its ticks are done with; the
next one follows from the code at hand (objects/schedules.py).

That time never goes back: a clock that is set back finds its ticks done with.  One that jumps ahead is a downtime: what
was missed is made up for as the schedule says.  A schedule whose ticks are others now goes on from now; one that its
class has no more is forgotten; those of a class that isn't served are left alone until it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import takewhile
from typing import Final

import structlog

from perdure.journal import JournalFull, RecordTooLarge
from perdure.objects.schedules import ScheduleDefinition
from perdure.objects.ticks import moment_of, ticks_after

from . import identity
from .admission import HEADROOM_BYTES, Admission, Refused, Request
from .clock import Alarm, Clock
from .driver import NO_ROOM_RETRY_US
from .gate import OutcomeUnknown
from .invocations import SCHEDULE_HEADER, Invocation, ScheduleState
from .ledger import Ledger, Unrecordable
from .records import Invoked, Planned, Record, Ticked, Unplanned
from .registry import Registry

log: structlog.stdlib.BoundLogger = structlog.get_logger("perdure")

LATE_US: Final = 60_000_000
"""A tick that is handled later than this was missed.  No less: so long may a clock that jumps stay unnoticed."""

_WINDOW_US: Final = 60_000_000
_FIRED_AT_ONCE: Final = 256

TICK_HEADER: Final = "x-perdure-tick"
"""With these its invocations say which schedule made them, and for which time (ISO 8601, UTC)."""


class Schedules:
    """`schedule` is called when there may be something to drive.

    `declared` are those of the classes that are served, `unserved` the ids of others, `next` the next tick of each that
    isn't paused.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        registry: Registry,
        admission: Admission,
        entropy: Callable[[int], bytes],
        schedule: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._kernel = ledger.kernel
        self._clock = clock
        self._services = registry.services
        self.declared = {id: one for service in registry.services.values() for id, one in service.schedules.items()}
        self._admission = admission
        self._entropy = entropy
        self._schedule = schedule
        self.unserved: list[str] = []
        self.next: dict[str, int] = {}
        self._alarm: Alarm | None = None
        self._began = False
        self._stopped = False

    @property
    def open(self) -> bool:
        """What is kept is as the code says, and may be changed."""
        return not self._stopped and (self._began or not self.declared)

    # --- life -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Brings what is kept up to the code, and fires what was missed."""
        known = self._kernel.memory.schedules()
        if not self.declared and not known:
            return
        try:
            self._take_over(known)
        except JournalFull:  # what is running needs the room first
            self._alarm = self._clock.call_at(self._clock.now_us() + NO_ROOM_RETRY_US, self._begin_again)
            return
        self._began = True
        self._ring()

    def stop(self) -> None:
        """What is due from here on is missed; the next start makes up for it."""
        self._stopped = True
        if self._alarm is not None:
            self._alarm.cancel()

    def _begin_again(self) -> None:
        if not self._stopped:
            with suppress(OutcomeUnknown):
                self.begin()

    def _take_over(self, known: Iterable[str]) -> None:
        now = self._clock.now_us()
        self.unserved = []
        for id in known:
            if id in self.declared:
                continue
            if id.partition("/")[0] in self._services:
                self._commit(Unplanned(now, id))
            else:
                self.unserved.append(id)
        for definition in self.declared.values():
            state = self._kernel.schedule(definition.id)
            if state is None:
                self._commit(Planned(now, definition.id, definition.ticks.text, now))
            elif state.ticks != definition.ticks.text:
                after = max(state.after, now)
                self._commit(Planned(now, definition.id, definition.ticks.text, after, state.paused))
            elif state.after > now + LATE_US:
                log.warning(
                    "a schedule waits: its ticks are done with until later than the clock says",
                    schedule=definition.id,
                    until=iso(state.after),
                    advice="if the clock was wrong then, give the schedule another name=",
                )
            self._plan(definition)

    def plan_anew(self, definition: ScheduleDefinition) -> None:
        """An operator has paused or resumed it."""
        self._plan(definition)
        self._set()

    def _plan(self, definition: ScheduleDefinition) -> None:
        state = self.state(definition.id)
        tick = None if state.paused else definition.ticks.next_after(state.after)
        if tick is None:
            self.next.pop(definition.id, None)
        else:
            self.next[definition.id] = tick

    def state(self, id: str) -> ScheduleState:
        state = self._kernel.schedule(id)
        assert state is not None, id
        return state

    def _set(self, at: int | None = None) -> None:
        """Looks again when the first is due.  There are as many as stand in the code, so all are looked at."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        dues = (self.declared[id].due(tick) for id, tick in self.next.items())
        due = min(dues, default=None) if at is None else at
        if due is not None and not self._stopped:
            self._alarm = self._clock.call_at(due, self._ring)

    # --- what is due ----------------------------------------------------------------------------------------------

    def _ring(self) -> None:
        self._alarm = None
        if self._stopped:
            return
        now, again = self._clock.now_us(), None
        left = _FIRED_AT_ONCE
        try:
            for id, tick in sorted(self.next.items(), key=_by_tick):
                definition = self.declared[id]
                if definition.due(tick) <= now:
                    left -= self._fire(definition, now)
                    if left <= 0:
                        again = now  # the others after what is ready now: many may wait for one midnight
                        break
        except JournalFull:
            again = now + NO_ROOM_RETRY_US
        except OutcomeUnknown:  # the process stops
            return
        self._schedule()
        self._set(again)

    def _fire(self, definition: ScheduleDefinition, now: int) -> int:
        """What is due of it; returns how many ticks."""
        ticks = self._due(definition, self.state(definition.id).after, now)
        if ticks and ticks[0] != self.next[definition.id]:
            log.warning(
                "ticks of a schedule were missed",
                schedule=definition.id,
                since=iso(self.next[definition.id]),
                catch_up=definition.catch_up,
                made_up_for=sum(not self._is_over(definition, tick, now) for tick in ticks),
            )
        try:
            for tick in ticks:
                self._tick(definition, tick, now)
        finally:  # after some, the disk may be full
            self._plan(definition)
        return len(ticks)

    def _due(self, definition: ScheduleDefinition, after: int, now: int) -> list[int]:
        """The last ticks that are due, as many as are made up for.

        After years of downtime the first of them are many, so the last are looked for backwards.
        """
        count, window = definition.catch_up_max, _WINDOW_US
        while True:
            begin = max(after, now - window)
            found = [*takewhile(lambda tick: definition.due(tick) <= now, ticks_after(definition.ticks, begin))]
            if len(found) >= count or begin == after:
                return found[-count:]
            window *= 4

    def _is_over(self, definition: ScheduleDefinition, tick: int, now: int) -> bool:
        return definition.catch_up == "none" and now - definition.due(tick) > LATE_US

    def _tick(self, definition: ScheduleDefinition, tick: int, now: int) -> None:
        skipped = Ticked(now, definition.id, tick)
        if self._is_over(definition, tick, now):
            self._commit(skipped)
            return
        running = self.running(definition.id)
        if running is not None and definition.overlap == "skip":
            log.info("a tick is skipped: the one before has not ended", schedule=definition.id, running=running.id)
            self._commit(skipped)
            return
        try:
            self._commit(self.call(definition, tick, tick, running, now))
        except (Refused, RecordTooLarge, Unrecordable) as error:
            log.error("a tick is skipped: it can't be accepted", schedule=definition.id, why=str(error))
            self._commit(skipped)

    def call(
        self, definition: ScheduleDefinition, tick: int | None, time: int, running: Invocation | None, now: int
    ) -> Ticked:
        """Raises Refused where there is no place in the mailbox."""
        handler = definition.handler
        request = Request(
            service=definition.service, key=definition.key, handler=handler.name, arguments=definition.arguments
        )
        self._admission.refuse_when_full(request, handler)
        unique = self._entropy(2 * identity.SEED_BYTES)
        invoked = Invoked(
            now,
            identity.invocation_id(definition.service, definition.key, unique[: identity.SEED_BYTES]),
            unique[identity.SEED_BYTES :],
            definition.service,
            definition.key,
            handler.name,
            handler.exclusive,
            definition.arguments,
            retained=True,
            headers={SCHEDULE_HEADER: definition.id, TICK_HEADER: iso(time)},
        )
        cancels = running.id if running is not None and definition.overlap == "cancel" else None
        return Ticked(now, definition.id, tick, invoked, cancels)

    def running(self, id: str) -> Invocation | None:
        """The last invocation of a schedule, if it has not ended."""
        last = self.state(id).invocation
        invocation = None if last is None else self._kernel.find(last)
        return None if invocation is None or invocation.ended else invocation

    def _commit(self, record: Record) -> None:
        self._ledger.commit(record, HEADROOM_BYTES)


def _by_tick(item: tuple[str, int]) -> tuple[int, str]:
    id, tick = item
    return tick, id


def iso(at_us: int) -> str:
    return moment_of(at_us).isoformat().replace("+00:00", "Z")

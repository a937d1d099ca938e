"""What operators may do to schedules: see them, stop and start them, and call their handlers now."""

from __future__ import annotations

from collections.abc import Awaitable

from msgspec import Struct

from perdure.journal import JournalFull, RecordTooLarge
from perdure.objects.schedules import ScheduleDefinition

from .admission import HEADROOM_BYTES, Refused
from .clock import Clock
from .driver import Driver
from .ledger import Ledger
from .records import Planned, Record
from .schedules import Schedules


class ScheduleView(Struct, frozen=True, omit_defaults=True):
    """A schedule as operators see it.  Times are microseconds since the Unix epoch.

    `next_at`: when the next tick fires, its jitter included; None if never again, or while it is paused.
    `running`: whether `last_invocation` has not ended.  `served` is False if its class is not; then little is known.
    """

    id: str
    timing: str
    paused: bool
    served: bool = True
    target: str | None = None
    next_at: int | None = None
    last_fired_at: int | None = None
    last_skipped_at: int | None = None
    last_invocation: str | None = None
    running: bool = False
    jitter_seconds: float = 0.0
    overlap: str | None = None
    catch_up: str | None = None


class ScheduleOperations:
    """Each raises Refused at the call: 404 unknown or not served, 503 stopping, 507 no room."""

    def __init__(self, schedules: Schedules, ledger: Ledger, driver: Driver, clock: Clock) -> None:
        self._schedules = schedules
        self._ledger = ledger
        self._kernel = ledger.kernel
        self._driver = driver
        self._clock = clock

    def has(self, id: str) -> bool:
        """Whether there is one of that id, served or not."""
        return id in self._schedules.declared or id in self._schedules.unserved

    def list(self) -> list[ScheduleView]:
        """All of them, by id."""
        return [self.describe(id) for id in sorted([*self._schedules.declared, *self._schedules.unserved])]

    def describe(self, id: str) -> ScheduleView:
        """Raises Refused(404)."""
        definition, state = self._schedules.declared.get(id), self._kernel.schedule(id)
        if state is None or (definition is None and id not in self._schedules.unserved):
            raise self._unknown(id)
        if definition is None:
            return ScheduleView(
                id,
                state.ticks,
                state.paused,
                served=False,
                last_fired_at=state.fired_at,
                last_invocation=state.invocation,
            )
        tick = self._schedules.next.get(id)
        return ScheduleView(
            id=id,
            timing=definition.text,
            paused=state.paused,
            target="/".join(part for part in (definition.service, definition.key, definition.handler.name) if part),
            next_at=None if tick is None else definition.due(tick),
            last_fired_at=state.fired_at,
            last_skipped_at=state.skipped,
            last_invocation=state.invocation,
            running=self._schedules.running(id) is not None,
            jitter_seconds=definition.jitter_us / 1e6,
            overlap=definition.overlap,
            catch_up=definition.catch_up,
        )

    def pause(self, id: str) -> Awaitable[None]:
        """No tick fires until it is resumed, also after a restart; what runs goes on.  Nothing, if it is paused."""
        return self._set_paused(id, True)

    def resume(self, id: str) -> Awaitable[None]:
        """It fires again, from now on: what was due meanwhile is not made up for.  Nothing, if it is not paused."""
        return self._set_paused(id, False)

    def trigger(self, id: str) -> tuple[str, Awaitable[None]]:
        """Calls its handler now, paused or not; the next tick stays what it is.  Returns the invocation's id, which is
        durable when the second is done.

        Raises Refused also with 409 if the last call has not ended and the schedule skips then, with 429 if there is
        no place in the mailbox.
        """
        definition, now = self._served(id), self._clock.now_us()
        running = self._schedules.running(id)
        if running is not None and definition.overlap == "skip":
            raise Refused(409, f"{running.id} of {id} has not ended, and overlap='skip': wait for it, or cancel it")
        record = self._schedules.call(definition, None, now, running, now)
        assert record.invoked is not None
        return record.invoked.id, self._done(record)

    def _set_paused(self, id: str, paused: bool) -> Awaitable[None]:
        definition, state = self._served(id), self._schedules.state(id)
        if state.paused is paused:
            return self._ledger.synced(self._ledger.last_lsn)
        now = self._clock.now_us()
        after = state.after if paused else definition.missed_until(state.after, now)
        done = self._done(Planned(now, id, state.ticks, after, paused))
        self._schedules.plan_anew(definition)
        return done

    def _done(self, record: Record) -> Awaitable[None]:
        try:
            self._ledger.commit(record, HEADROOM_BYTES)
        except JournalFull:
            raise Refused(507, "the disk is full: nothing was recorded", 5) from None
        except RecordTooLarge as error:
            raise Refused(413, str(error)) from None
        self._driver.schedule()
        return self._ledger.synced(self._ledger.last_lsn)

    def _served(self, id: str) -> ScheduleDefinition:
        if not self._schedules.open:
            raise Refused(503, "the process is stopping, or its disk is full: nothing was recorded, ask again soon", 1)
        definition = self._schedules.declared.get(id)
        if definition is None:
            raise self._unknown(id)
        return definition

    def _unknown(self, id: str) -> Refused:
        if id in self._schedules.unserved:
            return Refused(404, f"the class of the schedule {id} is not served by this process")
        return Refused(404, f"no schedule {id[:80]!r} here; GET /schedules lists them")

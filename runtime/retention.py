"""What is kept for a while: outcomes, by time and by number, and idle objects, by their time to live.

What is over is swept away in the background, in portions: each is a record, a few milliseconds between two slices of
turns, and none is made while the store is behind with what was changed before.  A class says how long it wants its
own kept, else the settings do; a class that isn't served any more says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from perdure.journal import JournalFull
from perdure.objects.definitions import Kind
from perdure.objects.lifetimes import Lifetimes

from .clock import Alarm, Clock
from .gate import OutcomeUnknown
from .invocations import RUNS
from .ledger import Ledger
from .records import Expired, Purged
from .registry import Registry
from .settings import Settings

_SWEEP_US: Final = 10_000_000  # at the least: what is over together is swept together
_BREATH_US: Final = 20_000  # until the store has caught up somewhat


class _Kept(NamedTuple):
    """What holds for the outcomes of one family."""

    us: int
    max: int


class Retention:
    """`schedule` is called when there is something to hand to the journal; `is_behind` says that the store is."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        settings: Settings,
        registry: Registry,
        schedule: Callable[[], None],
        is_behind: Callable[[], bool],
    ) -> None:
        self._ledger = ledger
        self._kernel = ledger.kernel
        self._clock = clock
        self._settings = settings
        self._registry = registry
        self._schedule = schedule
        self._is_behind = is_behind
        self._portion = settings.slice_turns_max  # as many go as turns may have come: it keeps up with them
        self._stopped = False
        self._kept: dict[str, _Kept] = {}
        self._first_over: dict[str, int] = {}  # by family, as of the last sweep: when its oldest has to go
        self._swept_at = 0
        self._alarm: Alarm | None = None
        self._alarm_at = 0

    def stop(self) -> None:
        self._stopped = True
        if self._alarm is not None:
            self._alarm.cancel()

    def begin(self) -> None:
        """What was over before the start goes at once."""
        self._sweep()

    def look(self) -> None:
        """Sees to it that the next sweep comes in time: after each slice of turns, so it has to be cheap."""
        due = self._next_over()
        if due is None or self._stopped:
            return
        at = max(due, self._swept_at + _SWEEP_US)
        if self._alarm is None or at < self._alarm_at:
            self._set(at)

    def _next_over(self) -> int | None:
        due = self._kernel.next_expiry
        for family, count in self._kernel.counts.retained.items():
            first = 0 if count > self._of(family).max else self._first_over.get(family)
            if first is None:
                first = self._first_over[family] = self._when_over(family)
            if due is None or first < due:
                due = first
        return due

    def _set(self, at: int) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self._clock.call_at(at, self._sweep)

    # --- one sweep ------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """One portion of what is over; the next one follows it until all is gone."""
        self._alarm = None
        if self._stopped:
            return
        now = self._clock.now_us()
        if self._is_behind():
            self._set(now + _BREATH_US)
            return
        done = 0
        with suppress(JournalFull, OutcomeUnknown):  # later, or after the next start
            done = self._purge(now)
            done += self._expire(now, self._portion - done)
        if done:
            self._schedule()
        if done >= self._portion:
            self._set(now)
            return
        self._swept_at = now
        self._first_over.clear()
        self._kernel.look_for_expiries()
        self.look()

    def _purge(self, now: int) -> int:
        """Returns how many outcomes are gone."""
        over: list[str] = []
        for family in sorted(self._kernel.counts.retained):
            if len(over) < self._portion:
                over += self._over(family, now, self._portion - len(over))
        if not over:
            return 0
        self._ledger.commit(Purged(now, over))
        return len(over)

    def _expire(self, now: int, limit: int) -> int:
        """Returns how many objects are gone."""
        count = 0
        for key in self._kernel.expired(now, limit):
            self._ledger.commit(Expired(now, *key))
            count += 1
        return count

    # --- outcomes -------------------------------------------------------------------------------------------------

    def _when_over(self, family: str) -> int:
        oldest = self._kernel.first_ended(family, 1)
        return oldest[0][0] + self._of(family).us if oldest else self._clock.now_us()

    def _over(self, family: str, now: int, limit: int) -> list[str]:
        kept = self._of(family)
        too_many = self._kernel.counts.retained[family] - kept.max
        oldest = self._kernel.first_ended(family, limit)
        return [id for place, (at, id) in enumerate(oldest) if at <= now - kept.us or place < too_many]

    def _of(self, family: str) -> _Kept:
        kept = self._kept.get(family)
        if kept is None:
            kept = self._kept[family] = self._read(family)
        return kept

    def _read(self, family: str) -> _Kept:
        """A workflow speaks of its runs, any other class of all its outcomes."""
        settings = self._settings
        of_runs = family.endswith(RUNS)
        seconds = settings.workflow_retention_seconds if of_runs else settings.idempotency_retention_seconds
        served = self._registry.services.get(family.removesuffix(RUNS))
        own = Lifetimes() if served is None or of_runs != (served.kind is Kind.WORKFLOW) else served.lifetimes
        return _Kept(round((own.retention_seconds or seconds) * 1e6), own.retained_max or settings.retained_max)

"""Time, as the runtime is given it.

Wall time in integer microseconds since the Unix epoch: due times outlive the process, so they can't be monotonic.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from typing import Protocol


class Alarm(Protocol):
    """What `call_at` gives: it can be called off."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Where the runtime gets its time from: `SystemClock`, or `ManualClock` in tests."""

    def now_us(self) -> int: ...

    def steady_us(self) -> int:
        """Microseconds since whenever: nobody sets it back or forward."""
        ...

    def call_at(self, when_us: int, callback: Callable[[], object]) -> Alarm:
        """`callback` at `when_us` or soon after, on the loop of the runtime."""
        ...


class SystemClock:
    """The machine's clock."""

    # A wall clock may be set back or forward while we wait: look again at least this often.
    _LONGEST_NAP_SECONDS = 60.0

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def steady_us(self) -> int:
        return time.monotonic_ns() // 1000

    def call_at(self, when_us: int, callback: Callable[[], object]) -> Alarm:
        seconds = min(max(0.0, (when_us - self.now_us()) / 1e6), self._LONGEST_NAP_SECONDS)
        return asyncio.get_running_loop().call_later(seconds, callback)


class SteadyTime:
    """A clock's steady time, as a clock: for what nobody's correction of the time of day may hold up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now_us(self) -> int:
        return self._clock.steady_us()

    def call_at(self, when_us: int, callback: Callable[[], object]) -> Alarm:
        return self._clock.call_at(self._clock.now_us() + when_us - self._clock.steady_us(), callback)


class _ManualAlarm:
    __slots__ = ("callback", "cancelled")

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualClock:
    """Time that stands still until it is advanced: a week of sleeps in milliseconds, the same in each run."""

    def __init__(self, now_us: int = 1_767_225_600_000_000) -> None:  # 2026-01-01T00:00:00Z
        self._now_us = self._steady_us = now_us
        self._count = 0
        self._alarms: list[tuple[int, int, _ManualAlarm]] = []

    def now_us(self) -> int:
        return self._now_us

    def steady_us(self) -> int:
        return self._steady_us

    def call_at(self, when_us: int, callback: Callable[[], object]) -> Alarm:
        alarm = _ManualAlarm(callback)
        self._count += 1
        heapq.heappush(self._alarms, (when_us, self._count, alarm))
        return alarm

    def advance_to_next(self, until_us: int) -> bool:
        """Moves to the next alarm that is due by `until_us` and rings it; False if there is none."""
        while self._alarms and self._alarms[0][2].cancelled:
            heapq.heappop(self._alarms)
        if not self._alarms or self._alarms[0][0] > until_us:
            self._go_to(until_us)
            return False
        when_us, _, alarm = heapq.heappop(self._alarms)
        self._go_to(when_us)
        alarm.callback()
        return True

    def _go_to(self, when_us: int) -> None:
        passed_us = max(0, when_us - self._now_us)
        self._now_us += passed_us
        self._steady_us += passed_us

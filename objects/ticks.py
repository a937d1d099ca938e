"""Ticks: the moments at which a schedule says that a handler is called.

What lives here: cron expressions and intervals as they are written, and the moments that follow from them.
What this file does not know: what is called (schedules.py), and which ticks have been (the runtime).

A tick is in integer microseconds since the Unix epoch.  It follows from the declaration alone, never from when the one
before was handled, so nothing drifts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from .durations import seconds_of

_INTERVAL_SECONDS_MIN: Final = 1.0
_SECOND: Final = 1_000_000
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Ticks(Protocol):
    """`text` is the same as long as the ticks are."""

    text: str

    def next_after(self, at: int) -> int | None:
        """The first tick later than `at`; None if there is none, ever."""
        ...


@dataclass(frozen=True, slots=True)
class CronTiming:
    """A cron expression and a time zone, as they were written."""

    expression: str
    timezone: str

    def __str__(self) -> str:
        return f"cron({self.expression!r}, timezone={self.timezone!r})"

    def ticks(self) -> Ticks:
        """ValueError for what can't be read."""
        return CronTicks(self.expression, self.timezone)


@dataclass(frozen=True, slots=True)
class IntervalTiming:
    """An interval and where it is counted from, as they were written."""

    interval: float | timedelta
    anchor: datetime

    def __str__(self) -> str:
        if isinstance(self.interval, timedelta):
            return f"every({self.interval.total_seconds():.15g})"
        return f"every({self.interval!r})"

    def ticks(self) -> Ticks:
        """ValueError or TypeError for what is no interval."""
        seconds = seconds_of(self.interval, "the interval")
        if seconds < _INTERVAL_SECONDS_MIN:
            raise ValueError("give a second or more")
        if not isinstance(self.anchor, datetime) or self.anchor.utcoffset() is None:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError("anchor= is a datetime with an offset, such as datetime(2026, 1, 1, tzinfo=UTC)")
        return IntervalTicks(round(seconds * _SECOND), microseconds_of(self.anchor))


class CronTicks:
    """Of a cron expression.  ValueError for what can't be read.

    cronsim was taken of three libraries: in autumn croniter fires a fixed time twice, and cron-converter leaves out an
    hour of the wildcards; in spring the latter fires at times that do not exist.
    """

    __slots__ = ("_expression", "_zone", "text")

    def __init__(self, expression: str, timezone: str) -> None:
        if not isinstance(expression, str) or len(expression.split()) != 5:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError("give five fields: minute, hour, day of the month, month, day of the week")
        self._expression = " ".join(expression.split())
        self._zone = _zone(timezone)
        self.text = f"cron {self._expression} {timezone}"
        try:
            never = self.next_after(0) is None
        except CronSimError as error:
            field = str(error).removeprefix("Bad ")
            raise ValueError(f"the {field} can't be read") from None
        if never:
            raise ValueError("there is no such day")

    def next_after(self, at: int) -> int | None:
        zone = self._zone
        for moment in CronSim(self._expression, moment_of(at).astimezone(zone)):
            tick = microseconds_of(moment)
            # From within the hour that comes twice it begins with the first one of it.
            if tick > at:
                return tick
        return None


class IntervalTicks:
    """Of an interval and its anchor, in microseconds."""

    __slots__ = ("_anchor", "_interval", "text")

    def __init__(self, interval: int, anchor: int) -> None:
        self._interval = interval
        self._anchor = anchor
        self.text = f"every {interval} from {anchor % interval}"

    def next_after(self, at: int) -> int:
        return at + self._interval - (at - self._anchor) % self._interval


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise ValueError(f"there is no time zone {name!r}; they have names such as Europe/Berlin") from None


def moment_of(at: int) -> datetime:
    """In UTC."""
    return EPOCH + timedelta(microseconds=at)


def microseconds_of(moment: datetime) -> int:
    return (moment.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)


def ticks_after(ticks: Ticks, at: int) -> Iterator[int]:
    """All ticks later than `at`, in order."""
    tick = ticks.next_after(at)
    while tick is not None:
        yield tick
        tick = ticks.next_after(tick)

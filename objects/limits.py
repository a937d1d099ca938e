"""How much of a class may be at work at once, and how often it may be asked.

What this file does not know: who waits, and for how long; that is the runtime's (fair_queue.py, rates.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, get_args

from .durations import seconds_of

Priority = Literal["high", "normal", "low"]

PRIORITY_HEADER: Final = "x-perdure-priority"
"""A priority travels as a header: recorded with the call, over HTTP as inside, and seen by its handler."""

_PER_SECOND_MAX: Final = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """`count` beginnings in each `per` (seconds or timedelta), spread evenly; `burst` of them may come at once.

    Without a `burst` that is `count`; 1 keeps a distance of `per / count` between any two.
    """

    count: int
    per: float | timedelta = 1.0
    burst: int | None = None

    def __post_init__(self) -> None:
        _whole(self.count, "Rate(count=…)")
        if self.burst is not None:
            _whole(self.burst, "Rate(burst=…)")
        if not self.per_seconds or self.count / self.per_seconds > _PER_SECOND_MAX:
            raise ValueError(f"Rate(count={self.count!r}, per={self.per!r}): a million a second at most")

    @property
    def per_seconds(self) -> float:
        return seconds_of(self.per, "Rate(per=…)")

    @property
    def at_once(self) -> int:
        return self.count if self.burst is None else self.burst

    @property
    def interval_ns(self) -> int:
        """From one to the next, rounded up: rather a nanosecond too late than one too many."""
        return -(-round(self.per_seconds * 1e9) // self.count)

    @property
    def slack_ns(self) -> int:
        """How far ahead of an even spread a burst may be."""
        return (self.at_once - 1) * self.interval_ns

    def __str__(self) -> str:
        return f"{self.count} in {self.per_seconds:g} s"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a class may take of a process: `class Encoder(Service, limits=Limits(running=4, steps=2))`.

    `running`: handlers in a turn or with a step at work, beyond which what is accepted waits to go on; `@shared`
    handlers of objects don't count. `steps`: those at work. What waits for a call, a timer or a signal takes no place.
    `rate` and `rate_per_key`: how often handlers begin; a request from outside that is too many gets 429, a message or
    call of a handler waits.
    """

    running: int | None = None
    steps: int | None = None
    rate: Rate | None = None
    rate_per_key: Rate | None = None

    def __post_init__(self) -> None:
        for name, count in (("running", self.running), ("steps", self.steps)):
            if count is not None:
                _whole(count, f"Limits({name}=…)")
        for name, rate in (("rate", self.rate), ("rate_per_key", self.rate_per_key)):
            if rate is not None and not isinstance(rate, Rate):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"Limits({name}={rate!r}): give a Rate, as in Rate(count=10, per=60)")


NO_LIMITS: Final = Limits()


def with_priority(headers: Mapping[str, str] | None, priority: Priority | None) -> Mapping[str, str] | None:
    """The headers that carry a priority too. Raises ValueError for what is none."""
    if priority is None:
        return headers
    if priority not in get_args(Priority):
        raise ValueError(f"priority={priority!r}: give 'high', 'normal' or 'low'")
    return {**(headers or {}), PRIORITY_HEADER: priority}


def _whole(count: object, what: str) -> None:
    if type(count) is not int or count < 1:
        raise ValueError(f"{what} is {count!r}: give a whole number, 1 or more")

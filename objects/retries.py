"""How often, and after what pauses, what failed is tried again.

What this file does not know: the attempts made so far; they are recorded by the runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from .durations import optional_seconds_of, seconds_of


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """Exponential backoff with a cap and jitter; without limits it never gives up.

    Delays and durations are seconds or timedelta. `jitter` 0.25 spreads a delay by up to 25% either way.
    `max_attempts` counts the first attempt: 1 is at-most-once.
    `never` are exception types that end it at once; `then` says what its end is: paused for an operator, or failed.
    """

    first_delay: float | timedelta = 0.5
    factor: float = 2
    max_delay: float | timedelta = 60
    max_attempts: int | None = None
    max_duration: float | timedelta | None = None
    jitter: float = 0.25
    never: tuple[type[BaseException], ...] = ()
    then: Literal["pause", "fail"] = "pause"

    def __post_init__(self) -> None:
        seconds_of(self.first_delay, "RetryPolicy(first_delay=…)")
        seconds_of(self.max_delay, "RetryPolicy(max_delay=…)")
        optional_seconds_of(self.max_duration, "RetryPolicy(max_duration=…)")
        for problem, holds in self._rules():
            if not holds:
                raise ValueError(f"RetryPolicy({problem}")

    def _rules(self) -> tuple[tuple[str, bool], ...]:
        return (
            (f"factor={self.factor!r}): a delay never shrinks, give 1 or more", 1 <= self.factor < float("inf")),
            (f"jitter={self.jitter!r}): give 0 to 1", 0 <= self.jitter <= 1),
            (f"max_attempts={self.max_attempts!r}): the first attempt counts, give 1 or more", self._counts_one()),
            (f"never={self.never!r}): give a tuple of exception types", _are_exceptions(self.never)),
            (f"then={self.then!r}): give 'pause' or 'fail'", self.then in ("pause", "fail")),
        )

    def _counts_one(self) -> bool:
        return self.max_attempts is None or (type(self.max_attempts) is int and self.max_attempts >= 1)

    @property
    def max_duration_seconds(self) -> float | None:
        return optional_seconds_of(self.max_duration, "max_duration")

    def delay_seconds(self, attempt: int, uniform: float) -> float:
        """The pause after failed attempt number `attempt` (from 1); `uniform` is a random number from 0 to 1."""
        first, longest = seconds_of(self.first_delay, "first_delay"), seconds_of(self.max_delay, "max_delay")
        try:
            delay = min(first * self.factor ** (attempt - 1), longest)
        except OverflowError:
            delay = longest if first else 0.0
        return delay * (1 + self.jitter * (2 * uniform - 1))

    def allows(self, attempts: int, elapsed_seconds: float) -> bool:
        """Whether another attempt may follow `attempts` made within `elapsed_seconds` of the first."""
        if self.max_attempts is not None and attempts >= self.max_attempts:
            return False
        longest = self.max_duration_seconds
        return longest is None or elapsed_seconds < longest


def _are_exceptions(types: object) -> bool:
    return isinstance(types, tuple) and all(isinstance(t, type) and issubclass(t, BaseException) for t in types)  # pyright: ignore[reportUnknownVariableType]

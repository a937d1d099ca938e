"""Lengths of time as users give them (seconds or timedelta), turned into seconds."""

from __future__ import annotations

import math
from datetime import timedelta

SECONDS_MAX = 100 * 366 * 24 * 3600.0
"""A century: more is a mistake in units, and microseconds since 1970 stay within 64 bits."""


def seconds_of(length: object, what: str) -> float:
    """Seconds, checked: TypeError for what is no length of time, ValueError for a negative or endless one."""
    if isinstance(length, timedelta):
        seconds = length.total_seconds()
    elif isinstance(length, int | float) and not isinstance(length, bool):
        seconds = float(length)
    else:
        raise TypeError(f"{what} takes seconds (float) or a timedelta, got {type(length).__name__}")
    if not math.isfinite(seconds) or not 0 <= seconds <= SECONDS_MAX:
        raise ValueError(f"{what} is {length!r}: give 0 seconds to 100 years")
    return seconds


def optional_seconds_of(length: object, what: str) -> float | None:
    return None if length is None else seconds_of(length, what)

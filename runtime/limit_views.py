"""A limit as operators see it: in SQL, at the admin port, in the metrics."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

LimitKind = Literal["running", "steps", "rate", "rate_per_key"]


class LimitView(Struct, frozen=True, kw_only=True):
    """One limit of a class, or of the process (`service` None), as it is now.

    `capacity`: so many at once, or of a rate so many in `per_seconds`, of which `burst` may come at once.
    `in_use`: places taken; None for a rate.  `keys`: those whose rate is remembered, since they used some of it.
    `waiting`: what was accepted and is held back; `refused`: requests that got 429, since the start of the process.
    `next_free_at`: when a rate lets the next one begin, in microseconds; None: at once, or it depends on the key.
    """

    service: str | None
    kind: LimitKind
    capacity: int
    per_seconds: float | None = None
    burst: int | None = None
    in_use: int | None = None
    waiting: int = 0
    refused: int = 0
    keys: int | None = None
    next_free_at: int | None = None

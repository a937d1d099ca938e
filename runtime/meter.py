"""What is counted while the work goes on: integers and fixed buckets, read by metrics.py when somebody asks.

Everything here is since the start of the process; what outlives it is counted by the kernel (`Counts`).
Counters are attributes that whoever does the work adds to.  One thread adds to each: the loop's, or the journal's
writer for what a sync took.
This file knows no names of metrics, and no key or id gets here: of an invocation it keeps its service and handler.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from .invocations import Invocation
from .kernel import CANCELLED, KILLED
from .records import Attempted, Outcome, Paused, Success

LATENCY_SECONDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600, 3600)
"""From a turn that only adds to handlers that wait for people."""

_LATENCY_US: Final = [round(seconds * 1e6) for seconds in LATENCY_SECONDS]

SYNC_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""0.1 ms is a good NVMe disk, 5 ms one that syncs for real, 100 ms one in trouble."""

BATCH_RECORDS: Final = tuple(2**n for n in range(13))

LAG_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Spread:
    """How values spread over buckets.  `counts[n]` are those up to `bounds[n]`, the last one those above all."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class HandlerMeter:
    """What became of one handler's invocations, and of their steps.

    `latency_counts[n]` are those that took up to `LATENCY_SECONDS[n]`, `latency_us` is the time of all of them.
    """

    __slots__ = (
        "cancelled",
        "failed",
        "killed",
        "latency_counts",
        "latency_us",
        "paused",
        "retries",
        "steps_failed",
        "steps_retried",
        "steps_started",
        "succeeded",
    )

    def __init__(self) -> None:
        self.succeeded = self.failed = self.cancelled = self.killed = 0
        self.retries = self.paused = 0
        self.steps_started = self.steps_retried = self.steps_failed = 0
        self.latency_counts = [0] * (len(_LATENCY_US) + 1)
        self.latency_us = 0

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed + self.cancelled + self.killed


class Meter:
    """`handlers` by service and name.

    `turns` that were run, `turns_replayed` to bring back `runs_replayed` handlers that had left memory.
    """

    __slots__ = ("_synced_lsn", "batch_records", "handlers", "runs_replayed", "sync_seconds", "turns", "turns_replayed")

    def __init__(self) -> None:
        self.handlers: dict[str, dict[str, HandlerMeter]] = {}
        self.turns = self.turns_replayed = self.runs_replayed = 0
        self.sync_seconds = Spread(SYNC_SECONDS)
        self.batch_records = Spread(BATCH_RECORDS)
        self._synced_lsn = 0

    def of(self, invocation: Invocation) -> HandlerMeter:
        try:
            return self.handlers[invocation.service][invocation.handler]
        except KeyError:
            handlers = self.handlers.setdefault(invocation.service, {})
            return handlers.setdefault(invocation.handler, HandlerMeter())

    def begin(self, synced_lsn: int) -> None:
        """What comes behind that record is new."""
        self._synced_lsn = synced_lsn

    def ended(self, invocation: Invocation, outcome: Outcome | None, now_us: int) -> None:
        meter = self.of(invocation)
        if type(outcome) is Success:
            meter.succeeded += 1
        elif outcome is CANCELLED:
            meter.cancelled += 1
        elif outcome is KILLED:
            meter.killed += 1
        else:
            meter.failed += 1
        took_us = now_us - (invocation.due or invocation.created_at)
        if took_us > 0:  # or the clock was set back, or it was cancelled before its delay was over
            meter.latency_us += took_us
        meter.latency_counts[bisect_left(_LATENCY_US, took_us)] += 1

    def stumbled(self, invocation: Invocation, record: Attempted | Paused) -> None:
        """It was recorded that a turn or step of it failed, or that it was paused."""
        meter = self.of(invocation)
        if isinstance(record, Paused) or record.next_at is None:
            meter.paused += 1
        elif record.command is None:
            meter.retries += 1
        else:
            meter.steps_retried += 1

    def synced(self, lsn: int, seconds: float) -> None:
        """By the journal's writer: everything up to `lsn`, the last batch in `seconds`."""
        self.batch_records.add(lsn - self._synced_lsn)
        self._synced_lsn = lsn
        self.sync_seconds.add(seconds)

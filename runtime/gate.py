"""The output gate: nothing leaves before the journal has synced everything it could depend on."""

from __future__ import annotations

from asyncio import Future
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from typing import Any


class OutcomeUnknown(Exception):
    """The journal failed before it was known to be durable: it may or may not be done.  Ask again with the same
    idempotency key."""


Callback = Callable[[], None]
_Held = tuple[int, Future[Any] | None, object]
"""An LSN, and what it releases: a future with its value, or a callback."""


class OutputGate:
    """Futures of the process's loop, and callbacks, held back until the LSN they wait for is synced.

    LSNs come in ascending order, mostly: an output waits for the record just written or for the newest one.
    """

    __slots__ = ("_broken", "_held", "synced")

    def __init__(self, synced: int) -> None:
        self.synced = synced
        self._held: deque[_Held] = deque()
        self._broken: OutcomeUnknown | None = None

    def __len__(self) -> int:
        return len(self._held)

    def when(self, lsn: int, callback: Callback) -> None:
        """Calls `callback` when `lsn` is synced; never, if that fails."""
        if self._broken is not None:
            return
        if lsn <= self.synced:
            callback()
        else:
            self._hold((lsn, None, callback))

    def give(self, lsn: int, future: Future[Any], value: object) -> None:
        if self._broken is not None:
            fail(future, self._broken)
        elif lsn <= self.synced:
            _pass(future, value)
        else:
            self._hold((lsn, future, value))

    def opened(self, lsn: int) -> None:
        """Two threads sync, and tell of it: what the one says may come behind what the other said of more."""
        if lsn <= self.synced:
            return
        self.synced = lsn
        held = self._held
        while held and held[0][0] <= lsn:
            _, future, value = held.popleft()
            if future is not None:
                _pass(future, value)
            elif callable(value):
                value()

    def break_down(self, error: OutcomeUnknown) -> None:
        """Nothing passes any more."""
        self._broken = error
        while self._held:
            future = self._held.popleft()[1]
            if future is not None:
                fail(future, error)

    def _hold(self, output: _Held) -> None:
        held = self._held
        if not held or held[-1][0] <= output[0]:
            held.append(output)
        else:
            held.insert(bisect_right(held, output[0], key=_lsn_of), output)


def fail(future: Future[Any], error: OutcomeUnknown) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # nobody may be waiting any more: no complaint that it was never retrieved


def _pass(future: Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


def _lsn_of(held: _Held) -> int:
    return held[0]

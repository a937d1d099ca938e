"""How late the loop is: a timer that looks how long after its time it was called."""

from __future__ import annotations

import asyncio
from typing import Final

from .meter import LAG_SECONDS, Spread

EVERY_SECONDS: Final = 0.1
"""Some 5 µs each."""


class LoopLag:
    """Of the loop that runs when it is started."""

    def __init__(self) -> None:
        self.seconds = Spread(LAG_SECONDS)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._wait(asyncio.get_running_loop())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + EVERY_SECONDS
        self._timer = loop.call_at(due, self._rung, loop, due)

    def _rung(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.seconds.add(max(0.0, loop.time() - due))
        self._wait(loop)

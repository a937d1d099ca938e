"""A thread that watches for turns that take too long, and logs where they are.

While a handler computes, or blocks in `time.sleep` or a socket, the whole process stands still: no other handler, no
ingress. The log line names the handler, once per turn; its value `stack` begins in the handler, several lines long.

Entering and leaving a turn are attribute writes: the thread looks at the clock, not the turn. So a turn is noticed at
the first look after it began, and reported when it is still there a limit later: at most half a limit late.
This file does not know what a turn is.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from itertools import dropwhile
from types import CodeType, FrameType
from typing import Final, Protocol

import structlog

LIMIT_SECONDS: Final = 0.1
"""What a caller of another handler would notice."""

LOOKS_PER_LIMIT: Final = 4

_NOT_THE_USERS: Final = ("perdure.runtime.", "perdure.objects.", "asyncio.")


class WarningLog(Protocol):
    """A logger of structlog."""

    def warning(self, event: str, /, *, stack: str) -> object: ...


class Watchdog:
    """Watches the turns of one thread: the one that made it, unless told otherwise."""

    __slots__ = (
        "_clock",
        "_driver",
        "_limit_seconds",
        "_log",
        "_seen",
        "_since",
        "_stop",
        "_thread",
        "_watched",
        "label",
        "turn",
    )

    def __init__(
        self,
        limit_seconds: float = LIMIT_SECONDS,
        *,
        log: WarningLog | None = None,
        clock: Callable[[], float] = time.monotonic,
        thread: int | None = None,
        driver: Callable[..., object] | None = None,
    ) -> None:
        """`driver`: the function that enters turns, below which a handler's frames begin."""
        self.label: object = None
        self.turn = 0
        self._limit_seconds = limit_seconds
        self._log: WarningLog = log if log is not None else structlog.get_logger("perdure")
        self._driver = None if driver is None else driver.__code__
        self._clock = clock
        self._watched = threading.get_ident() if thread is None else thread
        self._seen = 0
        self._since: float | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def entered(self, label: object) -> None:
        """A turn begins. `label` says whose: it is turned to text only if the turn is too long."""
        self.turn += 1
        self.label = label

    def left(self) -> None:
        """The turn has ended."""
        self.label = None

    def start(self) -> None:
        """Start the thread, a daemon."""
        self._thread = threading.Thread(target=self._watch, name="perdure-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, if it was started."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> bool:
        """One look at the turn that runs now. True if it was reported by this look."""
        label, turn, now = self.label, self.turn, self._clock()
        if label is None:
            return False
        if turn != self._seen:
            self._seen, self._since = turn, now
            return False
        if self._since is None or now - self._since < self._limit_seconds:
            return False
        seconds, self._since = now - self._since, None
        self._report(label, seconds)
        return True

    def _report(self, label: object, seconds: float) -> None:
        innermost = sys._current_frames().get(self._watched)  # pyright: ignore[reportPrivateUsage]  # documented
        self._log.warning(
            f"a turn of {label} has been running for {seconds * 1000:.0f} ms, and the whole process waits for it: "
            "compute or block in a step (`await self.ctx.run(work, argument)`)",
            stack=_stack_of(innermost, self._driver),
        )

    def _watch(self) -> None:
        while not self._stop.wait(self._limit_seconds / LOOKS_PER_LIMIT):
            self.look()


def _stack_of(innermost: FrameType | None, driver: CodeType | None) -> str:
    """From the handler on; from the driver, which entered the turn, if nobody's code but ours is running."""
    if innermost is None:
        return "(the thread has ended)"
    frames = [innermost]
    while frames[-1].f_code is not driver and frames[-1].f_back is not None:
        frames.append(frames[-1].f_back)
    frames.reverse()
    shown = list(dropwhile(_is_not_the_users, frames[1:])) or frames
    return "".join(traceback.StackSummary.extract((frame, frame.f_lineno) for frame in shown).format()).rstrip()


def _is_not_the_users(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith(_NOT_THE_USERS)

"""The event loop of one running handler: ordinary asyncio, stepped one turn at a time, the same way in every replay.

A turn is driven synchronously from a callback of the process's real loop: `run` makes this loop the running one, hands
over what the turn starts with, runs callbacks first in, first out until none is left, and puts everything back.
It does no I/O, has no clock and starts no thread: time is what `run` was told, timers are kept by a `TimerPort`, and
everything else that a loop can do refuses (`turn_escapes`).
So the order of everything is a function of what the turns started with, and a handler can be run again from the start.

What would break: a callback of another loop or thread that gets in (`turn_calls`), an order that depends on addresses
(`turn_tasks`, `ordered_sets`), or a coroutine that is left to the collector, which would run its `finally` blocks
wherever it happens to be (`dead_drop`).

This file knows nothing of journals, objects or commands.
"""

from __future__ import annotations

import sys
from asyncio import events
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Final, NoReturn, TypeVar

from perdure.objects.errors import text_of

from . import dead_drop, ordered_sets
from .turn_calls import PERDURE_LOG, REFUSALS_MAX, TASKS_KEPT_MIN, ErrorLog, HandlerLoop
from .turn_escapes import NotInHandler, TurnFailed, refusal
from .turn_tasks import TimerPort, TurnFuture, TurnHandle, TurnTask, TurnTimer

__all__ = [
    "NotInHandler",
    "TimerPort",
    "TurnFailed",
    "TurnFuture",
    "TurnHandle",
    "TurnLoop",
    "TurnTask",
    "TurnTimer",
]

T = TypeVar("T")

CALLBACKS_MAX: Final = 100_000
"""Far above any honest turn; `while True: await sleep(0)` reaches it in about 0.1 s."""


class TurnLoop(HandlerLoop):
    """The loop of one handler. `identity` is what its tasks' hashes are made from: the same in every replay."""

    __slots__ = ("_async_generators", "_callbacks_left", "_callbacks_max", "in_turn", "main")

    def __init__(
        self,
        identity: int,
        timers: TimerPort,
        *,
        callbacks_max: int = CALLBACKS_MAX,
        silent: bool = False,
        log: ErrorLog = PERDURE_LOG,
    ) -> None:
        super().__init__(identity, timers, silent=silent, log=log)
        self.in_turn = False
        self.main: TurnTask[Any] | None = None
        self._callbacks_max = self._callbacks_left = callbacks_max
        self._async_generators: list[AsyncGenerator[Any, Any]] = []

    # --- for the runtime ------------------------------------------------------------------------------------------

    def run(self, now_us: int | None, first: Callable[[], object] | None = None) -> None:
        """One turn, or more of the same turn (`now_us` None). Raises TurnFailed; what `first` raises comes through."""
        if self.in_turn or self.dead:
            raise RuntimeError("a turn of a loop that is in a turn, or dead")
        if now_us is not None:
            self.now_us = max(self.now_us, now_us)
            self._callbacks_left = self._callbacks_max
        outer = _running_loop()
        hooks = sys.get_asyncgen_hooks()
        _set_running_loop(self)
        sys.set_asyncgen_hooks(self._hold, _forget)
        self.in_turn = True
        try:
            if first is not None:
                first()
                first = None  # see _drain
            self._drain()
            if self.ended and self._async_generators and not self.dead:
                self._close_async_generators()
                self._drain()
        finally:
            self.in_turn = False
            sys.set_asyncgen_hooks(*hooks)
            _set_running_loop(outer)

    def start(self, coro: Coroutine[Any, Any, T]) -> TurnTask[T]:
        """Make the main task, before the first turn or in it. It has a new and empty context."""
        self._starting = True
        try:
            task = self.main = self._new_task(coro, None, Context())
        finally:
            self._starting = False
        return task

    def fire(self, timer: TurnTimer) -> None:
        """Queue the callback of a timer that is due. To be called in a turn; a cancelled timer is left alone."""
        if timer.is_armed:
            timer.is_armed = False
            self._queue.append(timer)

    def cancel_leftovers(self) -> None:
        """The main task has ended: cancel the others, oldest first, then close async generators, newest first.

        To be called in its last turn (as `first` of a `run`) or after it, when it runs what there is to run.
        """
        self.ended = True
        if self.in_turn:
            for task in self.tasks_in_order():
                task.cancel()
        elif self._has_leftovers():
            self.run(None, self.cancel_leftovers)

    def drop(self) -> None:
        """The dead drop: close every coroutine here and now, newest first, with no effect on anything else.

        Not to be called inside a turn: set `dead` there, which ends it, and drop the loop after it.
        """
        if self.in_turn:
            raise RuntimeError("drop() inside the turn: set `dead`, and drop the loop after the turn")
        self.dead = self.silent = True
        self._queue.clear()
        self._timers = _NO_TIMERS
        self._refusals_left = REFUSALS_MAX
        outer = _running_loop()
        hooks = sys.get_asyncgen_hooks()
        _set_running_loop(self)
        sys.set_asyncgen_hooks(self._hold, _forget)
        try:
            parked = dead_drop.close_all(self, self._tasks, self._async_generators)
        finally:
            self._cut()
            sys.set_asyncgen_hooks(*hooks)
            _set_running_loop(outer)
        if parked:
            self._log.error(
                f"{parked} coroutines of a dropped handler could not be closed and are kept in memory for ever: "
                "they await again whatever is raised; never catch BaseException around an await",
                exc_info=None,
            )

    def discard(self) -> None:
        """The handler has ended and its outcome is taken: free its frames by reference counts alone."""
        if self._has_leftovers():
            self.drop()
        else:
            self.dead = True
            self._cut()

    def settle(self, settle: Callable[[], object]) -> None:
        """Call `settle`, ignoring the callbacks it schedules. For the dead drop."""
        self._sweeping = True
        try:
            settle()
        finally:
            self._sweeping = False

    # --- the queue ------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        queue = self._queue
        popleft = queue.popleft
        left = self._callbacks_left
        handle: TurnHandle | TurnTimer | None
        while queue:
            if self.dead:
                queue.clear()
                break
            handle = popleft()
            if handle.is_cancelled:
                continue
            if left <= 0:
                raise TurnFailed(
                    f"{self._callbacks_max} callbacks in one turn: a handler that waits in a loop "
                    "(`while True: await asyncio.sleep(0)`) never comes to rest, because time stands still in a turn; "
                    "await an event, a call or a sleep longer than 0"
                )
            left -= 1
            try:
                handle.context.run(handle.callback, *handle.args)
            except BaseException as error:
                if not self._is_of_task(handle.callback, error):
                    raise TurnFailed(
                        f"a callback of the handler raised {type(error).__name__}: {text_of(error)}"
                    ) from error
        # An exception that a task keeps leads to this frame: it must not lead back to the task.
        handle = None
        self._callbacks_left = left

    def _is_of_task(self, callback: Callable[..., object], error: BaseException) -> bool:
        """Whether the error has an owner: asyncio's tasks keep SystemExit and KeyboardInterrupt, and raise them too."""
        if self.dead:
            return True
        task = getattr(callback, "__self__", None)
        return isinstance(task, TurnTask) and task.done() and task._exception is error

    # --- async generators, and the end ----------------------------------------------------------------------------

    def _hold(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Called by Python at the first iteration. Held, so that its `finally` blocks run at a repeatable moment."""
        held = self._async_generators
        if len(held) >= TASKS_KEPT_MIN and len(held) & (len(held) - 1) == 0:
            held[:] = filter(dead_drop.is_open, held)
        held.append(generator)

    def _close_async_generators(self) -> None:
        while self._async_generators:
            generator = self._async_generators.pop()
            if dead_drop.is_open(generator):
                self._new_task(_close(generator, self), None, copy_context())

    def _has_leftovers(self) -> bool:
        for task in self._tasks:  # a loop, not any(): called twice for every handler
            if not task.done():
                return True
        return bool(self._async_generators)

    def _cut(self) -> None:
        self.main = None
        self._timers = _NO_TIMERS
        self._queue.clear()
        self._tasks.clear()
        self._async_generators.clear()


async def _close(generator: AsyncGenerator[Any, Any], loop: TurnLoop) -> None:
    try:
        await generator.aclose()
    except Exception as error:
        loop.call_exception_handler({"message": f"an error while closing {generator!r}", "exception": error})


def _forget(_generator: object) -> None:
    """Python's last call for an async generator that is freed. Without it, Python would close it there."""


class _NoTimers:
    """Takes the place of the port when a loop has ended: neither needs the collector to be freed then."""

    def arm(self, _handle: TurnTimer, /) -> NoReturn:
        raise AssertionError("a timer of a handler that has ended")

    def disarm(self, _handle: TurnTimer, /) -> None: ...


_NO_TIMERS = _NoTimers()
_running_loop = events._get_running_loop
_set_running_loop = events._set_running_loop

ordered_sets.install(TurnLoop, refusal)

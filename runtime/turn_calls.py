"""The half of a handler's loop that the handler sees: callbacks, futures, tasks, timers, and its errors.

What would break: a callback of another loop or thread that gets in. So every entry asks whether this loop is the
running one *in this thread*, and whether the handler is still alive; what is refused is in `turn_escapes`.
This file does not know when a turn runs: `turn_loop` drives it.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import math
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, Final, Protocol, TypeVar, TypeVarTuple

from perdure.objects.errors import HandlerDropped

from .turn_escapes import RefusingLoop, after_end, outside_turn, refusal, teach
from .turn_tasks import TASK_STEP, TimerPort, TurnFuture, TurnHandle, TurnTask, TurnTimer, hash_base

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

REFUSALS_MAX: Final = 1_000
"""How often a dead loop raises before it swallows: `while True: try: await sleep(1) except BaseException: pass` would
otherwise never give the thread back."""

DUE_SECONDS_MAX: Final = 253_402_300_799.0
"""The end of the year 9999: `asyncio.timeout(math.inf)` is a timer that never fires."""

TASKS_KEPT_MIN: Final = 16
"""Finished tasks are swept out of the list when it has grown to this, or to twice what was left."""


class ErrorLog(Protocol):
    """Where an exception goes that nobody awaited: a logger of structlog or of the standard library."""

    def error(self, event: str, /, *, exc_info: BaseException | None) -> object: ...


PERDURE_LOG: Final[ErrorLog] = logging.getLogger("perdure")


class HandlerLoop(RefusingLoop):
    """What `asyncio.get_running_loop()` gives to a handler.

    `dead`: the handler is left behind, nothing has an effect any more. `ended`: its outcome is known.
    `silent` is true while a replay runs: exceptions that nobody awaited were logged when they happened.
    """

    __slots__ = (
        "_debug",
        "_hash",
        "_log",
        "_making",
        "_queue",
        "_refusals_left",
        "_starting",
        "_sweep_at",
        "_sweeping",
        "_tasks",
        "_tasks_made",
        "_timers",
        "dead",
        "ended",
        "now_us",
        "silent",
    )

    def __init__(self, identity: int, timers: TimerPort, *, silent: bool, log: ErrorLog) -> None:
        self.now_us = 0
        self.dead = False
        self.ended = False
        self.silent = silent
        self._hash = hash_base(identity)
        self._timers = timers
        self._log = log
        self._debug = False
        self._queue: deque[TurnHandle | TurnTimer] = deque()
        self._tasks: list[TurnTask[Any]] = []
        self._tasks_made = 0
        self._sweep_at = TASKS_KEPT_MIN
        self._making: TurnTask[Any] | None = None
        self._starting = False
        self._sweeping = False
        self._refusals_left = REFUSALS_MAX

    @property
    def timers(self) -> TimerPort:
        """What keeps its timers: whoever the loop was made for."""
        return self._timers

    # --- callbacks ------------------------------------------------------------------------------------------------

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None) -> TurnHandle:
        if (_running_loop() is not self or self.dead) and not self._starting:
            return self._refused_handle(callback)
        if type(callback) is TASK_STEP and callback.__self__ is not self._making:  # type: ignore[attr-defined]
            self._look_at(callback)
        handle = TurnHandle(callback, args, copy_context() if context is None else context)
        self._queue.append(handle)
        return handle

    def _look_at(self, step: Callable[..., object]) -> None:
        """A step that no future asked for: after `sleep(0)`, awaiting what can't be awaited, or of a foreign task."""
        if type(step.__self__) is not TurnTask:  # type: ignore[attr-defined]
            step.__self__._log_destroy_pending = False  # type: ignore[attr-defined]
            raise refusal("asyncio.Task(...), instead of asyncio.create_task(...),")
        for part in gc.get_referents(step):  # the only way to the exception that C made
            if type(part) is RuntimeError:
                part.args = (teach(str(part)),)

    def _refused_handle(self, callback: Callable[..., object]) -> TurnHandle:
        if not self._sweeping:
            self._refuse("a callback")
        return TurnHandle(callback, (), _EMPTY)

    def _refuse(self, what: str) -> None:
        """Raise, unless this is dead code that has been told a thousand times."""
        if _running_loop() is not self:
            raise outside_turn(what)
        if self.dead:
            self.dead_end()

    # --- futures and tasks ----------------------------------------------------------------------------------------

    def create_future(self) -> TurnFuture[Any]:
        if _running_loop() is not self or self.dead:
            self._refuse("a future")
        return TurnFuture(self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
        eager_start: bool | None = None,
    ) -> TurnTask[T]:
        if eager_start:
            raise refusal("an eager task")
        if _running_loop() is not self or self.dead:
            _close_unstarted(coro)
            self._refuse("a task")
        return self._new_task(coro, name, copy_context() if context is None else context)

    def _new_task(
        self, coro: Generator[Any, None, T] | Coroutine[Any, Any, T], name: str | None, context: Context
    ) -> TurnTask[T]:
        tasks = self._tasks
        if len(tasks) >= self._sweep_at:
            self._sweep()
        self._tasks_made += 1
        task: TurnTask[T] = _make_task(TurnTask)
        task.turn_hash = self._hash = self._hash + 1
        task.turn_context = context
        self._making = task
        # asyncio numbers its names over the whole process: they would differ in a replay.
        _init_task(task, coro, loop=self, name=name or f"Task-{self._tasks_made}", context=context)
        self._making = None
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        tasks.append(task)
        return task

    def dead_end(self) -> TurnFuture[Any]:
        """What anything asked of a dead handler comes to: HandlerDropped, raised; of one that has ended: NotInHandler.

        Code that catches it a thousand times over gets a future that never ends instead: awaiting it gives the thread
        back.
        """
        if self._refusals_left > 0:
            self._refusals_left -= 1
            raise HandlerDropped if self.dead else after_end()
        return TurnFuture(self)

    def next_hash(self) -> int:
        self._hash = number = self._hash + 1
        return number

    def tasks_in_order(self) -> list[TurnTask[Any]]:
        """The tasks that have not ended, oldest first."""
        return [task for task in self._tasks if not task.done()]

    def _sweep(self) -> None:
        self._tasks[:] = self.tasks_in_order()
        self._sweep_at = max(TASKS_KEPT_MIN, 2 * len(self._tasks))

    # --- time -----------------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Seconds since the epoch, standing still for the whole turn."""
        if self.dead:
            self._refuse("the loop's time")
        return self.now_us / 1e6

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> TurnTimer:
        delay_us = _microseconds(delay) or delay > 0  # however short, it is a timer
        return self._timer(min(self.now_us + delay_us, round(DUE_SECONDS_MAX * 1e6)), callback, args, context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> TurnTimer:
        when_us = _microseconds(when)
        if when_us / 1e6 < when:  # rounded down: it would fire before its time
            when_us += 1
        return self._timer(when_us, callback, args, context)

    def _timer(
        self, when_us: int, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> TurnTimer:
        timer = TurnTimer(self, when_us, callback, args, copy_context() if context is None else context)
        if _running_loop() is not self or self.dead:
            self._refuse("a timer")
        elif when_us <= self.now_us:
            self._queue.append(timer)
        elif self.ended:
            self.dead_end()
        else:
            timer.is_armed = True
            self._timers.arm(timer)
        return timer

    def disarm(self, timer: TurnTimer) -> None:
        """For a timer that is cancelled."""
        if self.dead:
            return
        if _running_loop() is not self:
            raise outside_turn("cancelling a timer")
        timer.is_armed = False
        self._timers.disarm(timer)

    # --- the rest of an event loop --------------------------------------------------------------------------------

    def is_running(self) -> bool:
        return _running_loop() is self

    def is_closed(self) -> bool:
        return self.dead

    def get_debug(self) -> bool:
        return self._debug

    def set_debug(self, enabled: bool) -> None:
        self._debug = enabled

    def get_task_factory(self) -> None:
        return None

    def set_task_factory(self, factory: object) -> None:
        if factory is not None:
            raise refusal("a task factory, eager tasks included,")

    def get_exception_handler(self) -> None:
        return None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Log what nobody awaited. Also called by finalizers, at any time, so it never raises or schedules."""
        if self.silent:
            return
        error = context.get("exception")
        subject = context.get("task") or context.get("future") or context.get("handle")
        message = f"{context.get('message', 'unhandled exception in a handler')}: {subject!r}"
        self._log.error(message, exc_info=error)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)


def _close_unstarted(coro: object) -> None:
    """Else Python complains that it was never awaited."""
    if inspect.iscoroutine(coro) and inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
        coro.close()


def _microseconds(seconds: float) -> int:
    if math.isnan(seconds):
        raise ValueError("a time that is not a number")
    return round(max(-DUE_SECONDS_MAX, min(seconds, DUE_SECONDS_MAX)) * 1e6)


_EMPTY = Context()
_make_task: Callable[[type[TurnTask[Any]]], TurnTask[Any]] = TurnTask.__new__
_init_task: Callable[..., None] = vars(asyncio.Task)["__init__"]
_running_loop = events._get_running_loop

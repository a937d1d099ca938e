"""Leaving coroutines behind without leaving them to the collector.

Python can't forget a suspended coroutine: whoever frees it makes its `finally` blocks run, wherever that happens to be.
So a handler that is dropped is closed at once, with the dead loop as the running one, on which every call raises
`HandlerDropped`; logging is mute, and so are Python's complaints about coroutines that were never awaited.

`HandlerDropped` is thrown in, newest task first, until the coroutine ends. `throw`, not `close`: `close` stops at the
first async generator on the way (before 3.13), and ends at the first `await` in a `finally`.
What still awaits after many attempts (`while True: try: await future except BaseException: pass`) is *parked*: kept for
ever, never resumed. A leak that is logged is better than code that runs in the wrong place.

What remains: code that loops without awaiting and catches everything cannot be stopped, dead or alive.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager, suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Protocol

from perdure.objects.errors import HandlerDropped

from .mute import muted

if TYPE_CHECKING:
    from .turn_loop import TurnLoop
    from .turn_tasks import TurnTask

ATTEMPTS_MAX: Final = 100
"""Awaits in `finally` and `except BaseException` blocks that one coroutine may go through while it is closed."""

PARKED: Final[list[object]] = []
"""Coroutines that could not be closed. Nothing resumes them, and nothing frees them: see `_park`."""

CLOSED_MAX: Final = 10_000
"""Coroutines closed in one drop: closing an async generator may start another one, without end."""


_frame_of = attrgetter("ag_frame")  # typed nowhere
_waiter_of = attrgetter("_fut_waiter")


def is_open(generator: AsyncGenerator[Any, Any]) -> bool:
    """Whether it could still run something when it is closed."""
    return _frame_of(generator) is not None


class _Closable(Protocol):
    def throw(self, error: BaseException, /) -> object: ...


def close_all(loop: TurnLoop, tasks: list[TurnTask[Any]], generators: list[AsyncGenerator[Any, Any]]) -> int:
    """Empty both lists, closing what is in them, newest first. Says how many had to be parked.

    `loop` is dead, and the running loop.
    """
    parked = 0
    closed: list[TurnTask[Any]] = []
    with muted(), _unraisable_hushed():
        for _ in range(CLOSED_MAX):
            if tasks:
                closed.append(tasks.pop())
                parked += not _close_task(loop, closed[-1])
            elif generators:
                _close_generator(generators.pop())
            else:
                break
        # Only now: a task that is done answers at once, and `while True: try: await task except …` would never yield.
        loop.settle(lambda: _settle_all(closed))
    return parked


def _close_task(loop: TurnLoop, task: TurnTask[Any]) -> bool:
    ended = task.done() or _enter(loop, task)
    if not ended:
        _park(task.get_coro())
    return ended


def _park(coroutine: object) -> None:
    """Keep it for ever. A list alone is emptied when the interpreter ends, where such code may loop without end."""
    PARKED.append(coroutine)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(coroutine))


def _enter(loop: TurnLoop, task: TurnTask[Any]) -> bool:
    asyncio.tasks._enter_task(loop, task)
    try:
        return task.turn_context.run(_close, task.get_coro())
    finally:
        asyncio.tasks._leave_task(loop, task)


def _close(coroutine: _Closable) -> bool:
    for _ in range(ATTEMPTS_MAX):
        try:
            awaited = coroutine.throw(HandlerDropped())
        except BaseException:  # whatever it raises, it has ended
            return True
        # As a task would: else the next await of the same future raises without giving the thread back.
        if asyncio.isfuture(awaited):
            awaited._asyncio_future_blocking = False
    return False


def _settle_all(tasks: list[TurnTask[Any]]) -> None:
    for task in tasks:
        if not task.done():
            _settle(task)


def _settle(task: TurnTask[Any]) -> None:
    """Cut the cycle of a task, the future it waits for, and that future's callback to the task."""
    waiter = _waiter_of(task)
    _set_exception(task, HandlerDropped())
    task._log_traceback = False
    # A task that is waited for is settled in its own turn.
    if not isinstance(waiter, asyncio.Task):
        with suppress(TypeError):  # nothing, or a future of somebody else's making
            _cancel(waiter)


# The base's own: a task refuses to be given a result, and to cancel a future of the context might be a command.
_set_exception: Callable[[object, BaseException], None] = vars(asyncio.Future)["set_exception"]
_cancel: Callable[[object], bool] = vars(asyncio.Future)["cancel"]


def _close_generator(generator: AsyncGenerator[Any, Any]) -> None:
    """One that can't be closed is only freed: unlike a coroutine, a held async generator runs nothing then."""
    for _ in range(ATTEMPTS_MAX):
        if not is_open(generator):
            return
        error = HandlerDropped()
        closing = generator.athrow(error)
        try:
            closing.send(None)
            _close(closing)
        except BaseException:  # ended, or yielded, or "already running"
            continue
        finally:
            error.__traceback__ = None  # `closing` keeps the error, which would lead back to it


@contextmanager
def _unraisable_hushed() -> Generator[None]:
    """No word about exceptions in finalizers of this thread, such as of a coroutine that was stepped by hand."""
    outer = sys.unraisablehook
    thread = threading.get_ident()

    def hushed(args: sys.UnraisableHookArgs, /) -> None:
        if threading.get_ident() != thread:
            outer(args)

    sys.unraisablehook = hushed
    try:
        yield
    finally:
        sys.unraisablehook = outer

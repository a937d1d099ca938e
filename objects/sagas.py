"""Compensation: what was done is undone if the rest cannot be.

What lives here: the order of undoing, and when it happens.
What this file does not know: how steps and calls survive a crash; it only awaits them, and replay does the rest.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self

from .errors import TerminalError, failure_of, is_terminal
from .handlers import BoundHandler, OwnHandler
from .references import ReferenceHandler

if TYPE_CHECKING:
    from .context import Context

P = ParamSpec("P")


class Saga:
    """`async with self.ctx.saga() as saga:`; what it undoes is registered before it is done.

    It undoes, last first, when the block ends with what is terminal: a TerminalError, a cancellation, an uncaught
    timeout, the last attempt of a policy that ends in "fail". An error that will be retried undoes nothing.
    """

    def __init__(
        self, context: Context, ends_with: Callable[[BaseException], bool], has_undone: Callable[[], None]
    ) -> None:
        """`ends_with`: whether an error is for good; `has_undone` is called when what was done is undone."""
        self._context = context
        self._ends_with = ends_with
        self._has_undone = has_undone
        self._open = False
        self._undo: list[Callable[[], Any]] = []

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open = False
        if exc is not None and self._ends_with(exc):
            await self._compensate(exc)
            if not is_terminal(exc):  # a last attempt: raised as it is, it would be run again half undone
                raise _as_terminal(exc) from exc

    def undo(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Register `fn(*args, **kwargs)`: a function is run as a step, a reference's handler is called, an own method
        is itself. The arguments are copied now. Register before the call that it undoes: that one may have happened
        although it looks failed.
        """
        if not self._open:
            raise RuntimeError("saga.undo() outside its block; write `async with self.ctx.saga() as saga:`")
        if not callable(fn):
            raise TypeError(f"saga.undo() takes the function, not what it returns ({fn!r}); write undo(fn, argument)")
        self._undo.append(self._action(fn, args, kwargs))

    def _action(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
        if isinstance(fn, ReferenceHandler):
            return fn.prepared(args, kwargs)
        args, kwargs = copy.deepcopy((args, kwargs))
        if isinstance(fn, OwnHandler) or _is_own_method(fn):
            return lambda: fn(*args, **kwargs)
        context = self._context
        return lambda: context.run(fn, *args, **kwargs)

    async def _compensate(self, cause: BaseException) -> None:
        """Undo everything, also when one undo is refused; then the refusals are the outcome, and say so.

        A cancellation on the way waits until all is undone.
        """
        refusals: list[TerminalError] = []
        cancelled: asyncio.CancelledError | None = None
        has_undone = bool(self._undo)
        while self._undo:
            try:
                result = self._undo.pop()()
                if hasattr(result, "__await__"):
                    cancelled = await _to_its_end(result) or cancelled
            except Exception as exc:
                if not is_terminal(exc):
                    raise  # retried, with this undo again
                refusals.append(_as_terminal(exc))
        if has_undone:
            self._has_undone()
        if refusals:
            first = failure_of(refusals[0])
            raise TerminalError(
                f"{failure_of(cause).message}; {len(refusals)} of its undos refused, first: {first.message}",
                status=failure_of(cause).status,
            ) from cause
        if cancelled is not None:
            raise cancelled


async def _to_its_end(undo: Awaitable[object]) -> asyncio.CancelledError | None:
    """The undo in a task of its own: what cancels this one doesn't reach it, and is given back; nor does what has
    cancelled this one before, which `asyncio.timeout` and `TaskGroup` inside the undo would take for theirs.
    """
    task, cancelled = asyncio.ensure_future(undo), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    await task
    return cancelled


def _as_terminal(exc: BaseException) -> TerminalError:
    return (
        exc if isinstance(exc, TerminalError) else TerminalError(failure_of(exc).message, status=failure_of(exc).status)
    )


def _is_own_method(fn: Callable[..., Any]) -> bool:
    return hasattr(getattr(fn, "__self__", None), "_perdure_state") or isinstance(fn, BoundHandler)

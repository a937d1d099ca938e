"""The tasks, futures and handles of a turn loop.

Tasks and futures are asyncio's own C classes, hashing by number instead of by address: (the invocation's id, n-th
made), so that a set of them has the same order in a replay. Handles are asyncio's with the fewest possible attributes.

This file does not know how a turn runs, or who keeps the timers.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from .turn_calls import HandlerLoop

T = TypeVar("T")

HASH_BITS = 61
"""Python's own hashes of integers are this wide; wider ones are reduced at every use."""
_SPREAD = 0x9E3779B97F4A7C15


def hash_base(identity: int) -> int:
    """Where the numbering of one handler's tasks starts: far from every other handler's, whatever the ids look like.

    asyncio keeps all tasks of the process in one WeakSet, those of 100,000 suspended handlers included: with bases
    that lie close together, each look-up in it would be a search.
    """
    return identity * _SPREAD % ((1 << HASH_BITS) - 1)


class TimerPort(Protocol):
    """Who keeps the timers of a turn loop: the loop itself has no clock."""

    def arm(self, handle: TurnTimer, /) -> None:
        """A timer with a delay was made in this turn; `handle.when_us` is its due time."""

    def disarm(self, handle: TurnTimer, /) -> None:
        """It was cancelled before it fired, perhaps in the turn that made it."""


class TurnFuture(asyncio.Future[T]):
    """A future of a turn loop. Made by `TurnLoop.create_future`; a subclass is made with the loop."""

    __slots__ = ("turn_hash",)

    def __init__(self, loop: HandlerLoop) -> None:
        self.turn_hash = loop.next_hash()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.turn_hash


class TurnTask(asyncio.Task[T]):
    """A task of a turn loop. Made by `TurnLoop.create_task`, which sets the slots: C's initializer needs the hash."""

    __slots__ = ("turn_context", "turn_hash")

    turn_context: contextvars.Context  # Task.get_context() came with 3.12
    turn_hash: int

    def __hash__(self) -> int:
        return self.turn_hash


class TurnHandle(asyncio.Handle):
    """A callback in the queue."""

    # Of asyncio.Handle's slots none is used: they are private, and setting them costs as much as the callback.
    __slots__ = ("args", "callback", "context", "is_cancelled")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True
        self.callback, self.args = _nothing, ()

    def cancelled(self) -> bool:
        return self.is_cancelled

    def get_context(self) -> contextvars.Context:
        return self.context

    def __repr__(self) -> str:
        return f"<TurnHandle {'cancelled' if self.is_cancelled else self.callback!r}>"


class TurnTimer(asyncio.TimerHandle):
    """A callback that waits for its time. `when_us` is in microseconds since the epoch, never earlier than asked for.

    `command` is free for the port's use.
    """

    __slots__ = ("args", "callback", "command", "context", "is_armed", "is_cancelled", "loop", "when_us")

    def __init__(
        self,
        loop: HandlerLoop,
        when_us: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
    ) -> None:
        self.loop = loop
        self.when_us = when_us
        self.callback = callback
        self.args = args
        self.context = context
        self.is_armed = False
        self.is_cancelled = False
        self.command = 0

    def when(self) -> float:
        return self.when_us / 1e6

    def cancel(self) -> None:
        """A timer that waits is disarmed; one that has fired in this turn does not run; nothing else happens."""
        if self.is_armed:
            self.loop.disarm(self)
        self.is_cancelled = True
        self.callback, self.args = _nothing, ()

    def cancelled(self) -> bool:
        return self.is_cancelled

    def done(self) -> bool:
        """As futures say it: nobody waits for it any more."""
        return self.is_cancelled

    def get_context(self) -> contextvars.Context:
        return self.context

    # Equal by identity, hashed by time: the base compares attributes that are not set here.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return hash(self.when_us)

    def __repr__(self) -> str:
        return f"<TurnTimer when={self.when()} {'cancelled' if self.is_cancelled else self.callback!r}>"


def _nothing(*_args: object) -> None: ...


def _type_of_task_steps() -> type:
    """The private C type by which a task asks for a step: told apart from users' callbacks by it."""
    steps: list[type] = []

    class Probe:
        def get_debug(self) -> bool:
            return False

        def call_soon(self, callback: object, *, context: object) -> None:
            steps.append(type(callback))

    async def nothing() -> None: ...

    coro = nothing()
    task = asyncio.Task(coro, loop=cast("asyncio.AbstractEventLoop", Probe()))
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coro.close()
    return steps[0]


TASK_STEP = _type_of_task_steps()

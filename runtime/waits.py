"""What a handler awaits, as it finds it in its turn loop.

A `Wait` is where the outcome of one command arrives.  What is *owned* (a call, a step) is cancelled with its wait;
what is *listened to* (an awakeable, a promise, a signal, an attach) is left alone, and each await is a waiter of its
own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from perdure.objects.context import Awakeable, Promise, Signal
from perdure.objects.errors import Failure, exception_of
from perdure.objects.references import Target

from .records import Failed, Outcome
from .turn_loop import TurnFuture

if TYPE_CHECKING:
    from .handler_context import HandlerContext

Decode = Callable[[bytes], Any]
_STREAM_CANCELLED = Failed(Failure("TerminalError", "the stream was cancelled, with a wait for its next item", 409))


class Wait(TurnFuture[Outcome]):
    """Where the outcome of a command arrives.  `owned`: cancelling the wait cancels what it waits for."""

    def __init__(self, context: HandlerContext, command: int, *, owned: bool) -> None:
        super().__init__(context.loop)
        self.context = context
        self.command = command
        self.owned = owned

    def cancel(self, msg: object = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled and self.owned:
            self.context.wait_was_cancelled(self.command)
        return cancelled


def words_for(subject: object) -> str:
    """`Account/bob/deposit` for a call; any other subject is a name."""
    if not isinstance(subject, Target):
        return str(subject)
    return "/".join(part for part in (subject.service.name, subject.key, subject.handler.name) if part)


def value_of(outcome: Outcome, decode: Decode) -> Any:
    if isinstance(outcome, Failed):
        raise exception_of(outcome.failure)
    return decode(outcome.value)


class Owned(Coroutine[object, None, Any]):
    """A call or a step: made when written, awaited when and as often as you like.

    `subject` is a Target or a name: put into words only when somebody asks.
    """

    __slots__ = ("_decode", "_iterator", "_wait", "subject")

    def __init__(self, subject: object, wait: Wait, decode: Decode) -> None:
        self.subject = subject
        self._wait = wait
        self._decode = decode
        self._iterator: Generator[object, None, Any] | None = None

    def __await__(self) -> Generator[object, None, Any]:
        wait = self._wait
        wait.context.unawaited.pop(wait.command, None)
        if not wait.done():
            wait.context.begin_wait(wait, self.subject)
        return self._outcome(wait)

    def _outcome(self, wait: Wait) -> Generator[object, None, Any]:
        return value_of((yield from wait), self._decode)

    def send(self, value: None, /) -> object:
        if self._iterator is None:
            self._iterator = self.__await__()
        return self._iterator.send(value)

    # Any: Coroutine's own signature, in three forms.
    def throw(self, *error: Any) -> object:
        if self._iterator is None:  # of a task that is cancelled before its first step: it was its own all the same
            wait = self._wait
            wait.context.unawaited.pop(wait.command, None)
            wait.cancel()
            self._iterator = self._outcome(wait)
        return self._iterator.throw(*error)

    def close(self) -> None:
        if self._iterator is not None:
            self._iterator.close()

    def __repr__(self) -> str:
        return f"<{words_for(self.subject)}>"


class Listener:
    """Something that is given once and may be listened to by many: each await is a future of its own."""

    __slots__ = ("_decode", "_subject", "_wait")

    def __init__(self, subject: object, wait: Wait, decode: Decode) -> None:
        self._subject = subject
        self._wait = wait
        self._decode = decode

    def listen(self) -> Generator[object, None, Any]:
        wait = self._wait
        if not wait.done():
            wait.context.begin_wait(wait, self._subject)
        outcome = yield from asyncio.shield(wait).__await__()
        return value_of(outcome, self._decode)

    async def listen_as_coroutine(self) -> Any:
        return await _Awaiting(self.listen)


class _Awaiting:
    __slots__ = ("_listen",)

    def __init__(self, listen: Callable[[], Generator[object, None, Any]]) -> None:
        self._listen = listen

    def __await__(self) -> Generator[object, None, Any]:
        return self._listen()


class HandlerAwakeable(Awakeable[Any]):
    def __init__(self, id: str, listener: Listener) -> None:
        self._id = id
        self._listener = listener

    @property
    def id(self) -> str:
        return self._id

    def __await__(self) -> Generator[object, None, Any]:
        return self._listener.listen()


class HandlerSignal(Signal[Any]):
    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def __await__(self) -> Generator[object, None, Any]:
        return self._listener.listen()


class HandlerPromise(Promise[Any]):
    """A promise of the own workflow.  Asked for by name: nothing is recorded until it is used."""

    def __init__(self, context: HandlerContext, name: str, decode: Decode, encode: Callable[[Any], bytes]) -> None:
        self._context = context
        self._name = name
        self._decode = decode
        self._encode = encode

    def __await__(self) -> Generator[object, None, Any]:
        return Listener(f"promise {self._name}", self._context.await_promise(self._name), self._decode).listen()

    def resolve(self, value: Any) -> None:
        self._context.resolve_promise(self._name, lambda: self._encode(value))

    def reject(self, reason: str) -> None:
        self._context.reject_promise(self._name, reason)

    def peek(self) -> Any:
        outcome = self._context.peek_promise(self._name)
        return None if outcome is None else value_of(outcome, self._decode)


class Stream(AsyncIterator[Any]):
    """The items of a step or call that yields, as they are recorded; to be iterated by one task."""

    def __init__(self, context: HandlerContext, command: int, subject: object, decode: Decode) -> None:
        self.command = command
        self._context = context
        self._subject = subject
        self._decode = decode
        self._items: deque[bytes] = deque()
        self._end: Outcome | None = None
        self._waiter: Wait | None = None

    def done(self) -> bool:
        return self._end is not None

    @property
    def open_wait(self) -> Wait | None:
        """The wait for the next item."""
        return self._waiter

    def deliver(self, outcome: Outcome, *, more: bool) -> None:
        if more and not isinstance(outcome, Failed):
            self._items.append(outcome.value)
        else:
            self._end = outcome
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(outcome)

    async def __anext__(self) -> Any:
        while not self._items:
            if self._end is not None:
                value_of(self._end, bytes)
                raise StopAsyncIteration
            await self._next()
        return self._decode(self._items.popleft())

    async def _next(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("a stream is read by one task at a time: another one waits for its next item")
        self._waiter = waiter = Wait(self._context, self.command, owned=True)
        self._context.begin_wait(waiter, self._subject)
        try:
            outcome = await waiter
            if isinstance(outcome, Failed):  # also a wait that would never have ended
                self._end = outcome
        finally:
            self._waiter = None
            if waiter.cancelled():  # and the step with it
                self._end = _STREAM_CANCELLED

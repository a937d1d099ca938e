"""What a handler may ask of the runtime, as interfaces; the runtime subclasses them.

What lives here: names, types and documentation.
What this file does not know: how any of it is done. Only `ref` and `saga` are complete here; they need nothing else.

What was listened to (awakeable, promise, signal, attach) may be awaited often, and a cancelled wait leaves it alone.
What is owned (a call, a step, a sleep) is cancelled with its wait.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload
from uuid import UUID

from .errors import is_terminal
from .references import Outbound, reference
from .sagas import Saga

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from .virtual_object import Service, VirtualObject, Workflow

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S", bound="Service")
O = TypeVar("O", bound="VirtualObject | Workflow")  # noqa: E741  (the name that API.md gives it)


class Handle(Generic[T_co]):
    """An invocation that was sent to or found by its id."""

    @property
    def id(self) -> str:
        """The invocation's id, as in the HTTP API."""
        raise NotImplementedError

    def attach(self) -> Coroutine[object, None, T_co]:
        """Wait for its result. A cancelled wait leaves the invocation alone."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Raise CancelledError in it, at its await, and in what it calls."""
        raise NotImplementedError

    def signal(self, name: str, value: object) -> None:
        """Give it a value, for `self.ctx.signal(name, …)`; kept until it asks."""
        raise NotImplementedError

    def reject_signal(self, name: str, reason: str) -> None:
        """Make the next `self.ctx.signal(name, …)` raise a TerminalError with this reason."""
        raise NotImplementedError


class Awakeable(Awaitable[T_co]):
    """A value that the outside gives: hand out its `id`, await it as often as you like."""

    @property
    def id(self) -> str:
        """Who knows it can complete it: it has 128 bits that cannot be guessed."""
        raise NotImplementedError

    def __await__(self) -> Generator[object, None, T_co]:
        raise NotImplementedError


class Signal(Awaitable[T_co]):
    """The next value of one name that somebody gives to this invocation."""

    def __await__(self) -> Generator[object, None, T_co]:
        raise NotImplementedError


class Promise(Awaitable[T]):
    """A value of a workflow that is given once, by any of its handlers; declared as a field."""

    def __await__(self) -> Generator[object, None, T]:
        raise NotImplementedError

    def resolve(self, value: T) -> None:
        """Complete it. TerminalError (409) if it holds another value already; the same value again is nothing."""
        raise NotImplementedError

    def reject(self, reason: str) -> None:
        """Complete it with a TerminalError for everybody who waits."""
        raise NotImplementedError

    def peek(self) -> T | None:
        """Its value, None as long as there is none; raises if it was rejected."""
        raise NotImplementedError


class Invocation:
    """What is known of the running invocation.

    `caller` is the id of the invocation that asked for it, None from outside. `created_at` is aware, UTC.
    """

    id: str
    attempt: int
    caller: str | None
    headers: Mapping[str, str]
    idempotency_key: str | None
    created_at: datetime


class Context:
    """What one invocation may ask of the runtime; of no use after its handler has ended."""

    _outbound: Outbound

    @overload
    def ref(self, cls: type[S], /) -> S: ...
    @overload
    def ref(self, cls: type[O], key: str, /) -> O: ...
    def ref(self, cls: Any, key: str = "", /) -> Any:
        """What stands for the object of `cls` at `key`, or for a Service. InvalidKey for what cannot be a key."""
        return reference(cls, key, self._outbound)

    @overload
    def run(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[object, None, T]: ...
    @overload
    def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, T]: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[object, None, Any]:
        """A step: run `fn` outside, record what it returns, never repeat it once recorded."""
        raise NotImplementedError

    def stream(self, fn: Callable[P, AsyncIterator[T]], /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        """A step that yields: each item is recorded as it comes."""
        raise NotImplementedError

    @overload
    def sleep(self, length: float | timedelta, /) -> Coroutine[object, None, None]: ...
    @overload
    def sleep(self, *, until: datetime) -> Coroutine[object, None, None]: ...
    def sleep(
        self, length: float | timedelta | None = None, *, until: datetime | None = None
    ) -> Coroutine[object, None, None]:
        """Wait for seconds, a timedelta, or until an aware datetime; outlives the process."""
        raise NotImplementedError

    def now(self) -> datetime:
        """The time of this turn, aware, UTC; the same on replay."""
        raise NotImplementedError

    @property
    def random(self) -> Random:
        """Random numbers, the same on replay; not for secrets."""
        raise NotImplementedError

    def uuid(self) -> UUID:
        """A random UUID, the same on replay."""
        raise NotImplementedError

    @overload
    def awakeable(self, type: type[T], /) -> Awakeable[T]: ...
    @overload
    def awakeable(self, type: TypeForm[T], /) -> Awakeable[T]: ...
    def awakeable(self, type: Any, /) -> Awakeable[Any]:
        """A value of `type` that the outside will give."""
        raise NotImplementedError

    def resolve_awakeable(self, id: str, value: object = None) -> None:
        """Complete an awakeable. TerminalError: 404 unknown, 409 completed otherwise, 400 of another type."""
        raise NotImplementedError

    def reject_awakeable(self, id: str, reason: str) -> None:
        """Make an awakeable raise a TerminalError with this reason. Raises as `resolve_awakeable` does."""
        raise NotImplementedError

    @overload
    def signal(self, name: str, type: type[T], /) -> Signal[T]: ...
    @overload
    def signal(self, name: str, type: TypeForm[T], /) -> Signal[T]: ...
    def signal(self, name: str, type: Any, /) -> Signal[Any]:
        """The next value of this name given to this invocation; first come, first served."""
        raise NotImplementedError

    @overload
    def handle(self, id: str, /) -> Handle[Any]: ...
    @overload
    def handle(self, id: str, type: type[T], /) -> Handle[T]: ...
    @overload
    def handle(self, id: str, type: TypeForm[T], /) -> Handle[T]: ...
    def handle(self, id: str, type: Any = Any, /) -> Handle[Any]:
        """An invocation by its id; its result is read as `type`."""
        raise NotImplementedError

    def saga(self) -> Saga:
        """`async with self.ctx.saga() as saga:` undoes, in reverse, what was registered if the block ends for good."""
        return Saga(self, self._ends_with, self._has_undone)

    def patched(self, name: str) -> bool:
        """Whether this invocation goes the new way of a change of code; recorded, so that open ones keep the old."""
        raise NotImplementedError

    @property
    def invocation(self) -> Invocation:
        """What is known of the running invocation."""
        raise NotImplementedError

    def _ends_with(self, exc: BaseException) -> bool:
        """Whether `exc`, leaving the handler now, is its outcome; the runtime adds the last attempt of a policy."""
        return is_terminal(exc)

    def _has_undone(self) -> None:
        """A saga has undone its work: what this turn wrote stays, whatever error the handler ends with."""


class WorkflowContext(Context):
    """The context of a workflow's handlers."""

    @overload
    def promise(self, name: str, type: type[T], /) -> Promise[T]: ...
    @overload
    def promise(self, name: str, type: TypeForm[T], /) -> Promise[T]: ...
    def promise(self, name: str, type: Any, /) -> Promise[Any]:
        """A promise whose name is known only at run time; otherwise declare it as a field."""
        raise NotImplementedError

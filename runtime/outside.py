"""What `Client` and `Runtime` have in common: they stand outside of every handler, and ask.

The same references as inside a handler for calls; messages and handles are requests, to be awaited.
How a request gets to the engine, this file does not know.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, Protocol, TypeVar, overload

from perdure.objects import BoundHandler, Service, VirtualObject, Workflow
from perdure.objects.durations import seconds_of
from perdure.objects.references import Target, reference, target_of
from perdure.objects.values import Codec, Unencodable

if TYPE_CHECKING:
    from typing_extensions import TypeForm

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S", bound="Service")
O = TypeVar("O", bound="VirtualObject | Workflow")  # noqa: E741  (the name that API.md gives it)


class Remote(Protocol):
    """How a handle reaches its invocation: over HTTP, or in this process."""

    async def result_of(self, id: str) -> bytes: ...
    async def cancel(self, id: str) -> None: ...
    async def resolve_signal(self, id: str, name: str, value: bytes) -> None: ...
    async def reject_signal(self, id: str, name: str, reason: str) -> None: ...


class RemoteHandle(Generic[T_co]):
    """An invocation, seen from outside.  All but `id` is a request, to be awaited."""

    __slots__ = ("_decode", "_id", "_remote")

    def __init__(self, id: str, remote: Remote, decode: Callable[[bytes], T_co]) -> None:
        self._id = id
        self._remote = remote
        self._decode = decode

    @property
    def id(self) -> str:
        """The invocation's id, as in the HTTP API."""
        return self._id

    def attach(self) -> Coroutine[object, None, T_co]:
        """Wait for its result. Raises its TerminalError; a cancelled wait leaves the invocation alone."""
        return self._attach()

    async def _attach(self) -> T_co:
        return self._decode(await self._remote.result_of(self._id))

    def cancel(self) -> Coroutine[object, None, None]:
        """Raise CancelledError in it, at its await, and in what it calls; of no effect once it has ended.

        Done when that is durable, which is before the handler has cleaned up: `attach()` waits for its end.
        """
        return self._remote.cancel(self._id)

    def signal(self, name: str, value: object) -> Coroutine[object, None, None]:
        """Give it a value (JSON), for `self.ctx.signal(name, …)`; kept until it asks.

        Each one counts, so it is not sent again if its answer got lost: OutcomeUnknown.
        """
        return self._remote.resolve_signal(self._id, name, packed(value))

    def reject_signal(self, name: str, reason: str) -> Coroutine[object, None, None]:
        """Make the next `self.ctx.signal(name, …)` raise a TerminalError with this reason."""
        return self._remote.reject_signal(self._id, name, checked_reason(reason))

    def __repr__(self) -> str:
        return f"<RemoteHandle {self._id}>"


ANY_JSON = Codec(Any)


def packed(value: object) -> bytes:
    """As JSON.  Raises TypeError."""
    try:
        return ANY_JSON.pack_checked(value)
    except Unencodable as error:
        raise TypeError(f"this value can't be sent: {error}") from None


def checked_reason(reason: object) -> str:
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError("a rejection needs a reason: whoever waits gets it as the message of a TerminalError")
    return reason


class Outside:
    """`name` is what examples call it: `await client.send(…)`."""

    def __init__(self, name: str) -> None:
        self._outbound = _Outbound(name, self._call, self._stream)

    @overload
    def ref(self, cls: type[S], /) -> S: ...
    @overload
    def ref(self, cls: type[O], key: str, /) -> O: ...
    def ref(self, cls: Any, key: str = "", /) -> Any:
        """What stands for the object of `cls` at `key`, or for a Service. InvalidKey for what cannot be a key."""
        return reference(cls, key, self._outbound)

    async def send(
        self, handler: BoundHandler[Callable[P, Coroutine[Any, Any, T]]], /, *args: P.args, **kwargs: P.kwargs
    ) -> RemoteHandle[T]:
        """A message: `await client.send(ref.deposit, 5)`. Done when it is durably accepted."""
        return await self._send(target_of(handler, args, kwargs), None)

    async def send_after(
        self,
        delay: float | timedelta,
        handler: BoundHandler[Callable[P, Coroutine[Any, Any, T]]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> RemoteHandle[T]:
        """A message that joins its mailbox after `delay` (seconds or timedelta)."""
        return await self._send(target_of(handler, args, kwargs), seconds_of(delay, "send_after"))

    @overload
    def handle(self, id: str, /) -> RemoteHandle[Any]: ...
    @overload
    def handle(self, id: str, type: type[T], /) -> RemoteHandle[T]: ...
    @overload
    def handle(self, id: str, type: TypeForm[T], /) -> RemoteHandle[T]: ...
    def handle(self, id: str, type: Any = Any, /) -> RemoteHandle[Any]:
        """The invocation with this id, which nobody asks for before `attach`."""
        return self._handle(id, self._reader(Codec(type)))

    # --- how it is done, for subclasses. Any: a Target has lost its static type ---------------------------------------

    async def _call(self, target: Target) -> Any:
        raise NotImplementedError

    async def _send(self, target: Target, delay_seconds: float | None) -> RemoteHandle[Any]:
        raise NotImplementedError

    def _stream(self, target: Target) -> AsyncIterator[Any]:
        raise NotImplementedError

    def _handle(self, id: str, decode: Callable[[bytes], Any]) -> RemoteHandle[Any]:
        raise NotImplementedError

    def _reader(self, codec: Codec) -> Callable[[bytes], Any]:
        """How a result is read, of which only the caller says what type it has."""
        raise NotImplementedError


class _Outbound:
    """Where the calls of references go."""

    __slots__ = ("_call", "_name", "_stream")

    def __init__(
        self,
        name: str,
        call: Callable[[Target], Coroutine[object, None, Any]],
        stream: Callable[[Target], AsyncIterator[Any]],
    ) -> None:
        self._name = name
        self._call = call
        self._stream = stream

    def call(self, target: Target) -> Coroutine[object, None, Any]:
        return self._call(target)

    def stream(self, target: Target) -> AsyncIterator[Any]:
        return self._stream(target)

    def send(self, target: Target, delay: float | timedelta | None) -> NoReturn:
        ref = f"ref.{target.handler.attribute}"
        say = f"{self._name}.send({ref}, …)" if delay is None else f"{self._name}.send_after(delay, {ref}, …)"
        raise TypeError(f"outside of a handler sending is a request, to be awaited: `await {say}`")

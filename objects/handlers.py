"""@handler and @shared, and what `self.deposit` is.

What lives here: the descriptor that a decorated method becomes, and its two bindings' common type.
What this file does not know: how a call is encoded (definitions.py) and where it goes (references.py).

The static types are exact to the letter; API.md section 2 has the failing check behind each of them:
`Handler` is covariant in one Callable because checkers hold ParamSpec invariant, and an override may add parameters;
coroutines are `Coroutine[object, None, T]` because with Any in it `asyncio.gather` silently turns to Any.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeGuard, TypeVar, overload

from .durations import optional_seconds_of
from .errors import DefinitionError
from .ids import validate_idempotency_key
from .limits import Priority, with_priority
from .retries import RetryPolicy
from .schedules import Schedule

if TYPE_CHECKING:
    from .context import Handle

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", bound="Coroutine[Any, Any, Any] | AsyncIterator[Any]")
F_co = TypeVar("F_co", covariant=True, bound=Callable[..., Any])


class BoundHandler(Generic[F_co]):
    """A handler of one object: call it (`await bob.deposit(5)`), or send it a message (`bob.deposit.send(5)`)."""

    __slots__ = ()

    def __call__(self: BoundHandler[Callable[P, R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """On a reference, a durable call, made now and awaited when you like; on `self`, a plain call."""
        raise NotImplementedError

    def send(self: BoundHandler[Callable[P, Coroutine[Any, Any, T]]], *args: P.args, **kwargs: P.kwargs) -> Handle[T]:
        """A message: part of this turn, delivered exactly once, nothing to await. Inside a handler only."""
        raise NotImplementedError

    def send_after(
        self: BoundHandler[Callable[P, Coroutine[Any, Any, T]]],
        delay: float | timedelta,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Handle[T]:
        """A message that joins the mailbox after `delay` (seconds or timedelta)."""
        raise NotImplementedError

    def options(
        self,
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        priority: Priority | None = None,
    ) -> Self:
        """The same handler; what is called or sent through it carries these."""
        raise NotImplementedError


class Options:
    """What a decorator was given."""

    __slots__ = ("name", "public", "retry", "schedules", "timeout_seconds")

    def __init__(
        self,
        name: str | None,
        public: bool,
        retry: RetryPolicy | None,
        timeout: float | timedelta | None,
        schedules: Iterable[Schedule] = (),
    ) -> None:
        if retry is not None and not isinstance(retry, RetryPolicy):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"@handler(retry={retry!r}): give a RetryPolicy")
        self.name = name
        self.public = public
        self.retry = retry
        self.timeout_seconds = optional_seconds_of(timeout, "@handler(timeout=…)")
        if isinstance(schedules, Schedule) or not isinstance(schedules, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"@handler(schedules={schedules!r}): give a list of cron(…) and every(…)")
        self.schedules: tuple[Schedule, ...] = tuple(schedules)  # each is looked at when the class is defined


_DEFAULTS = Options(None, True, None, None)


class Handler(Generic[F_co]):
    """A decorated method as it stands in its class."""

    def __init__(self, fn: Callable[..., Any], options: Options, shared: bool) -> None:
        self.fn = fn
        self.options = options
        self.shared = shared
        self.stream = _is_stream(fn, "@shared" if shared else "@handler")
        self.attribute = fn.__name__
        self.__doc__ = fn.__doc__

    @property
    def wire_name(self) -> str:
        """The name in paths and in the journal."""
        return self.options.name or self.attribute

    @property
    def __isabstractmethod__(self) -> bool:
        return bool(getattr(self.fn, "__isabstractmethod__", False))

    def __set_name__(self, owner: type, name: str) -> None:
        self.attribute = name

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type, /) -> BoundHandler[F_co]: ...
    def __get__(self, instance: object, owner: type, /) -> Self | BoundHandler[F_co]:
        return self if instance is None else OwnHandler(self, instance)

    def __repr__(self) -> str:
        return f"<handler {self.fn.__qualname__}>"


class OwnHandler(BoundHandler[F_co]):
    """A handler of the very object whose code is running: a call is a plain call, a message goes to myself."""

    __slots__ = ("_handler", "_headers", "_idempotency_key", "_instance")

    # Any: the exact signature is the base's; here only the run-time behaviour stands.
    def __init__(
        self,
        handler: Handler[Any],
        instance: Any,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._handler = handler
        self._instance = instance
        self._idempotency_key = idempotency_key
        self._headers = headers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._handler.fn(self._instance, *args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> Handle[Any]:
        return self._to_myself().send(*args, **kwargs)

    def send_after(self, delay: float | timedelta, /, *args: Any, **kwargs: Any) -> Handle[Any]:
        return self._to_myself().send_after(delay, *args, **kwargs)

    def options(
        self,
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        priority: Priority | None = None,
    ) -> Self:
        if idempotency_key is not None:
            validate_idempotency_key(idempotency_key)
        return type(self)(self._handler, self._instance, idempotency_key, with_priority(headers, priority))

    def _to_myself(self) -> BoundHandler[Any]:
        from .references import reference_to_self  # noqa: PLC0415  (references needs this module)

        bound = reference_to_self(self._instance, self._handler.attribute)
        return bound.options(idempotency_key=self._idempotency_key, headers=self._headers)

    def __repr__(self) -> str:
        return f"<handler {self._handler.fn.__qualname__} of self>"


class HandlerDecorator:
    """`@handler(...)` or `@shared(...)` with options, waiting for its function."""

    def __init__(self, options: Options, shared: bool) -> None:
        self._options = options
        self._shared = shared

    @overload
    def __call__(
        self, fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], /
    ) -> Handler[Callable[P, Coroutine[object, None, T]]]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[Any, P], AsyncIterator[T]], /
    ) -> Handler[Callable[P, AsyncIterator[T]]]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Handler[Any]:
        return Handler(fn, self._options, self._shared)


@overload
def handler(
    fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], /
) -> Handler[Callable[P, Coroutine[object, None, T]]]: ...
@overload
def handler(fn: Callable[Concatenate[Any, P], AsyncIterator[T]], /) -> Handler[Callable[P, AsyncIterator[T]]]: ...
@overload
def handler(
    *,
    name: str | None = None,
    public: bool = True,
    retry: RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    schedules: Iterable[Schedule] = (),
) -> HandlerDecorator: ...
def handler(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    public: bool = True,
    retry: RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    schedules: Iterable[Schedule] = (),
) -> Handler[Any] | HandlerDecorator:
    """A method that can be called from outside: `async def`, or an async generator (a stream).

    On an object it is exclusive: one at a time for each key, in order of arrival.
    `name` is its name in paths, `public=False` keeps it from the HTTP ingress, `timeout` is seconds or a timedelta.
    `schedules` are cron expressions and intervals at which it is called by itself: see `cron` and `every`.
    """
    if fn is not None:
        return Handler(fn, _DEFAULTS, shared=False)
    return HandlerDecorator(Options(name, public, retry, timeout, schedules), shared=False)


@overload
def shared(
    fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], /
) -> Handler[Callable[P, Coroutine[object, None, T]]]: ...
@overload
def shared(fn: Callable[Concatenate[Any, P], AsyncIterator[T]], /) -> Handler[Callable[P, AsyncIterator[T]]]: ...
@overload
def shared(
    *,
    name: str | None = None,
    public: bool = True,
    retry: RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
) -> HandlerDecorator: ...
def shared(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    public: bool = True,
    retry: RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
) -> Handler[Any] | HandlerDecorator:
    """A handler that only reads: any number run at once, beside an exclusive one, each on the last committed state."""
    if fn is not None:
        return Handler(fn, _DEFAULTS, shared=True)
    return HandlerDecorator(Options(name, public, retry, timeout), shared=True)


def is_handler(member: object) -> TypeGuard[Handler[Any]]:
    """isinstance for checkers: with the bare class pyright loses the type argument."""
    return isinstance(member, Handler)


def _is_stream(fn: object, decorator: str) -> bool:
    """Whether `fn` is an async generator; DefinitionError if it is no coroutine function either."""
    if is_handler(fn):
        raise _refused(decorator, fn, "is a handler already; use one decorator, @handler or @shared")
    if not inspect.isfunction(fn):
        raise _refused(decorator, fn, "is no method; put the decorator on an `async def` whose first parameter is self")
    for layer in (fn, inspect.unwrap(fn)):
        if inspect.iscoroutinefunction(layer):
            return False
        if inspect.isasyncgenfunction(layer):
            return True
    advice = "write `async def`; what blocks belongs in a step: `await self.ctx.run(fn, …)`"
    raise _refused(decorator, fn, f"is a plain def; {advice}")


def _refused(decorator: str, fn: object, problem: str) -> DefinitionError:
    name = getattr(fn, "__qualname__", None) or repr(fn)
    return DefinitionError(f"{decorator}: {name} {problem}")

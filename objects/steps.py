"""Steps: what is done outside, once recorded never repeated.

What lives here: the options that a function carries, and what a running step may know of itself.
What this file does not know: where steps run, and how their results are recorded.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from datetime import timedelta
from typing import Any, Protocol, TypeVar, cast, overload

from .durations import optional_seconds_of
from .errors import DefinitionError
from .retries import RetryPolicy

F = TypeVar("F", bound=Callable[..., Any])
_ATTRIBUTE = "_perdure_step"


class StepOptions:
    """What `step(…)` was given. `name` None means the function's."""

    __slots__ = ("name", "retry", "timeout_seconds")

    def __init__(
        self, name: str | None = None, retry: RetryPolicy | None = None, timeout_seconds: float | None = None
    ) -> None:
        self.name = name
        self.retry = retry
        self.timeout_seconds = timeout_seconds


_NONE = StepOptions()


class StepDecorator(Protocol):
    """`@step(...)`, waiting for its function."""

    def __call__(self, fn: F, /) -> F: ...


@overload
def step(
    fn: F, /, *, name: str | None = None, retry: RetryPolicy | None = None, timeout: float | timedelta | None = None
) -> F: ...
@overload
def step(
    *, name: str | None = None, retry: RetryPolicy | None = None, timeout: float | timedelta | None = None
) -> StepDecorator: ...
def step(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    retry: RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
) -> Any:  # Any: the overloads say it
    """A copy of `fn` that carries how it is to be run as a step; calling it directly is the plain function.

    `timeout` (seconds or timedelta) is for one attempt.  The thread of a plain function can't be stopped, only asked
    (`current_step().cancelled`): the next attempt doesn't wait for it, and may run beside it.
    """
    options = StepOptions(name, retry, optional_seconds_of(timeout, "step(timeout=…)"))
    if fn is None:
        return functools.partial(_with_options, options=options)
    return _with_options(fn, options)


def step_options(fn: object) -> StepOptions:
    """The options that `fn` carries; all None for a plain function."""
    return cast("StepOptions", getattr(fn, _ATTRIBUTE, _NONE))


def step_name(fn: Callable[..., Any]) -> str | None:
    """The name under which a step is recorded; None for what has none (a lambda, a partial)."""
    named = step_options(fn).name or getattr(fn, "__name__", None)
    return None if named is None or named == "<lambda>" else named


def _with_options(fn: Callable[..., Any], options: StepOptions) -> Callable[..., Any]:
    if not callable(fn):
        raise DefinitionError(f"step: {fn!r} is no function; give the function, not what it returns")
    copy = _copy(fn) if isinstance(fn, types.FunctionType) else _Callable(fn)
    setattr(copy, _ATTRIBUTE, options)
    return copy


def _copy(fn: types.FunctionType) -> types.FunctionType:
    """Not `fn` itself: `step(fetch, timeout=3)` in one place must not change `fetch` in another."""
    copy = types.FunctionType(fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    copy.__kwdefaults__ = fn.__kwdefaults__
    functools.update_wrapper(copy, fn)
    del copy.__dict__["__wrapped__"]  # it is the same function, not a layer around it
    if wrapped := fn.__dict__.get("__wrapped__"):
        copy.__dict__["__wrapped__"] = wrapped
    return copy


class _Callable:
    """A callable that is no plain function (a class, a partial, a builtin), with a place for options."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.__wrapped__ = fn
        functools.update_wrapper(self, fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)


class StepLog(Protocol):
    """The bound logger of a step: structlog's methods."""

    def debug(self, event: str, **values: object) -> object: ...
    def info(self, event: str, **values: object) -> object: ...
    def warning(self, event: str, **values: object) -> object: ...
    def error(self, event: str, **values: object) -> object: ...
    def exception(self, event: str, **values: object) -> object: ...


class StepContext:
    """What a running step may know; the runtime subclasses it.

    `key` is the same in each attempt: hand it to the outside API as its idempotency key.
    `attempt` counts from 1; `recorded` are the items that a stream has recorded already.
    """

    key: str
    attempt: int
    recorded: Sequence[Any]  # Any: of the type that the stream yields
    log: StepLog

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for this step any more; a long one should stop."""
        raise NotImplementedError

    def heartbeat(self, progress: object = None) -> None:
        """Say that it is alive, and how far; `progress` is any JSON value, visible from outside."""
        raise NotImplementedError


_current: ContextVar[StepContext] = ContextVar("perdure_step")


def current_step() -> StepContext:
    """The step that is running here; RuntimeError outside a step."""
    try:
        return _current.get()
    except LookupError:
        raise RuntimeError("current_step() outside a step; run the function by self.ctx.run(fn, …)") from None


def enter_step(context: StepContext) -> Token[StepContext]:
    """Make `context` the current step of this task or thread; for the runtime."""
    return _current.set(context)


def leave_step(token: Token[StepContext]) -> None:
    """Undo `enter_step`."""
    _current.reset(token)

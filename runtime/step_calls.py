"""A step as it was asked for: what is to be run, with what, and how its result is read back.

Arguments and results cross by value.  What a handler sees is always the decoded result, in the first run too, and a
step that changes its arguments changes copies.
"""

from __future__ import annotations

import contextvars
import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from perdure.objects.errors import StepFailed
from perdure.objects.handlers import BoundHandler, Handler
from perdure.objects.steps import StepOptions, step_name, step_options
from perdure.objects.values import Codec, Unencodable, UnsupportedType

_ATOMIC = (str, int, float, bool, bytes, type(None))


class StepCall:
    """`arguments` is their JSON, which a replay compares; `is_async` steps run on the process's loop.

    `context` is a copy of the handler's context variables.
    """

    __slots__ = ("_args", "_codec", "_kwargs", "arguments", "context", "fn", "is_async", "is_stream", "name", "options")

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, stream: bool) -> None:
        facts = _facts_of(fn, stream)
        self.name = facts.name
        self.fn = fn
        self.options = facts.options
        self.is_stream = stream
        self.is_async = facts.is_async
        self.context = contextvars.copy_context()
        self._codec = facts.codec
        self.arguments = _encoded(self.name, args, kwargs)
        self._args = tuple(map(_own_copy, args))
        self._kwargs = {name: _own_copy(value) for name, value in kwargs.items()} if kwargs else kwargs

    def call(self) -> Any:
        """Calls the function, with arguments that nobody else holds: each attempt gets its own."""
        kwargs = {name: _own_copy(value) for name, value in self._kwargs.items()} if self._kwargs else self._kwargs
        return self.fn(*map(_own_copy, self._args), **kwargs)

    def encode(self, value: object) -> bytes:
        """The result, or one item.  Raises StepFailed if it would not come back as its own type."""
        try:
            data = self._codec.pack(value)
        except Unencodable as error:
            raise StepFailed(f"the step {self.name} returned what can't be recorded: {error}") from None
        if self._codec.type is Any and not _comes_back(value, self._codec.unpack(data)):
            raise StepFailed(
                f"the step {self.name} returned a {type(value).__name__}, which would come back as plain JSON: "
                "annotate what it returns"
            )
        return data

    def decode(self, data: bytes) -> Any:
        return self._codec.unpack(data)


class _Facts(NamedTuple):
    """What can be said of a function once and for all."""

    name: str
    options: StepOptions
    is_async: bool
    codec: Codec


def _facts_of(fn: Callable[..., Any], stream: bool) -> _Facts:
    try:
        return _known_facts_of(fn, stream)
    except TypeError:  # unhashable, perhaps; else this says again what is wrong
        return _read_facts_of(fn, stream)


@functools.lru_cache(maxsize=1024)
def _known_facts_of(fn: Callable[..., Any], stream: bool) -> _Facts:
    return _read_facts_of(fn, stream)


def _read_facts_of(fn: Callable[..., Any], stream: bool) -> _Facts:
    return _Facts(_name_of(fn, stream), step_options(fn), stream or _is_async(fn), _codec_of(fn, stream))


def _name_of(fn: Any, stream: bool) -> str:
    if inspect.iscoroutine(fn) or inspect.isawaitable(fn):
        raise TypeError(f"a step takes the function, not what it returns: run({_shown(fn)}, …) without calling it")
    if not callable(fn):
        raise TypeError(f"{fn!r} is no function: a step is run(function, argument, …)")
    if isinstance(fn, BoundHandler | Handler):
        raise TypeError("a handler is no step: await it, or send to it")
    if hasattr(getattr(_innermost(fn), "__self__", None), "_perdure_state"):
        raise TypeError(f"{_shown(fn)} is a method of the object: it would run beside its turn; make it a function")
    is_generator = inspect.isasyncgenfunction(_innermost(fn))
    if is_generator and not stream:
        raise TypeError(f"{fn.__name__} yields: use `async for item in self.ctx.stream({fn.__name__}, …)`")
    if stream and not is_generator:
        raise TypeError(f"{_shown(fn)} does not yield: `stream` takes an async generator function; use run")
    name: Any = step_name(fn) or step_name(_innermost(fn))  # Any: nothing checks what step(name=…) was given
    if name is None:
        raise TypeError('a lambda has no name to be recorded under: run(step(lambda: …, name="charge"))')
    if not isinstance(name, str) or not name.isprintable():
        raise TypeError(f"a step's name is printable text, not {name!r}")
    return name


def _shown(fn: Any) -> str:
    return getattr(_innermost(fn), "__name__", None) or type(fn).__name__


def _innermost(fn: Any) -> Any:
    fn = inspect.unwrap(fn)
    while isinstance(fn, functools.partial):
        fn = inspect.unwrap(fn.func)
    return fn


def _is_async(fn: Callable[..., Any]) -> bool:
    inner = _innermost(fn)
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(getattr(inner, "__call__", None))  # noqa: B004


def _codec_of(fn: Callable[..., Any], stream: bool) -> Codec:
    inner = _innermost(fn)
    if isinstance(inner, type):
        return Codec(inner)
    try:
        result = get_type_hints(inner, include_extras=True).get("return", Any)
    except NameError as error:
        raise TypeError(f"the annotation of step {_shown(fn)} can't be read: {error}") from None
    if stream:
        result = get_args(result)[0] if get_origin(result) is not None and get_args(result) else Any
    try:
        return Codec(result)
    except UnsupportedType as error:
        raise TypeError(f"step {_shown(fn)} returns {result!r}: {error}") from None


def _encoded(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    if not args and not kwargs:
        return b""
    try:
        return msgspec.json.encode([args, kwargs] if kwargs else [args], order="deterministic")
    except (TypeError, ValueError, RecursionError, UnicodeEncodeError) as error:
        raise TypeError(f"an argument of step {name} can't be recorded: {error}") from None


def _own_copy(value: Any) -> Any:
    return value if type(value) in _ATOMIC else copy.deepcopy(value)


def _comes_back(value: object, decoded: object) -> bool:
    if type(value) is not type(decoded):
        return False
    if isinstance(value, list):
        return all(map(_comes_back, value, decoded))  # type: ignore[call-overload]  # of one type, so a list too
    if isinstance(value, dict):
        return value.keys() == decoded.keys() and all(_comes_back(value[k], decoded[k]) for k in value)  # type: ignore[attr-defined, index]
    return True

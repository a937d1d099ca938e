"""`bob = self.ctx.ref(Account, "bob")`: what stands for an object that is elsewhere, typed as its class.

What lives here: references, what a call on one is (`Target`), and where it goes (`Outbound`).
What this file does not know: delivery. A reference holds a key and an Outbound, nothing of the object.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import msgspec

from .definitions import ServiceDefinition, definition_of
from .durations import seconds_of
from .errors import StateError
from .handlers import BoundHandler, OwnHandler
from .ids import InvalidKey, validate_idempotency_key, validate_key
from .limits import Priority, with_priority
from .signatures import HandlerDefinition
from .state import FieldDescriptor

if TYPE_CHECKING:
    from .context import Handle

F_co = TypeVar("F_co", covariant=True, bound=Callable[..., Any])


class Target(msgspec.Struct, frozen=True):
    """One call or message: whom, what, with which arguments (JSON in the wire form). `key` is "" for a Service."""

    service: ServiceDefinition
    key: str
    handler: HandlerDefinition
    arguments: bytes
    idempotency_key: str | None = None
    headers: Mapping[str, str] | None = None

    def __repr__(self) -> str:
        where = f"{self.service.name}[{self.key!r}]" if self.service.keyed else self.service.name
        return f"{where}.{self.handler.attribute}"


class Outbound(Protocol):
    """Where calls and messages go: a running handler's context, or a client. Any: a Target has lost its static type."""

    def call(self, target: Target) -> Coroutine[object, None, Any]: ...
    def stream(self, target: Target) -> AsyncIterator[Any]: ...
    def send(self, target: Target, delay: float | timedelta | None) -> Handle[Any]: ...


class ReferenceHandler(BoundHandler[F_co]):
    """A handler of another object."""

    __slots__ = ("_handler", "_headers", "_idempotency_key", "_key", "_outbound", "_service")

    # Any: the exact signature is the base's; here only the run-time behaviour stands.
    def __init__(
        self,
        service: ServiceDefinition,
        key: str,
        handler: HandlerDefinition,
        outbound: Outbound,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._service = service
        self._key = key
        self._handler = handler
        self._outbound = outbound
        self._idempotency_key = idempotency_key
        self._headers = headers

    def target(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Target:
        handler = self._handler
        arguments = handler.encode_arguments(args, kwargs)
        return Target(self._service, self._key, handler, arguments, self._idempotency_key, self._headers)

    def prepared(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
        """The call with its arguments taken now, to be made later."""
        target, outbound = self.target(args, kwargs), self._outbound
        return lambda: outbound.call(target)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        target = self.target(args, kwargs)
        return self._outbound.stream(target) if self._handler.stream else self._outbound.call(target)

    def send(self, *args: Any, **kwargs: Any) -> Handle[Any]:
        self._refuse_stream()
        return self._outbound.send(self.target(args, kwargs), None)

    def send_after(self, delay: float | timedelta, /, *args: Any, **kwargs: Any) -> Handle[Any]:
        self._refuse_stream()
        seconds_of(delay, "send_after")
        return self._outbound.send(self.target(args, kwargs), delay)

    def options(
        self,
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        priority: Priority | None = None,
    ) -> Self:
        if idempotency_key is not None:
            validate_idempotency_key(idempotency_key)
        headers = with_priority(headers, priority)
        return type(self)(self._service, self._key, self._handler, self._outbound, idempotency_key, headers)

    def _refuse_stream(self) -> None:
        if self._handler.stream:
            raise TypeError(f"{self._handler.where} is a stream; nobody would read it. Iterate it: async for … in …")

    def __repr__(self) -> str:
        return f"<{self.target.__qualname__} {self._service.name}.{self._handler.attribute} of {self._key!r}>"


class Reference:
    """The base of what stands for an object of a class; each class has a subclass with its handlers."""

    __slots__ = ("_perdure_key", "_perdure_outbound")

    _perdure_key: str
    _perdure_outbound: Outbound
    _perdure_definition: ServiceDefinition

    def __init__(self, key: str, outbound: Outbound) -> None:
        _set_key(self, key)
        _set_outbound(self, outbound)

    @property
    def key(self) -> str:
        """The key of the object that this refers to."""
        return self._perdure_key

    def __getattr__(self, name: str) -> Any:
        raise _NotHere(self._perdure_not_here(name))

    def __setattr__(self, name: str, value: Any) -> None:
        raise _NotHere(self._perdure_not_here(name))

    def __delattr__(self, name: str) -> None:
        raise _NotHere(self._perdure_not_here(name))

    def _perdure_not_here(self, name: str) -> str:
        cls = self._perdure_definition.cls
        member = inspect.getattr_static(cls, name, None)
        if isinstance(member, FieldDescriptor):
            return f"{name} is state of {cls.__name__}; ask a handler"
        if member is None:
            return f"{cls.__name__} has no handler {name!r}"
        return f"{name} of {cls.__name__} is no handler, and runs only inside it; ask a handler"

    def __repr__(self) -> str:
        return f"<reference to {self._perdure_definition.name} {self._perdure_key!r}>"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Reference) and self._perdure_key == other._perdure_key

    def __hash__(self) -> int:
        return hash((type(self), self._perdure_key))


_set_key = Reference.__dict__["_perdure_key"].__set__
_set_outbound = Reference.__dict__["_perdure_outbound"].__set__


class _NotHere(StateError, AttributeError):
    """An AttributeError too, so that hasattr() and protocols of Python get the answer they know."""


_NotHere.__name__ = _NotHere.__qualname__ = "StateError"  # what logs and callers show is a name they can look up


class _ReferenceDescriptor:
    __slots__ = ("handler", "service")

    def __init__(self, service: ServiceDefinition, handler: HandlerDefinition) -> None:
        self.service = service
        self.handler = handler

    def __get__(self, reference: Reference, owner: type) -> ReferenceHandler[Any]:
        return ReferenceHandler(self.service, reference._perdure_key, self.handler, reference._perdure_outbound)  # pyright: ignore[reportPrivateUsage]


def reference(cls: Any, key: str, outbound: Outbound) -> Any:
    """What stands for the object of `cls` at `key`, typed as `cls` by its callers; `key` is "" for a Service."""
    made: Any = getattr(cls, "_perdure_reference", None) if isinstance(cls, type) else None
    if made is None:
        made = _reference_class(cls)
    if made._perdure_definition.keyed:
        validate_key(key)
    elif key:
        raise InvalidKey(f"{cls.__name__} is a Service and has no key; leave it out")
    return made(key, outbound)


def _reference_class(cls: Any) -> Any:
    definition = definition_of(cls)
    handlers = {name: _ReferenceDescriptor(definition, h) for name, h in definition.attributes.items()}
    made = type(
        f"{definition.cls.__name__}Reference",
        (Reference,),
        {"__slots__": (), "_perdure_definition": definition, **handlers},
    )
    if definition.cls is cls:
        definition.cls._perdure_reference = made
    return made


def reference_to_self(instance: Any, attribute: str) -> BoundHandler[Any]:
    """The handler `attribute` of the object that `instance` runs for, as anybody else would reach it."""
    state = instance._perdure_state
    me = reference(state.definition.cls, state.key, outbound_of(state.context))
    bound: BoundHandler[Any] = getattr(me, attribute)
    return bound


def outbound_of(context: Any) -> Outbound:
    """Where the calls of the handler go that `context` belongs to."""
    outbound: Outbound = context._outbound
    return outbound


def target_of(bound: BoundHandler[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Target:
    """What calling `bound` with these arguments would ask for; for `client.send(ref.deposit, 5)`."""
    if isinstance(bound, ReferenceHandler):
        return bound.target(args, kwargs)
    if isinstance(bound, OwnHandler):
        raise TypeError(f"{bound!r} belongs to a running handler; send to a reference")
    raise TypeError(f"give a handler of a reference (ref.deposit), not {bound!r}")

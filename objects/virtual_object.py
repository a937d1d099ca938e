"""The three classes that users subclass.

What lives here: what is common to their instances (`key`, `ctx`, guarded attributes) and what subclassing sets off.
What this file does not know: how a definition is made (definitions.py), or who makes instances (the runtime).

No metaclass, so `class Base(VirtualObject, ABC)` and mixins work; no dataclass_transform, which invents a constructor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from .context import Context, WorkflowContext
from .definitions import Kind, ServiceDefinition, prepare
from .errors import DefinitionError, StateError
from .lifetimes import Lifetimes
from .limits import NO_LIMITS, Limits
from .retries import RetryPolicy
from .source_check import NOT_ASSIGNED, misspelt, settable

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Never

    from .migrations import OldState
    from .state import State

_INSTEAD = "a Workflow's state goes with its run (retention=), a Service has none"


class _Durable:
    """An instance that a handler runs on; it lives as long as one invocation."""

    __slots__ = ("_perdure_state",)

    _perdure_kind: ClassVar[Kind]
    _perdure_name: ClassVar[str]
    _perdure_retry: ClassVar[RetryPolicy | None] = None
    _perdure_lifetimes: ClassVar[Lifetimes] = Lifetimes()
    _perdure_limits: ClassVar[Limits] = NO_LIMITS
    _perdure_version: ClassVar[int] = 1
    _perdure_definition: ClassVar[ServiceDefinition | None] = None
    _perdure_read: ClassVar[ServiceDefinition | None] = None  # not yet checked to be fit to serve
    _perdure_reference: ClassVar[type | None] = None
    _perdure_state: State

    if TYPE_CHECKING:

        def __init__(self, never: Never, /) -> None: ...

    else:
        # Not for checkers: with a __setattr__ in sight they take any attribute for declared.

        def __init__(self, *_: Any, **__: Any) -> None:
            name = type(self).__name__
            raise TypeError(f"{name} is not constructed; ask for a reference: self.ctx.ref({name}, …)")

        def __setattr__(self, name: str, value: Any) -> None:
            state = self._perdure_state
            if name in state.fields:
                state.guard()
                if not state.writable:
                    state.refuse_assignment(name)
                state.values[name] = value
                state.changed[name] = None
            elif name in state.definition.collections:
                raise StateError(f"{type(self).__name__}.{name}: {NOT_ASSIGNED}")
            elif settable(type(self), name, deletes=False) and name not in state.definition.promises:
                object.__setattr__(self, name, value)
            else:
                _refuse_assignment(self, name)

        def __delattr__(self, name: str) -> None:
            if name in self._perdure_state.fields:
                raise StateError(f"{type(self).__name__}.{name} has always a value; assign its empty one")
            if name in self._perdure_state.definition.collections:
                raise StateError(f"{type(self).__name__}.{name}: {NOT_ASSIGNED}")
            object.__delattr__(self, name)

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        retention: float | timedelta | None = None,
        retained_max: int | None = None,
        time_to_live: float | timedelta | None = None,
        version: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init_subclass__()
        if cls.__module__ == __name__:
            return
        cls._perdure_definition = cls._perdure_read = None
        cls._perdure_reference = None
        cls._perdure_name = cls.__name__ if name is None else name
        if retry is not None:
            cls._perdure_retry = retry
        if time_to_live is not None and cls._perdure_kind is not Kind.OBJECT:
            raise DefinitionError(f"{cls.__qualname__}: time_to_live= is for a VirtualObject; {_INSTEAD}")
        where = cls.__qualname__
        if version is not None:
            cls._perdure_version = _checked_version(where, version, cls._perdure_kind)
        cls._perdure_lifetimes = cls._perdure_lifetimes.changed(where, retention, retained_max, time_to_live)
        if limits is not None:
            cls._perdure_limits = _checked_limits(where, limits, cls._perdure_kind)
        prepare(cls)


def _checked_version(where: str, version: object, kind: Kind) -> int:
    if kind is Kind.SERVICE:
        raise DefinitionError(f"{where}: version= is that of the state, and a Service has none")
    if type(version) is not int or version < 1:
        raise DefinitionError(f"{where}: version={version!r}: give a whole number, 1 or more")
    return version


def _checked_limits(where: str, limits: object, kind: Kind) -> Limits:
    if not isinstance(limits, Limits):
        raise DefinitionError(f"{where}: limits={limits!r}: give Limits(running=…, steps=…, rate=…)")
    if limits.rate_per_key is not None and kind is Kind.SERVICE:
        raise DefinitionError(f"{where}: Limits(rate_per_key=…): a Service has no keys; give rate=")
    return limits


def _refuse_assignment(instance: _Durable, name: str) -> NoReturn:
    cls, definition = type(instance), instance._perdure_state.definition  # pyright: ignore[reportPrivateUsage]
    if name in ("key", "ctx") or name in definition.promises or name in definition.attributes:
        raise StateError(f"{cls.__name__}.{name} is read-only")
    raise StateError(misspelt(cls, {*definition.fields, *definition.collections}, name))


class _Stateful(_Durable):
    """What VirtualObjects and Workflows have in common."""

    __slots__ = ()

    def migrate(self, old: OldState) -> None:
        """Override it to bring what an older version of the class stored to the form of this one (see OldState).

        It runs once for each object, when a handler first finds it stored under a lower `version`, in that handler's
        first turn: both are committed, or neither. It is replayed like a handler, so the same old state must give the
        same new one; it may not use the context.
        """


class VirtualObject(_Stateful):
    """One long-lived object for each key, with typed state; its exclusive handlers run one at a time.

    Keywords of a subclass: `name` (the name in paths and in the journal, else the class's), `retry`,
    `retention` and `retained_max` (for how long, and how many of its handlers' outcomes are kept, else the settings'),
    `time_to_live` (an idle object not written for so long is forgotten, as if it had never been; else it is kept),
    `version` (of the form of its state, 1 at first: count it up together with a `migrate`),
    `limits` (how much of it may be at work at once, and how often it may be asked; else all that is there).
    """

    __slots__ = ()
    _perdure_kind = Kind.OBJECT

    @property
    def key(self) -> str:
        """The key of this object."""
        return self._perdure_state.key

    @property
    def ctx(self) -> Context:
        """What this invocation may ask of the runtime."""
        return self._perdure_state.context


class Service(_Durable):
    """Handlers without key and state; any number run at once.

    Keywords of a subclass: `name`, `retry`, `retention`, `retained_max` and `limits`, as of a VirtualObject.
    """

    __slots__ = ()
    _perdure_kind = Kind.SERVICE

    @property
    def ctx(self) -> Context:
        """What this invocation may ask of the runtime."""
        return self._perdure_state.context


class Workflow(_Stateful):
    """An object whose `run` executes exactly once for each key; @shared handlers serve before, during and after.

    Keywords of a subclass: `name`, `retry`, `version`, `limits`, and for its runs, with their state and promises,
    `retention` and `retained_max`: then the id may be used again.
    """

    __slots__ = ()
    _perdure_kind = Kind.WORKFLOW

    @property
    def key(self) -> str:
        """The id of this workflow."""
        return self._perdure_state.key

    @property
    def ctx(self) -> WorkflowContext:
        """What this invocation may ask of the runtime."""
        context = self._perdure_state.context
        assert isinstance(context, WorkflowContext)
        return context

"""What a class says: its handlers with their codecs, its fields, its names.

What lives here: the reading of a class into a `ServiceDefinition`, and every refusal of a class that could not work.
What this file does not know: what is served, and by whom.

A class is read when it is defined, so that a mistake shows where it stands. Two things must wait for the first use:
an annotation that names what is defined later, and what only the served class has to have (handlers, no open type
variable, no abstract method), since a base class need not.
"""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, cast, get_args, get_origin

from . import annotations as hints
from .collections import CollectionField, is_collection
from .errors import DefinitionError
from .handlers import Handler
from .schedules import ScheduleDefinition, schedule_of
from .signatures import HandlerDefinition
from .source_check import check_assignments
from .state import Field, FieldDescriptor, State
from .values import Codec, Unencodable, UnsupportedType

if TYPE_CHECKING:
    from .context import Context
    from .lifetimes import Lifetimes
    from .limits import Limits
    from .retries import RetryPolicy

__all__ = ["HandlerDefinition", "Kind", "ServiceDefinition", "definition_of", "new_instance", "prepare"]

_NAME = re.compile(r"[^\s/?#%\x00-\x1f\x7f\ud800-\udfff]{1,128}")
_NO_STATE_IN = ("builtins", "typing", "typing_extensions", "abc", "collections.abc", "_collections_abc")
_RESERVED = ("key", "ctx")
_NO_DEFAULT: Any = object()
_BASES = f"{__package__}.virtual_object"
_STREAMS = (AsyncIterator, AsyncGenerator, AsyncIterable)


class Kind(enum.Enum):
    """What one key stands for."""

    OBJECT = "object"
    SERVICE = "service"
    WORKFLOW = "workflow"


class ServiceDefinition:
    """A class as the runtime serves it.

    `handlers` by wire name, `attributes` the same by attribute name, `promises` the declared promises' types,
    `collections` the fields that are a List or a Map. `version` is that of the form of its state, `migrates` whether it
    has a `migrate` for what older versions stored, `schedules` by id.
    """

    __slots__ = (
        "attributes",
        "cls",
        "collections",
        "fields",
        "handlers",
        "keyed",
        "kind",
        "lifetimes",
        "limits",
        "migrates",
        "name",
        "promises",
        "retry",
        "schedules",
        "version",
    )

    def __init__(
        self,
        cls: type[Any],
        *,
        kind: Kind,
        name: str,
        retry: RetryPolicy | None,
        lifetimes: Lifetimes,
        limits: Limits,
        version: int,
        migrates: bool,
        attributes: dict[str, HandlerDefinition],
        fields: dict[str, Field],
        collections: dict[str, CollectionField],
        promises: dict[str, Any],
        schedules: dict[str, ScheduleDefinition],
    ) -> None:
        self.name = name
        self.cls = cls
        self.kind = kind
        self.keyed = kind is not Kind.SERVICE
        self.attributes = attributes
        self.handlers = {handler.name: handler for handler in attributes.values()}
        self.fields = fields
        self.collections = collections
        self.promises = promises
        self.retry = retry
        self.lifetimes = lifetimes
        self.limits = limits
        self.version = version
        self.migrates = migrates
        self.schedules = schedules

    def __repr__(self) -> str:
        return f"<{self.kind.value} {self.name}>"


def definition_of(cls: Any) -> ServiceDefinition:
    """The definition of a class, or of a generic one with its arguments (`Cell[str]`); made once.

    Raises DefinitionError, one line, for what cannot be served.
    """
    origin = get_origin(cls) or cls
    if not isinstance(origin, type) or not isinstance(getattr(origin, "_perdure_kind", None), Kind):
        raise DefinitionError(f"{cls!r} is no VirtualObject, Service or Workflow; subclass one of them")
    if "_perdure_name" not in vars(origin):
        raise DefinitionError(f"{origin.__name__} itself cannot be served; subclass it")
    if origin is cls:
        return _definition_of_class(origin)
    return _definition_of_alias(origin, get_args(cls))


def _definition_of_class(cls: Any) -> ServiceDefinition:
    if cls._perdure_definition is None:
        cls._perdure_definition = _checked(cls._perdure_read or _read_now(cls, (), {}))
    return cast("ServiceDefinition", cls._perdure_definition)


def _definition_of_alias(origin: Any, arguments: tuple[Any, ...]) -> ServiceDefinition:
    known: dict[tuple[Any, ...], ServiceDefinition] = origin.__dict__.get("_perdure_aliases") or {}
    if arguments not in known:
        origin._perdure_aliases = {**known, arguments: _checked(_read_now(origin, arguments, {}))}
    return cast("ServiceDefinition", origin._perdure_aliases[arguments])


def new_instance(definition: ServiceDefinition, key: str, context: Context, state: State) -> object:
    """The instance that a handler runs on; no constructor runs. `key` is "" for a Service."""
    state.key = key
    state.context = context
    instance: object = object.__new__(definition.cls)
    object.__setattr__(instance, "_perdure_state", state)
    return instance


# --- when a class is defined -------------------------------------------------------------------------------------


def prepare(cls: Any) -> None:
    """Make descriptors of the annotated fields, and refuse at once what can be seen to be wrong already."""
    _refuse_names(cls)
    for mixin in reversed(_plain_mixins(cls)):
        _make_fields(cls, mixin)
    _make_fields(cls, cls)
    _take_new_defaults(cls)
    descriptors = _field_descriptors(cls)
    local = hints.enclosing_locals(cls)
    fields = frozenset(n for n, d in descriptors.items() if not hints.names_promise(d.annotation))
    collections = frozenset(
        n for n, d in descriptors.items() if is_collection(hints.outer_type(d.annotation, d.owner, local))
    )
    for base in (*_plain_mixins(cls), cls):
        check_assignments(cls, base, fields, collections)
    try:
        cls._perdure_read = _read(cls, (), local)
    except NameError:
        return  # an annotation that names what comes later; definition_of reads again


def _plain_mixins(cls: type) -> list[type]:
    """Bases that are no durable classes themselves: what they annotate is state of the classes that mix them in."""
    durable = [base for base in cls.__mro__[1:] if hasattr(base, "_perdure_read")]
    seen = {mixin for base in durable for mixin in base.__mro__}
    return [base for base in cls.__mro__[1:] if base not in seen and base.__module__ not in _NO_STATE_IN]


def _make_fields(cls: type, owner: type) -> None:
    own = {} if owner is cls else hints.own_annotations(cls)
    for name, annotation in hints.own_annotations(owner).items():
        if name not in own and not hints.names_class_attribute(annotation):
            default = vars(cls).get(name, vars(owner).get(name, _NO_DEFAULT))
            _refuse_method(cls, name, default)
            setattr(cls, name, FieldDescriptor(name, owner, annotation, default))


def _refuse_names(cls: type) -> None:
    if "__init__" in vars(cls):
        raise DefinitionError(f"{cls.__qualname__}.__init__ would never run; give the fields defaults")
    for name in (*vars(cls), *hints.own_annotations(cls)):
        if name in _RESERVED or (name.startswith("_perdure") and name not in _SET_BY_SUBCLASSING):
            raise DefinitionError(f"{cls.__qualname__}.{name}: this name is taken by Perdure; use another")


_SET_BY_SUBCLASSING = (
    "_perdure_definition",
    "_perdure_lifetimes",
    "_perdure_limits",
    "_perdure_name",
    "_perdure_read",
    "_perdure_reference",
    "_perdure_retry",
    "_perdure_version",
)


def _refuse_method(cls: type, name: str, default: object) -> None:
    if isinstance(default, Handler | property) or inspect.isroutine(default):
        raise DefinitionError(f"{cls.__qualname__}.{name} is annotated as a field and defined as a method; rename one")


def _take_new_defaults(cls: type) -> None:
    """`balance = 10` in a subclass, without annotation, is a new default of the inherited field; a method hides it."""
    for base in cls.__mro__[1:]:
        for name, inherited in vars(base).items():
            if isinstance(inherited, FieldDescriptor) and name in vars(cls):
                _take_new_default(cls, name, inherited)


def _take_new_default(cls: type, name: str, inherited: FieldDescriptor) -> None:
    value = vars(cls)[name]
    if isinstance(value, FieldDescriptor):
        return
    if isinstance(value, Handler | property) or inspect.isroutine(value):
        raise DefinitionError(f"{cls.__qualname__}.{name} hides the field {inherited.owner.__name__}.{name}; rename it")
    setattr(cls, name, FieldDescriptor(name, inherited.owner, inherited.annotation, value))


# --- reading a class ---------------------------------------------------------------------------------------------


def _read_now(cls: type, arguments: tuple[Any, ...], local: Mapping[str, Any]) -> ServiceDefinition:
    try:
        return _read(cls, arguments, local)
    except NameError as error:
        raise hints.unresolved(cls, error) from None


def _read(cls: Any, arguments: tuple[Any, ...], local: Mapping[str, Any]) -> ServiceDefinition:
    _refuse_service_name(cls)
    variables = hints.variables_of(cls, arguments)
    fields, collections, promises = _fields(cls, variables, local)
    attributes = {
        name: _handler(cls, where, handler, _types_of(owner, where, handler, variables.get(owner, {}), local))
        for name, handler, owner in _handlers(cls)
        for where in (f"{cls.__qualname__}.{name}",)
    }
    _refuse_shared_wire_name(cls, attributes)
    _refuse_wrong_kind(cls, attributes, [*fields, *collections, *promises])
    return ServiceDefinition(
        cls,
        kind=cls._perdure_kind,
        name=cls._perdure_name,
        retry=cls._perdure_retry,
        lifetimes=cls._perdure_lifetimes,
        limits=cls._perdure_limits,
        version=cls._perdure_version,
        migrates=_migrates(cls),
        attributes=attributes,
        fields=fields,
        collections=collections,
        promises=promises,
        schedules=_schedules(cls, attributes),
    )


def _refuse_service_name(cls: Any) -> None:
    name = cls._perdure_name
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "restate":
        raise DefinitionError(f"{cls.__qualname__}: {name!r} cannot be a name in a path; give name=")


def _members(cls: type) -> dict[str, tuple[object, type]]:
    """What each attribute is, and the class that says so, bases first."""
    found: dict[str, tuple[object, type]] = {}
    for owner in reversed(cls.__mro__):
        for name, member in vars(owner).items():
            found[name] = (member, owner)
    return found


def _field_descriptors(cls: type) -> dict[str, FieldDescriptor]:
    return {name: member for name, (member, _) in _members(cls).items() if isinstance(member, FieldDescriptor)}


def _handlers(cls: type) -> list[tuple[str, Handler[Any], type]]:
    _refuse_hidden_handlers(cls)
    return [(name, h, owner) for name, (h, owner) in _members(cls).items() if isinstance(h, Handler)]


def _refuse_hidden_handlers(cls: type) -> None:
    members = _members(cls)
    for base in cls.__mro__[1:]:
        for name, member in vars(base).items():
            now, owner = members[name]
            if isinstance(member, Handler) and not isinstance(now, Handler):
                raise DefinitionError(
                    f"{owner.__qualname__}.{name} hides the handler of {base.__name__}; decorate it with @handler"
                )


def _fields(
    cls: type, variables: Mapping[type, hints.Variables], local: Mapping[str, Any]
) -> tuple[dict[str, Field], dict[str, CollectionField], dict[str, Any]]:
    fields: dict[str, Field] = {}
    collections: dict[str, CollectionField] = {}
    promises: dict[str, Any] = {}
    for name, descriptor in _field_descriptors(cls).items():
        annotation = hints.resolve({name: descriptor.annotation}, descriptor.owner, None, local)[name]
        type_ = hints.substitute(annotation, variables.get(descriptor.owner, {}))
        if hints.names_promise(type_):
            promises[name] = _promise_type(cls, descriptor, type_)
        elif is_collection(get_origin(type_) or type_):
            collections[name] = _collection(cls, descriptor, type_)
        else:
            fields[name] = _field(cls, descriptor, type_)
    return fields, collections, promises


def _promise_type(cls: Any, descriptor: FieldDescriptor, type_: Any) -> Any:
    where = f"{cls.__qualname__}.{descriptor.name}"
    if cls._perdure_kind is not Kind.WORKFLOW:
        raise DefinitionError(f"{where}: only a Workflow has promises; use self.ctx.awakeable(…)")
    if descriptor.default is not _NO_DEFAULT:
        raise DefinitionError(f"{where}: a promise has no default")
    inner = get_args(type_)
    if len(inner) != 1:
        raise DefinitionError(f"{where}: say what it will hold: Promise[bool]")
    _codec(inner[0], where)
    return inner[0]


def _collection(cls: type, descriptor: FieldDescriptor, type_: Any) -> CollectionField:
    where = f"{cls.__qualname__}.{descriptor.name}"
    if descriptor.default is not _NO_DEFAULT:
        raise DefinitionError(f"{where}: a List or Map starts empty and has no default; leave it out")
    try:
        return CollectionField(descriptor.name, type_)
    except UnsupportedType as error:
        raise DefinitionError(f"{where}: {hints.shown(type_)}: {error}") from None


def _field(cls: type, descriptor: FieldDescriptor, type_: Any) -> Field:
    where = f"{cls.__qualname__}.{descriptor.name}"
    codec = _codec(type_, where)
    return Field(descriptor.name, codec, _default(descriptor.default, codec, where))


def _codec(type_: Any, where: str) -> Codec:
    try:
        return Codec(type_)
    except UnsupportedType as error:
        raise DefinitionError(f"{where}: {hints.shown(type_)}: {error}") from None


def _default(value: Any, codec: Codec, where: str) -> bytes:
    if value is _NO_DEFAULT:
        if codec.empty is None:
            raise DefinitionError(f"{where}: {hints.shown(codec.type)} starts as what? Give it a default")
        return codec.empty
    try:
        return codec.pack_checked(_plain_default(value))
    except Unencodable as error:
        raise DefinitionError(f"{where}: the default is no {hints.shown(codec.type)}: {error}") from None


def _plain_default(value: Any) -> Any:
    """`msgspec.field(default=…)` and `default_factory=…` mean what they mean in a Struct."""
    if (type(value).__module__, type(value).__name__) != ("msgspec._core", "Field"):
        return value
    return value.default_factory() if callable(value.default_factory) else value.default


def _types_of(
    owner: type, where: str, handler: Handler[Any], variables: hints.Variables, local: Mapping[str, Any]
) -> dict[str, Any]:
    """The resolved annotations of a handler that stands in `owner`, with what its type variables stand for."""
    fn = cast("Callable[..., Any]", inspect.unwrap(handler.fn))
    resolved = hints.resolve(inspect.get_annotations(fn), owner, fn, local)
    _refuse_own_variables(where, owner, resolved)
    return {name: hints.substitute(type_, variables) for name, type_ in resolved.items()}


def _handler(cls: Any, where: str, handler: Handler[Any], types: dict[str, Any]) -> HandlerDefinition:
    if not isinstance(handler.wire_name, str) or not _NAME.fullmatch(handler.wire_name):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(f"{where}: {handler.wire_name!r} cannot be a name in a path")
    return HandlerDefinition.of(
        handler,
        where=where,
        exclusive=cls._perdure_kind is not Kind.SERVICE and not handler.shared,
        types=types,
        result=_item_type(types.get("return", Any), where) if handler.stream else types.get("return", Any),
        codec=_codec,
    )


def _refuse_own_variables(where: str, owner: Any, types: Mapping[str, Any]) -> None:
    parameters = getattr(owner, "__parameters__", ())
    for name, type_ in types.items():
        for variable in hints.open_variables(type_):
            if variable not in parameters:
                raise DefinitionError(
                    f"{where}: {name!r} has the type variable {variable}, so its values cannot be checked; "
                    f"name a type, or make {owner.__name__} generic"
                )


def _item_type(type_: Any, where: str) -> Any:
    if type_ is Any:
        return Any
    if get_origin(type_) not in _STREAMS:
        raise DefinitionError(f"{where}: a stream returns AsyncIterator[…], got {hints.shown(type_)}")
    return get_args(type_)[0]


def _refuse_shared_wire_name(cls: type, attributes: Mapping[str, HandlerDefinition]) -> None:
    seen: dict[str, str] = {}
    for attribute, handler in attributes.items():
        if (other := seen.setdefault(handler.name, attribute)) != attribute:
            raise DefinitionError(f"{cls.__qualname__}: {other} and {attribute} have one name, {handler.name!r}")


def _refuse_wrong_kind(cls: Any, attributes: Mapping[str, HandlerDefinition], state: list[str]) -> None:
    if cls._perdure_kind is Kind.SERVICE and state:
        raise DefinitionError(f"{cls.__qualname__}.{state[0]}: a Service has no state; use a VirtualObject")
    if cls._perdure_kind is Kind.WORKFLOW:
        for attribute, handler in attributes.items():
            if handler.exclusive != (attribute == "run"):
                must = "is its one @handler" if attribute == "run" else "runs beside `run`: make it @shared"
                raise DefinitionError(f"{cls.__qualname__}.{attribute}: in a Workflow it {must}")


def _schedules(cls: Any, attributes: Mapping[str, HandlerDefinition]) -> dict[str, ScheduleDefinition]:
    found: dict[str, ScheduleDefinition] = {}
    for attribute, handler, _ in _handlers(cls):
        where = f"{cls.__qualname__}.{attribute}"
        if handler.options.schedules and cls._perdure_kind is Kind.WORKFLOW:
            raise DefinitionError(f"{where}: a Workflow runs once for each key; schedule a Service that calls it")
        for schedule in handler.options.schedules:
            keyed = cls._perdure_kind is not Kind.SERVICE
            made = schedule_of(
                schedule, where, cls._perdure_name, attributes[attribute], keyed=keyed, is_name=_NAME.fullmatch
            )
            if made.id in found:
                raise DefinitionError(f"{where}: two schedules are named {made.id}; give one another name=")
            found[made.id] = made
    return found


def _migrates(cls: Any) -> bool:
    """Whether the class, or a base of it, says how what older versions stored becomes what it stores."""
    if cls._perdure_kind is Kind.SERVICE:
        return False
    hook, owner = _members(cls)["migrate"]
    if owner.__module__ == _BASES:
        return False
    where = f"{owner.__qualname__}.migrate"
    if not inspect.isfunction(hook):
        raise DefinitionError(
            f"{where}: this name is for the hook that migrates state, `def migrate(self, old: OldState)`; use another"
        )
    if inspect.iscoroutinefunction(hook) or inspect.isasyncgenfunction(hook) or inspect.isgeneratorfunction(hook):
        raise DefinitionError(f"{where} is a plain `def`, without `async`, `await` and `yield`: it changes state alone")
    try:
        inspect.signature(hook).bind(None, None)
    except TypeError:
        raise DefinitionError(f"{where} takes what is stored: `def migrate(self, old: OldState) -> None`") from None
    return True


# --- what only a served class must have --------------------------------------------------------------------------


def _checked(definition: ServiceDefinition) -> ServiceDefinition:
    problem = _why_not_served(definition)
    if problem is not None:
        raise DefinitionError(f"{definition.cls.__qualname__} {problem}")
    return definition


def _why_not_served(definition: ServiceDefinition) -> str | None:
    if missing := sorted(getattr(definition.cls, "__abstractmethods__", ())):
        return f"is abstract: {', '.join(missing)} is not implemented"
    if not definition.attributes:
        return "has no handlers; decorate a method with @handler"
    if definition.kind is Kind.WORKFLOW and "run" not in definition.attributes:
        return "is a Workflow without `run`; decorate one with @handler"
    if definition.migrates and definition.version == 1:
        return "has a migrate, which runs for what is stored under a lower version; count up: version=2"
    if variable := _open_variable(definition):
        name = definition.cls.__name__
        return f"leaves {variable} open; serve a class such as `class My{name}({name}[int])`"
    return None


def _open_variable(definition: ServiceDefinition) -> object:
    types = [field.type for field in definition.fields.values()]
    types += [collection.type for collection in definition.collections.values()]
    types += [type_ for handler in definition.attributes.values() for type_ in handler.types]
    return next((variable for type_ in types for variable in hints.open_variables(type_)), None)

"""A handler's arguments and result on the wire.

What lives here: which JSON a call is. Nothing for a handler without parameters; the value itself for a lone
positional parameter; otherwise an object by name. Defaults apply to what is missing, each time a fresh copy.
What this file does not know: classes, references, HTTP.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from .errors import DefinitionError, InvalidArguments, TerminalError
from .handlers import Handler
from .retries import RetryPolicy
from .values import Codec, Unencodable

MakeCodec = Callable[[Any, str], Codec]
_EMPTY = inspect.Parameter.empty
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_POSITIONAL = inspect.Parameter.POSITIONAL_ONLY
Call = tuple[tuple[Any, ...], dict[str, Any]]


class HandlerDefinition:
    """A handler as the runtime runs it: `fn(instance, *args, **kwargs)`, with the codecs of its values.

    `name` is the wire name; `exclusive` is False for @shared and for every handler of a Service.
    `input_type` is that of its wire form (None: it takes nothing), `input_optional` whether that may be left out.
    `encode_result` and `decode_result` are for one item if it is a stream.
    """

    __slots__ = (
        "_arguments",
        "_result",
        "attribute",
        "decode_arguments",
        "encode_arguments",
        "exclusive",
        "fn",
        "input_optional",
        "input_type",
        "name",
        "output_type",
        "public",
        "retry",
        "stream",
        "timeout_seconds",
        "types",
        "where",
    )

    def __init__(self, handler: Handler[Any], where: str, exclusive: bool, arguments: Arguments, result: Codec) -> None:
        self.name = handler.wire_name
        self.attribute = handler.attribute
        self.where = where
        self.fn = handler.fn
        self.exclusive = exclusive
        self.stream = handler.stream
        self.public = handler.options.public
        self.retry: RetryPolicy | None = handler.options.retry
        self.timeout_seconds = handler.options.timeout_seconds
        self.input_type, self.input_optional = arguments.wire
        self.output_type = result.type
        self.types: tuple[Any, ...] = (*arguments.types, result.type)
        self.encode_arguments: Callable[[tuple[Any, ...], dict[str, Any]], bytes] = arguments.encode
        """To the wire form; TypeError when they do not bind or do not fit their annotations."""
        self.decode_arguments: Callable[[bytes], Call] = arguments.decode
        """From the wire form; InvalidArguments, with the path, for anything wrong with it."""
        self._arguments = arguments
        self._result = result

    @property
    def takes_nothing(self) -> bool:
        """Whether it can be called without an argument."""
        return self.input_type is None or self.input_optional

    @classmethod
    def of(
        cls,
        handler: Handler[Any],
        *,
        where: str,
        exclusive: bool,
        types: Mapping[str, Any],
        result: Any,
        codec: MakeCodec,
    ) -> HandlerDefinition:
        """Read the signature of `handler`; `types` are its resolved annotations."""
        signature = _without_self(inspect.signature(handler.fn), where)
        arguments = _arguments(where, signature, types, codec)
        return cls(handler, where, exclusive, arguments, codec(result, f"{where} -> …"))

    def encode_result(self, value: object) -> bytes:
        """JSON, never empty; TerminalError (500) that names type and handler if it cannot be given to the caller."""
        try:
            return self._result.pack(value)
        except Unencodable as error:
            raise TerminalError(
                f"{self.where} returned a {type(value).__name__}, which its annotation does not hold: {error}"
            ) from None

    def decode_result(self, body: bytes) -> Any:
        """The result of a call; InvalidArguments if it does not fit, as when the annotation has changed since."""
        return self._result.unpack_own(body)

    def __repr__(self) -> str:
        return f"<handler {self.where}>"


class Arguments:
    """The base of three wire forms."""

    __slots__ = ("signature", "types", "where")

    def __init__(self, where: str, signature: inspect.Signature, types: tuple[Any, ...]) -> None:
        self.where = where
        self.signature = signature
        self.types = types

    @property
    def wire(self) -> tuple[Any, bool]:
        """The type of the JSON (None: there is none), and whether it may be left out."""
        return None, True

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        raise NotImplementedError

    def decode(self, body: bytes) -> Call:
        raise NotImplementedError

    def mismatch(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TypeError:
        """Python's own words for arguments that do not bind."""
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            return TypeError(f"{self.where}: {error}")
        return TypeError(f"{self.where}: these arguments do not bind to {self.signature}")


class NoArguments(Arguments):
    """A handler without parameters: an empty body, or null."""

    __slots__ = ()

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        if args or kwargs:
            raise self.mismatch(args, kwargs)
        return b""

    def decode(self, body: bytes) -> Call:
        if body and body.strip() not in (b"", b"null"):
            raise InvalidArguments("$", f"{self.where} takes no arguments; send an empty body or null")
        return (), {}


class LoneArgument(Arguments):
    """One positional parameter takes the whole body; an empty one is its default."""

    __slots__ = ("codec", "default", "name", "pack")

    def __init__(self, where: str, signature: inspect.Signature, parameter: inspect.Parameter, codec: Codec) -> None:
        super().__init__(where, signature, (codec.type,))
        self.name = parameter.name if parameter.kind is not _POSITIONAL else None
        self.codec = codec
        self.pack = codec.pack
        self.default = _Default.of(parameter, codec)

    @property
    def wire(self) -> tuple[Any, bool]:
        return self.codec.type, self.default is not None

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        if kwargs or len(args) != 1:
            if not args and not kwargs and self.default is not None:
                return b""
            if args or self.name is None or kwargs.keys() != {self.name}:
                raise self.mismatch(args, kwargs)
            args = (kwargs[self.name],)
        try:
            return self.pack(args[0])
        except Unencodable as error:
            raise _unfit(self.where, self.signature, error, 0) from None

    def decode(self, body: bytes) -> Call:
        if self.default is not None and not body.strip():
            return (self.default.copy(),), {}
        return (self.codec.unpack_hostile(body),), {}


class NamedArguments(Arguments):
    """Several parameters, or a lone one after `*`: a JSON object by name."""

    __slots__ = ("codec", "count", "every", "keywords", "optional", "packs", "required")

    def __init__(
        self,
        where: str,
        signature: inspect.Signature,
        parameters: list[inspect.Parameter],
        codecs: list[Codec],
        record: Codec,
    ) -> None:
        super().__init__(where, signature, tuple(codec.type for codec in codecs))
        self.count = sum(p.kind is not _KEYWORD for p in parameters)  # of those that have a position
        self.keywords = frozenset(p.name for p in parameters if p.kind is not _POSITIONAL)
        self.every = [p.name for p in parameters]
        self.required = frozenset(p.name for p in parameters if p.default is _EMPTY)
        self.packs = {
            p.name: (f'"{p.name}":'.encode(), codec.pack) for p, codec in zip(parameters, codecs, strict=True)
        }
        self.optional = not self.required
        self.codec = record

    @property
    def wire(self) -> tuple[Any, bool]:
        return self.codec.type, self.optional

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        if not kwargs and len(args) == self.count == len(self.every):
            return self._packed(self.every, args)
        given = dict(zip(self.every, args, strict=False))
        if len(args) > self.count or not self.keywords.issuperset(kwargs) or given.keys() & kwargs.keys():
            raise self.mismatch(args, kwargs)
        given.update(kwargs)
        if not self.required <= given.keys():
            raise self.mismatch(args, kwargs)
        names = [name for name in self.every if name in given]  # in the order of the signature, however called
        return self._packed(names, [given[name] for name in names])

    def _packed(self, names: list[str], values: Iterable[Any]) -> bytes:
        parts: list[bytes] = []
        name = ""
        try:
            for name, value in zip(names, values, strict=True):
                label, pack = self.packs[name]
                parts.append(label + pack(value))
        except Unencodable as error:
            raise TypeError(f"{self.where}: {name}{error.path[1:]}: {error.reason}") from None
        return b"{" + b",".join(parts) + b"}"

    def decode(self, body: bytes) -> Call:
        if self.optional and not body.strip():
            body = b"{}"
        record: Any = self.codec.unpack_hostile(body)
        values = msgspec.structs.astuple(record)
        if self.count == len(values):
            return values, {}
        return values[: self.count], dict(zip(self.every[self.count :], values[self.count :], strict=True))


class _Default:
    """A parameter's default: the object itself, or a copy for each call if it could change in place."""

    __slots__ = ("codec", "data", "value")

    def __init__(self, value: object, codec: Codec) -> None:
        self.value = value
        self.codec = codec
        self.data = codec.pack_checked(value) if codec.mutable and value is not None else None

    @classmethod
    def of(cls, parameter: inspect.Parameter, codec: Codec) -> _Default | None:
        return None if parameter.default is _EMPTY else cls(parameter.default, codec)

    def copy(self) -> Any:
        return self.value if self.data is None else self.codec.unpack(self.data)


def _without_self(signature: inspect.Signature, where: str) -> inspect.Signature:
    parameters = list(signature.parameters.values())
    for parameter in parameters:
        if parameter.kind in _VARIADIC:
            raise DefinitionError(
                f"{where} takes {parameter}, which no caller can see; name its parameters"
                " (a decorator between @handler and the function needs functools.wraps)"
            )
    if not parameters or parameters[0].kind is _KEYWORD:
        raise DefinitionError(f"{where} has no self; make it a method")
    return signature.replace(parameters=parameters[1:], return_annotation=inspect.Signature.empty)


def _arguments(where: str, signature: inspect.Signature, types: Mapping[str, Any], codec: MakeCodec) -> Arguments:
    parameters = list(signature.parameters.values())
    codecs = [codec(types.get(p.name, Any), f"{where}({p.name})") for p in parameters]
    try:
        if not parameters:
            return NoArguments(where, signature, ())
        if len(parameters) == 1 and parameters[0].kind is not _KEYWORD:
            return LoneArgument(where, signature, parameters[0], codecs[0])
        return NamedArguments(where, signature, parameters, codecs, _record(parameters, codecs))
    except Unencodable as error:
        raise DefinitionError(f"{where}: a default does not fit its annotation: {error}") from None


def _record(parameters: list[inspect.Parameter], codecs: list[Codec]) -> Codec:
    """A Struct with a field for each parameter: msgspec binds and validates them all at once."""
    fields: list[Any] = []
    for parameter, codec in zip(parameters, codecs, strict=True):
        default = _Default.of(parameter, codec)
        name_and_type = (parameter.name, codec.type)
        if default is None:
            fields.append(name_and_type)
        else:
            fields.append((*name_and_type, msgspec.field(default_factory=default.copy)))
    return Codec(msgspec.defstruct("Arguments", fields, forbid_unknown_fields=True, kw_only=True))


def _unfit(where: str, signature: inspect.Signature, error: Unencodable, index: int) -> TypeError:
    name = list(signature.parameters)[index]
    return TypeError(f"{where}: {name}{error.path[1:]}: {error.reason}")

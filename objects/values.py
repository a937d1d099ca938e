"""Values as JSON: encoded by msgspec, checked against an annotation, safe against hostile input.

What lives here: `Codec`, one annotation's way to bytes and back, and the checks that msgspec does not make.
What this file does not know: handlers, fields, HTTP. Paths in messages begin at `$`, the value itself.

What comes in is refused if it is nested deeper than DEPTH_MAX (Python's own limit depends on the stack of the moment,
so a document taken today might not be readable at the next start), repeats a name (msgspec keeps the last one, other
readers the first), or holds a whole number beyond 64 bits (most readers of JSON, SQLite among them, round it).
What goes out must come back: it is decoded again unless its exact type makes that certain.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import accumulate
from typing import Any, cast

import msgspec
from msgspec import inspect as kinds

from .errors import InvalidArguments

DEPTH_MAX = 128
INT_MIN, INT_END = -(2**63), 2**64
_SUSPICIOUS_BYTES = 11
"""`{"":1,"":2}` is the shortest body that needs a second look."""
_LONG_NUMBER = re.compile(rb"\d{19}")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_PATH = re.compile(r"(.*) - at `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Unencodable(ValueError):
    """A value that JSON or its annotation cannot hold; `path` says where in it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class UnsupportedType(TypeError):
    """An annotation that msgspec cannot encode; the message says which part."""


class Codec:
    """One annotation's way to JSON and back.

    `mutable`: whether a value can change in place. `empty`: the bytes of the empty collection, None for other types.
    `exact`: the plain type that it is, None for others. `encode`: to bytes that may not come back.
    """

    __slots__ = ("_decode", "_loose_floats", "_names", "empty", "encode", "exact", "mutable", "pack", "type", "unpack")

    def __init__(self, annotation: Any) -> None:
        traits = _Traits(annotation)
        self.type = annotation
        self.mutable = traits.mutable
        self.empty = traits.empty
        self.exact = traits.exact
        # Sorted only where sets are: their order depends on the hash seed, and sorting dict keys costs.
        self.encode: Callable[[object], bytes] = msgspec.json.Encoder(
            order="deterministic" if traits.has_sets else None
        ).encode
        self._decode: Callable[[bytes], object] = _decoder(annotation).decode
        self._loose_floats = traits.loose_floats
        self._names = traits.required_names
        self.pack: Callable[[object], bytes] = _quick_pack(traits.exact, self.encode, self.pack_checked)
        """To bytes that are known to come back; raises Unencodable."""
        self.unpack = self._decode
        """From bytes that `pack` made; raises msgspec's errors if the annotation has changed since."""

    def pack_checked(self, value: object) -> bytes:
        """The long way of `pack`: encode, look for what JSON would lose, decode again."""
        data = _encoded(self.encode, value)
        try:
            _refuse_depth(data)
            if b"null" in data and self._loose_floats:
                _refuse_non_finite(value, "$")
            decoded = self._decode(data)
            _refuse_long_numbers(data, decoded)
        except msgspec.ValidationError as error:
            raise Unencodable(*_explained(error)) from None
        except InvalidArguments as error:
            raise Unencodable(error.path, error.reason) from None
        return data

    def unpack_hostile(self, body: bytes) -> object:
        """From bytes that anybody may have sent; raises InvalidArguments with the path, never anything else."""
        if len(body) < _SUSPICIOUS_BYTES:
            return self.unpack_own(body)
        _refuse_depth(body)
        decoded = self.unpack_own(body)
        if body.count(b":") > self._names:
            _refuse_repeated_names(body)
        _refuse_long_numbers(body, decoded)
        return decoded

    def unpack_own(self, body: bytes) -> object:
        """From bytes that a Codec made, perhaps of another annotation; raises InvalidArguments with the path."""
        try:
            return self._decode(body)
        except msgspec.ValidationError as error:
            malformed = _why_malformed(body)  # the type is looked at first, and `{"to":` isn't an object of another
            raise InvalidArguments(*(("$", malformed) if malformed else _explained(error))) from None
        except msgspec.DecodeError as error:
            raise InvalidArguments("$", _malformed(body, error)) from None
        except UnicodeDecodeError:
            raise InvalidArguments("$", "not UTF-8") from None
        except (RecursionError, ValueError, ArithmeticError) as error:
            raise InvalidArguments("$", f"cannot be read ({type(error).__name__})") from None


def codec_of(annotation: Any) -> Codec:
    """One for each annotation, made once: for those that a handler names at each run.  Raises UnsupportedType."""
    try:
        return _known_codec(annotation)
    except TypeError as error:
        if isinstance(error, UnsupportedType):
            raise
        return Codec(annotation)  # one that can't be hashed


@lru_cache(maxsize=1024)
def _known_codec(annotation: Any) -> Codec:
    return Codec(annotation)


def same_value(one: bytes, other: bytes) -> bool:
    """Whether two bodies are the same JSON value: order of names, white space and escapes aside."""
    return one == other or _canonical(one) == _canonical(other)


def _canonical(body: bytes) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(body), order="sorted") if body.strip() else b"null"


# --- going out ---------------------------------------------------------------------------------------------------


def _encoded(encode: Callable[[object], bytes], value: object) -> bytes:
    try:
        return encode(value)
    except RecursionError:
        raise Unencodable("$", f"contains itself, or is nested deeper than {DEPTH_MAX} levels") from None
    except UnicodeEncodeError:
        raise Unencodable("$", "text with a lone surrogate; JSON cannot hold it") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise Unencodable("$", _why_not_encoded(error)) from None


def _why_not_encoded(error: Exception) -> str:
    text = str(error)
    if "'<' not supported" in text:
        return f"the items of a set must have an order, so that it is always stored alike ({text})"
    if "digits" in text:
        return "a whole number beyond 64 bits; use a str, or a float"
    return text[:1].lower() + text[1:]


def _quick_pack(
    exact: type | None, encode: Callable[[object], bytes], checked: Callable[[object], bytes]
) -> Callable[[object], bytes]:
    """For plain int, str, bool, float and None the exact type is proof enough: decoding again would double the cost."""
    if exact is int:
        return lambda value: encode(value) if type(value) is int and INT_MIN <= value < INT_END else checked(value)
    if exact is float:
        finite = math.isfinite
        return lambda value: encode(value) if type(value) is float and finite(value) else checked(value)
    if exact is str:  # other text may have a lone surrogate
        return lambda value: encode(value) if type(value) is str and value.isascii() else checked(value)
    if exact in (bool, type(None)):
        return lambda value: encode(value) if type(value) is exact else checked(value)
    return checked


def _refuse_non_finite(value: object, path: str) -> None:
    """JSON has no NaN: msgspec writes null, which `float | None` would read back as None."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Unencodable(path, f"{value} is not in JSON; use None or a str for it")
    else:
        for step, part in _parts(value):
            _refuse_non_finite(part, path + step)


def _parts(value: object) -> Iterable[tuple[str, object]]:
    if isinstance(value, dict):
        pairs = cast("dict[object, object]", value)
        return ((f".{name}" if isinstance(name, str) else f"[{name!r}]", part) for name, part in pairs.items())
    if isinstance(value, list | tuple):
        items = cast("list[object]", value)
        return ((f"[{index}]", part) for index, part in enumerate(items))
    if isinstance(value, set | frozenset):
        return (("[...]", part) for part in cast("set[object]", value))
    if isinstance(value, msgspec.Struct):
        return ((f".{name}", getattr(value, name)) for name in value.__struct_fields__)
    names = getattr(value, "__dataclass_fields__", ())
    return ((f".{name}", getattr(value, name)) for name in names)


# --- coming in ---------------------------------------------------------------------------------------------------


def _refuse_depth(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") <= DEPTH_MAX:
        return
    brackets = _STRING.sub(b"", body).translate(None, _NOT_BRACKETS)
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > DEPTH_MAX:
        raise InvalidArguments("$", f"nested deeper than {DEPTH_MAX} levels")


def _refuse_long_numbers(body: bytes, decoded: object) -> None:
    if len(body) < 19 or _LONG_NUMBER.search(body) is None:
        return
    _refuse_long_int(msgspec.to_builtins(decoded), "$")


def _refuse_long_int(value: object, path: str) -> None:
    if isinstance(value, int):
        if not INT_MIN <= value < INT_END:
            raise InvalidArguments(path, "a whole number beyond 64 bits; send it as a string")
    elif isinstance(value, dict | list | tuple | set | frozenset):
        for step, part in _parts(cast("object", value)):
            _refuse_long_int(part, path + step)


class _Repeated:
    """Stands in a parsed document for an object that has a name twice, until its path is known."""

    def __init__(self, name: str) -> None:
        self.name = name


def _pairs(pairs: list[tuple[str, object]]) -> object:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return _Repeated(name)
        seen.add(name)
    return found


def _refuse_repeated_names(body: bytes) -> None:
    # Numbers are of no interest here, and a long one would be slow to read.
    document = json.loads(body, object_pairs_hook=_pairs, parse_int=len, parse_float=len)
    _find_repeated(document, "$")


def _find_repeated(value: object, path: str) -> None:
    if isinstance(value, _Repeated):
        raise InvalidArguments(f"{path}.{value.name}", "this name appears twice")
    for step, part in _parts(value):
        _find_repeated(part, path + step)


def _why_malformed(body: bytes) -> str | None:
    """What is wrong with its syntax; None: nothing."""
    try:
        msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        said = str(error)
        return _malformed(body, error) if "malformed" in said or "truncated" in said else None
    except (RecursionError, ValueError):  # deeper, or of more digits, than can be read
        return None
    return None


def _malformed(body: bytes, error: msgspec.DecodeError) -> str:
    if not body.strip():
        return "the body is empty; send JSON"
    if "surrogate" in str(error) or _SURROGATE.search(body):
        return "not JSON: a lone surrogate in a string"
    if "truncated" in str(error):
        return "not JSON: it ends too early"
    return "not JSON: " + str(error).removeprefix("JSON is malformed: ")


def _explained(error: msgspec.ValidationError) -> tuple[str, str]:
    """msgspec's message as (path, reason): "Expected `int` - at `$.a`" becomes ("$.a", "expected int")."""
    found = _PATH.fullmatch(str(error))
    reason, path = (found[1], found[2]) if found else (str(error), "$")
    for pattern, meaning in ((_MISSING, "missing"), (_UNKNOWN, "unknown name")):
        if named := pattern.fullmatch(reason):
            return f"{path}.{named[1]}", meaning
    reason = reason.replace("`", "")
    return path, reason[:1].lower() + reason[1:]


# --- what a type is like -----------------------------------------------------------------------------------------

_ORDERED_FREELY = (kinds.SetType, kinds.FrozenSetType, kinds.AnyType, kinds.RawType)
_MUTABLE = (
    kinds.ListType,
    kinds.SetType,
    kinds.DictType,
    kinds.TypedDictType,
    kinds.ByteArrayType,
    kinds.MemoryViewType,
    kinds.AnyType,
)
_EMPTY = ((kinds.ListType, b"[]"), (kinds.SetType, b"[]"), (kinds.FrozenSetType, b"[]"), (kinds.DictType, b"{}"))
_NOT_JSON = (kinds.CustomType, kinds.ExtType)
_EXACT: tuple[tuple[kinds.Type, type], ...] = (
    (kinds.IntType(), int),
    (kinds.StrType(), str),
    (kinds.FloatType(), float),
    (kinds.BoolType(), bool),
    (kinds.NoneType(), type(None)),
)


class _Traits:
    """What a whole tree of types is like, found once for each annotation."""

    def __init__(self, annotation: Any) -> None:
        root = _info(annotation)
        tree = list(_walk(root, set()))
        self.mutable = any(map(_is_mutable, tree))
        self.has_sets = any(isinstance(node, _ORDERED_FREELY) for node in tree)
        self.loose_floats = any(isinstance(node, kinds.FloatType | kinds.AnyType) for node in tree)
        self.empty = next((empty for kind, empty in _EMPTY if isinstance(root, kind)), None)
        self.exact = next((cls for plain, cls in _EXACT if type(root) is type(plain) and root == plain), None)
        self.required_names = _required_names(root)
        for node in tree:
            if isinstance(node, _NOT_JSON):
                raise UnsupportedType(_why_not_json(node))


def _info(annotation: Any) -> kinds.Type:
    try:
        info = kinds.type_info(annotation)
        _decoder(annotation)
    except (TypeError, NameError, ValueError, AttributeError) as error:
        raise UnsupportedType(" ".join(str(error).split())) from None
    while isinstance(info, kinds.Metadata):
        info = info.type
    return info


def _decoder(annotation: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(annotation)


def _walk(node: kinds.Type, seen: set[int]) -> Iterable[kinds.Type]:
    if id(node) in seen:
        return
    seen.add(id(node))
    yield node
    for name in getattr(node, "__struct_fields__", ()):
        part = getattr(node, name)
        for child in cast("tuple[object, ...]", part) if isinstance(part, tuple) else (part,):
            inner = child.type if isinstance(child, kinds.Field) else child
            if isinstance(inner, kinds.Type):
                yield from _walk(inner, seen)


def _is_mutable(node: kinds.Type) -> bool:
    if isinstance(node, kinds.StructType | kinds.DataclassType):
        return not _is_frozen(node.cls)
    return isinstance(node, _MUTABLE)


def _is_frozen(cls: Any) -> bool:
    config = getattr(cls, "__struct_config__", None) or getattr(cls, "__dataclass_params__", None)
    return bool(getattr(config, "frozen", False))


def _required_names(root: kinds.Type) -> int:
    """So many names a valid document has at least, and with no more colons than that none can appear twice."""
    if isinstance(root, kinds.StructType | kinds.TypedDictType | kinds.DataclassType):
        return max(1, sum(field.required for field in root.fields))
    return 1


def _why_not_json(node: kinds.Type) -> str:
    cls = getattr(node, "cls", None)
    name: str = getattr(cls, "__qualname__", None) or type(node).__name__
    reason = getattr(cls, "_perdure_no_value", "cannot be encoded as JSON; use a msgspec.Struct or a dataclass")
    return f"{name} {reason}"

"""Keys of entries as bytes, in the order of the keys themselves: a store walks the bytes, a user sees the keys.

A List's entry has its index, 8 bytes, big-endian. A Map's has a tag, then text as UTF-8 (in the order of code points)
or a number moved up by 2^63, 8 bytes, big-endian. The tags keep the three apart when a field has changed its type.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect as kinds

from .values import Codec, Unencodable, UnsupportedType

KEY_BYTES_MAX = 512
_TEXT, _NUMBER = b"s", b"i"
NO_TAG = ""
_NUMBER_MIN, _NUMBER_END = -(2**63), 2**63


def index_key(index: int) -> bytes:
    """The key of a List's entry."""
    return index.to_bytes(8, "big")


def label_of(entry: bytes) -> str:
    """The key of an entry as people read it: `3` in a List, `'bob'` or `3` in a Map."""
    if entry[:1] == _TEXT:
        return repr(entry[1:].decode("utf-8", "backslashreplace"))
    return str(plain_key(entry) if entry[:1] == _NUMBER else int.from_bytes(entry, "big"))


def tag_of(entry: bytes) -> str:
    """`s` of a Map's key that is text, `i` of one that is a number, NO_TAG of a List's: none is so long that the first
    byte of an index would be one of these.
    """
    tag = entry[:1]
    return tag.decode() if tag in (_TEXT, _NUMBER) else NO_TAG


def words_for(tag: str) -> str:
    """`3 entries …`"""
    return {"s": "of a Map with text for keys", "i": "of a Map with numbers for keys"}.get(tag, "of a List")


class KeyForm:
    """A Map's keys as bytes, in the order of the keys: numbers by value, text by code points."""

    __slots__ = ("_codec", "_exact", "tags", "type")

    def __init__(self, annotation: Any) -> None:
        self.type = annotation
        self._codec = Codec(annotation)
        self._exact = self._codec.exact
        if not _is_key_type(annotation):
            raise UnsupportedType("a key is a str or an int, or a NewType, Literal or Enum of these")
        self.tags = _tags(annotation)

    def pack(self, key: object) -> bytes:
        """Raises Unencodable for what is no key of this type."""
        if type(key) is not self._exact:
            key = msgspec.to_builtins(self._codec.unpack(self._codec.pack_checked(key)))
        return _packed_text(key) if isinstance(key, str) else _packed_number(key)

    def unpack(self, entry: bytes) -> Any:
        """Raises a ValueError if the entry was written under another type of key."""
        plain = plain_key(entry)
        return plain if type(plain) is self._exact else msgspec.convert(plain, self.type)


def _tags(annotation: Any) -> tuple[str, ...]:
    """Which tags its keys may have: both only if it is a Literal of both."""
    kind = kinds.type_info(annotation)
    while isinstance(kind, kinds.Metadata):
        kind = kind.type
    values: list[object] = []
    if isinstance(kind, kinds.LiteralType):
        values = list(kind.values)
    elif isinstance(kind, kinds.EnumType):
        values = [member.value for member in kind.cls]
    if not values:
        return (_TEXT.decode() if isinstance(kind, kinds.StrType) else _NUMBER.decode(),)
    return tuple(sorted({_TEXT.decode() if isinstance(value, str) else _NUMBER.decode() for value in values}))


def _is_key_type(annotation: Any) -> bool:
    kind = kinds.type_info(annotation)
    while isinstance(kind, kinds.Metadata):
        kind = kind.type
    if isinstance(kind, kinds.LiteralType):
        return all(type(value) in (str, int) for value in kind.values)
    return isinstance(kind, kinds.StrType | kinds.IntType | kinds.EnumType)  # msgspec's enums are of str or int


def _packed_text(text: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise Unencodable("$", "text with a lone surrogate") from None
    if len(data) > KEY_BYTES_MAX:
        raise Unencodable("$", f"a key has at most {KEY_BYTES_MAX} bytes, this one {len(data):,}")
    return _TEXT + data


def _packed_number(number: Any) -> bytes:
    if not _NUMBER_MIN <= number < _NUMBER_END:
        raise Unencodable("$", "a whole number beyond 64 bits")
    return _NUMBER + index_key(number - _NUMBER_MIN)


def plain_key(entry: bytes) -> str | int:
    """The key of a Map's entry, whatever its annotation says; raises a ValueError if it is that of a List's."""
    if entry[:1] == _TEXT:
        return entry[1:].decode()
    if entry[:1] != _NUMBER:
        raise ValueError("an entry of a List")  # the field was one, in an older version of the class
    return int.from_bytes(entry[1:], "big") + _NUMBER_MIN

"""The store's rows as what the kernel means by them, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import msgspec

from .. import rows
from ..invocations import Invocation, ObjectEntry
from ..store import Moment

_REMEMBERED = 256


class StoredObject:
    """One keyed object; the bytes are unpacked when they are needed."""

    __slots__ = ("_bytes", "_entry", "key", "service")

    def __init__(self, row: bytes, value: bytes) -> None:
        self.service, self.key = row[1:].decode().split("\0")
        self._bytes = value
        self._entry: ObjectEntry | None = None

    @property
    def entry(self) -> ObjectEntry:
        if self._entry is None:
            self._entry = rows.unpack_entry(self._bytes)
        return self._entry


class StoredInvocation:
    """One invocation, likewise; `stored` is where it was found."""

    __slots__ = ("_bytes", "_invocation", "id", "stored")

    def __init__(self, stored: Stored, row: bytes, value: bytes) -> None:
        self.stored = stored
        self.id = row[1:].decode(errors="surrogatepass")
        self._bytes = value
        self._invocation: Invocation | None = None

    @property
    def it(self) -> Invocation:
        if self._invocation is None:
            self._invocation = rows.unpack_invocation(self._bytes)
        return self._invocation


class Stored:
    """All that a store holds, as of one moment.  Each method raises StoreError, UnreadableRow."""

    def __init__(self, moment: Moment) -> None:
        self._moment = moment
        self.invocation = lru_cache(_REMEMBERED)(self._invocation)
        """By id; of those that are joined to others, some are asked for again and again."""

    def invocations(self, id: str | None = None) -> Iterator[StoredInvocation]:
        """All of them, or the one of that id."""
        if id is not None:
            row = rows.invocation_key(id)
            value = self._moment.get(row)
            if value is not None:
                yield StoredInvocation(self, row, value)
            return
        for row, value in self._moment.scan(b"i", b"j"):
            yield StoredInvocation(self, row, value)

    def objects(self, service: str | None = None, key: str | None = None) -> Iterator[StoredObject]:
        """All of them, those of a class, or one."""
        if service is not None and key is not None:
            row = rows.object_key(service, key)
            value = self._moment.get(row)
            if value is not None and row.count(b"\0") == 1:
                yield StoredObject(row, value)
            return
        begin, end = (b"o", b"p") if service is None else rows.objects_range(service)
        for row, value in self._moment.scan(begin, end):
            yield StoredObject(row, value)

    def entries(self, service: str, key: str, field: str) -> Iterator[tuple[bytes, bytes]]:
        """Those of a List or Map, by their keys (objects/entry_keys.py), as JSON."""
        begin, end = rows.entries_range(service, key, field)
        for row, value in self._moment.scan(begin, end):
            yield row[len(begin) :], value

    def object(self, service: str, key: str) -> ObjectEntry | None:
        return next((found.entry for found in self.objects(service, key)), None)

    def _invocation(self, id: str) -> Invocation | None:
        return next((found.it for found in self.invocations(id)), None)


def text(value: bytes | None) -> str | None:
    """JSON bytes as text."""
    return None if value is None else bytes(value).decode()


def json(value: object) -> str:
    return msgspec.json.encode(value).decode()

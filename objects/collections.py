"""`List` and `Map`: state that may outgrow memory. Their entries are stored, journaled and loaded one by one.

What lives here: what users do with them, and how a class declares them.
What this file does not know: how changes of a turn are kept over what is committed (entries.py).

They hold no values themselves: an instance stands for a field of one invocation's object, as long as that runs.
A List is a stack, not a queue: a value has its index for its key, so nothing is put or taken in the middle.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, ItemsView, Iterable, Iterator, MutableMapping, Sequence, ValuesView
from enum import Enum
from operator import index as index_of
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, final, get_args, get_origin, overload

from . import annotations as hints
from .entries import ABSENT, CLEAR_MAX, PORTION, Entries, EntrySource, ReaderEntries
from .entry_keys import NO_TAG, KeyForm, index_key
from .errors import MEND_STATE, StateError
from .values import Codec, Unencodable, UnsupportedType

if TYPE_CHECKING:
    from typing import Never, Self

T = TypeVar("T")
K = TypeVar("K", bound=str | int | Enum)
V = TypeVar("V")


class _Collection:
    """What List and Map have in common: both stand for a field, and are nothing without it."""

    __slots__ = ("_entries",)

    _entries: Entries
    _perdure_no_value = "is a state field by itself, not part of another type, argument or result; use list or dict"

    if TYPE_CHECKING:

        def __init__(self, never: Never, /) -> None: ...

    else:

        def __init__(self, *_: Any, **__: Any) -> None:
            name = type(self).__name__
            raise TypeError(
                f"{name} is not constructed; declare a field of a VirtualObject or Workflow: `x: {name}[…]`"
            )

        __hash__ = None  # as a list and a dict have none

    @classmethod
    def _perdure_over(cls, entries: Entries) -> Self:
        made = object.__new__(cls)
        made._entries = entries
        return made

    def __len__(self) -> int:
        self._entries.guard()
        return self._entries.length

    def __eq__(self, other: object) -> bool:
        """Only with itself: comparing values would load every entry, and say nothing of it."""
        if self is other:
            return True
        raise TypeError(f"{self._entries.where} is not compared by its entries; load them: list(…) or dict(…)")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._entries.where}>"

    def clear(self) -> None:
        """Remove all entries, at most 10,000: a turn is one record, and each of them stands in it."""
        entries = self._entries
        entries.guard_write()
        if entries.length > CLEAR_MAX:
            entries.fail(
                f"has {entries.length:,} entries, and clear() removes at most {CLEAR_MAX:,} in a turn: remove so many, "
                "and go on in a message to yourself"
            )
        entries.remove_all()


@final
class List(_Collection, Sequence[T]):
    """A list in the state of an object, loaded and stored entry by entry: `lines: List[Line]`. It starts empty.

    Entries are added and removed at its end only. Entries that can change in place may be changed in place.
    """

    __slots__ = ()

    @overload
    def __getitem__(self, index: int, /) -> T: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[T]: ...

    def __getitem__(self, index: int | slice, /) -> T | list[T]:
        self._entries.guard()
        if isinstance(index, slice):
            return list(self._walk(range(*index.indices(self._entries.length))))
        return self._at(self._position(index))

    def __setitem__(self, index: int, value: T, /) -> None:
        self._entries.guard_write()
        if isinstance(index, slice):  # pyright: ignore[reportUnnecessaryIsInstance]
            self._refuse_middle()
        self._entries.write(index_key(self._position(index)), value)

    def append(self, value: T, /) -> None:
        """Add a value at the end."""
        self._entries.guard_write()
        self._append(value)

    def extend(self, values: Iterable[T], /) -> None:
        """Add values at the end."""
        self._entries.guard_write()
        for value in list(self) if values is self else values:
            self._append(value)

    def pop(self, index: Literal[-1] = -1, /) -> T:
        """Remove the last value and return it."""
        entries = self._entries
        entries.guard_write()
        if not entries.length:
            raise IndexError(f"pop from {entries.where}, which is empty")
        last = entries.length - 1
        if index != -1:
            self._refuse_middle()
        value = self._at(last)
        entries.remove(index_key(last))
        return value

    def __iter__(self) -> Iterator[T]:
        """All values, loaded in portions. What is appended meanwhile is reached too, as in a list."""
        return self._walk(itertools.count())

    def __reversed__(self) -> Iterator[T]:
        return self._walk(range(len(self) - 1, -1, -1))

    def _append(self, value: T) -> None:
        entries = self._entries
        entries.append(index_key(entries.length), value)

    def _position(self, index: int) -> int:
        length = self._entries.length
        position = index_of(index)
        if position < 0:
            position += length
        if not 0 <= position < length:
            raise IndexError(f"{self._entries.where} has {length:,} entries, no [{index}]")
        return position

    def _at(self, position: int, fetched: bytes | None = None) -> T:
        entries, entry = self._entries, index_key(position)
        value: T = entries.read(entry, fetched)
        if value is ABSENT:
            entries.unreadable(entry, "is missing among the stored entries")
        return value

    def _walk(self, positions: range | itertools.count[int]) -> Iterator[T]:
        """The values at `positions`, until one is beyond the end."""
        entries = self._entries
        rows: dict[bytes, bytes] = {}
        turn = entries.turn
        for position in positions:
            entries.guard()
            if position >= entries.length:
                return
            entry = index_key(position)
            stale = entries.turn != turn
            if stale or not (entry in rows or entries.knows(entry)):
                turn, rows = entries.turn, self._rows_from(position, positions)
            yield self._at(position, rows.get(entry))

    def _rows_from(self, position: int, positions: range | itertools.count[int]) -> dict[bytes, bytes]:
        """A portion of what is committed, `position` included, towards where the walk goes."""
        count, step = PORTION, 1
        if isinstance(positions, range):
            step = positions.step
            count = min(PORTION, abs(positions.stop - position)) if abs(step) == 1 else 1
        first = position if step > 0 else max(position - count + 1, 0)
        return self._entries.rows(index_key(first - 1) if first else None, count)

    def _refuse_middle(self, *_: object) -> NoReturn:
        raise StateError(
            f"{self._entries.where}: a List grows and shrinks at its end only, by append(), extend() and pop(), since "
            "every later entry would be written anew; mark an entry by [i] = …, or use a Map[int, …]"
        )

    if not TYPE_CHECKING:
        # What a list has and a List cannot have: for checkers it is not there, when it runs it says why.
        __delitem__ = insert = remove = reverse = sort = _refuse_middle


@final
class Map(_Collection, MutableMapping[K, V]):
    """A dict in the state of an object, loaded and stored entry by entry: `members: Map[str, Member]`. It starts empty.

    Keys are str or int, a NewType, Literal or Enum of these; of at most 512 bytes, or 64 bits. It is iterated in the
    order of its keys: text by code points, numbers by value. Values that can change in place may be changed in place.
    """

    __slots__ = ("_keys",)

    _keys: KeyForm

    @classmethod
    def _perdure_keyed(cls, entries: Entries, keys: KeyForm) -> Self:
        made = cls._perdure_over(entries)
        made._keys = keys
        return made

    def __getitem__(self, key: K, /) -> V:
        self._entries.guard()
        value: V = self._entries.read(self._entry(key))
        if value is ABSENT:
            raise KeyError(key)
        return value

    def __setitem__(self, key: K, value: V, /) -> None:
        self._entries.guard_write()
        self._entries.write(self._entry(key), value)

    def __delitem__(self, key: K, /) -> None:
        entries, entry = self._entries, self._entry(key)
        entries.guard_write()
        if not entries.has(entry):
            raise KeyError(key)
        entries.remove(entry)

    def __contains__(self, key: object, /) -> bool:
        self._entries.guard()
        try:
            entry = self._keys.pack(key)
        except Unencodable:
            return False
        return self._entries.has(entry)

    def __iter__(self) -> Iterator[K]:
        return (self._key(entry) for entry, _ in self._entries.walk(None))

    @overload
    def items(self) -> ItemsView[K, V]: ...
    @overload
    def items(self, *, after: K | None) -> Iterator[tuple[K, V]]: ...

    def items(self, *, after: Any = ABSENT) -> ItemsView[K, V] | Iterator[tuple[K, V]]:
        """The pairs, in the order of their keys; with `after` those behind that key (None: from the first one), to
        show them in pages. The key itself need not be there.
        """
        self._entries.guard()
        if after is ABSENT:
            return _Items(self)
        return self._pairs(None if after is None else self._entry(after))

    def values(self) -> ValuesView[V]:
        """The values, in the order of their keys."""
        return _Values(self)

    def _pairs(self, after: bytes | None) -> Iterator[tuple[K, V]]:
        return ((self._key(entry), self._entries.read(entry, fetched)) for entry, fetched in self._entries.walk(after))

    def _entry(self, key: object) -> bytes:
        try:
            return self._keys.pack(key)
        except Unencodable as error:
            self._entries.fail(f"cannot have the key {key!r:.100}: {error.reason}")

    def _key(self, entry: bytes) -> K:
        try:
            key: K = self._keys.unpack(entry)
        except ValueError as error:
            shown = hints.shown(self._keys.type)
            self._entries.unreadable(entry, f"is stored under a key that is no {shown}: {error}; {MEND_STATE}")
        return key


class _Items(ItemsView[K, V]):
    """Walks in portions; the view of the standard library would look up each key."""

    __slots__ = ("_map",)

    def __init__(self, map: Map[K, V]) -> None:
        super().__init__(map)
        self._map = map

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return self._map.items(after=None)


class _Values(ValuesView[V]):
    """Walks in portions; the view of the standard library would look up each key."""

    __slots__ = ("_map",)

    def __init__(self, map: Map[Any, V]) -> None:
        super().__init__(map)
        self._map = map

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in self._map.items(after=None))


# --- as a class declares them ------------------------------------------------------------------------------------


def is_collection(outer: object) -> bool:
    """Whether the outer part of an annotation (`List` of `List[Line]`) is one of the two."""
    return outer is List or outer is Map


class CollectionField:
    """One field that is a List or a Map: the codec of its entries, and for a Map the form of its keys.

    `tags` are those that the keys of its entries may have.
    """

    __slots__ = ("codec", "keys", "name", "tags", "type")

    def __init__(self, name: str, type_: Any) -> None:
        """Raises UnsupportedType for what cannot be kept."""
        arguments = get_args(type_)
        if not arguments:
            raise UnsupportedType("say what it holds: List[Line], or Map[str, Line]")
        self.name = name
        self.type = type_
        self.codec = Codec(arguments[-1])
        self.keys = _key_form(arguments[0]) if get_origin(type_) is Map else None
        self.tags = (NO_TAG,) if self.keys is None else self.keys.tags

    def open(
        self, source: EntrySource, guard: Callable[[], None], where: str, *, writable: bool
    ) -> tuple[object, Entries]:
        """What one invocation's user holds, and what stands behind it."""
        entries = (Entries if writable else ReaderEntries)(self.name, self.codec, source, guard, where)
        if self.keys is None:
            return List[Any]._perdure_over(entries), entries  # pyright: ignore[reportPrivateUsage]
        return Map[Any, Any]._perdure_keyed(entries, self.keys), entries  # pyright: ignore[reportPrivateUsage]


def _key_form(annotation: Any) -> KeyForm:
    if hints.open_variables(annotation):  # of a generic base, which is not served
        return KeyForm(str)
    return KeyForm(annotation)

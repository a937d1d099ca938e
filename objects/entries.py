"""The entries of one `List` or `Map` as one invocation sees them: what is committed, and what its turns have changed.

What lives here: `EntrySource`, the protocol that committed entries come through; which entries a turn changed.
What this file does not know: what a list or a map offers (collections.py), what a key means (entry_keys.py), when a
turn ends, what is journaled.

Entries are loaded one by one, or in portions when they are walked through. What changes lies over the source, which
goes on answering as the invocation first saw it. As with fields, a value that can change in place has no moment of
writing: once touched it is held, and encoded and compared at the end of every turn. So that a walk through a million
of them does not fill the memory, or slow down every turn after it, at most HELD_MAX are held; one more is refused,
since letting go of one would silently lose what is changed in it later.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, NoReturn, Protocol

import msgspec

from .annotations import shown
from .entry_keys import label_of
from .errors import MEND_STATE, StateError, UnreadableState
from .values import Codec, Unencodable

PORTION = 128
"""So many entries are loaded at once when they are walked through."""
HELD_MAX = 10_000
CLEAR_MAX = 10_000
"""So many entries one clear() removes: a turn is one record, and each of them stands in it."""

ABSENT: Final[Any] = object()
"""What reading gives where there is no entry."""
_UNKNOWN: Final = object()

_READS_ONLY = "changed in a @shared handler, which only reads; use @handler"

Change = tuple[str, bytes, bytes | None]
"""Field, key of the entry, its JSON; None if it was removed."""
Row = tuple[bytes, bytes | None]
"""The key of an entry and its committed JSON; None if it is known to the invocation in another way."""


class EntrySource(Protocol):
    """The committed entries of one object: as its invocation first saw them; for a reader, as they are by now."""

    def length(self, field: str) -> int:
        """How many entries the field has."""
        ...

    def get(self, field: str, entry: bytes) -> bytes | None:
        """The JSON of one entry, None if there is none."""
        ...

    def range(self, field: str, after: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        """The first `limit` entries whose keys are greater than `after`, in the order of their keys."""
        ...


def overlaid(
    source: EntrySource,
    field: str,
    after: bytes | None,
    limit: int,
    changed: Mapping[bytes, bytes | None],
    ordered: Sequence[bytes],
) -> list[tuple[bytes, bytes]]:
    """What `source.range` would give if it had `changed`, whose keys are `ordered`, instead of its own entries."""
    found: list[tuple[bytes, bytes]] = []
    while len(found) < limit:
        portion = source.range(field, after, limit)
        last = portion[-1][0] if len(portion) == limit else None
        first = 0 if after is None else bisect_right(ordered, after)
        over = ordered[first : len(ordered) if last is None else bisect_right(ordered, last)]
        seen = {**dict(portion), **{entry: changed[entry] for entry in over}}
        found += [(entry, value) for entry in sorted(seen) if (value := seen[entry]) is not None]
        if last is None:
            break
        after = last
    return found[:limit]


def lost_rows(where: str, length: int, found: int) -> str:
    return (
        f"{where} has {length:,} entries, and {found:,} are stored: its rows are damaged; nothing "
        "was overwritten, bring back a copy of the data directory from before"
    )


# --- what an invocation sees ---------------------------------------------------------------------------------------


class Entries:
    """A writer's view of one field's entries. `where` names the field in messages.

    `guard()` runs before every access by user code. `resized` counts the entries added and removed, `turn` a reader's
    turns: a walk looks whether they are what they were.
    """

    __slots__ = (
        "_changed",
        "_codec",
        "_collected_length",
        "_committed",
        "_length",
        "_ordered",
        "_source",
        "_values",
        "field",
        "guard",
        "resized",
        "turn",
        "where",
    )

    def __init__(self, field: str, codec: Codec, source: EntrySource, guard: Callable[[], None], where: str) -> None:
        self.field = field
        self.guard = guard
        self.where = where
        self.resized = 0
        self.turn = 0
        self._codec = codec
        self._source = source
        self._length: int | None = None
        self._collected_length: int | None = None
        # Live values: those assigned since the last collect, and all that can change in place.
        self._values: dict[bytes, Any] = {}
        # Assigned or removed since the last collect, in order of the text; removed if it has no value.
        self._changed: dict[bytes, None] = {}
        # What is committed of the entries touched by name; it lies over the source. None: there is no such entry.
        self._committed: dict[bytes, bytes | None] = {}
        self._ordered: list[bytes] = []

    @property
    def length(self) -> int:
        if self._length is None:
            self._length = self._collected_length = self._source.length(self.field)
        return self._length

    @property
    def used(self) -> bool:
        """Whether anything was read or changed."""
        return self._length is not None or bool(self._committed)

    # --- one entry ------------------------------------------------------------------------------------------------

    def has(self, entry: bytes) -> bool:
        if entry in self._values:
            return True
        return entry not in self._changed and self._json(entry) is not None

    def read(self, entry: bytes, fetched: bytes | None = None) -> Any:
        """The value, ABSENT if there is none. `fetched`: what a portion had for it."""
        if entry in self._values:
            return self._values[entry]
        if entry in self._changed:
            return ABSENT
        data = self._json(entry) if fetched is None or entry in self._committed else fetched
        if data is None:
            return ABSENT
        value = self._decoded(entry, data)
        if self._codec.mutable:
            self._refuse_one_more()
            self._values[entry] = value
            # As it would be written now: an old entry is not changed by being read under a type with a new default.
            self._committed[entry] = self._codec.encode(value)
        return value

    def knows(self, entry: bytes) -> bool:
        """Whether reading it needs nothing from the source."""
        return entry in self._values or entry in self._committed

    def write(self, entry: bytes, value: Any) -> None:
        if self._codec.mutable and entry not in self._values:
            self._refuse_one_more()
        self._know(entry)
        if not self.has(entry):
            self._resize(+1)
        self._changed[entry] = None
        self._values[entry] = value

    def append(self, entry: bytes, value: Any) -> None:
        """Write an entry that is known to be absent."""
        if self._codec.mutable:
            self._refuse_one_more()
        self._committed.setdefault(entry, None)
        self._resize(+1)
        self._changed[entry] = None
        self._values[entry] = value

    def remove(self, entry: bytes) -> None:
        """Remove an entry that is there."""
        self._know(entry)
        self._resize(-1)
        self._changed[entry] = None
        self._values.pop(entry, None)

    def remove_all(self) -> None:
        for entry, data in list(chain.from_iterable(self._portions(None))):
            self._committed.setdefault(entry, data)
            self.remove(entry)

    # --- many -----------------------------------------------------------------------------------------------------

    def rows(self, after: bytes | None, limit: int) -> dict[bytes, bytes]:
        """Committed entries of the source alone, for `read` to look over."""
        return dict(self._source.range(self.field, after, limit))

    def walk(self, after: bytes | None) -> Iterator[Row]:
        """All entries behind `after`, in the order of their keys. RuntimeError if any is added or removed meanwhile.

        A reader that waits in between goes on in what is committed by then.
        """
        resized = self.resized
        while True:
            self.guard()
            turn = self.turn
            for entry, fetched in chain.from_iterable(self._portions(after)):
                yield entry, fetched
                self.guard()
                if self.resized != resized:
                    raise RuntimeError(f"{self.where} changed size during iteration; iterate over a list(…) of keys")
                after = entry
                if self.turn != turn:
                    break
            else:
                return

    def _portions(self, after: bytes | None) -> Iterator[list[Row]]:
        """UnreadableState at the end of all of them if there were more or fewer than there should be."""
        more, whole, count = True, after is None, 0
        while more:
            rows: list[Row] = [*self._source.range(self.field, after, PORTION)]
            more = len(rows) == PORTION
            end = rows[-1][0] if more else None
            own = self._own(after, end)
            if len(own) == PORTION:
                more, end = True, own[-1]
            portion = self._merged(rows, own, end)
            count += len(portion)
            yield portion
            after = end
        if whole and count != self.length:
            raise UnreadableState(lost_rows(self.where, self.length, count))

    def _own(self, after: bytes | None, end: bytes | None) -> list[bytes]:
        """The first PORTION keys behind `after`, up to `end`, of what lies over the source."""
        if len(self._ordered) != len(self._committed):
            self._ordered = sorted(self._committed)  # keys only ever join
        ordered = self._ordered
        start = 0 if after is None else bisect_right(ordered, after)
        stop = len(ordered) if end is None else bisect_right(ordered, end)
        return ordered[start : min(stop, start + PORTION)]

    def _merged(self, rows: list[Row], own: list[bytes], end: bytes | None) -> list[Row]:
        below = [row for row in rows if row[0] not in self._committed and (end is None or row[0] <= end)]
        return sorted([*below, *((entry, None) for entry in own if self.has(entry))]) if own else below

    # --- the end of a turn ----------------------------------------------------------------------------------------

    def begin_turn(self) -> None:
        """Nothing for a writer."""

    def guard_write(self) -> None:
        """Runs before every change by user code."""
        self.guard()

    def collect(self, changes: list[Change], lengths: dict[str, int]) -> None:
        """Add what changed since the last collect, proved to decode; it is committed from here on."""
        committed, values = self._committed, self._values
        for entry in {**self._changed, **values} if self._codec.mutable else self._changed:
            data = self._packed(entry, values[entry]) if entry in values else None
            if committed.get(entry, _UNKNOWN) != data:
                committed[entry] = data
                changes.append((self.field, entry, data))
        self._changed = {}
        if not self._codec.mutable:
            self._values = {}
        if self._length != self._collected_length:
            assert self._length is not None
            lengths[self.field] = self._collected_length = self._length

    # --- parts ----------------------------------------------------------------------------------------------------

    def _json(self, entry: bytes) -> bytes | None:
        committed = self._committed
        return committed[entry] if entry in committed else self._source.get(self.field, entry)

    def _know(self, entry: bytes) -> None:
        """Whatever changes is known as it was: so that nothing is written that is the same afterwards."""
        if entry not in self._committed:
            self._committed[entry] = self._source.get(self.field, entry)

    def _resize(self, by: int) -> None:
        self._length = self.length + by
        self.resized += 1

    def _decoded(self, entry: bytes, data: bytes) -> Any:
        try:
            return self._codec.unpack(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self.unreadable(entry, f"is stored as what {shown(self._codec.type)} does not read: {error}; {MEND_STATE}")

    def _packed(self, entry: bytes, value: Any) -> bytes:
        try:
            return self._codec.pack(value)
        except Unencodable as error:
            self.fail(f"cannot be kept: {error}; the turn that wrote it is undone", entry)

    def _refuse_one_more(self) -> None:
        if len(self._values) >= HELD_MAX:
            type_ = shown(self._codec.type)
            self.fail(
                f"has {HELD_MAX:,} entries in use that may change in place, and no more can be watched: make {type_} "
                "immutable (frozen), read them in a @shared handler, or go on in a message to yourself"
            )

    def unreadable(self, entry: bytes, problem: str) -> NoReturn:
        raise UnreadableState(f"{self.where}[{label_of(entry)}] {problem}")

    def fail(self, problem: str, entry: bytes | None = None) -> NoReturn:
        where = self.where if entry is None else f"{self.where}[{label_of(entry)}]"
        raise StateError(f"{where} {problem}")


class ReaderEntries(Entries):
    """A @shared handler's view: in each turn what is committed by then.

    Changes in place cannot last, so they are looked for as far as that goes: in the first HELD_MAX values.
    """

    __slots__ = ("_fresh", "_loaded")

    def __init__(self, field: str, codec: Codec, source: EntrySource, guard: Callable[[], None], where: str) -> None:
        super().__init__(field, codec, source, guard, where)
        self._fresh: set[bytes] = set()  # read in this turn
        self._loaded: dict[bytes, tuple[bytes, bytes]] = {}  # the JSON of each value held: as stored, as written now

    def begin_turn(self) -> None:
        self._length = None
        self._fresh.clear()
        self.turn += 1

    def guard_write(self) -> None:
        self.guard()
        self.fail(_READS_ONLY)

    def has(self, entry: bytes) -> bool:
        return self._source.get(self.field, entry) is not None

    def knows(self, entry: bytes) -> bool:
        return entry in self._fresh

    def read(self, entry: bytes, fetched: bytes | None = None) -> Any:
        values = self._values
        if entry in self._fresh:
            return values[entry]
        data = self._source.get(self.field, entry) if fetched is None else fetched
        if data is None:
            return ABSENT
        if entry not in values or self._loaded[entry][0] != data:
            value = self._decoded(entry, data)
            if not self._codec.mutable or (entry not in values and len(values) >= HELD_MAX):
                return value
            values[entry] = value
            self._loaded[entry] = data, self._codec.encode(value)
        self._fresh.add(entry)
        return values[entry]  # perhaps the copy of an earlier turn, which the handler may still hold

    def collect(self, changes: list[Change], lengths: dict[str, int]) -> None:
        for entry, value in self._values.items():
            if self._packed(entry, value) != self._loaded[entry][1]:
                self.fail(_READS_ONLY, entry)

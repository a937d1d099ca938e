"""What is in memory of a partition, and how it comes and goes.

The kernel asks here for an object or an invocation, and says before it changes one.  What isn't in memory is read
from the store, synchronously: a point lookup takes microseconds, and everything the kernel does stays one step.
What has changed since the last checkpoint stays in memory; what hasn't may leave it, the least recently used first.

A checkpoint goes through here in three steps.  `freeze`: what has changed by now is frozen.  `encode`: it becomes
rows, some at a time, between turns; what is about to be changed before its turn has come becomes rows first, so
that they say what was true at the freeze.  `thaw`: the rows are in the store, so what hasn't changed again may leave.

Without a store everything stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from . import rows
from .invocations import Invocation, ObjectEntry
from .records import Success
from .store import Put, StoreError, StoreWriter

ObjectKey = tuple[str, str]

K = TypeVar("K", bound="ObjectKey | str")
T = TypeVar("T")

_PAGE: Final = 1_000
_ALL: Final = 2**40
_FOREVER: Final = 2**63

# About what things take in memory beside their bytes: measured with tracemalloc over 10,000 of each, rounded up.
_ENTRY_BYTES: Final = 700
_INVOCATION_BYTES: Final = 1_000
_HISTORY_ENTRIES: Final = 4
_DELIVERY_BYTES: Final = 300


class Resident(Generic[K, T]):
    """All of one kind that are in memory, by their keys.

    `fresh` are new since the last freeze and can't be in the store, `changed` may be; None: it is gone.
    `frozen` is on its way to the store, of which `unpacked` isn't rows yet.
    """

    __slots__ = (
        "_bytes_of",
        "_clean",
        "_read",
        "_to_rows",
        "changed",
        "fresh",
        "frozen",
        "here",
        "rows",
        "tracking",
        "unpacked",
    )

    def __init__(
        self,
        clean: Clean,
        read: Callable[[K], T | None],
        to_rows: Callable[[K, T | None], list[Put]],
        bytes_of: Callable[[T], int],
        *,
        tracking: bool,
    ) -> None:
        self.here: dict[K, T] = {}
        self.fresh: dict[K, T] = {}
        self.changed: dict[K, T | None] = {}
        self.frozen: dict[K, T | None] = {}
        self.unpacked: dict[K, T | None] = {}
        self.rows: list[Put] = []
        self.tracking = tracking
        self._clean = clean
        self._read = read
        self._to_rows = to_rows
        self._bytes_of = bytes_of

    def find(self, key: K) -> T | None:
        """To look at, not to change."""
        thing = self.here.get(key)
        if thing is None and self.tracking:
            return self._load(key)
        return thing

    def change(self, key: K) -> T | None:
        """To change, now."""
        thing = self.here.get(key)
        if self.tracking:
            if thing is None and (thing := self._load(key)) is None:
                return None
            if key not in self.fresh and key not in self.changed:
                self._first_change(key, thing)
        return thing

    def add(self, key: K, thing: T) -> None:
        """A new one: `find` has none."""
        self.here[key] = thing
        if self.tracking:
            if key in self.changed or key in self.frozen:
                self._first_change(key, thing)
            else:
                self.fresh[key] = thing

    def remove(self, key: K) -> None:
        """It is gone for good."""
        thing = self.here.pop(key)
        if self.tracking and self.fresh.pop(key, None) is None:
            if key not in self.changed:
                self._first_change(key, thing)
            self.changed[key] = None

    def _load(self, key: K) -> T | None:
        if key in self.changed or key in self.frozen:
            return None
        thing = self._read(key)
        if thing is not None:
            self.here[key] = thing
            self._clean.add(key, self._bytes_of(thing))
        return thing

    def _first_change(self, key: K, thing: T) -> None:
        if key in self.unpacked:
            self.rows += self._to_rows(key, self.unpacked.pop(key))
        elif key not in self.frozen:
            self._clean.discard(key, self._bytes_of(thing))
        self.changed[key] = thing

    def __len__(self) -> int:
        """How many have changed."""
        return len(self.fresh) + len(self.changed)

    def freeze(self) -> None:
        self.frozen = {**self.fresh, **self.changed}
        self.unpacked = dict(self.frozen)
        self.fresh.clear()
        self.changed.clear()

    def encode(self, count: int) -> int:
        """Makes rows of up to `count`; returns of how many."""
        done = 0
        while self.unpacked and done < count:
            key, thing = self.unpacked.popitem()
            self.rows += self._to_rows(key, thing)
            done += 1
        return done

    def thaw(self) -> None:
        for key, thing in self.frozen.items():
            if thing is not None and key not in self.changed:
                self._clean.add(key, self._bytes_of(thing))
        self.frozen = {}
        self.rows = []

    def evict(self, key: K) -> None:
        self._clean.discard(key, self._bytes_of(self.here.pop(key)))


class Clean:
    """What the store holds as it is in memory, the least recently used first, and how many bytes it takes, about."""

    __slots__ = ("_order", "bytes")

    def __init__(self) -> None:
        self._order: OrderedDict[ObjectKey | str, None] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._order)

    def add(self, key: ObjectKey | str, size: int) -> None:
        self._order[key] = None
        self.bytes += size

    def discard(self, key: ObjectKey | str, size: int) -> None:
        if key in self._order:
            del self._order[key]
            self.bytes -= size

    def use(self, key: ObjectKey | str) -> None:
        if key in self._order:
            self._order.move_to_end(key)

    def oldest(self) -> ObjectKey | str:
        return next(iter(self._order))


class Overlay:
    """Small rows that nobody keeps in memory: what has changed lies over the store."""

    __slots__ = ("_read", "changed", "frozen")

    def __init__(self, read: Callable[[bytes], bytes | None] | None) -> None:
        self.changed: dict[bytes, bytes | None] = {}
        self.frozen: dict[bytes, bytes | None] = {}
        self._read = read

    def get(self, key: bytes) -> bytes | None:
        if key in self.changed:
            return self.changed[key]
        if key in self.frozen:
            return self.frozen[key]
        return None if self._read is None else self._read(key)

    def put(self, key: bytes, value: bytes | None) -> None:
        """None: it is gone."""
        if value is None and self._read is None:
            self.changed.pop(key, None)
        else:
            self.changed[key] = value

    def hides(self, key: bytes) -> bool:
        """Whether what the store has under it is gone by now."""
        return (self.changed[key] if key in self.changed else self.frozen.get(key, b"")) is None

    def freeze(self) -> None:
        self.frozen, self.changed = self.changed, {}

    def thaw(self) -> None:
        self.frozen = {}


class WorkingSet:
    """`on_loaded` is told of an invocation that came back, `on_leaving` of one that leaves, `on_failed` that the store
    can't be read; it may raise in that error's place."""

    def __init__(self, store: StoreWriter | None = None) -> None:
        self.on_loaded: Callable[[Invocation], None] = _nobody
        self.on_leaving: Callable[[Invocation], None] = _nobody
        self.on_failed: Callable[[BaseException], None] = _nobody
        self.loaded = 0
        self.evicted = 0
        self._store = store
        self._clean = Clean()
        self._frozen_at = 0
        tracking = store is not None
        self.objects: Resident[ObjectKey, ObjectEntry] = Resident(
            self._clean, self._read_entry, _rows_of_entry, _bytes_of_entry, tracking=tracking
        )
        self.invocations: Resident[str, Invocation] = Resident(
            self._clean, self._read_invocation, self._rows_of_invocation, _bytes_of_invocation, tracking=tracking
        )
        self.rows = Overlay(self._read if tracking else None)

    # --- reading --------------------------------------------------------------------------------------------------

    def used(self, key: ObjectKey) -> None:
        """It was needed, though nothing changed it."""
        self._clean.use(key)

    def due(self, begin: int, end: int) -> list[tuple[int, str]]:
        """What the agenda of the store has in `begin <= at < end`, in its order: times and ids."""
        found = self._scan(rows.due_row(begin), rows.due_row(end), _ALL, rows.slots(begin, end))
        return [rows.at_and_id(row, rows.DUE) for row in found]

    def next_due(self, begin: int) -> int | None:
        """The first time on it, from `begin` on."""
        found = self._scan(rows.due_row(begin), rows.due_row(_FOREVER), 1)
        return rows.at_and_id(found[0], rows.DUE)[0] if found else None

    def ended(self, family: str, limit: int) -> list[tuple[int, str]]:
        """The first of a family in the store to have ended: times and ids."""
        prefix = rows.ended_prefix(family)
        found = self._scan(prefix, prefix + _FOREVER.to_bytes(8), limit)
        return [rows.at_and_id(row, prefix) for row in found]

    def stored_invocations(self) -> Iterator[Invocation]:
        """Every one that the store holds, as it holds it; for tools that look at a store nobody writes."""
        begin, end = b"i", b"j"
        while self._store is not None and (found := self._store.range(begin, end, _PAGE)):
            for _, value in found:
                yield rows.unpack_invocation(value)
            begin = found[-1][0] + b"\0"

    def _scan(self, begin: bytes, end: bytes, limit: int, groups: Iterable[bytes] = ()) -> list[bytes]:
        """The first `limit` keys; those that are gone since the last commit neither show nor count."""
        found: list[bytes] = []
        while self._store is not None and len(found) < limit:
            with self._reading():
                page = [key for key, _ in self._store.range(begin, end, limit, groups)]
            found += [key for key in page if not self.rows.hides(key)]
            if len(page) < limit:
                break
            begin = page[-1] + b"\0"
        return found[:limit]

    def _read(self, key: bytes) -> bytes | None:
        assert self._store is not None
        with self._reading():
            return self._store.get(key)

    def _read_entry(self, key: ObjectKey) -> ObjectEntry | None:
        value = self._read(rows.object_key(*key))
        if value is None:
            return None
        self.loaded += 1
        return rows.unpack_entry(value)

    def _read_invocation(self, id: str) -> Invocation | None:
        value = self._read(rows.invocation_key(id))
        if value is None:
            return None
        self.loaded += 1
        invocation = rows.unpack_invocation(value)
        self.on_loaded(invocation)
        return invocation

    @contextmanager
    def _reading(self) -> Generator[None]:
        """What can't be read can't be worked on: whoever asked, the process has to stop."""
        try:
            yield
        except StoreError as error:
            self.on_failed(error)
            raise

    # --- checkpoints ----------------------------------------------------------------------------------------------

    @property
    def changed(self) -> int:
        """How many things have changed since the last freeze."""
        return len(self.objects) + len(self.invocations) + len(self.rows.changed)

    def freeze(self, now: int) -> None:
        """All that has changed is what the next commit to the store holds."""
        self._frozen_at = now
        self.objects.freeze()
        self.invocations.freeze()
        self.rows.freeze()

    def encode(self, count: int) -> bool:
        """Makes rows of up to `count` things; True if there are more."""
        count -= self.objects.encode(count)
        count -= self.invocations.encode(count)
        return count <= 0

    def frozen_rows(self) -> list[Put]:
        """Everything for the commit, once all of it is rows."""
        overlay = [rows.put_of(key, value) for key, value in self.rows.frozen.items()]
        return [*overlay, *self.objects.rows, *self.invocations.rows]

    def thaw(self) -> None:
        """The store holds it: what hasn't changed again may leave."""
        self.objects.thaw()
        self.invocations.thaw()
        self.rows.thaw()

    def _rows_of_invocation(self, id: str, invocation: Invocation | None) -> list[Put]:
        if invocation is None:
            return [Put(rows.invocation_key(id), None)]
        puts: list[Put] = []
        agenda = rows.agenda_row(invocation, self._frozen_at)
        if agenda != invocation.agenda:
            if invocation.agenda:
                puts.append(rows.put_of(invocation.agenda, None))
            if agenda:
                puts.append(rows.put_of(agenda, b""))
            invocation.agenda = agenda
        puts.append(Put(rows.invocation_key(id), rows.pack_invocation(invocation)))
        return puts

    # --- leaving memory -------------------------------------------------------------------------------------------

    @property
    def clean_bytes(self) -> int:
        """What could leave, about."""
        return self._clean.bytes

    def evict(self, bytes_max: int, may_leave: Callable[[Invocation], bool]) -> None:
        """The least recently used go, until what could leave takes no more than `bytes_max`."""
        kept = 0
        while self._clean.bytes > bytes_max and kept < len(self._clean):
            key = self._clean.oldest()
            if isinstance(key, tuple):
                self.objects.evict(key)
            elif may_leave(invocation := self.invocations.here[key]):
                self.on_leaving(invocation)
                self.invocations.evict(key)
            else:
                self._clean.use(key)
                kept += 1
                continue
            self.evicted += 1


def _rows_of_entry(key: ObjectKey, entry: ObjectEntry | None) -> list[Put]:
    return [Put(rows.object_key(*key), None if entry is None else rows.pack_entry(entry))]


def _bytes_of_entry(entry: ObjectEntry) -> int:
    """About what it takes in memory: the same for as long as it isn't changed."""
    return _ENTRY_BYTES + sum(map(len, entry.fields.values())) + 100 * len(entry.mailbox)


def _bytes_of_invocation(invocation: Invocation) -> int:
    history = invocation.history
    entries = len(invocation.deliveries) + (0 if history is None else _HISTORY_ENTRIES + len(history.turns))
    outcome = invocation.outcome
    kept = len(invocation.arguments) + (len(outcome.value) if isinstance(outcome, Success) else 0)
    return _INVOCATION_BYTES + kept + _DELIVERY_BYTES * entries


def _nobody(_: object) -> None: ...

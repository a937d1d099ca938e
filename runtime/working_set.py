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

import sys
from bisect import bisect_left, insort
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
_ABSENT_MAX: Final = 10_000
_FOREVER: Final = 2**63

# About what things take in memory beside their bytes: by tracemalloc over 2,000 objects with a waiting handler each,
# 3.4 to 3.7 kB together, rounded up.
_ENTRY_BYTES: Final = 700
_INVOCATION_BYTES: Final = 1_000
_HISTORY_ENTRIES: Final = 4
_DELIVERY_BYTES: Final = 300
_IMAGE_BYTES: Final = 200


class Resident(Generic[K, T]):
    """All of one kind that are in memory, by their keys.

    `fresh` are new since the last freeze and can't be in the store, `changed` may be; None: it is gone.
    `frozen` is on its way to the store, of which `unpacked` isn't rows yet.
    `absent` are some that are nowhere, lately asked for: an object without state comes and goes with each invocation.
    """

    __slots__ = (
        "_absent",
        "_bytes_of",
        "_clean",
        "_on_stored",
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
        on_stored: Callable[[K, T], None],
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
        self._absent: set[K] = set()
        self._clean = clean
        self._read = read
        self._to_rows = to_rows
        self._bytes_of = bytes_of
        self._on_stored = on_stored

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
            self._absent.discard(key)
            if key in self.changed or key in self.frozen:
                self._first_change(key, thing)
            else:
                self.fresh[key] = thing

    def remove(self, key: K) -> None:
        """It is gone for good."""
        thing = self.here.pop(key)
        if not self.tracking:
            return
        if self.fresh.pop(key, None) is not None:
            self._is_nowhere(key)
            return
        if key not in self.changed:
            self._first_change(key, thing)
        self.changed[key] = None

    def _load(self, key: K) -> T | None:
        if key in self._absent or key in self.changed or key in self.frozen:
            return None
        thing = self._read(key)
        if thing is None:
            self._is_nowhere(key)
        else:
            self.here[key] = thing
            self._clean.add(key, self._bytes_of(thing))
        return thing

    def _is_nowhere(self, key: K) -> None:
        if len(self._absent) >= _ABSENT_MAX:
            self._absent.clear()
        self._absent.add(key)

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

    def thaw(self, count: int) -> int:
        """Up to `count` that the store holds now; returns how many."""
        self.rows = []
        done = 0
        while self.frozen and done < count:
            key, thing = self.frozen.popitem()
            if thing is not None and key not in self.changed:
                self._clean.add(key, self._bytes_of(thing))
                self._on_stored(key, thing)
            done += 1
        return done

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


class OrderedOverlay(Overlay):
    """One that can be walked through: the entries of Lists and Maps."""

    __slots__ = ("_keys", "_scan")

    def __init__(
        self,
        read: Callable[[bytes], bytes | None] | None,
        scan: Callable[[bytes, bytes, int], list[tuple[bytes, bytes]]],
    ) -> None:
        super().__init__(read)
        self._scan = scan
        self._keys: list[bytes] = []

    def put(self, key: bytes, value: bytes | None) -> None:
        if key not in self.changed and key not in self.frozen:
            if value is None and self._read is None:
                return
            insort(self._keys, key)
        super().put(key, value)
        if key not in self.changed and key not in self.frozen:
            del self._keys[bisect_left(self._keys, key)]

    def thaw(self) -> None:
        super().thaw()
        self._keys = sorted(self.changed)

    def range(self, begin: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """The first `limit` rows of `begin <= key < end`, in order."""
        found: list[tuple[bytes, bytes]] = []
        while len(found) < limit and begin < end:
            below = self._scan(begin, end, limit)
            until = end if len(below) < limit else below[-1][0] + b"\0"
            over = self._over(begin, until, limit)
            if len(over) == limit:  # more may lie behind them: a whole field that was just written, or emptied
                until = over[-1] + b"\0"
            if over:
                merged = {**{key: value for key, value in below if key < until}, **{key: self.get(key) for key in over}}
                found += [(key, value) for key in sorted(merged) if (value := merged[key]) is not None]
            else:
                found += below
            begin = until
        return found[:limit]

    def _over(self, begin: bytes, end: bytes, limit: int) -> list[bytes]:
        """The first keys of what lies over the store."""
        first = bisect_left(self._keys, begin)
        return self._keys[first : min(bisect_left(self._keys, end), first + limit)]


class WorkingSet:
    """`on_loaded` is told of an invocation that came back, `on_stored` of one that the store holds as it is,
    `on_leaving` of one that leaves, `on_failed` that the store can't be read; it may raise in that error's place."""

    def __init__(self, store: StoreWriter | None = None) -> None:
        self.on_loaded: Callable[[Invocation], None] = _nobody
        self.on_stored: Callable[[Invocation], None] = _nobody
        self.on_stored_entry: Callable[[ObjectKey, ObjectEntry], None] = _nobody
        self.on_leaving: Callable[[Invocation], None] = _nobody
        self.on_failed: Callable[[BaseException], None] = _nobody
        self.loaded = 0
        self.evicted = 0
        self._store = store
        self._clean = Clean()
        self._frozen_at = 0
        self._kept = 0  # of those looked at, since the search for what may leave began
        self._gone_before: dict[bytes, bytes] = {}  # by prefix: of the store's rows before this one, none counts
        tracking = store is not None
        self.objects: Resident[ObjectKey, ObjectEntry] = Resident(
            self._clean,
            self._read_entry,
            _rows_of_entry,
            _bytes_of_entry,
            self._tell_of_stored_entry,
            tracking=tracking,
        )
        self.invocations: Resident[str, Invocation] = Resident(
            self._clean,
            self._read_invocation,
            self._rows_of_invocation,
            _bytes_of_invocation,
            self._tell_of_stored,
            tracking=tracking,
        )
        self.rows = Overlay(self._read if tracking else None)
        self.entries = OrderedOverlay(self._read if tracking else None, self._scan_rows)

    # --- reading --------------------------------------------------------------------------------------------------

    def used(self, key: ObjectKey) -> None:
        """It was needed, though nothing changed it."""
        self._clean.use(key)

    def due(self, begin: rows.Place, end: int, limit: int = _ALL) -> list[rows.Place]:
        """What the agenda of the store has from that place on and before the time `end`, in its order."""
        slots = rows.slots(begin[0], end)
        found = self._scan(rows.due_row(begin), rows.due_row((end, 0, "")), limit, slots)
        return [rows.place(row) for row in found]

    def next_due(self, begin: rows.Place) -> int | None:
        """The first time on it, from that place on."""
        found = self._scan(rows.due_row(begin), rows.due_row((_FOREVER, 0, "")), 1)
        return rows.place(found[0])[0] if found else None

    def ended(self, family: str, limit: int) -> list[tuple[int, str]]:
        """The first of a family in the store to have ended: times and ids."""
        prefix = rows.ended_prefix(family)
        found = self._first(prefix, prefix + _FOREVER.to_bytes(8), limit)
        return [rows.at_and_id(row, prefix) for row in found]

    def expired(self, now: int, limit: int) -> list[ObjectKey]:
        """The first objects that the store has to be forgotten by `now`."""
        found = self._first(rows.EXPIRY, rows.expiry_time(now + 1), limit)
        return [rows.key_of(rows.at_and_id(row, rows.EXPIRY)[1]) for row in found]

    def next_expiry(self) -> int | None:
        """When the first is to be forgotten."""
        found = self._first(rows.EXPIRY, rows.expiry_time(_FOREVER), 1)
        return rows.at_and_id(found[0], rows.EXPIRY)[0] if found else None

    def schedules(self) -> list[str]:
        """The ids of all of them: for a start, since it looks at everything that has changed."""
        begin, end = rows.SCHEDULE, rows.SCHEDULE + b"\xff"
        found = {*self._scan(begin, end, _ALL), *self.rows.frozen, *self.rows.changed}
        return sorted(rows.schedule_id(row) for row in found if begin < row < end and not self.rows.hides(row))

    def stored_invocations(self) -> Iterator[Invocation]:
        """Every one that the store holds, as it holds it; for tools that look at a store nobody writes."""
        begin, end = b"i", b"j"
        while self._store is not None and (found := self._store.range(begin, end, _PAGE)):
            for _, value in found:
                yield rows.unpack_invocation(value)
            begin = found[-1][0] + b"\0"

    def _scan(self, begin: bytes, end: bytes, limit: int, groups: Iterable[bytes] = ()) -> list[bytes]:
        if self._store is None:
            return []
        found: list[bytes] = []
        page_rows = limit
        with self._reading():
            while len(found) < limit:
                page = [key for key, _ in self._store.range(begin, end, page_rows, groups)]
                found += [key for key in page if not self.rows.hides(key)]
                if len(page) < page_rows:
                    break
                begin = page[-1] + b"\0"
                page_rows = max(limit, _PAGE)
        return found[:limit]

    def _first(self, prefix: bytes, end: bytes, limit: int) -> list[bytes]:
        """The first rows of what is taken away from its beginning.

        What was taken away since the last checkpoint still lies there; it is gone through once.
        """
        found = self._scan(self._gone_before.get(prefix, prefix), end, limit)
        if found:
            self._gone_before[prefix] = found[0]
        return found

    def _scan_rows(self, begin: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        if self._store is None:
            return []
        with self._reading():
            return self._store.range(begin, end, limit)

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

    def _tell_of_stored(self, _: str, invocation: Invocation) -> None:
        self.on_stored(invocation)

    def _tell_of_stored_entry(self, key: ObjectKey, entry: ObjectEntry) -> None:
        self.on_stored_entry(key, entry)

    @property
    def changed(self) -> int:
        """How many things have changed since the last freeze."""
        return len(self.objects) + len(self.invocations) + len(self.rows.changed) + len(self.entries.changed)

    def freeze(self, now: int) -> None:
        """All that has changed is what the next commit to the store holds."""
        self._frozen_at = now
        self.objects.freeze()
        self.invocations.freeze()
        self.rows.freeze()
        self.entries.freeze()

    def encode(self, count: int) -> bool:
        """Makes rows of up to `count` things; True if there are more."""
        count -= self.objects.encode(count)
        count -= self.invocations.encode(count)
        return count <= 0

    def frozen_rows(self) -> list[Put]:
        """Everything for the commit, once all of it is rows."""
        overlay = [rows.put_of(key, value) for key, value in (self.rows.frozen | self.entries.frozen).items()]
        return [*overlay, *self.objects.rows, *self.invocations.rows]

    def thaw(self, count: int) -> bool:
        """The store holds it: what hasn't changed again may leave.  Up to `count` things; True if there are more."""
        self.rows.thaw()
        self.entries.thaw()
        self._gone_before.clear()
        count -= self.objects.thaw(count)
        count -= self.invocations.thaw(count)
        return count <= 0

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

    def evict(self, bytes_max: int, may_leave: Callable[[Invocation], bool], count: int = sys.maxsize) -> bool:
        """The least recently used go, until what could leave takes no more than `bytes_max`, or `count` were looked at.

        True if there are more; each is looked at once until that is False, however many it takes: a thousand whose
        steps run may be more than fits, and can't leave.
        """
        while self._clean.bytes > bytes_max and self._kept < len(self._clean):
            if not count:
                return True
            count -= 1
            key = self._clean.oldest()
            if isinstance(key, tuple):
                self.objects.evict(key)
            elif may_leave(invocation := self.invocations.here[key]):
                self.on_leaving(invocation)
                self.invocations.evict(key)
            else:
                self._clean.use(key)
                self._kept += 1
                continue
            self.evicted += 1
        self._kept = 0
        return False


def _rows_of_entry(key: ObjectKey, entry: ObjectEntry | None) -> list[Put]:
    """An object at work has no row among the expiries: the kernel took it away when the work began."""
    if entry is None:
        return [Put(rows.object_key(*key), None)]
    puts: list[Put] = []
    if entry.expires is not None and entry.idle and not entry.agenda:
        entry.agenda = rows.expiry_row(entry.expires, *key)
        puts.append(Put(entry.agenda, b""))
    puts.append(Put(rows.object_key(*key), rows.pack_entry(entry)))
    return puts


def _bytes_of_entry(entry: ObjectEntry) -> int:
    """About what it takes in memory: the same for as long as it isn't changed."""
    return _ENTRY_BYTES + sum(map(len, entry.fields.values())) + 100 * len(entry.mailbox)


def _bytes_of_invocation(invocation: Invocation) -> int:
    history = invocation.history
    entries = len(invocation.deliveries) + (0 if history is None else _HISTORY_ENTRIES + len(history.turns))
    outcome = invocation.outcome
    kept = len(invocation.arguments) + (len(outcome.value) if isinstance(outcome, Success) else 0)
    if history is not None:
        kept += sum(_IMAGE_BYTES * len(images) for images in history.before_entries.values())
    return _INVOCATION_BYTES + kept + _DELIVERY_BYTES * entries


def _nobody(*_: object) -> None: ...

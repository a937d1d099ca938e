"""Typed state: the fields of a class, and one invocation's copy of their values.

What lives here: what a read and a write of `self.balance` do, and which fields a turn changed.
What this file does not know: where committed bytes come from (`load`), when a turn ends, what is journaled.

A value is kept as JSON between invocations and rebuilt at its first touch. A field that can change in place has no
moment of writing, so once touched it is encoded and compared at the end of every turn; any other only when assigned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec

from .annotations import shown
from .errors import MEND_STATE, StateError, UnreadableState
from .values import Codec, Unencodable

if TYPE_CHECKING:
    from .context import Context, WorkflowContext
    from .definitions import ServiceDefinition
    from .entries import Change, Entries, EntrySource

Load = Callable[[str], bytes | None]
"""The committed JSON of a field, None if it was never written."""

# Shared, so that a State whose turn needs none of them makes none. Never written to.
_NO_READS: dict[str, bytes | None] = {}
_NONE: dict[str, None] = {}
_NONE_HELD: dict[str, Any] = {}


class Field:
    """One field: its annotation's codec and the JSON of its default."""

    __slots__ = ("decode", "default", "encode", "encode_checked", "mutable", "name", "type")

    def __init__(self, name: str, codec: Codec, default: bytes) -> None:
        self.name = name
        self.type = codec.type
        self.encode = codec.pack
        self.encode_checked = codec.pack_checked
        self.decode = codec.unpack
        self.mutable = codec.mutable
        self.default = default


class _Collections:
    """The Lists and Maps touched: what their user holds, and what stands behind it. Most objects have none."""

    __slots__ = ("opened", "source")

    def __init__(self, source: EntrySource) -> None:
        self.source = source
        self.opened: dict[str, tuple[object, Entries]] = {}


class State:
    """The state of one invocation's object.

    `load(field)` gives committed bytes; `guard()` runs before every access by user code and raises where there may be
    none. Without `writable` it is a reader's: assignments raise, `reads` has what was loaded in this turn. `entries`
    gives committed entries of the fields that are a List or a Map; give none to a class without such fields.
    """

    __slots__ = (
        "_collections",
        "_committed",
        "_held",
        "_load",
        "_mutable",
        "changed",
        "context",
        "definition",
        "fields",
        "guard",
        "key",
        "reads",
        "values",
        "writable",
    )

    def __init__(
        self,
        definition: ServiceDefinition,
        load: Load,
        guard: Callable[[], None],
        *,
        writable: bool,
        entries: EntrySource | None = None,
    ) -> None:
        self.definition = definition
        self.fields = definition.fields
        self.guard = guard
        self.writable = writable
        self.values: dict[str, Any] = {}
        self.reads: dict[str, bytes | None] = _NO_READS if writable else {}
        self._load = load
        self._committed: dict[str, bytes] = {}
        self.changed: dict[str, None] = {}  # assigned since the last collect, in order of the text
        self._mutable = _NONE  # touched, and able to change in place
        self._held = _NONE_HELD  # a reader's copies from earlier turns
        self._collections = None if entries is None else _Collections(entries)

    # `key` and `context` are set by definitions.new_instance.
    key: str
    context: Context

    def begin_turn(self) -> None:
        """A reader sees the last committed turn: each field is loaded anew at its first touch. Nothing for a writer."""
        if not self.writable:
            self._held = {**self._held, **self.values}
            self.values = {}
            self.reads = {}
            self._mutable = _NONE
            for _, entries in self._opened():
                entries.begin_turn()

    def fetch(self, name: str) -> Any:
        """The value of a field at its first touch; for a reader, in this turn."""
        field = self.fields.get(name)
        if field is None:
            return self._collection(name) if name in self.definition.collections else self._promise(name)
        stored = self._load(name)
        if not self.writable:
            self.reads[name] = stored
        data = field.default if stored is None else stored
        if name in self._held and self._committed[name] == data:
            value = self._held[name]  # the copy that the handler may still hold
        else:
            try:
                value = field.decode(data)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                problem = f"is stored as what {shown(field.type)} does not read: {error}; {MEND_STATE}"
                raise UnreadableState(self._said_of(name, problem)) from None
        self._committed[name] = data
        self.values[name] = value
        if field.mutable:
            self._watch(name)
        return value

    def begin_from(self, load: Load, entries: EntrySource) -> None:
        """Take these for what is committed. To be called before anything is touched."""
        self._load = load
        if self._collections is not None:
            self._collections.source = entries

    def forget(self, name: str) -> None:
        """What is committed of a field is dropped: a value that was touched will be written."""
        self._committed.pop(name, None)

    def has_used(self, name: str) -> bool:
        """Whether anything in a List or Map was read or changed."""
        opened = None if self._collections is None else self._collections.opened.get(name)
        return opened is not None and opened[1].used

    def refuse_assignment(self, name: str) -> NoReturn:
        """Raise what a reader's `self.name = value` gets."""
        self._fail(name, "assigned in a @shared handler, which only reads; use @handler")

    def collect_writes(self) -> dict[str, bytes]:
        """The JSON of each field that changed since the last collect, proved to decode; StateError if one does not."""
        names = {**self.changed, **self._mutable} if self._mutable else self.changed
        committed, values, fields = self._committed, self.values, self.fields
        writes: dict[str, bytes] = {}
        for name in names:
            field = fields[name]
            try:
                data = field.encode(values[name])
            except Unencodable as error:
                self._fail(name, f"cannot be kept: {error}; the turn that wrote it is undone")
            if committed.get(name) != data:
                writes[name] = committed[name] = data
            if field.mutable:
                self._watch(name)
        if self.changed:
            self.changed = {}
        if writes and not self.writable:
            self._refuse_reader(writes)
        return writes

    def collect_entries(self) -> tuple[list[Change], dict[str, int]]:
        """The entries of Lists and Maps that changed since the last collect, proved to decode, and the new lengths of
        the fields whose length changed; StateError if one does not decode.

        Fields stand in the order in which they were first touched; the entries of each in the order of their first
        assignment or removal in this turn, then those changed in place. A replay gives the same order.
        """
        changes: list[Change] = []
        lengths: dict[str, int] = {}
        for _, entries in self._opened():
            entries.collect(changes, lengths)
        return changes, lengths

    def _opened(self) -> Iterable[tuple[object, Entries]]:
        return () if self._collections is None else self._collections.opened.values()

    def _collection(self, name: str) -> object:
        if self._collections is None:
            self._fail(name, "is a List or Map, and there is nothing here that keeps its entries")
        source, opened = self._collections.source, self._collections.opened
        if name not in opened:
            field = self.definition.collections[name]
            opened[name] = field.open(source, self.guard, self._where(name), writable=self.writable)
        view = self.values[name] = opened[name][0]
        return view

    def _watch(self, name: str) -> None:
        if self._mutable is _NONE:
            self._mutable = {}
        self._mutable[name] = None

    def _promise(self, name: str) -> Any:
        type_ = self.definition.promises[name]
        promise = self.values[name] = cast("WorkflowContext", self.context).promise(name, type_)
        return promise

    def _refuse_reader(self, writes: dict[str, bytes]) -> None:
        for name, data in writes.items():
            field, stored = self.fields[name], self.reads.get(name)
            # Not merely another writing of the same value: spaces, an older order of names, a new default.
            if stored is None or field.encode(field.decode(stored)) != data:
                self._fail(name, "changed in place in a @shared handler, which only reads; use @handler")
        writes.clear()

    def _fail(self, name: str, problem: str) -> NoReturn:
        raise StateError(self._said_of(name, problem))

    def _said_of(self, name: str, problem: str) -> str:
        return f"{self._where(name)} {problem}"

    def _where(self, name: str) -> str:
        key = getattr(self, "key", "")
        return f"{self.definition.name}[{key!r}].{name}" if key else f"{self.definition.name}.{name}"


class FieldDescriptor:
    """A declared field as it stands in its class; reads and writes go to the instance's State."""

    __slots__ = ("annotation", "default", "name", "owner")

    def __init__(self, name: str, owner: type, annotation: Any, default: Any) -> None:
        self.name = name
        self.owner = owner
        self.annotation = annotation
        self.default = default

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        state: State = instance._perdure_state
        state.guard()
        name, values = self.name, state.values
        return values[name] if name in values else state.fetch(name)

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__setattr__(self.name, value)

    def __repr__(self) -> str:
        return f"<state field {self.owner.__qualname__}.{self.name}>"

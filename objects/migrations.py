"""What an older version of a class stored, and how it becomes what this version stores.

What lives here: `OldState`, as users see it in their `migrate`; one run of that; and the state as it is afterwards.
What this file does not know: when an object is migrated, where what is stored lies, what is journaled.

A migration is a function of what is stored and nothing else, since a replay runs it again. So it has no context and no
event loop. What it leaves is laid over what is stored, and the handler's own State begins there.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, final, overload

import msgspec

from .annotations import shown
from .context import WorkflowContext
from .definitions import ServiceDefinition, new_instance
from .entries import CLEAR_MAX, PORTION, Change, EntrySource, lost_rows, overlaid
from .entry_keys import NO_TAG, plain_key, tag_of, words_for
from .errors import MEND_STATE, HandlerDropped, StateError, UnreadableState, text_of
from .state import Load, State
from .values import codec_of

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")
D = TypeVar("D")

DROPPED: Final = b""
"""Written to a field that is dropped; JSON is never empty."""

_NO_DEFAULT: Final[Any] = object()


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored of an object: `fields` are the names of values stored whole, `lengths` says how many entries each
    List and Map has, `tags` what the keys of a Map's are.
    """

    version: int
    fields: frozenset[str]
    lengths: Mapping[str, int]
    tags: Mapping[str, str]
    load: Load
    entries: EntrySource


class Migrated:
    """An object's state as a migration has left it: what it changed lies over what is stored.

    `writes`, `entries` and `lengths` are what changed, a field that was dropped written as DROPPED.
    """

    __slots__ = ("_changed", "_ordered", "_stored", "entries", "lengths", "writes")

    def __init__(
        self, stored: Stored, writes: dict[str, bytes], entries: list[Change], lengths: dict[str, int]
    ) -> None:
        self._stored = stored
        self.writes = writes
        self.entries = entries
        self.lengths = lengths
        self._changed: dict[str, dict[bytes, bytes | None]] = {}
        self._ordered: dict[str, list[bytes]] = {}
        for field, entry, value in entries:
            self._changed.setdefault(field, {})[entry] = value
            insort(self._ordered.setdefault(field, []), entry)

    def load(self, field: str) -> bytes | None:
        data = self.writes.get(field)
        return self._stored.load(field) if data is None else data or None

    def length(self, field: str) -> int:
        length = self.lengths.get(field)
        return self._stored.entries.length(field) if length is None else length

    def get(self, field: str, entry: bytes) -> bytes | None:
        changed = self._changed.get(field)
        if changed is not None and entry in changed:
            return changed[entry]
        return self._stored.entries.get(field, entry)

    def range(self, field: str, after: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        changed, ordered = self._changed.get(field, {}), self._ordered.get(field, [])
        return overlaid(self._stored.entries, field, after, limit, changed, ordered)


@final
class OldState(Mapping[str, Any]):
    """What is stored of an object whose class has a higher version by now, as its `migrate` gets it.

    `old["balance"]` is the plain JSON value of a field, of a List's a list and of a Map's a dict; KeyError if none is
    stored. What the class still declares may be read as `self.balance` too, if its annotation reads what is stored.
    `version` is that under which it was stored.
    """

    __slots__ = ("_migration", "version")

    def __init__(self, migration: _Migration, version: int) -> None:
        self.version = version
        self._migration = migration

    def __getitem__(self, name: str) -> Any:  # whatever an older version stored
        return self._migration.plain(name)

    def __contains__(self, name: object) -> bool:
        return self._migration.is_stored(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._migration.names())

    def __len__(self) -> int:
        return len(self._migration.names())

    @overload
    def read(self, name: str, type: type[T], /) -> T: ...
    @overload
    def read(self, name: str, type: TypeForm[T], /) -> T: ...
    def read(self, name: str, type: Any, /) -> Any:
        """The value of a field as a `type`; a value that is none pauses the invocation, as everywhere."""
        return self._migration.read(name, type)

    @overload
    def pop(self, name: str, /) -> Any: ...
    @overload
    def pop(self, name: str, default: D, /) -> Any | D: ...
    def pop(self, name: str, default: Any = _NO_DEFAULT, /) -> Any:
        """The value of a field, which is stored no longer: it has its default, unless `migrate` assigns it."""
        if default is not _NO_DEFAULT and name not in self:
            return default
        value = self[name]
        self._migration.drop(name)
        return value


def brought_up_to_date(definition: ServiceDefinition, key: str, stored: Stored) -> Migrated | None:
    """What is stored, migrated; None if it is of the class's version already, or nothing is.

    Raises UnreadableState for what this code can't read, or was written by a newer one.
    """
    if stored.version > definition.version:
        raise UnreadableState(
            f"{definition.name}[{key!r}] was written by a newer version of the class, which this code cannot read; "
            "nothing was overwritten: deploy the newer code again, then resume"
        )
    if not 0 < stored.version < definition.version:
        refuse_other_form(definition, key, stored.fields, stored.lengths, stored.tags)
        return None
    return _Migration(definition, key, stored).run()


def reads_form(
    definition: ServiceDefinition, fields: Iterable[str], lengths: Mapping[str, int], tags: Mapping[str, str]
) -> bool:
    """Whether every List and Map is stored as one that the class declares under that name, if it declares any."""
    collections, plain = definition.collections, definition.fields
    for name in lengths:
        collection = collections.get(name)
        if name in plain if collection is None else tags.get(name, NO_TAG) not in collection.tags:
            return False
    return not collections or collections.keys().isdisjoint(fields)


def refuse_other_form(
    definition: ServiceDefinition,
    key: str,
    fields: frozenset[str],
    lengths: Mapping[str, int],
    tags: Mapping[str, str],
) -> None:
    """Raise UnreadableState if not `reads_form`: what is stored would not be seen, as if there were nothing."""
    if reads_form(definition, fields, lengths, tags):
        return
    for name, collection in definition.collections.items():
        if name in fields:
            _refuse_form(definition, key, name, "a whole value", collection.type)
    for name, length in lengths.items():
        tag, declared = tags.get(name, NO_TAG), definition.collections.get(name) or definition.fields.get(name)
        if declared is not None and tag not in getattr(declared, "tags", ()):
            _refuse_form(definition, key, name, f"{length:,} entries {words_for(tag)}", declared.type)


def _refuse_form(definition: ServiceDefinition, key: str, name: str, stored: str, expected: Any) -> NoReturn:
    raise UnreadableState(
        f"{definition.name}[{key!r}].{name} is stored as {stored}, and expected is {shown(expected)}; {MEND_STATE}"
    )


class _Migration:
    """One run of a class's `migrate`, for one object. It is the source of that run's State."""

    def __init__(self, definition: ServiceDefinition, key: str, stored: Stored) -> None:
        self._definition = definition
        self._key = key
        self._stored = stored
        self._dropped: dict[str, None] = {}
        self._removed: dict[tuple[str, bytes], None] = {}
        self._over = False
        entries = self if definition.collections else None
        self._state = State(definition, self.load, self.guard, writable=True, entries=entries)

    def run(self) -> Migrated:
        """Raises UnreadableState if it can't be done, whatever the reason."""
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            if self._definition.migrates:
                instance: Any = new_instance(self._definition, self._key, _NO_CONTEXT, self._state)
                Context().run(instance.migrate, OldState(self, self._stored.version))
            return self._collected()
        except (UnreadableState, HandlerDropped):
            raise
        except BaseException as error:  # users' code: a SystemExit of it is its failure too
            raise UnreadableState(
                f"{self._where()}: its migrate raised {type(error).__name__}: {text_of(error)}; nothing was "
                "overwritten: mend and deploy it, or bring back the older code, then resume"
            ) from error
        finally:
            asyncio._set_running_loop(loop)
            self._over = True
            del self._state  # which leads back here

    def guard(self) -> None:
        if self._over:
            raise StateError(f"{self._where()}: the `self` of its migrate was used after that had ended")

    # --- what OldState asks ---------------------------------------------------------------------------------------

    def is_stored(self, name: object) -> bool:
        return name not in self._dropped and (name in self._stored.fields or name in self._stored.lengths)

    def names(self) -> list[str]:
        return [name for name in sorted({*self._stored.fields, *self._stored.lengths}) if name not in self._dropped]

    def plain(self, name: str) -> Any:
        self.guard()
        if not self.is_stored(name):
            raise KeyError(name)
        if name in self._stored.fields:
            return msgspec.json.decode(self._stored.load(name) or b"null")
        rows = [(entry, msgspec.json.decode(value)) for entry, value in self._rows(name)]
        if tag_of(rows[0][0]) == NO_TAG:
            return [value for _, value in rows]
        return {plain_key(entry): value for entry, value in rows}

    def read(self, name: str, type_: Any) -> Any:
        data, codec = msgspec.json.encode(self.plain(name)), codec_of(type_)
        try:
            return codec.unpack(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            problem = f"is stored as what {shown(type_)} does not read: {error}"
            raise UnreadableState(f"{self._where(name)} {problem}; {MEND_STATE}") from None

    def drop(self, name: str) -> None:
        self.guard()
        if name in self._stored.lengths:
            if self._state.has_used(name):
                self._fail(name, "is used before old.pop() takes out what was stored: pop it first")
            for entry, _ in self._rows(name):
                self._removed[name, entry] = None
        self._dropped[name] = None
        self._state.forget(name)

    # --- what is left of it, as its State sees it -----------------------------------------------------------------

    def load(self, field: str) -> bytes | None:
        self._refuse_other_form(field)
        return None if field in self._dropped else self._stored.load(field)

    def length(self, field: str) -> int:
        self._refuse_other_form(field)
        return 0 if field in self._dropped else self._stored.lengths.get(field, 0)

    def get(self, field: str, entry: bytes) -> bytes | None:
        return None if field in self._dropped else self._stored.entries.get(field, entry)

    def range(self, field: str, after: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        return [] if field in self._dropped else self._stored.entries.range(field, after, limit)

    # --- parts ----------------------------------------------------------------------------------------------------

    def _refuse_other_form(self, field: str) -> None:
        """Before what is stored of it is taken for what `self` has."""
        stored = self._stored
        if field not in self._dropped:
            lengths = {field: stored.lengths[field]} if field in stored.lengths else {}
            refuse_other_form(self._definition, self._key, stored.fields & {field}, lengths, stored.tags)

    def _collected(self) -> Migrated:
        stored, dropped = self._stored, self._dropped
        gone = {name: DROPPED for name in dropped if name in stored.fields}
        writes = {**gone, **self._state.collect_writes()}
        changes, lengths = self._state.collect_entries()
        entries: dict[tuple[str, bytes], bytes | None] = dict(self._removed)
        entries |= {(field, entry): value for field, entry, value in changes}
        lengths = {**{name: 0 for name in dropped if name in stored.lengths}, **lengths}
        refuse_other_form(
            self._definition,
            self._key,
            frozenset(name for name in {*stored.fields, *writes} if writes.get(name) != DROPPED),
            {name: length for name, length in stored.lengths.items() if name not in dropped},
            stored.tags,
        )
        return Migrated(stored, writes, [(*at, value) for at, value in entries.items()], lengths)

    def _rows(self, name: str) -> list[tuple[bytes, bytes]]:
        count = self._stored.lengths[name]
        if count > CLEAR_MAX:
            self._fail(
                name,
                f"has {count:,} entries, and migrate takes at most {CLEAR_MAX:,} as one value: keep it declared as it "
                "is, and move them in portions in messages to yourself",
            )
        rows: list[tuple[bytes, bytes]] = []
        while portion := self._stored.entries.range(name, rows[-1][0] if rows else None, PORTION):
            rows += portion
        if len(rows) != count:
            raise UnreadableState(lost_rows(self._where(name), count, len(rows)))
        return rows

    def _where(self, name: str = "") -> str:
        return f"{self._definition.name}[{self._key!r}]" + (name and f".{name}")

    def _fail(self, name: str, problem: str) -> NoReturn:
        raise StateError(f"{self._where(name)} {problem}")


class _NoContext(WorkflowContext):
    """What `self.ctx` is in a `migrate`."""

    def __getattribute__(self, name: str) -> NoReturn:
        raise StateError(
            f"migrate used the context ({name}): it changes state, and nothing else; ask for it in a handler"
        )


_NO_CONTEXT: Final = _NoContext()

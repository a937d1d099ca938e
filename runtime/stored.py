"""What is stored of an object, as one run of a handler has to see it.

An exclusive handler sees it as it was when its invocation began: a replay begins there.  A shared one sees the last
committed turn, and what it reads is recorded, since somebody else may change it.  Either sees it in the form of the
class's version: what an older one stored is migrated, by an exclusive handler for good, by a shared one for itself.

This file does not know how a class migrates (objects/migrations.py does), nor what gets into a record (execution.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from perdure.objects.definitions import ServiceDefinition
from perdure.objects.migrations import Migrated, Stored, brought_up_to_date, reads_form
from perdure.objects.state import Load

from .entries import OwnEntries, ReadEntries
from .handler_context import HandlerContext
from .invocations import History, Invocation, ObjectEntry
from .kernel import Kernel
from .records import Turn

_STORED: Final = "#stored"
"""The name, which no field has, under which a reader's turn records that it migrated, and from what."""

_Summary = tuple[int, list[str], dict[str, int], dict[str, str]]
"""Version, fields, lengths and tags of what is stored (migrations.Stored)."""
_encode = msgspec.json.Encoder().encode
_said = msgspec.json.Decoder(_Summary)
_NOTHING: Final = History()


def of_form(entry: ObjectEntry, service: ServiceDefinition) -> bool:
    """Whether the class reads it as it is: of its version, and no List or Map where the class has a plain field."""
    if entry.version != service.version:
        return False
    return not (entry.lengths or service.collections) or reads_form(service, entry.fields, entry.lengths, entry.tags)


def start_of(kernel: Kernel, invocation: Invocation, load: Load) -> Stored:
    """As an exclusive invocation first saw it; `load` gives its fields as they were then."""
    entry = kernel.entry(invocation.service, invocation.key) or ObjectEntry()
    history = invocation.history or _NOTHING
    before = history.before
    fields = frozenset(
        {name for name in entry.fields if name not in before} | {name for name in before if before[name] is not None}
    )
    lengths = {name: length for name, length in {**entry.lengths, **history.before_lengths}.items() if length}
    version = entry.stored_version if history.before_version is None else history.before_version
    return Stored(version, fields, lengths, entry.tags, load, OwnEntries(kernel, invocation))


class ReadState:
    """A shared handler's view, turn by turn.  `reads` is what this turn has read, for its record."""

    __slots__ = (
        "_context",
        "_entries",
        "_entry",
        "_kernel",
        "_key",
        "_looked",
        "_migrated",
        "_recorded",
        "_service",
        "reads",
    )

    def __init__(
        self, kernel: Kernel, invocation: Invocation, service: ServiceDefinition, context: HandlerContext
    ) -> None:
        self._kernel = kernel
        self._key = (invocation.service, invocation.key)
        self._service = service
        self._context = context
        self._entries: ReadEntries | None = None
        self._migrated: Migrated | None = None
        self._entry: ObjectEntry | None = None

    def begin_turn(self, recorded: Turn | None) -> None:
        """`recorded`: what a replay has to find.  What was seen in the turn before is forgotten."""
        self._recorded = recorded
        self._looked = False
        self._migrated = None
        self.reads: dict[str, bytes | None] = {}

    def cut(self) -> None:
        """The run is over: what was migrated for it leads back here, and would be left to the collector."""
        self._migrated = self._entries = None

    # --- what its State asks --------------------------------------------------------------------------------------

    def load(self, field: str) -> bytes | None:
        if not self._looked:
            self._look()
        return self._load_stored(field) if self._migrated is None else self._migrated.load(field)

    def length(self, field: str) -> int:
        return self._source().length(field)

    def get(self, field: str, entry: bytes) -> bytes | None:
        return self._source().get(field, entry)

    def range(self, field: str, after: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        return self._source().range(field, after, limit)

    # --- parts ----------------------------------------------------------------------------------------------------

    def _source(self) -> Migrated | ReadEntries:
        if not self._looked:
            self._look()
        return self._stored_entries() if self._migrated is None else self._migrated

    def _stored_entries(self) -> ReadEntries:
        if self._entries is None:
            self._entries = ReadEntries(self._kernel, self._key, self._read)
        return self._entries

    def _look(self) -> None:
        """Before the first touch in a turn: of what version is it?"""
        self._looked = True
        recorded = self._recorded
        if recorded is None:
            self._kernel.memory.used(self._key)  # which nothing else would tell
            entry = self._entry = self._kernel.objects.get(self._key) or self._kernel.entry(*self._key)
            if entry is not None and not of_form(entry, self._service):
                self._bring_up_to_date(self._summary_of(entry))
        elif (said := recorded.reads.get(_STORED)) is not None:  # a turn that had none is replayed without one
            self._bring_up_to_date(_said.decode(said))

    def _summary_of(self, entry: ObjectEntry) -> _Summary:
        summary = entry.stored_version, sorted(entry.fields), {**entry.lengths}, {**entry.tags}
        if self._service.migrates and 0 < entry.stored_version < self._service.version:
            self.reads[_STORED] = _encode(summary)
        return summary

    def _bring_up_to_date(self, summary: _Summary) -> None:
        version, fields, lengths, tags = summary
        stored = Stored(version, frozenset(fields), lengths, tags, self._load_stored, self._stored_entries())
        self._migrated = brought_up_to_date(self._service, self._key[1], stored)

    def _load_stored(self, field: str) -> bytes | None:
        recorded = self._recorded
        if recorded is None:
            value = None if self._entry is None else self._entry.fields.get(field)
        else:
            value = self._recorded_read(recorded, field)
        self.reads[field] = value
        return value

    def _read(self, name: str, load: Callable[[], bytes | None]) -> bytes | None:
        recorded = self._recorded
        value = self.reads[name] = load() if recorded is None else self._recorded_read(recorded, name)
        return value

    def _recorded_read(self, recorded: Turn, name: str) -> bytes | None:
        if name not in recorded.reads:
            self._context.diverge(f"the journal has no read of {name}, the code now reads it")
        return recorded.reads[name]

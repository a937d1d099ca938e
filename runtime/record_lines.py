"""A record as text for people: its time, its kind, then its fields as JSON.

Payloads are JSON already and are shown as such, not as bytes. The seed is left out: who knows it can compute the ids
that it makes. `perdure.journal.dump` puts the text on one line and escapes what isn't printable.
"""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import cast

import msgspec

from perdure.objects.entry_keys import label_of

from .records import Command, Outcome, Record, Turn, decode

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COUNTED = frozenset({"index"})  # the place among the turn's commands, which nobody wrote
_NOT_AMONG_THE_FIELDS = frozenset({"seed", "at"})  # the one is secret, the other stands before them


def describe(data: bytes) -> str:
    """`TIME KIND FIELDS`, in UTC to the microsecond. Raises UnknownRecord for what this release can't read."""
    record = decode(data)
    fields = _fields(record, _NOT_AMONG_THE_FIELDS)
    if isinstance(record, Turn):
        _describe_state(record, fields)
    return f"{_time(record.at)} {type(record).__name__:<9} {json.dumps(fields, ensure_ascii=False)}"


def _describe_state(record: Turn, fields: dict[str, object]) -> None:
    if record.entries:
        fields["entries"] = {f"{field}[{label_of(entry)}]": _plain(value) for field, entry, value in record.entries}
    if dropped := [field for field, value in record.writes.items() if not value]:
        fields["writes"] = {field: _plain(value) for field, value in record.writes.items() if value}
        fields["dropped"] = dropped


def what_is_large(record: Record) -> str:
    """Which field takes most of a turn's record, to stand behind its size; empty if none does."""
    if not isinstance(record, Turn):
        return ""
    sizes: Counter[tuple[str, str]] = Counter()
    for field, written in record.writes.items():
        sizes["wrote to", field] += len(written)
    for field, entry, value in record.entries:
        sizes["wrote to", field] += len(entry) + len(value or b"")
    for name, read in record.reads.items():
        sizes["read of", name.partition("#")[0]] += len(name) + len(read or b"")
    if not sizes:
        return ""
    [((did, field), size)] = sizes.most_common(1)
    if 2 * size < sizes.total():
        return ""
    return f"; {size:,} of them are what the turn {did} {field}: take less of it at once, with an await in between"


def divergence(recorded: Command, now: Command) -> str:
    """What the journal has and what the code does instead, both sides as people read them."""
    was, is_ = describe_part(recorded), describe_part(now)
    if was == is_:  # they differ in what is left out
        was, is_ = repr(recorded), repr(now)
    return f"the journal has {was}, the code now does {is_}"


def describe_part(part: Command | Outcome) -> str:
    """`KIND FIELDS` of one command or outcome of a turn."""
    fields = _fields(part, _COUNTED)
    return f"{type(part).__name__} {json.dumps(fields, ensure_ascii=False)}" if fields else type(part).__name__


def _time(at_us: int) -> str:
    try:
        return (_EPOCH + timedelta(microseconds=at_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except OverflowError:  # a machine whose clock was beyond the calendar
        return str(at_us)


def _fields(struct: msgspec.Struct, hidden: frozenset[str] = frozenset()) -> dict[str, object]:
    """What says something: neither empty nor the default."""
    names, defaults = struct.__struct_fields__, struct.__struct_defaults__
    usual = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
    values = {name: getattr(struct, name) for name in names if name not in hidden}
    return {
        name: _plain(value)
        for name, value in values.items()
        if value not in (None, b"", [], {}) and value != usual.get(name)
    }


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return _payload(value)
    if isinstance(value, msgspec.Struct):
        return {type(value).__name__: _fields(value, _NOT_AMONG_THE_FIELDS)}
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in cast(dict[str, object], value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast(list[object], value)]
    return value


def _payload(data: bytes) -> object:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return f"0x{data.hex()}"

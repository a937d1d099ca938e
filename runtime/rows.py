"""The kernel's memory as rows of the store: their keys, and bytes to memory and back.

    o  service NUL key                                    an object
    i  id                                                 an invocation, whole: its turns and deliveries with it
    k  service NUL key NUL handler NUL idempotency key    the id that it names
    w  awakeable id                                       whose it is: id, command
    c  service NUL key NUL field NUL entry                one entry of a Map or List: JSON
    y  id NUL number                                      one item of a stream: JSON
    d  time, id                                           the agenda: what is open and due then; 0: at once
    d  time, 7f, number, id                               the same of what is scheduled: in the order of its acceptance
    e  family NUL time, id                                what has ended and is retained, by the time of its end
    x  time, service NUL key                              an idle object that is forgotten then
    s  id                                                 a schedule

Names and keys have no control characters, so NUL separates.  Times are microseconds since the Unix epoch, 8 bytes,
big-endian, so that rows lie in their order.  A value is one byte of version and MessagePack.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from .invocations import Counts, Invocation, ObjectEntry, ScheduleState, Status
from .store import Put

ROW_VERSION = b"\x01"
_SLOT_BITS = 30
"""The agenda is verified by slots of time, 2^30 microseconds (some 18 minutes) each."""

DUE = b"d"
_ORDER = b"\x7f"
EXPIRY = b"x"
SCHEDULE = b"s"
_encode = msgspec.msgpack.Encoder().encode
_entry_of = msgspec.msgpack.Decoder(ObjectEntry).decode
_invocation_of = msgspec.msgpack.Decoder(Invocation).decode
_counts_of = msgspec.msgpack.Decoder(Counts).decode
_schedule_of = msgspec.msgpack.Decoder(ScheduleState).decode
_owner_of = msgspec.msgpack.Decoder(tuple[str, int]).decode


Place: TypeAlias = tuple[int, int, str]
"""On the agenda: when it is due, which number it has among what was scheduled (0: it is something else), and its id."""


class UnreadableRow(Exception):
    """A row of another version of the store's format, or none at all."""


def object_key(service: str, key: str) -> bytes:
    return b"o" + service.encode() + b"\0" + key.encode()


def objects_range(service: str) -> tuple[bytes, bytes]:
    """Where the rows of a class's objects begin, and before what they end."""
    prefix = b"o" + service.encode()
    return prefix + b"\0", prefix + b"\1"


def invocation_key(id: str) -> bytes:
    return b"i" + id.encode(errors="surrogatepass")  # anybody may ask for any id


def idempotency_row(service: str, key: str, handler: str, idempotency_key: str) -> bytes:
    return b"k" + "\0".join((service, key, handler, idempotency_key)).encode()


def awakeable_row(id: str) -> bytes:
    return b"w" + id.encode(errors="surrogatepass")


def schedule_row(id: str) -> bytes:
    return SCHEDULE + id.encode(errors="surrogatepass")


def schedule_id(row: bytes) -> str:
    return row[len(SCHEDULE) :].decode(errors="surrogatepass")


def entries_prefix(service: str, key: str, field: str) -> bytes:
    """What the rows of all entries of a List or Map begin with."""
    return b"c" + "\0".join((service, key, field)).encode() + b"\0"


def entries_range(service: str, key: str, field: str) -> tuple[bytes, bytes]:
    """Where these rows begin, and before what they end."""
    prefix = entries_prefix(service, key, field)
    return prefix, prefix[:-1] + b"\1"


def item_row(id: str, number: int) -> bytes:
    return b"y%b\0%b" % (id.encode(errors="surrogatepass"), number.to_bytes(4))


def pack_owner(id: str, command: int) -> bytes:
    return _encode((id, command))


def unpack_owner(value: bytes) -> tuple[str, int]:
    return _owner_of(value)


def pack_entry(entry: ObjectEntry) -> bytes:
    return ROW_VERSION + _encode(entry)


def unpack_entry(value: bytes) -> ObjectEntry:
    return _entry_of(_body(value))


def pack_invocation(invocation: Invocation) -> bytes:
    """Whether it is about to be driven is read off the rest when it comes back."""
    ready, invocation.in_ready_queue = invocation.in_ready_queue, False
    try:
        return ROW_VERSION + _encode(invocation)
    finally:
        invocation.in_ready_queue = ready


def unpack_invocation(value: bytes) -> Invocation:
    return _invocation_of(_body(value))


def pack_counts(counts: Counts) -> bytes:
    return ROW_VERSION + _encode(counts)


def unpack_counts(value: bytes) -> Counts:
    return _counts_of(_body(value))


def pack_schedule(state: ScheduleState) -> bytes:
    return ROW_VERSION + _encode(state)


def unpack_schedule(value: bytes) -> ScheduleState:
    return _schedule_of(_body(value))


def _body(value: bytes) -> memoryview:
    if value[:1] != ROW_VERSION:
        raise UnreadableRow(f"a row of version {value[0] if value else 'none'}; this release reads {ROW_VERSION[0]}")
    return memoryview(value)[1:]


# --- the agenda ---------------------------------------------------------------------------------------------------


def agenda_row(invocation: Invocation, now: int) -> bytes:
    """Where it stands on the agenda, or among the ended; empty if nowhere.

    What is overdue stands there as due `now`, so that nothing but what can be driven at once is older than that.
    """
    if invocation.status is Status.ENDED:
        at = invocation.ended_at or 0
        return ended_prefix(invocation.family) + at.to_bytes(8) + invocation.id.encode()
    # What has a step that may be at work is looked at by the next start, paused or backing off as it may be: where the
    # slots are lost, nothing else tells that the step may have begun.
    due = 0 if invocation.runnable or invocation.has_steps_to_run else invocation.next_alarm
    if due is None:
        return b""
    return due_row(place_of(invocation, due and max(due, now)))


def place_of(invocation: Invocation, due: int) -> Place:
    return due, invocation.order if invocation.status is Status.SCHEDULED else 0, invocation.id


def due_row(place: Place) -> bytes:
    """Rows are in the order of their places: no id begins with a byte as high as the mark of a number."""
    at, order, id = place
    return DUE + at.to_bytes(8) + (_ORDER + order.to_bytes(8) if order else b"") + id.encode()


def place(row: bytes) -> Place:
    at = int.from_bytes(row[1:9])
    if row[9:10] == _ORDER:
        return at, int.from_bytes(row[10:18]), row[18:].decode()
    return at, 0, row[9:].decode()


def after(place: Place) -> Place:
    """The next that there could be on the agenda."""
    at, order, id = place
    return at, order, id + "\0"


def ended_prefix(family: str) -> bytes:
    return b"e" + family.encode() + b"\0"


def object_id(service: str, key: str) -> str:
    return f"{service}\0{key}"


def key_of(object_id: str) -> tuple[str, str]:
    service, key = object_id.split("\0")
    return service, key


def expiry_row(at: int, service: str, key: str) -> bytes:
    return expiry_time(at) + object_id(service, key).encode()


def expiry_time(at: int) -> bytes:
    """Where the rows of that time begin."""
    return EXPIRY + at.to_bytes(8)


def at_and_id(row: bytes, prefix: bytes) -> tuple[int, str]:
    """The time and the id in a row of the ended, or of the expiries (there "service NUL key")."""
    begin = len(prefix)
    return int.from_bytes(row[begin : begin + 8]), row[begin + 8 :].decode()


def is_due(row: bytes, at: int) -> bool:
    """Whether it stands on the agenda for that time."""
    return row.startswith(DUE + at.to_bytes(8))


def put_of(row: bytes, value: bytes | None) -> Put:
    """What stands in an agenda lies together with its neighbours in time."""
    return Put(row, value, _slot(int.from_bytes(row[1:9]) >> _SLOT_BITS) if row[:1] == DUE else None)


def slots(begin: int, end: int) -> list[bytes]:
    """The groups of all agenda rows in `begin <= at < end`."""
    return [_slot(number) for number in range(begin >> _SLOT_BITS, ((end - 1) >> _SLOT_BITS) + 1)]


def _slot(number: int) -> bytes:
    return DUE + number.to_bytes(5)

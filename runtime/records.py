"""The records of the journal: what a partition remembers, one value each.

A record is written once it has been decided, and from then on `apply` reads nothing but it and the state: no
settings, no code, no clock.  So every verdict that needs those stands in the record.

Times are integer microseconds since the Unix epoch.  On the wire a record is one byte of version and a MessagePack
array whose first item is the tag of its type.  A change to what `apply` does with a record is a new version.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Struct

from perdure.objects.errors import Failure

RECORD_VERSION = 1
_PREFIX = bytes([RECORD_VERSION])


class Success(Struct, frozen=True, array_like=True, tag=0, gc=False):
    """A handler, step or promise gave `value`: JSON, never empty (`null` stands for nothing)."""

    value: bytes


class Failed(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """It ended in a terminal error."""

    failure: Failure


Outcome: TypeAlias = Success | Failed


# --- commands: what a turn asked for ------------------------------------------------------------------------------


class Attached(Struct, frozen=True, array_like=True, tag=0, gc=False):
    """Verdict: the idempotency key names the invocation `id`, made earlier with equal arguments."""

    id: str


class Refused(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Verdict: the command was refused, and raised at its call."""

    failure: Failure


Verdict: TypeAlias = Attached | Refused


class Call(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """A durable call: makes an invocation whose outcome is a delivery to the caller.  `stream`: each item is, too."""

    index: int
    service: str
    key: str
    handler: str
    exclusive: bool
    arguments: bytes
    idempotency_key: str | None = None
    headers: dict[str, str] | None = None
    verdict: Verdict | None = None
    stream: bool = False


class Send(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """A message: makes an invocation that nobody waits for, at once or at `due`."""

    index: int
    service: str
    key: str
    handler: str
    exclusive: bool
    arguments: bytes
    idempotency_key: str | None = None
    headers: dict[str, str] | None = None
    verdict: Verdict | None = None
    due: int | None = None


class Timer(Struct, frozen=True, array_like=True, tag=3, gc=False):
    index: int
    due: int


class CancelTimer(Struct, frozen=True, array_like=True, tag=4, gc=False):
    index: int
    timer: int


class CancelCall(Struct, frozen=True, array_like=True, tag=5, gc=False):
    """The wait for a call was cancelled, so the call is."""

    index: int
    call: int


class Attach(Struct, frozen=True, array_like=True, tag=6, gc=False):
    """Wait for the outcome of an invocation that somebody else made."""

    index: int
    id: str
    verdict: Verdict | None = None


class Cancel(Struct, frozen=True, array_like=True, tag=7, gc=False):
    """Ask another invocation to end.  Nothing happens if it is unknown or has ended."""

    index: int
    id: str


class Run(Struct, frozen=True, array_like=True, tag=8, gc=False):
    """A step: `arguments` is JSON, for the comparison in a replay.  `stream`: it yields."""

    index: int
    name: str
    arguments: bytes
    stream: bool = False


class CancelStep(Struct, frozen=True, array_like=True, tag=9, gc=False):
    """The wait for a step was cancelled, so the step is."""

    index: int
    step: int


class Awakeable(Struct, frozen=True, array_like=True, tag=10, gc=False):
    """A value that whoever knows the id may give once."""

    index: int


class Complete(Struct, frozen=True, array_like=True, tag=11, gc=False):
    """An awakeable of another invocation is given its value."""

    index: int
    id: str
    outcome: Outcome
    verdict: Verdict | None = None


class Receive(Struct, frozen=True, array_like=True, tag=12, gc=False):
    """Wait for the next value of the signal `name`."""

    index: int
    name: str


class Signal(Struct, frozen=True, array_like=True, tag=13, gc=False):
    """A value for a signal of the invocation `id`."""

    index: int
    id: str
    name: str
    outcome: Outcome
    verdict: Verdict | None = None


class AwaitPromise(Struct, frozen=True, array_like=True, tag=14, gc=False):
    """Wait for a promise of the own workflow."""

    index: int
    name: str


class CompletePromise(Struct, frozen=True, array_like=True, tag=15, gc=False):
    index: int
    name: str
    outcome: Outcome
    verdict: Verdict | None = None


class PeekPromise(Struct, frozen=True, array_like=True, tag=16, gc=False):
    """What the promise held when it was looked at: a replay is told the same."""

    index: int
    name: str
    outcome: Outcome | None


class Yield(Struct, frozen=True, array_like=True, tag=17, gc=False):
    """The next item of a handler that is a stream, as JSON."""

    index: int
    value: bytes


Command: TypeAlias = (
    Call
    | Send
    | Timer
    | CancelTimer
    | CancelCall
    | Attach
    | Cancel
    | Run
    | CancelStep
    | Awakeable
    | Complete
    | Receive
    | Signal
    | AwaitPromise
    | CompletePromise
    | PeekPromise
    | Yield
)


# --- records ------------------------------------------------------------------------------------------------------


class Trace(Struct, frozen=True, array_like=True, gc=False):
    """The trace that an invocation belongs to, and the span it was made by (empty: none, it began the trace).

    `sampled` was decided where the trace came in, and holds for all of it.  `sent`: nobody waits for the outcome.
    `state`: the W3C's tracestate, passed on as it came.
    """

    trace_id: bytes
    parent: bytes
    sampled: bool
    sent: bool = False
    state: str = ""


class Invoked(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Somebody outside asked for a handler.  (What a handler asks for stands in its Turn.)

    `retained`: the outcome is kept for the retention time, since somebody may come back for it.
    `stream`: the handler yields, and what it has yielded is kept as long as its outcome.
    `trace`: None if nobody wanted traces.
    """

    at: int
    id: str
    seed: bytes
    service: str
    key: str
    handler: str
    exclusive: bool
    arguments: bytes
    retained: bool
    headers: dict[str, str] | None = None
    idempotency_key: str | None = None
    due: int | None = None
    stream: bool = False
    trace: Trace | None = None


class Due(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """A delayed invocation joins its mailbox."""

    at: int
    id: str


class Turn(Struct, frozen=True, array_like=True, tag=3, gc=False):
    """All that one turn did, atomically.

    `consumed` deliveries are used up, those included that were dropped since nobody waited for them any more.
    `deadlocked`: the commands whose wait was refused, and with what DeadlockError, in the order it was raised.
    `patched`: the changes of code for which it went the new way.
    `gave_up`: a saga undid its work for an error that was the last attempt's.
    `attempt`: which one it was that committed; handlers may ask.
    `writes`: fields as JSON, empty if a migration has dropped it.
    `entries`: of Lists and Maps, field, entry and its JSON, None if it was removed; `lengths`: how many they have now.
    `expires`: the object has a time to live, and its state was written, so it begins anew: when it is over.
    `version`: that of the class in whose form the state is from here on: it was migrated, or is the object's first.
    """

    at: int
    id: str
    number: int
    consumed: int
    writes: dict[str, bytes] = {}
    commands: list[Command] = []
    outcome: Outcome | None = None
    reads: dict[str, bytes | None] = {}
    deadlocked: list[tuple[int, Failure]] = []
    patched: list[str] = []
    gave_up: bool = False
    attempt: int = 1
    expires: int | None = None
    entries: list[tuple[str, bytes, bytes | None]] = []
    lengths: dict[str, int] = {}
    version: int | None = None


class Notified(Struct, frozen=True, array_like=True, tag=4, gc=False):
    """What a command waited for has happened outside: a timer fired, a step ended, an awakeable got its value.

    `more`: an item of a stream, which goes on.
    """

    at: int
    id: str
    command: int
    outcome: Outcome | None = None
    more: bool = False


class Signalled(Struct, frozen=True, array_like=True, tag=12, gc=False):
    """Somebody outside gave a value for a signal."""

    at: int
    id: str
    name: str
    outcome: Outcome


class Attempted(Struct, frozen=True, array_like=True, tag=5, gc=False):
    """A turn failed and changed nothing, or the step `command` failed.

    `next_at` None: no further attempt, the invocation is paused.
    `died`: it was running when the process was killed, which need not have been its fault.
    """

    at: int
    id: str
    failure: Failure
    next_at: int | None
    died: bool = False
    command: int | None = None


class PutBack(Struct, frozen=True, array_like=True, tag=6, gc=False):
    """An invocation that had committed nothing gives up its key and queues directly behind `behind`."""

    at: int
    id: str
    behind: str


class Cancelled(Struct, frozen=True, array_like=True, tag=7, gc=False):
    at: int
    id: str


class Killed(Struct, frozen=True, array_like=True, tag=8, gc=False):
    at: int
    id: str


class Paused(Struct, frozen=True, array_like=True, tag=9, gc=False):
    at: int
    id: str
    failure: Failure


class Resumed(Struct, frozen=True, array_like=True, tag=10, gc=False):
    at: int
    id: str


class Purged(Struct, frozen=True, array_like=True, tag=11, gc=False):
    """Outcomes whose retention time is over."""

    at: int
    ids: list[str]


class Expired(Struct, frozen=True, array_like=True, tag=13, gc=False):
    """The time to live of an object is over: it is forgotten, if it is idle and was not written again."""

    at: int
    service: str
    key: str


class Planned(Struct, frozen=True, array_like=True, tag=14, gc=False):
    """A schedule is new, has other ticks than before, or was paused or resumed by an operator.

    `ticks`: which they are (objects/schedules.py `text`); those up to the time `after` are done with.
    """

    at: int
    schedule: str
    ticks: str
    after: int
    paused: bool = False


class Ticked(Struct, frozen=True, array_like=True, tag=15, gc=False):
    """A tick of a schedule, and the invocation that it made: both or neither.

    `tick` None: somebody asked for it, and no tick is done with.  `invoked` None: this one is left out.
    `cancels`: the invocation of the tick before, which is asked to end.
    """

    at: int
    schedule: str
    tick: int | None
    invoked: Invoked | None = None
    cancels: str | None = None


class Unplanned(Struct, frozen=True, array_like=True, tag=16, gc=False):
    """A schedule stands in the code no more."""

    at: int
    schedule: str


class Edited(Struct, frozen=True, array_like=True, tag=17, gc=False):
    """An operator replaced the fields of an object that no handler had begun to change.

    `fields` as JSON; `version` of the class in whose form they are; `cleared`: its Lists and Maps are emptied.
    """

    at: int
    service: str
    key: str
    fields: dict[str, bytes]
    version: int
    cleared: bool
    expires: int | None = None


class Begun(Struct, frozen=True, array_like=True, tag=18, gc=False):
    """What waited for a limit begins now, and not when it could have: its first turn goes by this time."""

    at: int
    id: str


Record: TypeAlias = (
    Invoked
    | Due
    | Turn
    | Notified
    | Signalled
    | Attempted
    | PutBack
    | Cancelled
    | Killed
    | Paused
    | Resumed
    | Purged
    | Expired
    | Edited
    | Planned
    | Ticked
    | Unplanned
    | Begun
)

_COMMAND_BYTES = 64
_OUTCOME_BYTES = 32


def size_of(outcome: Outcome | None) -> int:
    """How many bytes it takes up, about."""
    if outcome is None:
        return 0
    return _OUTCOME_BYTES + len(outcome.value if isinstance(outcome, Success) else outcome.failure.message)


def size_of_turn(turn: Turn) -> int:
    """How many bytes it takes up, about."""
    size = sum(map(len, turn.writes.values())) + sum(len(value or b"") for value in turn.reads.values())
    size += sum(len(name) + len(value or b"") for _, name, value in turn.entries)
    for command in turn.commands:
        size += _COMMAND_BYTES
        match command:
            case Call() | Send() | Run():
                size += len(command.arguments)
            case Complete() | Signal() | CompletePromise() | PeekPromise():
                size += size_of(command.outcome)
            case Yield():
                size += len(command.value)
            case _:
                pass
    return size


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


class UnknownRecord(Exception):
    """A record of another version, or none at all: it can't be applied, so the process must not start."""


def encode(record: Record) -> bytes:
    return _PREFIX + _encoder.encode(record)


def decode(data: bytes) -> Record:
    if data[:1] != _PREFIX:
        version = data[0] if data else "none"
        raise UnknownRecord(f"record version {version}, this release reads version {RECORD_VERSION}")
    try:
        return _decoder.decode(memoryview(data)[1:])
    except msgspec.MsgspecError as error:
        raise UnknownRecord(f"not a record of version {RECORD_VERSION}: {error}") from None

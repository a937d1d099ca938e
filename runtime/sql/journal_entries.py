"""The journal of one invocation as rows: its input, what it asked for and what came of it, its outcome.

What has ended keeps its input and its outcome; the rest is not needed any more, and is not kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

from msgspec import Raw, Struct

from .. import identity, records
from ..invocations import Delivery, Invocation
from ..records import Attached, Command, Failed, Outcome, Success
from .stored import StoredInvocation, json, text
from .waiting import target_of, time_of

_NAMES: Final[dict[type[Any], str]] = {
    records.Call: "Call",
    records.Send: "OneWayCall",
    records.Timer: "Sleep",
    records.Attach: "AttachInvocation",
    records.Cancel: "CancelInvocation",
    records.Run: "Run",
    records.Awakeable: "Awakeable",
    records.Complete: "CompleteAwakeable",
    records.AwaitPromise: "GetPromise",
    records.PeekPromise: "PeekPromise",
    records.CompletePromise: "CompletePromise",
    records.Signal: "SendSignal",
    records.Receive: "ReceiveSignal",
    records.CancelTimer: "CancelSleep",
    records.CancelCall: "CancelCall",
    records.CancelStep: "CancelRun",
}
"""As Restate calls them, where it has them."""

_LISTENS: Final = (
    records.Call,
    records.Timer,
    records.Attach,
    records.Run,
    records.Awakeable,
    records.AwaitPromise,
    records.Receive,
)
"""What has an answer later on; all else is done when its turn is."""

_PROMISES: Final = (records.AwaitPromise, records.PeekPromise, records.CompletePromise)
_JSON_FIELDS: Final = ("arguments",)


class JournalEntry(Struct, kw_only=True):
    """`turn` is the one that asked; times are microseconds; `json` says all of it."""

    id: str
    index: int
    entry_type: str
    name: str | None = None
    completed: bool = True
    invoked_id: str | None = None
    invoked_target: str | None = None
    sleep_wakeup_at: int | None = None
    promise_name: str | None = None
    turn: int | None = None
    appended_at: int | None = None
    completed_at: int | None = None
    outcome: Outcome | None = None
    json: object = None

    @property
    def result(self) -> str | None:
        return text(self.outcome.value) if isinstance(self.outcome, Success) else None

    @property
    def failure(self) -> str | None:
        return self.outcome.failure.message if isinstance(self.outcome, Failed) else None

    @property
    def entry_json(self) -> str:
        return json({"type": self.entry_type, **_described(self.json)})


def entries_of(found: StoredInvocation) -> Iterator[JournalEntry]:
    """In the order of their numbers."""
    invocation = found.it
    yield JournalEntry(
        id=found.id,
        index=0,
        entry_type="Input",
        name=invocation.handler,
        appended_at=invocation.created_at,
        json={"value": Raw(invocation.arguments or b"null"), "headers": invocation.headers or {}},
    )
    last = 0
    if invocation.history is not None:
        answers = _answers(invocation)
        for number, turn in sorted(invocation.history.turns.items()):
            for command in turn.commands:
                last = max(last, command.index)
                yield _entry(invocation, command, number, turn.at, answers)
    if invocation.outcome is not None:
        yield JournalEntry(
            id=found.id,
            index=last + 1,
            entry_type="Output",
            appended_at=invocation.ended_at,
            completed_at=invocation.ended_at,
            outcome=invocation.outcome,
            json={"result": _plain(invocation.outcome)},
        )


def _answers(invocation: Invocation) -> dict[int, Delivery]:
    """By command.  Of a stream only what ended it."""
    return {delivery.command: delivery for delivery in invocation.deliveries if not delivery.more}


def _entry(invocation: Invocation, command: Command, turn: int, at: int, answers: dict[int, Delivery]) -> JournalEntry:
    entry = JournalEntry(
        id=invocation.id,
        index=command.index,
        entry_type=_NAMES[type(command)],
        name=getattr(command, "name", None),
        turn=turn,
        appended_at=at,
        completed_at=at,
        json=command,
    )
    if isinstance(command, records.Call | records.Send):
        entry.invoked_target = target_of(command)
        entry.invoked_id = _made_by(invocation, command)
    elif isinstance(command, records.Attach | records.Cancel | records.Signal):
        entry.invoked_id = command.id
    elif isinstance(command, records.Timer):
        entry.sleep_wakeup_at = command.due
    elif isinstance(command, _PROMISES):
        entry.promise_name = command.name
    if isinstance(command, _LISTENS):
        answer = answers.get(command.index)
        entry.completed = answer is not None
        entry.completed_at = None if answer is None else answer.at
        entry.outcome = None if answer is None else answer.outcome
        if isinstance(command, records.Awakeable):
            entry.name = identity.awakeable_id(invocation.seed, command.index)
    return entry


def _made_by(invocation: Invocation, command: records.Call | records.Send) -> str | None:
    if isinstance(command.verdict, Attached):
        return command.verdict.id
    if command.verdict is not None:
        return None
    return identity.child(invocation.seed, command.index, command.service, command.key)[0]


def _described(thing: object) -> dict[str, object]:
    if isinstance(thing, Struct):
        named = {name: getattr(thing, name) for name in thing.__struct_fields__ if name != "index"}
        return {name: _field(name, value) for name, value in named.items() if value is not None}
    return cast("dict[str, object]", thing)


def _field(name: str, value: object) -> object:
    if name == "due" and isinstance(value, int):
        return time_of(value)
    if name in _JSON_FIELDS and isinstance(value, bytes):
        return Raw(value or b"null")
    return _plain(value)


def _plain(value: object) -> object:
    if isinstance(value, Success):
        return {"success": Raw(value.value)}
    if isinstance(value, Failed | records.Refused):
        return {"failure": _failure(value)}
    if isinstance(value, Attached):
        return {"attached": value.id}
    return value


def _failure(value: Failed | records.Refused) -> object:
    failure = value.failure
    return {"type": failure.type, "message": failure.message, "code": failure.status, "metadata": failure.metadata}

"""Why an invocation doesn't go on: what it is doing, and what it waits for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TypeAlias

from .. import identity
from ..invocations import History, Invocation, Status
from ..records import AwaitPromise, Call, Command, Run, Send
from .stored import Stored

Reason: TypeAlias = dict[str, object]


def status_of(invocation: Invocation) -> str:
    """One of eight, as operations.py has them.

    A stored delivery may be one that nobody waits for any more, of which there is no record; so what has something to
    wait for counts as suspended, though it may be about to be driven.
    """
    if invocation.status is not Status.OPEN:
        return "completed" if invocation.ended else invocation.status.value
    if invocation.next_attempt_at is not None:
        return "backing-off"
    if not invocation.consumed:
        return "ready"
    if invocation.has_steps_to_run:
        return "running"
    if invocation.history is not None and invocation.history.steps:
        return "backing-off"
    return "suspended" if any(_open_commands(invocation)) else "ready"


def retries_of(invocation: Invocation) -> tuple[int | None, int]:
    """When it, or one of its steps, is tried again (microseconds), and how often that was done."""
    steps = [] if invocation.history is None else [*invocation.history.steps.values()]
    due = [invocation.next_attempt_at, *(step.next_attempt_at for step in steps)]
    retries = max([invocation.attempts, *(step.attempts for step in steps)])
    return min((at for at in due if at is not None), default=None), retries


def failing_step(invocation: Invocation) -> Run | None:
    """The step that has failed most often, if any has."""
    if invocation.history is None:
        return None
    commands = commands_of(invocation.history)
    failing = [(step.attempts, index) for index, step in invocation.history.steps.items() if step.attempts]
    command = commands.get(max(failing)[1]) if failing else None
    return command if isinstance(command, Run) else None


def waiting_for(stored: Stored, invocation: Invocation) -> list[Reason]:
    """Everything that it waits for, in the order in which it asked."""
    if invocation.status is Status.SCHEDULED:
        return [{"type": "start", "at": time_of(invocation.due)}]
    if invocation.status is Status.PENDING:
        entry = stored.object(invocation.service, invocation.key)
        return [{"type": "key", "held_by": None if entry is None else entry.holder}]
    if invocation.ended:
        return []
    reasons = [*_open_commands(invocation)]
    if invocation.status is Status.PAUSED:
        return [{"type": "operator"}, *reasons]
    if invocation.next_attempt_at is not None:
        return [{"type": "retry", "at": time_of(invocation.next_attempt_at)}, *reasons]
    return reasons


def commands_of(history: History) -> dict[int, Command]:
    """All that it asked for, by number."""
    return {command.index: command for turn in history.turns.values() for command in turn.commands}


def target_of(command: Call | Send) -> str:
    return "/".join(part for part in (command.service, command.key, command.handler) if part)


def time_of(at: int | None) -> str | None:
    """Microseconds since the Unix epoch as ISO 8601; all are of one length, so that they compare as they lie."""
    if at is None:
        return None
    try:
        return datetime.fromtimestamp(at / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except (ValueError, OverflowError):  # a delay of thousands of years
        return "9999-12-31T23:59:59.999999Z"


def _open_commands(invocation: Invocation) -> Iterator[Reason]:
    history = invocation.history
    if history is None:
        return
    found = {**_calls_and_steps(history), **_rest(invocation, history)}
    yield from (found[index] for index in sorted(found))


def _calls_and_steps(history: History) -> dict[int, Reason]:
    commands = commands_of(history)
    found: dict[int, Reason] = {}
    for index, id in history.calls.items():
        call = commands.get(index)
        found[index] = {"type": "call" if index in history.owned else "attach", "index": index, "id": id}
        if isinstance(call, Call):
            found[index]["target"] = target_of(call)
    for index, at in history.timers.items():
        found[index] = {"type": "sleep", "index": index, "until": time_of(at)}
    for index, step in history.steps.items():
        command = commands.get(index)
        found[index] = {"type": "run", "index": index, "name": command.name if isinstance(command, Run) else None}
        if step.attempts:
            found[index] |= {"failed_attempts": step.attempts, "next_attempt_at": time_of(step.next_attempt_at)}
    return found


def _rest(invocation: Invocation, history: History) -> dict[int, Reason]:
    delivered = {delivery.command for delivery in invocation.deliveries}
    found: dict[int, Reason] = {}
    for name, indexes in history.receivers.items():
        for index in indexes:
            found[index] = {"type": "signal", "index": index, "name": name}
    for index, outcome in (invocation.awakeables or {}).items():
        if outcome is None:
            found[index] = {"type": "awakeable", "index": index, "id": identity.awakeable_id(invocation.seed, index)}
    for index, command in commands_of(history).items():
        if isinstance(command, AwaitPromise) and index not in delivered:
            found[index] = {"type": "promise", "index": index, "name": command.name}
    return found

"""The tables, with the names of Restate's columns where they mean the same, and some more.

Times are text as ISO 8601 in UTC, of one length.  What a handler, a step or a field holds is JSON as text, which
SQLite's JSON functions take: `value ->> '$.total'`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from perdure.objects.entry_keys import NO_TAG, plain_key, tag_of
from perdure.objects.limits import PRIORITY_HEADER

from ..invocations import RUN_ONCE, Delivery, Invocation, PromiseState
from ..limit_views import LimitKind, LimitView
from ..records import Failed, Success
from .journal_entries import JournalEntry, entries_of
from .protocol import Query, ServiceRow
from .stored import Stored, StoredInvocation, json, text
from .virtual import Column, Table, Value, Wanted
from .waiting import Reason, failing_step, retries_of, status_of, time_of, waiting_for


def tables(stored: Stored, query: Query) -> list[Table[Any]]:
    """All of them, over what `stored` holds and what stands in the query itself."""
    services = query.services
    return [
        _invocations(stored, services, query.held_back),
        _journal(stored),
        _inbox(stored),
        _promises(stored),
        _locks(stored),
        _services(services),
        _limits(query.in_force),
        _state(stored),
    ]


# --- invocations ------------------------------------------------------------------------------------------------------


def _invocations(
    stored: Stored, services: list[ServiceRow], held_back: dict[str, LimitKind]
) -> Table[StoredInvocation]:
    types = {service.name: service.ty for service in services}

    def column(name: str, of: Callable[[Invocation], Value], type: str = "TEXT") -> Column[StoredInvocation]:
        return Column(name, type, lambda found: of(found.it))

    def caller(of: Callable[[Invocation], str]) -> Callable[[Invocation], Value]:
        def read(it: Invocation) -> Value:
            parent = None if it.parent is None else stored.invocation(it.parent)
            return None if parent is None else of(parent)

        return read

    def status(it: Invocation) -> str:
        """What is held back could go on, as it lies in the store: that it may be suspended there isn't so."""
        return "ready" if held_back.get(it.id, "steps") != "steps" else status_of(it)

    def limit(it: Invocation) -> list[Reason]:
        kind = held_back.get(it.id)
        return [] if kind is None else [{"type": "limit", "name": kind}]

    def rows(wanted: Wanted) -> Iterator[StoredInvocation]:
        return stored.invocations(wanted.get("id"))

    columns = [
        Column[StoredInvocation]("id", "TEXT", lambda found: found.id),
        column("target", lambda it: it.target),
        column("target_service_name", lambda it: it.service),
        column("target_service_key", lambda it: it.key or None),
        column("target_handler_name", lambda it: it.handler),
        column("target_service_ty", lambda it: types.get(it.service)),
        column("idempotency_key", lambda it: None if it.idempotency_key == RUN_ONCE else it.idempotency_key),
        column("invoked_by", lambda it: "ingress" if it.parent is None else "service"),
        column("invoked_by_service_name", caller(lambda parent: parent.service)),
        column("invoked_by_id", lambda it: it.parent),
        column("invoked_by_target", caller(lambda parent: parent.target)),
        column("status", status),
        column("waiting_for", lambda it: json([*limit(it), *waiting_for(stored, it)])),
        column("held_back_by", lambda it: held_back.get(it.id)),
        column("priority", lambda it: (it.headers or {}).get(PRIORITY_HEADER, "normal")),
        column("created_at", lambda it: time_of(it.created_at)),
        column("modified_at", lambda it: time_of(_modified_at(it))),
        column("scheduled_at", lambda it: None if it.due is None else time_of(it.created_at)),
        column("scheduled_start_at", lambda it: time_of(it.due)),
        column("running_at", lambda it: time_of(_running_at(it))),
        column("completed_at", lambda it: time_of(it.ended_at)),
        column("retry_count", lambda it: retries_of(it)[1], "INTEGER"),
        column("next_retry_at", lambda it: time_of(retries_of(it)[0])),
        column("last_failure", lambda it: None if it.last_failure is None else it.last_failure.message),
        column("last_failure_type", lambda it: None if it.last_failure is None else it.last_failure.type),
        column("last_failure_error_code", lambda it: None if it.last_failure is None else str(it.last_failure.status)),
        column("last_failure_related_command_index", lambda it: _of_step(it, "index"), "INTEGER"),
        column("last_failure_related_command_name", lambda it: _of_step(it, "name")),
        column("last_failure_related_command_type", lambda it: None if failing_step(it) is None else "Run"),
        column("cancel_requested", lambda it: it.cancel_requested, "BOOLEAN"),
        column("depth", lambda it: it.depth, "INTEGER"),
        Column[StoredInvocation]("journal_size", "INTEGER", lambda found: sum(1 for _ in entries_of(found))),
        column("headers", lambda it: json(it.headers or {})),
        column("input", lambda it: text(it.arguments or b"null")),
        column("completion_result", _result),
        column("completion_value", lambda it: text(it.outcome.value) if isinstance(it.outcome, Success) else None),
        column("completion_failure", lambda it: it.outcome.failure.message if isinstance(it.outcome, Failed) else None),
    ]
    return Table("sys_invocation", columns, rows, ("id",))


def _result(it: Invocation) -> str | None:
    return None if it.outcome is None else "failure" if isinstance(it.outcome, Failed) else "success"


def _of_step(it: Invocation, part: str) -> Value:
    step = failing_step(it)
    value: Value = None if step is None else getattr(step, part)
    return value


def _modified_at(it: Invocation) -> int:
    """When something was last recorded of it."""
    turns = [] if it.history is None else [turn.at for turn in it.history.turns.values()]
    return max(it.created_at, it.ended_at or 0, *turns, *(delivery.at for delivery in it.deliveries))


def _running_at(it: Invocation) -> int | None:
    """When it got its key; what has ended doesn't know any more."""
    start: Delivery | None = it.deliveries[0] if it.deliveries else None
    return None if start is None else start.at


def _journal(stored: Stored) -> Table[JournalEntry]:
    def rows(wanted: Wanted) -> Iterator[JournalEntry]:
        for found in stored.invocations(wanted.get("id")):
            yield from entries_of(found)

    def column(name: str, type: str = "TEXT") -> Column[JournalEntry]:
        return Column(name, type, lambda entry: getattr(entry, name))

    def time(name: str) -> Column[JournalEntry]:
        return Column(name, "TEXT", lambda entry: time_of(getattr(entry, name)))

    columns = [
        column("id"),
        column("index", "INTEGER"),
        column("entry_type"),
        column("name"),
        column("completed", "BOOLEAN"),
        column("invoked_id"),
        column("invoked_target"),
        time("sleep_wakeup_at"),
        column("promise_name"),
        column("turn", "INTEGER"),
        time("appended_at"),
        time("completed_at"),
        column("result"),
        column("failure"),
        column("entry_json"),
    ]
    return Table("sys_journal", columns, rows, ("id",))


# --- objects ----------------------------------------------------------------------------------------------------------


class _Queued(Struct, frozen=True):
    service: str
    key: str
    id: str
    number: int


def _inbox(stored: Stored) -> Table[_Queued]:
    def rows(wanted: Wanted) -> Iterator[_Queued]:
        for found in stored.objects(wanted.get("service_name"), wanted.get("service_key")):
            for number, id in enumerate(found.entry.mailbox):
                yield _Queued(found.service, found.key, id, number)

    def created_at(queued: _Queued) -> str | None:
        invocation = stored.invocation(queued.id)
        return None if invocation is None else time_of(invocation.created_at)

    columns = [
        Column[_Queued]("service_name", "TEXT", lambda queued: queued.service),
        Column[_Queued]("service_key", "TEXT", lambda queued: queued.key),
        Column[_Queued]("id", "TEXT", lambda queued: queued.id),
        Column[_Queued]("sequence_number", "INTEGER", lambda queued: queued.number),
        Column("created_at", "TEXT", created_at),
    ]
    return Table("sys_inbox", columns, rows, _OBJECT)


class _Promise(Struct, frozen=True):
    service: str
    key: str
    name: str
    state: PromiseState


def _promises(stored: Stored) -> Table[_Promise]:
    def rows(wanted: Wanted) -> Iterator[_Promise]:
        for found in stored.objects(wanted.get("service_name"), wanted.get("service_key")):
            for name, state in (found.entry.promises or {}).items():
                yield _Promise(found.service, found.key, name, state)

    def value(promise: _Promise) -> str | None:
        outcome = promise.state.outcome
        return text(outcome.value) if isinstance(outcome, Success) else None

    def failure(promise: _Promise) -> str | None:
        outcome = promise.state.outcome
        return outcome.failure.message if isinstance(outcome, Failed) else None

    columns = [
        Column[_Promise]("service_name", "TEXT", lambda promise: promise.service),
        Column[_Promise]("service_key", "TEXT", lambda promise: promise.key),
        Column[_Promise]("key", "TEXT", lambda promise: promise.name),
        Column[_Promise]("completed", "BOOLEAN", lambda promise: promise.state.outcome is not None),
        Column("completion_success_value", "TEXT", value),
        Column("completion_success_value_utf8", "TEXT", value),
        Column("completion_failure", "TEXT", failure),
        Column[_Promise]("awaited_by", "TEXT", lambda promise: json([id for id, _ in promise.state.waiters])),
    ]
    return Table("sys_promise", columns, rows, _OBJECT)


class _Lock(Struct, frozen=True):
    service: str
    key: str
    holder: str
    queued: int


def _locks(stored: Stored) -> Table[_Lock]:
    def rows(wanted: Wanted) -> Iterator[_Lock]:
        for found in stored.objects(wanted.get("service_name"), wanted.get("service_key")):
            if found.entry.holder is not None:
                yield _Lock(found.service, found.key, found.entry.holder, len(found.entry.mailbox))

    def acquired_at(lock: _Lock) -> str | None:
        invocation = stored.invocation(lock.holder)
        return None if invocation is None else time_of(_running_at(invocation))

    columns = [
        Column[_Lock]("lock_name", "TEXT", lambda lock: f"{lock.service}/{lock.key}"),
        Column[_Lock]("service_name", "TEXT", lambda lock: lock.service),
        Column[_Lock]("service_key", "TEXT", lambda lock: lock.key),
        Column[_Lock]("acquired_by", "TEXT", lambda lock: lock.holder),
        Column("acquired_at", "TEXT", acquired_at),
        Column[_Lock]("queued", "INTEGER", lambda lock: lock.queued),
    ]
    return Table("sys_locks", columns, rows, _OBJECT)


class _Value(Struct, frozen=True):
    """`entry` is the key in a Map, the index in a List."""

    service: str
    key: str
    field: str
    entry: int | str | None
    value: bytes


def _state(stored: Stored) -> Table[_Value]:
    def rows(wanted: Wanted) -> Iterator[_Value]:
        field = wanted.get("key")
        for found in stored.objects(wanted.get("service_name"), wanted.get("service_key")):
            entry = found.entry
            for name in entry.fields if field is None else [field] if field in entry.fields else []:
                yield _Value(found.service, found.key, name, None, entry.fields[name])
            for name in entry.lengths if field is None else [field] if field in entry.lengths else []:
                for packed, value in stored.entries(found.service, found.key, name):
                    yield _Value(found.service, found.key, name, _entry_key(packed), value)

    columns = [
        Column[_Value]("service_name", "TEXT", lambda found: found.service),
        Column[_Value]("service_key", "TEXT", lambda found: found.key),
        Column[_Value]("key", "TEXT", lambda found: found.field),
        Column[_Value]("entry", "", lambda found: found.entry),
        Column[_Value]("value", "TEXT", lambda found: text(found.value)),
        Column[_Value]("value_utf8", "TEXT", lambda found: text(found.value)),
        Column[_Value]("value_length", "INTEGER", lambda found: len(found.value)),
    ]
    return Table("state", columns, rows, (*_OBJECT, "key"))


def _entry_key(packed: bytes) -> int | str:
    return int.from_bytes(packed) if tag_of(packed) == NO_TAG else plain_key(packed)


_OBJECT = ("service_name", "service_key")


# --- classes ----------------------------------------------------------------------------------------------------------


def _services(services: list[ServiceRow]) -> Table[ServiceRow]:
    columns = [
        Column[ServiceRow]("name", "TEXT", lambda service: service.name),
        Column[ServiceRow]("revision", "INTEGER", lambda service: service.version),
        Column[ServiceRow]("public", "BOOLEAN", lambda service: service.public),
        Column[ServiceRow]("ty", "TEXT", lambda service: service.ty),
        Column[ServiceRow]("handlers", "TEXT", lambda service: json(service.handlers)),
    ]
    return Table("sys_service", columns, lambda _: iter(services))


def _limits(limits: list[LimitView]) -> Table[LimitView]:
    columns = [
        Column[LimitView]("service_name", "TEXT", lambda limit: limit.service),
        Column[LimitView]("kind", "TEXT", lambda limit: limit.kind),
        Column[LimitView]("capacity", "INTEGER", lambda limit: limit.capacity),
        Column[LimitView]("per_seconds", "REAL", lambda limit: limit.per_seconds),
        Column[LimitView]("burst", "INTEGER", lambda limit: limit.burst),
        Column[LimitView]("in_use", "INTEGER", lambda limit: limit.in_use),
        Column[LimitView]("waiting", "INTEGER", lambda limit: limit.waiting),
        Column[LimitView]("refused", "INTEGER", lambda limit: limit.refused),
        Column[LimitView]("keys", "INTEGER", lambda limit: limit.keys),
        Column[LimitView]("next_free_at", "TEXT", lambda limit: time_of(limit.next_free_at)),
    ]
    return Table("sys_limits", columns, lambda _: iter(limits))

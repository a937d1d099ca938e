"""The kernel: the state of a partition, and the one function that changes it.

`apply(record)` reads the record and the state, nothing else: no settings, no code, no clock.  Recovery is `apply` in a
loop, so what holds live holds after a crash.  A part of the state lies in the store: working_set.py brings it.
What was decided, and why, is not known here (driver.py and execution.py decide); what has to happen next is read off
the state: `ready` lists the invocations that have a delivery to be driven by, `ended`
those whose outcome somebody outside may wait for, `yielded` those that have new items, `timers` what is due soon.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, ClassVar, Final

from msgspec.structs import replace

from perdure.objects.entry_keys import tag_of
from perdure.objects.errors import Failure

from . import identity, rows, trace_context
from .invocations import (
    CANCELLATION,
    RUN_ONCE,
    START,
    Counts,
    Delivery,
    History,
    Invocation,
    ObjectEntry,
    PromiseState,
    ScheduleState,
    Status,
    StepState,
)
from .records import (
    Attach,
    Attached,
    Attempted,
    AwaitPromise,
    Awakeable,
    Begun,
    Call,
    Cancel,
    CancelCall,
    Cancelled,
    CancelStep,
    CancelTimer,
    Complete,
    CompletePromise,
    Due,
    Edited,
    Expired,
    Failed,
    Invoked,
    Killed,
    Notified,
    Outcome,
    Paused,
    PeekPromise,
    Planned,
    Purged,
    PutBack,
    Receive,
    Record,
    Refused,
    Resumed,
    Run,
    Send,
    Signal,
    Signalled,
    Success,
    Ticked,
    Timer,
    Turn,
    Unplanned,
    Yield,
    size_of,
    size_of_turn,
)
from .store import StoreWriter
from .timers import EXPIRY, JOIN_MAILBOX, RETRY, WAKE, Timers
from .working_set import ObjectKey, WorkingSet

CANCELLED: Final = Failed(Failure("Cancelled", "the invocation was cancelled", 409))
KILLED: Final = Failed(Failure("Killed", "the invocation was killed", 409))

UNKNOWN: Final = Failed(Failure("TerminalError", "no such invocation: unknown, or its retention time is over", 404))


HELD_BYTES_MAX: Final = 900_000_000
"""What is delivered beyond is a failure instead: the results of calls that were open together may be any amount, and a
row of the store has 10**9 bytes at most.  No setting, since a recovery has to come to the same."""

_TOO_MUCH: Final = Failed(
    Failure("TerminalError", "the result came, but its caller holds as much as an invocation can: ask for less", 413)
)

_REMOVED_AT_ONCE: Final = 1_000

_WAITERS_LOOKED_THROUGH: Final = 32
"""Fewer than these may wait for one thing without that anybody asks whether they still do."""

_NONE_RETAINED: Final[OrderedDict[str, int]] = OrderedDict()


class Kernel:
    """One partition's memory.  Change it by `apply` only."""

    def __init__(self, store: StoreWriter | None = None) -> None:
        self.memory = WorkingSet(store)
        self.memory.on_loaded = self._arm
        self.memory.on_stored = self._stored
        self.memory.on_stored_entry = self._stored_entry
        self.memory.on_leaving = self._disarm
        self._invocations = self.memory.invocations
        self._objects = self.memory.objects
        self._rows = self.memory.rows
        self._entries = self.memory.entries
        self.objects = self._objects.here  # what is in memory of them
        self.invocations = self._invocations.here
        self.counts = Counts()
        self.retention: dict[str, OrderedDict[str, int]] = {}  # by family: what has ended since, and when
        self.timers = Timers()
        self._expiries = Timers()  # of idle objects, as long as the store doesn't say it
        self._stored_expiry: int | None = None  # none that it does say is before this
        self.agenda_until: rows.Place = (0, 0, "")  # of the store's agenda, what stands before this has a timer
        self.agenda_next: int | None = None  # and this is the first that has none
        self.ready: deque[Invocation] = deque()
        self.ended: list[Invocation] = []
        self.yielded: list[Invocation] = []
        self.rewound: list[Invocation] = []  # a delivery was put before what a run of theirs may have got

    # --- reading --------------------------------------------------------------------------------------------------

    def find(self, id: str) -> Invocation | None:
        return self._invocations.find(id)

    def entry(self, service: str, key: str) -> ObjectEntry | None:
        return self._objects.find((service, key))

    def entry_of(self, service: str, key: str, field: str, name: bytes) -> bytes | None:
        """One entry of a List or Map, as JSON."""
        return self._entries.get(rows.entries_prefix(service, key, field) + name)

    def entries_of(
        self, service: str, key: str, field: str, after: bytes | None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """The first entries behind `after`, in the order of their names."""
        prefix, end = rows.entries_range(service, key, field)
        begin = prefix if after is None else prefix + after + b"\0"
        return [(row[len(prefix) :], value) for row, value in self._entries.range(begin, end, limit)]

    def find_by_idempotency_key(self, service: str, key: str, handler: str, idempotency_key: str) -> Invocation | None:
        id = self._rows.get(rows.idempotency_row(service, key, handler, idempotency_key))
        return None if id is None else self.find(id.decode())

    def item(self, id: str, number: int) -> bytes | None:
        """What a stream has yielded, from 0, as JSON."""
        return self._rows.get(rows.item_row(id, number))

    def promise(self, service: str, key: str, name: str) -> Outcome | None:
        entry = self.entry(service, key)
        state = None if entry is None or entry.promises is None else entry.promises.get(name)
        return None if state is None else state.outcome

    def awakeable(self, id: str) -> tuple[Invocation, int] | None:
        """Whose it is, and by which command."""
        row = self._rows.get(rows.awakeable_row(id))
        if row is None:
            return None
        owner, command = rows.unpack_owner(row)
        invocation = self.find(owner)
        return None if invocation is None else (invocation, command)

    def schedule(self, id: str) -> ScheduleState | None:
        row = self._rows.get(rows.schedule_row(id))
        return None if row is None else rows.unpack_schedule(row)

    def bytes_before(self, invocation: Invocation, turn: Turn) -> int:
        """How much of Lists and Maps is to be kept if `turn` is applied, so that it can be put back."""
        known = {} if invocation.history is None else invocation.history.before_entries
        return sum(
            len(self.entry_of(invocation.service, invocation.key, field, name) or b"")
            for field, name, _ in turn.entries
            if name not in known.get(field, ())
        )

    def overdue(self, now: int) -> Iterator[Invocation]:
        """What was due by `now` when the store was written last, and wasn't in memory: in it from here on."""
        if self.counts.frozen_at:
            for *_, id in self.memory.due((self.counts.frozen_at, 0, ""), now + 1):
                if id not in self.invocations and (invocation := self.find(id)) is not None:
                    yield invocation

    def first_ended(self, family: str, limit: int) -> list[tuple[int, str]]:
        """The first of what is retained of a family, wherever it is: when it ended, and its id."""
        since = self.retention.get(family, _NONE_RETAINED)
        here = [(at, id) for id, at in islice(since.items(), limit)]
        return sorted({*self.memory.ended(family, limit), *here})[:limit]

    def expired(self, now: int, limit: int) -> Iterator[ObjectKey]:
        """Up to `limit` idle objects whose time to live is over, wherever they are; each to be forgotten at once."""
        stored = self.memory.expired(now, limit)
        yield from stored
        for _ in range(limit - len(stored)):
            due = self._expiries.next_due()
            if due is None or due > now:
                break
            yield rows.key_of(self._expiries.next_id())

    @property
    def next_expiry(self) -> int | None:
        """No time to live is over before this."""
        here, stored = self._expiries.next_due(), self._stored_expiry
        return here if stored is None else stored if here is None else min(here, stored)

    def look_for_expiries(self) -> None:
        self._stored_expiry = self.memory.next_expiry()

    # --- the records ----------------------------------------------------------------------------------------------

    def apply(self, record: Record) -> None:
        self._APPLY[type(record)](self, record)

    def _invoked(self, record: Invoked) -> None:
        self._admit(
            Invocation(
                record.id,
                record.seed,
                record.service,
                record.key,
                record.handler,
                record.exclusive,
                record.arguments,
                record.at,
                record.retained,
                record.headers,
                record.idempotency_key,
                record.due,
                stream=record.stream,
                trace=record.trace,
            ),
            record.at,
        )

    def _due(self, record: Due) -> None:
        invocation = self._invocations.change(record.id)
        if invocation is not None and invocation.status is Status.SCHEDULED:
            self.counts.scheduled(invocation, -1)
            self.timers.clear(record.id, JOIN_MAILBOX)
            self._join_mailbox(invocation, record.at)

    def _begun(self, record: Begun) -> None:
        invocation = self._known(record.id)
        invocation.deliveries[0] = Delivery(record.at, START)

    def _turn(self, record: Turn) -> None:
        invocation = self._known(record.id)
        # Before the commands: one of them may look at this invocation, and even cancel it.
        invocation.consumed = record.consumed
        invocation.last_turn = record.number
        invocation.failing = False
        if invocation.attempts or invocation.next_attempt_at is not None:  # in a recovery, of one that is over
            invocation.attempts = invocation.deaths = 0
            self._clear_backoff(invocation)
        if record.writes or record.lengths or record.entries or record.version is not None:
            self._write(invocation, record)
        for command in record.commands:
            self._COMMAND[type(command)](self, invocation, command, record.at)
        if record.outcome is None:
            turns = invocation.the_history().turns
            if not turns:
                self.counts.begun(invocation, 1)
            turns[record.number] = record
            invocation.held_bytes += size_of_turn(record)
        else:
            self._end(invocation, record.outcome, record.at)

    def _notified(self, record: Notified) -> None:
        invocation = self._invocations.change(record.id)
        if invocation is None or invocation.ended:
            return
        if record.more:
            self._item(invocation, record)
        elif invocation.history is not None:
            history = invocation.history
            timer = history.timers.pop(record.command, None)
            if history.steps.pop(record.command, None) is not None or timer is not None:
                self.timers.clear(record.id, record.command)  # live it is taken out already, in a recovery it is not
        if invocation.awakeables is not None and record.command in invocation.awakeables:
            invocation.awakeables[record.command] = record.outcome
            invocation.held_bytes += size_of(record.outcome)
        invocation.attempts = invocation.deaths = 0
        self._deliver(invocation, Delivery(record.at, record.command, record.outcome, record.more))

    def _item(self, invocation: Invocation, record: Notified) -> None:
        step = invocation.the_history().steps.get(record.command)
        if step is not None and type(record.outcome) is Success:
            step.items.append(record.outcome.value)
            step.attempts = 0
            invocation.held_bytes += size_of(record.outcome)

    def _signalled(self, record: Signalled) -> None:
        invocation = self._invocations.change(record.id)
        if invocation is not None and not invocation.ended:
            self._signal(invocation, record.name, record.outcome, record.at)

    def _attempted(self, record: Attempted) -> None:
        invocation = self._known(record.id)
        if record.command is not None:
            self._step_attempted(invocation, record, record.command)
            return
        if not invocation.attempts:
            invocation.failing_since = record.at
        invocation.attempts += 1
        invocation.deaths += record.died
        invocation.last_failure = record.failure
        invocation.failing = True
        self._clear_backoff(invocation)  # in a recovery, of the attempt before
        invocation.next_attempt_at = record.next_at
        if record.next_at is None:
            self._pause(invocation)
        else:
            self.timers.set(record.next_at, invocation.id, RETRY)

    def _step_attempted(self, invocation: Invocation, record: Attempted, command: int) -> None:
        step = None if invocation.history is None else invocation.history.steps.get(command)
        if step is None:
            return
        if not step.attempts:
            step.failing_since = record.at
        step.attempts += 1
        step.deaths = step.deaths + 1 if record.died else 0
        step.next_attempt_at = record.next_at
        invocation.last_failure = record.failure
        if record.next_at is not None:
            self.timers.set(record.next_at, invocation.id, command)

    def _put_back(self, record: PutBack) -> None:
        invocation = self._known(record.id)
        entry = self._entry_of(invocation)
        self.counts.mailed(invocation.service, len(entry.mailbox), 1)
        entry.mailbox.insert(entry.mailbox.index(record.behind) + 1, record.id)
        invocation.status = Status.PENDING
        invocation.deliveries.clear()
        invocation.put_behind |= {record.behind}
        entry.holder = None
        self._pass_key_on(entry, record.at)

    def _cancelled(self, record: Cancelled) -> None:
        invocation = self._invocations.change(record.id)
        if invocation is not None:
            self._cancel(invocation, record.at)

    def _killed(self, record: Killed) -> None:
        doomed = [record.id]
        while doomed:
            invocation = self._invocations.change(doomed.pop())
            if invocation is None or invocation.ended:
                continue
            if (history := invocation.history) is not None:
                doomed.extend(history.calls[command] for command in history.owned)
            self._abandon_queue(invocation)
            self._end(invocation, KILLED, record.at)

    def _paused(self, record: Paused) -> None:
        invocation = self._known(record.id)
        invocation.last_failure = record.failure
        invocation.failing = True
        self._pause(invocation)

    def _resumed(self, record: Resumed) -> None:
        invocation = self._invocations.change(record.id)
        if invocation is None or invocation.ended:
            return
        invocation.attempts = invocation.deaths = 0
        for command, step in (invocation.history.steps if invocation.history is not None else {}).items():
            step.attempts = step.deaths = 0
            if step.next_attempt_at is not None:
                self.timers.clear(invocation.id, command)
                step.next_attempt_at = None
        self._make_attempt(invocation)

    def _purged(self, record: Purged) -> None:
        for id in record.ids:
            self._forget(self._invocations.change(id))

    def _expired(self, record: Expired) -> None:
        key = (record.service, record.key)
        entry = self._objects.find(key)
        if entry is not None and entry.idle and entry.expires is not None and entry.expires <= record.at:
            self._objects.change(key)
            self._stay(key, entry)
            self._remove(key, entry)

    def _planned(self, record: Planned) -> None:
        new = ScheduleState(record.ticks, record.after, record.paused)
        before = self.schedule(record.schedule)
        if before is not None:
            new = replace(before, ticks=record.ticks, after=record.after, paused=record.paused)
        self._rows.put(rows.schedule_row(record.schedule), rows.pack_schedule(new))

    def _ticked(self, record: Ticked) -> None:
        state = self.schedule(record.schedule)
        if state is None:
            raise KeyError(record.schedule)
        if record.cancels is not None and (last := self._invocations.change(record.cancels)) is not None:
            self._cancel(last, record.at)
        if record.tick is not None:
            state = replace(state, after=record.tick)
        if record.invoked is not None:
            self._invoked(record.invoked)
            state = replace(state, invocation=record.invoked.id, fired_at=record.at)
        else:
            state = replace(state, skipped=record.tick)
        self._rows.put(rows.schedule_row(record.schedule), rows.pack_schedule(state))

    def _unplanned(self, record: Unplanned) -> None:
        self._rows.put(rows.schedule_row(record.schedule), None)

    def _edited(self, record: Edited) -> None:
        key = (record.service, record.key)
        entry = self._objects.change(key)
        if entry is None:
            entry = ObjectEntry()
            self._objects.add(key, entry)
        if entry.expires is not None and entry.idle:
            self._stay(key, entry)
        if record.cleared:
            self._empty(key, entry)
            entry.lengths, entry.tags = {}, {}
        entry.fields = dict(record.fields)
        entry.version = record.version if entry.fields or entry.lengths else 1
        entry.expires = record.expires if entry.fields or entry.lengths else None
        if entry.blank:
            self._objects.remove(key)
        elif entry.expires is not None and entry.idle:
            self._expiries.set(entry.expires, rows.object_id(*key), EXPIRY)

    # --- the commands of a turn -----------------------------------------------------------------------------------

    def _call(self, caller: Invocation, command: Call, at: int) -> None:
        verdict = command.verdict
        if type(verdict) is Refused:
            return
        if type(verdict) is Attached:
            if command.stream:
                self._read_from_the_beginning(caller, command.index, verdict.id, at)
            self._wait_for(caller, command.index, verdict.id, at)
            return
        callee = self._child(caller, command, at, command.stream or command.idempotency_key is not None)
        history = caller.the_history()
        history.calls[command.index] = callee.id
        history.owned.add(command.index)
        callee.waiters = [(caller.id, command.index)]
        if command.stream:
            callee.stream = True
            callee.readers = [(caller.id, command.index)]
        self._admit(callee, at)

    def _send(self, caller: Invocation, command: Send, at: int) -> None:
        if command.verdict is None:
            self._admit(self._child(caller, command, at, True, command.due), at)

    def _timer(self, invocation: Invocation, command: Timer, at: int) -> None:
        invocation.the_history().timers[command.index] = command.due
        self.timers.set(command.due, invocation.id, command.index)

    def _cancel_timer(self, invocation: Invocation, command: CancelTimer, at: int) -> None:
        if invocation.the_history().timers.pop(command.timer, None) is not None:
            self.timers.clear(invocation.id, command.timer)

    def _cancel_call(self, caller: Invocation, command: CancelCall, at: int) -> None:
        history = caller.the_history()
        callee = self._invocations.change(history.calls.pop(command.call, ""))
        made_it = command.call in history.owned
        history.owned.discard(command.call)
        if callee is None or callee.ended:
            return
        callee.remove_waiter(caller.id, command.call)
        if not made_it:
            return
        still = [waiting for id, waiting in callee.waiters or () if id == caller.id]
        if still:  # the caller attached to it a second time: that one is its maker from now on
            history.owned.add(still[0])
        else:
            self._cancel(callee, at)

    def _attach(self, invocation: Invocation, command: Attach, at: int) -> None:
        if command.verdict is None:
            self._wait_for(invocation, command.index, command.id, at)

    def _cancel_other(self, invocation: Invocation, command: Cancel, at: int) -> None:
        other = self._invocations.change(command.id)
        if other is not None:
            self._cancel(other, at)

    def _run(self, invocation: Invocation, command: Run, at: int) -> None:
        invocation.the_history().steps[command.index] = StepState()

    def _cancel_step(self, invocation: Invocation, command: CancelStep, at: int) -> None:
        if invocation.the_history().steps.pop(command.step, None) is not None:
            self.timers.clear(invocation.id, command.step)

    def _awakeable(self, invocation: Invocation, command: Awakeable, at: int) -> None:
        if invocation.awakeables is None:
            invocation.awakeables = {}
        invocation.awakeables[command.index] = None
        row = rows.awakeable_row(identity.awakeable_id(invocation.seed, command.index))
        self._rows.put(row, rows.pack_owner(invocation.id, command.index))

    def _complete(self, invocation: Invocation, command: Complete, at: int) -> None:
        owner = self.awakeable(command.id)
        if owner is not None and owner[0].awakeables is not None and owner[0].awakeables.get(owner[1]) is not None:
            return  # the same value again is nothing
        if command.verdict is None and owner is not None:
            self._notified(Notified(at, owner[0].id, owner[1], command.outcome))

    def _receive(self, invocation: Invocation, command: Receive, at: int) -> None:
        history = invocation.the_history()
        if values := history.received.get(command.name):
            invocation.held_bytes -= size_of(values[0])
            self._deliver(invocation, Delivery(at, command.index, values.pop(0)))
        else:
            history.receivers.setdefault(command.name, []).append(command.index)

    def _signal_other(self, invocation: Invocation, command: Signal, at: int) -> None:
        other = self._invocations.change(command.id)
        if command.verdict is None and other is not None and not other.ended:
            self._signal(other, command.name, command.outcome, at)

    def _await_promise(self, invocation: Invocation, command: AwaitPromise, at: int) -> None:
        promise = self._promise(invocation, command.name)
        if promise.outcome is not None:
            self._deliver(invocation, Delivery(at, command.index, promise.outcome))
        else:
            self._look_through(promise.waiters)
            promise.waiters.append((invocation.id, command.index))

    def _complete_promise(self, invocation: Invocation, command: CompletePromise, at: int) -> None:
        promise = self._promise(invocation, command.name)
        if command.verdict is not None or promise.outcome is not None:
            return
        promise.outcome = command.outcome
        for id, waiter in promise.waiters:
            self._give(self._invocations.change(id), Delivery(at, waiter, command.outcome))
        promise.waiters.clear()

    def _peek_promise(self, invocation: Invocation, command: PeekPromise, at: int) -> None:
        """Recorded for the replay alone."""

    def _yield(self, invocation: Invocation, command: Yield, at: int) -> None:
        self._rows.put(rows.item_row(invocation.id, invocation.items), command.value)
        invocation.items += 1
        if not self.yielded or self.yielded[-1] is not invocation:
            self.yielded.append(invocation)
        for id, reader in invocation.readers or ():
            self._give_item(self._invocations.change(id), reader, command.value, at)

    # --- the parts they share -------------------------------------------------------------------------------------

    def _read_from_the_beginning(self, reader: Invocation, command: int, id: str, at: int) -> None:
        """What an older stream has yielded so far, and what it still yields."""
        stream = self._invocations.change(id)
        if stream is None:
            return
        for number in range(stream.items):
            self._give_item(reader, command, self.item(id, number) or b"null", at)
        if not stream.ended:
            stream.add_reader(reader.id, command)

    def _give_item(self, reader: Invocation | None, command: int, value: bytes, at: int) -> None:
        if reader is not None and not reader.ended:
            self._deliver(reader, Delivery(at, command, Success(value), more=True))

    def _signal(self, invocation: Invocation, name: str, outcome: Outcome, at: int) -> None:
        history = invocation.the_history()
        if receivers := history.receivers.get(name):
            self._deliver(invocation, Delivery(at, receivers.pop(0), outcome))
        else:
            history.received.setdefault(name, []).append(outcome)
            invocation.held_bytes += size_of(outcome)

    def _look_through(self, waiters: list[tuple[str, int]]) -> None:
        """Those that have ended don't wait any more.  Looked for whenever there are twice as many as the last time."""
        count = len(waiters)
        if count >= _WAITERS_LOOKED_THROUGH and count.bit_count() == 1:
            waiters[:] = [waiter for waiter in waiters if self._is_open(waiter[0])]

    def _is_open(self, id: str) -> bool:
        invocation = self._invocations.find(id)
        return invocation is not None and not invocation.ended

    def _promise(self, invocation: Invocation, name: str) -> PromiseState:
        entry = self._entry_of(invocation)
        if entry.promises is None:
            entry.promises = {}
        return entry.promises.setdefault(name, PromiseState())

    def _entry_of(self, invocation: Invocation) -> ObjectEntry:
        """To be changed; there from now on."""
        key = (invocation.service, invocation.key)
        entry = self._objects.change(key)
        if entry is None:
            entry = ObjectEntry()
            self._objects.add(key, entry)
        return entry

    def _known(self, id: str) -> Invocation:
        """To be changed.  KeyError if there is none: then the record can't be ours."""
        invocation = self._invocations.change(id)
        if invocation is None:
            raise KeyError(id)
        return invocation

    def _child(
        self, caller: Invocation, command: Call | Send, at: int, retained: bool, due: int | None = None
    ) -> Invocation:
        id, seed = identity.child(caller.seed, command.index, command.service, command.key)
        trace = caller.trace
        if trace is not None:
            trace = trace_context.child_of(trace, caller.id, command.index, sent=type(command) is Send)
        return Invocation(
            id,
            seed,
            command.service,
            command.key,
            command.handler,
            command.exclusive,
            command.arguments,
            at,
            retained,
            command.headers,
            command.idempotency_key,
            due,
            caller.id,
            caller.depth + 1,
            trace=trace,
        )

    def _admit(self, invocation: Invocation, at: int) -> None:
        self._invocations.add(invocation.id, invocation)
        self.counts.opened(invocation, 1)
        if invocation.idempotency_key is not None:
            self._rows.put(_idempotency_row_of(invocation), invocation.id.encode())
        if invocation.due is None:
            self._join_mailbox(invocation, at)
        else:
            invocation.status = Status.SCHEDULED
            self.counts.scheduled(invocation, 1)
            self.counts.scheduled_ever += 1
            invocation.order = self.counts.scheduled_ever
            self.timers.set(invocation.due, invocation.id, JOIN_MAILBOX, invocation.order)

    def _join_mailbox(self, invocation: Invocation, at: int) -> None:
        if not invocation.exclusive:
            self._start(invocation, at)
            return
        entry = self._entry_of(invocation)
        if entry.holder is None:
            if entry.expires is not None:
                self._stay((invocation.service, invocation.key), entry)
            entry.holder = invocation.id
            self._start(invocation, at)
        else:
            invocation.status = Status.PENDING
            self.counts.mailed(invocation.service, len(entry.mailbox), 1)
            entry.mailbox.append(invocation.id)

    def _start(self, invocation: Invocation, at: int) -> None:
        invocation.status = Status.OPEN
        if invocation.trace is not None:
            invocation.begun_at = at
        self._deliver(invocation, Delivery(at, START))

    def _pass_key_on(self, entry: ObjectEntry, at: int) -> None:
        if entry.mailbox:
            entry.holder = entry.mailbox.pop(0)
            holder = self._known(entry.holder)
            self.counts.mailed(holder.service, len(entry.mailbox) + 1, -1)
            self._start(holder, at)

    def _deliver(self, invocation: Invocation, delivery: Delivery) -> None:
        size = size_of(delivery.outcome)
        if invocation.held_bytes + size > HELD_BYTES_MAX and type(delivery.outcome) is Success:
            delivery = Delivery(delivery.at, delivery.command, _TOO_MUCH)
            size = size_of(delivery.outcome)
        invocation.deliveries.append(delivery)
        invocation.held_bytes += size
        self.wake(invocation)

    def wake(self, invocation: Invocation) -> None:
        """Look at it again; what it turns out to be ready for is read off its state."""
        if not invocation.in_ready_queue:
            invocation.in_ready_queue = True
            self.ready.append(invocation)

    def make_attempt(self, id: str) -> None:
        """A backoff is over."""
        invocation = self._invocations.change(id)
        if invocation is not None:
            self._make_attempt(invocation)

    def _make_attempt(self, invocation: Invocation) -> None:
        """A backoff is over, or was cut short."""
        self._clear_backoff(invocation)
        if invocation.status is Status.PAUSED:
            self.counts.paused(invocation, -1)
            invocation.status = Status.OPEN
        self.wake(invocation)

    def try_step(self, id: str, command: int) -> bool:
        """A step's backoff is over.  False if `command` is no open step."""
        invocation = self._invocations.change(id)
        step = None if invocation is None or invocation.history is None else invocation.history.steps.get(command)
        if invocation is None or step is None:
            return False
        step.next_attempt_at = None
        self.wake(invocation)
        return True

    def _write(self, invocation: Invocation, record: Turn) -> None:
        entry = self._entry_of(invocation)
        entry.expires = record.expires
        fields = entry.fields
        if record.outcome is None:
            before = invocation.the_history().before
            for field in record.writes:
                before.setdefault(field, fields.get(field))
        if record.version is not None:
            self._write_version(invocation, entry, record)
        fields.update(record.writes)
        if record.entries or record.lengths:
            self._write_entries(invocation, entry, record)
        if record.version is not None:
            for field in [field for field, data in fields.items() if not data]:  # dropped by a migration
                del fields[field]
        if not (fields or entry.lengths):
            entry.version = 1  # as of what was never written

    def _write_version(self, invocation: Invocation, entry: ObjectEntry, record: Turn) -> None:
        if record.outcome is None:
            history = invocation.the_history()
            if history.before_version is None:
                history.before_version = entry.stored_version
        entry.version = record.version or 1

    def _write_entries(self, invocation: Invocation, entry: ObjectEntry, record: Turn) -> None:
        prefixes: dict[str, bytes] = {}
        history = None if record.outcome is not None else invocation.the_history()
        for field, name, value in record.entries:
            prefix = prefixes.get(field)
            if prefix is None:
                prefix = prefixes[field] = rows.entries_prefix(invocation.service, invocation.key, field)
            if history is not None:
                before = history.before_entries.setdefault(field, {})
                if name not in before:
                    value_before = before[name] = self._entries.get(prefix + name)
                    invocation.held_bytes += len(name) + len(value_before or b"")
            self._entries.put(prefix + name, value)
        for field, length in record.lengths.items():
            if history is not None:
                history.before_lengths.setdefault(field, entry.lengths.get(field, 0))
            if length and (field not in entry.lengths or record.version is not None):
                self._note_tag(entry, field, record)
            if length:
                entry.lengths[field] = length
            else:
                entry.lengths.pop(field, None)  # its tag stays, for a replay that begins before this

    def _note_tag(self, entry: ObjectEntry, field: str, record: Turn) -> None:
        """The first entries of a List or Map, or others in their place, tell what their keys are."""
        tag = next((tag_of(name) for of, name, value in record.entries if of == field and value is not None), None)
        if tag:
            entry.tags[field] = tag
        elif tag is not None:
            entry.tags.pop(field, None)

    def _wait_for(self, waiter: Invocation, command: int, id: str, at: int) -> None:
        other = self._invocations.change(id)
        if other is None or other.outcome is not None:
            outcome = None if other is None else other.outcome
            self._deliver(waiter, Delivery(at, command, outcome or UNKNOWN))
            return
        waiter.the_history().calls[command] = id
        self._look_through(other.waiters or [])
        other.add_waiter(waiter.id, command)

    def _pause(self, invocation: Invocation) -> None:
        self._clear_backoff(invocation)
        if invocation.status is not Status.PAUSED:
            self.counts.paused(invocation, 1)
            invocation.status = Status.PAUSED

    def _clear_backoff(self, invocation: Invocation) -> None:
        if invocation.next_attempt_at is not None:
            self.timers.clear(invocation.id, RETRY)
            invocation.next_attempt_at = None

    def _cancel(self, invocation: Invocation, at: int) -> None:
        if invocation.ended or invocation.cancel_requested:
            return
        invocation.cancel_requested = True
        if invocation.last_turn == 0:  # nothing of it has happened yet, so there is nothing to clean up
            self._abandon_queue(invocation)
            self._end(invocation, CANCELLED, at)
            return
        if invocation.failing:
            # Before the delivery that keeps failing, or the cancellation would wait behind it for ever.
            invocation.deliveries.insert(invocation.consumed, Delivery(at, CANCELLATION))
            self.rewound.append(invocation)
        else:
            invocation.deliveries.append(Delivery(at, CANCELLATION))
        self._make_attempt(invocation)

    def _abandon_queue(self, invocation: Invocation) -> None:
        if invocation.status is Status.SCHEDULED:
            self.timers.clear(invocation.id, JOIN_MAILBOX)
            self.counts.scheduled(invocation, -1)
        elif invocation.status is Status.PENDING:
            entry = self._entry_of(invocation)
            self.counts.mailed(invocation.service, len(entry.mailbox), -1)
            entry.mailbox.remove(invocation.id)

    def _end(self, invocation: Invocation, outcome: Outcome, at: int) -> None:
        key = (invocation.service, invocation.key)
        entry = self._objects.change(key) if invocation.exclusive else None
        self._clear_backoff(invocation)
        if invocation.history is not None:
            self._leave(invocation, invocation.history)
        if invocation.status is Status.PAUSED:
            self.counts.paused(invocation, -1)
        self.counts.opened(invocation, -1)
        invocation.status = Status.ENDED
        invocation.outcome = outcome
        invocation.ended_at = at
        if invocation.waiters is not None:
            for waiter_id, command in invocation.waiters:
                self._give(self._invocations.change(waiter_id), Delivery(at, command, outcome))
            invocation.waiters = invocation.readers = None
        invocation.deliveries = []
        self.ended.append(invocation)
        self._retain_or_forget(invocation, outcome)
        if entry is not None and entry.holder == invocation.id:
            entry.holder = None
            self._pass_key_on(entry, at)
            if entry.blank:
                self._objects.remove(key)
            elif entry.expires is not None and entry.idle:
                self._expiries.set(entry.expires, rows.object_id(*key), EXPIRY)

    def _leave(self, invocation: Invocation, history: History) -> None:
        """What it still waited for goes on without it; its journal isn't needed any more."""
        for command in (*history.timers, *history.steps):
            self.timers.clear(invocation.id, command)
        if history.turns:
            self.counts.begun(invocation, -1)
        for command, id in history.calls.items():
            if (other := self._invocations.change(id)) is not None and not other.ended:
                other.remove_waiter(invocation.id, command)
        invocation.history = None
        invocation.held_bytes = 0

    def _give(self, waiter: Invocation | None, delivery: Delivery) -> None:
        if waiter is None or waiter.ended:
            return
        history = waiter.the_history()
        history.calls.pop(delivery.command, None)
        history.owned.discard(delivery.command)
        self._deliver(waiter, delivery)

    def _retain_or_forget(self, invocation: Invocation, outcome: Outcome) -> None:
        if invocation.retained or type(outcome) is Failed:
            invocation.retained = True
            self.counts.retain(invocation.family, 1)
            self.retention.setdefault(invocation.family, OrderedDict())[invocation.id] = invocation.ended_at or 0
        else:
            self._forget(invocation)

    def _forget(self, invocation: Invocation | None) -> None:
        if invocation is None or not invocation.ended:
            return
        if invocation.retained:
            self.counts.retain(invocation.family, -1)
            self.retention.get(invocation.family, _NONE_RETAINED).pop(invocation.id, None)
        if invocation.agenda:
            self._rows.put(invocation.agenda, None)
        for number in range(invocation.items):
            self._rows.put(rows.item_row(invocation.id, number), None)
        if invocation.awakeables is not None:
            for command in invocation.awakeables:
                self._rows.put(rows.awakeable_row(identity.awakeable_id(invocation.seed, command)), None)
        if invocation.idempotency_key is not None:
            row = _idempotency_row_of(invocation)
            if self._rows.get(row) == invocation.id.encode():
                self._rows.put(row, None)
        self._invocations.remove(invocation.id)
        if invocation.idempotency_key == RUN_ONCE:
            self._forget_workflow(invocation)

    def _forget_workflow(self, run: Invocation) -> None:
        """Its retention time is over: state and promises go with the outcome.

        Who waits for a promise that nobody has completed waits on, as one who came before the run.
        """
        key = (run.service, run.key)
        entry = self._objects.change(key)
        if entry is None or not entry.idle:
            return
        waited_for: dict[str, PromiseState] = {}
        for name, promise in (entry.promises or {}).items():
            if waiters := [waiter for waiter in promise.waiters if self._is_open(waiter[0])]:
                waited_for[name] = PromiseState(waiters=waiters)
        self._remove(key, entry)
        if waited_for:
            self._objects.add(key, ObjectEntry(promises=waited_for))

    def _remove(self, key: ObjectKey, entry: ObjectEntry) -> None:
        """An object is gone, and the entries of its Lists and Maps with it."""
        self._empty(key, entry)
        self._objects.remove(key)

    def _empty(self, key: ObjectKey, entry: ObjectEntry) -> None:
        for field in entry.lengths:
            begin, end = rows.entries_range(*key, field)
            while portion := self._entries.range(begin, end, _REMOVED_AT_ONCE):
                for row, _ in portion:
                    self._entries.put(row, None)
                begin = portion[-1][0] + b"\0"  # not from the first again: what is gone would be walked each time

    def _stay(self, key: ObjectKey, entry: ObjectEntry) -> None:
        """It is at work, or gone: nothing says any more that it is to be forgotten."""
        self._expiries.clear(rows.object_id(*key), EXPIRY)
        if entry.agenda:
            self._rows.put(entry.agenda, None)
            entry.agenda = b""

    # --- in and out of memory -------------------------------------------------------------------------------------

    def freeze(self, now: int) -> bytes:
        """What has changed by now is what the next commit to the store holds; returns its summary."""
        overdue = self.memory.next_due((1, 0, ""))  # and not fired yet: it stays where it stands if nothing changed it
        self.counts.frozen_at = now if overdue is None else min(now, overdue)
        self.memory.freeze(now)
        return rows.pack_counts(self.counts)

    def _stored(self, invocation: Invocation) -> None:
        """Among the ended it is found in the store from here on."""
        if invocation.ended:
            self.retention.get(invocation.family, _NONE_RETAINED).pop(invocation.id, None)

    def _stored_entry(self, key: ObjectKey, entry: ObjectEntry) -> None:
        """Its expiry is found in the store from here on."""
        if entry.agenda and entry.expires is not None:
            self._expiries.clear(rows.object_id(*key), EXPIRY)
            self._stored_expiry = min(entry.expires, self._stored_expiry or entry.expires)

    def _arm(self, invocation: Invocation) -> None:
        """It came back from the store: its timers with it."""
        self.timers.clear(invocation.id, WAKE)
        if invocation.status is Status.SCHEDULED and invocation.due is not None:
            self.timers.set(invocation.due, invocation.id, JOIN_MAILBOX, invocation.order)
        if invocation.next_attempt_at is not None:
            self.timers.set(invocation.next_attempt_at, invocation.id, RETRY)
        if (history := invocation.history) is not None:
            for command, due in history.timers.items():
                self.timers.set(due, invocation.id, command)
            for command, step in history.steps.items():
                if step.next_attempt_at is not None:
                    self.timers.set(step.next_attempt_at, invocation.id, command)

    def look_ahead(self, until: int, limit: int) -> None:
        """What is due before `until`, or the first `limit` of it, has its timer in memory from here on, though it isn't
        there itself."""
        found = self.memory.due(self.agenda_until, until, limit)
        for at, order, id in found:
            if id not in self.invocations:
                self.timers.set(at, id, WAKE, order)
        self.agenda_until = rows.after(found[-1]) if len(found) == limit else max(self.agenda_until, (until, 0, ""))
        self.agenda_next = self.memory.next_due(self.agenda_until)

    def _disarm(self, invocation: Invocation) -> None:
        """It leaves memory; when it has to come back, the agenda knows, or a timer if that says something else."""
        due = invocation.next_alarm
        if due is not None:
            place = rows.place_of(invocation, due)
            if place < self.agenda_until or not rows.is_due(invocation.agenda, due):
                self.timers.set(due, invocation.id, WAKE, place[1])
            elif self.agenda_next is None or due < self.agenda_next:
                self.agenda_next = due
        self.timers.clear(invocation.id, JOIN_MAILBOX)
        self.timers.clear(invocation.id, RETRY)
        if (history := invocation.history) is not None:
            for command in (*history.timers, *history.steps):
                self.timers.clear(invocation.id, command)

    # --- which is which ---------------------------------------------------------------------------------------------

    # Any: each entry takes the type it is listed under, which a dict's type can't say.
    _APPLY: ClassVar[dict[type[Record], Callable[[Kernel, Any], None]]] = {
        Invoked: _invoked,
        Due: _due,
        Turn: _turn,
        Notified: _notified,
        Signalled: _signalled,
        Attempted: _attempted,
        PutBack: _put_back,
        Cancelled: _cancelled,
        Killed: _killed,
        Paused: _paused,
        Resumed: _resumed,
        Purged: _purged,
        Expired: _expired,
        Edited: _edited,
        Planned: _planned,
        Ticked: _ticked,
        Unplanned: _unplanned,
        Begun: _begun,
    }

    _COMMAND: ClassVar[dict[type[Any], Callable[[Kernel, Invocation, Any, int], None]]] = {
        Call: _call,
        Send: _send,
        Timer: _timer,
        CancelTimer: _cancel_timer,
        CancelCall: _cancel_call,
        Attach: _attach,
        Cancel: _cancel_other,
        Run: _run,
        CancelStep: _cancel_step,
        Awakeable: _awakeable,
        Complete: _complete,
        Receive: _receive,
        Signal: _signal_other,
        AwaitPromise: _await_promise,
        CompletePromise: _complete_promise,
        PeekPromise: _peek_promise,
        Yield: _yield,
    }


def _idempotency_row_of(invocation: Invocation) -> bytes:
    key = invocation.idempotency_key
    assert key is not None
    return rows.idempotency_row(invocation.service, invocation.key, invocation.handler, key)

"""What the kernel remembers of one invocation, of one object, of one schedule, and of all of them.

Plain data: only `apply` (kernel.py) changes it, and rows.py makes bytes of it.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from msgspec import Struct

from perdure.objects.errors import Failure

from .records import Outcome, Trace, Turn

START = -1
CANCELLATION = -2

RUN_ONCE = "\0run"
"""The idempotency key of a workflow's `run`: no user's key has a control character."""

RUNS = "\1"
"""Ends the family of a class's runs."""


SCHEDULE_HEADER = "x-perdure-schedule"
"""Of what a schedule calls: its id."""


class Status(Enum):
    SCHEDULED = "scheduled"  # delayed, not yet in its mailbox
    PENDING = "pending"  # in its mailbox, behind the holder of the key
    OPEN = "open"  # may be driven: ready, running, backing off or suspended
    PAUSED = "paused"  # waits for an operator, with its journal and its key
    ENDED = "ended"


class Delivery(Struct, frozen=True, array_like=True, gc=False):
    """What starts a turn: START, CANCELLATION, or the outcome of a command (None: a timer fired).

    `more`: an item of a stream, which goes on.
    """

    at: int
    command: int
    outcome: Outcome | None = None
    more: bool = False


class StepState(Struct, omit_defaults=True):
    """An open step: its failed attempts, and when it is tried again (None: now).

    `deaths`: how often in a row the process died soon after it had started.
    """

    attempts: int = 0
    deaths: int = 0
    failing_since: int = 0
    next_attempt_at: int | None = None
    items: list[bytes] = []


class History(Struct, omit_defaults=True):
    """What an open invocation has done so far.  Most end in their first turn and never have one.

    `turns` holds the committed turns by number (a turn that did nothing left none), `before` the value each field had
    before this invocation first changed it (None: none), `before_entries` and `before_lengths` the same of Lists and
    Maps, `before_version` that of the object (0: nothing was stored).
    `calls` are the commands that wait for another invocation, of which it made
    those in `owned`, `timers` the due time of each that runs, `steps` the open ones.
    Of signals, `received` holds the values that nobody has asked for yet, `receivers` the commands that wait for one.
    """

    turns: dict[int, Turn] = {}
    before: dict[str, bytes | None] = {}
    before_entries: dict[str, dict[bytes, bytes | None]] = {}
    before_lengths: dict[str, int] = {}
    calls: dict[int, str] = {}
    owned: set[int] = set()
    timers: dict[int, int] = {}
    steps: dict[int, StepState] = {}
    received: dict[str, list[Outcome]] = {}
    receivers: dict[str, list[int]] = {}
    before_version: int | None = None


class Invocation(Struct, eq=False, omit_defaults=True):
    """One handler's run, from its acceptance until its outcome is purged.

    `waiters` are the invocations (and their commands) that get the outcome, `awakeables` what it made of those and
    what they were given (kept with the outcome, so that a repeated completion gets its answer).
    `failing`: its next delivery has failed, or it was paused there, so no run of it is ahead of that.
    `agenda`: the row of the store's agenda that stands for it (rows.py), empty if none does.
    `order`: its number among all that were ever scheduled, in which those due together join their mailboxes; 0: none.
    `stream`: its handler yields; `items` so far, each a row of its own, and `readers` are those of the waiters that get
    them.
    `begun_at`: when it got its key; of what belongs to a trace alone.
    `held_bytes`: what it did, was given and may have to put back, about; all of it is one row.
    """

    id: str
    seed: bytes
    service: str
    key: str
    handler: str
    exclusive: bool
    arguments: bytes
    created_at: int
    retained: bool = False
    headers: dict[str, str] | None = None
    idempotency_key: str | None = None
    due: int | None = None
    parent: str | None = None
    depth: int = 0
    status: Status = Status.PENDING
    deliveries: list[Delivery] = []
    consumed: int = 0
    last_turn: int = 0
    attempts: int = 0
    deaths: int = 0
    failing: bool = False
    failing_since: int = 0
    history: History | None = None
    last_failure: Failure | None = None
    next_attempt_at: int | None = None
    cancel_requested: bool = False
    in_ready_queue: bool = False
    outcome: Outcome | None = None
    ended_at: int | None = None
    waiters: list[tuple[str, int]] | None = None
    awakeables: dict[int, Outcome | None] | None = None
    put_behind: frozenset[str] = frozenset()
    agenda: bytes = b""
    stream: bool = False
    items: int = 0
    readers: list[tuple[str, int]] | None = None
    order: int = 0
    trace: Trace | None = None
    begun_at: int | None = None
    held_bytes: int = 0

    def __repr__(self) -> str:
        return f"<{self.target} {self.id}>"

    @property
    def target(self) -> str:
        return "/".join(part for part in (self.service, self.key, self.handler) if part)

    @property
    def ended(self) -> bool:
        return self.status is Status.ENDED

    @property
    def entries(self) -> int:
        """How much a replay has to go through."""
        return len(self.deliveries) + (0 if self.history is None else len(self.history.turns)) + self.items

    @property
    def has_steps_to_run(self) -> bool:
        history = self.history
        return history is not None and any(step.next_attempt_at is None for step in history.steps.values())

    @property
    def family(self) -> str:
        """What it is retained with; the runs of workflows are kept longer than what else their class retains."""
        return self.service + RUNS if self.idempotency_key == RUN_ONCE else self.service

    @property
    def runnable(self) -> bool:
        """It may have a delivery to be driven by, or has a step to run.  (Of a delivery that was dropped, or whose turn
        did nothing, there is no record: one like that is looked at, and nothing comes of it.)"""
        if self.status is not Status.OPEN or self.next_attempt_at is not None:
            return False
        return len(self.deliveries) > self.consumed or self.has_steps_to_run

    @property
    def next_alarm(self) -> int | None:
        """When the first of its timers is due."""
        if self.status is Status.SCHEDULED:
            return self.due
        due = [] if self.next_attempt_at is None else [self.next_attempt_at]
        if self.history is not None:
            due += self.history.timers.values()
            due += [step.next_attempt_at for step in self.history.steps.values() if step.next_attempt_at is not None]
        return min(due, default=None)

    def the_history(self) -> History:
        if self.history is None:
            self.history = History()
        return self.history

    def waits_for(self) -> list[str]:
        """The ids of the invocations whose outcome it asked for."""
        return [] if self.history is None else [*self.history.calls.values()]

    def add_waiter(self, id: str, command: int) -> None:
        if self.waiters is None:
            self.waiters = []
        self.waiters.append((id, command))

    def add_reader(self, id: str, command: int) -> None:
        """A waiter that gets each item too."""
        self.readers = [*(self.readers or ()), (id, command)]

    def remove_waiter(self, id: str, command: int) -> None:
        if self.waiters is not None:
            self.waiters.remove((id, command))
        if self.readers is not None:
            self.readers = [reader for reader in self.readers if reader != (id, command)]


class PromiseState(Struct, omit_defaults=True):
    """A promise of a workflow: its outcome, or who waits for it."""

    outcome: Outcome | None = None
    waiters: list[tuple[str, int]] = []


class ObjectEntry(Struct, omit_defaults=True):
    """One keyed object: its committed fields (JSON), who holds the key, and who waits for it, by their ids.

    `lengths`: how many entries its Lists and Maps have; the entries themselves are rows of their own.
    `tags`: of what kind the keys of its Maps are (entry_keys.tag_of), so that a List and Maps can be told apart.
    `version`: that of the class in whose form it is stored.

    `expires`: when it is forgotten if it is idle then; `agenda`: the row of the store that says so (rows.py), empty if
    none does.
    """

    fields: dict[str, bytes] = {}
    holder: str | None = None
    mailbox: list[str] = []
    promises: dict[str, PromiseState] | None = None
    lengths: dict[str, int] = {}
    expires: int | None = None
    agenda: bytes = b""
    version: int = 1
    tags: dict[str, str] = {}

    @property
    def stored_version(self) -> int:
        """0 if nothing is stored."""
        return self.version if self.fields or self.lengths else 0

    @property
    def idle(self) -> bool:
        return self.holder is None and not self.mailbox

    @property
    def blank(self) -> bool:
        return self.idle and not self.fields and not self.promises and not self.lengths and self.expires is None


class ScheduleState(Struct, frozen=True, omit_defaults=True):
    """What is known of a schedule beside its declaration.

    `ticks`: as they were when it was planned; those up to `after` are done with, whatever became of them.
    `invocation`: the last that it made, and `fired_at` when; `skipped`: the last tick that was left out.
    """

    ticks: str
    after: int
    paused: bool = False
    invocation: str | None = None
    fired_at: int | None = None
    skipped: int | None = None


class Counts(Struct, omit_defaults=True):
    """How many there are, in memory or not.

    `queued` in mailboxes or scheduled, of all objects; `begun_of` those that have committed a turn and are not over, by
    service and handler; `retained` by family.
    `open_of` those that have not ended, by service and then handler, of all that there ever were; of them,
    `scheduled_of` and `paused_of` by service.
    `mailboxes`: by service, how many of its mailboxes hold one invocation, two, and so on; without the empty ones.
    `frozen_at`: everything on the store's agenda is due at once, or then or later: when they were last written down, or
    before, if something was overdue then.
    """

    queued: int = 0
    begun_of: dict[str, int] = {}
    retained: dict[str, int] = {}
    frozen_at: int = 0
    open_of: dict[str, dict[str, int]] = {}
    scheduled_of: dict[str, int] = {}
    paused_of: dict[str, int] = {}
    mailboxes: dict[str, dict[int, int]] = {}
    scheduled_ever: int = 0

    def begun(self, invocation: Invocation, count: int) -> None:
        _add(self.begun_of, f"{invocation.service}/{invocation.handler}", count)

    def retain(self, family: str, count: int) -> None:
        _add(self.retained, family, count)

    def opened(self, invocation: Invocation, count: int) -> None:
        try:  # each invocation comes by here twice
            self.open_of[invocation.service][invocation.handler] += count
        except KeyError:
            self.open_of.setdefault(invocation.service, {})[invocation.handler] = count

    def scheduled(self, invocation: Invocation, count: int) -> None:
        self.queued += count
        _add(self.scheduled_of, invocation.service, count)

    def paused(self, invocation: Invocation, count: int) -> None:
        _add(self.paused_of, invocation.service, count)

    def mailed(self, service: str, length: int, count: int) -> None:
        """A mailbox that held `length` has got `count` more, or less."""
        self.queued += count
        mailboxes = self.mailboxes.setdefault(service, {})
        if length:
            _add(mailboxes, length, -1)
        if length + count:
            _add(mailboxes, length + count, 1)
        if not mailboxes:
            del self.mailboxes[service]


_Name = TypeVar("_Name", str, int)


def _add(counts: dict[_Name, int], name: _Name, count: int) -> None:
    counts[name] = counts.get(name, 0) + count
    if not counts[name]:
        del counts[name]

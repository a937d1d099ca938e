"""What the kernel remembers of one invocation, and of one object.

Plain data: only `apply` (kernel.py) changes it.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from msgspec import Struct

from perdure.objects.errors import Failure

from .records import Outcome, Turn

START = -1
CANCELLATION = -2


class Status(Enum):
    SCHEDULED = "scheduled"  # delayed, not yet in its mailbox
    PENDING = "pending"  # in its mailbox, behind the holder of the key
    OPEN = "open"  # may be driven: ready, running, backing off or suspended
    PAUSED = "paused"  # waits for an operator, with its journal and its key
    ENDED = "ended"


class Delivery(Struct, frozen=True, gc=False):
    """What starts a turn: START, CANCELLATION, or the outcome of a command (None: a timer fired).

    `more`: an item of a stream, which goes on.
    """

    at: int
    command: int
    outcome: Outcome | None = None
    more: bool = False


class StepState(Struct):
    """An open step: its failed attempts, and when it is tried again (None: now).

    `deaths`: how often in a row the process died soon after it had started.
    """

    attempts: int = 0
    deaths: int = 0
    failing_since: int = 0
    next_attempt_at: int | None = None
    items: list[bytes] = []


class History(Struct):
    """What an open invocation has done so far.  Most end in their first turn and never have one.

    `turns` holds the committed turns by number (a turn that did nothing left none), `before` the value each field had
    before this invocation first changed it, `calls` the commands that wait for another invocation, of which it made
    those in `owned`, `timers` the due time of each that runs, `steps` the open ones.
    Of signals, `received` holds the values that nobody has asked for yet, `receivers` the commands that wait for one.
    """

    turns: dict[int, Turn] = {}
    before: dict[str, bytes | None] = {}
    calls: dict[int, str] = {}
    owned: set[int] = set()
    timers: dict[int, int] = {}
    steps: dict[int, StepState] = {}
    received: dict[str, deque[Outcome]] = {}
    receivers: dict[str, deque[int]] = {}


class Invocation(Struct, eq=False):
    """One handler's run, from its acceptance until its outcome is purged.

    `waiters` are the invocations (and their commands) that get the outcome, `awakeables` what it made of those and
    what they were given (kept with the outcome, so that a repeated completion gets its answer).
    `failing`: its next delivery has failed, or it was paused there, so no run of it is ahead of that.
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
        return len(self.deliveries) + (0 if self.history is None else len(self.history.turns))

    @property
    def has_steps_to_run(self) -> bool:
        history = self.history
        return history is not None and any(step.next_attempt_at is None for step in history.steps.values())

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

    def remove_waiter(self, id: str, command: int) -> None:
        if self.waiters is not None:
            self.waiters.remove((id, command))


class PromiseState:
    """A promise of a workflow: its outcome, or who waits for it."""

    __slots__ = ("outcome", "waiters")

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.waiters: list[tuple[str, int]] = []


class ObjectEntry:
    """One keyed object: its committed fields (JSON), who holds the key, and who waits for it."""

    __slots__ = ("fields", "holder", "mailbox", "promises")

    def __init__(self) -> None:
        self.fields: dict[str, bytes] = {}
        self.holder: Invocation | None = None
        self.mailbox: deque[Invocation] = deque()
        self.promises: dict[str, PromiseState] | None = None

    @property
    def blank(self) -> bool:
        return self.holder is None and not self.fields and not self.mailbox and not self.promises

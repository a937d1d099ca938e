"""One run of one handler: its coroutine, driven turn by turn.

The same code runs it live and in replay.  Live, a turn's commands, writes and outcome become a record; in replay
they are compared with the recorded one, and a difference is a ReplayMismatch.  A run is thrown away by a failure, an
eviction, a kill or the end of the process, and made again from the journal.

This file does not know the journal, the clock or the scheduler (ledger.py, driver.py and alarms.py do).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any, cast

from perdure.objects.definitions import HandlerDefinition, ServiceDefinition, new_instance
from perdure.objects.entry_keys import label_of
from perdure.objects.errors import (
    DeadlockError,
    Failure,
    ReplayMismatch,
    TerminalError,
    UnreadableState,
    failure_of,
    is_terminal,
    text_of,
)
from perdure.objects.migrations import Migrated, brought_up_to_date
from perdure.objects.state import State

from . import identity
from .deadlocks import Cycle, find_cycle, message_of
from .entries import OwnEntries
from .handler_context import HandlerContext, World
from .invocations import CANCELLATION, START, Delivery, Invocation, ObjectEntry
from .kernel import CANCELLED
from .mute import muted
from .record_lines import describe_part, divergence
from .records import (
    Attach,
    Attached,
    Call,
    CancelCall,
    CancelStep,
    Command,
    Failed,
    Outcome,
    PeekPromise,
    Send,
    Success,
    Turn,
)
from .settings import Settings
from .step_calls import StepCall
from .stored import ReadState, of_form, start_of
from .turn_loop import TurnFailed, TurnLoop, TurnTimer
from .waits import Stream, Wait, words_for

_NO_MORE = Success(b"null")
_ITEMS_OF_A_TURN_MAX = 256
"""A stream that never waits gives what it has in portions, and others their turn."""
_NEXT_TURN_SECONDS = 1e-6

# Any: whatever the handler's annotations say.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class TurnRefused(Exception):
    """The turn failed, and with it all it did.  `cause` is what the handler raised, or what it ran into."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(text_of(cause))
        self.cause = cause


class CollidedWith(Exception):
    """The turn would deadlock, but the invocation has committed nothing: it can go behind `queued` and run again."""

    def __init__(self, queued: Invocation) -> None:
        super().__init__()
        self.queued = queued


class Execution:
    """`position` deliveries are used up, of which `number` were turns."""

    __slots__ = (
        "_arguments",
        "_cancelled",
        "_context",
        "_deadlocked",
        "_handler",
        "_instance",
        "_kernel",
        "_loop",
        "_main",
        "_migrated",
        "_read",
        "_recorded",
        "_service",
        "_settings",
        "_state",
        "invocation",
        "number",
        "position",
    )

    def __init__(
        self,
        invocation: Invocation,
        service: ServiceDefinition,
        handler: HandlerDefinition,
        world: World,
        settings: Settings,
        arguments: Arguments | None = None,
    ) -> None:
        """`arguments`: decoded already, for this run alone."""
        self.invocation = invocation
        self.position = 0
        self.number = 0
        self._service = service
        self._handler = handler
        self._arguments = arguments
        self._kernel = world.kernel
        self._settings = settings
        self._recorded: Turn | None = None
        self._cancelled = False
        self._deadlocked: list[tuple[int, Failure]] = []
        self._migrated: Migrated | None = None  # in this turn
        self._main: asyncio.Task[Any] | None = None
        self._context = context = HandlerContext(invocation, service, world)
        self._loop = TurnLoop(identity.number_of(invocation.id), context, callbacks_max=settings.callbacks_max)
        context.loop = self._loop
        if handler.exclusive or not service.keyed:
            self._read = None
            own = OwnEntries(world.kernel, invocation) if service.collections else None
            self._state = State(service, self._load_own, context.check, writable=handler.exclusive, entries=own)
        else:
            self._read = read = ReadState(world.kernel, invocation, service, context)
            self._state = State(service, read.load, context.check, writable=False, entries=read)
        self._instance = new_instance(service, invocation.key, context, self._state)

    # --- turns ----------------------------------------------------------------------------------------------------

    @property
    def replaying(self) -> bool:
        return self.number < self.invocation.last_turn

    def next_turn(self) -> Delivery | None:
        """The next delivery that is a turn; those whose waiter is done are dropped on the way.

        Raises ReplayMismatch if there is none although the journal has another turn.
        """
        deliveries = self.invocation.deliveries
        while self.position < len(deliveries):
            delivery = deliveries[self.position]
            self.position += 1
            if self._wanted(delivery):
                return delivery
        if self.replaying:
            raise ReplayMismatch(
                f"turn {self.number + 1} of {self.invocation.target}: the journal goes on, the code now waits for "
                "nothing that was delivered"
            )
        return None

    def replay(self, delivery: Delivery) -> None:
        """Raises ReplayMismatch; TurnRefused if the state can't be read any more."""
        number = self.number + 1
        history = self.invocation.history
        turns = {} if history is None else history.turns
        recorded = turns.get(number) or Turn(0, self.invocation.id, number, self.position)
        self._loop.silent = True
        try:
            with muted():
                self._drive(delivery, recorded)
            self._refuse_divergence(number)
            turn = self._collect(recorded.at)
        except TurnRefused as refused:
            self._refuse_divergence(number)
            if isinstance(refused.cause, UnreadableState):
                raise
            raise ReplayMismatch(
                f"turn {number} of {self.invocation.target}: the journal goes on, the code now raises "
                f"{type(refused.cause).__name__}: {refused}"
            ) from refused
        if turn is None:
            turn = Turn(recorded.at, self.invocation.id, number, self.position)
        if difference := difference_of(recorded, turn):
            raise ReplayMismatch(f"turn {number} of {self.invocation.target}: {difference}")
        self.number = number

    def _refuse_divergence(self, number: int) -> None:
        if self._context.diverged is not None:
            raise ReplayMismatch(f"turn {number} of {self.invocation.target}: {self._context.diverged}")

    def run(self, delivery: Delivery, at: int) -> Turn | None:
        """The record of a live turn, or None if it did nothing.  Raises TurnRefused, CollidedWith."""
        self._loop.silent = False
        self._drive(delivery, None)
        turn = self._collect(at)
        self.number += 1
        return turn

    def adopt(self, invocation: Invocation) -> None:
        """The invocation has got into the journal: from here on that one counts."""
        self.invocation = self._context.current = invocation

    def drop(self) -> None:
        """Nothing of this run may have an effect from here on, whatever its code does when it is closed."""
        self._loop.drop()
        self._let_go()

    def discard(self) -> None:
        """The handler has ended: free its frames without the collector's help."""
        self._loop.discard()
        self._let_go()

    def _let_go(self) -> None:
        """What leads back here would be left to the collector."""
        self._context.cut()
        self._main = None
        if self._read is not None:
            self._read.cut()
        if hasattr(self, "_state"):  # not gone already
            del self._state, self._instance

    def on_divergence(self, callback: Callable[[str], None] | None) -> None:
        """`callback` is called in the line of the handler that asks for something else than the journal has."""
        self._context.on_divergence = callback

    @property
    def patches(self) -> Mapping[str, bool]:
        """Which way the handler went at each `ctx.patched(name)` so far."""
        return self._context.patches

    def step(self, command: int) -> StepCall | None:
        """The step that the handler asked for by `command`; None if it doesn't want it any more."""
        return self._context.steps.get(command)

    def refuses(self, command: int, value: bytes) -> str | None:
        """Why the awakeable `command` can't hold `value`."""
        return self._context.why_unfit(command, value)

    # --- inside a turn --------------------------------------------------------------------------------------------

    def _wanted(self, delivery: Delivery) -> bool:
        if delivery.command >= 0:
            waiter = self._context.waiting.get(delivery.command)
            return waiter is not None and not waiter.done()
        return delivery.command == START or (self._main is not None and not self._main.done())

    def _drive(self, delivery: Delivery, recorded: Turn | None) -> None:
        self._recorded = recorded
        context, loop = self._context, self._loop
        context.begin_turn(recorded)
        if self._deadlocked:
            self._deadlocked = []
        if delivery.command == START and self._arguments is None:
            self._arguments = self._handler.decode_arguments(self.invocation.arguments)
        self._state.begin_turn()
        if self._read is not None:
            self._read.begin_turn(recorded)
        try:
            loop.run(delivery.at, partial(self._hand_over, delivery))
            if context.new_waits or recorded is not None:
                self._refuse_waits(context, loop)
            if not loop.dead and self._ended:  # dead: it diverged, and what is left of it is dropped
                loop.cancel_leftovers()
        except TurnFailed as error:
            raise self._refusal(error.__cause__ or error) from error
        except UnreadableState as error:  # found before the handler's first line
            raise self._refusal(error) from error

    def _refuse_waits(self, context: HandlerContext, loop: TurnLoop) -> None:
        while not self._ended and not loop.dead and (refused := self._next_refused_wait()) is not None:
            wait, failure = refused
            self._deadlocked = [*self._deadlocked, (wait.command, failure)]  # the one before may stand in a record
            loop.run(None, partial(context.refuse_wait, wait, failure))

    @property
    def _ended(self) -> bool:
        return self._main is not None and self._main.done()

    def _hand_over(self, delivery: Delivery) -> None:
        if delivery.command == START:
            if self._handler.exclusive:
                self._bring_up_to_date()
            self._main = self._loop.start(self._begin())
        elif delivery.command == CANCELLATION:
            self._cancelled = True
            if self._main is not None:
                self._main.cancel()
        else:
            self._hand_to_waiter(delivery)

    def _hand_to_waiter(self, delivery: Delivery) -> None:
        waiting, outcome = self._context.waiting, delivery.outcome
        waiter = waiting[delivery.command]
        if not delivery.more:
            del waiting[delivery.command]
        if isinstance(waiter, TurnTimer):
            self._loop.fire(waiter)
            return
        assert outcome is not None
        if isinstance(waiter, Wait):
            waiter.set_result(outcome)
        else:
            waiter.deliver(outcome, more=delivery.more)
        if not delivery.more:
            self._context.steps.pop(delivery.command, None)

    def _begin(self) -> Coroutine[Any, Any, Any]:
        assert self._arguments is not None
        args, kwargs = self._arguments
        self._arguments = None
        made = self._handler.fn(self._instance, *args, **kwargs)
        coroutine: Coroutine[Any, Any, Any] = (
            _sent_out(made, self._handler, self._context) if self._handler.stream else made
        )
        if self._handler.timeout_seconds is not None:
            return _with_timeout(coroutine, self._handler.timeout_seconds)
        return coroutine

    # --- waits that would never end -------------------------------------------------------------------------------

    def _next_refused_wait(self) -> tuple[Wait, Failure] | None:
        """The next wait begun in this turn that can't be allowed, with what its await raises."""
        new_waits = self._context.new_waits
        if self._recorded is not None:
            new_waits.clear()
            return self._next_recorded_refusal(self._recorded)
        while new_waits:
            wait, subject = new_waits.pop(0)
            if wait.done():
                continue
            cycle = self._cycle_closed_by(wait)
            if cycle is None:
                continue
            if cycle.queued is not None and self._may_go_behind(cycle.queued):
                raise CollidedWith(cycle.queued)
            return wait, failure_of(DeadlockError(message_of(self.invocation, words_for(subject), cycle)))
        return None

    def _may_go_behind(self, queued: Invocation) -> bool:
        """Nothing of it has happened yet, and nobody has told it anything that it would have to be told again.

        Behind the same one only once: that one has ended when we run again, unless it was itself put behind us, and
        then the two would give way to each other for ever.
        """
        invocation = self.invocation
        untouched = invocation.last_turn == 0 and invocation.exclusive and not invocation.cancel_requested
        return untouched and queued.id not in invocation.put_behind

    def _next_recorded_refusal(self, recorded: Turn) -> tuple[Wait, Failure] | None:
        if len(self._deadlocked) >= len(recorded.deadlocked):
            return None
        command, failure = recorded.deadlocked[len(self._deadlocked)]
        wait = self._context.waiting.get(command)
        if isinstance(wait, Stream):
            wait = wait.open_wait
        if type(wait) is not Wait or wait.done():
            raise ReplayMismatch(f"turn {recorded.number} of {self.invocation.target}: a wait that was refused is gone")
        return wait, failure

    def _cycle_closed_by(self, wait: Wait) -> Cycle | None:
        kernel, invocation = self._kernel, self.invocation
        history = invocation.history
        made = None if history is None else history.calls.get(wait.command)
        first = self._first_behind(wait.command) if made is None else kernel.find(made)
        return None if first is None else find_cycle(kernel, invocation, first)

    def _first_behind(self, index: int) -> Invocation | None:
        """Whom a wait that begins in the turn that asks for it would have to wait for."""
        command = self._context.commands.get(index)
        if type(command) is Attach:
            return self._known_or_made_now(command.id)
        if type(command) is not Call:
            return None
        if type(command.verdict) is Attached:
            return self._known_or_made_now(command.verdict.id)
        return self._holder_for(command)

    def _known_or_made_now(self, id: str) -> Invocation | None:
        made = self._context.made_in_this_turn(id)
        return self._kernel.find(id) if made is None else self._holder_for(made)

    def _holder_for(self, command: Call | Send) -> Invocation | None:
        entry = self._kernel.entry(command.service, command.key) if command.exclusive else None
        return None if entry is None or entry.holder is None else self._kernel.find(entry.holder)

    # --- what the turn did ----------------------------------------------------------------------------------------

    def _collect(self, at: int) -> Turn | None:
        context = self._context
        outcome, keep = self._outcome() if self._ended else (None, True)
        writes: dict[str, bytes] = {}
        entries: list[tuple[str, bytes, bytes | None]] = []
        lengths: dict[str, int] = {}
        if keep:
            try:
                writes = self._state.collect_writes()
                if self._service.collections:
                    entries, lengths = self._state.collect_entries()
                if self._migrated is not None:
                    writes, entries, lengths = _with_migrated(self._migrated, writes, entries, lengths)
            except Exception as error:
                raise self._refusal(error) from error
        wrote = bool(writes or entries or lengths)
        version = self._version_written() if keep and (wrote or self._migrated is not None) else None
        commands = self._commands(context, outcome, keep=keep)
        reads = {} if outcome is not None or self._read is None else self._read.reads
        patched, gave_up = context.patched_now, context.gave_up
        if patched or gave_up:
            context.patched_now, context.gave_up = (), False
        told = context.attempt > 1 and context.attempt_was_read  # a replay has to tell it the same
        if version is not None:
            wrote, self._migrated = True, None
        if outcome is None and not (wrote or commands or reads or self._deadlocked or patched or told):
            return None
        return Turn(
            at,
            self.invocation.id,
            self.number + 1,
            self.position,
            writes,
            commands,
            outcome,
            reads,
            self._deadlocked,
            list(patched),
            gave_up,
            context.attempt,
            self._expires(at) if wrote else None,
            entries,
            lengths,
            version,
        )

    def _expires(self, at: int) -> int | None:
        seconds = self._service.lifetimes.time_to_live_seconds
        return None if seconds is None else at + round(seconds * 1e6)

    def _commands(self, context: HandlerContext, outcome: Outcome | None, *, keep: bool) -> list[Command]:
        context.new_waits.clear()
        if not context.commands:
            return []
        commands, context.commands = list(context.commands.values()), {}
        if not keep:
            # What this turn did is undone, but what it stopped waiting for must not run on.
            return [command for command in commands if type(command) in (CancelCall, CancelStep)]
        if len(commands) > self._settings.turn_commands_max:
            raise TurnRefused(_too_many(len(commands), self._settings.turn_commands_max))
        if outcome is not None:
            return [command for command in commands if type(command) is not PeekPromise]
        return commands

    def _outcome(self) -> tuple[Outcome, bool]:
        """How the handler ended, and whether what its last turn did stays."""
        main = self._main
        assert main is not None
        if main.cancelled():
            if not self._cancelled:
                raise TurnRefused(asyncio.CancelledError("raised by the handler, though nobody had cancelled it"))
            return CANCELLED, True
        error = main.exception()
        if error is None and self._handler.stream:
            return _NO_MORE, True
        if error is None:
            try:
                return Success(self._handler.encode_result(main.result())), True
            except TerminalError as unfit:
                return Failed(failure_of(unfit)), False
        if not is_terminal(error):
            raise self._refusal(error) from error
        if isinstance(error, _UnfitItem):
            return Failed(failure_of(error.cause)), False
        rolls_back = not _all_said_so(error) or (bool(self._deadlocked) and _has_deadlock(error))
        return Failed(failure_of(error)), self._context.undone or not rolls_back

    def never_awaited(self) -> list[str]:
        return [words_for(call.subject) for call in self._context.unawaited.values()]

    # --- state ----------------------------------------------------------------------------------------------------

    def _load_own(self, field: str) -> bytes | None:
        """What the field was when the invocation started."""
        history = self.invocation.history
        if history is not None and field in history.before:
            return history.before[field]
        key = (self.invocation.service, self.invocation.key)
        entry = self._kernel.objects.get(key) or self._kernel.entry(*key)
        return None if entry is None else entry.fields.get(field)

    def _entry(self) -> ObjectEntry | None:
        key = (self.invocation.service, self.invocation.key)
        return self._kernel.objects.get(key) or self._kernel.entry(*key)

    def _bring_up_to_date(self) -> None:
        """What an older version of the class stored is migrated before the handler's first line, in its turn.

        A replay does what its record says: an invocation that began before the class changed is not migrated.
        """
        service, recorded, invocation = self._service, self._recorded, self.invocation
        entry = self._entry()
        if entry is None or (recorded is None and of_form(entry, service)):
            return
        stored = start_of(self._kernel, invocation, self._load_own)
        if entry.stored_version > service.version:
            stored = replace(stored, version=entry.stored_version)
        elif recorded is not None and recorded.version is None:
            stored = replace(stored, version=service.version)
        self._migrated = brought_up_to_date(service, invocation.key, stored)
        if self._migrated is not None:
            self._state.begin_from(self._migrated.load, self._migrated)

    def _version_written(self) -> int | None:
        """What the record of a turn that wrote says of the state's version: nothing if that is what it was, or 1."""
        if self._recorded is not None:
            return self._recorded.version
        version = self._service.version
        if self._migrated is not None:
            return version
        if version == 1:
            return None
        entry = self._entry()
        return version if entry is None or not entry.stored_version else None

    def _refusal(self, cause: BaseException) -> TurnRefused:
        """State that can't be read pauses the invocation, whatever else went wrong beside it."""
        unreadable = next((leaf for leaf in _leaves(cause) if isinstance(leaf, UnreadableState)), None)
        if unreadable is None:
            return TurnRefused(cause)
        entry = self._entry()
        stored, version = 1 if entry is None else entry.version, self._service.version
        said = UnreadableState(f"{unreadable} (stored: version {stored} of the class; this code: version {version})")
        said.__cause__ = unreadable.__cause__
        return TurnRefused(said)


def _with_migrated(
    migrated: Migrated,
    writes: dict[str, bytes],
    entries: list[tuple[str, bytes, bytes | None]],
    lengths: dict[str, int],
) -> tuple[dict[str, bytes], list[tuple[str, bytes, bytes | None]], dict[str, int]]:
    """What a turn wrote after it had migrated, together with that; of both on the same, what it wrote."""
    merged = {(field, entry): value for field, entry, value in (*migrated.entries, *entries)}
    both = [(*at, value) for at, value in merged.items()]
    return {**migrated.writes, **writes}, both, {**migrated.lengths, **lengths}


class _UnfitItem(TerminalError):
    """A stream yielded what can't be encoded: as with a result like that, its last turn is undone."""

    def __init__(self, cause: TerminalError) -> None:
        super().__init__(text_of(cause))
        self.cause = cause


async def _sent_out(items: AsyncIterator[Any], handler: HandlerDefinition, context: HandlerContext) -> None:
    async for item in items:
        try:
            value = handler.encode_result(item)
        except TerminalError as unfit:
            raise _UnfitItem(unfit) from unfit
        context.emit(value)
        if context.emitted >= _ITEMS_OF_A_TURN_MAX:
            await asyncio.sleep(_NEXT_TURN_SECONDS)


async def _with_timeout(coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
    async with asyncio.timeout(seconds):
        return await coroutine


def _all_said_so(error: BaseException) -> bool:
    """Whether all that ended the handler are TerminalErrors or cancellation; a timeout or InvalidKey keeps nothing."""
    return all(isinstance(leaf, TerminalError | asyncio.CancelledError) for leaf in _leaves(error))


def _has_deadlock(error: BaseException) -> bool:
    return any(isinstance(leaf, DeadlockError) for leaf in _leaves(error))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors of a group, and of groups in it; of any other just itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _too_many(asked: int, limit: int) -> Exception:
    return RuntimeError(
        f"one turn asked for {asked} calls, messages and timers, the limit is {limit}: await in between"
    )


def difference_of(recorded: Turn, replayed: Turn) -> str | None:
    """Both sides of the first difference, for the person whose code changed."""
    for was, is_ in zip(recorded.commands, replayed.commands, strict=False):
        if was != is_:
            return divergence(was, is_)
    longer = max(recorded.commands, replayed.commands, key=len)
    shorter = min(len(recorded.commands), len(replayed.commands))
    if len(longer) > shorter:
        side = "the journal has" if longer is recorded.commands else "the code now does"
        other = "the code now does nothing" if longer is recorded.commands else "the journal has nothing"
        return f"{side} {describe_part(longer[shorter])}, {other} there"
    if recorded.writes != replayed.writes:
        return _difference_of_writes(recorded.writes, replayed.writes)
    if recorded.entries != replayed.entries or recorded.lengths != replayed.lengths:
        return _difference_of_entries(recorded, replayed)
    if replayed.outcome is not None:
        return f"the journal goes on, the code now ends with {describe_part(replayed.outcome)}"
    return None if recorded.version == replayed.version else _difference_of_versions(recorded, replayed)


def _difference_of_versions(recorded: Turn, replayed: Turn) -> str:
    was, is_ = ("as it was" if side.version is None else side.version for side in (recorded, replayed))
    return f"the journal left the version of the state {was}, the code now leaves it {is_}"


def _difference_of_entries(recorded: Turn, replayed: Turn) -> str:
    for was, is_ in zip_longest(recorded.entries, replayed.entries):
        if was != is_:
            return f"the journal {_said_of_entry(was, 'wrote')}, the code now {_said_of_entry(is_, 'writes')}"
    fields = sorted({*recorded.lengths, *replayed.lengths})
    field = next(f for f in fields if recorded.lengths.get(f) != replayed.lengths.get(f))
    had, has = (side.lengths.get(field, "as many as before") for side in (recorded, replayed))
    return f"the journal left {had} entries in {field}, the code now leaves {has}"


def _said_of_entry(change: tuple[str, bytes, bytes | None] | None, wrote: str) -> str:
    if change is None:
        return f"{wrote} no entry there"
    field, name, value = change
    shown = "nothing" if value is None else value.decode(errors="replace")
    return f"{wrote} {shown} to {field}[{label_of(name)}]"


def _difference_of_writes(recorded: dict[str, bytes], replayed: dict[str, bytes]) -> str:
    field = next(f for f in sorted({*recorded, *replayed}) if recorded.get(f) != replayed.get(f))
    was, is_ = (
        "nothing" if (data := side.get(field)) is None else data.decode(errors="replace") or "no value any more"
        for side in (recorded, replayed)
    )
    return f"the journal wrote {was} to {field}, the code now writes {is_}"

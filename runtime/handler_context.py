"""The context a handler sees, and what one turn of it asks for.

Everything user code asks becomes a *command* with the next number, made where it is written and committed when the
turn is.  In a replay the same code makes the same commands under the same numbers: each is compared with the recorded
one where it is made, so that a difference shows in the line that makes it, and verdicts that had to look at the kernel
come from the recorded turn.

This file knows neither the journal nor the scheduler: execution.py runs the turns and takes the commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from types import MappingProxyType
from typing import Any, NoReturn, Protocol
from uuid import UUID

from perdure.objects.context import Awakeable as AwakeableType
from perdure.objects.context import Handle, Promise, WorkflowContext
from perdure.objects.context import Invocation as InvocationInfo
from perdure.objects.context import Signal as SignalType
from perdure.objects.definitions import Kind, ServiceDefinition
from perdure.objects.durations import seconds_of
from perdure.objects.errors import Failure, InvalidArguments, TerminalError, exception_of, is_terminal
from perdure.objects.references import Target
from perdure.objects.values import Codec, Unencodable, codec_of, same_value

from . import identity
from .invocations import RUN_ONCE, Invocation
from .kernel import Kernel
from .record_lines import divergence
from .records import (
    Attach,
    Attached,
    AwaitPromise,
    Awakeable,
    Call,
    Cancel,
    CancelCall,
    CancelStep,
    CancelTimer,
    Command,
    Complete,
    CompletePromise,
    Failed,
    Outcome,
    PeekPromise,
    Receive,
    Refused,
    Run,
    Send,
    Signal,
    Success,
    Timer,
    Turn,
    Verdict,
    Yield,
)
from .registry import Registry
from .step_calls import StepCall
from .turn_loop import TurnLoop, TurnTimer
from .waits import HandlerAwakeable, HandlerPromise, HandlerSignal, Listener, Owned, Stream, Wait, words_for

_running_loop = asyncio._get_running_loop


class OutsideTurn(RuntimeError):
    """The context or the state was used where no turn of its handler runs."""


class World(Protocol):
    """What a handler's context asks of the partition around it, beside the kernel's state."""

    kernel: Kernel
    registry: Registry

    @property
    def call_depth_max(self) -> int: ...

    def why_not_completed(self, id: str, outcome: Outcome) -> Failure | None:
        """Why the awakeable `id` does not take `outcome`; None if it does, or holds it already."""
        ...

    def why_not_signalled(self, id: str, name: str, outcome: Outcome) -> Failure | None:
        """Why the invocation `id` does not take the signal; None if it does."""
        ...

    def is_last_attempt(self, invocation: Invocation, error: BaseException) -> bool:
        """Whether `error`, failing the turn now, would end the invocation for good."""
        ...


class HandlerContext(WorkflowContext):
    """One run of one handler.  Dead as soon as that run was dropped: then everything raises HandlerDropped."""

    # What few handlers ever touch stands here, in the class, until it is set: each request makes one of these.
    patched_now: Sequence[str] = ()
    patches: Mapping[str, bool] = MappingProxyType({})
    gave_up = False
    undone = False
    emitted = 0  # items in this turn
    attempt = 1
    attempt_was_read = False
    diverged: str | None = None
    on_divergence: Callable[[str], None] | None = None
    _count = 0
    _uuids = 0
    _random: Random | None = None
    _recorded: Turn | None = None
    _recorded_commands: Mapping[int, Command] = MappingProxyType({})

    def __init__(self, invocation: Invocation, service: ServiceDefinition, world: World) -> None:
        self.loop: TurnLoop  # put in by the execution: the loop needs its port for timers, which is this
        self.current = invocation
        self.commands: dict[int, Command] = {}
        self.waiting: dict[int, Wait | TurnTimer | Stream] = {}
        self.new_waits: list[tuple[Wait, object]] = []
        self.unawaited: dict[int, Owned] = {}
        self.steps: dict[int, StepCall] = {}
        self.codecs: dict[int, Codec] = {}
        self._service = service
        self._world = world
        self._promises: dict[str, Outcome] = {}

    @property
    def _outbound(self) -> _Outbound:  # type: ignore[override]  # made when asked for: kept, it would be a cycle
        return _Outbound(self)

    # --- time, chance, identity -----------------------------------------------------------------------------------

    def now(self) -> datetime:
        self.check()
        return _datetime_of(self.loop.now_us)

    @property
    def random(self) -> Random:
        self.check()
        if self._random is None:
            self._random = identity.random_of(self.current.seed)
        return self._random

    def uuid(self) -> UUID:
        self.check()
        self._uuids += 1
        return identity.uuid_of(self.current.seed, self._uuids)

    @property
    def invocation(self) -> InvocationInfo:
        self.check()
        self.attempt_was_read = True
        return _info_of(self.current, self.attempt)

    def sleep(
        self, length: float | timedelta | None = None, /, *, until: datetime | None = None
    ) -> Coroutine[object, None, None]:
        self.check()
        if (length is None) == (until is None):
            raise TypeError("sleep takes a length or until=, one of them")
        if until is None:
            return asyncio.sleep(seconds_of(length, "sleep"))
        if until.tzinfo is None:
            raise ValueError("sleep(until=…) needs an aware datetime: ctx.now() + timedelta(…) is one")
        return asyncio.sleep(max(0.0, until.timestamp() - self.loop.time()))

    def patched(self, name: str) -> bool:
        """An invocation keeps to the way that its first look recorded."""
        self.check()
        name = plain_text(name, "patched")
        if name not in self.patches:
            new_way = self._recorded is None or name in self._recorded.patched
            self.patches = {**self.patches, name: new_way}
            if new_way:
                self.patched_now = (*self.patched_now, name)
        return self.patches[name]

    def _ends_with(self, exc: BaseException) -> bool:
        """Recorded, since a replay doesn't know which attempt it was."""
        if is_terminal(exc):
            return True
        last = self._world.is_last_attempt(self.current, exc) if self._recorded is None else self._recorded.gave_up
        self.gave_up = self.gave_up or last
        return last

    def _has_undone(self) -> None:
        self.undone = True

    # --- steps ----------------------------------------------------------------------------------------------------

    # Any: the overloads of the base class say it.
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.check()
        call = StepCall(fn, args, kwargs, stream=False)
        index = self._next_index()
        self._ask(Run(index, call.name, call.arguments))
        self.steps[index] = call
        return self._owned(index, f"step {call.name}", call.decode)

    def stream(self, fn: Callable[..., AsyncIterator[Any]], /, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        self.check()
        call = StepCall(fn, args, kwargs, stream=True)
        index = self._next_index()
        self._ask(Run(index, call.name, call.arguments, True))
        self.steps[index] = call
        stream = self.waiting[index] = Stream(self, index, f"step {call.name}", call.decode)
        return stream

    def emit(self, value: bytes) -> None:
        """The next item of the handler, which is a stream."""
        self._ask(Yield(self._next_index(), value))
        self.emitted += 1

    # --- awakeables, signals, promises ----------------------------------------------------------------------------

    def awakeable(self, type: Any, /) -> AwakeableType[Any]:
        self.check()
        codec = codec_of(type)
        index = self._next_index()
        self._ask(Awakeable(index))
        self.codecs[index] = codec
        id = identity.awakeable_id(self.current.seed, index)
        return HandlerAwakeable(id, self._listener(index, f"awakeable {id}", _given(codec, f"awakeable {id}")))

    def resolve_awakeable(self, id: str, value: object = None) -> None:
        self._complete(id, Success(_encoded_value(value, "resolve_awakeable")))

    def reject_awakeable(self, id: str, reason: str) -> None:
        self._complete(id, rejection(reason))

    def _complete(self, id: str, outcome: Outcome) -> None:
        self.check()
        id = plain_text(id, "the id of an awakeable")
        index = self._next_index()
        self._ask_with_verdict(Complete(index, id, outcome, self._verdict_on_completion(index, id, outcome)))

    def signal(self, name: str, type: Any, /) -> SignalType[Any]:
        self.check()
        codec = codec_of(type)
        name = plain_text(name, "signal")
        index = self._next_index()
        self._ask(Receive(index, name))
        self.codecs[index] = codec
        return HandlerSignal(self._listener(index, f"signal {name}", _given(codec, f"signal {name}")))

    def send_signal(self, id: str, name: str, outcome: Outcome) -> None:
        self.check()
        name = plain_text(name, "signal")
        index = self._next_index()
        self._ask_with_verdict(Signal(index, id, name, outcome, self._verdict_on_signal(index, id, name, outcome)))

    def promise(self, name: str, type: Any, /) -> Promise[Any]:
        self.check()
        name = plain_text(name, "promise")
        if self._service.kind is not Kind.WORKFLOW:
            raise TypeError(f"{self._service.name} is no Workflow, and only those have promises: use an awakeable")
        declared = self._service.promises.get(name, type)
        codec = codec_of(declared)
        return HandlerPromise(self, name, codec.unpack, codec.pack_checked)

    def await_promise(self, name: str) -> Wait:
        self.check()
        index = self._next_index()
        self._ask(AwaitPromise(index, name))
        return self._wait(index, owned=False)

    def resolve_promise(self, name: str, encode: Callable[[], bytes]) -> None:
        self.check()
        try:
            value = encode()
        except Unencodable as error:
            raise TerminalError(f"promise {name} does not take this value: {error}", status=400) from None
        self._complete_promise(name, Success(value))

    def reject_promise(self, name: str, reason: str) -> None:
        self.check()
        self._complete_promise(name, rejection(reason))

    def peek_promise(self, name: str) -> Outcome | None:
        self.check()
        index = self._next_index()
        recorded = self._recorded_commands.get(index)
        outcome = recorded.outcome if isinstance(recorded, PeekPromise) else self._promise_outcome(name)
        self._ask(PeekPromise(index, name, outcome))
        return outcome

    def _complete_promise(self, name: str, outcome: Outcome) -> None:
        index = self._next_index()
        verdict = None
        if self._recorded is not None:
            verdict = self._recorded_verdict(index)
        elif (held := self._promise_outcome(name)) is not None and not same_outcome(held, outcome):
            verdict = _refused(f"promise {name} was completed before, otherwise", 409)
        self._promises.setdefault(name, outcome)
        self._ask_with_verdict(CompletePromise(index, name, outcome, verdict))

    def _promise_outcome(self, name: str) -> Outcome | None:
        held = self._world.kernel.promise(self._service.name, self.current.key, name)
        return held if held is not None else self._promises.get(name)

    # --- other invocations ----------------------------------------------------------------------------------------

    def handle(self, id: str, type: Any = Any, /) -> Handle[Any]:
        self.check()
        return HandlerHandle(self, plain_text(id, "handle"), codec_of(type).unpack)

    def call(self, target: Target) -> Coroutine[object, None, Any]:
        """For references: a durable call, made now."""
        return self._owned(self._called(target), target, target.handler.decode_result)

    def stream_of(self, target: Target) -> AsyncIterator[Any]:
        """For references: the items of a durable call, made now."""
        index = self._called(target)
        stream = self.waiting[index] = Stream(self, index, target, target.handler.decode_result)
        return stream

    def _called(self, target: Target) -> int:
        self.check()
        index = self._next_index()
        key = _idempotency_key_of(target)
        handler = target.handler
        headers = headers_of(target)
        self._ask_with_verdict(
            Call(
                index,
                target.service.name,
                target.key,
                handler.name,
                handler.exclusive,
                target.arguments,
                key,
                headers,
                self._verdict_on_target(index, target, key),
                handler.stream,
            )
        )
        return index

    def send_message(self, target: Target, delay: float | timedelta | None) -> Handle[Any]:
        """For references: a message, part of the turn."""
        self.check()
        seconds = 0.0 if delay is None else seconds_of(delay, "send_after")
        index = self._next_index()
        key = _idempotency_key_of(target)
        handler = target.handler
        verdict = self._verdict_on_target(index, target, key)
        self._ask_with_verdict(
            Send(
                index,
                target.service.name,
                target.key,
                handler.name,
                handler.exclusive,
                target.arguments,
                key,
                headers_of(target),
                verdict,
                self.loop.now_us + round(seconds * 1e6) if seconds else None,
            )
        )
        if type(verdict) is Attached:
            return HandlerHandle(self, verdict.id, target.handler.decode_result)
        id, _ = identity.child(self.current.seed, index, target.service.name, target.key)
        return HandlerHandle(self, id, target.handler.decode_result)

    def attach(self, id: str) -> Wait:
        self.check()
        index = self._next_index()
        self._ask(Attach(index, id))
        return self._wait(index, owned=False)

    def cancel(self, id: str) -> None:
        self.check()
        self._ask(Cancel(self._next_index(), id))

    # --- verdicts: what had to look at the kernel -----------------------------------------------------------------

    def _verdict_on_target(self, index: int, target: Target, idempotency_key: str | None) -> Verdict | None:
        if self._recorded is not None:
            return self._recorded_verdict(index)
        served = self._world.registry.services.get(target.service.name)
        if served is None or target.handler.name not in served.handlers:
            return _refused(
                f"{words_for(target)} is not served by this process: name its module to `perdure serve`", 404
            )
        if self.current.depth >= self._world.call_depth_max:
            return _refused(f"{words_for(target)}: calls are nested {self.current.depth} deep, which is the limit", 409)
        if served is not target.service:  # else encoding has proved that they fit
            try:
                served.handlers[target.handler.name].decode_arguments(target.arguments)
            except InvalidArguments as error:
                return _refused(f"{words_for(target)}: {error}", 400)
        return None if idempotency_key is None else self._verdict_on_key(target, idempotency_key)

    def _verdict_on_key(self, target: Target, idempotency_key: str) -> Verdict | None:
        wanted = (target.service.name, target.key, target.handler.name, idempotency_key)
        existing = self._world.kernel.find_by_idempotency_key(*wanted)
        if existing is not None:
            id, arguments = existing.id, existing.arguments
        else:
            made = self._made_under_key(wanted)
            if made is None:
                return None
            id, _ = identity.child(self.current.seed, made.index, made.service, made.key)
            arguments = made.arguments
        if same_value(arguments, target.arguments):
            return Attached(id)
        if idempotency_key == RUN_ONCE:
            return _refused(f"{words_for(target)} was started before, with other arguments: nothing was done", 409)
        return _refused(f"the idempotency key {idempotency_key!r} was used with other arguments: nothing was done", 409)

    def _made_under_key(self, wanted: tuple[str, str, str, str]) -> Call | Send | None:
        made = (command for command in self.commands.values() if isinstance(command, Call | Send))
        for command in made:
            target = (command.service, command.key, command.handler, command.idempotency_key)
            if command.verdict is None and target == wanted:
                return command
        return None

    def _verdict_on_completion(self, index: int, id: str, outcome: Outcome) -> Verdict | None:
        if self._recorded is not None:
            return self._recorded_verdict(index)
        made: int | None = None  # what this turn did is not in the kernel yet
        for command in self.commands.values():
            if isinstance(command, Awakeable) and identity.awakeable_id(self.current.seed, command.index) == id:
                made = command.index
            elif isinstance(command, Complete) and command.id == id and command.verdict is None:
                same = same_outcome(command.outcome, outcome)
                return None if same else _refused(f"awakeable {id} was completed before, otherwise", 409)
        if made is not None:
            problem = self.why_unfit(made, outcome.value) if isinstance(outcome, Success) else None
            return None if problem is None else _refused(f"awakeable {id} does not take this value: {problem}", 400)
        failure = self._world.why_not_completed(id, outcome)
        return None if failure is None else Refused(failure)

    def _verdict_on_signal(self, index: int, id: str, name: str, outcome: Outcome) -> Verdict | None:
        if self._recorded is not None:
            return self._recorded_verdict(index)
        if self.made_in_this_turn(id) is not None or id == self.current.id:
            return None
        failure = self._world.why_not_signalled(id, name, outcome)
        return None if failure is None else Refused(failure)

    def why_unfit(self, command: int, value: bytes) -> str | None:
        """Why the awakeable or signal that `command` asked for can't hold `value`."""
        codec = self.codecs.get(command)
        if codec is None:
            return None
        try:
            codec.unpack_hostile(value)
        except InvalidArguments as error:
            return str(error)
        return None

    def made_in_this_turn(self, id: str) -> Call | Send | None:
        """The command that makes the invocation `id` when the turn is committed."""
        for command in self.commands.values():
            if isinstance(command, Call | Send) and command.verdict is None:
                made, _ = identity.child(self.current.seed, command.index, command.service, command.key)
                if made == id:
                    return command
        return None

    def _recorded_verdict(self, index: int) -> Verdict | None:
        verdict: Verdict | None = getattr(self._recorded_commands.get(index), "verdict", None)
        return verdict

    # --- TimerPort: what asyncio asks -----------------------------------------------------------------------------

    def arm(self, handle: TurnTimer) -> None:
        self.check()
        handle.command = index = self._next_index()
        self._ask(Timer(index, handle.when_us))
        self.waiting[index] = handle

    def disarm(self, handle: TurnTimer) -> None:
        if self.waiting.pop(handle.command, None) is not None and self.commands.pop(handle.command, None) is None:
            self._ask(CancelTimer(self._next_index(), handle.command))

    # --- for waits and executions ---------------------------------------------------------------------------------

    def cut(self) -> None:
        """The run is over: what still waits leads back here, and would be left to the collector."""
        self.waiting.clear()
        self.unawaited.clear()
        self.steps.clear()
        self.new_waits.clear()

    def begin_turn(self, recorded: Turn | None) -> None:
        if self.emitted:
            self.emitted = 0
        self.attempt_was_read = False
        self.attempt = self.current.attempts + 1 if recorded is None else recorded.attempt
        if recorded is not self._recorded:
            self._recorded = recorded
            self._recorded_commands = {} if recorded is None else {each.index: each for each in recorded.commands}
        if self._promises:
            self._promises = {}
        if self.undone:
            self.undone = False

    def check(self) -> None:
        """Before everything user code does: raises HandlerDropped or OutsideTurn."""
        loop = self.loop
        if _running_loop() is not loop:  # threads and others' handlers may come while its turn runs, or it is dead
            raise OutsideTurn(
                f"the context or state of {self.current.target} was used outside of its handler's turn: nothing was "
                "done. A step, a thread and another handler take what they need as arguments"
            )
        if loop.dead or loop.ended:
            loop.dead_end()

    def begin_wait(self, wait: Wait, name: object) -> None:
        """Only what waits for an invocation can close a cycle."""
        if wait.command not in self.steps and wait.command not in self.codecs:
            self.new_waits.append((wait, name))

    def wait_was_cancelled(self, command: int) -> None:
        """A call or step made and cancelled in one turn was never made; unless another one may be attached to it."""
        if self.loop.dead:
            return
        self.waiting.pop(command, None)
        step = self.steps.pop(command, None)
        made = self.commands.get(command)
        if made is not None and not self._is_attached_to(made):
            del self.commands[command]
        else:
            index = self._next_index()
            self._ask(CancelCall(index, command) if step is None else CancelStep(index, command))

    def _is_attached_to(self, made: Command) -> bool:
        """Whether another command of this turn counts on the invocation that `made` makes.

        A replay goes by whether it was recorded: the other one may itself have been cancelled, after this one.
        """
        if self._recorded is not None:
            return made.index in self._recorded_commands
        if not isinstance(made, Call) or made.idempotency_key is None:
            return False
        id, _ = identity.child(self.current.seed, made.index, made.service, made.key)
        verdicts = (getattr(command, "verdict", None) for command in self.commands.values())
        return any(isinstance(verdict, Attached) and verdict.id == id for verdict in verdicts)

    def refuse_wait(self, wait: Wait, failure: Failure) -> None:
        """A wait that would never end doesn't begin, so what it would have waited for isn't asked for either."""
        if wait.owned:
            self.wait_was_cancelled(wait.command)
        elif self.commands.pop(wait.command, None) is not None:
            del self.waiting[wait.command]
        wait.set_result(Failed(failure))

    def _next_index(self) -> int:
        self._count += 1
        return self._count

    def _ask(self, command: Command) -> None:
        recorded = self._recorded_commands.get(command.index)
        if recorded is not None and recorded != command:
            self.diverge(divergence(recorded, command))
        self.commands[command.index] = command

    def _ask_with_verdict(self, command: Call | Send | Complete | Signal | CompletePromise) -> None:
        """A refused command is recorded too, and raises where it is made."""
        self._ask(command)
        if type(command.verdict) is Refused:
            raise exception_of(command.verdict.failure)

    def diverge(self, difference: str) -> NoReturn:
        """A flag first and an exception second: code that catches the exception gains nothing."""
        self.diverged = difference
        if self.on_divergence is not None:
            self.on_divergence(difference)
        self.loop.dead = True
        self.loop.dead_end()
        raise AssertionError("unreachable")

    def _wait(self, index: int, *, owned: bool) -> Wait:
        wait = self.waiting[index] = Wait(self, index, owned=owned)
        return wait

    def _owned(self, index: int, name: object, decode: Callable[[bytes], Any]) -> Owned:
        owned = Owned(name, self._wait(index, owned=True), decode)
        self.unawaited[index] = owned
        return owned

    def _listener(self, index: int, name: object, decode: Callable[[bytes], Any]) -> Listener:
        return Listener(name, self._wait(index, owned=False), decode)


class _Outbound:
    """Where a handler's references go: the context's own names are its users'."""

    __slots__ = ("_context",)

    def __init__(self, context: HandlerContext) -> None:
        self._context = context

    def call(self, target: Target) -> Coroutine[object, None, Any]:
        return self._context.call(target)

    def send(self, target: Target, delay: float | timedelta | None) -> Handle[Any]:
        return self._context.send_message(target, delay)

    def stream(self, target: Target) -> AsyncIterator[Any]:
        return self._context.stream_of(target)


class HandlerHandle(Handle[Any]):
    """An invocation, seen from a handler."""

    def __init__(self, context: HandlerContext, id: str, decode: Callable[[bytes], Any]) -> None:
        self._context = context
        self._id = id
        self._decode = decode

    @property
    def id(self) -> str:
        return self._id

    def attach(self) -> Coroutine[object, None, Any]:
        return Listener(self._id, self._context.attach(self._id), self._decode).listen_as_coroutine()

    def cancel(self) -> None:
        self._context.cancel(self._id)

    def signal(self, name: str, value: object) -> None:
        self._context.send_signal(self._id, name, Success(_encoded_value(value, "signal")))

    def reject_signal(self, name: str, reason: str) -> None:
        self._context.send_signal(self._id, name, rejection(reason))


def _idempotency_key_of(target: Target) -> str | None:
    is_run = target.service.kind is Kind.WORKFLOW and target.handler.exclusive
    return RUN_ONCE if is_run else target.idempotency_key


def _datetime_of(at_us: int) -> datetime:
    return datetime.fromtimestamp(at_us / 1e6, UTC)


def _info_of(invocation: Invocation, attempt: int) -> InvocationInfo:
    info = InvocationInfo()
    info.id = invocation.id
    info.attempt = attempt
    info.caller = invocation.parent
    info.headers = dict(invocation.headers or {})
    info.idempotency_key = None if invocation.idempotency_key == RUN_ONCE else invocation.idempotency_key
    info.created_at = _datetime_of(invocation.created_at)
    return info


def plain_text(value: object, what: str) -> str:
    """`value`, if it is text that can be recorded; TypeError or ValueError says what is not."""
    if not isinstance(value, str):
        raise TypeError(f"{what} takes text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what}: {value!r} has a lone surrogate and can't be recorded") from None
    return str(value)


def headers_of(target: Target) -> dict[str, str] | None:
    if target.headers is None:
        return None
    return {
        plain_text(name, "a header's name"): plain_text(value, f"header {name}")
        for name, value in target.headers.items()
    }


ANY_JSON = Codec(Any)


def _given(codec: Codec, what: str) -> Callable[[bytes], Any]:
    """What came from outside and does not fit is an outcome: to try again would not make it fit."""

    def decode(data: bytes) -> Any:
        try:
            return codec.unpack_hostile(data)
        except InvalidArguments as error:
            raise TerminalError(f"{what} was given a value of another type: {error}", status=400) from None

    return decode


def _encoded_value(value: object, what: str) -> bytes:
    try:
        return ANY_JSON.pack_checked(value)
    except Unencodable as error:
        raise TypeError(f"{what} can't send this value: {error}") from None


def rejection(reason: str) -> Failed:
    """What a reason for not giving a value comes to.  Raises TypeError or ValueError for one that is none."""
    reason = plain_text(reason, "a rejection")
    if not reason.strip():
        raise ValueError("a rejection needs a reason: whoever waits gets it as the message of a TerminalError")
    return Failed(Failure("TerminalError", reason, 500))


def _refused(message: str, status: int) -> Refused:
    return Refused(Failure("TerminalError", message, status))


def same_outcome(one: Outcome, other: Outcome) -> bool:
    if isinstance(one, Success) and isinstance(other, Success):
        return same_value(one.value, other.value)
    return one == other

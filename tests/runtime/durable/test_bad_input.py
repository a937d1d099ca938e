"""What goes wrong in a handler's hands: each a clear error that says what to do, and nothing is done."""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

import pytest
from structlog.typing import EventDict

from perdure.objects import Context, Service, TerminalError, VirtualObject, Workflow, handler, shared, step
from perdure.runtime import Refused

if TYPE_CHECKING:
    from tests.runtime.durable.conftest import World

    Worlds = Callable[..., World]


class Kept:
    """What a handler let out, and futures of another loop."""

    context: ClassVar[Context]
    future: ClassVar[asyncio.Future[int]]
    tried: ClassVar[list[str]]


async def fetch(url: str) -> str:
    return url


async def words() -> AsyncIterator[str]:
    yield "a"


class NotAFunction:
    text = "x"


class Careless(VirtualObject):
    count: int = 0

    @handler
    async def tries(self, kind: str) -> str:
        """The exception's name and words; what isn't an exception of the program goes on to its turn."""
        try:
            await getattr(self, kind)()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "nothing happened"

    @handler
    async def raises(self, kind: str) -> None:
        self.count += 1
        await getattr(self, kind)()

    @shared
    async def other(self) -> int:
        return self.count

    def method(self) -> int:
        return self.count

    async def coroutine_object(self) -> None:
        running = fetch("x")
        try:
            await self.ctx.run(running)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
        finally:
            running.close()

    async def bound_method(self) -> None:
        await self.ctx.run(self.method)

    async def partial_of_a_method(self) -> None:
        await self.ctx.run(functools.partial(self.method))

    async def nameless_lambda(self) -> None:
        await self.ctx.run(lambda: 1)

    async def named_lambda(self) -> None:
        await self.ctx.run(step(lambda: 1, name="one"))

    async def references_handler(self) -> None:
        await self.ctx.run(self.ctx.ref(Careless, "x").other)

    async def own_handler(self) -> None:
        await self.ctx.run(self.other)

    async def no_function(self) -> None:
        await self.ctx.run(NotAFunction())  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]

    async def generator_as_step(self) -> None:
        await self.ctx.run(words)

    async def function_as_stream(self) -> None:
        async for _ in self.ctx.stream(fetch, "x"):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportUnknownVariableType]
            pass

    async def unencodable_argument(self) -> None:
        await self.ctx.run(fetch, object())  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]

    async def negative_sleep(self) -> None:
        await self.ctx.sleep(-1)

    async def negative_timedelta(self) -> None:
        await self.ctx.sleep(timedelta(seconds=-1))

    async def endless_sleep(self) -> None:
        await self.ctx.sleep(float("inf"))

    async def no_number_sleep(self) -> None:
        await self.ctx.sleep(float("nan"))

    async def naive_until(self) -> None:
        await self.ctx.sleep(until=datetime(2030, 1, 1))

    async def two_lengths(self) -> None:
        await self.ctx.sleep(1, until=self.ctx.now())  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]

    async def negative_delay(self) -> None:
        self.ctx.ref(Careless, "x").tries.send_after(-5, "x")

    async def rejection_without_reason(self) -> None:
        self.ctx.reject_awakeable(self.ctx.awakeable(int).id, "  ")

    async def signal_rejection_without_reason(self) -> None:
        self.ctx.handle(self.ctx.invocation.id).reject_signal("n", "")

    async def unencodable_signal(self) -> None:
        self.ctx.handle(self.ctx.invocation.id).signal("n", object())

    async def unknown_awakeable(self) -> None:
        self.ctx.resolve_awakeable("awk_unknown", 1)

    async def unreadable_awakeable_type(self) -> None:
        self.ctx.awakeable(socket.socket)

    async def promise_in_an_object(self) -> None:
        self.ctx.promise("x", int)  # type: ignore[attr-defined]  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]

    async def state_of_a_reference(self) -> None:
        _ = self.ctx.ref(Careless, "x").count

    async def real_connection(self) -> None:
        await asyncio.open_connection("127.0.0.1", 1)

    async def real_process(self) -> None:
        await asyncio.create_subprocess_exec("true")

    async def in_an_executor(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, print)

    async def in_a_thread(self) -> None:
        await asyncio.to_thread(print)

    async def from_a_thread(self) -> None:
        asyncio.get_running_loop().call_soon_threadsafe(print)

    async def foreign_future(self) -> None:
        await Kept.future

    async def bad_key(self) -> None:
        self.ctx.ref(Careless, "")

    async def context_of_another(self) -> None:
        await Kept.context.sleep(1)

    async def context_in_a_thread(self) -> None:
        context = self.ctx

        def use() -> None:
            try:
                context.now()
            except Exception as error:
                Kept.tried.append(f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        raise RuntimeError(Kept.tried[-1])

    @handler
    async def keeps_its_context(self) -> None:
        Kept.context = self.ctx
        await self.ctx.sleep(1)

    @shared
    async def writes_by_a_detour(self) -> str:
        try:
            setattr(self, "count", 5)  # noqa: B010  (what its source doesn't show)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "written"

    @handler
    async def swallows(self) -> None:
        while True:
            try:
                await self.ctx.sleep(3_600)
            except asyncio.CancelledError:
                continue

    @handler
    async def spins(self) -> None:
        while True:
            await asyncio.sleep(0)


class Plain(Service):
    @handler
    async def tries(self, kind: str) -> str:
        return kind


class Flow(Workflow):
    @handler
    async def run(self) -> None: ...


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    Kept.tried = []
    loop = asyncio.new_event_loop()
    Kept.future = loop.create_future()
    yield
    loop.close()


SAYS = {
    "coroutine_object": "TypeError: a step takes the function, not what it returns: run(",
    "bound_method": "TypeError: method is a method of the object: it would run beside its turn; make it a function",
    "nameless_lambda": 'TypeError: a lambda has no name to be recorded under: run(step(lambda: …, name="',
    "references_handler": "TypeError: a handler is no step: await it, or send to it",
    "own_handler": "TypeError: a handler is no step: await it, or send to it",
    "no_function": "is no function: a step is run(function, argument, …)",
    "generator_as_step": "TypeError: words yields: use `async for item in self.ctx.stream(words, …)`",
    "function_as_stream": "TypeError: fetch does not yield: `stream` takes an async generator function; use run",
    "unencodable_argument": "TypeError: an argument of step fetch can't be recorded",
    "negative_sleep": "ValueError: sleep",
    "negative_timedelta": "ValueError: sleep",
    "endless_sleep": "ValueError: sleep",
    "no_number_sleep": "ValueError: sleep",
    "naive_until": "ValueError: sleep(until=…) needs an aware datetime: ctx.now() + timedelta(…) is one",
    "two_lengths": "TypeError: sleep takes a length or until=, one of them",
    "negative_delay": "ValueError: send_after",
    "rejection_without_reason": "ValueError: a rejection needs a reason",
    "signal_rejection_without_reason": "ValueError: a rejection needs a reason",
    "unencodable_signal": "TypeError: signal can't send this value",
    "unknown_awakeable": "TerminalError: no awakeable awk_unknown: unknown, or no longer retained",
    "unreadable_awakeable_type": "socket",
    "promise_in_an_object": "promise",
    "state_of_a_reference": "count is state of Careless; ask a handler",
    "real_connection": "do I/O in a step: `await self.ctx.run(fetch, url)`",
    "real_process": "do I/O in a step: `await self.ctx.run(fetch, url)`",
    "in_an_executor": "do I/O in a step: `await self.ctx.run(fetch, url)`",
    "in_a_thread": "do I/O in a step: `await self.ctx.run(fetch, url)`",
    "from_a_thread": "in a step: `await self.ctx.run(fetch, url)`",
    "foreign_future": "loop",
    "bad_key": "InvalidKey: ",
    "context_of_another": "OutsideTurn: the context or state of Careless/other/keeps_its_context was used outside of",
    "context_in_a_thread": "OutsideTurn: the context or state of Careless/a/tries was used outside of",
    "partial_of_a_method": "make it a function",
}


@pytest.mark.parametrize("kind", SAYS)
async def test_a_mistake_is_said_where_it_is_made(worlds: Worlds, kind: str) -> None:
    """In the words of what to do; the process and the others are none the worse."""
    world = await worlds(Careless, Plain).start()
    await world.send(world.ref(Careless, "other").keeps_its_context)

    said = await world.call(world.ref(Careless, "a").tries(kind))

    assert SAYS[kind] in said
    assert not world.runtime.engine.failed.done()
    assert await world.call(world.ref(Plain).tries("x")) == "x"


async def test_a_lambda_with_a_name_is_fine(worlds: Worlds) -> None:
    world = await worlds(Careless).start()
    assert await world.call(world.ref(Careless, "a").tries("named_lambda")) == "nothing happened"


@pytest.mark.parametrize("kind", ["bound_method", "real_connection", "foreign_future"])
async def test_a_mistake_that_nobody_catches_is_an_attempt_that_failed(worlds: Worlds, kind: str) -> None:
    """Nothing of the turn stays; the operator sees what to do."""
    world = await worlds(Careless).start()
    id = await world.send(world.ref(Careless, "a").raises, kind)

    view = world.view(id)
    assert view.status == "backing-off"
    assert view.last_failure is not None
    assert SAYS[kind].split(": ", 1)[-1] in view.last_failure.message
    assert world.fields("Careless", "a") == {}


class Payer(VirtualObject):
    balance: int = 100

    @handler
    async def transfer(self, to: str, amount: int) -> int:
        self.balance -= amount
        self.ctx.ref(Payer, to).deposit.send(amount)
        return self.balance

    @handler
    async def transfer_once(self, to: str, amount: int) -> int:
        self.balance -= amount
        await self.ctx.ref(Payer, "bob").deposit.options(idempotency_key=to)(amount)
        return self.balance

    @handler
    async def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance


@pytest.mark.parametrize("key", ["", "k" * 513, "a\nb"])
@pytest.mark.parametrize("handler_name", ["transfer", "transfer_once"])
async def test_a_key_that_can_be_none_is_an_outcome_and_nothing_of_its_turn_stays(
    worlds: Worlds, key: str, handler_name: str
) -> None:
    """It came with the request: to try again would hold up the object's key until an operator comes."""
    world = await worlds(Payer).start()
    alice = world.ref(Payer, "alice")

    with pytest.raises(TerminalError) as refused:
        await world.call(getattr(alice, handler_name)(key, 30))

    assert refused.value.status == 400
    assert "key" in str(refused.value)
    assert await world.call(alice.deposit(1)) == 101


async def test_a_context_after_its_handler_ended_says_so(worlds: Worlds) -> None:
    world = await worlds(Careless).start()
    id = await world.send(world.ref(Careless, "other").keeps_its_context)
    await world.advance(1)
    assert world.invocation(id).ended

    said = await world.call(world.ref(Careless, "a").tries("context_of_another"))

    assert said.startswith(("OutsideTurn: ", "HandlerDropped: ", "RuntimeError: "))


async def test_a_write_in_a_shared_handler_is_refused_at_run_time_too(worlds: Worlds) -> None:
    world = await worlds(Careless).start()
    said = await world.call(world.ref(Careless, "a").writes_by_a_detour())
    assert "shared" in said
    assert (
        world.runtime.engine.kernel.entry("Careless", "a") is None
        or await world.call(world.ref(Careless, "a").other()) == 0
    )


async def test_a_handler_that_swallows_its_cancellation_can_be_killed(worlds: Worlds) -> None:
    world = await worlds(Careless).start()
    id = await world.send(world.ref(Careless, "a").swallows)
    await world.runtime.engine.operations.cancel(id)
    await world.advance(10)
    assert not world.invocation(id).ended

    await world.runtime.engine.operations.kill(id)

    assert world.invocation(id).ended
    assert await world.call(world.ref(Careless, "a").tries("named_lambda")) == "nothing happened"


async def test_a_handler_that_never_waits_is_stopped_and_said(worlds: Worlds, logged: list[EventDict]) -> None:
    """After so many callbacks in one turn; the failure names the limit."""
    world = await worlds(Careless, callbacks_max=1_000).start()
    id = await world.send(world.ref(Careless, "a").spins)

    failure = world.view(id).last_failure

    assert failure is not None
    assert "1000" in failure.message.replace(",", "")
    await world.runtime.engine.operations.kill(id)


async def test_a_rejection_from_outside_needs_a_reason(worlds: Worlds) -> None:
    world = await worlds(Careless).start()
    for reason in ("", "  \n"):
        with pytest.raises(ValueError, match="a rejection needs a reason"):
            await world.runtime.reject_awakeable("awk_x", reason)
        with pytest.raises(Refused, match="a rejection needs a reason") as refused:
            await world.runtime.engine.operations.reject_awakeable("awk_x", reason)
        assert refused.value.status == 400


@pytest.mark.parametrize("body", [b"{", b"[1,", b"nul", b"\xff\xfe", b'"\\ud800"', b"[" * 10_000, b"1 2", b"NaN"])
async def test_what_is_no_json_is_no_value(worlds: Worlds, body: bytes) -> None:
    world = await worlds(Careless).start()
    id = await world.send(world.ref(Careless, "a").swallows)
    count = len(world.journal.records)

    operations = world.runtime.engine.operations
    with pytest.raises(Refused) as refused:
        await operations.resolve_awakeable("awk_x", body)
    assert refused.value.status == 400
    with pytest.raises(Refused) as refused:
        await operations.resolve_signal(id, "n", body)
    assert refused.value.status == 400
    assert len(world.journal.records) == count

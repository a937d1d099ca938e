"""A turn is a transaction: all it did stands in one record, or none of it happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from perdure.objects import RetryPolicy, Service, TerminalError, VirtualObject, handler, shared
from perdure.runtime.records import Attempted, Call, Failed, Send, Success, Timer, Turn

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]


class Flaky:
    """What the outside does to handlers: lets the first `failures` attempts fail."""

    failures = 0
    attempts = 0

    @classmethod
    def strike(cls) -> None:
        cls.attempts += 1
        if cls.attempts <= cls.failures:
            raise ValueError("not this time")


@pytest.fixture
def flaky() -> type[Flaky]:
    Flaky.failures = Flaky.attempts = 0
    return Flaky


class Item(msgspec.Struct):
    name: str
    tags: list[str] = []


class Box(VirtualObject):
    items: list[Item]
    counts: dict[str, int]
    total: int = 0

    @handler
    async def add(self, amount: int) -> int:
        self.total += amount
        return self.total

    @handler
    async def everything(self) -> str:
        """One turn that writes, sends, calls, sets a timer; and one that ends."""
        self.total += 1
        self.ctx.ref(Box, "sent").add.send(2)
        called = self.ctx.ref(Box, "called").add(3)
        timer = asyncio.create_task(asyncio.sleep(3600))
        result = await called
        timer.cancel()
        return f"called: {result}"

    @handler
    async def fails_at_times(self) -> int:
        self.total += 10
        self.ctx.ref(Box, "sent").add.send(1)
        self.items.append(Item("x"))
        Flaky.strike()
        return self.total

    @handler
    async def fails_in_its_second_turn(self) -> int:
        self.total += 1
        called = await self.ctx.ref(Box, "called").add(1)
        self.total += 10
        self.ctx.ref(Box, "sent").add.send(1)
        Flaky.strike()
        return called

    @handler
    async def refuses(self) -> None:
        self.total += 5
        self.ctx.ref(Box, "sent").add.send(5)
        raise TerminalError("no", status=418, metadata={"why": "tea"})

    @handler
    async def group_refuses(self) -> None:
        self.total += 5
        raise ExceptionGroup("two", [TerminalError("one", status=400), TerminalError("two", status=409)])

    @handler
    async def times_out(self) -> None:
        async with asyncio.timeout(10):
            await asyncio.sleep(1)
            self.total += 5
            try:
                await asyncio.sleep(60)
            finally:
                self.total += 100
                self.ctx.ref(Box, "sent").add.send(5)

    @handler
    async def catches_its_timeout(self) -> str:
        try:
            async with asyncio.timeout(10):
                await asyncio.sleep(60)
        except TimeoutError:
            self.total += 7
        return "late"

    @handler
    async def gives_nonsense(self) -> int:
        self.total += 5
        self.ctx.ref(Box, "sent").add.send(5)
        return "no number"  # type: ignore[return-value]  # that is the story  # pyright: ignore[reportReturnType]

    @handler
    async def changes_in_place(self) -> list[str]:
        items, counts = self.items, self.counts
        items.append(Item("first"))
        await asyncio.sleep(1)
        items[0].tags.append("tagged")
        counts["n"] = 1
        await asyncio.sleep(1)
        counts["n"] += 1
        Flaky.strike()
        return [f"{item.name}{item.tags}" for item in items]

    @handler
    async def asks_for_too_much(self, count: int) -> int:
        self.total += 1
        other = self.ctx.ref(Box, "sent")
        for _ in range(count):
            other.add.send(1)
        return count

    @handler
    async def writes_too_much(self, megabytes: int) -> int:
        self.total += 1
        self.items.append(Item("x" * (megabytes * 1024 * 1024)))
        return megabytes

    @handler
    async def writes_what_is_no_number(self) -> None:
        self.total = "many"  # type: ignore[assignment]  # that is the story  # pyright: ignore[reportAttributeAccessIssue]

    @handler
    async def does_nothing(self) -> None: ...

    @handler
    async def exits(self) -> int:
        self.total += 1
        if Flaky.attempts < Flaky.failures:
            Flaky.attempts += 1
            raise SystemExit(3)
        return self.total

    @shared
    async def look(self) -> int:
        return self.total

    @shared
    async def look_later(self) -> tuple[int, int]:
        before = self.total
        await asyncio.sleep(10)
        return before, self.total


class Restless(VirtualObject):
    value: int = 0

    @handler
    async def never_rests(self) -> None:
        self.value += 1
        while True:
            await asyncio.sleep(0)

    @handler
    async def bad_callback(self) -> None:
        self.value += 1
        asyncio.get_running_loop().call_soon(self.strike)
        await asyncio.sleep(1)

    def strike(self) -> None:
        raise ValueError("struck")

    @handler
    async def forgets_an_await(self) -> int:
        self.ctx.ref(Box, "forgotten").add(1)  # type: ignore[unused-coroutine]  # that is the story  # pyright: ignore[reportUnusedCoroutine]
        return 1

    @handler
    async def dives(self, depth: int) -> int:
        if depth == 0:
            return 0
        return 1 + await self.ctx.ref(Restless, f"{self.key}.").dives(depth - 1)


class Desk(Service):
    @handler
    async def echo(self, text: str) -> str:
        return text

    @handler
    async def forward(self, key: str) -> int:
        return await self.ctx.ref(Box, key).add(1)

    @handler
    async def post(self, key: str) -> None:
        self.ctx.ref(Box, key).add.send(1)

    @handler
    async def refuses(self) -> None:
        raise TerminalError("no")

    @handler
    async def breaks(self) -> None:
        raise ValueError("broken")


async def test_all_that_a_turn_did_stands_in_one_record(worlds: Worlds) -> None:
    """Writes, message, call and timer of the first turn; then the outcome with what the last turn did."""
    world = await worlds(Box).start()

    assert await world.call("Box/a/everything") == "called: 3"

    first, last = (turn for turn in world.recorded() if isinstance(turn, Turn) and turn.id == world.recorded()[0].id)  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue]
    assert first.writes == {"total": b"1"}
    assert [type(command) for command in first.commands] == [Send, Call, Timer]
    assert first.outcome is None
    assert last.outcome == Success(b'"called: 3"')


async def test_a_failed_turn_changes_nothing_and_its_delivery_comes_again(worlds: Worlds, flaky: type[Flaky]) -> None:
    """Three attempts, one effect: the state, the list and the message of the failed ones are gone."""
    flaky.failures = 2
    world = await worlds(Box).start()
    submission = world.submit("Box/a/fails_at_times")

    await world.advance(600)

    assert await world.outcome_of(submission) == Success(b"10")
    assert flaky.attempts == 3
    assert world.state("Box", "a") == {"total": 10, "items": [{"name": "x", "tags": []}]}
    assert world.state("Box", "sent") == {"total": 1}
    assert world.kinds().count("Attempted") == 2


async def test_a_failed_later_turn_leaves_the_committed_ones(worlds: Worlds, flaky: type[Flaky]) -> None:
    """The call of the first turn is not made again; the result that started the second turn comes again."""
    flaky.failures = 3
    world = await worlds(Box).start()
    submission = world.submit("Box/a/fails_in_its_second_turn")

    await world.settle()
    assert world.state("Box", "a") == {"total": 1}
    await world.advance(600)

    assert await world.outcome_of(submission) == Success(b"1")
    assert world.state("Box", "a") == {"total": 11}
    assert world.state("Box", "called") == {"total": 1}
    assert world.state("Box", "sent") == {"total": 1}


async def test_a_turn_that_ends_in_terminal_error_keeps_its_writes_and_messages(worlds: Worlds) -> None:
    """It is an outcome: what the program did before it said no stays."""
    world = await worlds(Box).start()

    outcome = await world.outcome("Box/a/refuses")

    assert isinstance(outcome, Failed)
    assert (outcome.failure.type, outcome.failure.status, outcome.failure.metadata) == (
        "TerminalError",
        418,
        {"why": "tea"},
    )
    assert world.state("Box", "a") == {"total": 5}
    assert world.state("Box", "sent") == {"total": 5}


async def test_a_group_of_terminal_errors_keeps_its_writes(worlds: Worlds) -> None:
    """It gives the status of its first leaf."""
    world = await worlds(Box).start()

    outcome = await world.outcome("Box/a/group_refuses")

    assert isinstance(outcome, Failed)
    assert outcome.failure.status == 400
    assert world.state("Box", "a") == {"total": 5}


async def test_an_uncaught_timeout_is_terminal_and_keeps_nothing_of_its_turn(worlds: Worlds) -> None:
    """504; what its last turn wrote and sent is gone, what earlier turns committed stays."""
    world = await worlds(Box).start()
    submission = world.submit("Box/a/times_out")

    await world.advance(20)

    outcome = await world.outcome_of(submission)
    assert isinstance(outcome, Failed)
    assert (outcome.failure.type, outcome.failure.status) == ("TimeoutError", 504)
    assert world.state("Box", "a") == {"total": 5}
    assert world.state("Box", "sent") == {}


async def test_a_caught_timeout_is_nothing_special(worlds: Worlds) -> None:
    world = await worlds(Box).start()
    submission = world.submit("Box/a/catches_its_timeout")

    await world.advance(20)

    assert await world.outcome_of(submission) == Success(b'"late"')
    assert world.state("Box", "a") == {"total": 7}


async def test_a_result_that_cannot_be_encoded_is_terminal_and_rolls_back(worlds: Worlds) -> None:
    """It would fail at every attempt, so it is never retried; the message names the handler and the type."""
    world = await worlds(Box).start()

    failure = await world.failure("Box/a/gives_nonsense")

    assert "gives_nonsense" in failure
    assert "str" in failure
    assert world.state("Box", "a") == {}
    assert world.state("Box", "sent") == {}
    assert "Attempted" not in world.kinds()


async def test_changes_in_place_across_awaits_are_committed_turn_by_turn(worlds: Worlds, flaky: type[Flaky]) -> None:
    """A list held over an await is still the state; a failed turn's change to it is gone."""
    flaky.failures = 1
    world = await worlds(Box).start()
    submission = world.submit("Box/a/changes_in_place")

    await world.settle()
    assert world.state("Box", "a") == {"items": [{"name": "first", "tags": []}]}
    await world.advance(1)
    assert world.state("Box", "a") == {"items": [{"name": "first", "tags": ["tagged"]}], "counts": {"n": 1}}
    await world.advance(1)
    assert world.state("Box", "a")["counts"] == {"n": 1}
    await world.advance(60)

    assert await world.outcome_of(submission) == Success(b"""["first['tagged']"]""")
    assert world.state("Box", "a")["counts"] == {"n": 2}


async def test_a_turn_that_asks_for_too_much_fails(worlds: Worlds) -> None:
    """At the limit it commits; beyond it nothing of it happened."""
    world = await worlds(Box, turn_commands_max=5).start()

    assert await world.call("Box/a/asks_for_too_much", 5) == 5
    submission = world.submit("Box/b/asks_for_too_much", 6)
    await world.settle()

    assert world.state("Box", "sent") == {"total": 5}
    assert world.state("Box", "b") == {}
    failure = world.invocation(submission).last_failure
    assert failure is not None
    assert "6" in failure.message
    assert "limit is 5" in failure.message


async def test_a_turn_whose_record_is_too_large_never_happened(worlds: Worlds) -> None:
    """Its invocation is retried like any other, and the key's state is what it was."""
    world = await worlds(Box).start()

    assert await world.call("Box/a/writes_too_much", 1) == 1
    submission = world.submit("Box/b/writes_too_much", 17)
    await world.settle()

    assert world.state("Box", "b") == {}
    failure = world.invocation(submission).last_failure
    assert failure is not None
    assert failure.type == "RecordTooLarge"


async def test_state_that_does_not_decode_by_its_type_fails_the_turn_that_wrote_it(worlds: Worlds) -> None:
    """The message names class, key and field; the object stays readable."""
    world = await worlds(Box).start()

    submission = world.submit("Box/a/writes_what_is_no_number")
    await world.settle()

    failure = world.invocation(submission).last_failure
    assert failure is not None
    assert failure.type == "StateError"
    assert "Box['a'].total" in failure.message
    assert await world.call("Box/a/look") == 0


async def test_system_exit_in_a_handler_is_an_ordinary_failure(worlds: Worlds, flaky: type[Flaky]) -> None:
    flaky.failures = 1
    world = await worlds(Box).start()
    submission = world.submit("Box/a/exits")

    await world.advance(60)

    assert await world.outcome_of(submission) == Success(b"1")
    assert world.kinds() == ["Invoked", "Attempted", "Turn"]


class Sleepy(VirtualObject):
    turns: int = 0

    @handler
    async def rest(self) -> int:
        """Its last three turns do nothing, and one of them isn't even a turn."""
        self.turns += 1
        sleeps = [asyncio.create_task(asyncio.sleep(delay)) for delay in (1, 2, 3)]
        await asyncio.gather(*sleeps)
        self.turns += 1
        return self.turns


async def test_a_call_between_objects_costs_two_records(worlds: Worlds) -> None:
    """The caller's turn that asks, the callee's turn that answers; beside them the acceptance and the caller's end."""
    world = await worlds(Box, Desk).start()
    assert await world.call("Box/a/add", 1) == 1
    assert world.kinds() == ["Invoked", "Turn"]
    before = len(world.journal.records)

    assert await world.call("Desk/forward", "a") == 2

    assert world.kinds()[before:] == ["Invoked", "Turn", "Turn", "Turn"]


async def test_a_read_that_ends_in_its_first_turn_leaves_no_record(worlds: Worlds) -> None:
    """Nor does a Service call that asked for nothing, whether it ends well or not."""
    world = await worlds(Box, Desk).start()

    assert await world.call("Box/a/look") == 0
    assert await world.call("Desk/echo", "hello") == "hello"
    assert await world.failure("Desk/refuses") == "TerminalError: no"

    assert world.kinds() == []
    assert world.engine.kernel.invocations == {}
    assert world.engine.kernel.objects == {}


async def test_a_read_with_an_idempotency_key_is_recorded(worlds: Worlds) -> None:
    """Somebody may come back for its answer."""
    world = await worlds(Box).start()

    assert await world.call("Box/a/look", idempotency_key="k") == 0

    assert world.kinds() == ["Invoked", "Turn"]


async def test_a_service_that_sends_is_recorded(worlds: Worlds) -> None:
    """Its message has to survive, so the acceptance goes first, and both before the answer."""
    world = await worlds(Box, Desk).start()

    await world.call("Desk/post", "a")

    assert world.kinds()[:2] == ["Invoked", "Turn"]
    assert world.state("Box", "a") == {"total": 1}


async def test_a_read_that_fails_is_recorded_and_retried(worlds: Worlds) -> None:
    """A failure is not forgotten: the acceptance is written after all, and then the attempt."""
    world = await worlds(Desk, retry=RetryPolicy(max_attempts=2)).start()

    submission = world.submit("Desk/breaks")
    await world.advance(600)

    assert world.kinds() == ["Invoked", "Attempted", "Attempted"]
    last = world.recorded()[-1]
    assert isinstance(last, Attempted)
    assert last.next_at is None
    assert world.invocation(submission).status.value == "paused"


async def test_a_turn_that_did_nothing_leaves_no_record(worlds: Worlds) -> None:
    """Of three timers that fire, the first two start turns in which the handler does nothing."""
    world = await worlds(Sleepy).start()
    submission = world.submit("Sleepy/a/rest")

    await world.advance(5)

    assert await world.outcome_of(submission) == Success(b"2")
    assert world.kinds() == ["Invoked", "Turn", "Notified", "Notified", "Notified", "Turn"]


async def test_an_exclusive_call_that_did_nothing_still_ends_by_a_record(worlds: Worlds) -> None:
    """It held its key from a record on, so a record must give it back."""
    world = await worlds(Box).start()

    assert await world.call("Box/a/does_nothing") is None

    assert world.kinds() == ["Invoked", "Turn"]
    assert world.engine.kernel.objects == {}


async def test_a_shared_handler_reads_what_is_committed_in_each_of_its_turns(worlds: Worlds) -> None:
    """It runs beside an exclusive one and sees the last committed turn, never one that failed or is half done."""
    world = await worlds(Box).start()
    reading = world.submit("Box/a/look_later")
    await world.settle()

    assert await world.call("Box/a/add", 4) == 4
    await world.advance(10)

    assert await world.outcome_of(reading) == Success(b"[0,4]")


@pytest.mark.parametrize(("name", "says"), [("never_rests", "1000 callbacks"), ("bad_callback", "struck")])
async def test_a_turn_that_goes_wrong_in_its_loop_fails_like_any(worlds: Worlds, name: str, says: str) -> None:
    """One that never comes to rest, one with an exception out of a plain callback."""
    world = await worlds(Restless, callbacks_max=1000).start()
    submission = world.submit(f"Restless/r/{name}")
    await world.settle()

    failure = world.invocation(submission).last_failure
    assert failure is not None
    assert says in failure.message
    assert world.state("Restless", "r") == {}


async def test_a_call_that_was_never_awaited_is_made_and_logged_by_name(
    worlds: Worlds, logged: list[MutableMapping[str, Any]]
) -> None:
    world = await worlds(Restless, Box).start()

    assert await world.call("Restless/r/forgets_an_await") == 1

    assert world.state("Box", "forgotten") == {"total": 1}
    (event,) = (event for event in logged if event["event"] == "never awaited")
    assert "Box/forgotten/add" in str(event["what"])


async def test_calls_are_nested_so_deep_and_no_deeper(worlds: Worlds) -> None:
    """The call beyond the limit is refused where it is made, and the refusal reaches the one who began."""
    world = await worlds(Restless, call_depth_max=10).start()

    assert await world.call("Restless/a/dives", 10) == 10
    failure = await world.failure("Restless/b/dives", 11)

    assert "10 deep" in failure
    assert world.engine.kernel.counts.queued == 0

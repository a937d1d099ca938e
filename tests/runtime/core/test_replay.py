"""A handler that is run again from its records comes to the same end; code that doesn't, is stopped before it acts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from perdure.objects import Service, TerminalError, VirtualObject, handler, shared
from perdure.objects.definitions import definition_of
from perdure.runtime.invocations import Status
from perdure.runtime.record_lines import divergence
from perdure.runtime.records import Awakeable, Failed, Run, Success, Timer

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]

SEED = 20_261_124


class Stock(VirtualObject):
    left: int = 10

    @handler
    async def take(self, amount: int) -> int:
        if amount > self.left:
            raise TerminalError("sold out", status=409)
        self.left -= amount
        return self.left

    @handler
    async def take_slowly(self, amount: int) -> int:
        await asyncio.sleep(amount)
        self.left -= amount
        return self.left

    @shared
    async def look(self) -> int:
        return self.left


class Log(VirtualObject):
    lines: list[str]

    @handler
    async def write(self, line: str) -> int:
        self.lines.append(line)
        return len(self.lines)


class Program(VirtualObject):
    """One handler for each way of waiting."""

    steps: list[str]
    counts: dict[str, int]
    total: int = 0

    @handler
    async def sequence(self) -> list[str]:
        for name in ("apples", "pears"):
            self.steps.append(f"take {name}")
            left = await self.ctx.ref(Stock, name).take(1)
            self.ctx.ref(Log, "log").write.send(f"{name}: {left}")
            self.steps.append(f"took {name}: {left}")
            await asyncio.sleep(2)
        return self.steps

    @handler
    async def gathered(self) -> list[int]:
        names = ["apples", "pears", "plums"]
        results = await asyncio.gather(*(self.ctx.ref(Stock, name).take(2) for name in names))
        self.total = sum(results)
        return results

    @handler
    async def task_group(self) -> dict[str, int]:
        async def take(name: str, after: float) -> None:
            await asyncio.sleep(after)
            self.counts[name] = await self.ctx.ref(Stock, name).take(1)
            self.steps.append(name)

        async with asyncio.TaskGroup() as group:
            for after, name in enumerate(["c", "b", "a"]):
                group.create_task(take(name, 3 - after))
        return self.counts

    @handler
    async def first_of_two(self) -> list[str]:
        tasks = {asyncio.create_task(self.ctx.ref(Stock, f"s{n}").take_slowly(n), name=f"s{n}") for n in (3, 1, 2)}
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self.steps = [f"done {task.get_name()}" for task in done]
        for task in pending:
            task.cancel()
        self.steps += [f"cancelled {task.get_name()}" for task in pending]
        return self.steps

    @handler
    async def as_they_come(self) -> list[int]:
        calls = [self.ctx.ref(Stock, f"s{n}").take_slowly(n) for n in (3, 1, 2)]
        for call in asyncio.as_completed(calls):
            self.steps.append(str(await call))
        return [int(step) for step in self.steps]

    @handler
    async def with_timeout(self) -> str:
        try:
            async with asyncio.timeout(2):
                await self.ctx.ref(Stock, "slow").take_slowly(50)
        except TimeoutError:
            self.steps.append("timed out")
        try:
            await asyncio.wait_for(self.ctx.ref(Stock, "slow").take(3), 10)
        except TerminalError as error:
            self.steps.append(f"{error.status}")
        return ", ".join(self.steps)

    @handler
    async def refused_and_undone(self) -> str:
        await self.ctx.ref(Stock, "apples").take(9)
        self.total += 1
        try:
            await self.ctx.ref(Stock, "apples").take(9)
        except TerminalError as error:
            self.total -= 1
            self.steps.append(f"{type(error).__name__} {error.status}: {error}")
        await asyncio.sleep(1)
        return self.steps[-1]

    @handler
    async def draws_lots(self) -> list[str]:
        draws = [str(self.ctx.random.random()), str(self.ctx.uuid()), self.ctx.now().isoformat()]
        await asyncio.sleep(1)
        draws += [str(self.ctx.random.random()), str(self.ctx.uuid()), self.ctx.now().isoformat()]
        self.steps = draws
        await asyncio.sleep(1)
        return [*draws, str(self.ctx.random.random()), str(asyncio.get_running_loop().time())]

    @handler
    async def queue_and_event(self) -> list[int]:
        queue: asyncio.Queue[int] = asyncio.Queue(1)
        done = asyncio.Event()

        async def produce() -> None:
            for n in range(4):
                await asyncio.sleep(n % 2)
                await queue.put(await self.ctx.ref(Stock, "apples").take(n % 3))
            done.set()

        async def consume() -> None:
            while True:
                self.counts[str(len(self.counts))] = await queue.get()

        consumer, producer = asyncio.create_task(consume()), asyncio.create_task(produce())
        await done.wait()
        await producer
        await asyncio.sleep(0)
        consumer.cancel()
        return [*self.counts.values()]

    @handler
    async def sets(self) -> list[str]:
        """Sets of tasks, of strings, and a field that is a dict: their order must not depend on the process."""
        tasks = {asyncio.create_task(self.ctx.ref(Stock, f"k{n}").take(1)) for n in range(8)}
        for task in tasks:
            await task
            self.steps.append(str(len(self.steps)))
        return self.steps

    @handler
    async def in_place(self) -> int:
        counts = self.counts
        counts["a"] = 1
        await asyncio.sleep(1)
        counts["a"] += 1
        counts["b"] = 5
        await asyncio.sleep(1)
        del counts["a"]
        return sum(counts.values())

    @handler
    async def leftovers(self) -> int:
        """Its main task ends while others wait; what they waited for is taken back."""
        asyncio.create_task(self.ctx.ref(Stock, "slow").take_slowly(30))  # noqa: RUF006  # that is the story
        await asyncio.sleep(1)
        self.total += 1
        return self.total

    @handler
    async def by_message(self) -> str:
        handle = self.ctx.ref(Stock, "slow").take_slowly.send(5)
        self.steps.append(handle.id)
        result = await handle.attach()
        self.total = result
        return f"{handle.id} gave {result}"


class Reader(VirtualObject):
    value: int = 1

    @handler
    async def set(self, value: int) -> int:
        self.value = value
        return value

    @shared
    async def watch(self) -> list[int]:
        seen = [self.value]
        for _ in range(3):
            await asyncio.sleep(10)
            seen.append(self.value)
        return seen


PROGRAMS = [*definition_of(Program).handlers]
CLASSES = (Program, Stock, Log)


def test_the_programs_are_found() -> None:
    """Or the tests below would pass for want of one."""
    assert len(PROGRAMS) == 13


def memory(world: World) -> dict[str, Any]:
    """What is left when all has ended: the state of every object."""
    objects = world.objects()
    return {f"{service}/{key}": world.state(service, key) for service, key in sorted(objects)}


async def undisturbed(worlds: Worlds, program: str) -> tuple[Any, dict[str, Any], list[bytes]]:
    world = await worlds(*CLASSES).start()
    submission = world.submit(f"Program/p/{program}", idempotency_key="k")
    await world.advance(200)
    return await world.outcome_of(submission), memory(world), world.journal.records


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_handler_evicted_after_every_turn_comes_to_the_same_end(worlds: Worlds, program: str) -> None:
    """Each delivery finds no coroutine and replays from the start: the same records are written."""
    outcome, state, recorded = await undisturbed(worlds, program)
    world: World = worlds(*CLASSES)
    world.evict_always = True
    await world.start()

    submission = world.submit(f"Program/p/{program}", idempotency_key="k")
    await world.advance(200)

    assert isinstance(outcome, Success)
    assert await world.outcome_of(submission) == outcome
    assert memory(world) == state
    assert world.journal.records == recorded


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    "settings", [{"replay_always": True}, {"executions_max": 1}], ids=["replay_always", "one in memory"]
)
async def test_settings_that_make_it_replay_change_nothing(
    worlds: Worlds, program: str, settings: dict[str, Any]
) -> None:
    outcome, state, recorded = await undisturbed(worlds, program)
    world = await worlds(*CLASSES, **settings).start()

    submission = world.submit(f"Program/p/{program}", idempotency_key="k")
    await world.advance(200)

    assert await world.outcome_of(submission) == outcome
    assert memory(world) == state
    assert world.journal.records == recorded


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_restart_after_every_record_comes_to_the_same_end(worlds: Worlds, program: str) -> None:
    """The process is killed at each point of the journal; the clock goes on from there."""
    outcome, state, recorded = await undisturbed(worlds, program)

    for keep in range(1, len(recorded) + 1):
        world: World = worlds(*CLASSES)
        world.journal = type(world.journal)(recorded[:keep])
        last = world.recorded()[-1]
        world.clock.advance_to_next(last.at)
        await world.start()
        submission = world.submit(f"Program/p/{program}", idempotency_key="k")
        await world.advance(200)

        assert submission.previously
        assert await world.outcome_of(submission) == outcome, keep
        assert memory(world) == state, keep
        await world.engine.close()


async def test_a_replay_sends_and_calls_nothing_again(worlds: Worlds) -> None:
    """Ten evictions later there is one line for each message, and two apples are gone."""
    world: World = worlds(*CLASSES)
    world.evict_always = True
    await world.start()
    world.submit("Program/p/sequence")

    await world.advance(60)

    assert world.state("Log", "log") == {"lines": ["apples: 9", "pears: 9"]}
    assert world.state("Stock", "apples") == {"left": 9}


async def test_a_replay_starts_from_the_state_that_the_handler_first_saw(worlds: Worlds) -> None:
    """Fields that it has changed since come from their before-images, those it made from being absent."""
    world = await worlds(*CLASSES).start()
    submission = world.submit("Program/p/in_place")
    await world.advance(1)
    assert world.state("Program", "p") == {"counts": {"a": 2, "b": 5}}

    world.evict()
    await world.restart()
    await world.advance(5)

    assert world.state("Program", "p") == {"counts": {"b": 5}}
    assert "Paused" not in world.kinds()
    assert submission.id not in world.engine.kernel.invocations


async def test_a_shared_handler_replays_what_it_read(worlds: Worlds) -> None:
    """Others have changed the field since: each turn of the replay sees what that turn saw."""
    world: World = worlds(Reader)
    world.evict_always = True
    await world.start()
    submission = world.submit("Reader/r/watch", idempotency_key="k")
    for value in (2, 3, 4):
        await world.advance(5)
        await world.call("Reader/r/set", value)
        await world.advance(5)
    assert await world.outcome_of(submission) == Success(b"[1,2,3,4]")

    world = await worlds(Reader).start()
    submission = world.submit("Reader/r/watch", idempotency_key="k")
    for value in (2, 3, 4):
        await world.advance(5)
        await world.call("Reader/r/set", value)
        await world.restart()
        await world.advance(5)
    assert await world.outcome_of(world.submit("Reader/r/watch", idempotency_key="k")) == Success(b"[1,2,3,4]")


class OtherReader(VirtualObject, name="Reader"):
    """The next version looks at another field."""

    value: int = 1
    other: int = 5

    @handler
    async def set(self, value: int) -> int:
        self.value = self.other = value
        return value

    @shared
    async def watch(self) -> list[int]:
        seen = [self.other]
        for _ in range(3):
            await asyncio.sleep(10)
            seen.append(self.value)
        return seen


async def test_a_shared_handler_that_reads_something_else_now_is_a_mismatch(worlds: Worlds) -> None:
    """The journal doesn't know what that field was then; what it is now would be a guess."""
    world = await worlds(Reader).start()
    world.submit("Reader/r/watch", idempotency_key="k")
    await world.advance(5)
    await world.restart(classes=[OtherReader])
    await world.call("Reader/r/set", 9)

    await world.advance(60)

    (invocation,) = world.invocations("Reader/r/watch")
    assert invocation.status is Status.PAUSED
    assert invocation.last_failure is not None
    assert "other" in invocation.last_failure.message


class Explorer(VirtualObject):
    found: str = ""

    @handler
    async def explore(self) -> str:
        try:
            self.found = str(await self.ctx.ref(Stock, "apples").take(1))
        except TerminalError as error:
            self.found = f"{error.status}"
        await asyncio.sleep(10)
        return self.found


async def test_a_refusal_for_what_was_not_served_is_replayed_when_it_is(worlds: Worlds) -> None:
    """The handler went on without it; that its module is served today changes nothing of that."""
    world = await worlds(Explorer).start()
    world.submit("Explorer/e/explore", idempotency_key="k")
    await world.settle()
    assert world.state("Explorer", "e") == {"found": "404"}

    await world.restart(classes=[Explorer, Stock])
    await world.advance(10)

    assert await world.call("Explorer/e/explore", idempotency_key="k") == "404"
    assert world.state("Stock", "apples") == {}


async def test_a_replay_takes_its_time_from_the_records(worlds: Worlds) -> None:
    """A year passed between the crash and the restart; the first turns still see their own time."""
    world = await worlds(*CLASSES).start()
    world.submit("Program/p/draws_lots", idempotency_key="k")
    await world.advance(1)
    drawn = world.state("Program", "p")["steps"]
    await world.crash()
    world.sleep_while_down(365 * 86_400)

    await world.start()
    await world.advance(2)
    outcome = await world.outcome_of(world.submit("Program/p/draws_lots", idempotency_key="k"))

    assert isinstance(outcome, Success)
    assert msgspec.json.decode(outcome.value)[:6] == drawn
    assert "Paused" not in world.kinds()


# --- code that changed ------------------------------------------------------------------------------------------------


class Shop(VirtualObject):
    """What the journal was written by."""

    orders: list[str]
    total: int = 0
    note: str = ""

    @handler
    async def order(self, item: str) -> str:
        self.total += 1
        self.note = item
        left = await self.ctx.ref(Stock, item).take(2)
        self.ctx.ref(Log, "log").write.send(f"took {item}")
        self.orders.append(item)
        other = self.ctx.ref(Stock, "other").take(1)
        await asyncio.sleep(60)
        self.total += await other
        await asyncio.sleep(60)
        return f"{item}: {left}"

    @shared
    async def look(self) -> int:
        return self.total


ORDER = """
    @handler
    async def order(self, item: str) -> str:
        self.total += 1
        self.note = item
        left = await self.ctx.ref(Stock, item).take(2)
        self.ctx.ref(Log, "log").write.send(f"took {item}")
        self.orders.append(item)
        other = self.ctx.ref(Stock, "other").take(1)
        await asyncio.sleep(60)
        self.total += await other
        await asyncio.sleep(60)
        return f"{item}: {left}"
"""

MUTATIONS = {
    "another target": ("Stock, item)", "Stock, item + 's')"),
    "another class": ("Stock, item).take(2)", "Twin, item).take(2)"),
    "another handler": (".take(2)", ".take_slowly(2)"),
    "other arguments": (".take(2)", ".take(3)"),
    "a call became a message": (
        "left = await self.ctx.ref(Stock, item).take(2)",
        "left = 8; self.ctx.ref(Stock, item).take.send(2)",
    ),
    "a message became a call": ('.write.send(f"took {item}")', '.write(f"took {item}")'),
    "a message with other text": ("took {item}", "has taken {item}"),
    "a message was dropped": ('self.ctx.ref(Log, "log").write.send(f"took {item}")', "pass"),
    "a message was added": ("self.note = item", 'self.note = item; self.ctx.ref(Log, "log").write.send("new")'),
    "a message was doubled": ("write.send(f", "write.send('x'); self.ctx.ref(Log, 'log').write.send(f"),
    "a message is delayed now": ("write.send(f", "write.send_after(5, f"),
    "a message has an idempotency key": ("write.send(f", "write.options(idempotency_key='k').send(f"),
    "a message has headers": ("write.send(f", "write.options(headers={'a': 'b'}).send(f"),
    "a call was dropped": (
        'other = self.ctx.ref(Stock, "other").take(1)',
        "other = asyncio.create_task(asyncio.sleep(0, 1))",
    ),
    "a call was added": ("self.note = item", 'self.note = item; more = self.ctx.ref(Stock, "more").take(1)'),
    "calls in another order": (
        """self.ctx.ref(Log, "log").write.send(f"took {item}")
        self.orders.append(item)
        other = self.ctx.ref(Stock, "other").take(1)""",
        """other = self.ctx.ref(Stock, "other").take(1)
        self.orders.append(item)
        self.ctx.ref(Log, "log").write.send(f"took {item}")""",
    ),
    "a longer sleep": ("await asyncio.sleep(60)\n        self.total", "await asyncio.sleep(61)\n        self.total"),
    "no sleep": ("await asyncio.sleep(60)\n        self.total", "pass\n        self.total"),
    "a sleep was added": ("self.note = item", "self.note = item; await asyncio.sleep(1)"),
    "a timeout around a call": (
        "left = await self.ctx.ref(Stock, item).take(2)",
        "left = await asyncio.wait_for(self.ctx.ref(Stock, item).take(2), 5)",
    ),
    "another value is written": ("self.total += 1", "self.total += 2"),
    "another field is written": ("self.note = item", "self.orders = [item]"),
    "a write was dropped": ("self.note = item", "pass"),
    "a write was added": ("self.orders.append(item)", "self.orders.append(item); self.note = 'new'"),
    "a change in place was dropped": ("self.orders.append(item)", "pass"),
    "a write moved behind an await": (
        "self.note = item\n        left = await self.ctx.ref(Stock, item).take(2)",
        "left = await self.ctx.ref(Stock, item).take(2)\n        self.note = item",
    ),
    "it ends early": ("self.orders.append(item)", "return 'early'"),
    "it raises a terminal error": ("self.orders.append(item)", "raise TerminalError('no')"),
    "it raises": ("self.orders.append(item)", "raise ValueError('new bug')"),
    "it waits for something else": ("self.total += await other", "await asyncio.Event().wait()"),
    "it awaits earlier": (
        ".take(1)\n        await asyncio.sleep(60)\n        self.total += await other",
        ".take(1)\n        self.total += await other\n        await asyncio.sleep(60)",
    ),
    "it uses chance of the process": ("self.note = item", "self.note = str(id(self))"),
    "it uses a handle's cancel": (
        "self.orders.append(item)",
        "self.orders.append(item); self.ctx.handle('inv_x').cancel()",
    ),
}


class Twin(VirtualObject):
    @handler
    async def take(self, amount: int) -> int:
        return 8


def mutated(was: str, now: str) -> type:
    """The next version of Shop, made from its source."""
    assert ORDER.count(was) == 1, was
    fields = "    orders: list[str]\n    total: int = 0\n    note: str = ''\n"
    source = f"class Shop(VirtualObject):\n{fields}{ORDER.replace(was, now)}"
    source += "\n    @shared\n    async def look(self) -> int:\n        return self.total\n"
    names: dict[str, Any] = {**globals(), "__name__": "the_next_version"}
    exec(source, names)  # noqa: S102  # that is how code changes
    changed: type = names["Shop"]
    return changed


async def shop_world(worlds: Worlds) -> World:
    """Its journal has the first turns of an order, which sleeps."""
    world = await worlds(Shop, Stock, Log, Twin).start()
    world.submit("Shop/s/order", "apples", idempotency_key="k")
    await world.advance(60)
    assert [type(record).__name__ for record in world.recorded()].count("Turn") >= 5
    return world


def test_there_are_enough_mutations() -> None:
    assert len(MUTATIONS) >= 25


@pytest.mark.parametrize("name", MUTATIONS)
async def test_changed_code_is_paused_and_does_nothing(worlds: Worlds, name: str) -> None:
    """A ReplayMismatch that names both sides: no state, no message, no timer changes; others run on."""
    world = await shop_world(worlds)
    before = memory(world)
    await world.restart(classes=[mutated(*MUTATIONS[name]), Stock, Log, Twin])
    count = len(world.journal.records)

    await world.advance(120)

    (invocation,) = world.invocations("Shop/s/order")
    failure = invocation.last_failure
    assert invocation.status is Status.PAUSED
    assert failure is not None
    assert failure.type == "ReplayMismatch"
    assert "the journal" in failure.message
    assert "the code now" in failure.message
    assert "turn " in failure.message
    assert "Shop/s/order" in failure.message
    assert memory(world) == before
    assert world.kinds()[count:] == ["Notified", "Paused"]
    assert await world.call("Shop/s/look") == before["Shop/s"]["total"]
    assert await world.call("Stock/apples/take", 1) == 7


async def test_the_same_code_written_otherwise_is_no_mismatch(worlds: Worlds) -> None:
    """Or the test above would prove nothing."""
    world = await shop_world(worlds)

    same = mutated("self.total += 1\n", "self.total = self.total + 1  # refactored\n")
    await world.restart(classes=[same, Stock, Log, Twin])
    await world.advance(120)

    outcome = await world.outcome_of(world.submit("Shop/s/order", "apples", idempotency_key="k"))
    assert outcome == Success(b'"apples: 8"')


async def test_it_goes_on_when_the_code_is_mended(worlds: Worlds) -> None:
    """The journal was left as it was: the old code finds it and ends."""
    world = await shop_world(worlds)
    await world.restart(classes=[mutated(*MUTATIONS["other arguments"]), Stock, Log, Twin])
    await world.advance(120)

    await world.restart(classes=[Shop, Stock, Log, Twin])
    (paused,) = world.invocations("Shop/s/order")
    await world.engine.operations.resume(paused.id)
    await world.advance(120)

    outcome = await world.outcome_of(world.submit("Shop/s/order", "apples", idempotency_key="k"))
    assert outcome == Success(b'"apples: 8"')
    assert world.state("Log", "log") == {"lines": ["took apples"]}


async def test_a_resume_with_the_changed_code_pauses_again(worlds: Worlds) -> None:
    world = await shop_world(worlds)
    await world.restart(classes=[mutated(*MUTATIONS["other arguments"]), Stock, Log, Twin])
    await world.advance(120)
    (paused,) = world.invocations("Shop/s/order")

    await world.engine.operations.resume(paused.id)
    await world.settle()

    assert paused.status is Status.PAUSED


async def test_code_that_swallows_the_mismatch_gains_nothing(worlds: Worlds) -> None:
    """Divergence is a flag first: `except BaseException` in the handler doesn't bring it on."""
    world = await shop_world(worlds)
    before = memory(world)
    swallowing = mutated(
        "left = await self.ctx.ref(Stock, item).take(2)",
        """
        try:
            left = await self.ctx.ref(Stock, item).take(7)
        except BaseException:
            self.total = 1_000_000
            self.ctx.ref(Log, "log").write.send("swallowed")
            left = 0
        """,
    )

    await world.restart(classes=[swallowing, Stock, Log, Twin])
    await world.advance(120)

    assert world.invocations("Shop/s/order")[0].status is Status.PAUSED
    assert memory(world) == before


class Careless(VirtualObject):
    """What is not determined by its records: found at its first replay."""

    value: str = ""

    @handler
    async def by_chance(self, way: str) -> str:
        self.value = str(random.random()) if way == "random" else str(id(object()))
        await asyncio.sleep(1)
        Chance.count += 1
        if way == "outside":
            self.value = str(Chance.count)
            await asyncio.sleep(1)
        return self.value


class Chance:
    count = 0


@pytest.mark.parametrize("way", ["random", "outside"])
async def test_what_is_left_to_chance_is_found_at_the_first_replay(worlds: Worlds, way: str) -> None:
    world: World = worlds(Careless)
    world.evict_always = True
    await world.start()
    submission = world.submit("Careless/c/by_chance", way)

    await world.advance(10)

    failure = world.invocation(submission).last_failure
    assert failure is not None
    assert failure.type == "ReplayMismatch"


class Desk(Service):
    @handler
    async def many(self, count: int) -> int:
        total = 0
        for n in range(count):
            total += await self.ctx.ref(Stock, str(n)).take(1)
        return total


async def test_an_invocation_with_too_many_entries_is_told_to_start_a_successor(worlds: Worlds) -> None:
    """It is refused in the turn that would exceed it, with a message that says what to do."""
    world = await worlds(Desk, Stock, invocation_entries_max=20).start()
    submission = world.submit("Desk/many", 30)
    await world.settle()

    failure = world.invocation(submission).last_failure
    assert failure is not None
    assert "successor" in failure.message
    assert world.invocation(submission).entries <= 20 + 1  # a delivery more than it may use


async def test_long_replays_leave_the_others_their_turns(worlds: Worlds) -> None:
    """A replay of hundreds of turns goes one turn at a time, through the queue of all that is ready."""
    world = await worlds(Desk, Stock, slice_turns_max=4).start()
    many = world.submit("Desk/many", 300, idempotency_key="k")
    while (history := world.invocation(many).history) is None or len(history.turns) <= 100:
        await asyncio.sleep(0)
    world.evict()

    answer = asyncio.ensure_future(world.submit("Stock/x/take", 1).outcome())
    for _ in range(20):
        await asyncio.sleep(0)

    assert answer.done()
    await world.settle()
    assert not isinstance(await world.outcome("Desk/many", 300, idempotency_key="k"), Failed)


def test_commands_that_read_alike_are_shown_in_full() -> None:
    """A difference that people's form leaves out would else be two equal texts."""
    was, now = Run(1, "charge", b"[1]"), Run(2, "charge", b"[1]")

    assert divergence(was, Run(1, "charge", b"[2]")) == (
        'the journal has Run {"name": "charge", "arguments": [1]}, '
        'the code now does Run {"name": "charge", "arguments": [2]}'
    )
    assert divergence(Awakeable(1), Timer(1, 5)) == 'the journal has Awakeable, the code now does Timer {"due": 5}'
    assert divergence(was, now) == f"the journal has {was!r}, the code now does {now!r}"

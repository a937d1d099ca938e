"""So many handlers and steps at once, of a class and of all: what is too many waits, and nothing waits for ever."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from perdure.objects import Limits, Service, VirtualObject, handler, shared, step
from perdure.objects.limits import Priority
from perdure.runtime import Refused

if TYPE_CHECKING:
    from tests.runtime.durable.conftest import World

    Worlds = Callable[..., World]


class Bench:
    """Where steps work until they are told to end; it counts how many there were at once."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.at_work: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def work(self, kind: str, name: str) -> None:
        self.begun.append(name)
        self.at_work[kind] += 1
        self.most[kind] = max(self.most[kind], self.at_work[kind])
        try:
            await self.end_of(name).wait()
        finally:
            self.at_work[kind] -= 1

    def end_of(self, name: str) -> asyncio.Event:
        return self.ends.setdefault(name, asyncio.Event())

    def end(self, *names: str) -> None:
        for name in names:
            self.end_of(name).set()

    def end_all(self) -> None:
        for name in self.ends:
            self.end(name)


bench = Bench()


@pytest.fixture(autouse=True)
def new_bench() -> Iterator[None]:
    bench.__init__()  # type: ignore[misc]  # a new one under the old name
    yield
    bench.end_all()


@step
async def cut(name: str) -> str:
    await bench.work("cut", name)
    return name


@step
async def glue(name: str) -> str:
    await bench.work("glue", name)
    return name


class Saw(Service, limits=Limits(running=2)):
    @handler
    async def saw(self, name: str) -> str:
        return await self.ctx.run(cut, name)

    @handler
    async def saw_later(self, name: str) -> str:
        await self.ctx.sleep(60)
        return await self.ctx.run(cut, name)

    @handler
    async def saw_two(self, name: str) -> tuple[str, str]:
        return await asyncio.gather(self.ctx.run(cut, name + "1"), self.ctx.run(cut, name + "2"))

    @handler
    async def nothing(self, name: str) -> str:
        return name


class Glue(Service):
    @handler
    async def glue(self, name: str) -> str:
        return await self.ctx.run(glue, name)


class Desk(VirtualObject, limits=Limits(running=1)):
    done: list[str]

    @handler
    async def saw(self, name: str) -> list[str]:
        self.done.append(await self.ctx.run(cut, name))
        return self.done

    @shared
    async def look(self) -> list[str]:
        return self.done


class Nested(Service, limits=Limits(running=1, steps=1)):
    @handler
    async def nest(self, depth: int) -> int:
        await self.ctx.run(tick, depth)
        inner = await self.ctx.ref(Nested).nest(depth - 1) if depth else 0
        await self.ctx.run(tick, depth)
        return inner + 1


@step
async def tick(depth: int) -> int:
    return depth


class Planks(Service, limits=Limits(steps=2)):
    @handler
    async def saw(self, name: str, parts: int) -> list[str]:
        return await asyncio.gather(*(self.ctx.run(cut, f"{name}{part}") for part in range(parts)))


async def sent(world: World, handler: Any, *names: str, priority: Priority | None = None) -> list[str]:
    """Their ids, of as many as were sent; nobody waits for steps."""
    ids = [(await world.runtime.send(handler.options(priority=priority), name)).id for name in names]
    await asyncio.sleep(0)
    return ids


async def begun(world: World, count: int) -> None:
    """Until so many steps have begun, and then as long as more could begin."""
    await world.until(lambda: len(bench.begun) >= count)
    for _ in range(50):
        await asyncio.sleep(0)


async def results(world: World, ids: list[str]) -> list[Any]:
    async with asyncio.timeout(10):
        return [await world.runtime.handle(id).attach() for id in ids]


async def test_no_more_handlers_run_at_once_than_their_class_says(worlds: Worlds) -> None:
    world = await worlds(Saw).start()
    ids = await sent(world, world.ref(Saw).saw, *"abcde")
    await begun(world, 2)
    assert bench.begun == ["a", "b"]
    assert world.runtime.engine.limiter is not None
    assert world.runtime.engine.limiter.handlers.waiting("Saw") == 3

    bench.end("a")
    await begun(world, 3)
    assert bench.begun == ["a", "b", "c"], "in the order they came"

    bench.end(*"bcde")
    assert await results(world, ids) == [*"abcde"]
    assert bench.most["cut"] == 2


async def test_a_handler_with_two_steps_takes_one_place(worlds: Worlds) -> None:
    world = await worlds(Saw).start()
    ids = await sent(world, world.ref(Saw).saw_two, *"abc")
    await begun(world, 4)
    assert sorted(bench.begun) == ["a1", "a2", "b1", "b2"]

    bench.end("a1")
    await begun(world, 4)
    assert len(bench.begun) == 4, "its other step is at work"

    bench.end("a2")
    await begun(world, 6)
    bench.end_all()
    assert len(await results(world, ids)) == 3


async def test_what_waits_takes_no_place_and_asks_for_one_to_go_on(worlds: Worlds) -> None:
    world = await worlds(Saw).start()
    ids = await sent(world, world.ref(Saw).saw_later, *"abcd")
    for _ in range(50):
        await asyncio.sleep(0)
    assert all(world.invocation(id).last_turn == 1 for id in ids), "all sleep"

    assert await world.call(world.ref(Saw).nothing("x")) == "x"
    await world.advance(60)
    await begun(world, 2)
    assert len(bench.begun) == 2

    bench.end(*"abcd")
    assert await results(world, ids) == [*"abcd"]
    assert bench.most["cut"] == 2


async def test_handlers_that_call_each_other_deeper_than_the_cap_all_end(worlds: Worlds) -> None:
    world = await worlds(Nested, running_handlers_max=1, running_steps_max=1).start()
    assert await world.call(world.ref(Nested).nest(20)) == 21
    assert await asyncio.gather(*(world.runtime.ref(Nested).nest(7) for _ in range(5))) == [8] * 5


async def test_a_shared_handler_looks_on_while_all_places_are_taken(worlds: Worlds) -> None:
    world = await worlds(Desk).start()
    ids = [(await world.runtime.send(world.ref(Desk, key).saw, key)).id for key in "abb"]
    await begun(world, 1)
    assert await world.runtime.ref(Desk, "b").look() == []

    bench.end("a")
    await begun(world, 2)
    bench.end("b")
    assert await results(world, ids) == [["a"], ["b"], ["b", "b"]]


async def test_so_many_at_once_in_total_and_each_class_in_its_turn(worlds: Worlds) -> None:
    world = await worlds(Saw, Glue, running_handlers_max=2).start()
    many = await sent(world, world.ref(Saw).saw, *(f"s{n}" for n in range(30)))
    few = await sent(world, world.ref(Glue).glue, "g0", "g1", "g2")
    await begun(world, 2)
    assert bench.begun == ["s0", "s1"]

    for count in range(6):
        bench.end(bench.begun[count])
        await begun(world, 3 + count)
    assert sorted(bench.begun[2:]) == ["g0", "g1", "g2", "s2", "s3", "s4"], "in turn, though many more saws came first"

    bench.end(*(f"s{n}" for n in range(30)), "g0", "g1", "g2")
    assert len(await results(world, many + few)) == 33


async def test_no_more_steps_at_once_than_their_class_says(worlds: Worlds) -> None:
    world = await worlds(Planks).start()
    asked = asyncio.ensure_future(world.ref(Planks).saw("a", 4))
    await begun(world, 2)
    assert bench.begun == ["a0", "a1"]

    bench.end("a1")
    await begun(world, 3)
    assert bench.begun == ["a0", "a1", "a2"]
    bench.end("a0", "a2", "a3")
    assert await asked == ["a0", "a1", "a2", "a3"]
    assert bench.most["cut"] == 2


async def test_steps_in_total(worlds: Worlds) -> None:
    world = await worlds(Saw, Glue, running_steps_max=1).start()
    ids = await sent(world, world.ref(Saw).saw, "a", "b") + await sent(world, world.ref(Glue).glue, "g")
    await begun(world, 1)
    bench.end("a")
    await begun(world, 2)
    bench.end("b", "g")
    assert await results(world, ids) == ["a", "b", "g"]
    assert bench.most.total() == 2, "one of each, and never both"


async def test_who_is_killed_or_cancelled_while_waiting_leaves_the_line(worlds: Worlds) -> None:
    world = await worlds(Saw, Planks).start()
    ids = await sent(world, world.ref(Saw).saw, *"abcde")
    await begun(world, 2)
    await world.runtime.engine.operations.kill(ids[2])
    await world.runtime.engine.operations.cancel(ids[3])
    await world.runtime.engine.operations.kill(ids[0])
    await begun(world, 3)
    assert bench.begun == ["a", "b", "e"]
    bench.end("b", "e")
    await results(world, [ids[1], ids[4]])

    limiter = world.runtime.engine.limiter
    assert limiter is not None
    assert (limiter.handlers.held(), limiter.handlers.waiting(), limiter.waiting) == (0, 0, 0)


async def test_steps_that_are_not_wanted_any_more_leave_the_line(worlds: Worlds) -> None:
    world = await worlds(Planks).start()
    first = (await world.runtime.send(world.ref(Planks).saw, "a", 5)).id
    second = (await world.runtime.send(world.ref(Planks).saw, "b", 2)).id
    await begun(world, 2)
    limiter = world.runtime.engine.limiter
    assert limiter is not None
    killed = world.runtime.engine.operations.kill(first)
    assert limiter.steps.waiting() == 2, "those of the second"
    await killed
    await begun(world, 4)
    assert bench.begun == ["a0", "a1", "b0", "b1"]
    bench.end("b0", "b1")
    assert await results(world, [second]) == [["b0", "b1"]]
    assert (limiter.steps.held(), limiter.steps.waiting()) == (0, 0)


async def test_a_step_cancelled_before_its_first_line_gives_its_place_back(worlds: Worlds) -> None:
    """asyncio never runs such a task's coroutine, so that it can't say itself that it has left."""
    world = await worlds(Planks).start()
    limiter = world.runtime.engine.limiter
    assert limiter is not None
    first = (await world.runtime.send(world.ref(Planks).saw, "a", 2)).id
    await world.until(lambda: limiter.steps.held() == 2)
    assert bench.begun == []

    await world.runtime.engine.operations.kill(first)

    second = (await world.runtime.send(world.ref(Planks).saw, "b", 2)).id
    await begun(world, 2)
    bench.end("b0", "b1")
    assert await results(world, [second]) == [["b0", "b1"]]
    assert (limiter.steps.held(), limiter.steps.waiting()) == (0, 0)


class Patient(Service, limits=Limits(running=1)):
    @handler
    async def wait(self) -> str:
        try:
            await self.ctx.sleep(1_000)
        except asyncio.CancelledError:
            await self.ctx.run(glue, "undo")
            raise
        return "slept"

    @handler
    async def saw(self, name: str) -> str:
        return await self.ctx.run(cut, name)


async def test_what_is_cancelled_does_not_wait_for_a_place(worlds: Worlds) -> None:
    world = await worlds(Patient).start()
    waits = (await world.runtime.send(world.ref(Patient).wait)).id
    await asyncio.sleep(0)
    saws = await sent(world, world.ref(Patient).saw, "a")
    await begun(world, 1)
    await world.runtime.engine.operations.cancel(waits)
    await begun(world, 2)
    assert bench.begun == ["a", "undo"]
    bench.end("a", "undo")
    assert await results(world, saws) == ["a"]


async def test_also_what_waits_for_a_place_already(worlds: Worlds) -> None:
    world = await worlds(Patient).start()
    waits = (await world.runtime.send(world.ref(Patient).wait)).id
    await asyncio.sleep(0)
    saws = await sent(world, world.ref(Patient).saw, "a")
    await begun(world, 1)
    await world.advance(1_000)
    limiter = world.runtime.engine.limiter
    assert limiter is not None
    assert limiter.why_it_waits(waits) == "running"

    await world.runtime.engine.operations.cancel(waits)
    await world.until(lambda: world.invocation(waits).ended)
    bench.end("a")
    assert await results(world, saws) == ["a"]
    assert limiter.handlers.held() == 0


async def test_what_has_begun_goes_on_before_others_begin(worlds: Worlds) -> None:
    world = await worlds(Saw).start()
    ids = await sent(world, world.ref(Saw).saw_later, "a", priority="low")
    ids += await sent(world, world.ref(Saw).saw, *"bcdef", priority="high")
    await begun(world, 2)
    await world.advance(60)
    bench.end("b")
    await begun(world, 3)
    assert bench.begun == ["b", "c", "a"]
    bench.end(*"acdef")
    assert await results(world, ids) == [*"abcdef"]


class Stubborn(Service, limits=Limits(running=1, steps=1)):
    @handler
    async def fails(self, name: str) -> str:
        return await self.ctx.run(fail_twice, name)


failed: Counter[str] = Counter()


@step
async def fail_twice(name: str) -> str:
    failed[name] += 1
    if failed[name] % 3:
        raise RuntimeError("not yet")
    return name


async def test_what_backs_off_gives_its_place_to_others(worlds: Worlds) -> None:
    world = await worlds(Stubborn).start()
    ids = [await world.send(world.ref(Stubborn).fails, name) for name in "abc"]
    assert failed["a"] % 3 == failed["b"] % 3 == failed["c"] % 3 == 1
    await world.advance(60)
    assert await results(world, ids) == [*"abc"]


async def test_what_waited_for_a_place_at_a_crash_goes_on_after_it(worlds: Worlds) -> None:
    world = await worlds(Saw).start()
    ids = await sent(world, world.ref(Saw).saw, *"abcd")
    await begun(world, 2)
    assert bench.begun == ["a", "b"]

    await world.restart()
    bench.begun.clear()
    await begun(world, 2)
    assert len(bench.begun) == 2, "the cap holds after a crash too"
    bench.end(*"abcd")
    assert await results(world, ids) == [*"abcd"]


class Narrow(Service, name="Saw", limits=Limits(running=1)):
    @handler
    async def saw(self, name: str) -> str:
        return await self.ctx.run(cut, name)


async def test_a_lower_cap_lets_more_than_fit_end_one_after_another(worlds: Worlds) -> None:
    world = await worlds(Saw).start()
    ids = await sent(world, world.ref(Saw).saw, *"abc")
    await begun(world, 2)

    await world.restart(classes=[Narrow])
    bench.begun.clear()
    bench.most.clear()
    await begun(world, 1)
    assert len(bench.begun) == 1
    bench.end(*"abc")
    assert await results(world, ids) == [*"abc"]
    assert bench.most["cut"] == 1


async def test_who_has_priority_goes_first_within_the_class(worlds: Worlds) -> None:
    world = await worlds(Narrow).start()
    ids = await sent(world, world.ref(Narrow).saw, "a")
    await begun(world, 1)
    for name in ("low", "normal", "high"):
        priority: Any = name
        ids += await sent(world, world.ref(Narrow).saw, f"{name} 1", f"{name} 2", priority=priority)
    await asyncio.sleep(0)
    bench.end("a", *(f"{name} {n}" for name in ("low", "normal", "high") for n in (1, 2)))
    await results(world, ids)
    assert bench.begun == ["a", "high 1", "high 2", "normal 1", "normal 2", "low 1", "low 2"]


async def test_a_priority_is_kept_over_a_crash(worlds: Worlds) -> None:
    world = await worlds(Narrow).start()
    ids = await sent(world, world.ref(Narrow).saw, *"abcdef", priority="low")
    ids += await sent(world, world.ref(Narrow).saw, "!", priority="high")
    await begun(world, 1)
    await world.restart()
    bench.begun.clear()
    bench.end(*"abcdef!")
    await results(world, ids)
    assert bench.begun.index("!") <= 2, "behind what had begun, and what took the free place before all were looked at"


async def test_a_priority_never_reorders_one_key(worlds: Worlds) -> None:
    world = await worlds(Desk).start()
    one = world.ref(Desk, "one")
    ids = await sent(world, one.saw, "a") + await sent(world, one.saw, "b", "c", priority="low")
    ids += await sent(world, one.saw, "d", priority="high")
    bench.end(*"abcd")
    assert (await results(world, ids))[-1] == [*"abcd"]


async def test_the_low_ones_begin_in_time_although_high_ones_keep_coming(worlds: Worlds) -> None:
    world = await worlds(Narrow).start()
    ids = await sent(world, world.ref(Narrow).saw, "a")
    await begun(world, 1)
    ids += await sent(world, world.ref(Narrow).saw, "low", priority="low")
    for n in range(40):
        ids += await sent(world, world.ref(Narrow).saw, f"{n}a", f"{n}b", priority="high")
        bench.end(bench.begun[-1])
        await begun(world, n + 2)
    assert bench.begun.index("low") <= 17
    bench.end(*(f"{n}{part}" for n in range(40) for part in "ab"), "low")
    await results(world, ids)


async def test_what_waits_in_line_counts_as_queued(worlds: Worlds) -> None:
    world = await worlds(Saw, mailbox_total_max=3).start()
    ids = await sent(world, world.ref(Saw).saw, *"abcde")
    await begun(world, 2)
    with pytest.raises(Refused, match="3 invocations are queued") as refused:
        await world.runtime.send(world.ref(Saw).saw, "f")
    assert refused.value.status == 429
    bench.end(*"abcde")
    assert len(await results(world, ids)) == 5


async def test_a_class_without_limits_is_not_looked_at(worlds: Worlds) -> None:
    world = await worlds(Glue).start()
    assert world.runtime.engine.limiter is None

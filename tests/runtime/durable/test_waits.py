"""What else a handler may wait for: timers, awakeables, signals, promises, workflows, other invocations."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

import pytest
from msgspec import Struct

from perdure.objects import (
    Promise,
    Service,
    TerminalError,
    VirtualObject,
    Workflow,
    handler,
    shared,
)
from perdure.runtime import ManualClock, Refused
from perdure.runtime.clock import Alarm

if TYPE_CHECKING:
    from tests.runtime.durable.conftest import World

    Worlds = Callable[..., World]


class Reply(Struct, frozen=True):
    text: str
    score: int


class Hand(Service):
    @handler
    async def resolve(self, id: str, reply: Reply) -> str:
        try:
            self.ctx.resolve_awakeable(id, reply)
        except TerminalError as error:
            return f"{error.status}"
        return "done"

    @handler
    async def resolve_badly(self, id: str) -> list[str]:
        said: list[str] = []
        for value in ("text", {"text": 1, "score": 2}, {"text": "x"}):
            try:
                self.ctx.resolve_awakeable(id, value)
            except TerminalError as error:
                said.append(f"{error.status} {error}")
        return said

    @handler
    async def twice(self, id: str, one: Reply, other: Reply) -> list[str]:
        said: list[str] = []
        for reply in (one, other):
            try:
                self.ctx.resolve_awakeable(id, reply)
                said.append("done")
            except TerminalError as error:
                said.append(f"{error.status}")
        return said

    @handler
    async def reject(self, id: str, reason: str) -> None:
        self.ctx.reject_awakeable(id, reason)

    @handler
    async def signal(self, id: str, name: str, values: list[int]) -> str:
        for value in values:
            try:
                self.ctx.handle(id).signal(name, value)
            except TerminalError as error:
                return f"{error.status}"
        return "done"

    @handler
    async def reject_signal(self, id: str, name: str) -> None:
        self.ctx.handle(id).reject_signal(name, "no more")


class Waiter(VirtualObject):
    seen: list[str]
    id: str = ""
    drawn: list[str]

    @handler
    async def awaits(self) -> list[str]:
        awakeable = self.ctx.awakeable(Reply)
        self.id = awakeable.id
        for _ in range(2):
            self.seen.append((await awakeable).text)
        return self.seen

    @handler
    async def awaits_late(self) -> str:
        awakeable = self.ctx.awakeable(Reply)
        self.id = awakeable.id
        await self.ctx.sleep(60)
        return (await awakeable).text

    @handler
    async def awaits_rejected(self) -> str:
        awakeable = self.ctx.awakeable(Reply)
        self.id = awakeable.id
        try:
            await awakeable
        except TerminalError as error:
            return f"{type(error).__name__}: {error}"
        return ""

    @handler
    async def awaits_impatiently(self) -> list[str]:
        awakeable = self.ctx.awakeable(str)
        self.id = awakeable.id
        while True:
            try:
                async with asyncio.timeout(10):
                    self.seen.append(await awakeable)
                    return self.seen
            except TimeoutError:
                self.seen.append("still nothing")

    @handler
    async def awaits_by_many(self) -> list[str]:
        awakeable = self.ctx.awakeable(str)
        self.id = awakeable.id

        async def wait(awaited: Awaitable[str]) -> str:
            return await awaited

        return await asyncio.gather(*(wait(awakeable) for _ in range(3)))

    @handler
    async def own(self) -> str:
        awakeable = self.ctx.awakeable(str)
        self.ctx.resolve_awakeable(awakeable.id, "from myself")
        return await awakeable

    @handler
    async def null(self) -> list[str]:
        awakeable = self.ctx.awakeable(str | None)  # type: ignore[type-var, unused-ignore]
        self.id = awakeable.id
        return [repr(await awakeable)]

    @handler
    async def signals(self, name: str, count: int) -> list[int]:
        await self.ctx.sleep(10)
        return [await self.ctx.signal(name, int) for _ in range(count)]

    @handler
    async def two_signals(self) -> list[int]:
        first, second = self.ctx.signal("n", int), self.ctx.signal("n", int)
        return [await second, await first, await first]

    @handler
    async def rejected_signal(self) -> str:
        try:
            return str(await self.ctx.signal("n", int))
        except TerminalError as error:
            return str(error)

    @handler
    async def calls_twice(self) -> list[str]:
        handle = self.ctx.ref(Worker, "w").work.send(5)
        return [await handle.attach(), await handle.attach()]

    @handler
    async def cancels(self) -> str:
        handle = self.ctx.ref(Worker, "w").work.send(3_600)
        await self.ctx.sleep(1)
        handle.cancel()
        try:
            return await handle.attach()
        except TerminalError as error:
            return f"{error.status} {error}"

    @handler
    async def cancels_scheduled(self) -> None:
        handle = self.ctx.ref(Worker, "w").work.send_after(60, 1)
        self.id = handle.id
        await self.ctx.sleep(30)
        handle.cancel()

    @handler
    async def cancels_a_call(self) -> str:
        task = asyncio.ensure_future(self.ctx.ref(Worker, "w").work(3_600))
        await self.ctx.sleep(1)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
        return "done"

    @handler
    async def attaches_typed(self, id: str) -> Reply:
        return await self.ctx.handle(id, Reply).attach()

    @handler
    async def headers(self) -> dict[str, str]:
        return await self.ctx.ref(Worker, "w").told.options(headers={"x-tenant": "a"}, idempotency_key="k")()

    @handler
    async def lots(self) -> list[str]:
        for _ in range(3):
            random, uuid, now = self.ctx.random.random(), self.ctx.uuid(), self.ctx.now()
            self.drawn.append(f"{random} {uuid} {now.isoformat()} {self.ctx.random.randrange(10)}")
            await self.ctx.sleep(60)
        return self.drawn

    @handler
    async def sleeps(self) -> list[float]:
        start, loop, seen = self.ctx.now(), asyncio.get_running_loop(), list[float]()
        await self.ctx.sleep(1.5)
        seen.append((self.ctx.now() - start).total_seconds())
        await self.ctx.sleep(timedelta(minutes=1))
        seen.append((self.ctx.now() - start).total_seconds())
        await self.ctx.sleep(until=start + timedelta(hours=1))
        seen.append((self.ctx.now() - start).total_seconds())
        await self.ctx.sleep(until=start)
        seen.append((self.ctx.now() - start).total_seconds())
        rung = loop.create_future()
        cancelled = loop.call_later(5, rung.set_exception, RuntimeError("it was cancelled"))
        loop.call_later(10, rung.set_result, None)
        cancelled.cancel()
        await rung
        return [*seen, (self.ctx.now() - start).total_seconds()]

    @handler
    async def knows(self) -> list[str | None]:
        me = self.ctx.invocation
        return [me.id, me.caller, me.idempotency_key, str(me.attempt), me.created_at.isoformat(), *me.headers.values()]


class Worker(VirtualObject):
    done: ClassVar[list[str]] = []

    @handler
    async def work(self, seconds: float) -> str:
        await self.ctx.sleep(seconds)
        Worker.done.append(f"worked {seconds}")
        return f"worked {seconds}"

    @handler
    async def reply(self) -> Reply:
        await self.ctx.sleep(1)
        return Reply("yes", 3)

    @handler
    async def told(self) -> dict[str, str]:
        me = self.ctx.invocation
        return {**me.headers, "key": str(me.idempotency_key), "caller": str(me.caller)}


class Review(Workflow):
    verdict: Promise[str]
    score: Promise[int]
    stage: str = "begun"
    peeked: list[str]

    @handler
    async def run(self, what: str) -> str:
        self.peeked.append(repr(self.verdict.peek()))
        verdict = await self.verdict
        self.peeked.append(repr(self.verdict.peek()))
        self.stage = "decided"
        await self.ctx.sleep(10)
        return f"{what}: {verdict} {self.peeked}"

    @shared
    async def decide(self, verdict: str) -> str:
        try:
            self.verdict.resolve(verdict)
        except TerminalError as error:
            return f"{error.status}"
        return "done"

    @shared
    async def refuse(self, reason: str) -> None:
        self.verdict.reject(reason)

    @shared
    async def hear(self) -> str:
        return await self.verdict

    @shared
    async def score_badly(self) -> str:
        try:
            self.ctx.promise("score", int).resolve("many")  # type: ignore[arg-type]  # what no checker saw
        except TerminalError as error:
            return f"{error.status} {error}"
        return "done"

    @shared
    async def named(self, name: str) -> int:
        promise = self.ctx.promise(name, int)
        promise.resolve(7)
        return await promise

    @shared
    async def look(self) -> str:
        return self.stage


ALL = (Hand, Waiter, Worker, Review)


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    Worker.done.clear()


@pytest.fixture(params=["kept", "evicted", "restarted", "replay always"])
async def world(request: pytest.FixtureRequest, worlds: Worlds) -> World:
    """Four ways to come back to a wait: the stories are the same."""
    world: World = worlds(*ALL, replay_always=request.param == "replay always")
    advance = world.advance

    async def disturbed(seconds: float) -> None:
        if request.param == "evicted":
            world.evict()
        elif request.param == "restarted":
            await world.settle()
            await world.restart()
        await advance(seconds)

    world.advance = disturbed  # type: ignore[method-assign]
    return await world.start()


def id_in(world: World, key: str = "a") -> str:
    return world.fields("Waiter", key)["id"].decode().strip('"')


def seen_by(world: World, key: str = "a") -> bytes:
    return world.fields("Waiter", key).get("seen", b"[]")


# --- awakeables -------------------------------------------------------------------------------------------------------


async def test_an_awakeable_is_completed_from_outside_and_may_be_awaited_twice(world: World) -> None:
    id = await world.send(world.ref(Waiter, "a").awaits)
    await world.advance(1)

    await world.runtime.resolve_awakeable(id_in(world), {"text": "yes", "score": 1})

    assert await world.result(id) == ["yes", "yes"]


async def test_an_awakeable_is_completed_by_another_handler(world: World) -> None:
    id = await world.send(world.ref(Waiter, "a").awaits)
    await world.advance(1)

    assert await world.call(world.ref(Hand).resolve(id_in(world), Reply("yes", 1))) == "done"

    assert await world.result(id) == ["yes", "yes"]


async def test_a_completion_before_the_await_is_kept(world: World) -> None:
    id = await world.send(world.ref(Waiter, "a").awaits_late)
    await world.runtime.resolve_awakeable(id_in(world), {"text": "early", "score": 1})

    await world.advance(30)
    await world.advance(31)

    assert await world.result(id) == "early"


async def test_the_same_completion_again_is_nothing_and_another_is_409(world: World) -> None:
    """The same as JSON, whatever its spelling; also from a handler."""
    await world.send(world.ref(Waiter, "a").awaits_late)
    id = id_in(world)
    await world.runtime.resolve_awakeable(id, {"text": "yes", "score": 1})
    await world.advance(1)

    await world.runtime.resolve_awakeable(id, {"score": 1, "text": "yes"})
    with pytest.raises(Refused) as refused:
        await world.runtime.resolve_awakeable(id, {"text": "no", "score": 1})
    assert refused.value.status == 409
    with pytest.raises(Refused) as refused:
        await world.runtime.reject_awakeable(id, "no")
    assert refused.value.status == 409
    assert await world.call(world.ref(Hand).resolve(id, Reply("yes", 1))) == "done"
    assert await world.call(world.ref(Hand).resolve(id, Reply("no", 1))) == "409"


async def test_a_completion_of_another_type_is_400_and_leaves_it_open(world: World) -> None:
    id = await world.send(world.ref(Waiter, "a").awaits)
    await world.advance(1)

    for value in ("text", {"text": 1, "score": 2}, {"text": "x"}, None):
        with pytest.raises(Refused) as refused:
            await world.runtime.resolve_awakeable(id_in(world), value)
        assert refused.value.status == 400
    said = await world.call(world.ref(Hand).resolve_badly(id_in(world)))
    assert [line[:4] for line in said] == ["400 ", "400 ", "400 "]
    assert "$.text" in said[1]

    await world.runtime.resolve_awakeable(id_in(world), {"text": "yes", "score": 1})
    assert await world.result(id) == ["yes", "yes"]


async def test_two_completions_in_one_turn(world: World) -> None:
    """The second one knows of the first, although that isn't committed yet."""
    for key, other, verdict in (("a", "yes", "done"), ("b", "no", "409")):
        id = await world.send(world.ref(Waiter, key).awaits)
        arguments = (id_in(world, key), Reply("yes", 1), Reply(other, 1))

        assert await world.call(world.ref(Hand).twice(*arguments)) == ["done", verdict]
        assert await world.result(id) == ["yes", "yes"]


async def test_a_rejection_is_a_terminal_error_with_its_reason(world: World) -> None:
    for key in "ab":
        id = await world.send(world.ref(Waiter, key).awaits_rejected)
        await world.advance(1)
        if key == "a":
            await world.runtime.reject_awakeable(id_in(world, key), "too late")
        else:
            await world.call(world.ref(Hand).reject(id_in(world, key), "too late"))

        assert await world.result(id) == "TerminalError: too late"


@pytest.mark.parametrize("id", ["", "x", "inv_1", "awk_" + "0" * 40, "é", "x" * 5_000, "sign_1\n"])
async def test_an_unknown_awakeable_is_404(worlds: Worlds, id: str) -> None:
    world = await worlds(*ALL).start()

    with pytest.raises(Refused) as refused:
        await world.runtime.resolve_awakeable(id, 1)
    assert refused.value.status == 404
    assert len(str(refused.value)) < 500
    if id:
        assert await world.call(world.ref(Hand).resolve(id, Reply("x", 1))) == "404"


async def test_an_awakeable_of_a_handler_that_has_ended_is_404(worlds: Worlds) -> None:
    world = await worlds(*ALL).start()
    id = await world.send(world.ref(Waiter, "a").awaits_late)
    await world.runtime.engine.operations.cancel(id)
    await world.settle()

    with pytest.raises(Refused) as refused:
        await world.runtime.resolve_awakeable(id_in(world), {"text": "x", "score": 1})
    assert refused.value.status == 404


async def test_a_timeout_around_an_await_leaves_the_awakeable_alone(world: World) -> None:
    id = await world.send(world.ref(Waiter, "a").awaits_impatiently)
    await world.advance(10)
    await world.advance(10)
    assert seen_by(world) == b'["still nothing","still nothing"]'

    await world.runtime.resolve_awakeable(id_in(world), "at last")

    assert await world.result(id) == ["still nothing", "still nothing", "at last"]


async def test_many_tasks_may_wait_for_one_awakeable(world: World) -> None:
    id = await world.send(world.ref(Waiter, "a").awaits_by_many)
    await world.advance(1)
    await world.runtime.resolve_awakeable(id_in(world), "x")
    assert await world.result(id) == ["x", "x", "x"]


async def test_a_handler_may_complete_its_own_awakeable(world: World) -> None:
    assert await world.call(world.ref(Waiter, "a").own()) == "from myself"


async def test_an_awakeable_may_be_null(world: World) -> None:
    id = await world.send(world.ref(Waiter, "a").null)
    await world.runtime.engine.operations.resolve_awakeable(id_in(world), b"")
    assert await world.result(id) == ["None"]


# --- signals ----------------------------------------------------------------------------------------------------------


async def test_signals_are_buffered_and_come_in_order(world: World) -> None:
    """Before they are asked for, and after; each value once."""
    id = await world.send(world.ref(Waiter, "a").signals, "n", 4)
    await world.call(world.ref(Hand).signal(id, "n", [1, 2, 3]))
    await world.advance(10)

    await world.runtime.engine.operations.resolve_signal(id, "n", b"4")

    assert await world.result(id) == [1, 2, 3, 4]


async def test_signals_of_other_names_are_kept_apart(world: World) -> None:
    id = await world.send(world.ref(Waiter, "a").signals, "n", 1)
    await world.call(world.ref(Hand).signal(id, "m", [1]))
    await world.advance(10)
    assert not world.invocation(id).ended

    await world.call(world.ref(Hand).signal(id, "n", [2]))

    assert await world.result(id) == [2]


async def test_each_signal_takes_one_value_in_the_order_it_was_asked_for(world: World) -> None:
    id = await world.send(world.ref(Waiter, "a").two_signals)
    await world.advance(1)
    await world.call(world.ref(Hand).signal(id, "n", [1, 2]))
    assert await world.result(id) == [2, 1, 1]


async def test_a_rejected_signal_raises(world: World) -> None:
    id = await world.send(world.ref(Waiter, "a").rejected_signal)
    await world.advance(1)
    await world.call(world.ref(Hand).reject_signal(id, "n"))
    assert await world.result(id) == "no more"


async def test_a_signal_to_what_is_unknown_or_has_ended_is_404(worlds: Worlds) -> None:
    world = await worlds(*ALL).start()
    id = await world.send(world.ref(Waiter, "a").own)

    for target in (id, "inv_unknown"):
        assert await world.call(world.ref(Hand).signal(target, "n", [1])) == "404"
        with pytest.raises(Refused) as refused:
            await world.runtime.engine.operations.resolve_signal(target, "n", b"1")
        assert refused.value.status == 404


# --- workflows and promises -------------------------------------------------------------------------------------------


async def test_a_promise_may_be_resolved_before_and_awaited_after(world: World) -> None:
    assert await world.call(world.ref(Review, "r").decide("good")) == "done"
    await world.advance(1)

    id = await world.send(world.ref(Review, "r").run, "book")
    await world.advance(11)

    assert await world.result(id) == """book: good ["'good'", "'good'"]"""


async def test_a_promise_wakes_all_who_wait_and_a_peek_is_recorded(world: World) -> None:
    """The first look saw nothing, and does so in every replay."""
    id = await world.send(world.ref(Review, "r").run, "book")
    hears = [await world.send(world.ref(Review, "r").hear) for _ in range(2)]
    await world.advance(1)

    assert await world.call(world.ref(Review, "r").decide("good")) == "done"
    assert await world.call(world.ref(Review, "r").look()) == "decided"
    await world.advance(11)

    assert [await world.result(hear) for hear in hears] == ["good", "good"]
    assert await world.result(id) == """book: good ['None', "'good'"]"""
    assert "Paused" not in world.kinds()


async def test_a_promise_is_completed_once(world: World) -> None:
    """The same value again is nothing; another is 409; also after the workflow's end."""
    await world.call(world.ref(Review, "r").decide("good"))
    id = await world.send(world.ref(Review, "r").run, "book")
    for _ in range(2):
        assert await world.call(world.ref(Review, "r").decide("good")) == "done"
        assert await world.call(world.ref(Review, "r").decide("bad")) == "409"
        await world.advance(11)

    assert world.invocation(id).ended


async def test_a_rejected_promise_raises_where_it_is_awaited(world: World) -> None:
    await world.call(world.ref(Review, "r").refuse("conflict of interest"))

    with pytest.raises(TerminalError, match="conflict of interest"):
        await world.call(world.ref(Review, "r").hear())


async def test_a_promise_of_another_type_is_400(world: World) -> None:
    said = await world.call(world.ref(Review, "r").score_badly())
    assert said.startswith("400 promise score does not take this value")


async def test_a_promise_may_have_a_name_known_only_at_run_time(world: World) -> None:
    assert await world.call(world.ref(Review, "r").named("seven")) == 7


async def test_a_workflow_runs_once(world: World) -> None:
    """A second start attaches if its arguments are equal, else it is 409; also after the end and a restart."""
    first = await world.send(world.ref(Review, "r").run, "book")
    await world.call(world.ref(Review, "r").decide("good"))

    for _ in range(2):
        assert await world.send(world.ref(Review, "r").run, "book") == first
        with pytest.raises(Refused) as refused:
            await world.send(world.ref(Review, "r").run, "another book")
        assert refused.value.status == 409
        await world.advance(11)

    assert (await world.result(first)).startswith("book: good")
    assert await world.call(world.ref(Review, "r").look()) == "decided"


async def test_a_workflows_result_is_kept_for_the_retention_time(worlds: Worlds) -> None:
    world = await worlds(*ALL, workflow_retention_seconds=100).start()
    first = await world.send(world.ref(Review, "r").run, "book")
    await world.call(world.ref(Review, "r").decide("good"))
    await world.advance(50)
    assert await world.send(world.ref(Review, "r").run, "book") == first

    await world.advance(200)

    with pytest.raises(Refused) as refused:
        world.view(first)
    assert refused.value.status == 404


# --- other invocations ------------------------------------------------------------------------------------------------


async def test_a_handle_may_be_attached_to_twice(world: World) -> None:
    id = await world.send(world.ref(Waiter, "a").calls_twice)
    await world.advance(6)
    assert await world.result(id) == ["worked 5.0", "worked 5.0"]
    assert Worker.done == ["worked 5.0"]


async def test_a_handle_cancels(world: World) -> None:
    id = await world.send(world.ref(Waiter, "a").cancels)
    await world.advance(2)
    assert (await world.result(id)).startswith("409 ")
    assert Worker.done == []


async def test_a_scheduled_message_is_cancelled(world: World) -> None:
    id = await world.send(world.ref(Waiter, "a").cancels_scheduled)
    assert world.view(id_in(world)).status == "scheduled"
    await world.advance(31)
    await world.advance(100)

    assert await world.result(id) is None
    assert Worker.done == []


async def test_a_cancelled_task_cancels_its_call(world: World) -> None:
    id = await world.send(world.ref(Waiter, "a").cancels_a_call)
    await world.advance(2)
    assert await world.result(id) == "cancelled"
    kernel = world.runtime.engine.kernel
    assert [one.target for one in kernel.invocations.values() if one.service == "Worker" and not one.ended] == []
    await world.advance(3_600)
    assert Worker.done == []


async def test_a_handle_by_its_id_reads_the_result_as_a_type(world: World) -> None:
    replying = await world.send(world.ref(Worker, "w").reply)
    id = await world.send(world.ref(Waiter, "a").attaches_typed, replying)
    await world.advance(2)
    # `attach()` of a handle without a type gives plain JSON
    assert await world.result(id) == {"text": "yes", "score": 3}


async def test_headers_and_idempotency_key_reach_the_callee(world: World) -> None:
    id = await world.send(world.ref(Waiter, "a").headers)
    assert await world.result(id) == {"x-tenant": "a", "key": "k", "caller": id}


# --- time, chance, identity -------------------------------------------------------------------------------------------


async def test_chance_is_the_same_in_every_replay(world: World) -> None:
    """What it drew is in its state, so a replay that drew otherwise would be paused."""
    id = await world.send(world.ref(Waiter, "a").lots)
    for _ in range(4):
        await world.advance(60)

    drawn = await world.result(id)
    assert len(set(drawn)) == 3
    assert "Paused" not in world.kinds()


async def test_two_invocations_draw_differently(worlds: Worlds) -> None:
    world = await worlds(*ALL).start()
    ids = [await world.send(world.ref(Waiter, key).lots) for key in "ab"]
    await world.advance(300)
    first, second = [await world.result(id) for id in ids]
    assert {line.split()[0] for line in first}.isdisjoint(line.split()[0] for line in second)


async def test_every_way_to_sleep(world: World) -> None:
    id = await world.send(world.ref(Waiter, "a").sleeps)
    for _ in range(8):
        await world.advance(600)
    assert await world.result(id) == [1.5, 61.5, 3600.0, 3600.0, 3610.0]


async def test_an_invocation_knows_itself(worlds: Worlds) -> None:
    world = await worlds(*ALL).start()
    ref = world.ref(Waiter, "a").knows
    id = await world.send(ref.options(idempotency_key="k", headers={"x-tenant": "t"}))

    created = datetime.fromtimestamp(world.started_us / 1e6, UTC).isoformat()
    assert await world.result(id) == [id, None, "k", "1", created, "t"]


async def test_a_timer_due_while_the_process_was_down_fires_once_soon_after_the_start(worlds: Worlds) -> None:
    world = await worlds(*ALL).start()
    id = await world.send(world.ref(Worker, "w").work, 60)
    await world.crash()
    world.clock.advance_to_next(world.clock.now_us() + 3_600_000_000)

    await world.start()
    await world.advance(0)

    assert await world.result(id) == "worked 60.0"
    assert Worker.done == ["worked 60.0"]


async def test_a_week_of_sleeps_takes_no_time(worlds: Worlds) -> None:
    world = await worlds(*ALL).start()
    async with asyncio.timeout(5):
        id = await world.send(world.ref(Worker, "w").work, 7 * 86_400)
        await world.runtime.advance(timedelta(days=7))
    assert await world.result(id) == "worked 604800.0"


async def test_who_waits_for_a_promise_waits_on_when_its_run_is_purged(worlds: Worlds) -> None:
    """As who comes before the run: the id may be used again, and what is decided then is for them too."""
    world = await worlds(Review).start()
    review = world.ref(Review, "r")
    run = await world.send(review.run, "a book")
    hears, gave_up = await world.send(review.hear), await world.send(review.hear)
    await world.runtime.handle(gave_up).cancel()
    await world.runtime.handle(run).cancel()
    await world.settle()
    await world.runtime.engine.operations.purge(run)
    await world.restart()

    await world.call(world.ref(Review, "r").decide("good"))

    assert await world.result(hears) == "good"


async def test_who_has_stopped_waiting_is_not_kept(worlds: Worlds) -> None:
    """A promise that nobody completes, and many who ask for a while: what is kept of them doesn't grow for ever."""
    world = await worlds(Review).start()
    review = world.ref(Review, "r")
    for _ in range(100):
        asked = await world.send(review.hear)
        await world.runtime.handle(asked).cancel()
        await world.settle()

    entry = world.runtime.engine.kernel.entry("Review", "r")
    assert entry is not None
    assert entry.promises is not None
    assert len(entry.promises["verdict"].waiters) < 64


class Own(Service):
    @handler
    async def completes(self, values: list[str | int]) -> str:
        """An awakeable of its own, in the turn that made it."""
        awakeable = self.ctx.awakeable(str)
        try:
            for value in values:
                self.ctx.resolve_awakeable(awakeable.id, value)
        except TerminalError as error:
            return str(error.status)
        return await awakeable


@pytest.mark.parametrize(
    ("values", "comes"), [(["x"], "x"), (["x", "x"], "x"), (["x", "y"], "409"), ([5], "400"), (["x", 5], "409")]
)
async def test_an_awakeable_completed_in_the_turn_that_made_it(
    worlds: Worlds, values: list[str | int], comes: str
) -> None:
    """Is refused what any other would be."""
    world = await worlds(Own).start()
    assert await world.call(world.ref(Own).completes(values)) == comes


class NappingClock(ManualClock):
    """Rings after a minute at the latest, as the system's does, however late it was to ring."""

    def call_at(self, when_us: int, callback: Callable[[], object]) -> Alarm:
        return super().call_at(min(when_us, self.now_us() + 60_000_000), callback)


class Stubborn(VirtualObject):
    left: ClassVar[asyncio.Event]

    @handler
    async def works(self) -> None:
        async with asyncio.timeout(1):
            await self.ctx.run(does_not_stop)

    @handler
    async def next(self) -> str:
        return "begun"


async def does_not_stop() -> None:
    try:
        await asyncio.sleep(10_000)
    finally:
        await Stubborn.left.wait()


async def test_a_key_is_held_for_the_whole_grace_of_a_step(worlds: Worlds) -> None:
    """Also where that is longer than a clock naps."""
    Stubborn.left = asyncio.Event()
    world = worlds(Stubborn, step_grace_seconds=300)
    world.clock = NappingClock()
    await world.start()
    await world.send(world.ref(Stubborn, "a").works)
    await world.advance(2)
    id = await world.send(world.ref(Stubborn, "a").next)

    await world.advance(290)
    assert not world.invocation(id).ended
    await world.advance(20)

    assert await world.result(id) == "begun"
    Stubborn.left.set()

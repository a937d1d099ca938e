"""How often a class may begin: a request that is too many is refused, what was accepted or is a handler's own waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from perdure.objects import Limits, Rate, Service, VirtualObject, every, handler
from perdure.objects.limits import Priority
from perdure.runtime.admission import Refused
from perdure.runtime.rates import Buckets

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]

HOUR_US = 3_600_000_000


class Mail(Service, limits=Limits(rate=Rate(count=3, per=60))):
    at: ClassVar[list[tuple[float, str]]] = []

    @handler
    async def post(self, text: str) -> str:
        Mail.at.append((self.ctx.now().timestamp(), text))
        return text

    @handler
    async def fails_once(self, text: str) -> str:
        Mail.at.append((self.ctx.now().timestamp(), text))
        if len(Mail.at) == 1:
            raise RuntimeError("not yet")
        return text


class Office(VirtualObject):
    @handler
    async def post_all(self, texts: list[str]) -> int:
        for text in texts:
            self.ctx.ref(Mail).post.send(text)
        return len(texts)

    @handler
    async def post_urgent(self, texts: list[str]) -> None:
        for text in texts:
            priority: Priority = "high" if text.startswith("!") else "low"
            self.ctx.ref(Mail).post.options(priority=priority).send(text)

    @handler
    async def post_and_wait(self, text: str) -> str:
        return await self.ctx.ref(Mail).post(text)

    @handler
    async def ring_all(self, keys: list[str]) -> None:
        for key in keys:
            self.ctx.ref(Bell, key).ring.send()

    @handler
    async def fails_once(self) -> None:
        self.ctx.ref(Mail).fails_once.send("a")


class Bell(VirtualObject, limits=Limits(rate_per_key=Rate(count=1, per=10))):
    rung: list[float]

    @handler
    async def ring(self) -> list[float]:
        self.rung.append(self.ctx.now().timestamp())
        return self.rung


class Chimes(Service, limits=Limits(rate=Rate(count=1, per=3_600))):
    rung: ClassVar[list[float]] = []

    @handler(schedules=[every(timedelta(minutes=30))])
    async def ring(self) -> None:
        Chimes.rung.append(self.ctx.now().timestamp())


@pytest.fixture(autouse=True)
def nothing_posted() -> None:
    Mail.at.clear()
    Chimes.rung.clear()


def refused(world: World, path: str, body: object = None, **options: Any) -> tuple[str, int | None]:
    with pytest.raises(Refused) as caught:
        world.submit(path, body, **options)
    assert caught.value.status == 429
    return caught.value.message, caught.value.retry_after_seconds


def posted(world: World) -> list[tuple[float, str]]:
    """When, in seconds since the start, and what."""
    return [(round(at - world.started / 1e6, 3), text) for at, text in Mail.at]


async def test_a_request_that_is_too_many_is_refused_and_leaves_nothing(worlds: Worlds) -> None:
    world = await worlds(Mail).start()
    for text in "abc":
        assert await world.call("Mail/post", text) == text
    recorded = len(world.journal.records)

    message, retry_after = refused(world, "Mail/post", "d", send=True)
    assert message == "Mail takes 3 in 60 s; nothing was kept of this request: ask again in 20 s"
    assert retry_after == 20
    assert len(world.journal.records) == recorded

    await world.advance(0.4)
    assert refused(world, "Mail/post", "d")[1] == 20, "19.6 s, rounded up"
    await world.advance(19.6)
    assert await world.call("Mail/post", "d") == "d"
    assert refused(world, "Mail/post", "e")[1] == 20


async def test_one_key_does_not_take_from_another(worlds: Worlds) -> None:
    world = await worlds(Bell).start()
    assert len(await world.call("Bell/a/ring")) == 1
    assert len(await world.call("Bell/b/ring")) == 1
    message, retry_after = refused(world, "Bell/a/ring")
    assert message == "one key of Bell takes 1 in 10 s; nothing was kept of this request: ask again in 10 s"
    assert retry_after == 10
    await world.advance(10)
    assert len(await world.call("Bell/a/ring")) == 2


async def test_a_known_idempotency_key_is_never_refused_and_pays_nothing(worlds: Worlds) -> None:
    world = await worlds(Mail).start()
    for _ in range(10):
        assert await world.call("Mail/post", "a", idempotency_key="k") == "a"
    assert await world.call("Mail/post", "b") == "b"
    assert await world.call("Mail/post", "c") == "c"
    refused(world, "Mail/post", "d", idempotency_key="new")
    assert await world.call("Mail/post", "a", idempotency_key="k") == "a"


async def test_what_is_refused_for_another_reason_pays_nothing(worlds: Worlds) -> None:
    world = await worlds(Mail).start()
    for _ in range(10):
        with pytest.raises(Refused) as caught:
            world.submit("Mail/post", 5)
        assert caught.value.status == 400
    for text in "abc":
        await world.call("Mail/post", text)


async def test_messages_of_handlers_wait_for_their_rate(worlds: Worlds) -> None:
    world = await worlds(Mail, Office).start()
    await world.call("Office/o/post_all", [*"abcdef"])
    await world.settle()
    assert posted(world) == [(0, "a"), (0, "b"), (0, "c")]

    message, retry_after = refused(world, "Mail/post", "x")
    assert retry_after == 80, f"behind those that wait: {message}"
    await world.advance(60)
    assert posted(world)[3:] == [(20, "d"), (40, "e"), (60, "f")]


async def test_calls_of_handlers_wait_for_their_rate(worlds: Worlds) -> None:
    world = await worlds(Mail, Office).start()
    calls = [world.submit(f"Office/{n}/post_and_wait", str(n)) for n in range(5)]
    await world.advance(40)
    assert posted(world) == [(0, "0"), (0, "1"), (0, "2"), (20, "3"), (40, "4")]
    assert [msg for msg in [await world.outcome_of(call) for call in calls] if not msg] == []


async def test_messages_for_one_key_wait_in_order_and_do_not_hold_up_another(worlds: Worlds) -> None:
    world = await worlds(Bell, Office).start()
    await world.call("Office/o/ring_all", ["a", "a", "a", "b"])
    await world.advance(5)
    assert len(world.state("Bell", "a")["rung"]) == 1
    assert len(world.state("Bell", "b")["rung"]) == 1
    await world.advance(15)
    began = world.started / 1e6
    assert world.state("Bell", "a")["rung"] == [began, began + 10, began + 20]


async def test_what_was_delayed_pays_when_it_is_due(worlds: Worlds) -> None:
    world = await worlds(Mail).start()
    for n in range(5):
        world.submit("Mail/post", str(n), send=True, delay_us=HOUR_US)
    assert await world.call("Mail/post", "now") == "now"
    await world.advance(3_640)
    assert posted(world)[1:] == [(3_600, "0"), (3_600, "1"), (3_600, "2"), (3_620, "3"), (3_640, "4")]


async def test_ticks_of_a_schedule_wait_for_their_rate(worlds: Worlds) -> None:
    world = await worlds(Chimes).start()
    await world.advance(3 * 3_600)
    times = [round(at - world.started / 1e6) for at in Chimes.rung]
    assert len(times) >= 2
    assert all(later - earlier >= 3_600 for earlier, later in pairwise(times))


async def test_an_attempt_after_a_failure_pays_nothing(worlds: Worlds) -> None:
    world = await worlds(Mail, Office).start()
    await world.call("Mail/post", "x")
    Mail.at.clear()
    await world.call("Office/o/fails_once")
    await world.advance(10)
    assert len(Mail.at) == 2
    assert await world.call("Mail/post", "y") == "y", "the third and last"


async def test_those_with_priority_go_first_when_a_rate_frees_one(worlds: Worlds) -> None:
    world = await worlds(Mail, Office).start()
    for text in "abc":
        await world.call("Mail/post", text)
    await world.call("Office/o/post_urgent", ["d", "e", "!f", "!g"])
    await world.advance(80)
    assert [text for _, text in posted(world)] == ["a", "b", "c", "!f", "!g", "d", "e"]


async def test_who_is_killed_while_waiting_pays_nothing(worlds: Worlds) -> None:
    world = await worlds(Mail, Office).start()
    await world.call("Office/o/post_all", [*"abcdef"])
    await world.settle()
    for waiting in world.invocations("Mail/post"):
        if not waiting.ended:
            await world.engine.operations.kill(waiting.id)
    limiter = world.engine.limiter
    assert limiter is not None
    assert limiter.waiting == 0
    await world.advance(20)
    assert await world.call("Mail/post", "x") == "x"


async def test_a_restart_is_no_way_around_a_rate(worlds: Worlds) -> None:
    world = await worlds(Mail).start()
    for text in "abc":
        await world.call("Mail/post", text, send=False, idempotency_key=text)
    for n in range(3):
        await world.restart()
        assert await world.call("Mail/post", f"after start {n}") == f"after start {n}"
        assert refused(world, "Mail/post", "x")[1] == 20, "one, not a burst"

    await world.advance(60)
    for text in "def":
        await world.call("Mail/post", text)
    refused(world, "Mail/post", "g")


async def test_what_waited_for_its_rate_at_a_crash_begins_after_it(worlds: Worlds) -> None:
    world = await worlds(Mail, Office).start()
    await world.call("Office/o/post_all", [*"abcdef"])
    await world.settle()
    assert len(Mail.at) == 3
    await world.advance(5)

    await world.restart()
    await world.advance(60)
    texts = [text for _, text in posted(world)]
    assert sorted(texts) == [*"abcdef"]
    assert [at for at, _ in posted(world)][3:] == [5, 25, 45]
    assert world.dump() == world.rebuilt_dump()


class Timed(Service, limits=Limits(rate=Rate(count=1, per=60))):
    @handler
    async def call(self) -> str:
        await self.ctx.sleep(1)
        async with asyncio.timeout(30):
            await self.ctx.sleep(20)
        return "in time"


class Asking(Service):
    @handler
    async def ask(self) -> list[str]:
        return await asyncio.gather(*(self.ctx.ref(Timed).call() for _ in range(3)))


async def test_time_begins_when_it_begins_and_not_when_it_could_have(worlds: Worlds) -> None:
    world = await worlds(Timed, Asking).start()
    asked = world.submit("Asking/ask", send=True)
    await world.advance(122)
    assert not world.invocation(asked).ended, "the third began at 120 s, and sleeps for 21"
    await world.restart()
    await world.advance(19)
    assert world.invocation(asked).ended
    assert world.kinds().count("Begun") == 2
    assert world.dump() == world.rebuilt_dump()


class Both(VirtualObject, limits=Limits(running=1, rate=Rate(count=2, per=10), rate_per_key=Rate(count=1, per=1))):
    @handler
    async def nap(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return self.key


async def test_all_limits_of_a_class_hold_together(worlds: Worlds) -> None:
    world = await worlds(Both).start()
    assert await world.call("Both/a/nap", 0) == "a"
    assert refused(world, "Both/a/nap", 0)[0].startswith("one key of Both takes 1 in 1 s")
    assert await world.call("Both/b/nap", 0) == "b"
    assert refused(world, "Both/c/nap", 0) == (
        "Both takes 2 in 10 s; nothing was kept of this request: ask again in 5 s",
        5,
    )


# --- the buckets ------------------------------------------------------------------------------------------------------


def test_a_million_keys_leave_no_memory_when_they_are_full_again() -> None:
    buckets = Buckets(Rate(count=10, per=1, burst=5), None)
    for n in range(100_000):  # a thousand a second: each is full again after a tenth
        buckets.take(f"key {n}", n * 1_000)
    assert len(buckets) <= 102


def test_a_bucket_that_is_forgotten_is_as_it_would_be() -> None:
    kept, swept = (Buckets(Rate(count=3, per=30, burst=3), 0) for _ in range(2))
    for at_us in range(0, 100_000_000, 4_000_000):
        assert (kept.free_at("a") <= at_us) == (swept.free_at("a") <= at_us)
        if kept.free_at("a") <= at_us:
            kept.take("a", at_us)
            swept.take("a", at_us)
        swept.take("b", at_us)
        swept.sweep(at_us)


@pytest.mark.parametrize(("count", "per", "burst"), [(3, 1.0, None), (7, 60.0, 2), (1_000, 1.0, 10), (1, 0.001, 1)])
def test_never_more_than_the_rate_in_any_window(count: int, per: float, burst: int | None) -> None:
    """Asked for more and more often than it gives: at most a burst, and then the rate."""
    buckets = Buckets(Rate(count=count, per=per, burst=burst), None)
    step_us = max(1, round(per * 1e6 / count / 7))
    taken = 0
    for at_us in range(0, 200 * step_us, step_us):
        if buckets.free_at("") <= at_us:
            buckets.take("", at_us)
            taken += 1
        assert taken <= (burst or count) + at_us / 1e6 * count / per + 1e-6
    assert taken >= min(200, (burst or count) + int(200 * step_us / 1e6 * count / per) - 2)


async def test_a_clock_that_was_ahead_for_a_moment_closes_no_door(worlds: Worlds) -> None:
    """An hour, and set back: nobody waits for that hour, outside or inside."""
    world = await worlds(Mail, Office, Bell).start()
    await world.advance(3_600)
    assert len(await world.call("Bell/a/ring")) == 1
    world.clock._now_us -= 3_600_000_000  # pyright: ignore[reportPrivateUsage]

    for rung in range(2, 6):
        await world.advance(10)
        assert len(await world.call("Bell/a/ring")) == rung
    await world.call("Office/o/post_all", ["a", "b", "c", "d"])
    await world.advance(60)
    assert len(posted(world)) == 4

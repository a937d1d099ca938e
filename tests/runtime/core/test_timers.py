"""Durable time: sleeps, timeouts and delayed messages that outlive the process, a week of them in milliseconds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from perdure.objects import Service, VirtualObject, handler
from perdure.runtime import alarms
from perdure.runtime.clock import ManualClock
from perdure.runtime.records import CancelTimer, Notified, Success, Timer, Turn
from perdure.runtime.timers import Timers

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]

SEED = 20_261_125
DAY = 86_400.0


class Sleeper(VirtualObject):
    events: list[str]

    def say(self, what: str) -> None:
        self.events.append(f"{asyncio.get_running_loop().time() - 1_767_225_600:g} {what}")

    @handler
    async def week(self) -> list[str]:
        for day in range(7):
            await asyncio.sleep(DAY)
            self.say(f"day {day}")
        return self.events

    @handler
    async def together(self) -> list[str]:
        """Made in one order, due in another; three of them at one moment."""

        async def after(delay: float, name: str) -> None:
            await asyncio.sleep(delay)
            self.say(name)

        await asyncio.gather(*(after(*one) for one in [(3, "a"), (1, "b"), (2, "c"), (2, "d"), (2, "e"), (1, "f")]))
        return self.events

    @handler
    async def quick(self, count: int) -> str:
        """Many timeouts that are never reached, within one turn."""
        for _ in range(count):
            async with asyncio.timeout(30):
                await asyncio.sleep(0)
        return "done"

    @handler
    async def waits_for_a_call(self) -> str:
        try:
            async with asyncio.timeout(5):
                await self.ctx.ref(Sleeper, "other").nap(2)
        except TimeoutError:
            return "late"
        return "in time"

    @handler
    async def nap(self, seconds: float) -> str:
        await self.ctx.sleep(seconds)
        self.say("woke")
        return "rested"

    @handler
    async def until(self) -> str:
        await self.ctx.sleep(until=datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC))
        await self.ctx.sleep(timedelta(seconds=30))
        return self.ctx.now().isoformat()

    @handler
    async def wait_for(self) -> str:
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 7)
        except TimeoutError:
            self.say("gave up")
        return self.events[-1]

    @handler
    async def never(self) -> str:
        """A timeout of None and one that lies centuries ahead are no trouble."""
        async with asyncio.timeout(None), asyncio.timeout(1e12):
            await asyncio.sleep(3)
        return "fine"

    @handler
    async def at_once(self) -> float:
        await asyncio.sleep(0)
        await asyncio.sleep(-5)
        return asyncio.get_running_loop().time() - 1_767_225_600

    @handler
    async def cancels_a_fired_one(self) -> str:
        loop = asyncio.get_running_loop()
        fired = asyncio.Event()
        timer = loop.call_later(1, fired.set)
        await fired.wait()
        timer.cancel()
        timer.cancel()
        await asyncio.sleep(1)
        return "fine"

    @handler
    async def cancels_one_that_waits(self) -> list[str]:
        """One made in an earlier turn: its cancellation is recorded, and it never fires."""
        timer = asyncio.get_running_loop().call_later(100, self.say, "fired")
        await asyncio.sleep(1)
        timer.cancel()
        await asyncio.sleep(200)
        return self.events

    @handler
    async def both_due_at_once(self) -> list[str]:
        """Two timers of one moment: the first one's turn cancels the second one, which was notified already."""
        loop = asyncio.get_running_loop()
        second: list[asyncio.TimerHandle] = []

        def first() -> None:
            self.say("first")
            second[0].cancel()

        loop.call_later(5, first)
        second.append(loop.call_later(5, self.say, "second"))
        await asyncio.sleep(6)
        return self.events


class Post(VirtualObject):
    got: list[str]

    @handler
    async def take(self, text: str) -> None:
        self.got.append(text)

    @handler
    async def remind_me(self) -> None:
        me = self.ctx.ref(Post, self.key)
        me.take.send_after(20, "late")
        me.take.send_after(timedelta(seconds=10), "early")
        me.take.send_after(0, "now")
        me.take.send("at once")


class Desk(Service):
    @handler
    async def send_in_order(self, key: str, count: int) -> None:
        for n in range(count):
            self.ctx.ref(Post, key).take.send(str(n))
            if n % 3 == 0:
                await asyncio.sleep(0.001)


async def test_a_week_of_sleep(worlds: Worlds) -> None:
    """Seven sleeps of a day, a restart every other day, no time at all for us."""
    world = await worlds(Sleeper).start()
    world.submit("Sleeper/s/week", idempotency_key="k")

    for _ in range(4):
        await world.advance(1.8 * DAY)
        await world.restart()

    expected = [f"{(day + 1) * DAY:g} day {day}" for day in range(7)]
    assert await world.call("Sleeper/s/week", idempotency_key="k") == expected


async def test_timers_fire_in_order_of_time_then_of_command(worlds: Worlds) -> None:
    world = await worlds(Sleeper).start()
    submission = world.submit("Sleeper/s/together")

    await world.advance(10)

    assert await world.outcome_of(submission) == Success(b'["1 b","1 f","2 c","2 d","2 e","3 a"]')


async def test_timers_that_were_due_during_the_downtime_fire_once_and_in_order(worlds: Worlds) -> None:
    """The process was away for an hour; each turn still has the time at which its timer really fired."""
    world = await worlds(Sleeper).start()
    world.submit("Sleeper/s/together", idempotency_key="k")
    await world.settle()
    await world.crash()
    world.sleep_while_down(3600)

    await world.start()
    await world.advance(0)

    said = await world.call("Sleeper/s/together", idempotency_key="k")
    assert [what.split()[1] for what in said] == ["b", "f", "c", "d", "e", "a"]
    assert {what.split()[0] for what in said} == {"3600"}
    assert world.kinds().count("Notified") == 6


async def test_what_is_overdue_at_a_checkpoint_and_has_not_fired_is_not_lost(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many fall due while no process is there; the next one is killed when some have fired, and all is in the store."""
    monkeypatch.setattr(alarms, "_FIRED_AT_ONCE", 2)
    monkeypatch.setattr(alarms, "_FIRED_AT_LEAST", 2)
    world = await worlds(Sleeper).start()
    sleepers = [world.submit(f"Sleeper/{n}/week", idempotency_key="k") for n in range(12)]
    await world.advance(1)
    await world.restart()
    await world.crash()
    world.sleep_while_down(2 * DAY)

    await world.start()
    while "Notified" not in world.kinds():
        world.clock.advance_to_next(world.clock.now_us())
        await asyncio.sleep(0)
    assert world.kinds().count("Notified") == 2
    await world.restart()
    await world.advance(0)

    turns = [world.invocation(sleeper).last_turn for sleeper in sleepers]
    assert turns == [2] * 12


async def test_a_timer_cancelled_in_the_turn_that_made_it_is_never_journaled(worlds: Worlds) -> None:
    """A thousand timeouts that weren't reached cost nothing."""
    world = await worlds(Sleeper).start()

    assert await world.call("Sleeper/s/quick", 1000) == "done"

    assert world.kinds() == ["Invoked", "Turn"]
    assert [turn.commands for turn in world.recorded() if isinstance(turn, Turn)] == [[]]


async def test_a_timeout_that_was_not_reached_is_cancelled(worlds: Worlds) -> None:
    world = await worlds(Sleeper).start()
    submission = world.submit("Sleeper/s/waits_for_a_call")

    await world.advance(60)

    assert await world.outcome_of(submission) == Success(b'"in time"')
    assert len(world.engine.kernel.timers) == 0
    assert sum(isinstance(record, Notified) for record in world.recorded()) == 1


@pytest.mark.parametrize(
    ("handler_name", "result"),
    [
        ("until", b'"2026-01-01T00:01:00+00:00"'),
        ("wait_for", b'"7 gave up"'),
        ("never", b'"fine"'),
        ("at_once", b"0.0"),
        ("cancels_a_fired_one", b'"fine"'),
        ("cancels_one_that_waits", b"[]"),
        ("both_due_at_once", b'["5 first"]'),
    ],
)
@pytest.mark.parametrize("evict_always", [False, True])
async def test_a_handler_and_its_time(worlds: Worlds, handler_name: str, result: bytes, evict_always: bool) -> None:
    world: World = worlds(Sleeper)
    world.evict_always = evict_always
    await world.start()
    submission = world.submit(f"Sleeper/s/{handler_name}")

    await world.advance(1000)

    assert await world.outcome_of(submission) == Success(result)
    assert len(world.engine.kernel.timers) == 0


async def test_a_cancelled_timer_of_an_earlier_turn_is_recorded_as_cancelled(worlds: Worlds) -> None:
    world = await worlds(Sleeper).start()
    submission = world.submit("Sleeper/s/cancels_one_that_waits")
    await world.advance(2)

    commands = [command for record in world.recorded() if isinstance(record, Turn) for command in record.commands]

    assert [type(command) for command in commands] == [Timer, Timer, CancelTimer, Timer]
    assert world.invocation(submission).history is not None
    assert len(world.engine.kernel.timers) == 1


async def test_delayed_messages_join_when_they_are_due(worlds: Worlds) -> None:
    """Also over a restart, and each once."""
    world = await worlds(Post).start()
    await world.call("Post/p/remind_me")
    world.submit("Post/p/take", "from outside", send=True, delay_us=15_000_000)
    assert world.state("Post", "p") == {"got": ["now", "at once"]}

    await world.advance(12)
    await world.restart()
    await world.advance(12)
    await world.restart()
    await world.advance(60)

    assert world.state("Post", "p") == {"got": ["now", "at once", "early", "from outside", "late"]}


async def test_messages_of_one_handler_to_one_key_arrive_in_their_order(worlds: Worlds) -> None:
    """Over many turns, with two other senders in between."""
    world = await worlds(Post, Desk).start()
    world.submit("Desk/send_in_order", {"key": "p", "count": 50})
    for n in range(20):
        world.submit("Post/p/take", f"outside {n}", send=True)
        await world.advance(0.002)
    await world.advance(1)

    got = world.state("Post", "p")["got"]
    assert [text for text in got if not text.startswith("outside")] == [str(n) for n in range(50)]
    assert [text for text in got if text.startswith("outside")] == [f"outside {n}" for n in range(20)]


async def test_many_timers_of_one_moment_leave_the_others_their_turns(worlds: Worlds) -> None:
    """A thousand naps end at once: they are fired some at a time, and a call gets in between."""
    world = await worlds(Sleeper, Post).start()
    for n in range(1000):
        world.submit(f"Sleeper/{n}/nap", 10)
    await world.settle()
    world.clock.advance_to_next(world.clock.now_us() + 9_999_999)  # rings the sweep, no more
    while world.now < 10:
        world.clock.advance_to_next(world.started + 10_000_000)

    answer = asyncio.ensure_future(world.submit("Post/p/take", "in between").outcome())
    await answer
    assert world.kinds().count("Notified") < 1000
    await world.advance(1)

    assert world.kinds().count("Notified") == 1000


async def test_a_clock_that_is_set_back_makes_nothing_fire_twice(worlds: Worlds) -> None:
    """Time in a handler never goes back; a timer waits for its wall time again."""
    world = await worlds(Sleeper).start()
    submission = world.submit("Sleeper/s/together")
    await world.advance(1.5)

    world.clock._now_us -= 3_600_000_000  # pyright: ignore[reportPrivateUsage]
    await world.advance(1)
    assert world.kinds().count("Notified") == 2
    await world.advance(3700)

    outcome = await world.outcome_of(submission)
    assert outcome == Success(b'["1 b","1 f","2 c","2 d","2 e","3 a"]')


class Shelf(VirtualObject):
    got: list[int]

    @handler
    async def take(self, number: int) -> None:
        self.got.append(number)


class Sender(VirtualObject):
    @handler
    async def send(self) -> None:
        for number in range(20):
            self.ctx.ref(Shelf, "p").take.send_after(60, number)


@pytest.mark.parametrize("restarted", [False, True], ids=["at once", "restarted"])
@pytest.mark.parametrize("down", [0.0, DAY], ids=["up when due", "down when due"])
async def test_messages_due_at_one_moment_arrive_in_the_order_they_were_sent(
    worlds: Worlds, restarted: bool, down: float
) -> None:
    """Wherever they waited: in memory, in the store, or in both."""
    world = await worlds(Shelf, Sender).start()
    await world.call("Sender/s/send")
    await world.advance(1)
    if restarted:
        await world.crash()
        world.sleep_while_down(down)
        await world.start()
    await world.advance(down + 60)

    assert world.state("Shelf", "p")["got"] == [*range(20)]


# --- the heap alone ---------------------------------------------------------------------------------------------------


def test_the_heap_against_a_list() -> None:
    """Thousands of random sets, clears and rings: the same as a sorted list would do."""
    draw = random.Random(SEED)
    timers, model, now = Timers(), dict[tuple[str, int], tuple[int, int, int]](), 0
    for count in range(5000):
        key = (f"i{draw.randrange(40)}", draw.randrange(5))
        what = draw.random()
        if what < 0.6:
            due, order = now + draw.randrange(50), draw.randrange(3)
            timers.set(due, *key, order)
            model[key] = (due, order, count)
        elif what < 0.85:
            timers.clear(*key)
            model.pop(key, None)
        else:
            now += draw.randrange(30)
            expected = sorted((order, key) for key, order in model.items() if order[0] <= now)
            assert [(timer.id, timer.command) for timer in timers.due(now)] == [key for _, key in expected], SEED
            for _, key in expected:
                del model[key]
        assert len(timers) == len(model)
        assert timers.next_due() == min((due for due, *_ in model.values()), default=None), SEED


def test_cleared_timers_do_not_pile_up() -> None:
    """A timeout of an hour that is cancelled after a millisecond must not stay for an hour."""
    timers = Timers()
    for n in range(10_000):
        timers.set(3_600_000_000 + n, "i", n)
        timers.clear("i", n)

    assert len(timers._heap) < 200  # pyright: ignore[reportPrivateUsage]


def test_the_manual_clock_rings_in_order_and_stands_still_otherwise() -> None:
    clock, rung = ManualClock(0), list[Any]()
    for name, when in (("b", 20), ("a", 10), ("c", 20), ("later", 99)):
        clock.call_at(when, lambda name=name: rung.append((name, clock.now_us())))  # type: ignore[misc]
    clock.call_at(15, lambda: rung.append("cancelled")).cancel()

    while clock.advance_to_next(50):
        pass

    assert rung == [("a", 10), ("b", 20), ("c", 20)]
    assert clock.now_us() == 50

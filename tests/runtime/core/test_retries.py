"""What fails is tried again, later and later, also by the next process; then it is paused, or fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from perdure.objects import RetryPolicy, Service, TerminalError, VirtualObject, handler, shared
from perdure.runtime.invocations import Status
from perdure.runtime.records import Attempted, Failed, Success

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]


class Weather:
    """The outside world: bad for so many attempts.  It is not replayed, so it counts each try."""

    bad = 0
    tries = 0

    @classmethod
    def try_it(cls) -> None:
        cls.tries += 1
        if cls.tries <= cls.bad:
            raise OSError(f"bad weather {cls.tries}")


@pytest.fixture(autouse=True)
def weather() -> type[Weather]:
    Weather.bad = Weather.tries = 0
    return Weather


class Unwanted(Exception):
    """What a policy never retries."""


class Plain(VirtualObject):
    value: int = 0

    @handler
    async def attempt(self) -> int:
        self.value += 1
        Weather.try_it()
        return self.ctx.invocation.attempt

    @handler
    async def attempt_twice(self) -> int:
        """Two turns: the weather strikes in both."""
        Weather.try_it()
        await asyncio.sleep(1)
        Weather.try_it()
        return Weather.tries

    @handler
    async def refuse(self) -> None:
        Weather.try_it()
        raise TerminalError("never again")

    @handler
    async def cancels_itself(self) -> None:
        Weather.try_it()
        raise asyncio.CancelledError

    @handler
    async def mixed(self) -> None:
        Weather.try_it()
        raise ExceptionGroup("mixed", [TerminalError("terminal"), ValueError("not")])

    @handler
    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    @handler
    async def typed(self, amount: int) -> int:
        return amount

    @shared
    async def look(self) -> int:
        return self.value


GIVES_UP = RetryPolicy(first_delay=1, factor=1, jitter=0, max_attempts=2)


class Policies(VirtualObject, retry=GIVES_UP):
    value: int = 0

    @handler
    async def by_class(self) -> int:
        Weather.try_it()
        return 1

    @handler(retry=RetryPolicy(first_delay=1, factor=1, jitter=0, max_attempts=4))
    async def by_handler(self) -> int:
        Weather.try_it()
        return 1

    @handler(retry=RetryPolicy(first_delay=1, jitter=0, max_attempts=3, then="fail"))
    async def fails_at_last(self) -> int:
        self.value += 1
        Weather.try_it()
        return 1

    @handler(retry=RetryPolicy(first_delay=1, jitter=0, never=(Unwanted,)))
    async def never(self) -> int:
        Weather.try_it()
        raise Unwanted("this kind")

    @handler(retry=RetryPolicy(first_delay=10, factor=1, jitter=0, max_duration=25))
    async def for_a_while(self) -> int:
        Weather.try_it()
        return 1


class Caller(Service):
    @handler
    async def call(self) -> str:
        try:
            await self.ctx.ref(Policies, "x").fails_at_last()
        except TerminalError as error:
            return f"{type(error).__name__}: {error}"
        return "fine"


class Narrower(VirtualObject, name="Plain"):
    """The next version of Plain: `typed` takes text now, and much is gone."""

    value: int = 0

    @handler
    async def typed(self, amount: str) -> str:
        return amount

    @shared
    async def look(self) -> int:
        return self.value


def attempts(world: World) -> list[Attempted]:
    return [record for record in world.recorded() if isinstance(record, Attempted)]


async def test_the_pauses_between_attempts_grow_to_their_cap(worlds: Worlds, weather: type[Weather]) -> None:
    """Doubling from the first delay on; the due time of each stands in its record."""
    weather.bad = 6
    policy = RetryPolicy(first_delay=1, factor=2, max_delay=10, jitter=0)
    world = await worlds(Plain, retry=policy).start()
    submission = world.submit("Plain/a/attempt")

    await world.advance(60)

    assert [(record.next_at or 0) - record.at for record in attempts(world)] == [
        seconds * 1_000_000 for seconds in (1, 2, 4, 8, 10, 10)
    ]
    assert await world.outcome_of(submission) == Success(b"7")
    assert weather.tries == 7
    assert world.state("Plain", "a") == {"value": 1}


async def test_jitter_spreads_the_pauses(worlds: Worlds, weather: type[Weather]) -> None:
    """A thousand clients that failed together don't come back together."""
    weather.bad = 10**9
    world = await worlds(Plain, retry=RetryPolicy(first_delay=40, factor=1, jitter=0.25)).start()
    for n in range(30):
        world.submit(f"Plain/{n}/attempt")
    await world.settle()

    delays = [((record.next_at or 0) - record.at) / 1e6 for record in attempts(world)]
    assert all(30 <= delay <= 50 for delay in delays)
    assert max(delays) - min(delays) > 10


async def test_nothing_is_tried_before_its_time(worlds: Worlds, weather: type[Weather]) -> None:
    weather.bad = 1
    world = await worlds(Plain, retry=RetryPolicy(first_delay=10, jitter=0)).start()
    world.submit("Plain/a/attempt")

    await world.advance(9.9)
    assert weather.tries == 1
    await world.advance(0.1)
    assert weather.tries == 2


async def test_a_backoff_survives_a_restart_at_the_recorded_time(worlds: Worlds, weather: type[Weather]) -> None:
    """The next process waits for what is left of it, and goes on counting."""
    weather.bad = 2
    world = await worlds(Plain, retry=RetryPolicy(first_delay=10, factor=3, jitter=0)).start()
    world.submit("Plain/a/attempt")
    await world.advance(15)
    assert weather.tries == 2

    await world.restart()
    await world.advance(24)
    assert weather.tries == 2
    await world.advance(2)

    assert weather.tries == 3
    assert [record.at // 1_000_000 - world.started // 1_000_000 for record in attempts(world)] == [0, 10]
    assert world.state("Plain", "a") == {"value": 1}


async def test_a_backoff_that_was_over_during_the_downtime_ends_at_the_start(
    worlds: Worlds, weather: type[Weather]
) -> None:
    weather.bad = 1
    world = await worlds(Plain, retry=RetryPolicy(first_delay=10, jitter=0)).start()
    world.submit("Plain/a/attempt")
    await world.settle()
    await world.crash()
    world.sleep_while_down(3600)

    await world.start()
    await world.advance(0)

    assert weather.tries == 2


async def test_a_retry_replays_the_earlier_turns_and_counts_from_progress(
    worlds: Worlds, weather: type[Weather]
) -> None:
    """A committed turn starts the count anew; earlier turns are replayed, so their tries are made again."""
    weather.bad = 2
    world = await worlds(Plain, retry=RetryPolicy(first_delay=1, factor=1, jitter=0, max_attempts=3)).start()
    submission = world.submit("Plain/a/attempt_twice")
    await world.advance(2.5)
    weather.tries, weather.bad = 0, 0
    await world.advance(10)

    assert isinstance(await world.outcome_of(submission), Success)


async def test_a_handlers_policy_goes_before_its_classs_and_that_before_the_settings(
    worlds: Worlds, weather: type[Weather]
) -> None:
    weather.bad = 10**9
    world = await worlds(Policies, Plain, retry=RetryPolicy(first_delay=1, factor=1, jitter=0, max_attempts=6)).start()
    submissions = {
        name: world.submit(path)
        for name, path in {
            "class": "Policies/a/by_class",
            "handler": "Policies/b/by_handler",
            "settings": "Plain/c/attempt",
        }.items()
    }

    await world.advance(60)

    made = {name: world.invocation(submission).attempts for name, submission in submissions.items()}
    assert made == {"class": 2, "handler": 4, "settings": 6}
    assert {world.invocation(submission).status for submission in submissions.values()} == {Status.PAUSED}


async def test_a_policy_may_end_in_failure(worlds: Worlds, weather: type[Weather]) -> None:
    """The last attempt's error is the outcome; nothing it wrote stays, and the key passes on."""
    weather.bad = 10**9
    world = await worlds(Policies).start()
    submission = world.submit("Policies/a/fails_at_last")
    await world.advance(60)

    outcome = await world.outcome_of(submission)

    assert isinstance(outcome, Failed)
    assert (outcome.failure.type, outcome.failure.message, outcome.failure.status) == ("OSError", "bad weather 3", 500)
    assert world.state("Policies", "a") == {}
    weather.bad = 0
    assert await world.call("Policies/a/by_class") == 1


async def test_a_failure_at_last_reaches_the_caller_as_terminal_error(worlds: Worlds, weather: type[Weather]) -> None:
    weather.bad = 10**9
    world = await worlds(Policies, Caller).start()
    submission = world.submit("Caller/call")
    await world.advance(60)

    assert await world.outcome_of(submission) == Success(b'"TerminalError: bad weather 3"')


async def test_an_exception_that_is_never_retried_pauses_at_once(worlds: Worlds, weather: type[Weather]) -> None:
    world = await worlds(Policies).start()
    submission = world.submit("Policies/a/never")

    await world.advance(600)

    assert weather.tries == 1
    assert world.invocation(submission).status is Status.PAUSED


async def test_a_policy_may_be_bounded_in_time(worlds: Worlds, weather: type[Weather]) -> None:
    """Attempts at 0, 10, 20 and 30 seconds: the last one fails after more than 25."""
    weather.bad = 10**9
    world = await worlds(Policies).start()
    submission = world.submit("Policies/a/for_a_while")

    await world.advance(600)

    assert weather.tries == 4
    assert world.invocation(submission).status is Status.PAUSED


async def test_what_is_terminal_is_never_retried(worlds: Worlds, weather: type[Weather]) -> None:
    world = await worlds(Plain).start()

    assert await world.failure("Plain/a/refuse") == "TerminalError: never again"
    await world.advance(600)

    assert weather.tries == 1


@pytest.mark.parametrize("name", ["cancels_itself", "mixed"])
async def test_what_only_looks_terminal_is_retried(worlds: Worlds, weather: type[Weather], name: str) -> None:
    """A CancelledError without a recorded cancellation, a group with one ordinary error in it."""
    world = await worlds(Plain, retry=RetryPolicy(first_delay=1, jitter=0, max_attempts=2)).start()
    submission = world.submit(f"Plain/a/{name}")

    await world.advance(60)

    assert weather.tries == 2
    assert world.invocation(submission).status is Status.PAUSED


# --- paused -----------------------------------------------------------------------------------------------------------


async def test_a_paused_invocation_holds_its_key_until_it_is_resumed(worlds: Worlds, weather: type[Weather]) -> None:
    """Others wait behind it, also over a restart; reads go on; after the resume all goes in order."""
    weather.bad = 2
    world = await worlds(Plain, retry=GIVES_UP).start()
    paused = world.submit("Plain/a/attempt")
    behind = world.submit("Plain/a/add", 10, idempotency_key="b")
    await world.advance(60)
    assert world.invocation(paused).status is Status.PAUSED

    await world.restart()
    await world.advance(3600)
    assert world.invocation(paused).status is Status.PAUSED
    assert world.invocation(behind).status is Status.PENDING
    assert await world.call("Plain/a/look") == 0
    await world.engine.operations.resume(paused.id)
    await world.advance(60)

    assert world.state("Plain", "a") == {"value": 11}
    assert weather.tries == 3


async def test_a_resume_starts_the_count_anew(worlds: Worlds, weather: type[Weather]) -> None:
    weather.bad = 10**9
    world = await worlds(Plain, retry=GIVES_UP).start()
    submission = world.submit("Plain/a/attempt")
    await world.advance(60)

    await world.engine.operations.resume(submission.id)
    await world.advance(60)

    assert weather.tries == 4
    assert world.invocation(submission).status is Status.PAUSED


async def test_a_resume_cuts_a_backoff_short(worlds: Worlds, weather: type[Weather]) -> None:
    weather.bad = 1
    world = await worlds(Plain, retry=RetryPolicy(first_delay=3600, max_delay=3600, jitter=0)).start()
    submission = world.submit("Plain/a/attempt")
    await world.settle()

    await world.engine.operations.resume(submission.id)

    assert isinstance(await world.outcome_of(submission), Success)
    assert weather.tries == 2


async def test_the_failure_of_a_paused_one_is_kept_for_operators(
    worlds: Worlds, weather: type[Weather], logged: list[dict[str, Any]]
) -> None:
    """And logged; the client is told nothing of it."""
    weather.bad = 10**9
    world = await worlds(Plain, retry=GIVES_UP).start()
    submission = world.submit("Plain/a/attempt")
    await world.advance(60)

    failure = world.invocation(submission).last_failure
    assert failure is not None
    assert (failure.type, failure.message) == ("OSError", "bad weather 2")
    assert [(event["attempt"], event["then"]) for event in logged if event["event"] == "attempt failed"] == [
        (1, "retry"),
        (2, "pause"),
    ]


async def test_arguments_that_the_new_code_cannot_read_pause(worlds: Worlds) -> None:
    """Retrying would not help, failing would lose the message: it waits for the code that reads it."""
    world = await worlds(Plain).start()
    world.submit("Plain/a/typed", 5, send=True, delay_us=10_000_000, idempotency_key="k")
    await world.settle()
    await world.restart(classes=[Narrower])
    await world.advance(20)
    (invocation,) = world.invocations("Plain/a/typed")
    assert invocation.status is Status.PAUSED
    assert invocation.last_failure is not None
    assert "expected" in invocation.last_failure.message

    await world.restart(classes=[Plain])
    await world.engine.operations.resume(invocation.id)
    await world.settle()

    assert world.invocation(invocation.id).outcome == Success(b"5")


async def test_one_whose_class_is_not_served_waits_and_goes_on_when_it_is(worlds: Worlds) -> None:
    """Parked, not failed: nothing is recorded of it, and what is served runs on."""
    world = await worlds(Plain, Policies).start()
    world.submit("Plain/a/add", 5, send=True, delay_us=10_000_000, idempotency_key="k")
    await world.settle()

    await world.restart(classes=[Policies])
    await world.advance(20)
    assert await world.call("Policies/a/by_class") == 1
    (parked,) = world.invocations("Plain/a/add")
    assert parked.status is Status.OPEN
    assert "Attempted" not in world.kinds()

    await world.restart(classes=[Plain])
    await world.settle()
    assert world.state("Plain", "a") == {"value": 5}


async def test_one_whose_handler_is_gone_waits_too(worlds: Worlds) -> None:
    world = await worlds(Plain).start()
    world.submit("Plain/a/add", 5, send=True, delay_us=10_000_000)
    await world.settle()

    await world.restart(classes=[Narrower])
    await world.advance(20)
    assert world.invocations("Plain/a/add")[0].status is Status.OPEN
    await world.restart(classes=[Plain])
    await world.settle()

    assert world.state("Plain", "a") == {"value": 5}


async def test_other_keys_are_not_held_up_by_one_that_fails(worlds: Worlds, weather: type[Weather]) -> None:
    weather.bad = 10**9
    world = await worlds(Plain).start()
    world.submit("Plain/bad/attempt")
    await world.settle()

    assert await world.call("Plain/good/add", 1) == 1


class Busy(VirtualObject):
    @handler
    async def goes_on(self) -> str:
        """A timer fires while it backs off, and it waits again when it has made it."""
        timer = asyncio.create_task(asyncio.sleep(1.01))
        await asyncio.sleep(1)
        Weather.try_it()
        await timer
        await asyncio.sleep(3_600)
        return "done"


async def test_a_backoff_that_is_over_is_over_after_a_crash_too(worlds: Worlds) -> None:
    """Also where something had happened meanwhile, from which its attempts are counted anew."""
    world = await worlds(Busy).start()
    Weather.bad = 1
    submission = world.submit("Busy/a/goes_on", send=True)
    await world.advance(60)
    assert Weather.tries == 2
    assert world.invocation(submission).next_attempt_at is None

    assert world.rebuilt_dump()["invocations"] == world.dump()["invocations"]
    assert world.rebuilt_dump()["timers"] == world.dump()["timers"]

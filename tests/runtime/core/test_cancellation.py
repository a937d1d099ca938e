"""Cancellation is asyncio's, recorded; a kill is the end at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from structlog.typing import EventDict

from perdure.objects import RetryPolicy, Service, TerminalError, VirtualObject, handler
from perdure.runtime.admission import Refused
from perdure.runtime.invocations import Status
from perdure.runtime.records import CancelCall, Failed, Success, Turn

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]


class Job(VirtualObject):
    log: list[str]

    @handler
    async def wait(self) -> str:
        self.log.append("begun")
        try:
            await asyncio.sleep(3600)
        finally:
            self.log.append("left")
        return "done"

    @handler
    async def add(self, text: str) -> int:
        self.log.append(text)
        return len(self.log)

    @handler
    async def cleans_up(self) -> str:
        """Compensation may use the context: a call, a message, a sleep."""
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.log.append("cancelled")
            count = await self.ctx.ref(Job, "helper").add("undo")
            self.ctx.ref(Job, "helper").add.send("told")
            await asyncio.sleep(5)
            self.log.append(f"cleaned up {count}")
            raise
        return "done"

    @handler
    async def stays(self) -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.log.append("no")
        return "stayed"

    @handler
    async def calls(self, key: str, depth: int = 0) -> str:
        if depth == 0:
            return await self.ctx.ref(Job, key).wait()
        try:
            return await self.ctx.ref(Job, f"{key}{depth}").calls(key, depth - 1)
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise

    @handler
    async def sends(self, key: str) -> None:
        self.ctx.ref(Job, key).wait.send()
        await asyncio.sleep(3600)

    @handler
    async def calls_for_a_while(self, key: str) -> str:
        try:
            async with asyncio.timeout(10):
                return await self.ctx.ref(Job, key).wait()
        except TimeoutError:
            self.log.append("timed out")
        await asyncio.sleep(5)
        return "went on"

    @handler
    async def calls_for_a_while_uncaught(self, key: str) -> str:
        async with asyncio.timeout(10):
            return await self.ctx.ref(Job, key).wait()

    @handler
    async def reports(self, key: str) -> str:
        try:
            return await self.ctx.ref(Job, key).wait()
        except TerminalError as error:
            return f"{type(error).__name__} {error.status}"

    @handler
    async def shares(self, key: str, seconds: float) -> str:
        try:
            async with asyncio.timeout(seconds):
                return await self.ctx.ref(Job, key).wait.options(idempotency_key="shared")()
        except TimeoutError:
            return "left"

    @handler
    async def cancels(self, id: str) -> str:
        self.ctx.handle(id).cancel()
        return "asked"

    @handler(retry=RetryPolicy(first_delay=3600, max_delay=3600, jitter=0))
    async def fails(self) -> None:
        self.log.append("attempted")
        raise ValueError("boom")

    @handler(retry=RetryPolicy(first_delay=3600, max_delay=3600, jitter=0))
    async def fails_later(self) -> None:
        self.log.append("begun")
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        raise ValueError("boom")

    @handler(retry=RetryPolicy(max_attempts=1))
    async def pauses_later(self) -> None:
        self.log.append("begun")
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        raise ValueError("boom")

    @handler
    async def never_gives_in(self) -> str:
        """What a kill is for."""
        while True:
            try:
                await self.ctx.ref(Job, "prey").wait()
            except BaseException:  # noqa: BLE001, RUF100  # that is the story
                self.log.append("no")
                self.ctx.ref(Job, "helper").add.send("no")
                await asyncio.sleep(1)

    @handler
    async def leaves_a_task_behind(self, key: str) -> str:
        asyncio.create_task(self.waits_and_tells(key))  # noqa: RUF006  # that is the story
        await asyncio.sleep(1)
        return "done"

    async def waits_and_tells(self, key: str) -> None:
        try:
            await self.ctx.ref(Job, key).wait()
        finally:
            self.log.append("the task left")

    @handler
    async def many(self, keys: list[str]) -> int:
        async with asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(self.ctx.ref(Job, key).wait())
        return 0

    @handler
    async def takes_back(self, key: str, at_once: bool) -> str:
        """A call in a task that is cancelled before its first step, in the turn that made it or a later one."""
        made = self.ctx.ref(Job, key).wait()
        if not at_once:
            await asyncio.sleep(1)
        call = asyncio.create_task(made)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(1)
        return "went on"


class Desk(Service):
    @handler
    async def calls(self, key: str) -> str:
        return await self.ctx.ref(Job, key).wait()


def log_of(world: World, key: str) -> list[str]:
    entries: list[str] = world.state("Job", key).get("log", [])
    return entries


def cancelled(outcome: Any) -> bool:
    return isinstance(outcome, Failed) and outcome.failure.status == 409 and outcome.failure.type == "Cancelled"


async def test_a_running_one_gets_cancelled_error_at_its_await(worlds: Worlds) -> None:
    """Its `finally` runs and what it writes there is kept; the outcome is a 409."""
    world = await worlds(Job).start()
    submission = world.submit("Job/a/wait")
    await world.settle()

    await world.engine.operations.cancel(submission.id)

    assert cancelled(await world.outcome_of(submission))
    assert log_of(world, "a") == ["begun", "left"]
    assert await world.call("Job/a/add", "next") == 3
    assert len(world.engine.kernel.timers) == 0


async def test_one_that_is_queued_ends_at_once(worlds: Worlds) -> None:
    """It never runs, its outcome is retained, and the mailbox goes on without it."""
    world = await worlds(Job).start()
    holder = world.submit("Job/a/wait")
    queued = world.submit("Job/a/add", "queued")
    behind = world.submit("Job/a/add", "behind")
    await world.settle()

    await world.engine.operations.cancel(queued.id)
    assert cancelled(await world.outcome_of(queued))
    await world.engine.operations.cancel(holder.id)
    await world.settle()

    assert await world.outcome_of(behind) == Success(b"3")
    assert log_of(world, "a") == ["begun", "left", "behind"]
    assert cancelled(await world.engine.attach(queued.id))


async def test_one_that_is_scheduled_ends_at_once(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    scheduled = world.submit("Job/a/add", "later", send=True, delay_us=10_000_000)
    await world.settle()

    await world.engine.operations.cancel(scheduled.id)
    await world.advance(20)

    assert cancelled(await world.engine.attach(scheduled.id))
    assert log_of(world, "a") == []
    assert "Due" not in world.kinds()
    assert world.engine.kernel.counts.queued == 0


async def test_one_that_never_succeeded_and_backs_off_ends_at_once(worlds: Worlds) -> None:
    """Nothing of it ever happened, so there is nothing to undo."""
    world = await worlds(Job).start()
    submission = world.submit("Job/a/fails")
    await world.advance(5)

    await world.engine.operations.cancel(submission.id)

    assert cancelled(await world.outcome_of(submission))
    assert log_of(world, "a") == []


@pytest.mark.parametrize("name", ["fails_later", "pauses_later"])
async def test_one_that_backs_off_or_is_paused_is_woken_to_handle_it(worlds: Worlds, name: str) -> None:
    """The delivery that keeps failing does not come before it."""
    world = await worlds(Job).start()
    submission = world.submit(f"Job/a/{name}")
    await world.advance(20)
    assert log_of(world, "a") == ["begun"]

    await world.engine.operations.cancel(submission.id)

    assert cancelled(await world.outcome_of(submission))
    assert log_of(world, "a") == ["begun", "cancelled"]


async def test_compensation_may_use_the_context(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    submission = world.submit("Job/a/cleans_up")
    await world.settle()

    await world.engine.operations.cancel(submission.id)
    await world.advance(10)

    assert cancelled(await world.outcome_of(submission))
    assert log_of(world, "a") == ["cancelled", "cleaned up 1"]
    assert log_of(world, "helper") == ["undo", "told"]


async def test_a_cancellation_is_replayed_at_the_same_place(worlds: Worlds) -> None:
    world: World = worlds(Job)
    world.evict_always = True
    await world.start()
    submission = world.submit("Job/a/cleans_up", idempotency_key="k")
    await world.settle()
    await world.engine.operations.cancel(submission.id)
    await world.settle()

    await world.restart()
    await world.advance(10)

    assert log_of(world, "a") == ["cancelled", "cleaned up 1"]
    assert cancelled(await world.outcome("Job/a/cleans_up", idempotency_key="k"))


async def test_a_handler_may_go_on_after_it(worlds: Worlds) -> None:
    """As in asyncio: it was asked, not made."""
    world = await worlds(Job).start()
    submission = world.submit("Job/a/stays")
    await world.settle()

    for asked in [world.engine.operations.cancel(submission.id), world.engine.operations.cancel(submission.id)]:
        await asked

    assert await world.outcome_of(submission) == Success(b'"stayed"')
    assert log_of(world, "a") == ["no"]


async def test_it_goes_down_the_call_tree(worlds: Worlds) -> None:
    """From the caller to whom it called, and on; each may clean up."""
    world = await worlds(Job).start()
    submission = world.submit("Job/top/calls", {"key": "k", "depth": 3})
    await world.settle()
    assert log_of(world, "k") == ["begun"]

    await world.engine.operations.cancel(submission.id)

    assert cancelled(await world.outcome_of(submission))
    assert log_of(world, "k") == ["begun", "left"]
    assert [log_of(world, key) for key in ("top", "k3", "k2")] == [["cancelled"]] * 3
    assert all(one.ended for one in world.engine.kernel.invocations.values())


async def test_it_goes_to_all_calls_of_a_group(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    submission = world.submit("Job/top/many", ["x", "y", "z"])
    await world.settle()

    await world.engine.operations.cancel(submission.id)

    assert cancelled(await world.outcome_of(submission))
    assert [log_of(world, key) for key in "xyz"] == [["begun", "left"]] * 3


async def test_messages_are_detached(worlds: Worlds) -> None:
    """What was sent goes on when its sender is cancelled."""
    world = await worlds(Job).start()
    submission = world.submit("Job/a/sends", "b")
    await world.settle()

    await world.engine.operations.cancel(submission.id)
    await world.settle()

    assert cancelled(await world.outcome_of(submission))
    assert log_of(world, "b") == ["begun"]


async def test_a_timeout_around_a_call_cancels_the_callee(worlds: Worlds) -> None:
    """As a command of that turn; the caller goes on at once, and the late result is dropped."""
    world = await worlds(Job).start()
    submission = world.submit("Job/a/calls_for_a_while", "b")

    await world.advance(10)
    assert log_of(world, "a") == ["timed out"]
    assert log_of(world, "b") == ["begun", "left"]
    await world.advance(10)

    assert await world.outcome_of(submission) == Success(b'"went on"')
    commands = [command for turn in world.recorded() if isinstance(turn, Turn) for command in turn.commands]
    assert sum(isinstance(command, CancelCall) for command in commands) == 1


@pytest.mark.parametrize(("at_once", "log"), [(True, []), (False, ["begun", "left"])])
async def test_a_task_cancelled_before_its_first_step_cancels_its_call_too(
    worlds: Worlds, at_once: bool, log: list[str], logged: list[EventDict]
) -> None:
    """It never began to wait, but the call was made, and was to be its own."""
    world = await worlds(Job).start()
    submission = world.submit("Job/a/takes_back", {"key": "b", "at_once": at_once})
    await world.advance(1)
    world.evict()

    await world.advance(20)

    assert await world.outcome_of(submission) == Success(b'"went on"')
    assert log_of(world, "b") == log
    assert [event for event in logged if "never awaited" in event["event"]] == []


async def test_what_the_tasks_left_behind_wait_for_is_cancelled(worlds: Worlds) -> None:
    """In the turn that ends the handler; it has ended, so they touch neither its state nor its context any more."""
    world = await worlds(Job).start()
    submission = world.submit("Job/a/leaves_a_task_behind", "b")

    await world.advance(2)

    assert await world.outcome_of(submission) == Success(b'"done"')
    assert log_of(world, "a") == []
    assert log_of(world, "b") == ["begun", "left"]


async def test_an_uncaught_timeout_around_a_call_cancels_the_callee_too(worlds: Worlds) -> None:
    """Its turn keeps no writes and messages, but nobody waits for that call any more."""
    world = await worlds(Job).start()
    submission = world.submit("Job/a/calls_for_a_while_uncaught", "b")

    await world.advance(20)

    outcome = await world.outcome_of(submission)
    assert isinstance(outcome, Failed)
    assert outcome.failure.status == 504
    assert log_of(world, "b") == ["begun", "left"]


async def test_a_cancelled_callee_reaches_its_caller_as_terminal_error(worlds: Worlds) -> None:
    """The caller was not cancelled, so it must not look as if it was."""
    world = await worlds(Job).start()
    submission = world.submit("Job/a/reports", "b")
    await world.settle()
    (callee,) = world.invocations("Job/b/wait")

    await world.engine.operations.cancel(callee.id)

    assert await world.outcome_of(submission) == Success(b'"TerminalError 409"')


async def test_a_queued_callee_that_is_cancelled_tells_its_caller(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    world.submit("Job/b/wait")
    submission = world.submit("Job/a/reports", "b")
    await world.settle()
    queued = next(one for one in world.invocations("Job/b/wait") if one.status is Status.PENDING)

    await world.engine.operations.cancel(queued.id)

    assert await world.outcome_of(submission) == Success(b'"TerminalError 409"')


async def test_a_call_shared_by_idempotency_key_is_cancelled_by_its_maker_only(worlds: Worlds) -> None:
    """Who merely attached to it just leaves."""
    world = await worlds(Job).start()
    maker = world.submit("Job/a/shares", {"key": "s", "seconds": 30})
    guest = world.submit("Job/b/shares", {"key": "s", "seconds": 10})
    await world.advance(15)

    assert await world.outcome_of(guest) == Success(b'"left"')
    assert log_of(world, "s") == ["begun"]
    await world.advance(20)

    assert await world.outcome_of(maker) == Success(b'"left"')
    assert log_of(world, "s") == ["begun", "left"]


async def test_a_call_that_was_made_outside_is_only_left(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    outside = world.submit("Job/s/wait", idempotency_key="shared")
    guest = world.submit("Job/a/shares", {"key": "s", "seconds": 10})
    await world.settle()

    await world.engine.operations.cancel(guest.id)
    await world.advance(20)

    assert cancelled(await world.outcome_of(guest))
    assert world.invocation(outside).status is Status.OPEN
    assert log_of(world, "s") == ["begun"]


async def test_a_handler_may_cancel_another_by_its_handle(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    waiting = world.submit("Job/a/wait", idempotency_key="k")
    await world.settle()

    assert await world.call("Job/b/cancels", waiting.id) == "asked"
    assert await world.call("Job/b/cancels", "inv_000unknown") == "asked"

    assert cancelled(await world.outcome_of(waiting))


async def test_a_clients_disconnect_cancels_nothing(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    submission = world.submit("Job/a/wait", idempotency_key="k")
    await world.settle()

    asyncio.ensure_future(submission.outcome()).cancel()
    await world.advance(3601)

    assert await world.outcome("Job/a/wait", idempotency_key="k") == Success(b'"done"')


async def test_cancelling_what_is_unknown_is_refused(worlds: Worlds) -> None:
    world = await worlds(Job).start()

    for operation in (world.engine.operations.cancel, world.engine.operations.kill, world.engine.operations.resume):
        with pytest.raises(Refused) as caught:
            await operation("inv_000unknown")
        assert caught.value.status == 404


# --- kill -------------------------------------------------------------------------------------------------------------


async def test_a_kill_ends_it_and_its_calls_at_once(worlds: Worlds) -> None:
    """No `finally`, no `except BaseException` of theirs has any effect; the keys pass on."""
    world = await worlds(Job).start()
    submission = world.submit("Job/a/never_gives_in")
    await world.settle()
    behind = world.submit("Job/prey/add", "next")
    await world.settle()
    count = len(world.journal.records)

    await world.engine.operations.kill(submission.id)
    await world.advance(100)

    outcome = await world.outcome_of(submission)
    assert isinstance(outcome, Failed)
    assert (outcome.failure.type, outcome.failure.status) == ("Killed", 409)
    assert log_of(world, "a") == []
    assert log_of(world, "helper") == []
    assert await world.outcome_of(behind) == Success(b"2")
    assert log_of(world, "prey") == ["begun", "next"]
    assert world.kinds()[count:] == ["Killed", "Turn"]


async def test_one_that_refuses_to_be_cancelled_can_be_killed(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    submission = world.submit("Job/a/never_gives_in")
    await world.settle()
    await world.engine.operations.cancel(submission.id)
    await world.advance(5)
    assert not world.invocation(submission).ended

    await world.engine.operations.kill(submission.id)

    assert isinstance(await world.outcome_of(submission), Failed)
    assert all(one.ended for one in world.invocations("Job/prey/wait"))


@pytest.mark.parametrize("name", ["fails", "pauses_later", "wait"])
async def test_a_kill_reaches_what_backs_off_is_paused_or_suspended(worlds: Worlds, name: str) -> None:
    world = await worlds(Job).start()
    submission = world.submit(f"Job/a/{name}")
    behind = world.submit("Job/a/add", "next")
    await world.advance(20)
    log = log_of(world, "a")

    await world.engine.operations.kill(submission.id)
    await world.settle()

    assert isinstance(await world.outcome_of(submission), Failed)
    assert isinstance(await world.outcome_of(behind), Success)
    assert log_of(world, "a") == [*log, "next"]
    assert len(world.engine.kernel.timers) == 0


async def test_a_killed_callee_reaches_its_caller_as_terminal_error(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    submission = world.submit("Job/a/reports", "b")
    await world.settle()
    (callee,) = world.invocations("Job/b/wait")

    await world.engine.operations.kill(callee.id)

    assert await world.outcome_of(submission) == Success(b'"TerminalError 409"')


async def test_a_kill_survives_a_restart(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    submission = world.submit("Job/a/calls", {"key": "b"})
    await world.settle()
    await world.engine.operations.kill(submission.id)

    await world.restart()
    await world.advance(100)

    assert log_of(world, "b") == ["begun"]
    assert all(one.ended for one in world.engine.kernel.invocations.values())

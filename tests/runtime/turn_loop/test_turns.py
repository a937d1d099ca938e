"""What a turn is: synchronous, first in first out, with time standing still, and leaving no trace in the thread."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from typing import Any

import pytest
import uvloop

from perdure.runtime.turn_loop import TurnFailed, TurnLoop, TurnTask

Drive = Any
Driven = Any


def test_a_turn_runs_until_every_task_is_blocked(drive: Drive) -> None:
    """One turn takes all tasks to their next wait, whatever they wake on the way."""

    async def child(driven: Driven) -> None:
        driven.trace.append("child")
        driven.waits["b"].set_result("woken by child")

    async def handler(driven: Driven) -> None:
        driven.wait("b")
        task = asyncio.create_task(child(driven))
        driven.trace.append(await driven.waits["b"])
        await task
        driven.trace.append(await driven.wait("a"))

    driven = drive(handler)

    assert driven.trace == ["child", "woken by child"]
    assert not driven.main.done()
    driven.answer("a", "answer")
    assert driven.trace[-1] == "answer"
    assert driven.main.done()


def test_callbacks_run_first_in_first_out(drive: Drive) -> None:
    """The queue is a queue: callbacks made by callbacks come after those already there."""

    async def handler(driven: Driven) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: (driven.trace.append(1), loop.call_soon(driven.trace.append, 3)))
        loop.call_soon(driven.trace.append, 2)

    assert drive(handler).trace == [1, 2, 3]


def test_a_cancelled_callback_does_not_run(drive: Drive) -> None:
    """A handle can be cancelled while it waits in the queue."""

    async def handler(driven: Driven) -> None:
        handle = asyncio.get_running_loop().call_soon(driven.trace.append, 1)
        handle.cancel()
        driven.trace.append(handle.cancelled())

    assert drive(handler).trace == [True]


def test_a_handler_is_a_task_from_its_first_step(drive: Drive) -> None:
    """asyncio.timeout and TaskGroup ask for the current task."""

    async def handler(driven: Driven) -> None:
        driven.trace += [asyncio.current_task(), asyncio.get_running_loop(), asyncio.all_tasks()]

    driven = drive(handler)

    assert TurnTask in type(driven.main).__mro__
    assert driven.trace == [driven.main, driven.loop, {driven.main}]


def test_time_stands_still_in_a_turn(drive: Drive) -> None:
    """`loop.time()` is the time of the delivery, in seconds since the epoch, and never goes back."""

    async def handler(driven: Driven) -> None:
        loop = asyncio.get_running_loop()
        driven.trace.append(loop.time())
        await asyncio.sleep(0)
        driven.trace.append(loop.time())
        await driven.wait("a")
        driven.trace.append(loop.time())

    driven = drive(handler)
    driven.loop.run(5, lambda: driven.waits["a"].set_result(None))

    assert driven.trace == [1_700_000_000.123457] * 3


def test_a_continued_turn_has_the_same_time(drive: Drive) -> None:
    """`run(None, …)` is more of the same turn."""

    async def handler(driven: Driven) -> None:
        await driven.wait("a")

    driven = drive(handler)
    before = driven.loop.now_us
    driven.loop.run(None, lambda: driven.waits["a"].set_result(None))

    assert driven.loop.now_us == before


def test_the_context_is_new_and_empty(drive: Drive) -> None:
    """What the caller's context variables say must not reach a handler: a replay has another caller."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="default")
    variable.set("the caller's")

    async def child(driven: Driven) -> None:
        driven.trace.append(variable.get())

    async def handler(driven: Driven) -> None:
        driven.trace.append(variable.get())
        variable.set("the handler's")
        await asyncio.create_task(child(driven))

    assert drive(handler).trace == ["default", "the handler's"]
    assert variable.get() == "the caller's"


def test_names_of_tasks_are_numbered_per_handler(drive: Drive) -> None:
    """asyncio numbers them over the whole process, so that a log line of a replay would differ."""

    async def handler(driven: Driven) -> None:
        tasks = [asyncio.current_task(), asyncio.create_task(asyncio.sleep(0))]
        driven.trace += [task.get_name() for task in tasks if task is not None]

    assert drive(handler).trace == drive(handler).trace == ["Task-1", "Task-2"]


def test_a_plain_callback_that_raises_fails_the_turn(drive: Drive) -> None:
    """There is nobody to give the error to, so the turn is what fails."""

    async def handler(driven: Driven) -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await driven.wait("a")

    with pytest.raises(TurnFailed, match="division by zero") as failed:
        drive(handler)
    assert isinstance(failed.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_system_exit_in_a_handler_is_an_ordinary_failure(drive: Drive, error: type[BaseException]) -> None:
    """asyncio's task keeps it and raises it too: the process must not exit, and the other tasks go on."""

    async def handler(driven: Driven) -> None:
        asyncio.get_running_loop().call_soon(driven.trace.append, "the turn went on")
        raise error("stop")

    driven = drive(handler)

    assert type(driven.main.exception()) is error
    assert driven.trace == ["the turn went on"]


def test_system_exit_in_a_child_reaches_its_parent(drive: Drive) -> None:
    """It travels through awaits like any other exception."""

    async def handler(driven: Driven) -> None:
        await asyncio.create_task(_exit())

    assert type(drive(handler).main.exception()) is SystemExit


async def _exit() -> None:
    sys.exit(3)


def test_system_exit_of_a_plain_callback_fails_the_turn(drive: Drive) -> None:
    """It has no task that keeps it."""

    async def handler(driven: Driven) -> None:
        asyncio.get_running_loop().call_soon(sys.exit)
        await driven.wait("a")

    with pytest.raises(TurnFailed) as failed:
        drive(handler)
    assert isinstance(failed.value.__cause__, SystemExit)


def test_a_turn_that_never_comes_to_rest_fails(drive: Drive) -> None:
    """`while True: await sleep(0)` would hold up the process for ever."""

    async def handler(driven: Driven) -> None:
        while True:
            driven.trace.append(1)
            await asyncio.sleep(0)

    with pytest.raises(TurnFailed, match=r"1000 callbacks in one turn.*while True: await asyncio.sleep\(0\)"):
        drive(handler, callbacks_max=1_000)


def test_the_limit_counts_callbacks_of_one_turn(drive: Drive) -> None:
    """The next turn starts from zero; a continuation does not."""

    async def handler(driven: Driven) -> None:
        for name in "abc":
            for _ in range(30):
                await asyncio.sleep(0)
            await driven.wait(name)

    driven = drive(handler, callbacks_max=50)
    driven.answer("a")
    with pytest.raises(TurnFailed):
        driven.loop.run(None, lambda: driven.waits["b"].set_result(None))


def test_an_error_that_nobody_awaited_is_logged(drive: Drive, caplog: pytest.LogCaptureFixture) -> None:
    """By the logger `perdure`, once the task is gone."""
    driven = drive(_handler_with_lost_error)
    driven.loop.discard()
    del driven

    (record,) = caplog.records
    assert record.name == "perdure"
    assert "never retrieved" in record.message
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_an_error_that_nobody_awaited_is_not_logged_by_a_replay(drive: Drive, caplog: pytest.LogCaptureFixture) -> None:
    """It was logged when it happened."""
    driven = drive(_handler_with_lost_error, silent=True)
    driven.loop.discard()

    assert caplog.records == []


async def _handler_with_lost_error(driven: Driven) -> None:
    asyncio.create_task(_divide())  # noqa: RUF006 - the point
    await asyncio.sleep(0)


async def _divide() -> None:
    _ = 1 / 0


def test_a_logger_of_structlog_can_be_given(drive: Drive) -> None:
    """Anything with `error(event, exc_info=…)`."""
    events: list[tuple[str, BaseException | None]] = []

    class Log:
        def error(self, event: str, /, *, exc_info: BaseException | None) -> None:
            events.append((event, exc_info))

    drive(_handler_with_lost_error, log=Log()).loop.discard()

    ((_, error),) = events
    assert isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_real_loop_is_put_back(drive: Drive, new_loop: Any) -> None:
    """A turn inside a callback of the real loop: afterwards that is the running loop again, its hooks included."""
    seen: list[object] = []

    async def handler(driven: Driven) -> None:
        seen.append(asyncio.get_running_loop())
        await driven.wait("a")

    def callback() -> None:
        before = sys.get_asyncgen_hooks()
        driven = drive(handler)
        seen.extend([driven.loop, asyncio.get_running_loop()])
        driven.loop.drop()
        seen.append(asyncio.get_running_loop())
        assert sys.get_asyncgen_hooks() == before
        real.stop()

    real = new_loop()
    try:
        real.call_soon(callback)
        real.run_forever()
    finally:
        real.close()

    assert seen == [seen[1], seen[1], real, real]


def test_the_running_loop_is_put_back_after_a_failed_turn(drive: Drive) -> None:
    """Also when what the turn starts with raises."""
    loop = TurnLoop(1, None)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        loop.run(0, lambda: 1 / 0)

    assert asyncio._get_running_loop() is None
    assert not loop.in_turn


def test_a_turn_inside_a_turn_of_the_same_loop_is_refused(drive: Drive) -> None:
    """It would run callbacks in another order."""

    async def handler(driven: Driven) -> None:
        driven.loop.run(None)

    assert isinstance(drive(handler).main.exception(), RuntimeError)


def test_debug_mode_can_be_switched(drive: Drive) -> None:
    """It makes asyncio keep where tasks and futures were made."""

    async def handler(driven: Driven) -> None:
        loop = asyncio.get_running_loop()
        driven.trace.append(loop.get_debug())
        loop.set_debug(True)
        driven.trace.append(loop.get_debug())

    assert drive(handler).trace == [False, True]


def test_every_task_is_known_however_many_there_are(drive: Drive) -> None:
    """Those that are not known could be neither cancelled nor closed."""

    async def handler(driven: Driven) -> None:
        driven.tasks = [asyncio.create_task(asyncio.Event().wait()) for _ in range(100)]
        driven.trace.append(len(asyncio.all_tasks()))

    driven = drive(handler)
    driven.loop.cancel_leftovers()

    assert driven.trace == [101]
    assert all(task.cancelled() for task in driven.tasks)


def test_finished_tasks_are_forgotten(drive: Drive) -> None:
    """A handler that makes tasks in a loop for a year does not keep them all."""

    async def handler(driven: Driven) -> None:
        for _ in range(1_000):
            await asyncio.create_task(asyncio.sleep(0))

    loop = drive(handler).loop
    assert len(loop._tasks) < 40

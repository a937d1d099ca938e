"""The dead drop: a handler is left behind at any of its awaits, and nothing that its code does then has an effect."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from perdure.objects.errors import HandlerDropped
from perdure.runtime import dead_drop
from perdure.runtime.turn_loop import TurnLoop

Drive = Any
Driven = Any
Handler = Callable[[Driven], Coroutine[Any, Any, Any]]


async def closing(driven: Driven, name: str = "closing") -> None:
    """What user code does in a `finally`: logs, and asks for everything. It must not get past its await."""
    driven.trace.append(name)
    logging.getLogger("user").error("a line of a dropped handler")
    structlog.get_logger().error("a line of a dropped handler")
    warnings.warn("a warning of a dropped handler", stacklevel=1)
    await driven.ask()
    driven.trace.append("ESCAPED")


async def sleeps() -> None:
    await asyncio.sleep(1)


async def yields() -> None:
    await asyncio.sleep(0)


async def makes_a_task() -> None:
    await asyncio.create_task(asyncio.sleep(0))


async def gathers_more() -> None:
    await asyncio.gather(asyncio.sleep(0), asyncio.sleep(1))


async def groups_more() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))


async def asks_for_the_time() -> None:
    asyncio.get_running_loop().time()


async def starts_a_timeout() -> None:
    async with asyncio.timeout(1):
        await asyncio.sleep(0)


async def runs_a_thread() -> None:
    await asyncio.to_thread(os._exit, 9)


ASKS = [
    sleeps,
    yields,
    makes_a_task,
    gathers_more,
    groups_more,
    asks_for_the_time,
    starts_a_timeout,
    runs_a_thread,
]


async def waiting(driven: Driven, name: str = "closing") -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await closing(driven, name)


async def in_a_finally(driven: Driven) -> None:
    await waiting(driven)


async def in_an_except(driven: Driven) -> None:
    try:
        await driven.wait("a")
    except BaseException:
        await closing(driven)


async def in_a_sleep(driven: Driven) -> None:
    try:
        await asyncio.sleep(5)
    finally:
        await closing(driven)


async def in_a_gather(driven: Driven) -> None:
    await asyncio.gather(waiting(driven), asyncio.sleep(5))


async def in_a_group(driven: Driven) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(waiting(driven))
        group.create_task(asyncio.sleep(5))


async def in_the_body_of_a_group(driven: Driven) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(5))
        await waiting(driven)


async def in_a_timeout(driven: Driven) -> None:
    async with asyncio.timeout(5):
        await waiting(driven)


async def in_wait_for(driven: Driven) -> None:
    await asyncio.wait_for(waiting(driven), 5)


async def in_a_shield(driven: Driven) -> None:
    await asyncio.shield(waiting(driven))


async def in_a_wait(driven: Driven) -> None:
    await asyncio.wait([asyncio.create_task(waiting(driven))], timeout=5)


async def in_as_completed(driven: Driven) -> None:
    for one in asyncio.as_completed([waiting(driven), asyncio.sleep(5)], timeout=7):
        await one


async def in_a_nested_task(driven: Driven) -> None:
    async def outer() -> None:
        await asyncio.create_task(waiting(driven))

    await asyncio.create_task(outer())


async def in_a_context_manager(driven: Driven) -> None:
    @asynccontextmanager
    async def manager() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await closing(driven)

    async with manager():
        await driven.wait("a")


async def in_an_async_generator(driven: Driven) -> None:
    async def numbers() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await driven.wait("a")
        finally:
            await closing(driven)

    async for _ in numbers():
        pass


async def in_an_abandoned_async_generator(driven: Driven) -> None:
    async def numbers() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await closing(driven)

    async for _ in numbers():
        break
    await driven.wait("a")


async def in_a_lock(driven: Driven) -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    driven.task = asyncio.create_task(waiting(driven))
    async with lock:
        pass


async def in_a_queue(driven: Driven) -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    driven.task = asyncio.create_task(waiting(driven))
    await queue.get()


async def in_a_condition(driven: Driven) -> None:
    condition = asyncio.Condition()
    driven.task = asyncio.create_task(waiting(driven))
    async with condition:
        await condition.wait()


async def in_a_custom_awaitable(driven: Driven) -> None:
    class Custom:
        def __await__(self) -> Generator[Any, Any, None]:
            yield from waiting(driven).__await__()

    await Custom()


PLACES = [
    in_a_finally,
    in_an_except,
    in_a_sleep,
    in_a_gather,
    in_a_group,
    in_the_body_of_a_group,
    in_a_timeout,
    in_wait_for,
    in_a_shield,
    in_a_wait,
    in_as_completed,
    in_a_nested_task,
    in_a_context_manager,
    in_an_async_generator,
    in_an_abandoned_async_generator,
    in_a_lock,
    in_a_queue,
    in_a_condition,
    in_a_custom_awaitable,
]


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_escapes_from_a_dropped_handler(
    drive: Drive, place: Handler, ask: Callable[[], Any], caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    """Wherever it waits and whatever it asks while it is closed: no log line, no timer, nothing on the real loop."""

    async def main() -> None:
        driven = drive(place)
        driven.ask = ask
        await asyncio.sleep(0)  # so that the real loop runs the drop from a task, the worst case
        asked, before = list(driven.timers.asked), asyncio.all_tasks()
        driven.loop.drop()
        assert driven.timers.asked == asked
        assert asyncio.all_tasks() == before
        assert asyncio.current_task() in before
        await asyncio.sleep(0)
        assert driven.trace == ["closing"]

    asyncio.run(main())
    gc.collect()

    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


async def _in_a_task(driven: Driven) -> None:
    driven.tasks = [asyncio.create_task(waiting(driven, name)) for name in "abc"]
    await waiting(driven, "main")


def test_tasks_are_closed_newest_first(drive: Drive) -> None:
    """As the blocks they are in would end."""
    driven = drive(_in_a_task)
    driven.ask = sleeps
    driven.loop.drop()

    assert driven.trace == ["c", "b", "a", "main"]
    assert all(task.done() for task in [*driven.tasks])


def test_every_call_on_a_dead_loop_raises_handler_dropped(drive: Drive) -> None:
    """A BaseException, so that `except Exception` does not catch it."""

    async def handler(driven: Driven) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(9, print)
        try:
            await driven.wait("a")
        finally:
            for call in (
                loop.time,
                loop.create_future,
                lambda: loop.call_soon(print),
                lambda: loop.call_later(1, print),
                lambda: loop.call_at(1e12, print),
                lambda: loop.create_task(asyncio.sleep(0)),
            ):
                try:
                    call()
                except BaseException as error:
                    driven.trace.append(type(error))
            timer.cancel()  # asks for nothing, so that `finally: timer.cancel()` does not hide what was raised

    driven = drive(handler)
    driven.loop.drop()

    assert driven.trace == [HandlerDropped] * 6


def test_a_dropped_handler_sees_handler_dropped_at_its_await(drive: Drive) -> None:
    """Not CancelledError, which means that somebody cancelled it."""

    async def handler(driven: Driven) -> None:
        try:
            await driven.wait("a")
        except BaseException as error:
            driven.trace += [type(error), asyncio.current_task(), asyncio.get_running_loop()]
            raise

    driven = drive(handler)
    main = driven.main
    driven.loop.drop()

    assert driven.trace == [HandlerDropped, main, driven.loop]


def test_code_runs_in_the_context_of_its_task(drive: Drive) -> None:
    """`variable.reset(token)` in a `finally` works only there."""
    variable = contextvars.ContextVar("variable", default="default")

    async def handler(driven: Driven) -> None:
        token = variable.set("mine")
        try:
            await driven.wait("a")
        finally:
            driven.trace.append(variable.get())
            variable.reset(token)
            driven.trace.append(variable.get())

    driven = drive(handler)
    driven.loop.drop()

    assert driven.trace == ["mine", "default"]


def test_a_task_that_never_started_never_runs(drive: Drive) -> None:
    """And Python does not say that it was never awaited."""
    loop = TurnLoop(1, None)  # type: ignore[arg-type]
    trace: list[str] = []

    async def handler() -> None:
        trace.append("ran")

    loop.start(handler())
    loop.drop()
    gc.collect()

    assert trace == []


def test_coroutines_that_were_made_and_not_awaited_are_dropped_quietly(drive: Drive) -> None:
    """The drop came between the two."""

    async def handler(driven: Driven) -> None:
        later = waiting(driven)
        await driven.wait("a")
        await later

    driven = drive(handler)
    driven.loop.drop()
    gc.collect()

    assert driven.trace == []


def test_a_coroutine_stepped_by_hand_is_dropped_quietly(drive: Drive) -> None:
    """It belongs to no task; freeing the frame that holds it closes it."""

    async def handler(driven: Driven) -> None:
        by_hand = waiting(driven)
        by_hand.send(None)
        await driven.wait("a")

    driven = drive(handler)
    driven.ask = sleeps
    driven.loop.drop()

    assert driven.trace == ["closing"]


async def _catches_all_around_a_future(driven: Driven) -> None:
    future = driven.wait("a")
    while True:
        try:
            await future
        except BaseException:
            driven.trace.append("caught")


async def _catches_all_around_a_sleep(driven: Driven) -> None:
    while True:
        try:
            await asyncio.sleep(1)
        except BaseException:
            driven.trace.append("caught")


async def _catches_all_around_a_task(driven: Driven) -> None:
    task = asyncio.create_task(asyncio.sleep(5))
    while True:
        try:
            await task
        except BaseException:
            driven.trace.append("caught")


async def _catches_all_around_new_tasks(driven: Driven) -> None:
    while True:
        try:
            await asyncio.gather(asyncio.create_task(asyncio.sleep(5)))
        except BaseException:
            driven.trace.append("caught")


async def _catches_all_around_a_shared_future(driven: Driven) -> None:
    future = driven.wait("a")

    async def child() -> None:
        await future

    driven.task = asyncio.create_task(child())
    while True:
        try:
            await asyncio.shield(future)
        except BaseException:
            driven.trace.append("caught")


async def _yields_for_ever(driven: Driven) -> None:
    while True:
        try:
            await driven.wait("a") if not driven.trace else await asyncio.sleep(0)
        except BaseException:
            driven.trace.append("caught")


@pytest.mark.parametrize(
    "handler",
    [
        _catches_all_around_a_future,
        _catches_all_around_a_sleep,
        _catches_all_around_a_task,
        _catches_all_around_new_tasks,
        _catches_all_around_a_shared_future,
        _yields_for_ever,
    ],
)
def test_what_cannot_be_closed_is_parked_and_logged(
    drive: Drive, handler: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    """A bounded number of attempts, then the coroutine is kept for ever rather than left to the collector."""
    parked = len(dead_drop.PARKED)
    driven = drive(handler)
    driven.loop.drop()

    assert len(dead_drop.PARKED) == parked + 1
    assert 0 < len(driven.trace) < 5_000
    (record,) = caplog.records
    assert record.name == "perdure"
    assert "could not be closed" in record.message
    caught = len(driven.trace)
    gc.collect()
    assert len(driven.trace) == caught


def test_what_is_parked_does_not_hold_up_the_end_of_the_process() -> None:
    """The interpreter frees everything at its end, where such code would loop for ever."""
    program = textwrap.dedent("""
        import asyncio
        from perdure.runtime.turn_loop import TurnLoop

        async def handler():
            while True:
                try:
                    await asyncio.get_running_loop().create_future()
                except BaseException:
                    pass

        loop = TurnLoop(1, None)
        loop.run(1, lambda: loop.start(handler()))
        loop.drop()
        print("dropped")
    """)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "dropped\n"
    assert "ignored" not in run.stderr


def test_an_async_generator_that_cannot_be_closed_is_freed_without_running(drive: Drive) -> None:
    """Python runs nothing of an async generator whose finalizer hook does nothing."""

    async def stubborn(driven: Driven) -> AsyncGenerator[int, None]:
        while True:
            try:
                yield 1
            except BaseException:
                driven.trace.append("caught")

    async def handler(driven: Driven) -> None:
        async for _ in stubborn(driven):
            break
        await driven.wait("a")

    driven = drive(handler)
    driven.loop.drop()
    caught = len(driven.trace)
    gc.collect()

    assert 0 < caught <= dead_drop.ATTEMPTS_MAX
    assert len(driven.trace) == caught


def test_death_inside_a_turn_ends_the_turn(drive: Drive) -> None:
    """Divergence and kill are a flag first: catching the exception gains nothing."""

    async def other(driven: Driven) -> None:
        driven.trace.append("ESCAPED")

    async def handler(driven: Driven) -> None:
        driven.task = asyncio.create_task(other(driven))
        driven.loop.dead = True
        try:
            await asyncio.sleep(1)
        except BaseException as error:
            driven.trace.append(type(error))
        driven.loop.call_soon(driven.trace.append, "ESCAPED")

    driven = drive(handler)
    assert driven.trace == [HandlerDropped]
    driven.loop.drop()
    assert driven.trace == [HandlerDropped]


def test_dropping_inside_the_turn_is_refused(drive: Drive) -> None:
    """A running coroutine can't be closed."""

    async def handler(driven: Driven) -> None:
        driven.loop.drop()

    with pytest.raises(RuntimeError, match="drop the loop after the turn"):
        drive(handler).main.result()


def test_dropping_twice_is_nothing(drive: Drive) -> None:
    """And a dead loop takes no more turns."""
    driven = drive(_in_a_task)
    driven.ask = sleeps
    driven.loop.drop()
    driven.loop.drop()

    assert len(driven.trace) == 4
    with pytest.raises(RuntimeError):
        driven.loop.run(1)


def test_answers_that_come_after_the_drop_do_nothing(drive: Drive) -> None:
    """Futures that the handler waited for are done, so their deliveries are dropped."""

    async def handler(driven: Driven) -> None:
        await driven.wait("a")

    driven = drive(handler)
    driven.loop.drop()

    assert driven.waits["a"].done()

"""Ordinary asyncio works in a handler, over waits that last for turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

Drive = Any
Driven = Any


async def named(driven: Driven, name: str) -> Any:
    return await driven.wait(name)


def test_gather_gives_results_in_the_order_of_its_arguments(drive: Drive) -> None:
    """Whatever the order of the answers."""

    async def handler(driven: Driven) -> list[Any]:
        results: list[Any] = await asyncio.gather(*[named(driven, "a"), named(driven, "b"), driven.wait("c")])
        return results

    driven = drive(handler)
    for name in "cab":
        driven.answer(name, name.upper())
    assert driven.main.result() == ["A", "B", "C"]


def test_a_task_group_waits_for_all(drive: Drive) -> None:
    """And gives their results."""

    async def handler(driven: Driven) -> list[Any]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(named(driven, name)) for name in "abc"]
        return [task.result() for task in tasks]

    driven = drive(handler)
    for name in "bca":
        assert not driven.main.done()
        driven.answer(name, name)
    assert driven.main.result() == ["a", "b", "c"]


def test_a_task_group_cancels_the_others_when_one_fails(drive: Drive) -> None:
    """In the turn of the failure."""

    async def handler(driven: Driven) -> None:
        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(named(driven, name))

    driven = drive(handler)
    driven.turn(lambda: driven.waits["b"].set_exception(ValueError("b")))

    with pytest.raises(ExceptionGroup) as raised:
        driven.main.result()
    assert [str(one) for one in raised.value.exceptions] == ["b"]
    assert driven.waits["a"].cancelled()
    assert driven.waits["c"].cancelled()


@pytest.mark.parametrize(
    ("when", "answered", "expected"),
    [
        (asyncio.FIRST_COMPLETED, "b", ("b", "ac")),
        (asyncio.FIRST_EXCEPTION, "b!", ("b!", "ac")),
        (asyncio.ALL_COMPLETED, "cab", ("abc", "")),
    ],
)
def test_wait_returns_when_it_was_told_to(drive: Drive, when: str, answered: str, expected: tuple[str, str]) -> None:
    """FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED; both sets in the order of the tasks."""

    async def handler(driven: Driven) -> tuple[str, str]:
        tasks = [asyncio.create_task(named(driven, name), name=name) for name in "abc"]
        done, pending = await asyncio.wait(tasks, return_when=when)
        text = "".join(task.get_name() + ("!" if task.exception() else "") for task in done)
        return text, "".join(task.get_name() for task in pending)

    driven = drive(handler)
    if answered.endswith("!"):
        driven.turn(lambda: driven.waits[answered[0]].set_exception(ValueError()))
    else:
        for name in answered:
            driven.answer(name)
    assert driven.main.result() == expected


def test_wait_with_a_timeout(drive: Drive) -> None:
    """It returns what is done by then, and disarms its timer if all are."""

    async def handler(driven: Driven) -> int:
        done, _ = await asyncio.wait([asyncio.create_task(named(driven, name)) for name in "ab"], timeout=5)
        return len(done)

    driven = drive(handler)
    driven.answer("a")
    driven.fire_next()
    assert driven.main.result() == 1

    driven = drive(handler)
    driven.answer("a")
    driven.answer("b")
    assert driven.main.result() == 2
    assert driven.timers.armed == []


def test_as_completed_gives_results_in_the_order_of_the_answers(drive: Drive) -> None:
    """One turn each."""

    async def handler(driven: Driven) -> None:
        for one in asyncio.as_completed([named(driven, name) for name in "abc"]):
            driven.trace.append(await one)

    driven = drive(handler)
    for name in "cab":
        driven.answer(name, name)
    assert driven.trace == ["c", "a", "b"]


def test_a_timeout_cancels_what_it_is_around(drive: Drive) -> None:
    """At its due time, and the handler goes on."""

    async def handler(driven: Driven) -> str:
        timeout = asyncio.timeout(5)
        try:
            async with timeout:
                await driven.wait("a")
        except TimeoutError:
            assert timeout.expired()
            return f"{asyncio.get_running_loop().time():.3f}"
        return "in time"

    driven = drive(handler)
    driven.fire_next()
    assert driven.main.result() == "1700000005.123"

    driven = drive(handler)
    driven.answer("a")
    assert driven.main.result() == "in time"
    assert driven.timers.armed == []


def test_a_timeout_can_be_rescheduled(drive: Drive) -> None:
    """The old timer is disarmed."""

    async def handler(driven: Driven) -> None:
        async with asyncio.timeout(5) as timeout:
            timeout.reschedule(asyncio.get_running_loop().time() + 50)
            await driven.wait("a")

    (timer,) = drive(handler).timers.armed
    assert timer.when_us == 1_700_000_050_123_457


def test_wait_for_wins_or_times_out(drive: Drive) -> None:
    """And cancels what it waited for."""

    async def handler(driven: Driven) -> Any:
        return await asyncio.wait_for(driven.wait("a"), 5)

    driven = drive(handler)
    driven.answer("a", "in time")
    assert driven.main.result() == "in time"
    assert driven.timers.armed == []

    driven = drive(handler)
    driven.fire_next()
    assert isinstance(driven.main.exception(), TimeoutError)
    assert driven.waits["a"].cancelled()


def test_a_shield_keeps_its_task_from_being_cancelled(drive: Drive) -> None:
    """The waiter is cancelled, the task goes on."""

    async def handler(driven: Driven) -> Any:
        task = asyncio.create_task(named(driven, "a"))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            return await task

    driven = drive(handler)
    driven.turn(driven.main.cancel)
    driven.answer("a", "kept")
    assert driven.main.result() == "kept"


def test_a_cancelled_handler_sees_it_at_its_await(drive: Drive) -> None:
    """And may still wait in its `finally`."""

    async def handler(driven: Driven) -> None:
        try:
            await driven.wait("a")
        finally:
            driven.trace.append(await driven.wait("compensation"))

    driven = drive(handler)
    driven.turn(driven.main.cancel)
    assert driven.waits["a"].cancelled()
    driven.answer("compensation", "done")
    assert driven.main.cancelled()
    assert driven.trace == ["done"]


def test_queues_events_locks_and_the_rest(drive: Drive) -> None:
    """Queue, Event, Lock, Semaphore, Condition and Barrier between tasks of a handler."""

    async def worker(driven: Driven, queue: asyncio.Queue[str], lock: asyncio.Lock, event: asyncio.Event) -> None:
        while (item := await queue.get()) != "stop":
            async with lock:
                driven.trace.append(await driven.wait(item))
            queue.task_done()
        event.set()

    async def handler(driven: Driven) -> None:
        queue: asyncio.Queue[str] = asyncio.Queue()
        lock, event, semaphore = asyncio.Lock(), asyncio.Event(), asyncio.BoundedSemaphore(1)
        condition, barrier = asyncio.Condition(), asyncio.Barrier(2)
        async with asyncio.TaskGroup() as group:
            group.create_task(worker(driven, queue, lock, event))
            for item in "ab":
                queue.put_nowait(item)
            await queue.join()
            queue.put_nowait("stop")
            await event.wait()
            group.create_task(barrier.wait())
            await barrier.wait()
        async with semaphore, condition:
            group = asyncio.get_running_loop().call_later(1, asyncio.create_task, notify(condition))  # type: ignore
            await condition.wait()
            driven.trace.append("notified")

    async def notify(condition: asyncio.Condition) -> None:
        async with condition:
            condition.notify()

    driven = drive(handler)
    driven.answer("a", 1)
    driven.answer("b", 2)
    driven.fire_next()
    driven.main.result()
    assert driven.trace == [1, 2, "notified"]


def test_async_generators_and_async_with(drive: Drive) -> None:
    """Over turns."""

    async def numbers(driven: Driven) -> AsyncGenerator[Any, None]:
        for name in "ab":
            yield await driven.wait(name)

    async def handler(driven: Driven) -> list[Any]:
        return [number async for number in numbers(driven)]

    driven = drive(handler)
    driven.answer("a", 1)
    driven.answer("b", 2)
    assert driven.main.result() == [1, 2]


def test_a_replay_takes_the_same_path(drive: Drive) -> None:
    """The same answers in the same order give the same trace, names of tasks included."""

    async def handler(driven: Driven) -> None:
        tasks = {asyncio.create_task(named(driven, name)) for name in "abcdef"}
        while tasks:
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            driven.trace.append([task.get_name() for task in done])
            driven.trace.append([task.get_name() for task in tasks])

    def run() -> list[Any]:
        driven = drive(handler)
        for name in "fbdace":
            driven.answer(name)
        driven.main.result()
        trace: list[Any] = driven.trace
        return trace

    assert run() == run()

"""Handlers whose traces show every order that a handler can see. Prints them as JSON.

Run by `test_order.py` on each Python, with different hash seeds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from perdure.runtime.turn_loop import TurnLoop, TurnTimer

Trace = list[str]
Handler = Callable[[Trace, "list[asyncio.Future[None]]"], Coroutine[Any, Any, None]]


class Timers:
    def __init__(self) -> None:
        self.armed: list[TurnTimer] = []

    def arm(self, handle: TurnTimer, /) -> None:
        self.armed.append(handle)

    def disarm(self, handle: TurnTimer, /) -> None:
        self.armed.remove(handle)


async def work(trace: Trace, name: str, steps: int = 1, error: Exception | None = None) -> str:
    for step in range(steps):
        trace.append(f"{name}{step}")
        await asyncio.sleep(0)
    if error is not None:
        raise error
    return name


async def until_cancelled(trace: Trace, name: str) -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        trace.append(f"{name} cancelled")


async def gathered(trace: Trace, _waits: list[asyncio.Future[None]]) -> None:
    trace += await asyncio.gather(*[work(trace, name, 3) for name in "abcdef"])


async def grouped(trace: Trace, _waits: list[asyncio.Future[None]]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for name in "abcdefgh":
                group.create_task(until_cancelled(trace, name))
            group.create_task(work(trace, "boom", 1, ValueError("boom")))
    except* ValueError as errors:
        trace.append(str(len(errors.exceptions)))


async def waited(trace: Trace, waits: list[asyncio.Future[None]]) -> None:
    """A set literal, asyncio's own sets, and the sets that come back."""
    tasks = {asyncio.create_task(work(trace, name, 1 + ord(name) % 3), name=name) for name in "abcdefghijkl"}
    trace.append("made " + "".join(task.get_name() for task in tasks))
    while tasks:
        done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        trace.append("done " + "".join(task.get_name() for task in done))
        trace.append("pending " + "".join(task.get_name() for task in tasks))
    futures = {asyncio.get_running_loop().create_future(): index for index in range(20)}
    waits += futures
    answered, _ = await asyncio.wait(set[asyncio.Future[None]](futures))
    trace.append("futures " + ",".join(str(futures[future]) for future in answered))
    trace.append("frozen " + ",".join(str(futures[future]) for future in frozenset(futures)))


async def completed(trace: Trace, _waits: list[asyncio.Future[None]]) -> None:
    for next_one in asyncio.as_completed([work(trace, name, 1 + ord(name) % 3) for name in "abcdefgh"]):
        trace.append("completed " + await next_one)
    ready = [asyncio.create_task(work(trace, name, 0)) for name in "ijklmnop"]
    await asyncio.sleep(0)
    for next_one in asyncio.as_completed(ready):
        trace.append("completed " + await next_one)


async def gathers_in_a_set(trace: Trace, _waits: list[asyncio.Future[None]]) -> None:
    gathers = {asyncio.gather(work(trace, name, 2)): name for name in "abcdefgh"}
    for one in set(gathers):
        trace.append("set " + gathers[one])
    done, _ = await asyncio.wait(frozenset(gathers))
    for one in done:
        trace.append("done " + gathers[one])


async def all_the_tasks(trace: Trace, _waits: list[asyncio.Future[None]]) -> None:
    tasks = [asyncio.create_task(until_cancelled(trace, name), name=name) for name in "abcdefghijklmnopqrst"]
    await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        trace.append("all " + task.get_name())
        task.cancel()
    await asyncio.wait(tasks)


async def timed(trace: Trace, _waits: list[asyncio.Future[None]]) -> None:
    """Timers that are due together, and timeouts that win or lose."""
    async with asyncio.TaskGroup() as group:
        for index, name in enumerate("abcdef"):
            group.create_task(_sleep_then(trace, name, 1 + index % 2))
    try:
        async with asyncio.timeout(2):
            await until_cancelled(trace, "slow")
    except TimeoutError:
        trace.append("timeout")
    async with asyncio.timeout(2):
        await work(trace, "quick")
    done, pending = await asyncio.wait([asyncio.create_task(until_cancelled(trace, "late"), name="late")], timeout=1)
    trace.append(f"{len(done)} {len(pending)}")


async def _sleep_then(trace: Trace, name: str, seconds: float) -> None:
    await asyncio.sleep(seconds)
    trace.append("slept " + name)


async def shared(trace: Trace, _waits: list[asyncio.Future[None]]) -> None:
    """Locks, semaphores, conditions, events, queues, barriers."""
    lock, semaphore, event, queue = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Event(), asyncio.Queue[str](2)
    condition, barrier = asyncio.Condition(), asyncio.Barrier(4)

    async def one(name: str) -> None:
        async with lock:
            await work(trace, name, 2)
        async with semaphore:
            await work(trace, name, 2)
        await queue.put(name)
        async with condition:
            if name == "d":
                condition.notify_all()
            else:
                await condition.wait()
        trace.append("notified " + name)
        await barrier.wait()
        trace.append("barrier " + name)
        await event.wait()
        trace.append("event " + name)

    async with asyncio.TaskGroup() as group:
        for name in "abcd":
            group.create_task(one(name))
        for _ in "abcd":
            trace.append("got " + await queue.get())
        event.set()


async def waits_for(trace: Trace, _waits: list[asyncio.Future[None]]) -> None:
    """Of its own: 3.12 changed the order inside wait_for."""
    results = await asyncio.gather(*[asyncio.wait_for(work(trace, name, 1 + ord(name) % 3), 5) for name in "abcdef"])
    trace += results
    try:
        await asyncio.wait_for(until_cancelled(trace, "slow"), 1)
    except TimeoutError:
        trace.append("timeout")


COMMON: list[Handler] = [
    gathered,
    grouped,
    waited,
    completed,
    gathers_in_a_set,
    all_the_tasks,
    timed,
    shared,
]
"""One order on every Python."""

OF_THE_MINOR_VERSION: list[Handler] = [waits_for]
"""One order on every Python of one minor version."""


def answer(waits: list[asyncio.Future[None]]) -> None:
    for wait in waits:
        wait.set_result(None)


def trace_of(handler: Handler) -> Trace:
    trace: Trace = []
    waits: list[asyncio.Future[None]] = []
    timers = Timers()
    loop = TurnLoop(1, timers)
    loop.run(1_000_000, lambda: loop.start(handler(trace, waits)))
    while loop.main is not None and not loop.main.done():
        trace.append("turn")
        if waits:
            loop.run(loop.now_us + 1, lambda: answer(waits))
            waits.clear()
        else:
            timer = min(timers.armed, key=lambda one: one.when_us)
            timers.armed.remove(timer)
            loop.run(timer.when_us, lambda timer=timer: loop.fire(timer))  # type: ignore[misc]
    assert loop.main is not None
    loop.main.result()
    loop.cancel_leftovers()
    loop.discard()
    return trace


def line_of(handler: Handler) -> str:
    return f"{handler.__name__} {' '.join(trace_of(handler))}"


if __name__ == "__main__":
    parts = {"common": COMMON, "minor": OF_THE_MINOR_VERSION}
    print(json.dumps({part: "\n".join(map(line_of, handlers)) for part, handlers in parts.items()}))

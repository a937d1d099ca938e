"""What a turn loop costs, beside a bare asyncio task per request. Run: `python tests/benchmarks/turn_loop_bench.py`.

Microseconds each, the best of many short rounds: the noise of the machine only ever adds.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable

from perdure.runtime.mute import muted
from perdure.runtime.turn_loop import TurnFuture, TurnLoop, TurnTimer

ROUNDS = 60
REPEATS = 1_000


class Timers:
    def arm(self, handle: TurnTimer, /) -> None: ...

    def disarm(self, handle: TurnTimer, /) -> None: ...


TIMERS = Timers()
IDENTITY = 0x0123456789ABCDE


async def ends_at_once() -> int:
    return 1


def one_turn_handler() -> None:
    loop = TurnLoop(IDENTITY, TIMERS)
    loop.run(1, lambda: loop.start(ends_at_once()))
    loop.cancel_leftovers()
    assert loop.main is not None
    loop.main.result()
    loop.discard()


def bare_tasks(count: int) -> float:
    """A task per request on a running loop, as a web framework makes it."""

    async def main() -> float:
        start = time.perf_counter()
        for _ in range(count):
            await asyncio.get_running_loop().create_task(ends_at_once())
        return time.perf_counter() - start

    return asyncio.run(main()) / count * 1e6


def resumed_turns(count: int) -> float:
    """A result comes, the handler takes it and waits for the next."""
    waits: list[TurnFuture[int]] = []
    loop = TurnLoop(IDENTITY, TIMERS)

    async def handler() -> None:
        create = loop.create_future
        while True:
            waits.append(create())
            await waits[-1]

    loop.run(1, lambda: loop.start(handler()))
    start = time.perf_counter()
    for now in range(2, count + 2):
        wait = waits.pop()
        loop.run(now, lambda wait=wait: wait.set_result(1))  # type: ignore[misc]
    elapsed = time.perf_counter() - start
    loop.drop()
    return elapsed / count * 1e6


def bare_resumes(count: int) -> float:
    """The same on asyncio's own loop."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        waits: list[asyncio.Future[int]] = []

        async def handler() -> None:
            while True:
                waits.append(loop.create_future())
                await waits[-1]

        task = loop.create_task(handler())
        await asyncio.sleep(0)
        start = time.perf_counter()
        for _ in range(count):
            waits.pop().set_result(1)
            await asyncio.sleep(0)
        elapsed = time.perf_counter() - start
        task.cancel()
        return elapsed

    return asyncio.run(main()) / count * 1e6


def dropped_handler() -> None:
    loop = TurnLoop(IDENTITY, TIMERS)

    async def handler() -> None:
        try:
            await loop.create_future()
        finally:
            pass

    loop.run(1, lambda: loop.start(handler()))
    loop.drop()


def grouped_handler() -> None:
    loop = TurnLoop(IDENTITY, TIMERS)

    async def handler() -> None:
        await asyncio.gather(ends_at_once(), ends_at_once(), ends_at_once())

    loop.run(1, lambda: loop.start(handler()))
    loop.cancel_leftovers()
    loop.discard()


def muted_block() -> None:
    with muted():
        pass


def timed(function: Callable[[], None]) -> Callable[[int], float]:
    def measure(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            function()
        return (time.perf_counter() - start) / count * 1e6

    return measure


MEASURES: list[tuple[str, Callable[[int], float]]] = [
    ("bare asyncio: task, one step, awaited", bare_tasks),
    ("turn loop: made, one turn, discarded", timed(one_turn_handler)),
    ("bare asyncio: a resumed step", bare_resumes),
    ("turn loop: a resumed turn", resumed_turns),
    ("turn loop: gather of three, discarded", timed(grouped_handler)),
    ("turn loop: made, suspended, dropped", timed(dropped_handler)),
    ("with muted()", timed(muted_block)),
]


def main() -> None:
    print(f"Python {sys.version.split()[0]}")
    for name, measure in MEASURES:
        gc.collect()
        best = min(measure(REPEATS) for _ in range(ROUNDS))
        print(f"{name:40} {best:7.2f} µs")


if __name__ == "__main__":
    main()

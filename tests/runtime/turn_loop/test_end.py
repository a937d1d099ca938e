"""The end of a handler: its left-over tasks, its async generators, and its memory."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest

from perdure.runtime.turn_loop import NotInHandler, TurnLoop
from tests.garbage import collect_all

Drive = Any
Driven = Any


async def _until_cancelled(driven: Driven, name: str) -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        driven.trace.append(f"{name} cancelled")


def test_leftovers_are_cancelled_oldest_first_in_the_same_turn(drive: Drive) -> None:
    """Their `finally` blocks run at the time of the last turn."""

    async def handler(driven: Driven) -> None:
        driven.tasks = [asyncio.create_task(_until_cancelled(driven, name)) for name in "abc"]
        await asyncio.sleep(0)
        driven.trace.append(driven.loop.now_us)

    driven = drive(handler)
    now = driven.loop.now_us
    driven.loop.cancel_leftovers()

    assert driven.trace == [now, "a cancelled", "b cancelled", "c cancelled"]
    assert driven.loop.now_us == now
    assert all(task.cancelled() for task in driven.tasks)


def test_leftovers_can_be_cancelled_as_a_continuation_of_the_turn(drive: Drive) -> None:
    """`run(None, loop.cancel_leftovers)` is the same."""

    async def handler(driven: Driven) -> None:
        driven.task = asyncio.create_task(_until_cancelled(driven, "a"))
        await asyncio.sleep(0)

    driven = drive(handler)
    driven.loop.run(None, driven.loop.cancel_leftovers)

    assert driven.trace == ["a cancelled"]


def test_what_leftovers_ask_is_refused(drive: Drive) -> None:
    """The handler's record is written: nobody would answer them."""

    async def stubborn(driven: Driven) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            try:
                await asyncio.sleep(1)
            except NotInHandler as error:
                driven.trace.append(str(error))

    async def handler(driven: Driven) -> None:
        driven.task = asyncio.create_task(stubborn(driven))
        await asyncio.sleep(0)

    driven = drive(handler)
    driven.loop.cancel_leftovers()

    assert driven.loop.ended
    assert driven.trace == ["asked after the handler has ended: await every task before the handler returns"]
    assert driven.timers.asked == []


def test_a_leftover_that_catches_everything_does_not_hold_up_the_turn(drive: Drive) -> None:
    """Refused a thousand times, it gets a future that never ends, and is dropped with the rest."""

    async def worker(driven: Driven) -> None:
        while True:
            try:
                driven.trace.append(1)
                await asyncio.sleep(1)
            except BaseException:
                pass

    async def handler(driven: Driven) -> None:
        driven.task = asyncio.create_task(worker(driven))
        await asyncio.sleep(0)

    driven = drive(handler)
    driven.loop.cancel_leftovers()

    assert not driven.task.done()
    assert len(driven.trace) < 2_000


def test_a_leftover_that_never_started_never_runs(drive: Drive) -> None:
    """And Python does not complain that it was never awaited."""

    async def handler(driven: Driven) -> None:
        driven.task = asyncio.create_task(_until_cancelled(driven, "a"))
        driven.task.cancel()
        asyncio.create_task(_until_cancelled(driven, "b"))  # noqa: RUF006

    driven = drive(handler)
    driven.loop.cancel_leftovers()
    driven.loop.discard()
    # Both were started by the last turn before their handler's end was known.
    assert driven.trace == ["b cancelled"]


async def _numbers(driven: Driven, name: str) -> AsyncGenerator[int, None]:
    try:
        for number in range(10):
            yield number
    finally:
        driven.trace.append(f"{name} closing")
        await asyncio.sleep(0)
        driven.trace.append(f"{name} closed")


def test_async_generators_are_held_until_the_handler_ends(drive: Drive) -> None:
    """One that is left behind is not closed by whoever frees it, but at the end, newest first."""

    async def handler(driven: Driven) -> None:
        for name in "abc":
            async for _ in _numbers(driven, name):
                break
        await driven.wait("a")
        gc.collect()
        driven.trace.append("the end")

    driven = drive(handler)
    driven.answer("a")
    driven.loop.cancel_leftovers()

    assert driven.trace == [
        "the end",
        *["c closing", "b closing", "a closing"],
        *["c closed", "b closed", "a closed"],
    ]


def test_async_generators_that_have_ended_are_not_kept(drive: Drive) -> None:
    """A handler that streams for a year does not keep them all."""

    async def handler(driven: Driven) -> None:
        for _ in range(200):
            async for _ in _numbers(driven, "x"):
                pass

    assert len(drive(handler).loop._async_generators) <= 16


def test_an_error_while_closing_an_async_generator_is_logged(drive: Drive, caplog: pytest.LogCaptureFixture) -> None:
    """There is nobody to raise it to."""

    async def broken() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            raise ValueError("while closing")

    async def handler(_driven: Driven) -> None:
        async for _ in broken():
            break

    driven = drive(handler)
    driven.loop.cancel_leftovers()

    assert "an error while closing" in caplog.text
    assert "ValueError: while closing" in caplog.text


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


async def _simple(driven: Driven) -> str:
    return "result"


async def _waits(driven: Driven) -> None:
    await driven.wait("a")


async def _sleeps(driven: Driven) -> None:
    async with asyncio.timeout(60):
        await driven.wait("a")


async def _groups(driven: Driven) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
        group.create_task(_waits(driven))


async def _gathers(driven: Driven) -> None:
    await asyncio.gather(_waits(driven), asyncio.sleep(0), asyncio.shield(asyncio.create_task(asyncio.sleep(0))))


async def _waits_for_first(driven: Driven) -> None:
    await asyncio.wait(
        [asyncio.create_task(_waits(driven)), asyncio.create_task(_until_cancelled(driven, "a"))],
        return_when=asyncio.FIRST_COMPLETED,
    )


async def _leaves_a_task(driven: Driven) -> None:
    driven.loop.create_task(_until_cancelled(driven, "a"))
    await driven.wait("a")


async def _leaves_a_generator(driven: Driven) -> None:
    async for _ in _numbers(driven, "a"):
        break
    await driven.wait("a")


HANDLERS = [_simple, _waits, _sleeps, _groups, _gathers, _waits_for_first, _leaves_a_task, _leaves_a_generator]


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("handler", HANDLERS)
def test_an_ended_handler_is_freed_without_the_collector(drive: Drive, handler: Callable[[Driven], Any]) -> None:
    """Reference counts alone: no collector pauses."""
    collect_all()
    driven = drive(handler)
    if driven.waits:
        driven.answer("a")
    driven.loop.cancel_leftovers()
    loop, main = weakref.ref(driven.loop), weakref.ref(driven.main)
    assert driven.main.exception() is None
    driven.loop.discard()
    driven.loop = driven.loop.__class__(1, driven.timers)

    assert loop() is None
    assert main() is None
    assert gc.collect() == 0


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_handler_that_fails_in_its_first_step_is_freed_too(drive: Drive, error: type[BaseException]) -> None:
    """Its error leads to the frames of the turn, and those must not lead back."""

    async def handler(_: Driven) -> None:
        raise error

    collect_all()
    driven = drive(handler)
    loop, main = weakref.ref(driven.loop), weakref.ref(driven.main)
    assert type(driven.main.exception()) is error
    driven.loop.discard()
    driven.loop = driven.loop.__class__(1, driven.timers)

    assert loop() is None
    assert main() is None
    assert gc.collect() == 0


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("handler", HANDLERS)
def test_a_dropped_handler_is_freed_without_the_collector(drive: Drive, handler: Callable[[Driven], Any]) -> None:
    """As many handlers are evicted as end."""
    collect_all()
    driven = drive(handler)
    loop, main = weakref.ref(driven.loop), weakref.ref(driven.main)
    driven.loop.drop()
    driven.loop = driven.loop.__class__(1, driven.timers)
    driven.waits.clear()
    driven.timers.armed.clear()

    assert loop() is None
    assert main() is None
    assert gc.collect() == 0


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("end", [TurnLoop.discard, TurnLoop.drop])
def test_a_loop_lets_go_of_its_port(drive: Drive, end: Callable[[TurnLoop], None]) -> None:
    """The port is the invocation, which holds its loop."""
    driven = drive(_simple)
    driven.timers.loop = driven.loop
    port = weakref.ref(driven.timers)
    end(driven.loop)
    driven.timers = None

    driven.loop = TurnLoop(1, port)  # type: ignore[arg-type]  # what held the old one is gone
    assert port() is None


@pytest.mark.usefixtures("no_collector")
def test_the_error_of_a_handler_does_not_keep_what_started_its_turn() -> None:
    """Its traceback leads to the frames of the turn: from there it must not lead back to who keeps the error."""

    class Invocation:
        main: asyncio.Task[None]

    async def fails() -> None:
        raise ValueError

    def start(loop: TurnLoop) -> Callable[[], None]:
        invocation = Invocation()
        kept.append(weakref.ref(invocation))

        def first() -> None:
            invocation.main = loop.start(fails())

        return first

    kept: list[weakref.ref[Invocation]] = []
    loop = TurnLoop(1, None)  # type: ignore[arg-type]
    loop.run(1, start(loop))
    assert loop.main is not None
    loop.main.exception()
    loop.discard()

    assert kept[0]() is None


def test_discarding_what_has_not_ended_drops_it(drive: Drive) -> None:
    """A task that would not be cancelled is closed."""

    async def stubborn(driven: Driven) -> None:
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                driven.trace.append("no")

    async def handler(driven: Driven) -> None:
        driven.task = asyncio.create_task(stubborn(driven))
        await asyncio.sleep(0)

    driven = drive(handler)
    driven.loop.cancel_leftovers()
    driven.loop.discard()

    assert driven.trace == ["no"]
    assert driven.task.done()

"""What can't be replayed can't be reached, and the error says what to do instead."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
import warnings
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from perdure.runtime.turn_loop import NotInHandler, TurnLoop

Drive = Any
Driven = Any

ADVICE = r"do I/O in a step: `await self.ctx.run\(fetch, url\)`"

USED = {
    "call_soon",
    "call_later",
    "call_at",
    "time",
    "create_future",
    "create_task",
    "is_running",
    "is_closed",
    "get_debug",
    "set_debug",
    "get_task_factory",
    "set_task_factory",
    "get_exception_handler",
    "call_exception_handler",
    "default_exception_handler",
}
REFUSED = sorted(
    name
    for name, value in vars(asyncio.AbstractEventLoop).items()
    if inspect.isfunction(value) and not name.startswith("_") and name not in USED
)


@pytest.mark.parametrize("name", REFUSED)
def test_a_loop_does_nothing_else(drive: Drive, name: str) -> None:
    """Every method of an event loop that is not about callbacks and tasks refuses, and teaches."""

    async def handler(driven: Driven) -> None:
        method = getattr(asyncio.get_running_loop(), name)
        arguments: list[Any] = [None] * _positional(method)
        method(*arguments)

    error = drive(handler).main.exception()
    assert isinstance(error, NotInHandler)
    assert ADVICE.replace("\\", "") in str(error)


def _positional(method: Callable[..., Any]) -> int:
    kinds = [parameter.kind for parameter in inspect.signature(method).parameters.values()]
    return kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)


async def _connect() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def _subprocess() -> None:
    await asyncio.create_subprocess_exec("true")


async def _thread() -> None:
    await asyncio.to_thread(print)


async def _default_executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, print)


async def _wrapped_future_of_a_thread() -> None:
    await asyncio.wrap_future(concurrent.futures.Future[None]())


async def _run_coroutine_threadsafe() -> None:
    coroutine = asyncio.sleep(0)
    try:
        asyncio.run_coroutine_threadsafe(coroutine, asyncio.get_running_loop())
    finally:
        coroutine.close()


async def _asyncio_run() -> None:
    coroutine = asyncio.sleep(0)
    try:
        asyncio.run(coroutine)
    finally:
        coroutine.close()


async def _runner() -> None:
    coroutine = asyncio.sleep(0)
    try:
        asyncio.Runner().run(coroutine)
    finally:
        coroutine.close()


async def _run_until_complete() -> None:
    asyncio.get_running_loop().run_until_complete(asyncio.get_running_loop().create_future())


async def _eager_tasks() -> None:
    asyncio.get_running_loop().set_task_factory(_factory)


def _factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coro, loop=loop, **options)


async def _task_of_the_wrong_class() -> None:
    coroutine = asyncio.sleep(0)
    try:
        asyncio.Task(coroutine)
    finally:
        coroutine.close()


@pytest.mark.parametrize(
    "escape",
    [
        _connect,
        _subprocess,
        _thread,
        _default_executor,
        _wrapped_future_of_a_thread,
        _run_coroutine_threadsafe,
        _asyncio_run,
        _runner,
        _run_until_complete,
        _eager_tasks,
        _task_of_the_wrong_class,
    ],
)
def test_ways_out_are_refused_with_advice(
    drive: Drive, escape: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Each as a user would write it. The error is all there is: asyncio logs nothing beside it."""

    async def handler(_driven: Driven) -> None:
        await escape()

    with pytest.raises(NotInHandler, match=ADVICE):
        drive(handler).main.result()
    assert caplog.records == []


def test_a_future_of_another_loop_is_refused_with_advice(drive: Drive) -> None:
    """asyncio says that it is attached to a different loop; that alone helps nobody."""
    real = asyncio.new_event_loop()

    async def handler(_driven: Driven) -> None:
        await real.create_future()

    try:
        with pytest.raises(RuntimeError, match=rf"attached to a different loop; .*{ADVICE}"):
            drive(handler).main.result()
    finally:
        real.close()


def test_awaiting_what_is_no_future_is_refused_with_advice(drive: Drive) -> None:
    """A trio or curio trap, say."""

    class Trap:
        def __await__(self) -> Any:
            yield "trap"

    async def handler(_driven: Driven) -> None:
        await Trap()

    with pytest.raises(RuntimeError, match=rf"bad yield: 'trap'; .*{ADVICE}"):
        drive(handler).main.result()


def test_a_handler_can_go_on_after_a_refused_await(drive: Drive) -> None:
    """It is an ordinary exception at the await."""
    real = asyncio.new_event_loop()

    async def handler(driven: Driven) -> None:
        for _ in range(2):
            try:
                await real.create_future()
            except RuntimeError:
                driven.trace.append("caught")
            await asyncio.sleep(0)

    driven = drive(handler)
    real.close()
    driven.main.result()
    assert driven.trace == ["caught", "caught"]


CALLS: dict[str, Callable[[Driven], object]] = {
    "call_soon": lambda driven: driven.loop.call_soon(print),
    "call_later": lambda driven: driven.loop.call_later(1, print),
    "call_at": lambda driven: driven.loop.call_at(1e12, print),
    "create_future": lambda driven: driven.loop.create_future(),
    "create_task": lambda driven: driven.loop.create_task(_connect()),
    "set_result": lambda driven: driven.waits["a"].set_result(None),
    "task.cancel": lambda driven: driven.main.cancel(),
    "timer.cancel": lambda driven: driven.timers.armed[0].cancel(),
    "call_soon_threadsafe": lambda driven: driven.loop.call_soon_threadsafe(print),
    "dead_end": lambda driven: (driven.loop.drop(), driven.loop.create_future()),
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_gets_in_from_outside_of_the_turn(drive: Drive, name: str) -> None:
    """A callback of another loop, or plain code: the call raises, nothing is queued."""
    driven = drive(_handler_that_waits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NotInHandler, match=ADVICE):
            CALLS[name](driven)
    driven.loop.drop()
    assert driven.trace == []


def test_nothing_gets_in_from_another_thread_during_the_turn(drive: Drive) -> None:
    """While the turn runs in one thread, another one is refused just the same."""
    refused: list[BaseException] = []

    def call(driven: Driven) -> None:
        for name in ("call_soon", "create_future", "create_task", "call_later"):
            try:
                CALLS[name](driven)
            except NotInHandler as error:
                refused.append(error)

    async def handler(driven: Driven) -> None:
        thread = threading.Thread(target=call, args=[driven])
        thread.start()
        thread.join()

    drive(handler)
    assert len(refused) == 4


async def _handler_that_waits(driven: Driven) -> None:
    asyncio.get_running_loop().call_later(5, driven.trace.append, "fired")
    await driven.wait("a")
    driven.trace.append("went on")


def test_async_generators_of_the_real_loop_keep_their_hooks(drive: Drive) -> None:
    """The hooks of a turn are its own."""
    held: list[object] = []

    async def generator() -> AsyncGenerator[int, None]:
        yield 1

    async def main() -> None:
        async for _ in generator():
            loop = TurnLoop(1, None)  # type: ignore[arg-type]
            loop.run(1, lambda: None)
        held.extend(asyncio.get_running_loop()._asyncgens)  # type: ignore[attr-defined]
        another = generator()
        await anext(another)
        held.extend(asyncio.get_running_loop()._asyncgens)  # type: ignore[attr-defined]
        await another.aclose()

    asyncio.run(main())
    assert len(held) == 1

"""Timers: asked of a port, in microseconds, and never early."""

from __future__ import annotations

import asyncio
import math
import random
from typing import Any

import pytest

from perdure.runtime.turn_loop import TurnTimer

Drive = Any
Driven = Any

START_US = 1_700_000_000_123_457


def test_a_sleep_is_a_timer_of_the_port(drive: Drive) -> None:
    """It is armed when it is written, and the handler goes on when it is fired, at its time."""

    async def handler(driven: Driven) -> None:
        driven.trace.append(await asyncio.sleep(1.5, "slept"))
        driven.trace.append(driven.loop.now_us)

    driven = drive(handler)
    assert driven.timers.asked == [("arm", START_US + 1_500_000)]
    driven.fire_next()

    assert driven.trace == ["slept", START_US + 1_500_000]
    assert driven.timers.asked == [("arm", START_US + 1_500_000)]


@pytest.mark.parametrize("delay", [0, -1, -math.inf])
def test_a_delay_of_nothing_is_call_soon(drive: Drive, delay: float) -> None:
    """It runs in this turn, and the port hears nothing of it."""

    async def handler(driven: Driven) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(delay, driven.trace.append, 1)
        loop.call_at(loop.time() + delay, driven.trace.append, 2)
        loop.call_soon(driven.trace.append, 3)

    driven = drive(handler)
    assert driven.trace == [1, 2, 3]
    assert driven.timers.asked == []


def test_a_delay_however_short_is_a_timer(drive: Drive) -> None:
    """Only what is not positive is now."""

    async def handler(driven: Driven) -> None:
        asyncio.get_running_loop().call_later(1e-9, driven.trace.append, 1)

    assert drive(handler).timers.asked == [("arm", START_US + 1)]


def test_a_timer_cancelled_in_its_turn_is_disarmed(drive: Drive) -> None:
    """The port can leave both out of the record."""

    async def handler(driven: Driven) -> None:
        async with asyncio.timeout(5):
            pass

    driven = drive(handler)
    assert driven.timers.asked == [("arm", START_US + 5_000_000), ("disarm", START_US + 5_000_000)]


def test_cancelling_a_sleep_disarms_its_timer_in_that_turn(drive: Drive) -> None:
    """Cancelling a wait cancels what it waits for."""

    async def handler(driven: Driven) -> None:
        task = asyncio.create_task(asyncio.sleep(5))
        await driven.wait("a")
        task.cancel()

    driven = drive(handler)
    driven.answer("a")

    assert driven.timers.armed == []
    assert [what for what, _ in driven.timers.asked] == ["arm", "disarm"]


def test_cancelling_a_timer_that_fired_is_nothing(drive: Drive) -> None:
    """Before its callback ran it still keeps that from running; the port hears nothing."""

    async def handler(driven: Driven) -> None:
        driven.trace.append(asyncio.get_running_loop().call_later(1, driven.trace.append, "ran"))
        await driven.wait("a")

    driven = drive(handler)
    (timer,) = driven.trace
    driven.timers.armed.clear()
    driven.turn(lambda: (driven.loop.fire(timer), timer.cancel(), timer.cancel()))

    assert driven.trace == [timer]
    assert driven.timers.asked == [("arm", START_US + 1_000_000)]
    assert timer.cancelled()


def test_a_timer_fires_once(drive: Drive) -> None:
    """A second firing is ignored, and so is that of a cancelled timer."""

    async def handler(driven: Driven) -> None:
        loop = asyncio.get_running_loop()
        driven.handles = [loop.call_later(1, driven.trace.append, 1), loop.call_later(1, driven.trace.append, 2)]
        await driven.wait("a")

    driven = drive(handler)
    first, second = driven.handles
    driven.turn(second.cancel)
    driven.turn(lambda: [driven.loop.fire(timer) for timer in (first, first, second)])
    driven.turn(lambda: driven.loop.fire(first))

    assert driven.trace == [1]


def test_the_time_is_reached_when_a_timer_fires(drive: Drive) -> None:
    """Whatever float it was asked for: `loop.time() >= handle.when()` and `>=` what was asked, by less than 2 µs."""
    seed = random.randrange(1 << 32)
    generator = random.Random(seed)

    async def handler(driven: Driven) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(2_000):
            delay = generator.choice(
                [generator.random(), generator.randrange(1, 10**8) / 1e6, generator.random() * 1e7]
            )
            when = loop.time() + delay
            timer = loop.call_at(when, driven.trace.append, 1)
            assert isinstance(timer, TurnTimer)
            driven.loop.now_us = timer.when_us
            assert loop.time() >= timer.when() >= when > loop.time() - 2e-6, f"seed {seed}"
            driven.loop.now_us = START_US
            timer.cancel()

    drive(handler).main.result()


def test_a_timer_that_never_fires_can_be_asked_for(drive: Drive) -> None:
    """`timeout(inf)` is legal in asyncio."""

    async def handler(driven: Driven) -> None:
        async with asyncio.timeout(math.inf):
            await driven.wait("a")

    (timer,) = drive(handler).timers.armed
    assert timer.when_us > 253_000_000_000_000_000


def test_a_timer_keeps_its_context_and_is_a_timer_handle(drive: Drive) -> None:
    """Code that looks at asyncio's handles finds what it knows."""

    async def handler(driven: Driven) -> None:
        driven.trace.append(asyncio.get_running_loop().call_later(2, print))
        driven.trace.append(asyncio.get_running_loop().call_soon(int))

    timer, handle = drive(handler).trace
    assert isinstance(timer, TurnTimer)
    assert isinstance(timer, asyncio.TimerHandle)
    assert isinstance(handle, asyncio.Handle)
    assert timer.when() == (START_US + 2_000_000) / 1e6
    assert timer.get_context() is not None
    assert timer == timer  # noqa: PLR0124 - asyncio's own compares attributes that are not set
    assert "TurnTimer" in repr(timer)
    assert "TurnHandle" in repr(handle)
    assert not timer.cancelled()
    assert len({timer, handle}) == 2


def test_not_a_number_is_refused(drive: Drive) -> None:
    """It has no place in the order of time."""

    async def handler(driven: Driven) -> None:
        asyncio.get_running_loop().call_later(math.nan, print)

    assert isinstance(drive(handler).main.exception(), ValueError)

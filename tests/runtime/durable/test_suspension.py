"""Handlers leave memory and come back by replay: nothing is said twice, and nothing is done twice."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import pytest
import structlog
from structlog.typing import EventDict

from perdure.objects import VirtualObject, handler, shared

if TYPE_CHECKING:
    from tests.runtime.durable.conftest import World

    Worlds = Callable[..., World]

plain_log = logging.getLogger("tests.suspension")
bound_at_import = structlog.get_logger("tests.suspension").bind(bound="at import")
stdlib_log = structlog.wrap_logger(plain_log, wrapper_class=structlog.stdlib.BoundLogger)


class Begun:
    times: ClassVar[dict[str, int]] = {}


class Marker:
    """Lives as long as the frame that made it."""


class Talker(VirtualObject):
    frames: ClassVar[list[weakref.ref[Marker]]] = []

    @handler
    async def talks(self) -> int:
        log = structlog.get_logger("tests.suspension").bind(key=self.key)
        log.info("begun")
        plain_log.warning("begun %s", self.key)
        bound_at_import.info("begun, bound at import")
        stdlib_log.warning("begun, by the standard library")
        for n in range(3):
            await self.ctx.sleep(10)
            log.info("slept", n=n)
            plain_log.warning("slept %s", n)
            await self.ctx.run(speak, n)
        await asyncio.gather(self.speaks("a"), self.speaks("b"))
        log.info("ends")
        plain_log.warning("ends")
        return 3

    async def speaks(self, name: str) -> None:
        structlog.get_logger("tests.suspension").warning("task", name=name)
        await self.ctx.sleep(1)
        plain_log.warning("task %s slept", name)

    @handler
    async def waits(self, seconds: float) -> str:
        marker = Marker()
        Talker.frames.append(weakref.ref(marker))
        Begun.times[self.key] = Begun.times.get(self.key, 0) + 1
        await self.ctx.sleep(seconds)
        return type(marker).__name__

    @shared
    async def hello(self) -> str:
        return "hello"


def speak(n: int) -> None:
    plain_log.warning("step %s", n)


@pytest.fixture(autouse=True)
def nothing_begun() -> None:
    Begun.times.clear()
    Talker.frames.clear()


def own(logged: list[EventDict]) -> list[str]:
    said = {"begun", "slept", "ends", "task", "begun, bound at import", "begun, by the standard library"}
    return [event["event"] for event in logged if event["event"] in said]


async def talk(world: World) -> None:
    id = await world.send(world.ref(Talker, "t").talks)
    await world.advance(100)
    assert await world.result(id) == 3


def alive() -> int:
    gc.collect()
    return sum(frame() is not None for frame in Talker.frames)


async def test_replays_say_nothing_again(
    worlds: Worlds, logged: list[EventDict], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither by structlog, whatever the logger, nor by the standard library; steps speak when they run."""
    await talk(await worlds(Talker).start())
    events, lines = own(logged), [record.getMessage() for record in caplog.records if record.name != "asyncio"]
    assert events.count("slept") == 3
    assert lines.count("step 1") == 1
    assert events.count("begun, by the standard library") == 1

    for settings in ({"replay_always": True}, {"executions_max": 1}):
        logged.clear()
        caplog.clear()
        await talk(await worlds(Talker, **settings).start())
        assert own(logged) == events
        assert [record.getMessage() for record in caplog.records if record.name != "asyncio"] == lines


async def test_a_restart_says_only_what_is_new(
    worlds: Worlds, logged: list[EventDict], caplog: pytest.LogCaptureFixture
) -> None:
    world = await worlds(Talker).start()
    id = await world.send(world.ref(Talker, "t").talks)
    await world.advance(15)
    assert own(logged) == ["begun", "begun, bound at import", "begun, by the standard library", "slept"]
    logged.clear()
    caplog.clear()

    await world.restart()
    await world.advance(100)

    assert await world.result(id) == 3
    assert own(logged) == ["slept", "slept", "task", "task", "ends"]
    lines = [record.getMessage() for record in caplog.records if record.name != "asyncio"]
    assert lines[:2] == ["slept 1", "step 1"]
    assert lines.count("ends") == 1


async def test_the_longest_idle_leave_memory_first(worlds: Worlds) -> None:
    """With room for four, of ten that wait four are kept; each that left is replayed once, when it is needed."""
    world = await worlds(Talker, executions_max=4).start()
    ids = [await world.send(world.ref(Talker, f"t{n}").waits, 60 + n) for n in range(10)]

    assert alive() <= 5

    await world.advance(100)
    assert [await world.result(id) for id in ids] == ["Marker"] * 10
    assert all(times <= 2 for times in Begun.times.values())
    assert sum(Begun.times.values()) >= 15
    assert alive() == 0


async def test_what_waits_for_a_step_is_found_by_its_result(worlds: Worlds) -> None:
    """The handler has left memory while its step ran."""
    world = await worlds(Talker, executions_max=1).start()
    ids = [await world.send(world.ref(Talker, f"t{n}").talks) for n in range(5)]
    await world.advance(200)
    assert [await world.result(id) for id in ids] == [3] * 5


@pytest.mark.parametrize("temperature", ["warm"], indirect=True)  # or its run would have left by itself
async def test_an_evicted_handler_is_suspended_and_costs_no_frame(worlds: Worlds) -> None:
    world = await worlds(Talker).start()
    id = await world.send(world.ref(Talker, "t").waits, 60)
    assert alive() == 1

    world.evict()

    assert alive() == 0
    assert world.view(id).status == "suspended"
    assert await world.call(world.ref(Talker, "t").hello()) == "hello"
    await world.advance(60)
    assert await world.result(id) == "Marker"
    assert Begun.times == {"t": 2}

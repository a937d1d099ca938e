"""A handler driven by hand: turns, answers and timers, without a real loop, a clock or a journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from perdure.runtime.turn_loop import TurnFuture, TurnLoop, TurnTask, TurnTimer

START_US = 1_700_000_000_123_457


class Timers:
    """A port that keeps its timers in a list, and notes what was asked of it."""

    def __init__(self) -> None:
        self.armed: list[TurnTimer] = []
        self.asked: list[tuple[str, int]] = []

    def arm(self, handle: TurnTimer, /) -> None:
        self.armed.append(handle)
        self.asked.append(("arm", handle.when_us))

    def disarm(self, handle: TurnTimer, /) -> None:
        self.armed.remove(handle)
        self.asked.append(("disarm", handle.when_us))


class Driven:
    """One handler. It is called with this, to write to `trace` and to wait for answers by name."""

    def __init__(self, handler: Callable[[Driven], Coroutine[Any, Any, Any]], **options: Any) -> None:
        self.timers = Timers()
        self.loop = TurnLoop(options.pop("identity", 1), self.timers, **options)
        self.trace: list[Any] = []
        self.waits: dict[str, TurnFuture[Any]] = {}
        self._handler = handler

    def start(self) -> Driven:
        self.loop.run(START_US, self._start)
        return self

    def _start(self) -> None:
        self.loop.start(self._handler(self))

    @property
    def main(self) -> TurnTask[Any]:
        assert self.loop.main is not None
        return self.loop.main

    def wait(self, name: str) -> TurnFuture[Any]:
        self.waits[name] = self.loop.create_future()
        return self.waits[name]

    def turn(self, first: Callable[[], object]) -> None:
        self.loop.run(self.loop.now_us + 1_000, first)

    def answer(self, name: str, value: object = None) -> None:
        self.turn(lambda: self.waits.pop(name).set_result(value))

    def fire_next(self) -> None:
        timer = min(self.timers.armed, key=lambda one: one.when_us)
        self.timers.armed.remove(timer)
        self.loop.run(timer.when_us, lambda: self.loop.fire(timer))


@pytest.fixture
def drive() -> Iterator[Callable[..., Driven]]:
    """`drive(handler)` runs the first turn of `handler(driven)` and returns `driven`."""
    made: list[Driven] = []

    def begin(handler: Callable[[Driven], Coroutine[Any, Any, Any]], **options: Any) -> Driven:
        made.append(Driven(handler, **options))
        return made[-1].start()

    yield begin
    for driven in made:
        driven.loop.drop()
    assert asyncio._get_running_loop() is None

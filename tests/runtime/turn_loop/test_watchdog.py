"""The watchdog reports a turn that takes too long, once, and says where it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import FunctionType

from perdure.runtime.watchdog import Watchdog


class Log:
    def __init__(self) -> None:
        self.events: list[str] = []
        self.stacks: list[str] = []
        self.written = threading.Event()

    def warning(self, event: str, /, *, stack: str) -> None:
        self.events.append(event)
        self.stacks.append(stack)
        self.written.set()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made() -> tuple[Watchdog, Clock, Log]:
    clock, log = Clock(), Log()
    return Watchdog(0.1, log=log, clock=clock), clock, log


def test_a_turn_longer_than_the_limit_is_reported_with_its_stack() -> None:
    """The line names the handler, the time and the code."""
    watchdog, clock, log = made()
    watchdog.entered("Account/a/deposit inv_1")
    assert not watchdog.look()
    clock.now += 0.15

    assert watchdog.look()
    (event,) = log.events
    assert "a turn of Account/a/deposit inv_1 has been running for 150 ms" in event
    assert "self.ctx.run" in event
    assert "\n" not in event
    assert "in test_a_turn_longer_than_the_limit_is_reported_with_its_stack" in log.stacks[0]


def test_the_stack_begins_where_the_turn_was_entered() -> None:
    """Whoever drives the turns, and all that called it, is of no use to whoever reads about a handler."""
    clock, log = Clock(), Log()

    def handler() -> None:
        watchdog.look()
        clock.now += 0.15
        watchdog.look()

    def driver() -> None:
        watchdog.entered("a")
        handler()

    watchdog = Watchdog(0.1, log=log, clock=clock, driver=driver)

    driver()
    (stack,) = log.stacks
    assert "in handler" in stack
    assert "in driver" not in stack
    assert "pytest" not in stack


def one_of_ours(function: Callable[..., None]) -> Callable[..., None]:
    """The same function, as if it stood in the turn loop."""
    return FunctionType(function.__code__, {"__name__": "perdure.runtime.turn_loop"})


def test_our_own_frames_above_the_handler_are_left_out() -> None:
    """From the driver down to the handler all is this package's."""
    clock, log = Clock(), Log()
    driver = test_our_own_frames_above_the_handler_are_left_out
    watchdog = Watchdog(0.1, log=log, clock=clock, driver=driver)

    def run(first: Callable[[], None]) -> None:
        first()

    def handler() -> None:
        watchdog.look()
        clock.now += 0.15
        watchdog.look()

    watchdog.entered("a")
    one_of_ours(run)(handler)
    (stack,) = log.stacks
    assert "in handler" in stack
    assert "in run" not in stack


def test_a_stack_of_nothing_but_our_own_frames_is_shown_whole() -> None:
    """A turn may be slow in our own code too, such as in a large encode: the line must say so."""
    watchdog, clock, log = made()

    def run(watchdog: Watchdog, clock: Clock) -> None:
        watchdog.look()
        clock.now += 0.15
        watchdog.look()

    watchdog.entered("a")
    one_of_ours(run)(watchdog, clock)
    (stack,) = log.stacks
    assert "in run" in stack


def test_a_turn_is_reported_once() -> None:
    """However long it goes on."""
    watchdog, clock, log = made()
    watchdog.entered("a")
    for _ in range(10):
        watchdog.look()
        clock.now += 0.15
    assert len(log.events) == 1


def test_the_next_long_turn_is_reported_again() -> None:
    """Also of the same handler."""
    watchdog, clock, log = made()
    for _ in range(2):
        watchdog.entered("a")
        watchdog.look()
        clock.now += 0.15
        watchdog.look()
        watchdog.left()
        watchdog.look()
    assert len(log.events) == 2


def test_many_short_turns_are_not_a_long_one() -> None:
    """Each has a number of its own."""
    watchdog, clock, log = made()
    for _ in range(10):
        watchdog.entered("a")
        clock.now += 0.06
        watchdog.look()
        watchdog.left()
        watchdog.entered("a")
        watchdog.look()
        clock.now += 0.06
        watchdog.left()
    assert log.events == []


def test_idleness_is_not_reported() -> None:
    """Between turns there is nothing to report."""
    watchdog, clock, log = made()
    watchdog.entered("a")
    watchdog.look()
    watchdog.left()
    clock.now += 10
    assert not watchdog.look()
    assert log.events == []


def test_the_thread_reports_and_stops() -> None:
    """A daemon, so that it never holds up the end of the process."""
    log = Log()
    watchdog = Watchdog(0.001, log=log)
    watchdog.start()
    watchdog.entered("a")

    def handler() -> None:
        assert log.written.wait(10)

    handler()
    watchdog.left()
    watchdog.stop()
    assert "in handler" in log.stacks[0]
    assert all(thread.name != "perdure-watchdog" for thread in threading.enumerate())

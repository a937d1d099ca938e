"""reminders.py: what waits a week, whatever happens to the process meanwhile, and what is not to come after all."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure.objects import TerminalError
from perdure.runtime import ManualClock, Runtime

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(days=7)


@pytest.fixture
def reminders(load: Callable[[str], Any]) -> Any:
    return load("reminders")


def classes(reminders: Any) -> list[type]:
    return [reminders.Reminders, reminders.Post, reminders.Course]


async def test_the_curl_lines(story: Callable[[str], Any]) -> None:
    """As the docstring says: the tea comes at once, the taxes are forgotten, and the course has seven letters."""
    lines = story("reminders")
    await lines.start()

    status, due = await lines.next()
    assert (status, due[:4] >= "2026") == (200, True)
    assert await lines.next() == (200, "2099-05-31T09:00:00Z")
    assert (await lines.next())[0] == 200
    assert (await lines.next())[0] == 200
    while (board := await lines.again())["sent"] == 0:
        pass
    assert board == {"pending": {}, "sent": 1}
    assert await lines.next() == (200, 7)
    assert await lines.next() == (200, 7)


async def test_a_reminder_comes_when_it_is_due_and_not_before(reminders: Any) -> None:
    """A minute before there is no letter, a minute after there is one."""
    async with Runtime(classes(reminders), data_dir=None, clock=ManualClock()) as runtime:
        ann = runtime.ref(reminders.Reminders, "ann")
        await ann.remind("dentist", "brush!", NOW + WEEK)

        await runtime.advance(WEEK - timedelta(minutes=1))
        assert reminders.LETTERS == []
        await runtime.advance(timedelta(minutes=2))
        assert reminders.LETTERS == [("ann", "brush!")]
        assert await ann.look() == reminders.Board({}, 1)


async def test_a_forgotten_or_replaced_reminder_does_not_come(reminders: Any) -> None:
    """Nor does its message lie about until it is due."""
    async with Runtime(classes(reminders), data_dir=None, clock=ManualClock()) as runtime:
        ann = runtime.ref(reminders.Reminders, "ann")
        await ann.remind("dentist", "brush!", NOW + HOUR)
        await ann.remind("dentist", "brush and floss!", NOW + DAY)
        await ann.remind("tax", "declare", NOW + DAY)
        await ann.forget("tax")

        await runtime.advance(WEEK)
        assert reminders.LETTERS == [("ann", "brush and floss!")]


async def test_forgetting_what_is_not_there_is_refused(reminders: Any) -> None:
    """With a 404 of its own class."""
    async with Runtime(classes(reminders), data_dir=None, clock=ManualClock()) as runtime:
        with pytest.raises(reminders.NoSuchReminder, match="ann has no reminder 'tax'") as refusal:
            await runtime.ref(reminders.Reminders, "ann").forget("tax")
        assert refusal.value.status == 404


async def test_a_standing_reminder_comes_every_day_until_it_is_forgotten(reminders: Any) -> None:
    """At the same time each day."""
    async with Runtime(classes(reminders), data_dir=None, clock=ManualClock()) as runtime:
        ann = runtime.ref(reminders.Reminders, "ann")
        await ann.remind("standup", "stand up", NOW + 9 * HOUR, DAY)
        await runtime.advance(WEEK)
        assert len(reminders.LETTERS) == 7
        assert (await ann.look()).pending["standup"].at == NOW + WEEK + 9 * HOUR

        await ann.forget("standup")
        await runtime.advance(WEEK)
        assert len(reminders.LETTERS) == 7
        with pytest.raises(TerminalError, match="too often"):
            await ann.remind("spam", "!", NOW, timedelta(milliseconds=1))


@pytest.mark.parametrize("down_for", [DAY, 10 * DAY])
async def test_what_was_due_while_the_process_was_down_comes_once_soon_after_the_start(
    reminders: Any, tmp_path: Path, down_for: timedelta
) -> None:
    """One letter for all the days that were missed, and the next one when it would have come anyway."""
    clock = ManualClock()
    async with Runtime(classes(reminders), data_dir=tmp_path, clock=clock) as runtime:
        await runtime.ref(reminders.Reminders, "ann").remind("once", "once", NOW + HOUR)
        await runtime.ref(reminders.Reminders, "bob").remind("daily", "daily", NOW + HOUR, DAY)

    clock.advance_to_next(clock.now_us() + round(down_for.total_seconds() * 1e6))
    for _ in range(2):  # the second start finds nothing left to do
        async with Runtime(classes(reminders), data_dir=tmp_path, clock=clock) as runtime:
            await runtime.advance(1)
            assert sorted(reminders.LETTERS) == [("ann", "once"), ("bob", "daily")]
            assert (await runtime.ref(reminders.Reminders, "bob").look()).pending["daily"].at == NOW + down_for + HOUR
    async with Runtime(classes(reminders), data_dir=tmp_path, clock=clock) as runtime:
        await runtime.advance(DAY)
        assert len(reminders.LETTERS) == 3


async def test_a_course_of_a_week_takes_no_second(reminders: Any) -> None:
    """Ten people's seven sleeps of a day each."""
    began = time.monotonic()
    async with Runtime(classes(reminders), data_dir=None, clock=ManualClock()) as runtime:
        courses = [
            await runtime.send(runtime.ref(reminders.Course, f"p{n}").run, f"p{n}@example.com") for n in range(10)
        ]
        await runtime.advance(WEEK)
        assert [await course.attach() for course in courses] == [7] * 10
    assert len(reminders.LETTERS) == 70
    assert time.monotonic() - began < 1


async def test_a_course_goes_on_where_it_was(reminders: Any, tmp_path: Path) -> None:
    """Each letter goes out once, though the process ends every day."""
    clock = ManualClock()
    for _ in range(8):
        async with Runtime(classes(reminders), data_dir=tmp_path, clock=clock) as runtime:
            await runtime.send(runtime.ref(reminders.Course, "ann").run, "ann@example.com")  # known already: the same
            await runtime.advance(DAY)
    assert [text for _, text in reminders.LETTERS] == [f"lesson {n}" for n in range(1, 8)]


async def test_a_course_that_is_cancelled_sends_no_more(reminders: Any) -> None:
    """In the middle of a sleep."""
    async with Runtime(classes(reminders), data_dir=None, clock=ManualClock()) as runtime:
        course = await runtime.send(runtime.ref(reminders.Course, "ann").run, "ann@example.com")
        await runtime.advance(2 * DAY + HOUR)
        await course.cancel()
        with pytest.raises(TerminalError) as outcome:
            await course.attach()
        assert outcome.value.status == 409
        assert await runtime.ref(reminders.Course, "ann").progress() == 3
        await runtime.advance(WEEK)
        assert len(reminders.LETTERS) == 3

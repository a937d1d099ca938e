"""Reminders that outlive the process, and a course of seven letters that sleeps a day between two of them.

    perdure serve examples/reminders.py
    curl localhost:8080/Reminders/ann/remind --json '{"name": "tea", "text": "water!", "at": "2026-01-01T09:00:00Z"}'
    curl localhost:8080/Reminders/ann/remind --json '{"name": "tax", "text": "declare", "at": "2099-05-31T09:00:00Z"}'
    curl localhost:8080/Reminders/ann/forget --json '"tax"'
    curl localhost:8080/Reminders/ann/look
    curl localhost:8080/Course/ann/run --json '{"to": "ann@example.com", "pause": "PT0.1S"}'
    curl localhost:8080/Course/ann/progress

A time that has passed is now: the tea is due at once.  Kill the process while something is due later, start it again,
and what became due meanwhile comes first.
"""

from datetime import datetime, timedelta
from typing import Annotated

from msgspec import Meta, Struct

from perdure.objects import Service, TerminalError, VirtualObject, Workflow, current_step, handler, shared

Moment = Annotated[datetime, Meta(tz=True)]  # without an offset it would be anybody's nine o'clock


class NoSuchReminder(TerminalError):
    status = 404


class Reminder(Struct, frozen=True):
    text: str
    at: Moment
    every: timedelta | None
    invocation: str  # of the message that is on its way


class Board(Struct, frozen=True):
    pending: dict[str, Reminder]
    sent: int


class Reminders(VirtualObject):
    """The reminders of one person, by name."""

    pending: dict[str, Reminder]
    sent: int = 0

    @handler
    async def remind(self, name: str, text: str, at: Moment, every: timedelta | None = None) -> Moment:
        """Once, or again and again.  The same name replaces; the answer is when it is due.

        It doesn't sleep here: a handler that sleeps keeps its key, and nobody could ask for a second reminder, or
        forget the first.  The waiting is done by a message to itself.
        """
        if every is not None and every < timedelta(seconds=1):
            raise TerminalError(f"every {every} is too often", status=400)
        if name in self.pending:
            await self.forget(name)  # a plain call: part of this turn
        self._schedule(name, text, max(at, self.ctx.now()), every)
        return self.pending[name].at

    @handler
    async def forget(self, name: str) -> None:
        reminder = self.pending.pop(name, None)
        if reminder is None:
            raise NoSuchReminder(f"{self.key} has no reminder {name!r}")
        self.ctx.handle(reminder.invocation).cancel()

    @handler(public=False)
    async def fire(self, name: str) -> None:
        """The entry goes, the letter leaves, and the next one is scheduled: one turn, so all of it or nothing."""
        reminder = self.pending.pop(name)
        self.sent += 1
        self.ctx.ref(Post).deliver.send(self.key, reminder.text)
        if reminder.every is not None:
            # From when it was due, not from now, or it would drift.  What was missed while nobody ran is sent once.
            missed = max(timedelta(), self.ctx.now() - reminder.at) // reminder.every
            self._schedule(name, reminder.text, reminder.at + (missed + 1) * reminder.every, reminder.every)

    def _schedule(self, name: str, text: str, at: datetime, every: timedelta | None) -> None:
        message = self.fire.send_after(at - self.ctx.now(), name)
        self.pending[name] = Reminder(text, at, every, message.id)

    @shared
    async def look(self) -> Board:
        return Board(self.pending, self.sent)


class Course(Workflow):
    """Seven letters, one a day.  Here a sleep is right: it is a workflow of its own, and nobody queues behind it."""

    letters: int = 0

    @handler
    async def run(self, to: str, pause: timedelta = timedelta(days=1)) -> int:
        for number in range(1, 8):
            await self.ctx.run(send_letter, to, f"lesson {number}")
            self.letters = number
            await self.ctx.sleep(pause)
        return self.letters

    @shared
    async def progress(self) -> int:
        return self.letters


class Post(Service):
    """Beside the reminders, so that a slow mail server holds up no one's key."""

    @handler
    async def deliver(self, to: str, text: str) -> None:
        await self.ctx.run(send_letter, to, text)


# --- the outside world: a stub ----------------------------------------------------------------------------------------

LETTERS: list[tuple[str, str]] = []


async def send_letter(to: str, text: str) -> None:
    LETTERS.append((to, text))
    current_step().log.info("letter sent", to=to, text=text)

"""signup.py: it waits for people, for days, and reminds them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from perdure.journal import MemoryJournal
from perdure.objects import TerminalError
from perdure.runtime import ManualClock, Runtime

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ANN = "ann@example.com"


@pytest.fixture
def signup(load: Callable[[str], Any]) -> Any:
    return load("signup")


async def click(runtime: Runtime, signup: Any) -> None:
    """On the link in the letter, as the newcomer does."""
    link = (await runtime.ref(signup.Signup, "ann").status()).link
    assert any(link in text for to, text in signup.LETTERS if to == ANN)
    await runtime.resolve_awakeable(link, "in Oslo")
    await runtime.advance(0)


def letters(signup: Any) -> list[str]:
    """The first word of each letter to the approvers."""
    return [text.split()[2] for to, text in signup.LETTERS if to == signup.APPROVERS]


async def test_the_curl_lines(story: Callable[[str], Any]) -> None:
    """As the docstring says: confirmed with the link that the status shows, approved, and a member."""
    lines = story("signup")
    await lines.start()

    assert (await lines.next())[0] == 202
    status = (await lines.next())[1]
    while status["stage"] != "unconfirmed":
        status = await lines.again()
    assert await lines.next(LINK=status["link"]) == (202, None)
    assert (await lines.next())[0] == 200
    assert await lines.next() == (200, {"member": True, "decided_by": "bob", "confirmed": "clicked in Oslo"})
    assert (await lines.next())[1]["stage"] == "member"


async def test_confirmed_and_approved(signup: Any) -> None:
    """In that order, with two days in between."""
    async with Runtime([signup.Signup], data_dir=None, clock=ManualClock()) as runtime:
        ann = runtime.ref(signup.Signup, "ann")
        run = await runtime.send(ann.run, ANN)
        await runtime.advance(DAY)
        assert (await ann.status()).stage == "unconfirmed"
        await click(runtime, signup)
        assert (await ann.status()).stage == "waiting for approval"
        await runtime.advance(DAY)
        await ann.decide("approved", by="bob")

        assert await run.attach() == signup.Welcome(True, "bob", "in Oslo")
        assert signup.LETTERS[-2:] == [(ANN, "Welcome, ann!"), (signup.APPROVERS, "ann is a member now.")]


async def test_refused(signup: Any) -> None:
    """With a letter that says so."""
    async with Runtime([signup.Signup], data_dir=None, clock=ManualClock()) as runtime:
        ann = runtime.ref(signup.Signup, "ann")
        run = await runtime.send(ann.run, ANN)
        await runtime.advance(0)
        await click(runtime, signup)
        await ann.decide("refused", by="bob")

        assert await run.attach() == signup.Welcome(False, "bob", "in Oslo")
        assert signup.LETTERS[-1] == (ANN, "We are sorry.")
        assert (await ann.status()).stage == "refused"


async def test_approved_before_anybody_waits_for_it(signup: Any) -> None:
    """A promise is kept: nobody has to be there first."""
    async with Runtime([signup.Signup], data_dir=None, clock=ManualClock()) as runtime:
        ann = runtime.ref(signup.Signup, "ann")
        await ann.decide("approved", by="bob")
        run = await runtime.send(ann.run, ANN)
        await runtime.advance(0)
        await click(runtime, signup)

        assert (await run.attach()).member


async def test_the_first_decision_counts(signup: Any) -> None:
    """The same again is nothing, another one is refused."""
    async with Runtime([signup.Signup], data_dir=None, clock=ManualClock()) as runtime:
        ann = runtime.ref(signup.Signup, "ann")
        await ann.decide("approved", by="bob")
        await ann.decide("approved", by="bob")
        with pytest.raises(TerminalError) as refusal:
            await ann.decide("refused", by="eve")
        assert refusal.value.status == 409


async def test_who_never_clicks_expires(signup: Any) -> None:
    """After two days, with 408; and a click after that comes too late."""
    async with Runtime([signup.Signup], data_dir=None, clock=ManualClock()) as runtime:
        run = await runtime.send(runtime.ref(signup.Signup, "ann").run, ANN)
        await runtime.advance(HOUR)
        link = (await runtime.ref(signup.Signup, "ann").status()).link
        await runtime.advance(2 * DAY)

        with pytest.raises(TerminalError, match="never confirmed") as outcome:
            await run.attach()
        assert outcome.value.status == 408
        assert (await runtime.ref(signup.Signup, "ann").status()).stage == "expired"
        with pytest.raises(Exception, match=link):
            await runtime.resolve_awakeable(link, "late")


async def test_approvers_are_reminded_every_three_days_and_then_left_in_peace(signup: Any) -> None:
    """Three reminders; a decision after a month is still taken."""
    async with Runtime([signup.Signup], data_dir=None, clock=ManualClock()) as runtime:
        ann = runtime.ref(signup.Signup, "ann")
        run = await runtime.send(ann.run, ANN)
        await runtime.advance(0)
        await click(runtime, signup)
        counts: list[int] = []
        for _ in range(5):
            await runtime.advance(3 * DAY)
            counts.append((await ann.status()).reminders)
        assert counts == [1, 2, 3, 3, 3]
        assert letters(signup) == ["to", "still", "still", "still"]

        await runtime.advance(30 * DAY)
        await ann.decide("approved", by="bob")
        assert (await run.attach()).member


async def test_a_process_that_ends_every_day_changes_nothing(signup: Any) -> None:
    """Nobody gets a letter twice, and the timeouts run on while it is down."""
    clock, journal = ManualClock(), MemoryJournal()
    for day in range(12):
        journal = MemoryJournal(journal.records)
        async with Runtime([signup.Signup], data_dir=None, clock=clock, journal=journal) as runtime:
            run = await runtime.send(runtime.ref(signup.Signup, "ann").run, ANN)  # known already: the same
            await runtime.advance(0)
            if day == 1:
                await click(runtime, signup)
            if day == 11:
                await runtime.ref(signup.Signup, "ann").decide("approved", by="bob")
                assert (await run.attach()).member
            await runtime.advance(0)
        clock.advance_to_next(clock.now_us() + round(DAY.total_seconds() * 1e6))
    assert letters(signup) == ["to", "still", "still", "still", "a"]
    assert len(signup.LETTERS) == len(set(signup.LETTERS)) + 2  # but for the three reminders, no two are alike


async def test_a_signup_that_is_cancelled_waits_no_more(signup: Any) -> None:
    """In the middle of a timeout around a promise: CancelledError is no TimeoutError."""
    async with Runtime([signup.Signup], data_dir=None, clock=ManualClock()) as runtime:
        run = await runtime.send(runtime.ref(signup.Signup, "ann").run, ANN)
        await runtime.advance(0)
        await click(runtime, signup)
        await run.cancel()
        with pytest.raises(TerminalError) as outcome:
            await run.attach()
        assert outcome.value.status == 409
        await runtime.advance(30 * DAY)
        assert letters(signup) == ["to"]

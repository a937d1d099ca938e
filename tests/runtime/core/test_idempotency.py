"""One idempotency key, one invocation: for the retention time, over restarts, from outside and from handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

import pytest

from perdure.objects import RetryPolicy, Service, TerminalError, VirtualObject, handler, shared
from perdure.objects.values import same_value
from perdure.runtime.admission import Refused
from perdure.runtime.records import Failed, Success

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]

DAY = 24 * 3600.0


class Account(VirtualObject):
    balance: int = 0

    @handler
    async def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @handler
    async def set_both(self, one: int = 0, other: str = "") -> int:
        self.balance += 1
        return self.balance

    @handler
    async def slow(self, seconds: float) -> int:
        self.balance += 1
        await asyncio.sleep(seconds)
        return self.balance

    @handler
    async def refuse(self) -> None:
        self.balance += 1
        raise TerminalError("no", status=409)

    @handler(retry=RetryPolicy(max_attempts=1))
    async def fail(self) -> None:
        raise ValueError("boom")

    @shared
    async def look(self) -> int:
        return self.balance


class Desk(Service):
    @handler
    async def deposit(self, amount: int, idempotency_key: str = "k") -> int:
        return await self.ctx.ref(Account, "a").deposit.options(idempotency_key=idempotency_key)(amount)

    @handler
    async def twice(self, one: int, other: int) -> list[str]:
        """Two calls with one key in one turn."""
        ref = self.ctx.ref(Account, "a").deposit.options(idempotency_key="k")
        results: list[str] = []
        calls: list[Coroutine[object, None, int]] = []
        for amount in (one, other):
            try:
                calls.append(ref(amount))
            except TerminalError as error:
                results.append(f"{error.status} {error}")
        return results + [str(result) for result in await asyncio.gather(*calls)]

    @handler
    async def message_and_call(self) -> list[str]:
        ref = self.ctx.ref(Account, "a").deposit.options(idempotency_key="k")
        first, second = ref.send(5), ref.send(5)
        return [str(first.id == second.id), str(await ref(5)), str(await first.attach())]

    @handler
    async def takes_the_first_back(self) -> int:
        """Two calls with one key, the first cancelled in the turn that made it."""
        ref = self.ctx.ref(Account, "a").deposit.options(idempotency_key="k")
        first, second = asyncio.create_task(ref(5)), asyncio.create_task(ref(5))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    @handler
    async def takes_both_back(self) -> str:
        """Two calls with one key, both cancelled in the turn that made them."""
        ref = self.ctx.ref(Account, "a").deposit.options(idempotency_key="k")
        calls = [asyncio.create_task(ref(5)), asyncio.create_task(ref(5))]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self.ctx.sleep(60)
        return "slept"


async def test_the_same_key_and_body_is_one_invocation(worlds: Worlds) -> None:
    """Asked again while it runs, and after it has ended: the same id, the same answer."""
    world = await worlds(Account).start()
    first = world.submit("Account/a/slow", 10, idempotency_key="k")
    await world.settle()
    during = world.submit("Account/a/slow", 10, idempotency_key="k")
    await world.advance(10)
    after = world.submit("Account/a/slow", 10, idempotency_key="k")

    assert [first.previously, during.previously, after.previously] == [False, True, True]
    assert first.id == during.id == after.id
    assert [await world.outcome_of(submission) for submission in (first, during, after)] == [Success(b"1")] * 3
    assert world.state("Account", "a") == {"balance": 1}


async def test_it_holds_after_a_restart(worlds: Worlds) -> None:
    """For one that has ended, one that waits in its mailbox, and one that runs."""
    world = await worlds(Account).start()
    ended = world.submit("Account/a/deposit", 5, idempotency_key="k")
    running = world.submit("Account/b/slow", 10, idempotency_key="k")
    queued = world.submit("Account/b/deposit", 5, idempotency_key="k")
    await world.settle()

    await world.restart()
    again = [
        world.submit("Account/a/deposit", 5, idempotency_key="k"),
        world.submit("Account/b/slow", 10, idempotency_key="k"),
        world.submit("Account/b/deposit", 5, idempotency_key="k"),
    ]
    await world.advance(10)

    assert [submission.id for submission in again] == [ended.id, running.id, queued.id]
    assert [await world.outcome_of(submission) for submission in again] == [Success(b"5"), Success(b"1"), Success(b"6")]


async def test_a_failure_is_an_answer_to_come_back_for(worlds: Worlds) -> None:
    world = await worlds(Account).start()
    first = await world.outcome("Account/a/refuse", idempotency_key="k")

    again = await world.outcome("Account/a/refuse", idempotency_key="k")

    assert isinstance(first, Failed)
    assert again == first
    assert world.state("Account", "a") == {"balance": 1}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"one":1,"other":"x"}', b'{ "other" : "x", "one" : 1 }'),
        (b'{"one":1,"other":"\\u0061"}', b'{"one":1,"other":"a"}'),
        (b"", b"{}"),
    ],
)
async def test_bodies_are_compared_as_canonical_json(worlds: Worlds, one: bytes, other: bytes) -> None:
    """White space, the order of names and escapes don't matter."""
    world = await worlds(Account).start()
    first = world.submit("Account/a/set_both", one, idempotency_key="k")
    again = world.submit("Account/a/set_both", other, idempotency_key="k") if one else first

    assert first.id == again.id


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b"5", b" 5\n", True),
        (b"5", b"6", False),
        (b"5", b"5.0", False),
        (b'"5"', b"5", False),
        (b"", b"null", True),
        (b"[1,2]", b"[2,1]", False),
        (b'{"a":{"c":1,"b":2}}', b'{"a":{"b":2,"c":1}}', True),
        (b'{"a":null}', b"{}", False),
    ],
)
def test_what_is_the_same_body(one: bytes, other: bytes, same: bool) -> None:
    assert same_value(one, other) is same
    assert same_value(other, one) is same


async def test_another_body_is_a_conflict(worlds: Worlds) -> None:
    """409, and nothing is recorded or done; also while the first is running, and after a restart."""
    world = await worlds(Account).start()
    await world.call("Account/a/deposit", 5, idempotency_key="k")
    await world.restart()
    count = len(world.journal.records)

    with pytest.raises(Refused, match="other arguments") as caught:
        world.submit("Account/a/deposit", 6, idempotency_key="k")

    assert caught.value.status == 409
    await world.settle()
    assert len(world.journal.records) == count


async def test_the_key_belongs_to_a_target_and_its_handler(worlds: Worlds) -> None:
    """The same text for another object or another handler names something else."""
    world = await worlds(Account).start()

    assert await world.call("Account/a/deposit", 5, idempotency_key="k") == 5
    assert await world.call("Account/b/deposit", 5, idempotency_key="k") == 5
    assert await world.call("Account/a/set_both", {}, idempotency_key="k") == 6


@pytest.mark.parametrize("key", ["", "x" * 2000, "a\nb"])
async def test_an_unfit_key_is_refused(worlds: Worlds, key: str) -> None:
    world = await worlds(Account).start()

    with pytest.raises(Refused) as caught:
        world.submit("Account/a/deposit", 5, idempotency_key=key)

    assert caught.value.status == 400
    assert world.kinds() == []


# --- retention --------------------------------------------------------------------------------------------------------


async def test_the_answer_is_kept_for_the_retention_time_from_its_end(worlds: Worlds) -> None:
    """Not from its acceptance: a day-long one is kept a day after it ended."""
    world = await worlds(Account, idempotency_retention_seconds=DAY).start()
    slow = world.submit("Account/a/slow", 3 * DAY, idempotency_key="k")
    await world.advance(3 * DAY + 1)

    await world.advance(DAY - 60)
    again = world.submit("Account/a/slow", 3 * DAY, idempotency_key="k")
    assert (again.previously, again.id) == (True, slow.id)
    await world.advance(120)
    afresh = world.submit("Account/a/slow", 3 * DAY, idempotency_key="k")

    assert afresh.previously is False
    assert afresh.id != slow.id


async def test_expiry_survives_a_restart_and_leaves_nothing_behind(worlds: Worlds) -> None:
    world = await worlds(Account, idempotency_retention_seconds=60).start()
    for n in range(5):
        await world.call("Account/a/deposit", 1, idempotency_key=f"k{n}")
    await world.advance(120)
    assert "Purged" in world.kinds()

    await world.restart()

    assert world.engine.kernel.invocations == {}
    assert world.engine.kernel.memory.rows.changed == {}
    assert not any(world.engine.kernel.retention.values())
    assert world.state("Account", "a") == {"balance": 5}


async def test_an_open_or_paused_one_never_expires(worlds: Worlds) -> None:
    world = await worlds(Account, idempotency_retention_seconds=60).start()
    paused = world.submit("Account/a/fail", idempotency_key="k")
    running = world.submit("Account/b/slow", 7 * DAY, idempotency_key="k")

    await world.advance(DAY)

    assert world.submit("Account/a/fail", idempotency_key="k").id == paused.id
    assert world.submit("Account/b/slow", 7 * DAY, idempotency_key="k").id == running.id


async def test_a_message_can_be_found_by_its_key_and_attached_to(worlds: Worlds) -> None:
    world = await worlds(Account, idempotency_retention_seconds=60).start()
    sent = world.submit("Account/a/deposit", 5, send=True, idempotency_key="k")
    await world.settle()

    assert world.engine.find("Account", "a", "deposit", "k") == sent.id
    assert await world.engine.attach(sent.id) == Success(b"5")
    await world.advance(120)
    with pytest.raises(Refused) as found:
        world.engine.find("Account", "a", "deposit", "k")
    with pytest.raises(Refused) as attached:
        world.engine.attach(sent.id)
    assert (found.value.status, attached.value.status) == (404, 404)


async def test_a_plain_call_leaves_nothing_after_its_answer(worlds: Worlds) -> None:
    world = await worlds(Account).start()
    submission = world.submit("Account/a/deposit", 5)
    await world.outcome_of(submission)

    with pytest.raises(Refused) as caught:
        world.engine.attach(submission.id)

    assert caught.value.status == 404
    assert world.engine.kernel.invocations == {}


# --- handlers ---------------------------------------------------------------------------------------------------------


async def test_handlers_and_ingress_share_the_keys(worlds: Worlds) -> None:
    """In both directions."""
    world = await worlds(Account, Desk).start()

    assert await world.call("Account/a/deposit", 5, idempotency_key="k") == 5
    assert await world.call("Desk/deposit", {"amount": 5}) == 5
    assert await world.call("Desk/deposit", {"amount": 7, "idempotency_key": "other"}) == 12
    assert await world.call("Account/a/deposit", 7, idempotency_key="other") == 12
    assert world.state("Account", "a") == {"balance": 12}


async def test_a_handler_with_another_body_gets_a_409(worlds: Worlds) -> None:
    world = await worlds(Account, Desk).start()
    await world.call("Account/a/deposit", 5, idempotency_key="k")

    outcome = await world.outcome("Desk/deposit", {"amount": 6})

    assert isinstance(outcome, Failed)
    assert outcome.failure.status == 409
    assert world.state("Account", "a") == {"balance": 5}


async def test_two_calls_of_one_turn_share_an_invocation(worlds: Worlds) -> None:
    """The first one's invocation isn't there yet when the second is asked for."""
    world = await worlds(Account, Desk).start()

    assert await world.call("Desk/twice", {"one": 5, "other": 5}) == ["5", "5"]
    assert world.state("Account", "a") == {"balance": 5}


async def test_two_different_calls_of_one_turn_conflict(worlds: Worlds) -> None:
    world = await worlds(Account, Desk).start()

    refused, made = await world.call("Desk/twice", {"one": 5, "other": 6})

    assert refused.startswith("409 ")
    assert made == "5"
    assert world.state("Account", "a") == {"balance": 5}


async def test_a_message_and_a_call_of_one_turn_share_an_invocation(worlds: Worlds) -> None:
    world = await worlds(Account, Desk).start()

    assert await world.call("Desk/message_and_call") == ["True", "5", "5"]
    assert world.state("Account", "a") == {"balance": 5}


async def test_of_two_that_share_a_call_one_may_leave(worlds: Worlds) -> None:
    """Its maker waits for it a second time, so it is made, and not cancelled with the first wait."""
    world = await worlds(Account, Desk).start()

    assert await world.call("Desk/takes_the_first_back") == 5
    assert world.state("Account", "a") == {"balance": 5}


async def test_what_a_handler_attached_to_is_what_its_replay_gets(worlds: Worlds) -> None:
    """The verdict stands in its record: when the key has expired meanwhile, the replay still attaches."""
    world = await worlds(Account, Desk, idempotency_retention_seconds=30).start()
    world.submit("Account/a/slow", 3600, send=True)
    first = world.submit("Account/a/deposit", 5, idempotency_key="k")
    attached = world.submit("Desk/deposit", {"amount": 5}, idempotency_key="d")
    await world.settle()

    world.evict()
    await world.advance(3600)
    await world.settle()

    assert await world.outcome_of(attached) == await world.outcome_of(first) == Success(b"6")
    assert "Paused" not in world.kinds()


async def test_two_calls_with_one_key_that_were_never_waited_for_are_replayed_as_they_were(worlds: Worlds) -> None:
    """The second was attached to the first when that was cancelled, and is recorded nowhere."""
    world = await worlds(Account, Desk).start()
    submission = world.submit("Desk/takes_both_back", send=True)
    await world.settle()
    await world.restart()

    await world.advance(60)

    assert "Paused" not in world.kinds()
    assert await world.engine.attach(submission.id) == Success(b'"slept"')

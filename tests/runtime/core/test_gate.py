"""The output gate: nothing is answered before the journal has synced all that it could depend on.

The disk is slow here: what was flushed is in flight until the story releases it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from perdure.objects import TerminalError, VirtualObject, handler, shared
from perdure.runtime.admission import Refused
from perdure.runtime.gate import OutcomeUnknown, OutputGate
from perdure.runtime.records import Due, Failed, Success

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World
    from tests.runtime.held_journal import HeldJournal

    Worlds = Callable[..., World]


class Account(VirtualObject):
    balance: int = 0

    @handler
    async def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @handler
    async def refuse(self) -> None:
        raise TerminalError("no")

    @handler
    async def chain(self, length: int) -> int:
        if length == 0:
            return self.balance
        return 1 + await self.ctx.ref(Account, f"{self.key}'").chain(length - 1)

    @handler
    async def nap(self) -> int:
        await asyncio.sleep(10)
        return 1

    @shared
    async def look(self) -> int:
        return self.balance


@pytest.fixture
async def world(worlds: Worlds, held_journal: HeldJournal) -> World:
    return await worlds(Account, journal=held_journal).start()


def asked(world: World, awaitable: Awaitable[Any]) -> asyncio.Future[Any]:
    future = asyncio.ensure_future(awaitable)
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


async def test_a_call_is_answered_when_its_last_record_is_synced(world: World, held_journal: HeldJournal) -> None:
    """In memory it has long been done."""
    answer = asked(world, world.submit("Account/a/deposit", 5).outcome())
    await world.settle()

    assert world.state("Account", "a") == {"balance": 5}
    assert not answer.done()
    held_journal.release(1)  # the acceptance alone
    await world.settle()
    assert not answer.done()
    held_journal.release()
    await world.settle()
    assert answer.result() == Success(b"5")


async def test_a_failure_is_an_answer_too(world: World, held_journal: HeldJournal) -> None:
    answer = asked(world, world.submit("Account/a/refuse").outcome())
    await world.settle()

    assert not answer.done()
    held_journal.release()
    await world.settle()
    assert isinstance(answer.result(), Failed)


async def test_an_acceptance_is_told_when_it_is_synced(world: World, held_journal: HeldJournal) -> None:
    """The 202 of a message needs its own record, not its outcome."""
    first = world.submit("Account/a/nap", send=True)
    accepted = asked(world, first.accepted())
    await world.settle()

    assert not accepted.done()
    held_journal.release(1)
    await world.settle()
    assert accepted.done()


async def test_a_chain_of_ten_objects_costs_one_sync(world: World, held_journal: HeldJournal) -> None:
    """All of it runs before the first byte is on the disk, and is handed over at once."""
    answer = asked(world, world.submit("Account/a/chain", 10).outcome())
    await world.settle()
    assert not answer.done()

    assert held_journal.records == []
    held_journal.release()
    await world.settle()

    assert answer.result() == Success(b"10")
    assert len(held_journal.records) == 22


async def test_a_read_waits_for_the_newest_record(world: World, held_journal: HeldJournal) -> None:
    """It may have seen a write that the disk has not, so it must not get out before it."""
    asked(world, world.submit("Account/a/deposit", 5).outcome())
    await world.settle()
    read = asked(world, world.submit("Account/a/look").outcome())
    await world.settle()

    assert not read.done()
    held_journal.release(1)
    await world.settle()
    assert not read.done()
    held_journal.release()
    await world.settle()
    assert read.result() == Success(b"5")


async def test_a_read_of_what_is_synced_waits_for_nothing(world: World, held_journal: HeldJournal) -> None:
    asked(world, world.submit("Account/a/deposit", 5).outcome())
    await world.settle()
    held_journal.release()
    await world.settle()

    assert await world.outcome("Account/a/look") == Success(b"5")


async def test_attach_and_output_wait_for_the_outcome_to_be_synced(world: World, held_journal: HeldJournal) -> None:
    submission = world.submit("Account/a/deposit", 5, send=True)
    await world.settle()
    attached = asked(world, world.engine.attach(submission.id))
    looked = asked(world, world.engine.output(submission.id))
    await world.settle()

    assert not attached.done()
    assert not looked.done()
    held_journal.release()
    await world.settle()
    assert attached.result() == looked.result() == Success(b"5")


async def test_output_of_what_runs_waits_too(world: World, held_journal: HeldJournal) -> None:
    """`Not ready` tells that it was accepted."""
    submission = world.submit("Account/a/nap", send=True)
    await world.settle()
    looked = asked(world, world.engine.output(submission.id))
    await world.settle()

    assert not looked.done()
    held_journal.release()
    await world.settle()
    assert looked.result() is None


async def test_an_answer_to_a_known_idempotency_key_waits(world: World, held_journal: HeldJournal) -> None:
    """`Previously accepted` is a promise as well."""
    world.submit("Account/a/deposit", 5, idempotency_key="k")
    await world.settle()
    again = world.submit("Account/a/deposit", 5, idempotency_key="k")
    accepted, outcome = asked(world, again.accepted()), asked(world, again.outcome())
    await world.settle()

    assert again.previously
    assert not accepted.done()
    assert not outcome.done()
    held_journal.release()
    await world.settle()
    assert outcome.result() == Success(b"5")


async def test_an_operation_is_told_when_it_is_synced(world: World, held_journal: HeldJournal) -> None:
    submission = world.submit("Account/a/nap", send=True)
    await world.settle()
    held_journal.release()
    cancelled = asked(world, world.engine.operations.cancel(submission.id))
    await world.settle()

    assert not cancelled.done()
    held_journal.release()
    await world.settle()
    assert cancelled.done()


async def test_a_conflict_tells_nothing_of_what_is_not_synced(world: World, held_journal: HeldJournal) -> None:
    """409 says that the key was used: it carries the record to wait for."""
    world.submit("Account/a/deposit", 5, idempotency_key="k")
    await world.settle()

    with pytest.raises(Refused, match="with other arguments") as caught:
        world.submit("Account/a/deposit", 6, idempotency_key="k")

    assert caught.value.status == 409


async def test_a_failed_sync_releases_nothing_and_stops(world: World, held_journal: HeldJournal) -> None:
    """Everybody who waits is told that the outcome is unknown; new requests are refused with 503."""
    synced = asked(world, world.submit("Account/a/deposit", 5).outcome())
    await world.settle()
    held_journal.release()
    await world.settle()
    waiting = [
        asked(world, world.submit("Account/a/deposit", 5).outcome()),
        asked(world, world.submit("Account/b/nap", send=True).accepted()),
        asked(world, world.submit("Account/a/look").outcome()),
        asked(world, world.submit("Account/c/nap").outcome()),
    ]
    await world.settle()

    held_journal.fail(OSError(5, "Input/output error"))
    await world.settle()

    assert synced.result() == Success(b"5")
    assert [type(future.exception()) for future in waiting] == [OutcomeUnknown] * 4
    assert isinstance(world.engine.failed.result(), OSError)
    with pytest.raises(Refused) as caught:
        world.submit("Account/a/look")
    assert caught.value.status == 503


async def test_no_turn_is_run_while_too_much_is_unsynced(worlds: Worlds, held_journal: HeldJournal) -> None:
    """A disk that fell behind slows us down, instead of filling memory; it goes on as soon as the disk does."""
    world = await worlds(Account, journal=held_journal, unsynced_bytes_max=500).start()
    answers = [asked(world, world.submit(f"Account/{n}/deposit", 1).outcome()) for n in range(20)]
    await world.settle()

    assert [record for record in world.engine.kernel.invocations.values() if record.outcome is None] != []
    turns_run = sum(bool(world.state("Account", str(n))) for n in range(20))
    assert turns_run < 20
    assert held_journal.unsynced_bytes > 500
    while not all(answer.done() for answer in answers):
        held_journal.release()
        await world.settle()

    assert [answer.result() for answer in answers] == [Success(b"1")] * 20


# --- the gate alone ---------------------------------------------------------------------------------------------------


async def test_the_gate_releases_up_to_what_is_synced_and_no_further() -> None:
    loop = asyncio.get_running_loop()
    gate = OutputGate(3)
    futures = {lsn: loop.create_future() for lsn in (2, 3, 4, 5, 7)}
    for lsn, future in futures.items():
        gate.give(lsn, future, lsn)

    assert {lsn for lsn, future in futures.items() if future.done()} == {2, 3}
    gate.opened(5)
    assert {lsn for lsn, future in futures.items() if future.done()} == {2, 3, 4, 5}
    assert len(gate) == 1


async def test_an_older_output_that_comes_later_is_released_when_its_record_is_synced() -> None:
    """Somebody asks for an acceptance after somebody else asked for a newer record."""
    gate = OutputGate(0)
    newer, older = asyncio.Future[str](), asyncio.Future[str]()
    gate.give(2, newer, "newer")
    gate.give(1, older, "older")

    gate.opened(1)

    assert older.done()
    assert not newer.done()


async def test_a_caller_that_has_gone_is_no_trouble() -> None:
    """A client's disconnect cancels its future, nothing else."""
    gate = OutputGate(0)
    gone, here = asyncio.Future[str](), asyncio.Future[str]()
    gate.give(1, gone, "x")
    gate.give(1, here, "y")
    gone.cancel()

    gate.opened(1)
    gate.break_down(OutcomeUnknown("too late for them"))

    assert here.result() == "y"


async def test_a_gate_that_broke_lets_nothing_pass() -> None:
    """Not even what is below what was synced: it can't be told any more what was."""
    gate = OutputGate(0)
    before, after = asyncio.Future[str](), asyncio.Future[str]()
    gate.give(1, before, "x")
    gate.break_down(OutcomeUnknown("the journal failed"))
    gate.give(0, after, "y")

    assert isinstance(before.exception(), OutcomeUnknown)
    assert isinstance(after.exception(), OutcomeUnknown)


async def test_nothing_is_recorded_after_a_failure(worlds: Callable[..., World]) -> None:
    """A handler may have caught what stops the process, and gone on: its turn doesn't count any more."""
    world = await worlds().start()
    ledger = world.engine._ledger  # pyright: ignore[reportPrivateUsage]
    ledger.break_down(OutcomeUnknown("the store failed"))

    with pytest.raises(OutcomeUnknown):
        ledger.commit(Due(1, "i"))

    assert world.journal.next_lsn == 1


async def test_what_is_told_late_closes_nothing() -> None:
    """Of a sync whose news another one has overtaken: what came in between is synced all the same."""
    gate = OutputGate(0)
    gate.opened(5)
    gate.opened(3)
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    gate.give(5, future, "synced")
    assert future.done()

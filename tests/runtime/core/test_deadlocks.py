"""Waits that would never end are refused, or avoided by the put-back; no money is made or lost by either."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from perdure.objects import Service, TerminalError, VirtualObject, handler, shared
from perdure.objects.errors import DeadlockError
from perdure.runtime.records import Call, CancelCall, Failed, PutBack, Success, Turn

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]

SEED = 20_261_123
ROOT = Path(__file__).parents[3]


class Account(VirtualObject):
    balance: int = 100
    note: str = ""

    @handler
    async def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @shared
    async def look(self) -> int:
        return self.balance

    @handler
    async def pay(self, to: str, amount: int = 1) -> int:
        """A debit, and an await that commits it."""
        self.balance -= amount
        await self.ctx.ref(Account, to).deposit(amount)
        return self.balance

    @handler
    async def pay_carefully(self, to: str, amount: int = 1) -> int:
        self.balance -= amount
        try:
            await self.ctx.ref(Account, to).deposit(amount)
        except TerminalError as error:
            self.balance += amount
            self.note = str(error)
        return self.balance

    @handler
    async def pay_carefully_and_rest(self, to: str) -> str:
        """It catches, goes on in the same turn, and waits for something else."""
        self.balance -= 1
        try:
            await self.ctx.ref(Account, to).deposit(1)
        except DeadlockError as error:
            self.balance += 1
            self.note = f"{type(error).__name__} {error.status}: {error}"
        await asyncio.sleep(10)
        return self.note

    @handler
    async def pay_after_a_nap(self, to: str) -> int:
        """Has committed a turn when it asks."""
        self.balance -= 10
        await asyncio.sleep(10)
        self.balance -= 1
        await self.ctx.ref(Account, to).deposit(11)
        return self.balance

    @handler
    async def call_after_a_nap(self, to: str) -> int:
        await asyncio.sleep(10)
        return await self.ctx.ref(Account, to).deposit(1)

    @handler
    async def pay_within_a_group(self, to: str) -> int:
        self.balance -= 7
        async with asyncio.TaskGroup() as group:
            group.create_task(self.ctx.ref(Account, to).deposit(7))
        return self.balance

    @handler
    async def pay_two(self, one: str, other: str) -> list[str]:
        refs = [self.ctx.ref(Account, key) for key in (one, other)]
        results = await asyncio.gather(*(ref.deposit(1) for ref in refs), return_exceptions=True)
        return [type(result).__name__ for result in results]

    @handler
    async def written_early_awaited_late(self, to: str) -> str:
        call = self.ctx.ref(Account, to).deposit(5)
        await asyncio.sleep(10)
        try:
            return f"deposited {await call}"
        except DeadlockError:
            return "refused"

    @handler
    async def through_a_chain(self, keys: list[str]) -> int:
        """Each object waits for the next one; the last for the first."""
        await asyncio.sleep(1)
        first, *rest = keys
        if not rest:
            return await self.ctx.ref(Account, first).deposit(1)
        return await self.ctx.ref(Account, first).through_a_chain(rest)

    @handler
    async def call_pay_at(self, key: str, to: str) -> int:
        return await self.ctx.ref(Account, key).pay(to, 1)

    @handler
    async def sleep_a_second(self) -> None:
        await asyncio.sleep(1)

    @handler
    async def ask_the_desk(self, to: str) -> int:
        await asyncio.sleep(1)
        return await self.ctx.ref(Desk).deposit_at(to)

    @handler
    async def attach_to(self, id: str) -> str:
        return str(await self.ctx.handle(id, int).attach())

    @handler
    async def attach_to_my_own(self) -> int:
        return await self.ctx.ref(Account, self.key).deposit.send(1).attach()

    @handler
    async def same_key_twice(self) -> str:
        """A message to myself, and a call with the same idempotency key: it attaches to the message."""
        me = self.ctx.ref(Account, self.key).deposit.options(idempotency_key="k")
        me.send(1)
        try:
            return f"deposited {await me(1)}"
        except DeadlockError:
            return "refused"

    @handler
    async def rest_then_call(self, to: str) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            await self.ctx.ref(Account, to).deposit(1)
        return 0


class Desk(Service):
    @handler
    async def deposit_at(self, key: str) -> int:
        return await self.ctx.ref(Account, key).deposit(1)


def putbacks(world: World) -> int:
    return world.kinds().count("PutBack")


# --- calls to oneself -------------------------------------------------------------------------------------------------


async def test_a_transfer_to_oneself_is_refused_and_rolled_back(worlds: Worlds) -> None:
    """The uncaught error undoes the debit of its turn, and what it asked for is never made."""
    world = await worlds(Account).start()

    failure = await world.failure("Account/a/pay", {"to": "a", "amount": 30})

    assert failure.startswith("DeadlockError: deadlock: Account/a/pay would wait for Account/a/deposit")
    assert world.state("Account", "a") == {}
    assert world.kinds() == ["Invoked", "Turn"]
    assert putbacks(world) == 0


async def test_a_refused_call_that_was_caught_is_never_made(worlds: Worlds) -> None:
    """The handler undid its debit; if the deposit still came, money would be made."""
    world = await worlds(Account).start()

    assert await world.call("Account/a/pay_carefully", {"to": "a", "amount": 30}) == 100
    await world.advance(60)

    assert await world.call("Account/a/look") == 100
    assert "deadlock: Account/a/pay_carefully would wait" in world.state("Account", "a")["note"]


async def test_after_a_caught_refusal_the_same_turn_goes_on_and_commits(worlds: Worlds) -> None:
    """What it wrote before and after the error is in one record."""
    world = await worlds(Account).start()
    submission = world.submit("Account/a/pay_carefully_and_rest", "a")

    await world.settle()
    (turn,) = (record for record in world.recorded() if isinstance(record, Turn))
    assert list(turn.writes) == ["note"]  # the balance is back to what it was
    assert [type(command).__name__ for command in turn.commands if not isinstance(command, Call)] == ["Timer"]
    await world.advance(10)

    outcome = await world.outcome_of(submission)
    assert isinstance(outcome, Success)
    assert outcome.value.startswith(b'"DeadlockError 409: deadlock: Account/a/pay_carefully_and_rest would wait')
    assert world.state("Account", "a").get("balance", 100) == 100


async def test_a_replay_takes_the_refusal_from_the_record(worlds: Worlds) -> None:
    """The path stood in state, so the replayed error must have the same text; nobody else is asked again."""
    world = await worlds(Account).start()
    submission = world.submit("Account/a/pay_carefully_and_rest", "a")
    await world.settle()
    note = world.state("Account", "a")["note"]

    world.evict()
    await world.advance(5)
    await world.restart()
    await world.advance(5)

    assert world.invocations("Account/a/pay_carefully_and_rest") == []
    assert world.state("Account", "a")["note"] == note
    assert "Paused" not in world.kinds()
    assert submission.id == world.recorded()[0].id  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue]


async def test_a_refusal_in_a_task_group_rolls_back_too(worlds: Worlds) -> None:
    """The group wraps the error that undoes the turn; the debit must not stay for that."""
    world = await worlds(Account).start()

    assert "DeadlockError" in await world.failure("Account/a/pay_within_a_group", "a")
    await world.advance(60)

    assert world.state("Account", "a") == {}


async def test_a_wait_for_ones_own_message_is_refused(worlds: Worlds) -> None:
    """It would be behind me in my mailbox."""
    world = await worlds(Account).start()

    assert "DeadlockError" in await world.failure("Account/a/attach_to_my_own")


async def test_attaching_by_idempotency_key_to_ones_own_message_is_refused(worlds: Worlds) -> None:
    """The message stays: only the wait is refused."""
    world = await worlds(Account).start()

    assert await world.call("Account/a/same_key_twice") == "refused"
    await world.settle()

    assert world.state("Account", "a") == {"balance": 101}


async def test_attaching_to_oneself_is_refused(worlds: Worlds) -> None:
    world = await worlds(Account).start()
    holder = world.submit("Account/a/call_after_a_nap", "z")
    submission = world.submit("Account/a/attach_to", holder.id)
    await world.settle()
    await world.advance(10)
    assert isinstance(await world.outcome_of(submission), Success | Failed)

    waiting = world.submit("Account/b/attach_to", "x", idempotency_key="k")
    await world.settle()
    again = world.submit("Account/c/attach_to", waiting.id)
    assert isinstance(await world.outcome_of(again), Failed)


# --- two, three, five -------------------------------------------------------------------------------------------------


async def test_two_opposite_transfers_both_succeed(worlds: Worlds) -> None:
    """The one that has committed nothing goes behind the deposit it collided with, and runs again."""
    world = await worlds(Account).start()
    one = world.submit("Account/a/pay", {"to": "b", "amount": 30})
    other = world.submit("Account/b/pay", {"to": "a", "amount": 5})
    await world.settle()

    assert isinstance(await world.outcome_of(one), Success)
    assert isinstance(await world.outcome_of(other), Success)
    assert putbacks(world) == 1
    assert (world.state("Account", "a"), world.state("Account", "b")) == ({"balance": 75}, {"balance": 125})


async def test_the_put_back_is_the_one_exception_to_first_in_first_out(worlds: Worlds) -> None:
    """It goes directly behind the deposit it collided with: before the deposit that came in later."""
    world = await worlds(Account, slice_turns_max=1).start()
    world.submit("Account/a/pay", {"to": "b", "amount": 1})
    paying = world.submit("Account/b/pay", {"to": "a", "amount": 1}, idempotency_key="p")
    await asyncio.sleep(0)  # one turn: a's deposit is in the mailbox of b
    later = world.submit("Account/b/deposit", 1000, idempotency_key="d")
    await world.settle()

    ended = [record.id for record in world.recorded() if isinstance(record, Turn) and record.outcome is not None]
    names = {paying.id: "pay", later.id: "deposit that came later"}
    assert putbacks(world) == 1
    assert world.state("Account", "b") == {"balance": 1100}
    assert [names[id] for id in ended if id in names] == ["pay", "deposit that came later"]


@pytest.mark.parametrize("length", [2, 3, 5])
async def test_a_cycle_of_transfers_resolves_without_a_refusal(worlds: Worlds, length: int) -> None:
    """Each pays the next one, all at once; every transfer succeeds, and everybody has what he had."""
    world = await worlds(Account).start()
    submissions = [world.submit(f"Account/{n}/pay", {"to": str((n + 1) % length), "amount": 7}) for n in range(length)]
    await world.settle()

    assert all([isinstance(await world.outcome_of(submission), Success) for submission in submissions])
    assert [world.state("Account", str(n)) for n in range(length)] == [{"balance": 100}] * length
    assert putbacks(world) >= 1


@pytest.mark.parametrize("length", [2, 3, 5])
async def test_a_cycle_after_committed_turns_is_refused_with_its_path(worlds: Worlds, length: int) -> None:
    """Who closes it gets the path; its last turn is undone, its first one was committed; the others succeed."""
    world = await worlds(Account).start()
    submissions = [world.submit(f"Account/{n}/pay_after_a_nap", str((n + 1) % length)) for n in range(length)]
    await world.advance(10)

    outcomes = [await world.outcome_of(submission) for submission in submissions]

    (failure,) = (outcome.failure for outcome in outcomes if isinstance(outcome, Failed))
    assert (failure.type, failure.status) == ("DeadlockError", 409)
    assert failure.message.count("pay_after_a_nap") == length + 1
    refused = next(n for n, outcome in enumerate(outcomes) if isinstance(outcome, Failed))
    # Paid 10 before the nap, never the 1 after it, and got its neighbour's 11.
    assert world.state("Account", str(refused)) == {"balance": 101}
    assert putbacks(world) == 0


async def test_a_cycle_through_unrelated_chains_is_seen(worlds: Worlds) -> None:
    """a waits for b, which waits for c; somebody else made both calls; c then asks for a."""
    world = await worlds(Account).start()
    submission = world.submit("Account/a/through_a_chain", ["b", "c", "d", "a"])

    await world.advance(10)

    outcome = await world.outcome_of(submission)
    assert isinstance(outcome, Failed)
    assert outcome.failure.type == "DeadlockError"
    assert world.engine.kernel.counts.queued == 0


async def test_a_cycle_through_a_service_is_seen(worlds: Worlds) -> None:
    """The Service has no key, but waits like anybody."""
    world = await worlds(Account, Desk).start()
    one = world.submit("Account/a/ask_the_desk", "b")
    other = world.submit("Account/b/ask_the_desk", "a")

    await world.advance(10)

    outcomes = [await world.outcome_of(submission) for submission in (one, other)]
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Failed", "Success"]


async def test_a_cycle_through_attach_is_seen(worlds: Worlds) -> None:
    """a waits for b's result, b for a's: neither waits for a key."""
    world = await worlds(Account).start()
    one = world.submit("Account/a/call_after_a_nap", "b")
    other = world.submit("Account/b/attach_to", one.id)
    await world.settle()

    await world.advance(10)

    outcome = await world.outcome_of(one)
    assert isinstance(outcome, Failed)
    assert outcome.failure.type == "DeadlockError"
    attached = await world.outcome_of(other)
    assert isinstance(attached, Failed)
    assert attached.failure.type == "DeadlockError"


async def test_a_wait_for_the_result_is_no_reason_to_be_put_back(worlds: Worlds) -> None:
    """a calls b, and b calls a back: to run b again later would not help."""
    world = await worlds(Account).start()
    submission = world.submit("Account/a/through_a_chain", ["b", "a"])

    await world.advance(10)

    outcome = await world.outcome_of(submission)
    assert isinstance(outcome, Failed)
    assert outcome.failure.type == "DeadlockError"
    assert putbacks(world) == 0


async def test_of_gathered_calls_only_the_one_that_closes_a_cycle_is_refused(worlds: Worlds) -> None:
    world = await worlds(Account).start()

    assert await world.call("Account/a/pay_two", {"one": "a", "other": "b"}) == ["DeadlockError", "int"]
    await world.settle()

    assert world.state("Account", "a") == {}
    assert world.state("Account", "b") == {"balance": 101}


async def test_a_call_that_was_made_earlier_and_is_refused_at_its_await_is_cancelled(worlds: Worlds) -> None:
    """It was made in a committed turn; as its wait is refused, it must not happen later all the same."""
    world = await worlds(Account).start()
    submission = world.submit("Account/a/written_early_awaited_late", "a")

    await world.advance(20)

    assert await world.outcome_of(submission) == Success(b'"refused"')
    assert world.state("Account", "a") == {}
    commands = [command for record in world.recorded() if isinstance(record, Turn) for command in record.commands]
    assert [type(command) for command in commands if isinstance(command, Call | CancelCall)] == [Call, CancelCall]


async def test_a_long_chain_without_a_cycle_is_no_deadlock(worlds: Worlds) -> None:
    world = await worlds(Account).start()
    keys = [str(n) for n in range(50)]
    submission = world.submit("Account/start/through_a_chain", keys)

    await world.advance(100)

    assert await world.outcome_of(submission) == Success(b"101")


async def test_a_cancellation_survives_the_put_back(worlds: Worlds) -> None:
    """a rests, was cancelled, and its clean-up collides with b's deposit: it ends as cancelled, and b is served."""
    world = await worlds(Account).start()
    resting = world.submit("Account/a/rest_then_call", "b")
    await world.settle()
    paying = world.submit("Account/b/pay", {"to": "a", "amount": 1})
    await world.settle()

    await world.engine.operations.cancel(resting.id)
    await world.settle()

    assert isinstance(await world.outcome_of(paying), Success)
    outcome = await world.outcome_of(resting)
    assert isinstance(outcome, Failed)
    assert outcome.failure.status == 409


# --- many -------------------------------------------------------------------------------------------------------------


def bank() -> type[VirtualObject]:
    """examples/bank.py as it is served."""
    names: dict[str, Any] = {"__name__": "bank_example", "__file__": str(ROOT / "examples" / "bank.py")}
    exec(compile((ROOT / "examples" / "bank.py").read_text(), "bank.py", "exec"), names)  # noqa: S102  # our own example
    account: type[VirtualObject] = names["Account"]
    return account


@pytest.mark.parametrize(("clients", "accounts"), [(12, 6), (16, 2)])
async def test_awaited_transfers_among_few_accounts_all_succeed(worlds: Worlds, clients: int, accounts: int) -> None:
    """2,000 of them: none hangs, none is refused, nobody gains or loses a cent."""
    world = await worlds(bank()).start()
    draw = random.Random(SEED)
    for n in range(accounts):
        await world.call(f"Account/{n}/deposit", 1_000_000)

    async def client(transfers: int) -> None:
        for _ in range(transfers):
            one, other = draw.sample(range(accounts), 2)
            body = {"to": str(other), "amount": draw.randint(1, 100)}
            outcome = await world.submit(f"Account/{one}/transfer_and_wait", body).outcome()
            assert isinstance(outcome, Success), (SEED, outcome)

    await asyncio.gather(*(client(2000 // clients) for _ in range(clients)))

    balances = [world.state("Account", str(n))["balance"] for n in range(accounts)]
    assert sum(balances) == accounts * 1_000_000, SEED
    assert putbacks(world) > 0


async def test_two_that_put_each_other_back_are_not_put_back_for_ever(worlds: Worlds) -> None:
    """x and y queue for d; x wants c, whose holder waits for y; y wants b, whose holder waits for x: a true cycle."""
    world = await worlds(Account).start()
    world.submit("Account/b/call_pay_at", {"key": "d", "to": "c"})
    world.submit("Account/c/call_pay_at", {"key": "d", "to": "b"})
    world.submit("Account/d/sleep_a_second")
    await world.settle()
    world.submit("Account/b/deposit", 1)

    await world.advance(10)

    assert all(one.ended for one in world.engine.kernel.invocations.values())
    assert putbacks(world) < 200


async def test_a_put_back_is_recorded(worlds: Worlds) -> None:
    """A restart finds the same order in the mailbox."""
    world = await worlds(Account).start()
    world.submit("Account/a/pay", {"to": "b", "amount": 1})
    world.submit("Account/b/pay", {"to": "a", "amount": 1})
    await world.settle()
    position = next(n for n, record in enumerate(world.recorded()) if isinstance(record, PutBack))

    await world.restart(position + 1)
    await world.settle()

    assert world.state("Account", "a") == {"balance": 100}
    assert world.state("Account", "b") == {"balance": 100}
    assert world.engine.kernel.counts.queued == 0


class Knot(VirtualObject):
    @handler
    async def waits_for_what_is_delayed(self, other: str) -> str:
        return await self.ctx.ref(Knot, other).done.send_after(10).attach()

    @handler
    async def calls(self, other: str) -> str:
        try:
            return await self.ctx.ref(Knot, other).done()
        except DeadlockError as error:
            return str(error)

    @handler
    async def done(self) -> str:
        return "done"


async def test_a_message_that_is_not_due_yet_will_wait_for_its_key_too(worlds: Worlds) -> None:
    """Once it is due nobody asks any more: who calls now has to be told now."""
    world = await worlds(Knot).start()
    a = world.submit("Knot/a/waits_for_what_is_delayed", "b", idempotency_key="a")
    await world.settle()
    b = world.submit("Knot/b/calls", "a", idempotency_key="b")
    await world.advance(60)

    assert "deadlock: Knot/b/calls would wait for Knot/a/done" in str(world.invocation(b).outcome)
    assert world.invocation(a).outcome == Success(b'"done"')

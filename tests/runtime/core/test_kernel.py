"""What the kernel makes of records: the same live, after a restart, and again on top of a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from perdure.objects import Service, TerminalError, VirtualObject, handler
from perdure.objects.errors import Failure
from perdure.runtime import records
from perdure.runtime.invocations import Status
from perdure.runtime.kernel import Kernel
from perdure.runtime.record_lines import describe
from perdure.runtime.records import (
    Attempted,
    Call,
    Cancelled,
    Due,
    Invoked,
    Killed,
    Paused,
    PutBack,
    Resumed,
    Send,
    Success,
    Timer,
    Turn,
    UnknownRecord,
)

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]
    Build = Callable[..., Invoked]

BOOM = Failure("ValueError", "boom", 500)


class Account(VirtualObject):
    balance: int = 0
    seen: list[str]

    @handler
    async def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @handler
    async def pay(self, to: str, amount: int) -> int:
        self.balance -= amount
        try:
            await self.ctx.ref(Account, to).deposit(amount)
        except TerminalError:
            self.balance += amount
            raise
        await asyncio.sleep(5)
        self.seen.append(to)
        return self.balance

    @handler
    async def refuse(self) -> None:
        raise TerminalError("no")

    @handler
    async def fail(self) -> None:
        raise ValueError("boom")

    @handler
    async def hang(self) -> None:
        await asyncio.Event().wait()

    @handler
    async def remind(self) -> None:
        self.ctx.ref(Account, self.key).deposit.send_after(30, 1)


class Desk(Service):
    @handler
    async def both(self, keys: list[str]) -> list[int]:
        return await asyncio.gather(*(self.ctx.ref(Account, key).deposit(1) for key in keys))


async def busy_world(worlds: Worlds) -> World:
    """One of each: calls, opposite transfers, messages, timers, failures, a pause, cancellations, a kill."""
    world: World = await worlds(Account, Desk).start()
    world.submit("Account/a/pay", {"to": "b", "amount": 3}, idempotency_key="p1")
    world.submit("Account/b/pay", {"to": "a", "amount": 4}, idempotency_key="p2")
    world.submit("Account/a/deposit", 1, send=True)
    world.submit("Account/c/remind")
    world.submit("Account/d/refuse", idempotency_key="r")
    world.submit("Account/e/fail")
    world.submit("Account/later/deposit", 1, send=True, delay_us=7_000_000)
    world.submit("Desk/both", ["a", "b", "c"])
    hanging = world.submit("Account/f/hang")
    queued = world.submit("Account/f/deposit", 1)
    doomed = world.submit("Account/g/hang")
    await world.settle()
    for operation in (
        world.engine.operations.cancel(queued.id),
        world.engine.operations.cancel(hanging.id),
        world.engine.operations.kill(doomed.id),
    ):
        await operation
    await world.advance(6)
    return world


async def test_the_records_alone_make_the_state_that_is_live(worlds: Worlds) -> None:
    """After every step of a busy life, `apply` on the journal so far gives the memory of the running kernel."""
    world = await busy_world(worlds)

    for _ in range(10):
        assert world.rebuilt_dump() == world.dump()
        await world.advance(4)


async def test_a_restart_changes_nothing(worlds: Worlds) -> None:
    """Right after it the kernel is what it was, and a day later everything has ended as it would have."""
    undisturbed = await busy_world(worlds)
    restarted = await busy_world(worlds)

    before = restarted.dump()
    await restarted.restart()
    assert restarted.dump() == before
    await restarted.advance(3600)
    await undisturbed.advance(3600)

    assert {key: restarted.state(*key) for key in restarted.engine.kernel.objects} == {
        key: undisturbed.state(*key) for key in undisturbed.engine.kernel.objects
    }


async def test_starting_ten_times_writes_nothing(worlds: Worlds) -> None:
    """A start is no event: without anything new, the journal doesn't grow."""
    world = await busy_world(worlds)
    count = len(world.journal.records)

    for _ in range(10):
        await world.restart()
        await world.settle()

    assert len(world.journal.records) == count


def one_of_each(invoked: Build) -> list[records.Record]:
    return [
        invoked("i", headers={"a": "b"}, idempotency_key="k", due=5),
        Due(1, "i"),
        Turn(1, "i", 2, 3, {"f": b"1"}, [Call(1, "S", "k", "h", True, b"x", "i", {"a": "b"}, records.Attached("z"))]),
        Turn(1, "i", 2, 3, outcome=records.Failed(BOOM), reads={"f": None, "g": b"1"}),
        Turn(1, "i", 2, 3, deadlocked=[(1, BOOM)]),
        records.Notified(1, "i", 4, Success(b"1")),
        Attempted(1, "i", BOOM, 7, True),
        PutBack(1, "i", "j"),
        Cancelled(1, "i"),
        Killed(1, "i"),
        records.Paused(1, "i", BOOM),
        records.Resumed(1, "i"),
        records.Purged(1, ["i", "j"]),
        records.Begun(1, "i"),
    ]


def test_every_record_survives_its_encoding(invoked: Build) -> None:
    """What is applied after a crash is what was applied before it."""
    everything = one_of_each(invoked)

    assert [records.decode(records.encode(record)) for record in everything] == everything


def test_every_record_can_be_described(invoked: Build) -> None:
    """A journal dump doesn't stop at one of them."""
    for record in one_of_each(invoked):
        assert type(record).__name__ in describe(records.encode(record))


@pytest.mark.parametrize(
    "data", [b"", b"\x63" + records.encode(Due(1, "i"))[1:], records.encode(Due(1, "i"))[:-2], b"\x01\x90"]
)
def test_what_is_no_record_of_this_version_is_refused(data: bytes) -> None:
    """Never guessed on: the process must not start on it."""
    with pytest.raises(UnknownRecord):
        records.decode(data)


def test_a_description_does_not_tell_the_seed(invoked: Build) -> None:
    """Who knows it can compute the ids that the invocation makes."""
    text = describe(records.encode(invoked("i", seed=b"secret-secret-16")))

    assert "secret" not in text
    assert "c2Vjc" not in text


# --- mailboxes --------------------------------------------------------------------------------------------------------


def apply(*applied: records.Record) -> Kernel:
    """As the journal does: through bytes."""
    kernel = Kernel()
    for record in applied:
        kernel.apply(records.decode(records.encode(record)))
    return kernel


def mailbox_of(kernel: Kernel, service: str = "Account", key: str = "a") -> list[str]:
    """The holder first."""
    entry = kernel.entry(service, key)
    return [] if entry is None else [id for id in [entry.holder, *entry.mailbox] if id is not None]


def ended(id: str, number: int = 1) -> Turn:
    return Turn(1, id, number, number, outcome=Success(b"null"))


def test_a_mailbox_is_first_in_first_out(invoked: Build) -> None:
    kernel = apply(*(invoked(id) for id in "abcd"))

    assert mailbox_of(kernel) == ["a", "b", "c", "d"]
    assert kernel.counts.queued == 3
    kernel.apply(ended("a"))
    assert mailbox_of(kernel) == ["b", "c", "d"]
    assert kernel.counts.queued == 2


def test_shared_handlers_and_other_keys_wait_for_nobody(invoked: Build) -> None:
    kernel = apply(invoked("a"), invoked("s", exclusive=False), invoked("x", key="x"))

    assert [one.status for one in kernel.invocations.values()] == [Status.OPEN] * 3
    assert kernel.counts.queued == 0


def test_a_delayed_invocation_joins_its_mailbox_when_it_is_due(invoked: Build) -> None:
    """Not when it was made: those that came in between are before it."""
    kernel = apply(invoked("a"), invoked("late", due=100), invoked("b"), Due(100, "late"), invoked("c"))

    assert mailbox_of(kernel) == ["a", "b", "late", "c"]
    assert kernel.counts.queued == 3


def test_the_commands_of_a_turn_join_in_their_order(invoked: Build) -> None:
    """A mailbox is ordered by record, and by index within it."""
    sends: list[records.Command] = [Send(n, "Account", "z", f"h{n}", True, b"") for n in range(1, 6)]
    kernel = apply(invoked("a"), Turn(1, "a", 1, 1, commands=sends))

    entry = kernel.entry("Account", "z")
    assert entry is not None
    assert entry.holder is not None
    assert [kernel.invocations[id].handler for id in [entry.holder, *entry.mailbox]] == ["h1", "h2", "h3", "h4", "h5"]


def test_one_that_is_put_back_goes_right_behind_whom_it_collided_with(invoked: Build) -> None:
    kernel = apply(invoked("a"), invoked("b"), invoked("c"), PutBack(2, "a", "b"))

    assert mailbox_of(kernel) == ["b", "a", "c"]
    assert kernel.counts.queued == 2
    assert [one.command for one in kernel.invocations["a"].deliveries] == []


def test_cancelling_one_that_waits_ends_it_and_leaves_the_others(invoked: Build) -> None:
    kernel = apply(
        invoked("a"), invoked("b"), invoked("c"), invoked("late", due=9), Cancelled(2, "b"), Cancelled(2, "late")
    )

    assert mailbox_of(kernel) == ["a", "c"]
    assert [kernel.invocations[id].outcome for id in ("b", "late")] == [
        records.Failed(Failure("Cancelled", "the invocation was cancelled", 409))
    ] * 2
    assert kernel.counts.queued == 1
    assert len(kernel.timers) == 0


def test_one_that_is_paused_again_is_counted_once(invoked: Build) -> None:
    """By an operator, say, while what its step was told is being read."""
    kernel = apply(invoked("a"), Paused(2, "a", BOOM), Paused(3, "a", BOOM))

    assert kernel.counts.paused_of == {"Account": 1}
    kernel.apply(Resumed(4, "a"))
    assert kernel.counts.paused_of == {}


def test_killing_the_holder_passes_the_key_on(invoked: Build) -> None:
    kernel = apply(invoked("a"), invoked("b"), Killed(2, "a"))

    assert mailbox_of(kernel) == ["b"]
    assert kernel.invocations["b"].status is Status.OPEN


def test_an_operation_on_what_has_ended_or_is_unknown_is_nothing(invoked: Build) -> None:
    kernel = apply(invoked("a", retained=True), ended("a"))
    before = kernel.invocations["a"].outcome

    for id in ("a", "nobody"):
        for record in (Cancelled(2, id), Killed(2, id), records.Resumed(2, id), Due(2, id), records.Notified(2, id, 1)):
            kernel.apply(record)

    assert kernel.invocations["a"].outcome == before
    assert len(kernel.invocations) == 1


def test_nothing_is_left_of_a_plain_call_that_went_well(invoked: Build) -> None:
    """A million requests later the memory is what it was."""
    kernel = apply(invoked("a"), ended("a"))

    assert kernel.invocations == {}
    assert kernel.objects == {}
    assert not any(kernel.retention.values())


# --- what a turn asks for ---------------------------------------------------------------------------------------------


def test_a_calls_outcome_is_a_delivery_to_its_caller(invoked: Build) -> None:
    call = Call(1, "Account", "z", "deposit", True, b"5")
    kernel = apply(invoked("a"), Turn(2, "a", 1, 1, commands=[call]))
    (callee,) = (one for one in kernel.invocations.values() if one.key == "z")

    assert (callee.parent, callee.depth, callee.arguments) == ("a", 1, b"5")
    kernel.apply(Turn(3, callee.id, 1, 1, outcome=Success(b"6")))

    last = kernel.invocations["a"].deliveries[-1]
    assert (last.at, last.command, last.outcome) == (3, 1, Success(b"6"))


def test_before_images_are_what_the_fields_were_before_the_first_write(invoked: Build) -> None:
    """Also `absent`; the end of the invocation drops them."""
    kernel = apply(
        invoked("w"),
        Turn(1, "w", 1, 1, {"old": b"1"}, outcome=Success(b"null")),
        invoked("a"),
        Turn(2, "a", 1, 1, {"old": b"2", "new": b"1"}, [Timer(1, 9)]),
        Turn(3, "a", 2, 2, {"old": b"3", "new": b"2"}, [Timer(2, 9)]),
    )

    history = kernel.invocations["a"].history
    entry = kernel.entry("Account", "a")
    assert history is not None
    assert entry is not None
    assert history.before == {"old": b"1", "new": None}
    assert entry.fields == {"old": b"3", "new": b"2"}


def test_what_ended_leaves_no_timer_and_no_waiter_behind(invoked: Build) -> None:
    """Or they would fire into nothing, and hold memory until they do."""
    call = Call(1, "Account", "z", "deposit", True, b"5")
    kernel = apply(invoked("a"), Turn(2, "a", 1, 1, commands=[call, Timer(2, 9)]), ended("a", 2))
    (callee,) = kernel.invocations.values()

    assert len(kernel.timers) == 0
    assert not callee.waiters


def test_children_have_ids_that_only_their_seed_tells(invoked: Build) -> None:
    """The same seed makes the same ids in a replay; another one others."""
    sends: list[records.Command] = [Send(1, "Account", "z", "h", True, b""), Send(2, "Account", "z", "h", True, b"")]

    def children(seed: bytes) -> set[str]:
        kernel = apply(invoked("a", seed=seed), Turn(1, "a", 1, 1, commands=sends))
        return {id for id in kernel.invocations if id != "a"}

    assert children(b"1" * 16) == children(b"1" * 16)
    assert len(children(b"1" * 16) | children(b"2" * 16)) == 4

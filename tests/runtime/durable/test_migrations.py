"""A class changes its state between two deploys: what an older version stored is migrated, once, or left alone."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import Struct

from perdure.objects import List, Map, OldState, TerminalError, VirtualObject, Workflow, handler, shared
from perdure.runtime import records
from perdure.runtime.execution import difference_of
from perdure.runtime.invocations import Status
from perdure.runtime.offline import check
from perdure.runtime.record_lines import describe
from perdure.runtime.registry import Registry

if TYPE_CHECKING:
    from tests.runtime.durable.conftest import World

    Worlds = Callable[..., World]


class Money(Struct, frozen=True):
    cents: int
    currency: str


class Euros(VirtualObject, name="Account"):
    """The first version: a balance in whole euros."""

    balance: int = 0
    owner: str = ""

    @handler
    async def put(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @handler
    async def name(self, owner: str) -> str:
        self.owner = owner
        return self.owner

    @handler
    async def put_slowly(self, amount: int) -> int:
        self.balance += amount
        await self.ctx.sleep(10)
        self.balance += amount
        return self.balance

    @handler
    async def wait(self) -> None:
        await self.ctx.sleep(10)
        self.owner = "waited"


class Cents(VirtualObject, name="Account", version=2):
    """The second: a balance with a currency, and how often it was written."""

    balance: Money = Money(0, "EUR")
    owner: str = ""
    writes: int = 0

    def migrate(self, old: OldState) -> None:
        self.balance = Money(100 * old.get("balance", 0), "EUR")
        self.writes = 1

    def _add(self, amount: int) -> int:
        self.balance = Money(self.balance.cents + 100 * amount, self.balance.currency)
        self.writes += 1
        return self.balance.cents

    @handler
    async def put(self, amount: int) -> int:
        return self._add(amount)

    @handler
    async def put_slowly(self, amount: int) -> int:
        self._add(amount)
        await self.ctx.sleep(10)
        return self._add(amount)

    @handler
    async def fail(self, times: int) -> int:
        self._add(1)
        if self.ctx.invocation.attempt <= times:
            raise RuntimeError("on purpose")
        return self.balance.cents

    @handler
    async def refuse(self, *, keep: bool) -> None:
        self._add(1)
        if keep:
            raise TerminalError("no")
        raise ExceptionGroup("no", [TerminalError("no"), TimeoutError()])

    @handler
    async def look(self) -> int:
        return self.balance.cents

    @shared
    async def glance(self) -> list[int]:
        return [self.balance.cents, self.writes]

    @shared
    async def watch(self) -> list[int]:
        first = self.balance.cents
        await self.ctx.sleep(5)
        return [first, self.balance.cents]


class Broken(Cents, name="Account"):
    def migrate(self, old: OldState) -> None:
        self.writes = old["nothing of that name"]


class Grouped(Euros, name="Account"):
    owner: int = 0  # type: ignore[assignment]

    @handler
    async def sum(self) -> int:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(self._owner())
        return asked.result()

    async def _owner(self) -> int:
        return self.owner


class Unmigrated(VirtualObject, name="Account", version=2):
    """Retyped, and somebody forgot to migrate."""

    balance: Money = Money(0, "EUR")
    owner: str = ""

    @handler
    async def put(self, amount: int) -> int:
        self.owner = "overwritten"
        self.balance = Money(self.balance.cents + amount, "EUR")
        return self.balance.cents


class OtherEuros(Euros): ...


async def with_ten_euros(worlds: Worlds, *, deploy: type, **settings: Any) -> World:
    world = await worlds(Euros, **settings).start()
    assert await world.call(world.ref(Euros, "a").put(10)) == 10
    await world.restart(classes=[deploy])
    return world


def turns(world: World) -> list[records.Turn]:
    return [record for record in world.recorded() if isinstance(record, records.Turn)]


def version(world: World, key: str = "a", service: str = "Account") -> int:
    entry = world.runtime.engine.kernel.entry(service, key)
    assert entry is not None
    return entry.version


def problem(world: World, id: str) -> str:
    """What a paused invocation ran into."""
    invocation = world.invocation(id)
    assert invocation.status is Status.PAUSED
    assert invocation.last_failure is not None
    assert invocation.last_failure.type == "UnreadableState"
    return invocation.last_failure.message


async def resume(world: World, id: str) -> None:
    await world.runtime.engine.operations.resume(id)
    await world.settle()


# --- once, in the turn of the next exclusive handler ------------------------------------------------------------------


async def test_an_older_object_is_migrated_in_the_turn_of_the_next_handler(worlds: Worlds) -> None:
    """One record has both; afterwards it is of the new version, also for the next process."""
    world = await with_ten_euros(worlds, deploy=Cents)

    assert await world.call(world.ref(Cents, "a").put(1)) == 1100
    last = turns(world)[-1]
    assert (last.version, last.writes) == (2, {"balance": b'{"cents":1100,"currency":"EUR"}', "writes": b"2"})
    await world.restart()
    assert version(world) == 2
    assert await world.call(world.ref(Cents, "a").put(1)) == 1200
    assert turns(world)[-1].version is None


async def test_one_that_only_reads_leaves_it_migrated_too(worlds: Worlds) -> None:
    world = await with_ten_euros(worlds, deploy=Cents)

    assert await world.call(world.ref(Cents, "a").look()) == 1000
    assert turns(world)[-1].version == 2
    assert world.fields("Account", "a")["writes"] == b"1"


async def test_a_new_object_begins_with_the_class_s_version(worlds: Worlds) -> None:
    """Said where it is not 1: the first record that writes it."""
    world = await worlds(Cents, OtherEuros).start()

    assert await world.call(world.ref(Cents, "new").look()) == 0
    assert turns(world)[-1].version is None
    assert await world.call(world.ref(Cents, "new").put(1)) == 100
    assert turns(world)[-1].version == 2
    assert await world.call(world.ref(Cents, "new").put(1)) == 200
    assert turns(world)[-1].version is None
    assert await world.call(world.ref(OtherEuros, "new").put(1)) == 1
    assert turns(world)[-1].version is None


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 5])
async def test_whatever_was_synced_the_rest_follows(worlds: Worlds, keep: int) -> None:
    """Killed after any record: before the migration's turn it is done again, after it is not."""
    world = await with_ten_euros(worlds, deploy=Cents)
    id = await world.send(world.ref(Cents, "a").put_slowly, 1)
    assert len(world.journal.records) == 4
    await world.advance(20)
    assert await world.result(id) == 1200

    await world.restart(keep)
    await world.advance(20)

    assert world.fields("Account", "a")["balance"] == (
        b"10" if keep == 2 else b'{"cents":1200,"currency":"EUR"}' if keep > 2 else b'{"cents":1000,"currency":"EUR"}'
    )


async def test_a_turn_that_fails_has_migrated_nothing(worlds: Worlds) -> None:
    """Each attempt migrates anew, from what was stored."""
    world = await with_ten_euros(worlds, deploy=Cents)

    id = await world.send(world.ref(Cents, "a").fail, 2)
    assert world.fields("Account", "a") == {"balance": b"10"}
    assert version(world) == 1
    await world.restart()
    await world.advance(60)

    assert await world.result(id) == 1100
    assert version(world) == 2


@pytest.mark.parametrize("keep", [True, False])
async def test_what_is_rolled_back_was_not_migrated(worlds: Worlds, keep: bool) -> None:
    world = await with_ten_euros(worlds, deploy=Cents)

    id = await world.send(world.ref(Cents, "a").refuse, keep=keep)

    assert world.invocation(id).ended
    assert version(world) == (2 if keep else 1)
    assert (world.fields("Account", "a")["balance"] == b"10") is not keep


@pytest.mark.parametrize("always", [True, False])
async def test_a_replay_migrates_again(worlds: Worlds, always: bool) -> None:
    """From the before-images: neither from what was migrated, nor from nothing."""
    world = await with_ten_euros(worlds, deploy=Cents, replay_always=always)

    id = await world.send(world.ref(Cents, "a").put_slowly, 1)
    await world.restart()
    assert all(one.divergence is None for one in check(world.runtime.engine.kernel, Registry([Cents]), world.settings))
    await world.advance(10)

    assert await world.result(id) == 1200
    assert world.fields("Account", "a")["writes"] == b"3"


async def test_a_migration_that_was_changed_diverges(worlds: Worlds) -> None:
    class Dollars(Cents, name="Account"):
        def migrate(self, old: OldState) -> None:
            self.balance = Money(100 * old["balance"], "USD")

    world = await with_ten_euros(worlds, deploy=Cents)
    id = await world.send(world.ref(Cents, "a").put_slowly, 1)
    await world.restart(classes=[Dollars])
    await world.advance(10)

    failure = world.invocation(id).last_failure
    assert failure is not None
    assert failure.type == "ReplayMismatch"
    assert '"USD"' in failure.message


# --- open invocations -------------------------------------------------------------------------------------------------


class Rounded(Euros, name="Account", version=2):
    def migrate(self, old: OldState) -> None:
        self.balance = old["balance"] // 10 * 10


async def test_an_open_invocation_goes_on_with_the_state_it_began_with(worlds: Worlds) -> None:
    """It is not migrated in its middle, nor in a replay; the next one is."""
    world = await worlds(Euros).start()
    id = await world.send(world.ref(Euros, "a").put_slowly, 7)
    await world.restart(classes=[Rounded])
    await world.advance(10)

    assert await world.result(id) == 14
    assert version(world) == 1
    assert await world.call(world.ref(Rounded, "a").put(1)) == 11
    assert version(world) == 2


async def test_one_that_began_migrated_goes_on_under_a_third_version(worlds: Worlds) -> None:
    """Its replay migrates to what its record says; only the next one to the newest."""

    class Third(Rounded, name="Account", version=3):
        def migrate(self, old: OldState) -> None:
            if old.version < 2:
                super().migrate(old)
            else:
                self.owner = "third"

    world = await worlds(Euros).start()
    await world.call(world.ref(Euros, "a").put(17))
    await world.restart(classes=[Rounded])
    id = await world.send(world.ref(Rounded, "a").put_slowly, 1)
    await world.restart(classes=[Third])
    await world.advance(10)

    assert await world.result(id) == 12
    assert version(world) == 2
    assert await world.call(world.ref(Third, "a").put(0)) == 12
    assert (version(world), world.fields("Account", "a")["owner"]) == (3, b'"third"')


async def test_one_that_began_with_nothing_stored_is_of_the_version_that_writes_first(worlds: Worlds) -> None:
    world = await worlds(Euros).start()
    id = await world.send(world.ref(Euros, "a").wait)
    await world.restart(classes=[Rounded])
    await world.advance(10)

    assert world.invocation(id).ended
    assert version(world) == 2


# --- shared handlers --------------------------------------------------------------------------------------------------


async def test_a_reader_sees_it_migrated_and_changes_nothing(worlds: Worlds) -> None:
    world = await with_ten_euros(worlds, deploy=Cents)
    before = len(world.journal.records)

    assert await world.call(world.ref(Cents, "a").glance()) == [1000, 1]
    assert len(world.journal.records) == before
    assert (version(world), world.fields("Account", "a")) == (1, {"balance": b"10"})


@pytest.mark.parametrize("always", [True, False])
async def test_a_reader_that_waits_is_replayed_with_what_it_read(worlds: Worlds, always: bool) -> None:
    """Its record has the stored bytes; in the next turn it sees what has been migrated meanwhile."""
    world = await with_ten_euros(worlds, deploy=Cents, replay_always=always)
    id = await world.send(world.ref(Cents, "a").watch)
    assert turns(world)[-1].reads["balance"] == b"10"
    await world.call(world.ref(Cents, "a").put(1))
    await world.restart()
    await world.advance(5)

    assert await world.result(id) == [1000, 1100]


# --- without a hook ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_version", [1, 2])
async def test_fields_are_added_and_removed_without_a_hook(worlds: Worlds, new_version: int) -> None:
    """A new one has its default; what no class declares is kept for the one that may declare it again."""

    class Newer(VirtualObject, name="Account", version=new_version):
        balance: float = 0.5  # was an int
        limit: int = 7

        @handler
        async def all(self) -> list[float]:
            self.balance += 0.5
            return [self.balance, self.limit]

    world = await worlds(Euros).start()
    await world.call(world.ref(Euros, "a").name("Ann"))
    await world.call(world.ref(Euros, "a").put(10))
    await world.restart(classes=[Newer])

    assert await world.call(world.ref(Newer, "a").all()) == [10.5, 7]
    await world.restart()
    assert world.fields("Account", "a") == {"owner": b'"Ann"', "balance": b"10.5"}
    assert version(world) == new_version


async def test_a_field_is_renamed_and_dropped_by_the_hook(worlds: Worlds) -> None:
    class Newer(VirtualObject, name="Account", version=2):
        holder: str = ""

        def migrate(self, old: OldState) -> None:
            self.holder = old.pop("owner")
            assert "owner" not in old

        @handler
        async def who(self) -> str:
            return self.holder

        @handler
        async def who_slowly(self) -> str:
            await self.ctx.sleep(1)
            return self.holder

    world = await worlds(Euros).start()
    await world.call(world.ref(Euros, "a").name("Ann"))
    await world.call(world.ref(Euros, "b").name("Bob"))
    await world.restart(classes=[Newer])

    assert await world.call(world.ref(Newer, "a").who()) == "Ann"
    assert world.fields("Account", "a") == {"holder": b'"Ann"'}
    said = describe(world.journal.records[-1])
    assert '"writes": {"holder": "Ann"}' in said
    assert said.endswith('"version": 2, "dropped": ["owner"]}')
    id = await world.send(world.ref(Newer, "b").who_slowly)
    await world.restart()
    await world.advance(1)
    assert await world.result(id) == "Bob"
    assert world.fields("Account", "b") == {"holder": b'"Bob"'}


async def test_an_object_of_which_all_is_dropped_is_as_if_it_had_never_been(worlds: Worlds) -> None:
    class Emptied(Euros, name="Account", version=2):
        def migrate(self, old: OldState) -> None:
            for name in [*old]:
                old.pop(name)

        @handler
        async def look(self) -> list[Any]:
            return [self.balance, self.owner]

    world = await with_ten_euros(worlds, deploy=Emptied)

    assert await world.call(world.ref(Emptied, "a").look()) == [0, ""]
    assert world.runtime.engine.kernel.entry("Account", "a") is None
    await world.restart(classes=[Euros])
    assert await world.call(world.ref(Euros, "a").put(1)) == 1


# --- what can't be read -----------------------------------------------------------------------------------------------


async def test_a_field_that_was_retyped_and_not_migrated_pauses(worlds: Worlds) -> None:
    """Nothing is overwritten; a fixed deploy, then resume."""
    world = await with_ten_euros(worlds, deploy=Unmigrated)

    id = await world.send(world.ref(Unmigrated, "a").put, 1)
    said = problem(world, id)
    assert said.startswith("Account['a'].balance is stored as what Money does not read: Expected `object`, got `int`")
    assert "nothing was overwritten" in said
    assert said.endswith("(stored: version 1 of the class; this code: version 2)")
    assert world.fields("Account", "a") == {"balance": b"10"}
    await world.restart(classes=[Cents])
    await resume(world, id)

    assert await world.result(id) == 1100


async def test_what_is_found_in_a_task_of_the_handler_pauses_too(worlds: Worlds) -> None:
    world = await worlds(Euros).start()
    await world.call(world.ref(Euros, "a").name("Ann"))
    await world.restart(classes=[Grouped])

    id = await world.send(world.ref(Grouped, "a").sum)
    assert problem(world, id).startswith("Account['a'].owner is stored as what int does not read")


async def test_a_hook_that_raises_pauses(worlds: Worlds) -> None:
    world = await with_ten_euros(worlds, deploy=Broken)

    id = await world.send(world.ref(Broken, "a").put, 1)
    later = await world.send(world.ref(Broken, "a").put, 2)
    assert "Account['a']: its migrate raised KeyError: 'nothing of that name'" in problem(world, id)
    assert world.invocation(later).status is Status.PENDING
    assert world.fields("Account", "a") == {"balance": b"10"}
    await world.restart(classes=[Cents])
    assert world.invocation(id).status is Status.PAUSED
    await resume(world, id)

    assert [await world.result(id), await world.result(later)] == [1100, 1300]


async def test_a_reader_of_what_cannot_be_migrated_pauses(worlds: Worlds) -> None:
    world = await with_ten_euros(worlds, deploy=Broken)

    id = await world.send(world.ref(Broken, "a").glance)
    assert "its migrate raised KeyError" in problem(world, id)
    await world.restart(classes=[Cents])
    await resume(world, id)

    assert await world.result(id) == [1000, 1]


async def test_a_deploy_that_was_rolled_back_pauses(worlds: Worlds) -> None:
    """For what a newer version has written, the older code waits; for others it works."""
    world = await with_ten_euros(worlds, deploy=Cents)
    await world.call(world.ref(Cents, "a").put(1))
    kept = world.fields("Account", "a")
    await world.restart(classes=[Euros])

    id = await world.send(world.ref(Euros, "a").put, 1)
    said = problem(world, id)
    assert said.startswith("Account['a'] was written by a newer version of the class")
    assert said.endswith("(stored: version 2 of the class; this code: version 1)")
    assert world.fields("Account", "a") == kept
    assert await world.call(world.ref(Euros, "b").put(1)) == 1
    await world.restart(classes=[Cents])
    await resume(world, id)

    assert await world.result(id) == 1200


async def test_an_open_invocation_pauses_under_code_that_was_rolled_back(worlds: Worlds) -> None:
    world = await worlds(Cents).start()
    id = await world.send(world.ref(Cents, "a").put_slowly, 1)
    await world.restart(classes=[Euros])
    await world.advance(10)

    assert "newer version" in problem(world, id)
    await world.restart(classes=[Cents])
    await resume(world, id)
    assert await world.result(id) == 200


# --- Lists and Maps ---------------------------------------------------------------------------------------------------


class Plain(VirtualObject, name="Room"):
    lines: list[str]
    votes: dict[str, int]

    @handler
    async def say(self, line: str) -> list[Any]:
        self.lines.append(line)
        self.votes[line] = len(self.lines)
        return [[*self.lines], {**self.votes}]


class Kept(VirtualObject, name="Room"):
    lines: List[str]
    votes: Map[str, int]

    @handler
    async def say(self, line: str) -> list[Any]:
        self.lines.append(line)
        self.votes[line] = len(self.lines)
        return [[*self.lines], {**self.votes}]

    @handler
    async def say_slowly(self, line: str) -> list[Any]:
        await self.say_now(line)
        await self.ctx.sleep(1)
        return [[*self.lines], {**self.votes}]

    async def say_now(self, line: str) -> None:
        self.lines.append(line)
        self.votes[line] = len(self.lines)


class NowKept(Kept, name="Room", version=2):
    def migrate(self, old: OldState) -> None:
        self.lines.extend(old.pop("lines", []))
        self.votes.update(old.pop("votes", {}))

    @shared
    async def look(self) -> list[Any]:
        return [[*self.lines], {**self.votes}, "a" in self.votes, self.lines[-1]]


class NowPlain(Plain, name="Room", version=2):
    def migrate(self, old: OldState) -> None:
        self.lines = old.pop("lines", [])
        self.votes = old.pop("votes", {})


class Renumbered(VirtualObject, name="Room", version=2):
    """The Map's keys are numbers now, the List's values too."""

    lines: List[int]
    votes: Map[int, str]

    def migrate(self, old: OldState) -> None:
        self.lines.extend(len(line) for line in old.pop("lines"))
        votes = old.read("votes", dict[str, int])
        old.pop("votes")
        self.votes.update({count: line for line, count in votes.items()})

    @handler
    async def look_slowly(self) -> list[Any]:
        self.lines.append(9)
        await self.ctx.sleep(1)
        return [[*self.lines], [*self.votes.items()]]


async def spoken(worlds: Worlds, before: type, after: type, *lines: str, **settings: Any) -> World:
    world = await worlds(before, **settings).start()
    for line in lines:
        await world.call(world.ref(before, "r").say(line))
    await world.restart(classes=[after])
    return world


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (Plain, Kept, r"lines is stored as a whole value, and expected is .*List\[str\]; nothing was overwritten"),
        (Kept, Plain, r"lines is stored as 2 entries of a List, and expected is list\[str\]; nothing was overwritten"),
    ],
)
async def test_a_list_that_became_another_kind_pauses(worlds: Worlds, before: type, after: type, said: str) -> None:
    """Instead of beginning empty beside what is hidden from then on."""
    world = await spoken(worlds, before, after, "a", "b")
    known = world.fields("Room", "r") if before is Plain else {}
    told = len(world.journal.records)

    id = await world.send(world.ref(after, "r").say, "c")

    assert re.search(said, problem(world, id))
    assert [type(record).__name__ for record in world.recorded()[told:]] == ["Invoked", "Paused"]
    assert not known or world.fields("Room", "r") == known


async def test_a_map_of_other_keys_pauses(worlds: Worlds) -> None:
    class OfNumbers(VirtualObject, name="Room"):
        votes: Map[int, int]

        @handler
        async def vote(self, number: int) -> int:
            self.votes[number] = self.votes.get(number, 0) + 1
            return len(self.votes)

        @shared
        async def count(self) -> int:
            return len(self.votes)

    world = await spoken(worlds, Kept, OfNumbers, "a", "b")

    for id in (
        await world.send(world.ref(OfNumbers, "r").vote, 1),
        await world.send(world.ref(OfNumbers, "r").count),
    ):
        assert "Room['r'].votes is stored as 2 entries of a Map with text for keys, and expected is" in problem(
            world, id
        )


@pytest.mark.parametrize("always", [True, False])
async def test_plain_collections_become_kept_ones(worlds: Worlds, always: bool) -> None:
    world = await spoken(worlds, Plain, NowKept, "a", "b", replay_always=always)

    assert await world.call(world.ref(NowKept, "r").look()) == [["a", "b"], {"a": 1, "b": 2}, True, "b"]
    id = await world.send(world.ref(NowKept, "r").say_slowly, "c")
    assert world.fields("Room", "r") == {}
    await world.restart()
    await world.advance(1)

    assert await world.result(id) == [["a", "b", "c"], {"a": 1, "b": 2, "c": 3}]
    assert await world.call(world.ref(NowKept, "r").look()) == [["a", "b", "c"], {"a": 1, "b": 2, "c": 3}, True, "c"]


async def test_a_handler_goes_on_from_what_was_migrated_in_its_turn(worlds: Worlds) -> None:
    """Of both on the same entry, the handler's is the later."""
    world = await spoken(worlds, Plain, NowKept, "a", "b")

    assert await world.call(world.ref(NowKept, "r").say("a")) == [["a", "b", "a"], {"a": 3, "b": 2}]
    await world.restart()
    assert await world.call(world.ref(NowKept, "r").look()) == [["a", "b", "a"], {"a": 3, "b": 2}, True, "a"]


async def test_what_was_emptied_is_of_the_version_of_who_fills_it_again(worlds: Worlds) -> None:
    """Also if that is an older one, since nothing of the newer is left."""

    class Older(VirtualObject, name="Queue"):
        lines: List[str]

        @handler
        async def refill(self) -> None:
            self.lines.append("a")
            await self.ctx.sleep(1)
            self.lines.clear()
            await self.ctx.sleep(1)
            self.lines.append("b")

    class Newer(Older, name="Queue", version=2): ...

    world = await worlds(Newer).start()
    await world.send(world.ref(Newer, "q").refill)
    assert version(world, "q", "Queue") == 2
    await world.advance(1)
    await world.restart(classes=[Older])
    await world.advance(1)

    assert len(world.runtime.engine.kernel.entries_of("Queue", "q", "lines", None, 10)) == 1
    assert version(world, "q", "Queue") == 1


async def test_kept_collections_become_plain_ones(worlds: Worlds) -> None:
    world = await spoken(worlds, Kept, NowPlain, "a", "b")

    assert await world.call(world.ref(NowPlain, "r").say("c")) == [["a", "b", "c"], {"a": 1, "b": 2, "c": 3}]
    assert world.runtime.engine.kernel.entries_of("Room", "r", "lines", None, 10) == []
    assert world.runtime.engine.kernel.entries_of("Room", "r", "votes", None, 10) == []
    assert world.fields("Room", "r") == {"lines": b'["a","b","c"]', "votes": b'{"a":1,"b":2,"c":3}'}


@pytest.mark.parametrize("always", [True, False])
async def test_kept_collections_are_retyped(worlds: Worlds, always: bool) -> None:
    """Removed and written in one record; a replay begins with the old entries."""
    world = await spoken(worlds, Kept, Renumbered, "a", "bcd", replay_always=always)

    id = await world.send(world.ref(Renumbered, "r").look_slowly)
    await world.restart()
    await world.advance(1)

    assert await world.result(id) == [[1, 3, 9], [[1, "a"], [2, "bcd"]]]
    await world.restart()
    assert len(world.runtime.engine.kernel.entries_of("Room", "r", "votes", None, 10)) == 2
    id = await world.send(world.ref(Renumbered, "r").look_slowly)
    await world.advance(1)
    assert await world.result(id) == [[1, 3, 9, 9], [[1, "a"], [2, "bcd"]]]


async def test_a_collection_that_no_class_declares_is_kept_until_it_is_popped(worlds: Worlds) -> None:
    class Without(VirtualObject, name="Room"):
        topic: str = ""

        @handler
        async def call_it(self, topic: str) -> None:
            self.topic = topic

    class Popped(Without, name="Room", version=2):
        def migrate(self, old: OldState) -> None:
            self.topic = ", ".join(old.pop("lines"))
            old.pop("votes")

    world = await spoken(worlds, Kept, Without, "a", "b")
    await world.call(world.ref(Without, "r").call_it("x"))
    entries = world.runtime.engine.kernel.entries_of
    assert len(entries("Room", "r", "lines", None, 10)) == len(entries("Room", "r", "votes", None, 10)) == 2
    await world.restart(classes=[Kept])
    assert await world.call(world.ref(Kept, "r").say("c")) == [["a", "b", "c"], {"a": 1, "b": 2, "c": 3}]
    await world.restart(classes=[Popped])
    await world.call(world.ref(Popped, "r").call_it("y"))

    entries = world.runtime.engine.kernel.entries_of
    assert entries("Room", "r", "lines", None, 10) == entries("Room", "r", "votes", None, 10) == []
    assert world.fields("Room", "r") == {"topic": b'"y"'}


# --- workflows, time to live, records ---------------------------------------------------------------------------------


async def test_a_workflow_goes_on_and_its_readers_see_it_migrated(worlds: Worlds) -> None:
    class First(Workflow, name="Order"):
        stage: int = 0

        @handler
        async def run(self) -> str:
            self.stage = 1
            await self.ctx.sleep(10)
            self.stage += 1
            return str(self.stage)

    class Second(First, name="Order", version=2):
        steps_done: int = 0

        def migrate(self, old: OldState) -> None:
            self.steps_done = old["stage"]

        @shared
        async def done(self) -> int:
            return self.steps_done

    world = await worlds(First).start()
    id = await world.send(world.ref(First, "o").run)
    await world.restart(classes=[Second])
    assert await world.call(world.ref(Second, "o").done()) == 1
    await world.advance(10)

    assert await world.result(id) == "2"
    assert await world.call(world.ref(Second, "o").done()) == 2


async def test_a_migration_counts_as_a_write_for_the_time_to_live(worlds: Worlds) -> None:
    class Fleeting(Euros, name="Account", time_to_live=100): ...

    class Newer(Fleeting, name="Account", version=2):
        @handler
        async def look(self) -> int:
            return self.balance

    world = await worlds(Fleeting).start()
    await world.call(world.ref(Fleeting, "a").put(5))
    await world.restart(classes=[Newer])
    await world.advance(60)
    assert await world.call(world.ref(Newer, "a").look()) == 5
    await world.advance(60)
    assert await world.call(world.ref(Newer, "a").look()) == 5
    await world.advance(60)
    assert await world.call(world.ref(Newer, "a").look()) == 0


def test_a_turn_of_another_version_differs() -> None:
    one, other = (records.Turn(1, "id", 1, 1, version=version) for version in (None, 2))

    assert difference_of(one, other) == "the journal left the version of the state as it was, the code now leaves it 2"

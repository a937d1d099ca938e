"""Lists and Maps whose entries are stored, journaled and loaded one by one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import Struct

from perdure.objects import List, Map, VirtualObject, Workflow, handler, shared
from perdure.runtime.records import Turn
from tests.runtime.kept_journal import KeptJournal

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]

SEEDS = range(20_261_123, 20_261_131)


class Member(Struct):
    count: int = 0


class Room(VirtualObject):
    lines: List[str]
    members: Map[str, Member]
    topic: str = ""

    @handler
    async def say(self, by: str, line: str) -> int:
        self.lines.append(line)
        self.members.setdefault(by, Member()).count += 1
        return len(self.lines)

    @handler
    async def say_slowly(self, by: str, line: str) -> list[int]:
        self.lines.append(line)
        before = len(self.lines)
        await self.ctx.sleep(10)
        self.members.setdefault(by, Member()).count += 1
        self.lines[0] = f"{by} said {line}"
        await self.ctx.sleep(10)
        return [before, len(self.lines), self.members[by].count]

    @handler
    async def fail(self, times: int) -> int:
        self.lines.append("never kept")
        self.members["nobody"] = Member(5)
        if self.ctx.invocation.attempt <= times:
            raise RuntimeError("on purpose")
        return len(self.lines)

    @handler
    async def play(self, program: list[list[Any]]) -> list[Any]:
        said: list[Any] = []
        for verb, *rest in program:
            if verb == "append":
                self.lines.append(*rest)
            elif verb == "pop" and self.lines:
                said.append(self.lines.pop())
            elif verb == "set" and self.lines:
                self.lines[rest[0] % len(self.lines)] = rest[1]
            elif verb == "count":
                self.members.setdefault(rest[0], Member()).count += 1
            elif verb == "leave":
                self.members.pop(rest[0], None)
            elif verb == "clear":
                self.members.clear()
            elif verb == "read":
                said.append([[*self.lines], {key: member.count for key, member in self.members.items()}])
            elif verb == "sleep":
                await self.ctx.sleep(rest[0])
        return said

    @shared
    async def look(self) -> list[Any]:
        return [[*self.lines], {key: member.count for key, member in self.members.items()}]

    @shared
    async def watch(self) -> list[Any]:
        first = [len(self.lines), [*self.lines], self.members.get("ann") is not None]
        await self.ctx.sleep(5)
        return [*first, len(self.lines), [*self.lines], self.members.get("ann") is not None]


class Poll(Workflow):
    votes: Map[str, int]

    @handler
    async def run(self) -> int:
        for n in range(5):
            self.votes[f"v{n}"] = n
        return len(self.votes)


async def test_an_entry_costs_an_entry(worlds: Worlds) -> None:
    """Whatever their number: the record has the one that was appended, and the one that was changed."""
    world = await worlds(Room).start()
    for n in range(50):
        assert await world.call("Room/r/say", {"by": "ann", "line": f"line {n}"}) == n + 1

    turns = [record for record in world.recorded() if isinstance(record, Turn)]
    assert [len(turn.entries) for turn in turns] == [2] * 50
    assert turns[0].lengths == {"lines": 1, "members": 1}
    assert turns[-1].lengths == {"lines": 50}
    assert len(world.journal.records[-1]) - len(world.journal.records[3]) < 10


async def test_they_are_there_after_a_restart_in_their_order(worlds: Worlds) -> None:
    world = await worlds(Room).start()
    for n in range(300):
        await world.call("Room/r/say", {"by": f"m{n % 7}", "line": f"line {n}"})

    await world.restart()

    lines, members = await world.call("Room/r/look")
    assert lines == [f"line {n}" for n in range(300)]
    assert members == {f"m{n}": 43 if n < 6 else 42 for n in range(7)}


async def test_a_failed_turn_leaves_no_entry(worlds: Worlds) -> None:
    world = await worlds(Room).start()
    await world.call("Room/r/say", {"by": "ann", "line": "hello"})
    submission = world.submit("Room/r/fail", 2)
    await world.settle()
    assert (await world.call("Room/r/look")) == [["hello"], {"ann": 1}]

    await world.advance(60)
    assert (await world.outcome_of(submission)).value == b"2"  # type: ignore[union-attr]


@pytest.mark.parametrize("disturbance", ["none", "evicted", "restarted", "replay always"])
async def test_an_invocation_sees_what_it_saw(worlds: Worlds, disturbance: str) -> None:
    """Its replay begins with the entries and lengths it found, though it has changed them since."""
    world = await worlds(Room, replay_always=disturbance == "replay always").start()
    await world.call("Room/r/say", {"by": "ann", "line": "first"})
    submission = world.submit("Room/r/say_slowly", {"by": "bob", "line": "second"}, idempotency_key="k")
    for _ in range(2):
        await world.advance(5)
        if disturbance == "evicted":
            world.evict()
        if disturbance == "restarted":
            await world.restart()
        await world.advance(5)

    again = world.submit("Room/r/say_slowly", {"by": "bob", "line": "second"}, idempotency_key="k")
    assert again.id == submission.id
    assert (await world.outcome_of(again)).value == b"[2,2,1]"  # type: ignore[union-attr]
    assert await world.call("Room/r/look") == [["bob said second", "second"], {"ann": 1, "bob": 1}]


async def test_a_reader_that_waits_is_told_the_same_again(worlds: Worlds) -> None:
    """What it read is recorded: others change it while it waits."""
    world = await worlds(Room).start()
    await world.call("Room/r/say", {"by": "bob", "line": "one"})
    submission = world.submit("Room/r/watch", idempotency_key="k")
    await world.advance(1)
    await world.call("Room/r/say", {"by": "ann", "line": "two"})
    await world.restart()

    await world.advance(10)

    again = world.submit("Room/r/watch", idempotency_key="k")
    assert again.id == submission.id
    assert (await world.outcome_of(again)).value == b'[1,["one"],false,2,["one","two"],true]'  # type: ignore[union-attr]


async def test_a_workflow_takes_its_entries_with_it(worlds: Worlds) -> None:
    world = await worlds(Poll, workflow_retention_seconds=60).start()
    assert await world.call("Poll/p/run") == 5
    await world.advance(120)

    assert world.objects() == {}
    assert world.engine.kernel.entries_of("Poll", "p", "votes", None, 10) == []


def drawn(draw: random.Random) -> list[list[Any]]:
    """One program: what happens to the list and the map, with waits in between."""
    verbs = ["append"] * 4 + ["count"] * 4 + ["pop", "set", "leave", "read", "sleep"]
    verbs += ["clear"] * (draw.random() < 0.2)
    program: list[list[Any]] = []
    for _ in range(draw.randint(1, 8)):
        verb = draw.choice(verbs)
        rest: list[Any] = []
        if verb == "append":
            rest = [f"l{draw.randint(0, 99)}"]
        elif verb == "set":
            rest = [draw.randint(0, 30), f"s{draw.randint(0, 99)}"]
        elif verb in ("count", "leave"):
            rest = [draw.choice("abcdef")]
        elif verb == "sleep":
            rest = [draw.randint(1, 3)]
        program.append([verb, *rest])
    return program


class Model:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.members: dict[str, int] = {}

    def play(self, program: list[list[Any]]) -> None:
        for verb, *rest in program:
            if verb == "append":
                self.lines.append(rest[0])
            elif verb == "pop" and self.lines:
                self.lines.pop()
            elif verb == "set" and self.lines:
                self.lines[rest[0] % len(self.lines)] = rest[1]
            elif verb == "count":
                self.members[rest[0]] = self.members.get(rest[0], 0) + 1
            elif verb == "leave":
                self.members.pop(rest[0], None)
            elif verb == "clear":
                self.members.clear()


@pytest.mark.parametrize("seed", SEEDS)
async def test_random_programs_against_a_plain_list_and_dict(worlds: Worlds, seed: int) -> None:
    """With restarts and evictions in between; each object comes to what its programs say."""
    draw = random.Random(seed)
    world = await worlds(Room).start()
    models = {"r": Model(), "s": Model()}
    for _ in range(25):
        key = draw.choice("rs")
        program = drawn(draw)
        models[key].play(program)
        world.submit(f"Room/{key}/play", program, send=True)
        what = draw.random()
        if what < 0.2:
            await world.advance(draw.randint(0, 3))
            await world.restart()
        elif what < 0.5:
            await world.advance(draw.randint(0, 5))
            world.evict()
    await world.advance(500)

    for key, model in models.items():
        assert await world.call(f"Room/{key}/look") == [model.lines, dict(sorted(model.members.items()))], seed
    assert world.rebuilt_dump()["objects"] == world.dump()["objects"]


async def test_a_crash_at_every_record(worlds: Worlds) -> None:
    """Each prefix of the journal goes on to the same end."""
    draw = random.Random(SEEDS[0])
    world = await worlds(Room).start()
    for _ in range(6):
        world.submit("Room/r/play", drawn(draw), send=True)
    accepted = len(world.journal.records) + 6
    await world.advance(500)
    end = await world.call("Room/r/look")

    for keep in range(accepted, len(world.journal.records) + 1):
        again = worlds(Room)
        again.journal = KeptJournal(world.journal.records[:keep])
        await again.start()
        await again.advance(500)
        assert await again.call("Room/r/look") == end, keep
        await again.engine.close()

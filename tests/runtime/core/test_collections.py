"""Lists and Maps whose entries are stored, journaled and loaded one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec import Struct

from perdure.objects import List, Map, VirtualObject, Workflow, handler, shared
from perdure.objects.entry_keys import index_key
from perdure.runtime import working_set
from perdure.runtime.engine import Submission
from perdure.runtime.invocations import RUN_ONCE, Invocation, ObjectEntry, Status
from perdure.runtime.kernel import Kernel
from perdure.runtime.record_lines import describe
from perdure.runtime.records import Purged, Success, Turn
from perdure.runtime.rows import entries_range
from perdure.runtime.store import MemoryStore, Put
from perdure.runtime.working_set import OrderedOverlay
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

    @shared
    async def glance(self, name: str) -> list[Any]:
        """A length, a range and single entries, twice, with a wait in between."""
        seen: list[Any] = []
        for _ in range(2):
            seen.append([len(self.lines), self.lines[:2], name in self.members, [*self.members]])
            await self.ctx.sleep(2.5)  # at no writer's moment
        return seen

    @handler
    async def fill(self, count: int) -> None:
        for n in range(count):
            self.lines.append(f"line {n}")
            if n < 1_000:
                self.members[f"m{n:04}"] = Member(n)

    @handler
    async def rework(self) -> list[list[str]]:
        """Removes every third and adds one, then all others: what it walks through in each turn."""
        first = [*self.members]
        for name in first[::3]:
            del self.members[name]
        self.members["new"] = Member(-1)
        await self.ctx.sleep(2)
        second = [*self.members]
        for name in second[:-1]:
            del self.members[name]
        await self.ctx.sleep(2)
        return [first, second, [*self.members]]

    @handler
    async def walk(self) -> int:
        return sum(member.count for member in self.members.values())

    @handler
    async def shout(self, megabytes: int) -> None:
        for _ in range(megabytes):
            self.lines.append("A" * 1_000_000)


Original = Room


class Poll(Workflow):
    votes: Map[str, int]

    @handler
    async def run(self, count: int) -> list[int]:
        before = len(self.votes)
        for n in range(count):
            self.votes[f"v{n}"] = n
        return [before, len(self.votes)]


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
    assert await world.call("Poll/p/run", 5) == [0, 5]
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


# --- what a replay begins with, and what a reader was told ------------------------------------------------------------


async def test_what_was_not_there_is_a_before_image_too(worlds: Worlds) -> None:
    """The first value counts, however often an entry is written, and "absent" is one."""
    world = await worlds(Room).start()
    await world.call("Room/r/play", [["append", "a"], ["append", "b"], ["count", "ann"]])
    program = [
        ["pop"],
        ["count", "ann"],
        ["sleep", 1],
        ["append", "c"],
        ["append", "d"],
        ["count", "bob"],
        ["sleep", 1],
    ]
    submission = world.submit("Room/r/play", [*program, ["leave", "bob"], ["sleep", 1], ["read"]])
    await world.advance(2.5)

    history = world.invocation(submission).history
    assert history is not None
    assert history.before_lengths == {"lines": 2, "members": 1}
    assert history.before_entries == {
        "lines": {index_key(1): b'"b"', index_key(2): None},
        "members": {b"sann": b'{"count":1}', b"sbob": None},
    }
    world.evict()
    await world.advance(1)
    assert await world.outcome_of(submission) == Success(b'["b",[["a","c","d"],{"ann":2}]]')


async def test_a_writer_that_is_replayed_walks_through_what_it_first_saw(worlds: Worlds) -> None:
    """Before-images lie over many portions of rows: what it added is not there yet, what it removed is back."""
    world = await worlds(Room).start()
    await world.call("Room/r/fill", 400)
    submission = world.submit("Room/r/rework")
    await world.advance(1)
    world.evict()
    await world.advance(10)

    kept = [f"m{n:04}" for n in range(400)]
    seen = [kept, [name for n, name in enumerate(kept) if n % 3] + ["new"], ["new"]]
    assert await world.outcome_of(submission) == Success(msgspec.json.encode(seen))


@pytest.mark.parametrize("seed", SEEDS)
async def test_readers_that_wait_are_told_the_same_however_often_they_are_replayed(worlds: Worlds, seed: int) -> None:
    """Their reads of lengths, entries and ranges come from the record, while writers go on."""

    async def told(*, evict_always: bool) -> list[Any]:
        draw = random.Random(seed)
        world = await worlds(Room).start()
        world.evict_always = evict_always
        readers: list[Submission] = []
        for n in range(12):
            world.submit("Room/r/play", drawn(draw), send=True)
            readers.append(world.submit("Room/r/glance", draw.choice("abcdef"), idempotency_key=str(n)))
            await world.advance(draw.randint(0, 3))
        await world.advance(100)
        return [await world.outcome_of(reader) for reader in readers]

    assert await told(evict_always=True) == await told(evict_always=False)


async def test_a_read_that_the_record_has_not_is_a_divergence(worlds: Worlds) -> None:
    """The line names the read; the reader is paused with its journal."""
    world = await worlds(Room).start()
    await world.call("Room/r/say", {"by": "ann", "line": "one"})
    submission = world.submit("Room/r/glance", "ann", idempotency_key="k")
    await world.advance(1)
    await world.restart(classes=[_room_whose_readers_look_at("bob")])
    await world.advance(10)

    invocation = world.invocation(submission)
    assert invocation.status is Status.PAUSED
    assert invocation.last_failure is not None
    assert "the journal has no read of members#73626f62, the code now reads it" in invocation.last_failure.message


async def test_another_entry_than_the_recorded_one_is_a_divergence(worlds: Worlds) -> None:
    """Both sides are named, as people know the entries."""
    world = await worlds(Room).start()
    submission = world.submit("Room/r/play", [["append", "a"], ["sleep", 5]], idempotency_key="k")
    await world.advance(1)
    await world.restart(classes=[_room_that_writes_louder()])
    await world.advance(10)

    failure = world.invocation(submission).last_failure
    assert failure is not None
    assert failure.message.endswith('the journal wrote "a" to lines[0], the code now writes "A" to lines[0]')


def _room_that_writes_louder() -> type:
    class Room(Original):
        @handler
        async def play(self, program: list[list[Any]]) -> list[Any]:
            return await super().play([[verb, "A"] if verb == "append" else [verb, *rest] for verb, *rest in program])

    return Room


def _room_whose_readers_look_at(instead: str) -> type:
    class Room(Original):
        @shared
        async def glance(self, name: str) -> list[Any]:
            return await super().glance(instead)

    return Room


# --- rows -------------------------------------------------------------------------------------------------------------


async def test_what_an_append_reads_and_writes_does_not_grow(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry appended and one counted up, beside ten and beside ten thousand: the same rows, the same bytes."""
    looked_up: list[bytes] = []
    walked: list[bytes] = []

    class Counting(OrderedOverlay):
        def get(self, key: bytes) -> bytes | None:
            looked_up.append(key)
            return super().get(key)

        def range(self, begin: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
            walked.append(begin)
            return super().range(begin, end, limit)

    monkeypatch.setattr(working_set, "OrderedOverlay", Counting)
    world = await worlds(Room).start()
    costs: list[tuple[int, int]] = []
    for key, size in (("small", 10), ("large", 10_000)):
        await world.call(f"Room/{key}/fill", size)
        looked_up.clear()
        await world.call(f"Room/{key}/say", {"by": "m0003", "line": "one more"})
        costs.append((len(looked_up), len(world.journal.records[-1])))

    (small_rows, small_bytes), (large_rows, large_bytes) = costs
    assert small_rows == large_rows == 1  # the one counted up; what is appended needs no look
    assert not walked
    assert large_bytes - small_bytes <= 5  # longer numbers: the length, and the time


def test_a_walk_through_what_was_just_written_touches_each_row_once() -> None:
    """It may be a whole field: a portion takes no more of it than it gives."""
    touched: list[bytes] = []

    class Counting(OrderedOverlay):
        def get(self, key: bytes) -> bytes | None:
            touched.append(key)
            return super().get(key)

    overlay = Counting(None, lambda begin, end, limit: [])
    for n in range(5_000):
        overlay.put(b"c%05d" % n, b"1")
    walked, begin = 0, b"c"
    while portion := overlay.range(begin, b"d", 100):
        walked, begin = walked + len(portion), portion[-1][0] + b"\0"

    assert walked == 5_000
    assert len(touched) == 5_000


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_over_rows_are_walked_as_one(seed: int) -> None:
    """What changed, what is on its way to the store and what is in it, in portions of any size, against a dict."""
    draw = random.Random(seed)
    store: dict[bytes, bytes] = {}
    overlay = OrderedOverlay(store.get, lambda begin, end, limit: _rows(store, begin, end)[:limit])
    model: dict[bytes, bytes] = {}
    for _ in range(600):
        match draw.random():
            case chance if chance < 0.02:
                overlay.freeze()
                store |= {key: value for key, value in overlay.frozen.items() if value is not None}
                for key, value in overlay.frozen.items():
                    if value is None:
                        store.pop(key, None)
                overlay.thaw()
            case chance if chance < 0.25:
                begin, limit = b"%02d" % draw.randrange(60), draw.randint(1, 30)
                assert overlay.range(begin, b"50", limit) == _rows(model, begin, b"50")[:limit], seed
            case chance if chance < 0.55:
                key = b"%02d" % draw.randrange(60)
                overlay.put(key, None)
                model.pop(key, None)
            case _:
                key = b"%02d" % draw.randrange(60)
                overlay.put(key, model.setdefault(key, b"%d" % draw.randrange(9)))


def _rows(held: dict[bytes, bytes], begin: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
    return [(key, held[key]) for key in sorted(held) if begin <= key < end]


def test_an_object_is_forgotten_in_one_walk_through_its_entries() -> None:
    """However many portions they are in the store: what is gone by now is not walked again."""
    given: list[int] = []

    class Counting(MemoryStore):
        def range(
            self, begin: bytes, end: bytes, limit: int, groups: Iterable[bytes] = ()
        ) -> list[tuple[bytes, bytes]]:
            found = super().range(begin, end, limit, groups)
            given.append(len(found))
            return found

    store = Counting()
    prefix, end = entries_range("Poll", "p", "votes")
    store.commit([Put(prefix + index_key(n), b"1") for n in range(5_000)], 1, b"")
    kernel = Kernel(store)
    kernel.memory.objects.add(("Poll", "p"), ObjectEntry(lengths={"votes": 5_000}))
    run = Invocation("i", b"", "Poll", "p", "run", True, b"", 1, idempotency_key=RUN_ONCE, status=Status.ENDED)
    kernel.memory.invocations.add("i", run)

    kernel.apply(Purged(1, ["i"]))

    assert sum(given) == 5_000
    assert kernel.entry("Poll", "p") is None
    assert kernel.memory.entries.range(prefix, end, 10) == []


async def test_a_workflow_begins_anew_where_another_was_forgotten(worlds: Worlds) -> None:
    """More entries than are removed at once, and none of them is seen by the next run of that id."""
    world = await worlds(Poll, workflow_retention_seconds=60).start()
    assert await world.call("Poll/p/run", 2_500) == [0, 2_500]
    await world.advance(120)
    assert await world.call("Poll/p/run", 3) == [0, 3]
    await world.restart()

    assert len(world.engine.kernel.entries_of("Poll", "p", "votes", None, 10_000)) == 3


@pytest.mark.parametrize("way", ["walk", "look"])
async def test_a_row_that_is_lost_is_noticed_by_a_walk(worlds: Worlds, way: str) -> None:
    """A walk that finds fewer entries than there are pauses its invocation: no sum is silently too low."""
    world = await worlds(Room).start()
    await world.call("Room/r/fill", 300)
    _lose(world, entries_range("Room", "r", "members")[0] + b"sm0150")

    submission = world.submit(f"Room/r/{way}")
    await world.settle()

    invocation = world.invocation(submission)
    assert invocation.status is Status.PAUSED
    assert invocation.last_failure is not None
    assert invocation.last_failure.type == "UnreadableState"
    assert "Room['r'].members has 300 entries, and 299 are stored" in invocation.last_failure.message


def _lose(world: World, row: bytes) -> None:
    memory = world.engine.kernel.memory
    if world.store is not None:
        world.store.commit([Put(row, None)], world.store.lsn, world.store.summary)
    memory.entries.put(row, None)


# --- people -----------------------------------------------------------------------------------------------------------


async def test_entries_and_reads_of_them_are_shown_as_people_know_them(worlds: Worlds) -> None:
    """In `perdure journal dump`."""
    world = await worlds(Room).start()
    await world.call("Room/r/play", [["append", "hello"], ["count", "bob"]])
    world.submit("Room/r/glance", "bob", idempotency_key="k")
    await world.advance(1)

    lines = [describe(data) for data in world.journal.records]
    wrote = next(line for line in lines if " Turn " in line)
    read = [line for line in lines if " Turn " in line][-1]
    assert '"entries": {"lines[0]": "hello", "members[\'bob\']": {"count": 1}}' in wrote
    assert '"lengths": {"lines": 1, "members": 1}' in wrote
    assert '"reads": {"lines#": 1, "lines#..1": [["0000000000000000", "hello"]], ' in read
    assert '"members#73626f62": {"count": 1}, "members#": 1, "members#..128": [["73626f62", {"count": 1}]]' in read


async def test_a_record_that_is_too_large_names_the_field(worlds: Worlds) -> None:
    """Whether it was written or, by a reader that waits, read."""
    world = await worlds(Room).start()
    submission = world.submit("Room/r/shout", 20)
    await world.settle()
    failure = world.invocation(submission).last_failure
    assert failure is not None
    assert "are what the turn wrote to lines: take less of it at once" in failure.message

    for _ in range(4):
        await world.call("Room/s/shout", 5)
    submission = world.submit("Room/s/watch", idempotency_key="k")
    await world.settle()
    failure = world.invocation(submission).last_failure
    assert failure is not None
    assert "are what the turn read of lines: take less of it at once" in failure.message

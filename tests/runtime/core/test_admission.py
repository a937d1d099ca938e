"""What is refused at the door, before anything is recorded; and what happens when there is no room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from perdure.objects import Service, VirtualObject, handler, shared
from perdure.runtime.admission import Refused
from perdure.runtime.records import Success
from tests.runtime.kept_journal import KeptJournal

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]

MIB = 1024 * 1024
HEADROOM = 1 * MIB


class Box(VirtualObject):
    size: int = 0
    content: str = ""

    @handler
    async def put(self, content: str) -> int:
        self.content = content
        self.size = len(content)
        return self.size

    @handler
    async def nap(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        self.size += 1
        return self.size

    @handler
    async def call(self, key: str) -> int:
        return await self.ctx.ref(Box, key).put("x")

    @handler
    async def flood(self, key: str, count: int) -> int:
        for n in range(count):
            self.ctx.ref(Box, key).put.send(str(n))
        return count

    @handler(public=False)
    async def inner(self) -> int:
        return 1

    @handler
    async def outer(self, key: str) -> int:
        return await self.ctx.ref(Box, key).inner()

    @shared
    async def look(self) -> int:
        return self.size

    @shared
    async def breaks(self) -> int:
        raise ValueError("broken")


class Desk(Service):
    @handler
    async def call(self, key: str) -> int:
        return await self.ctx.ref(Box, key).put("x")


def refusal(world: World, path: str, body: object = None, **options: Any) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        world.submit(path, body, **options)
    return caught.value.status, caught.value.message


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("Nothing/a/put", "x", 404, "Nothing"),
        ("Box/a/nothing", "x", 404, "nothing"),
        ("Box/a/put", 5, 400, "$"),
        ("Box/a/put", None, 400, ""),
        ("Box/a/put", b'"\xff"', 400, "UTF-8"),
        ("Box/a/put", b'"x" "y"', 400, ""),
        ("Box/a/nap", b"NaN", 400, ""),
        ("Box/a/look", 5, 400, ""),
        ("Box//put", "x", 400, "key"),
        (f"Box/{'x' * 513}/put", "x", 400, "512"),
        ("Box/a\x00b/put", "x", 400, ""),
        ("Box/a/inner", None, 400, "not public"),
    ],
)
async def test_what_does_not_fit_is_refused_and_leaves_nothing(
    worlds: Worlds, path: str, body: object, status: int, says: str
) -> None:
    world = await worlds(Box).start()

    refused, message = refusal(world, path, body)

    assert refused == status
    assert says in message
    await world.settle()
    assert world.journal.records == []
    assert world.engine.kernel.objects == {}


async def test_what_is_not_public_is_for_other_handlers(worlds: Worlds) -> None:
    world = await worlds(Box).start()

    assert await world.call("Box/a/outer", "b") == 1


# --- backpressure -----------------------------------------------------------------------------------------------------


async def test_a_full_mailbox_answers_429(worlds: Worlds) -> None:
    """Of this key only; as soon as the mailbox is worked off it takes more."""
    world = await worlds(Box, mailbox_per_key_max=3).start()
    submissions = [world.submit("Box/a/nap", 1) for _ in range(4)]  # one holds the key, three wait

    with pytest.raises(Refused) as caught:
        world.submit("Box/a/put", "x")

    assert caught.value.status == 429
    assert caught.value.retry_after_seconds == 1
    assert await world.call("Box/b/put", "x") == 1
    assert await world.call("Box/a/look") == 0
    await world.advance(10)
    assert [await world.outcome_of(submission) for submission in submissions][-1] == Success(b"4")
    assert await world.call("Box/a/put", "x") == 1


async def test_too_many_queued_in_total_answer_429(worlds: Worlds) -> None:
    """Delayed ones count: they are queued as well."""
    world = await worlds(Box, mailbox_total_max=4).start()
    for key in "ab":
        for _ in range(2):
            world.submit(f"Box/{key}/nap", 1)
    for _ in range(2):
        world.submit("Box/c/put", "x", send=True, delay_us=5_000_000)

    status, _ = refusal(world, "Box/d/put", "x")

    assert status == 429
    await world.advance(10)
    assert await world.call("Box/d/put", "x") == 1
    assert world.engine.kernel.counts.queued == 0


async def test_a_known_idempotency_key_is_never_refused_for_backpressure(worlds: Worlds) -> None:
    """It adds nothing to the queue."""
    world = await worlds(Box, mailbox_per_key_max=1).start()
    world.submit("Box/a/nap", 1)
    queued = world.submit("Box/a/put", "x", idempotency_key="k")

    assert refusal(world, "Box/a/put", "y", idempotency_key="new")[0] == 429
    assert world.submit("Box/a/put", "x", idempotency_key="k").id == queued.id


async def test_handlers_are_never_refused_for_backpressure(worlds: Worlds) -> None:
    """Or what was accepted could not end."""
    world = await worlds(Box, mailbox_per_key_max=2, mailbox_total_max=2).start()
    world.submit("Box/busy/nap", 1)

    assert await world.call("Box/a/flood", {"key": "busy", "count": 50}) == 50
    await world.advance(5)

    assert world.state("Box", "busy")["content"] == "49"


# --- a full journal ---------------------------------------------------------------------------------------------------


def fill(world: World) -> None:
    """No room for a new request, but for what has to end."""
    journal = world.journal
    journal._capacity_bytes = sum(map(len, journal.records)) + HEADROOM  # pyright: ignore[reportPrivateUsage]


def cram(world: World) -> None:
    """No room at all."""
    world.journal._capacity_bytes = 0  # pyright: ignore[reportPrivateUsage]


def make_room(world: World) -> None:
    world.journal._capacity_bytes = None  # pyright: ignore[reportPrivateUsage]


async def test_a_full_journal_answers_507_and_what_was_accepted_ends(worlds: Worlds) -> None:
    """Room is kept for that: a nap ends, its call to another object too."""
    world = await worlds(Box).start()
    napping = world.submit("Box/a/nap", 5)
    calling = world.submit("Box/b/call", "c")
    await world.settle()
    waiting = world.submit("Box/d/nap", 5)
    await world.settle()
    fill(world)

    assert refusal(world, "Box/e/put", "x")[0] == 507
    assert await world.call("Box/a/look") == 0
    await world.advance(10)

    assert [await world.outcome_of(one) for one in (napping, calling, waiting)] == [Success(b"1")] * 3
    assert "Box/e" not in str(world.engine.kernel.objects)


async def test_a_request_refused_for_room_changed_nothing(worlds: Worlds) -> None:
    world = await worlds(Box).start()
    await world.call("Box/a/put", "x")
    fill(world)
    before = world.dump()

    assert refusal(world, "Box/a/put", "y", idempotency_key="k")[0] == 507
    assert refusal(world, "Box/z/put", "y", send=True, delay_us=1000)[0] == 507

    assert world.dump() == before
    make_room(world)
    assert await world.call("Box/a/put", "yy", idempotency_key="k") == 2


async def test_turns_without_room_wait_for_it(worlds: Worlds) -> None:
    """Nothing at all fits: timers, turns and failures are kept and repeated, and the process stays up."""
    world = await worlds(Box, Desk).start()
    napping = [world.submit(f"Box/{n}/nap", 5) for n in range(3)]
    await world.settle()
    cram(world)

    await world.advance(30)
    assert not world.engine.failed.done()
    assert await world.call("Box/0/look") == 0
    make_room(world)
    await world.advance(5)

    assert [await world.outcome_of(one) for one in napping] == [Success(b"1")] * 3
    assert world.kinds().count("Notified") == 3


async def test_a_turn_without_room_never_happened(worlds: Worlds) -> None:
    """Its delivery comes again; the state was never touched."""
    world = await worlds(Box).start()
    submission = world.submit("Box/a/put", "x")
    cram(world)
    await world.settle()
    assert world.state("Box", "a") == {}

    make_room(world)
    await world.advance(1)

    assert await world.outcome_of(submission) == Success(b"1")


@pytest.mark.parametrize(("path", "body"), [("Desk/call", "a"), ("Box/a/breaks", None)])
async def test_a_read_that_needs_a_record_waits_for_room(worlds: Worlds, path: str, body: object) -> None:
    """It was not recorded at first; now it asks for something, or failed, and there is no room for its acceptance."""
    world = await worlds(Box, Desk).start()
    cram(world)
    submission = world.submit(path, body)
    await world.advance(3)
    assert not world.engine.failed.done()

    make_room(world)
    await world.advance(1)

    assert not world.engine.failed.done()
    if path == "Desk/call":
        assert await world.outcome_of(submission) == Success(b"1")
        assert world.state("Box", "a")["size"] == 1
    else:
        assert world.kinds()[:2] == ["Invoked", "Attempted"]


async def test_purging_waits_for_room_and_goes_on(worlds: Worlds) -> None:
    """A full journal is when it is needed most."""
    world = await worlds(Box, idempotency_retention_seconds=30).start()
    await world.call("Box/a/put", "x", idempotency_key="k")
    cram(world)

    await world.advance(120)
    assert "Purged" not in world.kinds()
    make_room(world)
    await world.advance(20)

    assert "Purged" in world.kinds()
    assert world.engine.kernel.invocations == {}


async def test_a_process_starts_on_a_full_journal(worlds: Worlds) -> None:
    """With something to purge, something backing off and a timer that is due."""
    world = await worlds(Box, idempotency_retention_seconds=30).start()
    await world.call("Box/a/put", "x", idempotency_key="k")
    world.submit("Box/a/breaks")
    napping = world.submit("Box/b/nap", 5, idempotency_key="n")
    await world.settle()
    await world.crash()
    world.sleep_while_down(3600)
    world.journal = KeptJournal(world.journal.records, capacity_bytes=0)

    await world.start()
    await world.advance(5)
    assert await world.call("Box/a/look") == 1
    make_room(world)
    await world.advance(5)

    assert await world.engine.attach(napping.id) == Success(b"1")


async def test_operators_are_told_that_there_is_no_room(worlds: Worlds) -> None:
    world = await worlds(Box).start()
    submission = world.submit("Box/a/nap", 5)
    await world.settle()
    cram(world)

    with pytest.raises(Refused) as caught:
        await world.engine.operations.cancel(submission.id)

    assert caught.value.status == 507


async def test_a_request_too_large_for_a_record_is_refused(worlds: Worlds) -> None:
    world = await worlds(Box).start()

    assert refusal(world, "Box/a/put", "x" * (17 * MIB))[0] == 413


# --- stopping ---------------------------------------------------------------------------------------------------------


async def test_a_draining_process_answers_what_is_in_flight_and_takes_nothing_new(worlds: Worlds) -> None:
    world = await worlds(Box).start()
    answer = asyncio.ensure_future(world.submit("Box/a/put", "x").outcome())
    draining = asyncio.ensure_future(world.engine.drain(5))
    await world.settle()

    assert answer.result() == Success(b"1")
    assert draining.done()
    assert refusal(world, "Box/a/put", "x")[0] == 503


async def test_what_was_accepted_goes_on_after_the_next_start(worlds: Worlds) -> None:
    world = await worlds(Box).start()
    world.submit("Box/a/nap", 5, idempotency_key="k")
    await world.settle()

    await world.engine.drain(0.001)
    await world.restart()
    await world.advance(5)

    assert await world.call("Box/a/nap", 5, idempotency_key="k") == 1

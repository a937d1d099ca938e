"""An idle object that wasn't written for its time to live is forgotten, as if it had never been."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from perdure.journal import JournalFull
from perdure.objects import VirtualObject, handler, shared
from perdure.runtime import records
from perdure.runtime.kernel import Kernel
from perdure.runtime.records import Expired, Invoked, Success, Turn

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]

HOUR = 3600.0
SWEEP = 10.0
"""What is over is swept away together, every so often."""


class Cart(VirtualObject, time_to_live=timedelta(hours=1)):
    items: list[str]
    paid: bool = False

    @handler
    async def add(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)

    @handler
    async def add_slowly(self, item: str, seconds: float) -> int:
        self.items.append(item)
        await asyncio.sleep(seconds)
        return len(self.items)

    @handler
    async def wait(self, seconds: float) -> list[str]:
        """Looks, waits, and looks again; writes nothing."""
        before = len(self.items)
        await asyncio.sleep(seconds)
        assert len(self.items) == before
        return self.items

    @shared
    async def look(self) -> list[str]:
        return self.items


class Flash(VirtualObject, time_to_live=60):
    n: int = 0

    @handler
    async def write(self) -> None:
        self.n += 1


class Kept(VirtualObject, name="Cart"):
    """The same without a time to live."""

    items: list[str]
    paid: bool = False

    @handler
    async def add(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)


def expired(world: World) -> list[tuple[float, str]]:
    """The journal's: after how many seconds, which key."""
    return [((one.at - world.started) / 1e6, one.key) for one in world.recorded() if isinstance(one, Expired)]


def in_store(world: World) -> list[bytes]:
    """All rows of objects and of expiries, once all is written."""
    return [] if world.store is None else [key for key, _ in world.store.range(b"", b"\xff", 10**6) if key[:1] in b"ox"]


async def test_what_was_not_written_for_so_long_is_forgotten(worlds: Worlds) -> None:
    world = await worlds(Cart).start()
    await world.call("Cart/a/add", "pen")

    await world.advance(HOUR - 1)
    assert world.state("Cart", "a") == {"items": ["pen"]}
    await world.advance(1 + SWEEP)

    assert world.objects() == {}
    assert expired(world) == [(HOUR, "a")]


async def test_used_again_it_starts_at_its_defaults(worlds: Worlds) -> None:
    """And lives as long as a new one."""
    world = await worlds(Cart).start()
    await world.call("Cart/a/add", "pen")
    await world.advance(HOUR + SWEEP)

    assert await world.call("Cart/a/look") == []
    assert await world.call("Cart/a/add", "ink") == 1
    await world.advance(HOUR - 60)
    assert await world.call("Cart/a/look") == ["ink"]
    await world.advance(60 + 2 * SWEEP)

    assert await world.call("Cart/a/look") == []
    assert len(expired(world)) == 2


async def test_each_write_begins_its_time_anew(worlds: Worlds) -> None:
    """Just before the end, again and again; reading it does not."""
    world = await worlds(Cart).start()
    for count in range(1, 5):
        assert await world.call("Cart/a/add", "pen") == count
        await world.advance(HOUR - 1)
        assert len(await world.call("Cart/a/look")) == count
    assert expired(world) == []

    await world.advance(1 + SWEEP)

    assert await world.call("Cart/a/look") == []


async def test_a_shorter_life_that_begins_later_may_end_earlier(worlds: Worlds) -> None:
    world = await worlds(Cart, Flash).start()
    await world.call("Cart/a/add", "pen")
    await world.advance(2 * SWEEP)
    await world.call("Flash/b/write")
    await world.advance(60 + SWEEP)
    await world.call("Flash/b/write")
    await world.advance(60 + SWEEP)

    assert expired(world) == [(80, "b"), (150, "b")]


async def test_each_has_its_own_time(worlds: Worlds) -> None:
    world = await worlds(Cart).start()
    for minute in range(4):
        await world.call(f"Cart/{minute}/add", "pen")
        await world.advance(60)
    await world.call("Cart/1/add", "ink")

    await world.advance(HOUR - 30)

    assert expired(world) == [(HOUR, "0"), (HOUR + 120, "2"), (HOUR + 180, "3")]
    assert world.state("Cart", "1") == {"items": ["pen", "ink"]}


@pytest.mark.parametrize("evict", [False, True], ids=["driven on", "replayed"])
async def test_an_object_at_work_is_not_forgotten(worlds: Worlds, evict: bool) -> None:
    """However long its handler waits, and with a mailbox behind that; a replay finds all as it was."""
    world = await worlds(Cart).start()
    world.evict_always = evict
    await world.call("Cart/a/add", "pen")
    waiting = world.submit("Cart/a/wait", 3 * HOUR)
    behind = world.submit("Cart/a/wait", HOUR)

    await world.advance(4 * HOUR - 60)
    assert expired(world) == []
    await world.advance(60 + SWEEP)

    assert await world.outcome_of(waiting) == await world.outcome_of(behind) == Success(b'["pen"]')
    assert [key for _, key in expired(world)] == ["a"]
    assert 4 * HOUR <= expired(world)[0][0] <= 4 * HOUR + SWEEP
    assert world.objects() == {}
    assert "Paused" not in world.kinds()


async def test_what_is_written_by_an_open_handler_counts(worlds: Worlds) -> None:
    world = await worlds(Cart).start()
    first = world.submit("Cart/a/add_slowly", {"item": "pen", "seconds": 2 * HOUR})
    await world.advance(HOUR)
    world.submit("Cart/a/add", "ink", send=True)
    await world.advance(HOUR + 1)
    assert await world.outcome_of(first) == Success(b"1")

    await world.advance(HOUR - 60)
    assert world.state("Cart", "a") == {"items": ["pen", "ink"]}
    await world.advance(60 + SWEEP)

    assert world.objects() == {}


async def test_what_is_over_while_the_process_is_down_is_forgotten_at_the_start(worlds: Worlds) -> None:
    world = await worlds(Cart).start()
    for key in "abc":
        await world.call(f"Cart/{key}/add", "pen")
    world.submit("Cart/e/add_slowly", {"item": "pen", "seconds": 10 * HOUR}, send=True)
    await world.settle()
    await world.crash()
    world.sleep_while_down(2 * HOUR)

    await world.start()
    await world.settle()

    assert [key for _, key in expired(world)] == ["a", "b", "c"]
    assert [*world.objects()] == [("Cart", "e")]


async def test_a_restart_before_the_end_changes_nothing(worlds: Worlds) -> None:
    """Whether it stands in the store or in the journal's tail."""
    world = await worlds(Cart).start()
    await world.call("Cart/a/add", "pen")
    await world.advance(HOUR / 2)
    await world.restart()
    await world.call("Cart/b/add", "pen")
    await world.restart()

    await world.advance(HOUR / 2 + SWEEP)
    await world.restart()

    assert [*world.objects()] == [("Cart", "b")]
    assert world.dump() == world.rebuilt_dump()


async def test_it_leaves_nothing_in_the_store(worlds: Worlds) -> None:
    """Whatever was written, read and worked at before: each row is taken away once it no longer holds."""
    world = await worlds(Cart).start()
    for _ in range(3):
        await world.call("Cart/a/add", "pen")
        await world.call("Cart/a/wait", 0)
        await world.advance(60)
    assert [row[:1] for row in in_store(world)] in ([], [b"o", b"x"])
    assert HOUR <= ((world.engine.kernel.next_expiry or 0) - world.started) / 1e6 <= HOUR + 120
    assert world.store is None or world.engine.kernel._expiries.next_due() is None  # pyright: ignore[reportPrivateUsage]

    await world.advance(HOUR + SWEEP)
    await world.call("Cart/b/look")
    await world.settle()

    assert in_store(world) == []


async def test_a_turn_says_when_what_it_wrote_expires(worlds: Worlds) -> None:
    """Those that wrote nothing don't."""
    world = await worlds(Cart).start()
    await world.call("Cart/a/add_slowly", {"item": "pen", "seconds": 0})
    await world.call("Cart/a/wait", 0)

    turns = [(one.writes != {}, one.expires) for one in world.recorded() if isinstance(one, Turn)]

    assert turns == [(wrote, world.started + round(HOUR * 1e6) if wrote else None) for wrote, _ in turns]
    assert {wrote for wrote, _ in turns} == {True, False}


async def test_one_that_was_never_written_has_nothing_to_forget(worlds: Worlds) -> None:
    world = await worlds(Cart).start()
    await world.call("Cart/a/wait", 0)

    await world.advance(2 * HOUR)

    assert expired(world) == []
    assert world.objects() == {}


async def test_the_answers_of_its_handlers_are_kept_for_their_own_time(worlds: Worlds) -> None:
    """Who asks again with an idempotency key must not have the thing done twice."""
    world = await worlds(Cart, idempotency_retention_seconds=24 * HOUR).start()
    first = world.submit("Cart/a/add", "pen", idempotency_key="k")
    await world.advance(2 * HOUR)
    assert world.objects() == {}

    again = world.submit("Cart/a/add", "pen", idempotency_key="k")

    assert (again.previously, again.id) == (True, first.id)
    assert world.objects() == {}


async def test_the_time_to_live_is_that_of_the_last_write(worlds: Worlds) -> None:
    """A class that is given one, or loses it, speaks of what is written from then on."""
    world = await worlds(Kept).start()
    await world.call("Cart/old/add", "pen")
    await world.restart(classes=[Cart])
    await world.call("Cart/new/add", "pen")
    await world.call("Cart/freed/add", "pen")
    await world.restart(classes=[Kept])
    await world.call("Cart/freed/add", "ink")

    await world.advance(10 * HOUR)

    assert [key for _, key in expired(world)] == ["new"]
    assert sorted(world.objects()) == [("Cart", "freed"), ("Cart", "old")]


async def test_many_are_forgotten_in_portions(worlds: Worlds) -> None:
    """Between two of them others have their turn."""
    world = await worlds(Cart).start()
    for number in range(150):
        world.submit(f"Cart/{number}/add", "pen")
    await world.settle()
    await world.advance(HOUR - 1)

    gone = [0]
    while world.clock.advance_to_next(world.clock.now_us() + 30_000_000):
        await world.settle()
        gone.append(len(expired(world)))

    assert sorted({*gone}) == [0, 64, 128, 150]
    assert world.objects() == {}


async def test_a_full_disk_holds_it_up(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time goes on meanwhile, and nothing is tried again without a pause."""
    world = await worlds(Cart).start()
    for key in "abc":
        await world.call(f"Cart/{key}/add", "pen")
    asked = 0

    def refuse(size: int, headroom: int = 0) -> None:
        nonlocal asked
        asked += 1
        raise JournalFull("no room")

    monkeypatch.setattr(world.journal, "reserve", refuse)
    await world.advance(HOUR + 100)
    assert len(world.objects()) == 3
    assert asked <= 11
    monkeypatch.undo()

    await world.advance(SWEEP)

    assert world.objects() == {}


# --- the kernel -------------------------------------------------------------------------------------------------------


def kernel_with_a_cart(invoked: Callable[..., Invoked], *, ended: bool) -> Kernel:
    kernel = Kernel()
    outcome = Success(b"null") if ended else None
    kernel.apply(invoked("i", at=10, service="Cart"))
    kernel.apply(Turn(10, "i", 1, 1, {"items": b"[]"}, outcome=outcome, expires=20))
    return kernel


@pytest.mark.parametrize(("at", "gone"), [(19, False), (20, True), (21, True)])
def test_it_is_forgotten_at_its_time(invoked: Callable[..., Invoked], at: int, gone: bool) -> None:
    kernel = kernel_with_a_cart(invoked, ended=True)

    kernel.apply(Expired(at, "Cart", "a"))

    assert (kernel.entry("Cart", "a") is None) is gone
    assert (kernel.next_expiry is None) is gone


def test_one_at_work_is_not_forgotten_whatever_the_journal_says(invoked: Callable[..., Invoked]) -> None:
    kernel = kernel_with_a_cart(invoked, ended=False)

    kernel.apply(Expired(30, "Cart", "a"))
    assert kernel.entry("Cart", "a") is not None
    assert kernel.next_expiry is None
    kernel.apply(Turn(40, "i", 2, 1, outcome=Success(b"null")))

    assert kernel.next_expiry == 20


def test_one_that_is_gone_or_lives_for_ever_stays_as_it_is(invoked: Callable[..., Invoked]) -> None:
    kernel = kernel_with_a_cart(invoked, ended=True)
    kernel.apply(invoked("j", at=11, service="Cart"))
    kernel.apply(Turn(11, "j", 1, 1, {"items": b"[1]"}, outcome=Success(b"null")))

    kernel.apply(Expired(30, "Cart", "a"))
    kernel.apply(Expired(30, "Cart", "nobody"))

    entry = kernel.entry("Cart", "a")
    assert entry is not None
    assert entry.fields == {"items": b"[1]"}
    assert kernel.next_expiry is None


def test_records_without_it_are_read_as_before() -> None:
    """What a release before it wrote has no such item, nor those behind it."""
    turn = Turn(1, "i", 1, 1, {"n": b"1"}, attempt=2)
    data = records.encode(turn)
    later = b"\xc0\x90\x80\xc0"  # expires, entries, lengths, version
    assert data.endswith(b"\x02" + later)
    assert data[1:4] == b"\xdc\x00\x11"  # an array of 17
    before = data[:1] + b"\x9d" + data[4 : -len(later)]

    assert records.decode(before) == turn

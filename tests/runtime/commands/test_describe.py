"""`perdure invocations describe`: the journal of one, what it waits for, who called whom."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from perdure.objects import RetryPolicy, TerminalError, VirtualObject, handler, step

# Fixtures' types; see conftest.py, which tests can't import from.
Serve = Any
Typist = Any
Typing = Callable[[Any], Any]

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOSTILE = "\u202e/x"


async def book(room: str) -> str:
    return f"booked \u009b{room}"


@step(retry=RetryPolicy(first_delay=3600, max_delay=3600, jitter=0))
async def charge() -> None:
    raise RuntimeError("no \x1b[31mmoney")


class Trip(VirtualObject):
    @handler
    async def plan(self) -> None:
        await self.ctx.run(book, "7")
        await self.ctx.ref(Stay, self.key).book()

    @handler
    async def hurry(self) -> None:
        await self.ctx.ref(Stay, self.key).done()

    @handler
    async def ask(self) -> None:
        await self.ctx.ref(Stay, self.key).nothing()
        await self.ctx.awakeable(str)

    @handler
    async def pay(self) -> None:
        await self.ctx.run(charge)


class Stay(VirtualObject):
    @handler
    async def book(self) -> None:
        self.ctx.ref(Note, self.key).wait.send()
        await self.ctx.awakeable(str)

    @handler
    async def nothing(self) -> None:
        pass

    @handler
    async def done(self) -> None:
        raise TerminalError("full", status=409)


class Note(VirtualObject):
    @handler
    async def wait(self) -> None:
        await self.ctx.awakeable(str)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(serve: Serve) -> AsyncIterator[Typist]:
    yield await serve(Trip, Stay, Note)


@pytest.fixture
def typist(served: Typist, typing: Typing) -> Typist:
    return typing(served)


async def described(typist: Typist, id: str) -> Any:
    return (await typist.types("invocations", "describe", id, "--json")).json


async def planned(typist: Typist, key: str) -> tuple[str, str, str]:
    """A trip that waits for its stay, which waits for somebody, and has sent a note that does, too."""
    trip = (await typist.runtime.send(typist.runtime.ref(Trip, key).plan)).id
    found: list[Any] = []

    async def all_wait() -> bool:
        found[:] = (await described(typist, trip))["calls"]
        return [call["status"] for call in found] == ["suspended"] * 3

    await typist.until(all_wait)
    stay, note = (call["id"] for call in found[1:])
    return trip, stay, note


async def test_the_tree_is_the_same_from_each_of_its_places(typist: Typist) -> None:
    """Callers above, calls below; who is looked at is marked."""
    trip, stay, note = await planned(typist, "tree")

    middle = await described(typist, stay)
    assert [call["id"] for call in middle["callers"]] == [trip]
    assert [(call["id"], call["parent"]) for call in middle["calls"]] == [(stay, None), (note, stay)]
    assert [call["id"] for call in (await described(typist, note))["callers"]] == [stay, trip]

    out = (await typist.types("invocations", "describe", stay)).out
    lines = [line.rstrip() for line in out.splitlines() if line.strip(" └─├│").startswith("inv_")][-3:]
    assert [line.index("inv_") for line in lines] == [0, 4, 8]
    assert [trip in lines[0], stay in lines[1], note in lines[2]] == [True] * 3
    assert ["this one" in line for line in lines] == [False, True, False]


async def test_the_journal_is_a_timeline(typist: Typist) -> None:
    """Each entry: what, when, how long, what came of it; the open one since when."""
    trip, stay, _ = await planned(typist, "line")

    journal = (await described(typist, trip))["journal"]
    assert [entry["entry_type"] for entry in journal] == ["Input", "Run", "Call"]
    assert [entry["completed"] for entry in journal] == [True, True, False]

    out = (await typist.types("invocations", "describe", trip)).out
    [run] = [line for line in out.splitlines() if "│ Run" in line]
    [call] = [line for line in out.splitlines() if "│ Call" in line]
    assert "book" in run
    assert "booked" in run
    assert " ms " in run or " s " in run
    assert "Stay/line/book" in call
    assert stay in call
    assert "open for" in call


async def test_what_is_waited_for_is_told_with_its_time(typist: Typist) -> None:
    """The time is when it was asked for."""
    trip, stay, _ = await planned(typist, "since")

    told = await described(typist, trip)
    [wait] = told["waiting_for"]
    assert (wait["type"], wait["id"]) == ("call", stay)
    assert wait["since"] == told["journal"][-1]["appended_at"]
    assert "waits for" in (await typist.types("invocations", "describe", trip)).out


async def test_what_waits_for_a_key_is_told_who_holds_it(typist: Typist) -> None:
    trip, _, _ = await planned(typist, "held")
    behind = (await typist.runtime.send(typist.runtime.ref(Trip, "held").plan)).id

    told = await described(typist, behind)
    assert [(wait["type"], wait["held_by"]) for wait in told["waiting_for"]] == [("key", trip)]
    assert told["waiting_for"][0]["since"] == told["journal"][0]["appended_at"]
    assert f"key held by {trip}, since" in (await typist.types("invocations", "describe", behind)).out
    assert "1 invocation in the mailbox" in (await typist.types("invocations", "describe", trip)).out


async def test_failed_attempts_are_told(typist: Typist) -> None:
    """Of which step, how many, why, and when the next is; nothing of the failure steers a terminal."""
    id = (await typist.runtime.send(typist.runtime.ref(Trip, "poor").pay)).id

    async def backing_off() -> bool:
        return bool(await typist.status(id) == "backing-off")

    await typist.until(backing_off)
    out = (await typist.types("invocations", "describe", id)).out

    assert "1 failed attempt, next 2" in out
    assert "RuntimeError: no \\x1b[31mmoney" in out
    assert "\x1b" not in out


async def test_what_has_ended_tells_how(typist: Typist) -> None:
    """And still knows what it called."""
    handle = await typist.runtime.send(typist.runtime.ref(Trip, "ended").hurry)
    with pytest.raises(TerminalError):
        await handle.attach()

    told = await described(typist, handle.id)
    assert [call["target_service_name"] for call in told["calls"]] == ["Trip", "Stay"]
    out = (await typist.types("invocations", "describe", handle.id)).out
    assert "failed after" in out
    assert "full (409)" in out
    assert "the first and the last are kept" in out


async def test_a_call_that_is_not_kept_is_still_named(typist: Typist) -> None:
    """By its caller, whose journal knows it."""
    id = (await typist.runtime.send(typist.runtime.ref(Trip, "asks").ask)).id

    async def asked() -> bool:
        return [wait["type"] for wait in (await described(typist, id))["waiting_for"]] == ["awakeable"]

    await typist.until(asked)
    assert "Stay/asks/nothing ended, and is not kept" in (await typist.types("invocations", "describe", id)).out


async def test_hostile_names_and_values_are_escaped(typist: Typist) -> None:
    """In the table as for a terminal, in JSON as JSON does it."""
    trip, _, _ = await planned(typist, HOSTILE)

    out = (await typist.types("invocations", "describe", trip)).out
    raw = (await typist.types("invocations", "describe", trip, "--json")).out

    assert "Trip/%E2%80%AE%2Fx/plan" in out
    assert "booked \\x9b7" in out
    assert not {"\u202e", "\x9b"} & {*out}
    assert raw.isascii()


async def test_it_may_be_named_by_its_object(typist: Typist) -> None:
    """The one that holds the key, not what stands in line behind it; where several are at work, they are named."""
    trip, stay, note = await planned(typist, "by key")
    await typist.runtime.send(typist.runtime.ref(Trip, "by key").plan)

    for query, id in (("Trip/by key", trip), ("Stay/by key/book", stay), ("Note/by key", note)):
        assert (await described(typist, query))["invocation"]["id"] == id
    await planned(typist, "another key")
    said = await typist.types("invocations", "describe", "Trip")
    assert said.code == 2
    assert "'Trip' is several: name one by its ID: inv_" in said.complaint
    assert "/plan, suspended), inv_" in said.complaint


async def test_what_is_named_by_its_object_may_only_wait_in_line_or_have_ended(typist: Typist) -> None:
    runtime = typist.runtime
    handle = await runtime.send(runtime.ref(Trip, "over").hurry)
    with pytest.raises(TerminalError):
        await handle.attach()
    assert (await described(typist, "Trip/over"))["invocation"]["id"] == handle.id

    later = await runtime.send_after(3600, runtime.ref(Trip, "over").plan)
    assert (await described(typist, "Trip/over"))["invocation"]["id"] == later.id


@pytest.mark.parametrize(
    ("id", "code", "named"),
    [
        ("inv_a", 2, "35 hexadecimal digits"),
        ("inv_" + "0" * 35, 6, "inv_000"),
        ("Trip/nobody", 6, "no invocation of 'Trip/nobody' is kept"),
        ("Trip/a/b/c", 2, "too many parts"),
    ],
)
async def test_what_is_no_invocation_is_one_line(typist: Typist, id: str, code: int, named: str) -> None:
    said = await typist.types("invocations", "describe", id)

    assert said.code == code
    assert named in said.complaint

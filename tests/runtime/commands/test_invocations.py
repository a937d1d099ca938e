"""`perdure invocations`: which are meant, what is shown of them, what is done to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from perdure.objects import Service, TerminalError, VirtualObject, handler
from perdure.runtime import invocation_commands, watching

# Fixtures' types; see conftest.py, which tests can't import from.
Serve = Any
Typist = Any
Typing = Callable[[Any], Any]

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOSTILE = "x\u202e/%'--\u2028 ä"
UNKNOWN_ID = "inv_" + "0" * 35


class Door(VirtualObject):
    opened: int = 0

    @handler
    async def wait(self) -> None:
        await self.ctx.awakeable(int)

    @handler
    async def through(self, other: str) -> None:
        try:
            await self.ctx.ref(Door, other).wait()
        except TerminalError:
            self.opened += 1

    @handler
    async def open(self) -> int:
        self.opened += 1
        return self.opened


class Bell(Service):
    @handler
    async def wait(self) -> None:
        await self.ctx.awakeable(int)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(serve: Serve) -> AsyncIterator[Typist]:
    yield await serve(Door, Bell)


@pytest.fixture
def typist(served: Typist, typing: Typing) -> Typist:
    return typing(served)


async def begun(typist: Typist, key: str | None = None) -> str:
    """One that waits for ever."""
    ref = typist.runtime.ref(Bell) if key is None else typist.runtime.ref(Door, key)
    id: str = (await typist.runtime.send(ref.wait)).id

    async def suspended() -> bool:
        return bool(await typist.status(id) == "suspended")

    await typist.until(suspended)
    return id


async def listed(typist: Typist, *arguments: str) -> list[str]:
    return [row["id"] for row in (await typist.types("invocations", "list", *arguments, "--json")).json]


async def test_each_form_of_a_query_means_what_it_says(typist: Typist) -> None:
    """An ID, a class, a key of it, a handler of that; a Service's handler has no key before it."""
    one, other, bell = await begun(typist, "one"), await begun(typist, "other"), await begun(typist)

    assert await listed(typist, one) == [one]
    assert await listed(typist, "Door/one") == [one]
    assert await listed(typist, "Door/one/wait") == [one]
    assert await listed(typist, "Door/one/open") == []
    assert {one, other} <= {*await listed(typist, "Door")}
    assert bell not in await listed(typist, "Door")
    assert await listed(typist, "Bell/wait") == [bell]
    assert {one, other, bell} <= {*await listed(typist)}


async def test_what_has_ended_is_listed_when_it_is_asked_for(typist: Typist) -> None:
    """By its ID, by its status, or with all."""
    handle = await typist.runtime.send(typist.runtime.ref(Door, "ended").open)
    await handle.attach()

    assert await listed(typist, "Door/ended") == []
    assert await listed(typist, handle.id) == [handle.id]
    assert await listed(typist, "Door/ended", "--all") == [handle.id]
    assert await listed(typist, "Door/ended", "--status", "completed", "--status", "paused") == [handle.id]
    assert await listed(typist, handle.id, "--status", "paused") == []


async def test_a_hostile_key_is_shown_as_it_can_be_typed(typist: Typist) -> None:
    """Slash, quote, percent sign, line separator and bidi mark: nothing of it steers a terminal or the SQL."""
    id = await begun(typist, HOSTILE)

    said = await typist.types("invocations", "list", id)
    [typed] = [word for word in said.out.replace("│", "\n").splitlines() if word.strip().startswith("Door/")]

    assert "\u202e" not in said.out
    assert "\u2028" not in said.out
    assert typed.strip() == "Door/x%E2%80%AE%2F%25'--%E2%80%A8 ä/wait"
    assert await listed(typist, typed.strip()) == [id]
    assert (await typist.types("invocations", "list", id, "--json")).out.isascii()


NOT_SERVED = [
    ("Nope", "no class 'Nope' is served: `perdure services list` lists them"),
    ("Nope/a/open", "no class 'Nope' is served: `perdure services list` lists them"),
    ("Door/nobody/opne", "Door has no handler 'opne'; it has: open, through, wait"),
    ("Bell/rign", "Bell has no handler 'rign'; it has: wait"),
    ("Bell/a/wait", "Bell is a Service: its invocations have no key"),
]


@pytest.mark.parametrize(("query", "why"), NOT_SERVED)
async def test_what_is_not_served_is_told_where_nothing_is_found(typist: Typist, query: str, why: str) -> None:
    """A misspelt name looks like nothing to do otherwise."""
    said = await typist.types("invocations", "list", query)
    assert (said.code, said.out, said.err) == (0, "0 invocations\n", f"perdure: {why}\n")

    for verb in ("cancel", "kill", "pause", "resume", "purge", "restart", "describe"):
        said = await typist.types("invocations", verb, query)
        assert said.code == 6
        assert said.complaint.endswith(f"; {why}\n")


@pytest.mark.parametrize("query", ["Door/nobody", "Door/nobody/open", UNKNOWN_ID])
async def test_what_is_served_and_has_no_invocation_is_just_that(typist: Typist, query: str) -> None:
    said = await typist.types("invocations", "list", query)

    assert (said.code, said.out, said.err) == (0, "0 invocations\n", "")


async def test_what_is_kept_of_a_class_that_is_served_no_more_is_listed(
    typist: Typist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before; there is nothing to complain of."""
    id = await begun(typist, "left")
    monkeypatch.delitem(typist.runtime.engine.registry.services, "Door")

    said = await typist.types("invocations", "list", "Door/left")

    assert id in said.out
    assert said.err == ""


async def test_a_quote_does_not_end_the_name(typist: Typist) -> None:
    """What follows it is no SQL."""
    await begun(typist, "quoted")

    assert await listed(typist, "Door/' OR '1'='1") == []


async def test_a_table_says_what_is_waited_for(typist: Typist) -> None:
    """And how many there are."""
    await begun(typist, "why")
    pending = (await typist.runtime.send(typist.runtime.ref(Door, "why").open)).id

    said = await typist.types("invocations", "list", "Door/why")

    assert "awakeable" in said.out
    assert "key held by inv_" in said.out
    assert pending in said.out
    assert said.out.endswith("2 invocations\n")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ({"type": "start", "at": "2026-01-31T12:00:00Z"}, "start at "),
        ({"type": "retry", "at": "2026-01-31T12:00:00Z"}, "retry at "),
        ({"type": "sleep", "until": "2026-01-31T12:00:00Z"}, "sleep until "),
    ],
)
async def test_what_begins_at_a_time_does_not_last_until_it(reason: dict[str, str], said: str) -> None:
    assert invocation_commands.reason_of(reason).startswith(said)


async def test_more_than_the_limit_is_told(typist: Typist) -> None:
    """The newest are shown."""
    await begun(typist, "many")
    await typist.runtime.send(typist.runtime.ref(Door, "many").open)

    said = await typist.types("invocations", "list", "Door/many", "--limit", "1")

    assert "1 invocation, and more" in said.out
    assert len(await listed(typist, "Door/many", "--limit", "1")) == 1


async def test_watching_goes_on_until_it_is_interrupted(typist: Typist, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time as it is then; that is how it is meant to end, so it ends well."""
    id = await begun(typist, "watched")
    loop = asyncio.get_running_loop()
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise KeyboardInterrupt

        async def kill() -> None:
            await typist.runtime.engine.operations.kill(id)

        asyncio.run_coroutine_threadsafe(kill(), loop).result(20)

    monkeypatch.setattr(watching, "time", _Time(pause))

    said = await typist.types("invocations", "list", "Door/watched", "--watch", "--every", "7", "--json")

    assert said.code == 0
    first, second = said.out.splitlines()
    assert id in first
    assert second == "[]"
    assert pauses == [7, 7]


class _Time:
    """The module, with a `sleep` that is told what to do."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self.sleep = sleep


@pytest.mark.parametrize(
    ("verb", "does", "after"), [("cancel", "asked to end", "completed"), ("kill", "killed", "completed")]
)
async def test_one_is_stopped(typist: Typist, verb: str, does: str, after: str) -> None:
    """By its ID or its target, without being asked back."""
    by_id, by_target = await begun(typist, f"{verb}-id"), await begun(typist, f"{verb}-target")

    assert (await typist.types("invocations", verb, by_id)).out == f"{does} {by_id}\n"
    said = await typist.types("invocations", verb, f"Door/{verb}-target")
    assert said.out == f"{does} {by_target} Door/{verb}-target/wait\n"

    for id in (by_id, by_target):

        async def ended(id: str = id) -> bool:
            return bool(await typist.status(id) == after)

        await typist.until(ended)


async def test_one_is_paused_resumed_ended_restarted_and_purged(typist: Typist) -> None:
    """Each leaves alone what it makes no sense for."""
    id = await begun(typist, "way")

    assert (await typist.types("invocations", "pause", "Door/way")).code == 0
    assert await typist.status(id) == "paused"
    assert (await typist.types("invocations", "pause", "Door/way")).code == 6
    assert (await typist.types("invocations", "resume", "Door/way")).code == 0
    assert await typist.status(id) == "suspended"
    assert (await typist.types("invocations", "purge", "Door/way")).code == 6
    assert (await typist.types("invocations", "kill", "Door/way")).code == 0
    answer = (await typist.types("invocations", "restart", "Door/way", "--json")).json
    [made] = answer["done"]
    assert made["id"] == id
    assert await listed(typist, "Door/way") == [made["new_invocation_id"]]
    assert (await typist.types("invocations", "purge", "Door/way")).code == 0
    assert await listed(typist, id) == []


async def test_many_need_a_yes(typist: Typist) -> None:
    """Without a terminal to ask at, nothing is done, and it is told how many there are."""
    first, second = await begun(typist, "a/b"), await begun(typist, "a/c")
    query = ["Door", "--status", "suspended"]
    number = len(await listed(typist, *query))

    refused = await typist.types("invocations", "kill", *query)
    assert refused.code == 2
    assert f"{number} invocations" in refused.complaint
    assert await typist.status(first) == "suspended"

    done = await typist.types("invocations", "kill", *query, "--yes")
    assert done.code == 0
    assert f"killed {first} Door/a%2Fb/wait\n" in done.out
    assert done.out.endswith(f"{number} of {number} invocations killed\n")
    assert await typist.status(second) == "completed"


@pytest.mark.parametrize(("answer", "code", "after"), [("y", 0, "completed"), ("n", 1, "suspended")])
async def test_at_a_terminal_it_asks(
    typist: Typist, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, after: str
) -> None:
    """It shows which they are; no means no."""
    id = await begun(typist, f"ask-{answer}")
    pending = (await typist.runtime.send(typist.runtime.ref(Door, f"ask-{answer}").open)).id
    monkeypatch.setattr("sys.stdin", _Terminal(answer))

    said = await typist.types("invocations", "kill", f"Door/ask-{answer}")

    assert said.code == code
    assert id in said.err
    assert pending in said.err
    assert "kill 2 invocations? [y/N]" in said.err
    assert await typist.status(id) == after
    assert await opened(typist, f"ask-{answer}") == 0


async def opened(typist: Typist, key: str) -> int:
    """How often what waited behind the key has begun."""
    rows = (await typist.types("sql", f"SELECT value FROM state WHERE service_key = '{key}'", "-f", "json")).json[
        "rows"
    ]
    return len(rows)


class _Terminal:
    def __init__(self, line: str) -> None:
        self._line = line

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self._line + "\n"


async def test_a_caller_is_killed_before_what_it_called(serve: Serve, typing: Typing) -> None:
    """So no code of it runs on; what ended with it is no failure."""
    typist = typing(await serve(Door))
    caller = (await typist.runtime.send(typist.runtime.ref(Door, "outer").through, "inner")).id

    async def both_wait() -> bool:
        return len(await listed(typist, "Door", "--status", "suspended")) == 2

    await typist.until(both_wait)
    answer = (await typist.types("invocations", "kill", "Door", "--yes", "--json")).json

    assert [each["id"] for each in answer["done"]] == [caller]
    assert len(answer["ended_before"]) == 1
    assert await opened(typist, "outer") == 0


async def test_each_failure_is_told_and_the_rest_is_done(typist: Typist, monkeypatch: pytest.MonkeyPatch) -> None:
    """One has ended meanwhile: it is refused, the other is killed, and the exit code says so."""
    first, second = await begun(typist, "fail-1"), await begun(typist, "fail-2")
    meant = [invocation_commands.Meant(UNKNOWN_ID, "Door/gone/wait"), *_meant(first, second)]

    def found(*_: object) -> list[invocation_commands.Meant]:
        return meant

    monkeypatch.setattr(invocation_commands, "_meant", found)

    said = await typist.types("invocations", "kill", "Door", "--yes")

    assert said.code == 1
    assert said.err.startswith(f"perdure: {UNKNOWN_ID} Door/gone/wait: ")
    assert said.err.count("\n") == 1
    assert said.out.endswith("2 of 3 invocations killed\n")
    assert [await typist.status(id) for id in (first, second)] == ["completed", "completed"]


def _meant(*ids: str) -> list[invocation_commands.Meant]:
    return [invocation_commands.Meant(id, "") for id in ids]


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["list", "inv_12"], 2, "35 hexadecimal digits"),
        (["list", "Door/a/b/c"], 2, "%2F"),
        (["list", "Door//wait"], 2, "Object/key"),
        (["list", "Door/100%"], 2, "%25"),
        (["list", "Door/%ff"], 2, "UTF-8"),
        (["list", "Door/\x1b[2J/x/y"], 2, "%2F"),
        (["list", "--status", "stuck"], 2, "stuck"),
        (["list", "--admin", "ftp://127.0.0.1"], 2, "http://127.0.0.1:9070"),
        (["list", "--admin", "http://127.0.0.1:x"], 2, "http://127.0.0.1:9070"),
        (["list", "--admin", "http://127.0.0.1:1"], 4, "perdure serve"),
        (["list", "--token-file", "/nonexistent"], 2, "/nonexistent"),
        (["kill", UNKNOWN_ID], 6, UNKNOWN_ID),
        (["kill", "Door/nobody"], 6, "Door/nobody"),
        (["kill"], 2, "QUERY"),
    ],
)
async def test_what_goes_wrong_is_one_line(typist: Typist, arguments: list[str], code: int, named: str) -> None:
    """And an exit code of its own."""
    said = await typist.types("invocations", *arguments)

    assert said.code == code
    assert named in said.complaint


async def test_what_has_ended_is_not_killed(typist: Typist) -> None:
    """Refused in the server's words."""
    handle = await typist.runtime.send(typist.runtime.ref(Door, "late").open)
    await handle.attach()

    said = await typist.types("invocations", "kill", handle.id)

    assert said.code == 1
    assert "has ended" in said.complaint

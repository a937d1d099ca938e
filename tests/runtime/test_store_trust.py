"""A store that is full, damaged, foreign, newer, older or gone, and a real process that has to live with it."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from perdure.journal import read_offline
from perdure.runtime import records
from tests.runtime.used_data_dirs import (
    DAMAGES,
    KEYS,
    STORE,
    TINY,
    append_in_process,
    append_to_small_segments,
    contents,
    flip_row,
    write_newer,
)

if TYPE_CHECKING:
    from tests.conftest import Perdure

DAMAGED, NEWER = 12, 11
TARGET = "tests/crash/storm_objects.py"


@pytest.fixture
def whole(perdure: Callable[..., Perdure], tmp_path: Path) -> Callable[[], Awaitable[Perdure]]:
    """A server that was used and stopped; its journal still begins with its first record."""

    async def made() -> Perdure:
        server = perdure(TARGET)
        await append_in_process(server.data_dir, range(3))
        return server

    return made


@pytest.fixture
def trimmed(perdure: Callable[..., Perdure]) -> Callable[[], Awaitable[Perdure]]:
    """The same with small segments and more in them, so that the first ones are gone."""

    async def made() -> Perdure:
        server = perdure(TARGET)
        await append_to_small_segments(server.data_dir, range(12))
        assert not (server.data_dir / "000000000001.segment").exists()
        return server

    return made


async def refused(server: Perdure) -> tuple[int, list[dict[str, Any]]]:
    """Starts it; its exit code, and what it said."""
    await server.start()
    code = await server.exited()
    assert not [event for event in server.events if event.get("event") == "serving"], server.events
    assert not [event for event in server.events if "Traceback" in str(event)], server.events
    return code, server.events


# --- at the start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
async def test_with_a_whole_journal_it_is_made_anew(whole: Callable[[], Awaitable[Perdure]], damage: str) -> None:
    """With a warning; everything is there, and the damaged file is kept for whoever wants to look at it."""
    server = await whole()
    DAMAGES[damage](server.data_dir)

    await server.start()
    found = [(await server.call(f"/Ledger/{key}/read")).value for key in KEYS]

    assert found == [["0", "1", "2"]] * len(KEYS)
    [warning] = [event for event in server.events if event.get("level") == "warning"]
    assert "made anew from the journal" in warning["event"]
    assert (server.data_dir / f"{STORE}.damaged").exists() == (damage != "remove")
    assert await server.stop() == 0


@pytest.mark.parametrize("damage", DAMAGES)
async def test_with_a_trimmed_journal_the_start_is_refused(
    trimmed: Callable[[], Awaitable[Perdure]], damage: str
) -> None:
    """In one line that says why and what to do; nothing is changed."""
    server = await trimmed()
    DAMAGES[damage](server.data_dir)
    before = contents(server.data_dir)

    code, said = await refused(server)

    assert code == DAMAGED
    [line] = [event["line"] for event in said if "line" in event]
    assert STORE in line
    assert "the journal begins with record" in line
    assert "restore a backup" in line
    assert contents(server.data_dir) == before


async def test_another_logs_store_is_refused(
    trimmed: Callable[[], Awaitable[Perdure]], whole: Callable[[], Awaitable[Perdure]]
) -> None:
    server, other = await trimmed(), await whole()
    shutil.copyfile(other.data_dir / STORE, server.data_dir / STORE)
    before = contents(server.data_dir)

    code, said = await refused(server)

    assert code == DAMAGED
    assert "belongs to log" in str(said)
    assert contents(server.data_dir) == before


async def test_a_newer_releases_store_is_left_alone(whole: Callable[[], Awaitable[Perdure]]) -> None:
    """Also with a whole journal: who wrote it knows more than we do."""
    server = await whole()
    write_newer(server.data_dir)
    before = contents(server.data_dir)

    code, said = await refused(server)

    assert code == NEWER
    assert "newer release" in str(said)
    assert contents(server.data_dir) == before


async def test_a_store_newer_than_the_journal_is_refused(whole: Callable[[], Awaitable[Perdure]]) -> None:
    """Records that were acknowledged are missing."""
    server = await whole()
    earlier = server.data_dir.with_name("earlier")
    shutil.copytree(server.data_dir, earlier)
    await append_in_process(server.data_dir, range(3, 5))
    for segment in earlier.glob("*.segment"):
        shutil.copyfile(segment, server.data_dir / segment.name)
    before = contents(server.data_dir)

    code, said = await refused(server)

    assert code == DAMAGED
    assert "newer than the journal" in str(said)
    assert contents(server.data_dir) == before


async def test_a_store_older_than_the_journal_begins_is_refused(
    trimmed: Callable[[], Awaitable[Perdure]],
) -> None:
    """A copy from before that somebody put back."""
    server = await trimmed()
    copy = server.data_dir.with_name("copy")
    shutil.copyfile(server.data_dir / STORE, copy)
    await append_to_small_segments(server.data_dir, range(12, 24))
    shutil.copyfile(copy, server.data_dir / STORE)
    before = contents(server.data_dir)

    code, said = await refused(server)

    assert code == DAMAGED
    assert "older than it should be" in str(said)
    assert contents(server.data_dir) == before


async def test_an_older_store_is_brought_up_where_the_journal_has_the_rest(
    whole: Callable[[], Awaitable[Perdure]],
) -> None:
    server = await whole()
    copy = server.data_dir.with_name("copy")
    shutil.copyfile(server.data_dir / STORE, copy)
    await append_in_process(server.data_dir, range(3, 5))
    shutil.copyfile(copy, server.data_dir / STORE)

    await server.start()

    assert [(await server.call(f"/Ledger/{key}/read")).value for key in KEYS] == [list("01234")] * len(KEYS)
    assert await server.stop() == 0


# --- while it runs ----------------------------------------------------------------------------------------------------


async def test_damage_that_is_found_at_work_stops_the_process(trimmed: Callable[[], Awaitable[Perdure]]) -> None:
    """Who needed it is told that the outcome is unknown, one line says what is damaged; nothing wrong is served."""
    server = await trimmed()
    flip_row(server.data_dir, KEYS[0])
    await server.start()

    answer = await server.call(f"/Ledger/{KEYS[0]}/append", "x", key="x")

    assert answer.status == 503
    assert "outcome unknown" in answer.value["message"]
    assert await server.exited() == DAMAGED
    assert "Traceback" not in str(server.events)
    assert "exception" not in str(server.events)
    [line] = [event["line"] for event in server.events if "line" in event]
    assert "store damaged" in line
    assert "perdure store verify" in line


async def test_damage_that_a_handler_meets_is_not_recorded(trimmed: Callable[[], Awaitable[Perdure]]) -> None:
    """It calls an object whose row is damaged: nothing of that turn gets into the journal."""
    server = await trimmed()
    flip_row(server.data_dir, KEYS[1])
    await server.start()

    body = {"value": "12", "other": KEYS[1]}
    answer = await server.call(f"/Ledger/{KEYS[0]}/append_to_both", body, key="x")

    assert answer.status == 503
    assert await server.exited() == DAMAGED
    recorded = [records.decode(data) async for _, data in read_offline(server.data_dir)]
    asked = {one.id for one in recorded if isinstance(one, records.Invoked) and one.idempotency_key == "x"}
    assert [one for one in recorded if isinstance(one, records.Turn | records.Attempted) and one.id in asked] == []


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing; on Debian: apt-get install strace")
async def test_a_full_disk_holds_up_a_checkpoint_and_nothing_else(
    perdure: Callable[..., Perdure], tmp_path: Path
) -> None:
    """One line, requests go on, and once there is room another one; what was answered is there after a SIGKILL."""
    server = perdure(TARGET)
    settings = tmp_path / "settings.toml"
    settings.write_text("".join(f"{name} = {value}\n" for name, value in TINY.items()))
    server.options = ("--config", str(settings))
    wal = server.data_dir / f"{STORE}-wal"
    strace = ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-P", str(wal), "-e", "trace=pwrite64"]
    await server.start(*strace, "-e", "inject=pwrite64:error=ENOSPC:when=20..22")
    await server.serving()
    answers = 0

    while not said(server, "there is room again"):
        assert (await server.call(f"/Ledger/{KEYS[answers % 8]}/append", str(answers))).ok
        answers += 1
    complaints = said(server, "no room for a checkpoint")
    server.kill()
    await server.exited()
    await server.start()

    assert len(complaints) == 1
    assert sum([len((await server.call(f"/Ledger/{key}/read")).value) for key in KEYS]) == answers
    assert await server.stop() == 0


def said(server: Perdure, what: str) -> list[dict[str, Any]]:
    return [event for event in server.events if what in str(event.get("event"))]

"""`perdure store verify` and `rebuild`: what is printed, with which exit code, and what lies on the disk afterwards."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from perdure.journal import Log
from perdure.runtime import Runtime, cli, offline, recovery, store_commands
from perdure.runtime.data_dir import put_aside
from perdure.runtime.settings import Settings
from perdure.runtime.store import Put, Store, StoreFull
from tests.crash.storm_objects import Ledger
from tests.runtime.kernel_dump import dump
from tests.runtime.test_journal_commands import on_a_terminal
from tests.runtime.used_data_dirs import (
    DAMAGES,
    KEYS,
    STORE,
    TINY,
    Change,
    append_in_process,
    append_to_small_segments,
    contents,
    flip_row,
    opened,
    write_newer,
)

if TYPE_CHECKING:
    from tests.conftest import Perdure

OK, NOT_THERE, IN_USE, NEWER, DAMAGED, FULL = 0, 2, 10, 11, 12, 15
TARGET = "tests/crash/storm_objects.py"


class Said:
    """One command, run in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], command: str, directory: Path) -> None:
        capsys.readouterr()
        self.code = cli.run(["store", command, str(directory)])
        self.out, self.err = capsys.readouterr()

    def refused(self, code: int, *parts: str) -> None:
        """One line on stderr, which says so."""
        assert (self.code, self.err.count("\n")) == (code, 1), self.err
        assert [part for part in parts if part not in self.err] == [], self.err
        assert "Traceback" not in self.err


Run = Callable[[str, Path], Said]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda command, directory: Said(capsys, command, directory)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A data directory that was used; its journal still begins with its first record."""
    asyncio.run(append_in_process(tmp_path / "whole", range(3)))
    return tmp_path / "whole"


@pytest.fixture
def trimmed(tmp_path: Path) -> Path:
    """The same with more in it, so that the journal's first segments are gone."""
    asyncio.run(append_to_small_segments(tmp_path / "trimmed", range(12)))
    return tmp_path / "trimmed"


def flip_a_row(directory: Path) -> None:
    flip_row(directory, KEYS[0])


def drop_a_row(directory: Path) -> None:
    with opened(directory) as store:
        store.execute("DELETE FROM rows WHERE key = ?", (f"oLedger\0{KEYS[0]}".encode(),))


UNSOUND: dict[str, Change] = {
    **{name: damage for name, damage in DAMAGES.items() if name != "remove"},
    "flip_a_row": flip_a_row,
    "drop_a_row": drop_a_row,
}


def held(directory: Path) -> dict[str, Any]:
    """All that a data directory stands for; the counts say when the store was written, too."""
    with offline.loaded(directory) as kernel:
        found = dump(kernel)
    found.pop("counts")
    return found


def ledgers(directory: Path) -> list[list[str]]:
    async def read() -> list[list[str]]:
        async with Runtime([Ledger], data_dir=directory) as runtime:
            return [await runtime.ref(Ledger, key).read() for key in KEYS]

    return asyncio.run(read())


# --- verify -----------------------------------------------------------------------------------------------------------


def test_verify_of_a_sound_store(whole: Path, run: Run) -> None:
    """What it holds, and that it fits; nothing is changed."""
    before = contents(whole)

    said = run("verify", whole)

    assert (said.code, said.err) == (OK, "")
    found, fits = said.out.splitlines()
    assert found.startswith("whole: stands for records up to ")
    assert "rows of" in found
    assert "fits the journal" in fits
    assert f"takes {len(before[STORE])} bytes" in fits
    assert contents(whole) == before


def test_verify_of_a_sound_store_beside_a_trimmed_journal(trimmed: Path, run: Run) -> None:
    assert run("verify", trimmed).code == OK


@pytest.mark.parametrize("damage", UNSOUND)
def test_verify_of_a_damaged_store(whole: Path, run: Run, damage: str) -> None:
    """Where the journal has it all, the line says so."""
    UNSOUND[damage](whole)
    before = contents(whole)

    said = run("verify", whole)

    said.refused(DAMAGED, "store damaged", STORE, "nothing is lost", f"`perdure store rebuild {whole}`")
    assert "\n  " in f"\n{said.out}"
    assert contents(whole) == before


@pytest.mark.parametrize("damage", UNSOUND)
def test_verify_of_a_damaged_store_that_is_the_only_copy(trimmed: Path, run: Run, damage: str) -> None:
    UNSOUND[damage](trimmed)

    run("verify", trimmed).refused(DAMAGED, "store damaged", "the journal begins with record", "restore a backup")


def test_of_many_problems_some_are_shown(whole: Path, run: Run) -> None:
    with opened(whole) as store:
        store.execute("UPDATE rows SET value = value || x'00'")

    said = run("verify", whole)

    lines = said.out.splitlines()
    assert len(lines) == 12
    assert lines[-1].endswith(" more")


def test_verify_of_another_logs_store(whole: Path, trimmed: Path, run: Run) -> None:
    shutil.copyfile(trimmed / STORE, whole / STORE)

    run("verify", whole).refused(DAMAGED, "belongs to log")


def test_verify_of_a_newer_releases_store(whole: Path, run: Run) -> None:
    write_newer(whole)

    run("verify", whole).refused(NEWER, "newer release")


def test_verify_of_a_store_newer_than_the_journal(whole: Path, run: Run) -> None:
    """Records that were acknowledged are missing."""
    make_newer(whole)

    run("verify", whole).refused(DAMAGED, "newer than the journal", "restore a backup")


def make_newer(directory: Path) -> None:
    """As if an older copy of the journal had been put back, without its store."""
    earlier = directory.with_name("earlier")
    shutil.copytree(directory, earlier)
    asyncio.run(append_in_process(directory, range(3, 5)))
    for segment in earlier.glob("*.segment"):
        shutil.copyfile(segment, directory / segment.name)


def test_verify_of_a_store_older_than_the_journal_begins(trimmed: Path, run: Run) -> None:
    copy = trimmed.with_name("copy")
    shutil.copyfile(trimmed / STORE, copy)
    asyncio.run(append_to_small_segments(trimmed, range(12, 24)))
    shutil.copyfile(copy, trimmed / STORE)

    run("verify", trimmed).refused(DAMAGED, "older than it should be", "restore a backup")


def test_an_older_store_is_sound_where_the_journal_has_the_rest(whole: Path, run: Run) -> None:
    copy = whole.with_name("copy")
    shutil.copyfile(whole / STORE, copy)
    asyncio.run(append_in_process(whole, range(3, 5)))
    shutil.copyfile(copy, whole / STORE)

    assert run("verify", whole).code == OK


def test_verify_where_there_is_no_store_yet(whole: Path, run: Run) -> None:
    """A young data directory, or one whose store was removed by hand: nothing is lost."""
    (whole / STORE).unlink()

    said = run("verify", whole)

    assert (said.code, said.err) == (OK, "")
    assert said.out.startswith("no store yet, and none is needed: the journal has records 1 to ")
    assert not (whole / STORE).exists()


def test_verify_where_the_store_is_missing(trimmed: Path, run: Run) -> None:
    (trimmed / STORE).unlink()

    run("verify", trimmed).refused(DAMAGED, f"{STORE} is missing", "begins with record", "restore a backup")


def test_verify_of_a_sound_store_beside_a_damaged_journal(whole: Path, run: Run) -> None:
    segment = whole / "000000000001.segment"
    data = bytearray(segment.read_bytes())
    data[data.index(b"ledger-0")] ^= 1
    segment.write_bytes(data)

    said = run("verify", whole)

    said.refused(DAMAGED, "journal damaged", segment.name)
    assert said.out.startswith("whole: ")


@pytest.mark.parametrize("before", ["_read_store", "_read_journal"])
def test_verify_while_a_process_records_commits_and_trims(
    trimmed: Path, run: Run, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """Just before the one or the other is read: neither is taken for one that doesn't fit."""
    read = getattr(store_commands, before)

    def read_later(place: Path) -> object:
        asyncio.run(append_to_small_segments(trimmed, range(12, 24)))
        return read(place)

    monkeypatch.setattr(store_commands, before, read_later)

    said = run("verify", trimmed)

    assert (said.code, said.err) == (OK, "")


async def test_verify_beside_a_live_process_disturbs_nothing(
    perdure: Callable[..., Perdure], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It makes checkpoints all the while; each time the store is found sound, and all requests are answered."""
    server = perdure(TARGET)
    settings = tmp_path / "settings.toml"
    settings.write_text("".join(f"{name} = {value}\n" for name, value in TINY.items()))
    server.options = ("--config", str(settings))
    await server.start()
    await server.serving()
    done = asyncio.Event()

    async def append() -> int:
        answers = 0
        while not done.is_set():
            assert (await server.call(f"/Ledger/{KEYS[answers % 8]}/append", str(answers))).ok
            answers += 1
        return answers

    appending = asyncio.create_task(append())
    codes = [await asyncio.to_thread(cli.run, ["store", "verify", str(server.data_dir)]) for _ in range(4)]
    done.set()
    answers = await appending

    assert codes == [OK] * 4, capsys.readouterr().err
    assert answers > 0
    assert sum([len((await server.call(f"/Ledger/{key}/read")).value) for key in KEYS]) == answers
    assert await server.stop() == 0


@pytest.mark.parametrize(("command", "shown"), [("verify", "verifying the store"), ("rebuild", "applying records")])
def test_a_progress_bar_on_a_terminal_only(whole: Path, command: str, shown: str) -> None:
    """Elsewhere there is none (the other tests)."""
    text = on_a_terminal([sys.executable, "-m", "perdure.runtime", "store", command, str(whole)])

    assert "━" in text
    assert shown in text
    assert "whole: stands for records up to" in text


# --- rebuild ----------------------------------------------------------------------------------------------------------


def test_a_rebuilt_store_is_equal_to_the_one_that_was_there(whole: Path, run: Run) -> None:
    """It is read once more before it takes the old one's place, and the old one is kept."""
    before, old = held(whole), (whole / STORE).read_bytes()

    said = run("rebuild", whole)

    assert (said.code, said.err) == (OK, "")
    found, made = said.out.splitlines()
    assert found.startswith("whole: stands for records up to ")
    assert "made anew from the journal" in made
    assert f"{STORE}.damaged" in made
    assert held(whole) == before
    assert (whole / f"{STORE}.damaged").read_bytes() == old
    assert list(whole.glob("*rebuilding*")) == []
    assert run("verify", whole).code == OK


@pytest.mark.parametrize("damage", [*UNSOUND, "remove"])
def test_a_damaged_store_is_made_anew(whole: Path, run: Run, damage: str) -> None:
    before = held(whole)
    {**UNSOUND, **DAMAGES}[damage](whole)

    assert run("rebuild", whole).code == OK

    assert run("verify", whole).code == OK
    assert held(whole) == before
    assert (whole / f"{STORE}.damaged").exists() == (damage != "remove")
    assert ledgers(whole) == [["0", "1", "2"]] * len(KEYS)


def test_another_logs_store_is_put_aside(whole: Path, trimmed: Path, run: Run) -> None:
    before = held(whole)
    shutil.copyfile(trimmed / STORE, whole / STORE)

    assert run("rebuild", whole).code == OK

    assert held(whole) == before


def test_a_long_journal_is_written_as_it_is_applied(whole: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """So memory does not follow its length: what is written leaves it, and comes back where it is needed."""
    before = held(whole)
    commits: list[int] = []
    commit = Store.commit

    def counted(store: Store, puts: Sequence[Put], lsn: int, summary: bytes) -> None:
        commits.append(lsn)
        commit(store, puts, lsn, summary)

    monkeypatch.setattr(Store, "commit", counted)
    monkeypatch.setattr(recovery, "_TIDY_EVERY", 4)
    monkeypatch.setattr(store_commands, "Settings", lambda: Settings(checkpoint_changes_max=1, memory_bytes_max=1))

    assert run("rebuild", whole).code == OK

    assert len(commits) > 3
    assert held(whole) == before


def test_where_the_journal_was_trimmed_it_is_refused(trimmed: Path, run: Run) -> None:
    """Also for a store that is sound: nothing could take its place."""
    before = contents(trimmed)

    run("rebuild", trimmed).refused(DAMAGED, "can't be made anew", "begins with record", "restore a backup")

    assert contents(trimmed) == before


def test_a_store_newer_than_the_journal_is_not_given_up(whole: Path, run: Run) -> None:
    """It holds records that were acknowledged, and nothing else does."""
    make_newer(whole)
    before = contents(whole)

    run("rebuild", whole).refused(DAMAGED, "newer than the journal", "restore a backup")

    assert contents(whole) == before


def test_a_newer_releases_store_is_left_alone(whole: Path, run: Run) -> None:
    write_newer(whole)
    before = contents(whole)

    run("rebuild", whole).refused(NEWER, "newer release")

    assert contents(whole) == before


def test_not_beside_a_live_process(whole: Path, run: Run) -> None:
    before = contents(whole)
    log = Log.open(whole)

    said = run("rebuild", whole)
    log.close()

    said.refused(IN_USE, str(whole))
    assert contents(whole)[STORE] == before[STORE]


def test_a_full_disk_leaves_all_as_it_was(whole: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (whole / STORE).read_bytes()

    def full(store: Store, puts: Sequence[Put], lsn: int, summary: bytes) -> None:
        raise StoreFull(f"the disk refused a write to {store.path}: database or disk is full; nothing was changed")

    monkeypatch.setattr(Store, "commit", full)

    run("rebuild", whole).refused(FULL, "the disk refused a write", "nothing was changed")

    assert (whole / STORE).read_bytes() == before
    assert list(whole.glob("*rebuilding*")) == []


def test_what_a_killed_rebuild_left_is_in_nobodys_way(whole: Path, run: Run) -> None:
    before = held(whole)
    for end in ("", "-wal", "-new"):
        (whole / f"{STORE}-rebuilding{end}").write_bytes(b"half of it")

    assert run("rebuild", whole).code == OK

    assert held(whole) == before
    assert list(whole.glob("*rebuilding*")) == []


def test_what_is_put_aside_has_its_own_wal_beside_it(tmp_path: Path) -> None:
    """Of two, one after the other, the second without any: the first one's would be applied to it."""
    path = tmp_path / STORE
    for end in ("", "-wal"):
        (tmp_path / f"{STORE}{end}").write_text("first")
    put_aside(path)
    path.write_text("second")

    aside = put_aside(path)

    assert aside.read_text() == "second"
    assert [each.name for each in tmp_path.iterdir()] == [aside.name]


def test_putting_aside_goes_on_where_a_kill_came_in_between(tmp_path: Path) -> None:
    """The file has its new name, its WAL not yet."""
    (tmp_path / f"{STORE}.damaged").write_text("first")
    (tmp_path / f"{STORE}-wal").write_text("first's")

    aside = put_aside(tmp_path / STORE)

    assert aside.read_text() == "first"
    assert (tmp_path / f"{STORE}.damaged-wal").read_text() == "first's"


# --- no data directory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["verify", "rebuild"])
def test_where_there_is_no_data_directory(tmp_path: Path, run: Run, command: str) -> None:
    """A missing folder, an empty one, a file: one line each, and nothing is made there."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()

    for name in ("missing", "folder", "file"):
        said = run(command, tmp_path / name)
        said.refused(NOT_THERE, name)
        assert said.out == ""
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize("command", ["verify", "rebuild"])
def test_where_the_journal_is_lost(whole: Path, run: Run, command: str) -> None:
    for segment in whole.glob("*.segment"):
        segment.unlink()
    before = contents(whole)

    run(command, whole).refused(DAMAGED, "its journal (*.segment) is missing", "put it back")

    assert contents(whole) == before

"""`perdure backup` and `restore`: what is in a backup, and what is refused, with which line and exit code."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from perdure.journal import Log, LogOptions, copy_log, verify
from perdure.journal.offline import OfflineReader
from perdure.runtime import Runtime, backup, cli, store
from perdure.runtime.backup import MANIFEST, BackupFailed, back_up, restore
from perdure.runtime.settings import Settings
from tests.crash.storm_objects import Ledger
from tests.runtime.used_data_dirs import (
    DAMAGES,
    KEYS,
    STORE,
    TINY,
    append_in_process,
    append_to_small_segments,
    contents,
    flip_row,
)

if TYPE_CHECKING:
    from tests.conftest import Perdure

USAGE, IN_USE, NEWER, DAMAGED, NOT_WRITABLE = 2, 10, 11, 12, 13
FORMS = ["folder", "monday.tar"]


class Said:
    """One command, run in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> None:
        capsys.readouterr()
        self.code = cli.run([*map(str, arguments)])
        self.out, self.err = capsys.readouterr()

    def refused(self, code: int, *parts: str) -> None:
        """One line on stderr, which says so."""
        assert (self.code, self.err.count("\n")) == (code, 1), self.err
        assert [part for part in parts if part not in self.err] == [], self.err
        assert "Traceback" not in self.err


Run = Callable[..., Said]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments: Said(capsys, *arguments)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose journal begins where its store ends, with a hash seed, and two backups of it."""
    home = tmp_path_factory.mktemp("made")
    asyncio.run(append_to_small_segments(home / "data", range(20)))
    (home / "data" / "hash-seed").write_text("4711\n")
    for form in FORMS:
        asyncio.run(back_up(home / "data", home / form))
    return home


async def ledgers(directory: Path) -> dict[str, list[str]]:
    async with Runtime([Ledger], data_dir=directory) as runtime:
        return {key: await runtime.ref(Ledger, key).read() for key in KEYS}


def nothing_but(directory: Path, *names: str) -> bool:
    return sorted(path.name for path in directory.iterdir()) == sorted(names)


# --- what is in it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_what_was_backed_up_is_there_again(made: Path, tmp_path: Path, run: Run, form: str) -> None:
    """Store, journal and hash seed; not the lock, nor what only a process that runs needs."""
    said = run("restore", made / form, tmp_path / "again")

    assert (said.code, said.err) == (0, "")
    assert "a store up to record" in said.out
    assert contents(tmp_path / "again").keys() == {p.name for p in (made / "data").glob("*.segment")} | {STORE}
    assert (tmp_path / "again" / "hash-seed").read_text() == "4711\n"
    assert not [name for name in ("LOCK", "slots", MANIFEST) if (tmp_path / "again" / name).exists()]
    assert [
        oct(path.stat().st_mode & 0o777) for path in (tmp_path / "again").iterdir() if path.stat().st_mode & 0o77
    ] == []
    assert asyncio.run(ledgers(tmp_path / "again")) == {key: [str(n) for n in range(20)] for key in KEYS}


def test_a_folder_is_a_data_directory_in_itself(made: Path, tmp_path: Path, run: Run) -> None:
    """Whoever has lost this command can still copy it."""
    assert run("journal", "verify", made / "folder").code == 0
    assert run("store", "verify", made / "folder").code == 0
    (made / "folder" / f"{STORE}-wal").write_bytes(b"")
    (made / "folder" / f"{STORE}-shm").write_bytes(b"")
    assert run("restore", made / "folder", tmp_path / "again").code == 0
    (made / "folder" / f"{STORE}-wal").write_bytes(b"x")
    run("restore", made / "folder", tmp_path / "more").refused(DAMAGED, f"'{STORE}-wal' is not in its manifest")
    (made / "folder" / f"{STORE}-wal").unlink()


@pytest.mark.parametrize("records", [0, 5])
def test_a_young_directory_without_a_store(tmp_path: Path, run: Run, records: int) -> None:
    with_log = Log.open(tmp_path / "data")
    with_log.close()
    if records:
        asyncio.run(append_in_process(tmp_path / "data", range(1)))
        (tmp_path / "data" / STORE).unlink()
    assert run("backup", tmp_path / "data", tmp_path / "b").code == 0
    assert run("restore", tmp_path / "b", tmp_path / "again").code == 0
    found = asyncio.run(ledgers(tmp_path / "again"))
    assert found == {key: ["0"] if records else [] for key in KEYS}


async def test_all_that_was_acknowledged_before_is_in_a_backup_made_under_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints are made, segments trimmed and used again meanwhile: each backup is whole, and of one moment."""
    small = LogOptions(segment_bytes=256 * 1024)
    monkeypatch.setattr(Log, "open", partial(Log.open, options=small))
    monkeypatch.setattr("perdure.runtime.engine.HEADROOM_BYTES", 1024)
    acknowledged = dict.fromkeys(KEYS, -1)
    copies = 0

    async def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal copies
        copies += 1
        for _ in range(40):  # turns of the loop, in which the store copied before falls behind
            await asyncio.sleep(0)
        return await copy_log(*arguments, **named)

    monkeypatch.setattr(backup, "copy_log", counted)
    settings = Settings(**TINY)  # type: ignore[arg-type]
    async with Runtime([Ledger], data_dir=tmp_path / "data", settings=settings) as runtime:

        async def append(key: str) -> None:
            while True:
                acknowledged[key] = await runtime.ref(Ledger, key).append(str(acknowledged[key] + 1))

        clients = [asyncio.create_task(append(key)) for key in KEYS]
        try:
            for n in range(6):
                before = dict(acknowledged)
                await back_up(tmp_path / "data", tmp_path / f"{n}")
                await restore(tmp_path / f"{n}", tmp_path / f"{n}-again")
                found = await ledgers(tmp_path / f"{n}-again")
                for key in KEYS:
                    assert found[key] == [str(value) for value in range(len(found[key]))]
                    assert len(found[key]) > before[key], (n, key)
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
    began = (await verify(tmp_path / "5-again")).first_lsn
    print(f"{copies} copies for 6 backups; the last journal began with record {began}")
    assert began > 1


async def test_a_store_left_behind_is_copied_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal was trimmed between the two copies."""
    data = tmp_path / "data"
    await append_to_small_segments(data, range(4))
    copy_store, copied = store.copy_store, 0

    def and_go_on(source: Path, target: Path, on_progress: Any, on_moment: Callable[[int], None]) -> int:
        def late(lsn: int) -> None:
            nonlocal copied
            copied += 1
            if copied == 1:
                asyncio.run(append_to_small_segments(data, range(4, 40)))
            on_moment(lsn)

        return copy_store(source, target, on_progress, late)

    monkeypatch.setattr(store, "copy_store", and_go_on)
    await back_up(data, tmp_path / "b")
    await restore(tmp_path / "b", tmp_path / "again")

    assert copied == 2
    assert await ledgers(tmp_path / "again") == {key: [str(n) for n in range(40)] for key in KEYS}


async def test_of_a_running_process(perdure: Callable[..., Perdure], tmp_path: Path) -> None:
    """By the command, beside it; it goes on."""
    server = perdure("tests/crash/storm_objects.py")
    await server.start()
    await server.serving()
    assert (await server.call("/Ledger/l/append", "a")).ok

    for target in FORMS:
        done = await _command("backup", server.data_dir, tmp_path / target)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert (await _command("restore", tmp_path / target, tmp_path / f"{target}-again")).returncode == 0
    assert (await server.call("/Ledger/l/append", "b")).value == 1
    assert await server.stop() == 0
    assert (await _command("restore", tmp_path / "folder", server.data_dir)).returncode == USAGE
    async with Runtime([Ledger], data_dir=tmp_path / "monday.tar-again") as runtime:
        assert await runtime.ref(Ledger, "l").read() == ["a"]


async def _command(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perdure.runtime", *map(str, arguments)]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)


# --- backups that are refused -----------------------------------------------------------------------------------------


def test_a_target_that_exists(made: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "there").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("there", "link", ""):
        run("backup", made / "data", tmp_path / name).refused(USAGE, "exists: name another target", "nothing was")
    assert (tmp_path / "there").read_text() == "mine"
    assert nothing_but(tmp_path, "there", "link")


@pytest.mark.parametrize("name", ["b.zip", "b.tar.gz", "b.TGZ", "b.tar.zst", "b.xz", "b.TAR", "b.7z"])
def test_a_target_that_is_to_be_another_archive(made: Path, tmp_path: Path, run: Run, name: str) -> None:
    """It would be a folder of that name, and be taken for a file later."""
    run("backup", made / "data", tmp_path / name).refused(USAGE, "would be a folder", "ends in .tar", "nothing was")
    assert nothing_but(tmp_path)


@pytest.mark.parametrize("name", ["2026.11.24", "b.zip.d", "zip"])
def test_a_folder_may_have_dots_in_its_name(made: Path, tmp_path: Path, run: Run, name: str) -> None:
    assert run("backup", made / "data", tmp_path / name).code == 0
    assert (tmp_path / name / MANIFEST).is_file()


def test_a_target_in_the_data_directory(made: Path, run: Run) -> None:
    run("backup", made / "data", made / "data" / "b").refused(USAGE, "lies in the data directory: name one outside")


def test_a_source_that_is_none(tmp_path: Path, run: Run) -> None:
    (tmp_path / "empty").mkdir()
    run("backup", tmp_path / "nowhere", tmp_path / "b").refused(USAGE, "name a data directory")
    run("backup", tmp_path / "empty", tmp_path / "b").refused(USAGE, "is no data directory")
    run("backup", "/dev/null", tmp_path / "b").refused(USAGE, "name a data directory")
    assert nothing_but(tmp_path, "empty")


def test_a_target_where_nothing_can_be(made: Path, tmp_path: Path, run: Run) -> None:
    said = run("backup", made / "data", tmp_path / "no" / "such" / "b")
    said.refused(NOT_WRITABLE, "can't be made: No such file or directory")


@pytest.mark.parametrize("damage", [*DAMAGES, "flip_row"])
def test_a_store_that_is_damaged_is_not_backed_up(made: Path, tmp_path: Path, run: Run, damage: str) -> None:
    """What nobody can restore isn't called a backup."""
    shutil.copytree(made / "data", tmp_path / "data")
    if damage == "flip_row":
        flip_row(tmp_path / "data", KEYS[0])
    else:
        DAMAGES[damage](tmp_path / "data")

    said = run("backup", tmp_path / "data", tmp_path / "b")

    assert (said.code, said.err.count("\n")) == (DAMAGED, 1), said.err
    assert nothing_but(tmp_path, "data")


def test_a_journal_that_is_damaged_is_not_backed_up(made: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(made / "data", tmp_path / "data")
    segment = min((tmp_path / "data").glob("*.segment"))
    data = bytearray(segment.read_bytes())
    data[600] ^= 1
    segment.write_bytes(data)
    run("backup", tmp_path / "data", tmp_path / "b").refused(DAMAGED, segment.name)
    assert nothing_but(tmp_path, "data")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """2 MiB in memory: not enough for a store."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"needs to mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills(made: Path, small_disk: Path, run: Run) -> None:
    """One line, and nothing left on it; neither of a restore."""
    said = run("backup", made / "data", small_disk / "b")
    assert (said.code, said.err.count("\n")) in ((NOT_WRITABLE, 1), (15, 1)), said.err
    assert nothing_but(small_disk)
    run("restore", made / "folder", small_disk / "again").refused(
        NOT_WRITABLE, "no room for", "make room and try again"
    )
    assert nothing_but(small_disk)


def test_what_a_killed_one_left_is_removed_and_what_another_writes_is_not(made: Path, tmp_path: Path, run: Run) -> None:
    left = tmp_path / "b-partial"
    left.mkdir()
    (left / "junk").write_text("half a file")
    lock = os.open(left, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    run("backup", made / "data", tmp_path / "b").refused(IN_USE, "another process writes to")
    assert (left / "junk").exists()

    os.close(lock)
    assert run("backup", made / "data", tmp_path / "b").code == 0
    assert nothing_but(tmp_path, "b")


# --- restores that are refused ----------------------------------------------------------------------------------------


async def test_a_directory_that_is_used(made: Path, tmp_path: Path) -> None:
    """By a process, or by anything."""
    async with Runtime([Ledger], data_dir=tmp_path / "data") as runtime:
        await runtime.ref(Ledger, "l").append("a")
        with pytest.raises(BackupFailed, match="is in use by a process; nothing was changed") as refused:
            await restore(made / "folder", tmp_path / "data")
        assert refused.value.exit_code == IN_USE
    before = contents(tmp_path / "data")
    with pytest.raises(BackupFailed, match="is not empty: what is there would be lost") as refused:
        await restore(made / "folder", tmp_path / "data")
    assert refused.value.exit_code == USAGE
    assert contents(tmp_path / "data") == before
    (tmp_path / "file").touch()
    with pytest.raises(BackupFailed, match="is no directory"):
        await restore(made / "folder", tmp_path / "file")


async def test_a_directory_that_somebody_made_meanwhile(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_all = backup._sync_all  # pyright: ignore[reportPrivateUsage]

    def and_begin(folder: Path) -> None:
        sync_all(folder)
        Log.open(tmp_path / "data").close()

    monkeypatch.setattr(backup, "_sync_all", and_begin)
    with pytest.raises(BackupFailed, match="was made by somebody else meanwhile"):
        await restore(made / "folder", tmp_path / "data")
    assert (await verify(tmp_path / "data")).records == 0
    assert nothing_but(tmp_path, "data")


def test_an_empty_directory_is_filled(made: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "data").mkdir()
    assert run("restore", made / "monday.tar", tmp_path / "data").code == 0


@pytest.mark.parametrize("where", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("kind", ["segment", STORE, "hash-seed", MANIFEST])
def test_a_flipped_byte_in_any_file(made: Path, tmp_path: Path, run: Run, kind: str, where: float) -> None:
    shutil.copytree(made / "folder", tmp_path / "b")
    [path, *_] = sorted(path for path in (tmp_path / "b").iterdir() if path.name.endswith(kind))
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 0x20
    path.write_bytes(data)
    run("restore", tmp_path / "b", tmp_path / "data").refused(DAMAGED, "is no whole backup", "nothing was changed")
    assert nothing_but(tmp_path, "b")


@pytest.mark.parametrize("where", [100, 600, 1_700, 40_000, -2_000, -1])
def test_a_flipped_byte_in_an_archive(made: Path, tmp_path: Path, run: Run, where: int) -> None:
    """In a header, in the manifest, in a file, in the padding: refused, or the same as before."""
    data = bytearray((made / "monday.tar").read_bytes())
    data[where] ^= 0x20
    (tmp_path / "b.tar").write_bytes(data)
    said = run("restore", tmp_path / "b.tar", tmp_path / "data")
    if said.code:
        said.refused(DAMAGED, "is no whole backup")
        assert nothing_but(tmp_path, "b.tar")
    else:
        asyncio.run(restore(made / "folder", tmp_path / "other"))
        assert contents(tmp_path / "data") == contents(tmp_path / "other")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_an_archive_that_was_cut(made: Path, tmp_path: Path, run: Run, share: float) -> None:
    data = (made / "monday.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(data[: int(len(data) * share)])
    run("restore", tmp_path / "b.tar", tmp_path / "data").refused(DAMAGED, "is no whole backup")
    assert nothing_but(tmp_path, "b.tar")


def test_a_file_more_and_a_file_less(made: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(made / "folder", tmp_path / "b")
    (tmp_path / "b" / "000000000099.segment").write_bytes(b"x")
    run("restore", tmp_path / "b", tmp_path / "data").refused(DAMAGED, "'000000000099.segment' is not in its manifest")
    (tmp_path / "b" / "000000000099.segment").unlink()
    (tmp_path / "b" / STORE).unlink()
    run("restore", tmp_path / "b", tmp_path / "data").refused(DAMAGED, f"{STORE} is missing")
    (tmp_path / "b" / MANIFEST).unlink()
    run("restore", tmp_path / "b", tmp_path / "data").refused(USAGE, f"{MANIFEST} does not exist")
    run("restore", tmp_path / "nowhere", tmp_path / "data").refused(USAGE, "nowhere does not exist")
    assert nothing_but(tmp_path, "b")


@pytest.mark.parametrize("instead", ["a link", "a pipe", "a folder"])
def test_what_is_no_file_is_not_read(made: Path, tmp_path: Path, run: Run, instead: str) -> None:
    shutil.copytree(made / "folder", tmp_path / "b")
    path = tmp_path / "b" / STORE
    path.unlink()
    match instead:
        case "a link":
            path.symlink_to(made / "folder" / STORE)
        case "a pipe":
            os.mkfifo(path)
        case _:
            path.mkdir()
    run("restore", tmp_path / "b", tmp_path / "data").refused(DAMAGED, "is no whole backup")
    assert nothing_but(tmp_path, "b")


HOSTILE_NAMES = ["../evil", "/tmp/evil", "a/b", "LOCK", "slots", "store.sqlite\n", ".", "", "evil.segment"]


def signed(made: Path, **changes: Any) -> bytes:
    manifest = msgspec.json.decode((made / "folder" / MANIFEST).read_bytes(), type=dict[str, Any])["manifest"]
    manifest = msgspec.convert({**manifest, **changes}, backup.Manifest)
    return backup._sign(manifest)  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_manifest_that_names_what_no_data_directory_has(made: Path, tmp_path: Path, run: Run, name: str) -> None:
    """Signed as it should be: its checksum keeps accidents out, not people."""
    shutil.copytree(made / "folder", tmp_path / "b")
    entry = {"bytes": 4, "blake2b": blake2b(b"evil", digest_size=32).hexdigest()}
    (tmp_path / "b" / MANIFEST).write_bytes(signed(made, files={name: entry}))
    run("restore", tmp_path / "b", tmp_path / "data").refused(DAMAGED, "names a file that no data directory has")


@pytest.mark.parametrize("name", [*HOSTILE_NAMES[:3], "hash-seed"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_an_archive_that_climbs_out_or_links(made: Path, tmp_path: Path, run: Run, name: str, kind: bytes) -> None:
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        manifest = (made / "folder" / MANIFEST).read_bytes()
        first = tarfile.TarInfo(MANIFEST)
        first.size = len(manifest)
        tar.addfile(first, io.BytesIO(manifest))
        evil = tarfile.TarInfo(name)
        evil.type, evil.linkname = kind, "/etc/passwd"
        evil.size = 4 if kind == tarfile.REGTYPE else 0
        tar.addfile(evil, io.BytesIO(b"evil"))
    run("restore", tmp_path / "b.tar", tmp_path / "data").refused(DAMAGED, "is no whole backup")
    assert nothing_but(tmp_path, "b.tar")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"{}",
        b"[" * 100_000,
        b"\xff",
        json.dumps({"manifest": {"format": 1}, "blake2b": ""}).encode(),
        b'{"manifest": {"format": "1"}}',
    ],
)
def test_a_manifest_that_is_none(made: Path, tmp_path: Path, run: Run, data: bytes) -> None:
    shutil.copytree(made / "folder", tmp_path / "b")
    (tmp_path / "b" / MANIFEST).write_bytes(data)
    run("restore", tmp_path / "b", tmp_path / "data").refused(DAMAGED, f"its {MANIFEST} can't be read")


def test_a_newer_format(made: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(made / "folder", tmp_path / "b")
    (tmp_path / "b" / MANIFEST).write_bytes(b'{"manifest": {"format": 2, "more": true}, "signature": "x"}')
    run("restore", tmp_path / "b", tmp_path / "data").refused(NEWER, "was made by a newer version of perdure")


# --- the copy of a log that is written meanwhile ----------------------------------------------------------------------


async def test_segments_that_go_while_they_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy begins again with the first that is left, and keeps none of those before."""
    log = Log.open(tmp_path / "log", options=LogOptions(segment_bytes=8 * 1024))
    for n in range(40):
        log.append(b"%d" % n * 200)
        log.flush()
    log.close()
    first = sorted((tmp_path / "log").glob("*.segment"))[:2]
    one_pass, passes = OfflineReader._one_pass, 0  # pyright: ignore[reportPrivateUsage]

    async def disturbed(reader: OfflineReader) -> AsyncIterator[Any]:
        nonlocal passes
        passes += 1
        async for frame in one_pass(reader):
            yield frame
            if passes == 1 and reader.scan.headers[-1].number == 3:
                for path in first:
                    path.unlink()
                raise FileNotFoundError

    monkeypatch.setattr(OfflineReader, "_one_pass", disturbed)
    (tmp_path / "copy").mkdir()
    found = await copy_log(tmp_path / "log", tmp_path / "copy")

    assert (passes, found.first_lsn > 1, found.next_lsn) == (2, True, 41)
    assert {p.name for p in (tmp_path / "copy").iterdir()} == {p.name for p in (tmp_path / "log").glob("*.segment")}
    monkeypatch.undo()
    assert await verify(tmp_path / "copy") == await verify(tmp_path / "log")

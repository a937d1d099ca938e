"""A store on a read-only mount: what is closed is read without the files that SQLite can't make there, and no other."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from perdure.runtime import cli
from perdure.runtime.store import Put, Store, StoreInUse, copy_store, verify
from perdure.runtime.store.reading import reading

UUID: Final = bytes(range(16))
ROWS: Final = [Put(b"key %d" % number, b"value") for number in range(10)]
ONE_MORE: Final = Put(b"one more", b"value")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A data directory's worth of store, closed."""
    path = tmp_path / "made" / "store.sqlite"
    path.parent.mkdir()
    with closing(Store.open(path, UUID)) as store:
        store.commit(ROWS, 1, b"")
    return path


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """Where `made` is seen read-only."""
    folder = tmp_path / "mount"
    folder.mkdir()
    (tmp_path / "made").mkdir(exist_ok=True)
    bound = subprocess.run(["mount", "--bind", tmp_path / "made", folder], capture_output=True, check=False)
    if bound.returncode:
        pytest.skip(f"needs to mount: {bound.stderr.decode().strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_closed_store_is_verified_and_copied(made: Path, mount: Path, tmp_path: Path) -> None:
    report = verify(mount / made.name)
    lsn = copy_store(mount / made.name, tmp_path / "copy")

    assert (report.whole, report.rows, lsn) == (True, len(ROWS), 1)
    assert verify(tmp_path / "copy").rows == len(ROWS)
    assert [path.name for path in made.parent.iterdir()] == [made.name]


def test_what_a_process_writes_is_read_beside_it(made: Path, mount: Path) -> None:
    """By the files that it keeps there: nothing of its newest commit is missing."""
    with closing(Store.open(made, UUID)) as store:
        store.commit([ONE_MORE], 2, b"")

        assert verify(mount / made.name).rows == len(ROWS) + 1


def test_a_log_that_can_not_be_read_there_is_one_line(
    made: Path, mount: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy of a directory whose process was killed, without the file that SQLite makes anew: it names the source."""
    log = made.with_name(f"{made.name}-wal")
    log.write_bytes(b"changes")
    (made.parent / "000000000001.segment").write_bytes(b"")

    for words in (["store", "verify", str(mount)], ["backup", str(mount), str(tmp_path / "backup")]):
        code = cli.run(words)
        err = capsys.readouterr().err
        assert (code, err.count("\n")) == (13, 1)
        assert f"{mount / made.name} can't be read where it is: its newest changes are in {log.name}" in err
        assert "copy the data directory to another place" in err


@pytest.fixture
def said_to_be_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another mount of it may be writable."""

    class Flags:
        f_flag = os.ST_RDONLY

    def read_only(_: Path) -> Flags:
        return Flags()

    monkeypatch.setattr(os, "statvfs", read_only)


@pytest.mark.usefixtures("said_to_be_read_only")
@pytest.mark.parametrize("error", [None, sqlite3.DatabaseError("database disk image is malformed")])
def test_what_is_written_meanwhile_is_found_out(made: Path, error: Exception | None) -> None:
    """No lock held it off; pages of two moments may not fit each other, and are no damage."""

    def read() -> None:
        with reading(made) as connection:
            connection.execute("SELECT * FROM meta").fetchall()
            with closing(Store.open(made, UUID)) as store:
                store.commit([ONE_MORE], 2, b"")
            if error is not None:
                raise error

    with pytest.raises(StoreInUse, match="changed while it was read"):
        read()

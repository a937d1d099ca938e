"""Data directories that were used, and the ways in which their store is damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest

from perdure.journal import Log, LogOptions
from perdure.runtime import Runtime, data_dir
from perdure.runtime.settings import Settings
from tests.crash.storm_objects import Ledger

STORE: Final = "store.sqlite"
KEYS: Final = [f"ledger-{n}" for n in range(8)]
TINY: Final = {"checkpoint_records_max": 4, "checkpoint_changes_max": 4, "memory_bytes_max": 1}

Change = Callable[[Path], None]


class SmallLog:
    @staticmethod
    def open(directory: Path) -> Log:
        return Log.open(directory, options=LogOptions(segment_bytes=8 * 1024))


async def append_in_process(directory: Path, values: range) -> None:
    """Each value to each ledger, by a runtime that makes checkpoints all the time."""
    async with Runtime([Ledger], data_dir=directory, settings=Settings(**TINY)) as runtime:  # type: ignore[arg-type]
        for value in values:
            for key in KEYS:
                assert await runtime.ref(Ledger, key).append(str(value)) == value
    # A commit may have been on its way when that one closed; what a start has replayed is committed at its end.
    async with Runtime([Ledger], data_dir=directory):
        pass


async def append_to_small_segments(directory: Path, values: range) -> None:
    """The same with a journal whose first segments are soon gone."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(data_dir, "Log", SmallLog)
        patched.setattr("perdure.runtime.engine.HEADROOM_BYTES", 1024)
        await append_in_process(directory, values)


@contextmanager
def opened(directory: Path) -> Generator[sqlite3.Connection]:
    """As SQLite's own shell would: past everything that vouches for the rows."""
    with closing(sqlite3.connect(directory / STORE, isolation_level=None)) as connection:
        yield connection


def flip_row(directory: Path, key: str) -> None:
    with opened(directory) as store:
        store.execute("UPDATE rows SET value = value || x'00' WHERE key = ?", (f"oLedger\0{key}".encode(),))


def flip_pages(directory: Path) -> None:
    data = bytearray((directory / STORE).read_bytes())
    for at in range(0, len(data), 64):
        data[at] ^= 1
    (directory / STORE).write_bytes(data)


def cut_in_half(directory: Path) -> None:
    data = (directory / STORE).read_bytes()
    (directory / STORE).write_bytes(data[: len(data) // 2])


def empty(directory: Path) -> None:
    (directory / STORE).write_bytes(b"")


def forge_head(directory: Path) -> None:
    with opened(directory) as store:
        store.execute("UPDATE meta SET lsn = lsn - 1")


def remove(directory: Path) -> None:
    (directory / STORE).unlink()


def write_newer(directory: Path) -> None:
    with opened(directory) as store:
        store.execute("UPDATE meta SET version = 2")
        store.execute("PRAGMA user_version = 2")


DAMAGES: dict[str, Change] = {each.__name__: each for each in (flip_pages, cut_in_half, empty, forge_head, remove)}


def contents(directory: Path) -> dict[str, bytes]:
    """Of all that must not change in a start that is refused."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in (".segment", ".sqlite")}

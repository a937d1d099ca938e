"""A full disk, or one that refuses a write or a sync: the commit is refused, nothing is lost, a later one works."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from perdure.runtime.store import Put, Store, StoreFull, verify
from perdure.runtime.store.sqlite_file import beside
from tests.runtime.store.writer import UUID, state

WRITER = Path(__file__).with_name("writer.py")
COMMITS, ROWS = 6, 40
MIB = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """8 MiB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs to mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_and_is_freed(small_disk: Path) -> None:
    """What was committed stays readable while it is full, and a commit works once there is room."""
    path = small_disk / "store"
    with closing(Store.open(path, UUID)) as store:
        ballast = small_disk / "ballast"
        store.commit([Put(b"first", b"1")], 1, b"one")
        ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - MIB // 2))
        large = [Put(b"large %d" % number, b"v" * 1000) for number in range(1000)]
        for _ in range(3):
            with pytest.raises(StoreFull, match="nothing was changed, try again when there is space") as refused:
                store.commit([*large, Put(b"first", b"2")], 2, b"two")
            assert refused.value.exit_code == 15
            assert (store.lsn, store.summary, store.get(b"first"), store.get(b"large 1")) == (1, b"one", b"1", None)
        with pytest.raises(StoreFull):
            store.snapshot(small_disk / "copy")
        assert not [file.name for file in small_disk.iterdir() if "copy" in file.name]

        ballast.unlink()
        store.commit([*large[:300], Put(b"first", b"2")], 2, b"two")

        assert (store.lsn, store.get(b"first"), store.get(b"large 1")) == (2, b"2", b"v" * 1000)
    assert verify(path).whole


def test_a_store_is_not_half_made_on_a_full_disk(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - MIB // 2))
    path = small_disk / "store"

    with pytest.raises(StoreFull):
        Store.open(path, UUID)
    assert not path.exists()

    ballast.unlink()
    Store.open(path, UUID).close()


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
def test_the_nth_write_or_sync_is_refused(call: str, error: str, tmp_path: Path) -> None:
    """And then every seventh, some of them in a checkpoint: each commit is made or refused as a whole.

    A refused sync is the last thing that this process does with the store.
    """
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace, to make a real process's system calls fail: apt-get install strace")
    refused = 0
    for nth in (1, 2, 3, 5, 8, 13, 21, 34, 55):
        path = tmp_path / f"{nth}" / "store"
        path.parent.mkdir()
        Store.open(path, UUID).close()
        watched = [option for file in (path, *beside(path)) for option in ("-P", str(file))]
        tracer = [strace, "-f", "-qq", "-o", "/dev/null", *watched, "-e", f"trace={call}"]
        inject = ["-e", f"inject={call}:error={error}:when={nth}+7"]
        command = [*tracer, *inject, sys.executable, str(WRITER), str(path), str(COMMITS), str(ROWS)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        said = done.stdout.splitlines()
        told = max((int(line.split()[1]) for line in said if line.startswith("committed")), default=0)
        refused += sum(line.startswith("full") for line in said) + ("StoreFailed" in done.stderr)

        with closing(Store.open(path, UUID)) as store:
            assert store.lsn in (told, told + 1)  # a refused one may be whole on the disk after a restart
            assert dict(store.range(b"", b"\xff", 1000, state(store.lsn, ROWS))) == state(store.lsn, ROWS)
            store.commit([Put(b"later", b"1")], 100, b"")
        assert verify(path).whole

    print(f"{refused} commits refused")
    assert refused

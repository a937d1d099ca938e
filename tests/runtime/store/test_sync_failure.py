"""A sync that fails is final: what it was to make durable may be gone, and a second one would say that all is well."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.runtime.store import Store

UUID = b"u" * 16
COMMITS = """
import sys
from pathlib import Path
from perdure.runtime.store import Put, Store, StoreFailed
store = Store.open(Path(sys.argv[1]), b"u" * 16)
print("open", flush=True)
for number in range(1, 50):
    try:
        store.commit([Put(b"key", str(number).encode())], number, b"")
    except StoreFailed as error:
        print(number, error.exit_code, flush=True)
        raise SystemExit(0)
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace makes the syncs fail")
def test_a_failed_sync_is_final(tmp_path: Path) -> None:
    """It is told apart from a full disk, after which the same may be written again."""
    path = tmp_path / "store.sqlite"
    Store.open(path, UUID).close()
    inject = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync"]
    inject += ["-e", "inject=fdatasync,fsync:error=EIO:when=12+"]

    run = subprocess.run(
        [*inject, sys.executable, "-c", COMMITS, str(path)], capture_output=True, text=True, timeout=60, check=False
    )

    assert run.stdout.startswith("open\n"), run
    number, code = run.stdout.split()[1:]
    assert code == "14"
    again = Store.open(path, UUID)
    assert again.lsn in (int(number) - 1, int(number))
    assert again.get(b"key") == str(again.lsn).encode()
    again.close()

"""A process that opens a store and commits to it, telling through its standard output what was done.

    python writer.py PATH COMMITS ROWS [die]        die: killed by itself, where it would have closed the store

Not a test: test_kills.py and test_disk_full.py run it under strace, which kills it or makes its system calls fail.
"""

import os
import signal
import sys
from pathlib import Path

from perdure.runtime.store import Put, Store, StoreFull

UUID = bytes(range(16))


def say(what: str) -> None:
    """In one system call, which no kill can halve."""
    os.write(1, f"{what}\n".encode())


def puts(lsn: int, rows: int) -> list[Put]:
    """Some rows are there in every state, some come, and some go."""
    shared = [Put(b"shared %04d" % number, b"%d" % lsn * 50) for number in range(rows)]
    own = [Put(b"own %04d %d" % (number, lsn), b"%d" % lsn) for number in range(3)]
    return [*shared, *own, *[Put(put.key[:-1] + b"%d" % (lsn - 1), None) for put in own]]


def state(lsn: int, rows: int) -> dict[bytes, bytes]:
    """What a store holds after the commit of `lsn`."""
    return {put.key: put.value for put in puts(lsn, rows) if put.value is not None} if lsn else {}


def main(path: Path, commits: int, rows: int, *, die: bool) -> None:
    store = Store.open(path, UUID)
    say(f"opened {store.lsn}")
    for _ in range(commits):
        lsn = store.lsn + 1
        try:
            store.commit(puts(lsn, rows), lsn, b"summary %d" % lsn)
            say(f"committed {lsn}")
        except StoreFull as error:
            say(f"full: {error}")
    if die:
        os.kill(os.getpid(), signal.SIGKILL)
    store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), die=sys.argv[4:] == ["die"])

"""Group commit against the bare disk: what a commit costs beside its write and its sync.

    python tests/benchmarks/journal_bench.py [DIRECTORY]     on the disk to be measured, default the current one

Bare and log rows alternate in one run, since a disk's speed drifts. "alone" is one batch at a time, as one client
would; "pipelined" flushes a batch whenever fewer than 8 are waiting, as many clients would; "busy" does so beside a
main thread that computes, which shows what the interpreter's lock costs; "switching" is busy under a shorter
`sys.setswitchinterval`.
"""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from perdure.journal import Log
from perdure.journal.frames import frame_bytes

SECONDS = 1.0
ROUNDS = 3
SWITCH_SECONDS = 0.0005
RECORD = os.urandom(200)


class Waiting:
    """Counts commits, and lets the main thread wait for one."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.syncs = 0
        self.synced = threading.Semaphore(0)
        log.subscribe(self.on_synced, self.on_failed)

    def on_synced(self, lsn: int) -> None:
        self.syncs += 1
        self.synced.release()

    def on_failed(self, error: BaseException) -> None:
        raise error

    def flush(self, batch: int) -> None:
        for _ in range(batch):
            self.log.reserve(len(RECORD))
            self.log.append(RECORD)
        self.log.flush()


def bare(directory: Path, size: int) -> float:
    """Seconds for one pwrite and fdatasync of `size` bytes in a preallocated file."""
    file = os.open(directory / "bare", os.O_RDWR | os.O_CREAT, 0o600)
    os.posix_fallocate(file, 0, 64 * 1024 * 1024)
    os.fsync(file)
    data = os.urandom(size)
    count = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS:
        os.pwrite(file, data, count % 1000 * size)
        os.fdatasync(file)
        count += 1
    os.close(file)
    os.unlink(directory / "bare")
    return elapsed / count


def alone(waiting: Waiting, batch: int) -> float:
    """Seconds for a batch, from its first append until the main thread knows."""
    count = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS:
        waiting.flush(batch)
        waiting.synced.acquire()
        count += 1
    return elapsed / count


def pipelined(waiting: Waiting, batch: int, work: Callable[[], object] | None = None) -> tuple[float, float]:
    """(records a second, syncs a second)."""
    log = waiting.log
    first, syncs = log.synced_lsn, waiting.syncs
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS:
        if log.next_lsn - log.synced_lsn < 8 * batch:
            waiting.flush(batch)
        elif work is None:
            waiting.synced.acquire()
        if work is not None:
            work()
    return (log.synced_lsn - first) / elapsed, (waiting.syncs - syncs) / elapsed


def spin() -> int:
    """About 50 µs of a handler's work."""
    return sum(range(2500))


def one_round(directory: Path, batch: int) -> dict[str, float]:
    size = frame_bytes(len(RECORD) * batch, batch)
    rows = {"bare sync": 1e6 * bare(directory, size)}
    with Log.open(directory / f"log-{batch}") as log:
        waiting = Waiting(log)
        rows["alone"] = 1e6 * alone(waiting, batch)
        rows["pipelined records/s"], rows["pipelined syncs/s"] = pipelined(waiting, batch)
        rows["busy records/s"], rows["busy syncs/s"] = pipelined(waiting, batch, spin)
        usual = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        rows["switching records/s"], rows["switching syncs/s"] = pipelined(waiting, batch, spin)
        sys.setswitchinterval(usual)
    return rows


def main() -> None:
    parent = sys.argv[1] if len(sys.argv) > 1 else "."
    with tempfile.TemporaryDirectory(dir=parent, prefix="journal-bench-") as directory:
        for batch in (1, 64):
            rounds = [one_round(Path(directory), batch) for _ in range(ROUNDS)]
            row = {name: median(each[name] for each in rounds) for name in rounds[0]}
            print(f"records of {len(RECORD)} bytes, {batch} in a batch (medians of {ROUNDS} rounds)")
            print(f"  bare pwrite + fdatasync   {row['bare sync']:8.0f} µs  {1e6 / row['bare sync']:8,.0f} syncs/s")
            print(f"  log, one at a time        {row['alone']:8.0f} µs  {row['alone'] / row['bare sync']:8.2f} of bare")
            for name in ("pipelined", "busy", "switching"):
                records, syncs = row[f"{name} records/s"], row[f"{name} syncs/s"]
                print(f"  log, {name:<10}           {records:10,.0f} records/s  {syncs:8,.0f} syncs/s")


if __name__ == "__main__":
    main()

"""A store of a million rows: commits beside a busy loop, reads, the first use of a bucket, opening, size.

    python tests/benchmarks/store_bench.py [DIRECTORY] [ROWS]     on the disk to be measured; default ., 1,000,000

"idle" is a commit with the interpreter to itself. "the loop meanwhile" is what a thread that computes all the time sees
of commits: how long its rounds of some 50 µs took, against the same thread alone.
"""

import os
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from perdure.runtime.store import Put, Store

UUID = bytes(range(16))
COMMIT_ROWS = 5_000
GETS = 5_000
ROUNDS = 3


def key(number: int) -> bytes:
    return b"object/Counter/%014d" % number


def rows(numbers: list[int]) -> list[Put]:
    return [Put(key(number), os.urandom(60)) for number in numbers]


def fill(store: Store, count: int) -> float:
    """Seconds, in commits of 50,000."""
    numbers = list(range(count))
    random.Random(1).shuffle(numbers)
    started = time.perf_counter()
    for first in range(0, count, 50_000):
        store.commit(rows(numbers[first : first + 50_000]), store.lsn + 1, b"summary")
    return time.perf_counter() - started


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def each(calls: int, call: Callable[[int], object]) -> list[float]:
    return [timed(partial(call, number)) for number in range(calls)]


def spun(seconds: float, until: threading.Event | None = None) -> list[float]:
    """How long each round of some 50 µs of work took, as a busy loop's callbacks."""
    took: list[float] = []
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends and not (until is not None and until.is_set()):
        started = time.perf_counter()
        sum(range(2_500))
        took.append(time.perf_counter() - started)
    return took


def beside_a_busy_loop(commit: Callable[[], object]) -> tuple[float, list[float]]:
    """(seconds of the commit, rounds of the loop meanwhile)."""
    done = threading.Event()
    length: list[float] = []

    def work() -> None:
        length.append(timed(commit))
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    took = spun(600, done)
    thread.join()
    return length[0], took


def show(name: str, seconds: list[float], unit: float = 1e6, suffix: str = "µs") -> None:
    cuts = quantiles(seconds, n=1000)
    p50, p99, longest = (unit * value for value in (median(seconds), cuts[989], max(seconds)))
    print(f"  {name:<34} p50 {p50:8.1f} {suffix}  p99 {p99:8.1f} {suffix}  longest {longest:8.1f} {suffix}")


def measure_reads(path: Path, count: int) -> None:
    dice = random.Random(2)
    opening: list[float] = []
    for _ in range(5):
        started = time.perf_counter()
        store = Store.open(path, UUID)
        opening.append(time.perf_counter() - started)
        store.close()
    print(f"  open, after a clean end            {1e3 * median(opening):8.1f} ms")
    with closing(Store.open(path, UUID)) as store:
        keys = [key(dice.randrange(count)) for _ in range(GETS)]
        show("get, first use of its bucket", each(GETS, lambda number: store.get(keys[number])))
        show("get", each(GETS, lambda number: store.get(keys[number])))
        absent = [known + b"-" for known in keys]
        show("get of what isn't there, first use", each(GETS, lambda number: store.get(absent[number])))
        show("get of what isn't there", each(GETS, lambda number: store.get(absent[number])))
        show("range of 20", each(GETS, lambda number: store.range(keys[number], b"p", 20)))


def measure_commits(path: Path, count: int) -> None:
    dice = random.Random(3)
    with closing(Store.open(path, UUID)) as store:
        for name, numbers in (("changed", range(count)), ("new", range(count, 10**12))):
            idle: list[float] = []
            busy: list[float] = []
            rounds: list[float] = []
            for _ in range(ROUNDS):
                for beside in (False, True):
                    puts = rows(dice.sample(numbers, COMMIT_ROWS))
                    commit = partial(store.commit, puts, store.lsn + 1, b"summary")
                    if not beside:
                        idle.append(timed(commit))
                        continue
                    length, took = beside_a_busy_loop(commit)
                    busy.append(length)
                    rounds += took
            print(
                f"  commit of {COMMIT_ROWS:,} {name:<7} rows       "
                f"{1e3 * median(idle):8.0f} ms idle, {1e3 * median(busy):8.0f} ms beside a busy loop"
            )
            show("  the loop meanwhile", rounds)
        show("  the loop alone", spun(2))


def main() -> None:
    parent = sys.argv[1] if len(sys.argv) > 1 else "."
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    with tempfile.TemporaryDirectory(dir=parent, prefix="store-bench-") as directory:
        path = Path(directory) / "store"
        with closing(Store.open(path, UUID)) as store:
            seconds = fill(store, count)
        print(
            f"{count:,} rows, keys of {len(key(0))} bytes and values of 60, switch interval {sys.getswitchinterval()}"
        )
        print(f"  filled in {seconds:.0f} s; {path.stat().st_size / 1e6:.0f} MB")
        measure_reads(path, count)
        measure_commits(path, count)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"  {path.stat().st_size / 1e6:.0f} MB at the end; the process took {peak:.0f} MiB at most")


if __name__ == "__main__":
    main()

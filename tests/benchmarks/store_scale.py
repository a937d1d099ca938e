"""What the store is for: memory that follows use, a start that follows the tail, a disk that follows live data.

    make bench-store                                   all of it: a quarter of an hour, and some GB of disk
    make bench-store ARGS='--scale 0.1 memory start'   a tenth of the objects and requests, and two parts only

`memory`   objects created over the ingress, then one request to each of some random ones
`start`    SIGKILL then, and the time to the first acknowledgement; also with a longer history of the same objects
`disk`     many requests to 1,000 keys, and what stays of them on the disk
`waiting`  handlers suspended on awakeables and on sleeps, SIGKILL, and each wakes
`latency`  64 connections with and without checkpoints, in turn
`entries`  an append to a List, a change and a read of a Map, when they are small and when they are large

wrk and the server share the machine.  It exits with 0 also when an aim is missed: how fast a machine is, is no test.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from threading import Event, Thread

import aiohttp
import msgspec
import uvloop
from rich.console import Console

from perdure.journal import verify
from perdure.journal.offline import OfflineReader
from tests.benchmarks.bench import HERE, ROOT, Load

TARGETS = ("examples/counter.py", "tests/benchmarks/store_objects.py")
OBJECTS, COLD_REQUESTS = 1_000_000, 10_000
HISTORY_OBJECTS, HISTORY_TIMES = 10_000, 100
ADDS, ADD_KEYS = 10_000_000, 1_000
WAITING = 100_000
LATENCY_REQUESTS, LATENCY_ROUNDS = 60_000, 3
ENTRIES_FEW, ENTRIES_MANY, ENTRY_REQUESTS = 1_000, 1_000_000, 1_000
NO_CHECKPOINTS = "checkpoint_records_max = 1_000_000_000\ncheckpoint_changes_max = 1_000_000_000\n"

MIB = 1024 * 1024
COLD_P99_MS_MAX, START_SECONDS_MAX, MEMORY_MIB_MAX, WAITING_MIB_MAX = 10.0, 1.0, 300, 150

console = Console(highlight=False)


def tell(reached: bool | None, text: str) -> None:
    console.print({True: "[green]ok[/]     ", False: "[red]missed[/] ", None: "       "}[reached] + text)


# --- the server -------------------------------------------------------------------------------------------------------


class Server:
    """One data directory, and the process that serves it now, which is watched for its memory."""

    def __init__(self, data_dir: Path, config: str = "") -> None:
        self.data_dir = data_dir
        self.url = ""
        self.peak_mib = 0.0
        self._config = data_dir.with_name(f"{data_dir.name}.toml")
        self._config.write_text(config)
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = Event()

    def start(self) -> None:
        options = ["--data-dir", str(self.data_dir), "--ingress", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        command = ["-m", "perdure.runtime", "serve", *TARGETS, *options, "--config", str(self._config)]
        self._process = subprocess.Popen(
            [sys.executable, *command, "--log-format", "json"], cwd=ROOT, stderr=subprocess.PIPE
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            event = json.loads(line)
            if event["event"] == "serving":
                self.url = event["ingress"]
                break
            console.print(event)
        Thread(target=self._pass_on, daemon=True).start()
        self._stopped.clear()
        self.peak_mib = 0.0
        Thread(target=self._watch, daemon=True).start()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self._stopped.set()
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()

    @property
    def rss_mib(self) -> float:
        assert self._process is not None
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB

    @property
    def disk_mib(self) -> float:
        return sum(path.stat().st_blocks * 512 for path in self.data_dir.iterdir()) / MIB

    def size_mib(self, pattern: str) -> float:
        return sum(path.stat().st_blocks * 512 for path in self.data_dir.glob(pattern)) / MIB

    def _watch(self) -> None:
        with suppress(OSError, IndexError):
            while not self._stopped.wait(0.05):
                self.peak_mib = max(self.peak_mib, self.rss_mib)

    def _pass_on(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if b'"level": "info"' not in line:
                sys.stderr.buffer.write(line)


@contextmanager
def serving(directory: Path, name: str, config: str = "") -> Generator[Server]:
    server = Server(directory / name, config)
    server.start()
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(server.data_dir)


def drive(server: Server, path: str, count: int, connections: int, *, keys: int = 0, body: str = "1") -> Load:
    """wrk; `count` requests, to one key after the other or to random ones of `keys`."""
    wrk = ["wrk", "-t1", f"-c{connections}", "-d3600s", "--timeout", "30s", "-s", str(HERE / "create.lua"), server.url]
    driver = subprocess.Popen(
        [*wrk, "--", path, str(count), str(keys), body], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert driver.stderr is not None
    driver.stderr.readline()  # create.lua: all are answered; wrk would sleep until its time is over
    driver.send_signal(signal.SIGINT)
    figures, problem = driver.communicate()
    if driver.returncode:
        raise RuntimeError(problem)
    return msgspec.json.decode(figures.strip().splitlines()[-1], type=Load)


def first_answer_seconds(server: Server) -> float:
    """From the start of the process to its first synced answer."""
    began = time.monotonic()
    server.start()
    request = urllib.request.Request(f"{server.url}/Counter/1/add", b"1", method="POST")
    with urllib.request.urlopen(request, timeout=60) as response:
        response.read()
    return time.monotonic() - began


# --- the parts --------------------------------------------------------------------------------------------------------


def memory_and_start(directory: Path, scale: float) -> None:
    objects, cold = round(OBJECTS * scale), round(COLD_REQUESTS * min(1, scale * 10))
    with serving(directory, "memory") as server:
        load = drive(server, "/Counter/%d/add", objects, 64)
        created = server.peak_mib
        tell(
            created < MEMORY_MIB_MAX,
            f"{objects:,} counters created at {load.per_second:,.0f}/s (p99 {load.p99_ms:.1f} ms): at most "
            f"{created:.0f} MiB; store {server.size_mib('store*'):.0f} MiB, journal {server.size_mib('*.segment'):.0f}",
        )
        load = drive(server, "/Counter/%d/add", cold, 16, keys=objects)
        tell(
            load.p99_ms < COLD_P99_MS_MAX and not load.failed,
            f"{cold:,} requests to random ones: p50 {load.p50_ms:.2f}, p99 {load.p99_ms:.2f} ms; "
            f"{server.peak_mib:.0f} MiB",
        )
        server.kill()
        seconds = first_answer_seconds(server)
        tell(seconds < START_SECONDS_MAX, f"SIGKILL; first acknowledgement after {seconds:.2f} s")


def history(directory: Path, scale: float) -> None:
    objects = round(HISTORY_OBJECTS * scale)
    starts: list[float] = []
    for times in (1, HISTORY_TIMES):
        with serving(directory, "history") as server:
            drive(server, "/Counter/%d/add", objects, 64)
            if times > 1:
                drive(server, "/Counter/%d/add", objects * (times - 1), 64, keys=objects)
            seconds: list[float] = []
            for _ in range(3):
                server.kill()
                seconds.append(first_answer_seconds(server))
            starts.append(statistics.median(seconds))
    tell(
        starts[1] < 2 * starts[0],
        f"{objects:,} objects: a start takes {starts[0]:.2f} s, "
        f"with {HISTORY_TIMES} times the history {starts[1]:.2f} s",
    )


def disk(directory: Path, scale: float) -> None:
    with serving(directory, "disk") as server:
        for tenth in range(1, 5):
            load = drive(server, "/Counter/%d/add", round(ADDS * scale / 4), 64, keys=ADD_KEYS)
            tell(
                None if tenth < 4 else server.disk_mib < 1024,
                f"{round(ADDS * scale * tenth / 4):,} adds to {ADD_KEYS:,} keys ({load.per_second:,.0f}/s): "
                f"{server.disk_mib:.0f} MiB, of it store {server.size_mib('store*'):.0f}; "
                f"{len([*server.data_dir.glob('*.segment')])} segments, {len([*server.data_dir.glob('*.free')])} free; "
                f"{server.peak_mib:.0f} MiB of memory",
            )


def waiting(directory: Path, scale: float) -> None:
    """Half on awakeables, half asleep until some time after the restart."""
    half = round(WAITING * scale / 2)
    with serving(directory, "waiting") as server:
        seconds = 30 + half // 500
        until = time.monotonic() + seconds
        drive(server, "/Waiter/w%d/wait/send", half, 64, body="")
        drive(server, "/Waiter/s%d/sleep/send", half, 64, body=str(seconds))
        tell(server.peak_mib < WAITING_MIB_MAX, f"{2 * half:,} handlers suspended: at most {server.peak_mib:.0f} MiB")
        server.kill()
        start = first_answer_seconds(server)
        tell(None, f"SIGKILL; first acknowledgement after {start:.2f} s, {server.rss_mib:.0f} MiB")
        woken = uvloop.run(wake(server.url, half, until))
        tell(woken == 2 * half, f"{woken:,} of {2 * half:,} woke, once each; at most {server.peak_mib:.0f} MiB")


async def wake(url: str, half: int, until: float) -> int:
    """Resolves each awakeable, waits for the sleepers, and counts those that woke exactly once."""
    connector = aiohttp.TCPConnector(limit=64)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def post(path: str, body: str = "") -> bytes:
            async with session.post(url + path, data=body) as response:
                assert response.status in (200, 202), await response.text()
                return await response.read()

        async def look(key: str) -> tuple[str, int]:
            return msgspec.json.decode(await post(f"/Waiter/{key}/look"), type=tuple[str, int])

        async def resolve(key: str) -> None:
            awakeable, _ = await look(key)
            await post(f"/restate/awakeables/{awakeable}/resolve", "1")

        async def all_of(of: Callable[[str], object], keys: list[str]) -> list[object]:
            limit = asyncio.Semaphore(64)

            async def one(key: str) -> object:
                async with limit:
                    return await of(key)  # type: ignore[misc]  # every `of` here is a coroutine function

            return await asyncio.gather(*map(one, keys))

        waiters, sleepers = [f"w{n}" for n in range(1, half + 1)], [f"s{n}" for n in range(1, half + 1)]
        await all_of(resolve, waiters)
        await asyncio.sleep(max(0.0, until + 20 - time.monotonic()))
        return [entry[1] for entry in await all_of(look, waiters + sleepers)].count(1)  # type: ignore[index]


def latency(directory: Path, scale: float) -> None:
    """In turn, so that a machine that slows down slows both."""
    requests = max(round(LATENCY_REQUESTS * min(1, scale * 10)), 5_000)
    with serving(directory, "with") as made, serving(directory, "without", NO_CHECKPOINTS) as without:
        for server in (made, without):
            drive(server, "/Counter/%d/add", 5_000, 64, keys=ADD_KEYS)
        loads = [
            [drive(server, "/Counter/%d/add", requests, 64, keys=ADD_KEYS) for server in (made, without)]
            for _ in range(LATENCY_ROUNDS)
        ]
    with_p99, without_p99 = (statistics.median(load[side].p99_ms for load in loads) for side in (0, 1))
    rates = [statistics.median(load[side].per_second for load in loads) for side in (0, 1)]
    tell(
        with_p99 <= 2 * without_p99,
        f"64 connections: p99 {with_p99:.2f} ms with checkpoints, {without_p99:.2f} without; "
        f"{rates[0]:,.0f}/s and {rates[1]:,.0f}/s",
    )


def entries(directory: Path, scale: float) -> None:
    for count in (ENTRIES_FEW, round(ENTRIES_MANY * scale)):
        with serving(directory, "entries") as server:
            while _asked(server, "fill", count) < count:
                pass
            server.kill()
            server.start()
            names = Random(1).choices(range(count), k=ENTRY_REQUESTS)
            for handler in ("append", "put", "get"):
                seconds: list[float] = []
                before = _records(server)
                for name in names:
                    began = time.perf_counter()
                    _asked(server, handler, *([] if handler == "append" else [f"name {name}"]))
                    seconds.append(time.perf_counter() - began)
                p50, p99 = statistics.median(seconds) * 1e3, statistics.quantiles(seconds, n=100)[98] * 1e3
                last = _last_records(server, _records(server) - before)
                tell(
                    None,
                    f"{count:,} entries, {handler}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, "
                    f"{sum(map(len, last)) / ENTRY_REQUESTS:.0f} bytes of journal each",
                )
            tell(None, f"{count:,} entries: at most {server.peak_mib:.0f} MiB of memory")


def _asked(server: Server, handler: str, *arguments: object) -> int:
    [body] = [json.dumps(argument).encode() for argument in arguments] or [b""]
    request = urllib.request.Request(f"{server.url}/Shelf/one/{handler}", body, method="POST")
    with urllib.request.urlopen(request, timeout=60) as response:
        return int(response.read())


def _records(server: Server) -> int:
    """How many there were so far, those included that were trimmed since."""
    return asyncio.run(verify(server.data_dir)).next_lsn - 1


def _last_records(server: Server, count: int) -> list[bytes]:
    async def read() -> list[bytes]:
        reader = OfflineReader(server.data_dir)
        return [record async for frame in reader.frames() for _, record in frame.records()]

    return asyncio.run(read())[-count:] if count else []


PARTS: dict[str, Callable[[Path, float], None]] = {
    "memory": memory_and_start,
    "start": history,
    "disk": disk,
    "waiting": waiting,
    "latency": latency,
    "entries": entries,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="What the store is for, measured.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all unless given")
    parser.add_argument("--scale", type=float, default=1.0, help="of the full number of objects and requests")
    parser.add_argument("--directory", type=Path, default=ROOT, metavar="DIR", help="on the disk to measure")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.exit(1, "bench-store: wrk is missing; on Debian and Ubuntu: apt-get install wrk\n")
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.exit(2, f"bench-store: no part {unknown[0]!r}; there are {', '.join(PARTS)}\n")
    for part in options.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="perdure-bench-", dir=options.directory) as directory:
            console.print(f"[bold]{part}[/]")
            PARTS[part](Path(directory), options.scale)
    return 0


if __name__ == "__main__":
    sys.exit(main())

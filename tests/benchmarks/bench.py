"""How fast: a counter over HTTP against a bare aiohttp echo, calls between objects, and many awaited transfers.

    make bench                        some two minutes
    make bench ARGS=--quick           shorter rounds, rougher figures
    make bench ARGS='--json FILE'     the figures for a program, too
    make bench ARGS='--directory DIR' on another disk
    make bench ARGS=--traces          with and without OpenTelemetry spans, in turn, and nothing else
    make bench ARGS=--sql             with and without greedy queries beside it, in turn, and nothing else

Every acknowledgement is synced.  The two servers are driven in turn, several times, so that a machine that slows down
slows both, and a ratio is of one round.  Absolute figures are of this machine and of its disk.
It exits with 0 also when an aim is missed: how fast a machine is, is no test.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import IO

import aiohttp
import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TARGETS = ("examples/counter.py", "examples/bank.py", "tests/benchmarks/workload.py")

SYNCS = "perdure_journal_sync_duration_seconds_count"
KEYS = 1_000
CONNECTIONS = (1, 64, 256)
SYNC_BYTES = 512
CLIENTS, ACCOUNTS, OPENING_BALANCE = 12, 6, 1_000_000
CONVOY_SECONDS_MAX = 600.0

RATIO_MIN = 0.6
OVER_SYNC_MS_MAX = 0.4
STEPS_P50_MS_MAX = 3.0
STEPS_PER_SECOND_MIN = 2_000
CALLS_PER_SECOND_MIN = 15_000
FIRST_ITEM_MS_MAX = 5.0
TRACED_RATIO_MIN = 0.85
STREAMS = 500
GREEDY = (
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c",
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT * FROM c ORDER BY x DESC",
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT group_concat(hex(randomblob(1000))) FROM c",
    "SELECT count(*) FROM state a, state b, state c WHERE a.key > b.value || c.value",
    "SELECT * FROM state a, state b",
    "SELECT replace(hex(zeroblob(7000000)), hex(zeroblob(3500000)) || '1', '2')",
)
GREEDY_CLIENTS = 2

console = Console(highlight=False)


class Effort(msgspec.Struct, frozen=True):
    rounds: int
    seconds: int
    syncs: int
    callers: int
    calls: int
    """By each caller: a handler's journal holds 50,000 entries, and a call is two."""
    transfers: int


FULL = Effort(rounds=3, seconds=5, syncs=2_000, callers=16, calls=5_000, transfers=20_000)
QUICK = Effort(rounds=1, seconds=2, syncs=500, callers=16, calls=1_000, transfers=2_000)


class Load(msgspec.Struct):
    """What wrk saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failed: int

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


class Calls(msgspec.Struct):
    """One handler calling another, again and again, at `callers` keys at once."""

    calls: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.calls / self.seconds


class Transfers(msgspec.Struct):
    """`transfer_and_wait` by a dozen clients among six accounts: each holds one key and waits for another."""

    transfers: int
    seconds: float
    refused: int
    money_wrong: int


class Figures(msgspec.Struct, kw_only=True):
    """All that was measured; `echo`, `counter` and `syncs_per_second` by connections, a value for each round."""

    machine: str
    sync_ms: list[float]
    echo: dict[int, list[Load]]
    counter: dict[int, list[Load]]
    syncs_per_second: dict[int, list[float]]
    ten_steps: dict[int, list[Load]]
    first_item_ms: list[float]
    calls: Calls
    transfers: Transfers

    def ratio(self, connections: int) -> float:
        rounds = zip(self.counter[connections], self.echo[connections], strict=True)
        return statistics.median(counter.per_second / echo.per_second for counter, echo in rounds)


# --- the servers ------------------------------------------------------------------------------------------------------


@contextmanager
def serving(*arguments: str, **variables: str) -> Generator[list[str], None, None]:
    """A Python process that prints its URLs, all in one line; yields them.  `variables`: of its environment."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **variables},
    )
    assert process.stdout is not None
    try:
        yield _urls(process.stdout)
    finally:
        process.terminate()
        process.wait()


def _urls(output: IO[bytes]) -> list[str]:
    for line in output:
        if urls := re.findall(r'http://[^\s"]+', line.decode()):
            Thread(target=_pass_on, args=[output], daemon=True).start()
            return urls
        sys.stderr.buffer.write(line)
    raise SystemExit("bench: a server ended instead of serving")


def _pass_on(output: IO[bytes]) -> None:
    """A pipe that nobody reads would stop the server; what is no mere information is worth seeing."""
    for line in output:
        if b'"level": "info"' not in line:
            sys.stderr.buffer.write(line)
            sys.stderr.flush()


def echo_server() -> list[str]:
    return [str(HERE / "echo.py")]


def perdure(data_dir: Path) -> list[str]:
    options = ["--data-dir", str(data_dir), "--ingress", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    return ["-m", "perdure.runtime", "serve", *TARGETS, *options, "--log-format", "json"]


# --- measuring --------------------------------------------------------------------------------------------------------


def bare_sync_ms(directory: Path, count: int) -> float:
    """The median of 512 bytes and an fdatasync, in a file that was allocated before, as the journal does it."""
    path = directory / "sync"
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(file, 0, SYNC_BYTES * count)
        os.fsync(file)
        return statistics.median(_sync_seconds(file, SYNC_BYTES * n) for n in range(count)) * 1_000
    finally:
        os.close(file)
        path.unlink()


def _sync_seconds(file: int, offset: int) -> float:
    began = time.perf_counter()
    os.pwrite(file, b"x" * SYNC_BYTES, offset)
    os.fdatasync(file)
    return time.perf_counter() - began


def drive(url: str, path: str, connections: int, seconds: int) -> Load:
    """wrk, with a random key for each request."""
    wrk = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(HERE / "load.lua"), url]
    done = subprocess.run([*wrk, "--", path, str(KEYS)], capture_output=True, text=True, check=True)
    return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Load)


def syncs(admin: str) -> int:
    """So far, as its metrics say: the journal itself is trimmed meanwhile."""
    with urllib.request.urlopen(f"{admin}/metrics") as response:
        metrics = response.read().decode()
    return int(float(metrics.partition(f"\n{SYNCS} ")[2].partition("\n")[0]))


def measure_http(counter: str, admin: str, echo: str, directory: Path, effort: Effort, figures: Figures) -> None:
    """In turn, and the bare sync beside them: disks and neighbours have their moods."""
    for connections in CONNECTIONS:
        drive(counter, "/Counter/%d/add", connections, 1)  # each key is there, and both are warm
        drive(echo, "/echo", connections, 1)
        for n in range(effort.rounds):
            with console.status(f"{connections} connections, round {n + 1} of {effort.rounds}"):
                figures.sync_ms.append(bare_sync_ms(directory, effort.syncs))
                figures.echo[connections].append(drive(echo, "/echo", connections, effort.seconds))
                before = syncs(admin)
                load = drive(counter, "/Counter/%d/add", connections, effort.seconds)
                figures.counter[connections].append(load)
                figures.syncs_per_second[connections].append((syncs(admin) - before) / load.seconds)


def measure_steps(url: str, effort: Effort, figures: Figures) -> None:
    for connections in figures.ten_steps:
        drive(url, "/Steps/%d/ten", connections, 1)
        for n in range(effort.rounds):
            with console.status(f"ten steps, {connections} connections, round {n + 1} of {effort.rounds}"):
                figures.ten_steps[connections].append(drive(url, "/Steps/%d/ten", connections, effort.seconds))


async def measure_streams(url: str) -> list[float]:
    """From each request to the first item of its stream, one after the other, in ms."""
    taken: list[float] = []
    async with aiohttp.ClientSession() as session:
        for key in range(STREAMS):
            began = time.perf_counter()
            async with session.post(f"{url}/Stream/{key}/count", json=10) as response:
                await response.content.readuntil(b"\n\n")
                taken.append((time.perf_counter() - began) * 1_000)
                await response.read()
    return taken


async def measure_calls(url: str, effort: Effort) -> Calls:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CONVOY_SECONDS_MAX)) as session:

        async def ask(key: int, calls: int) -> None:
            async with session.post(f"{url}/Caller/{key}/call", json=calls) as response:
                assert response.status == 200, await response.text()

        await asyncio.gather(*(ask(key, 100) for key in range(effort.callers)))
        began = time.perf_counter()
        await asyncio.gather(*(ask(key, effort.calls) for key in range(effort.callers)))
        return Calls(effort.callers * effort.calls, time.perf_counter() - began)


async def measure_transfers(url: str, effort: Effort) -> Transfers:
    dice = random.Random(1)
    pairs = [dice.sample(range(ACCOUNTS), 2) for _ in range(effort.transfers)]
    amounts = [dice.randint(1, 100) for _ in pairs]
    work = iter(zip(pairs, amounts, strict=True))
    refused = 0

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CONVOY_SECONDS_MAX)) as session:

        async def post(path: str, body: object) -> int:
            async with session.post(url + path, json=body) as response:
                await response.read()
                return response.status

        async def client() -> None:
            nonlocal refused
            for (giver, taker), amount in work:
                status = await post(f"/Account/{giver}/transfer_and_wait", {"to": str(taker), "amount": amount})
                refused += status != 200

        async def balance(account: int) -> int:
            async with session.get(f"{url}/Account/{account}/look") as response:
                return int(await response.text())

        await asyncio.gather(*(post(f"/Account/{n}/deposit", OPENING_BALANCE) for n in range(ACCOUNTS)))
        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        seconds = time.perf_counter() - began
        expected = [OPENING_BALANCE] * ACCOUNTS
        for (giver, taker), amount in zip(pairs, amounts, strict=True):
            expected[giver] -= amount
            expected[taker] += amount
        found = [await balance(n) for n in range(ACCOUNTS)]
        return Transfers(effort.transfers, seconds, refused, sum(map(_differ, found, expected)))


def _differ(found: int, expected: int) -> int:
    return abs(found - expected)


def measure(effort: Effort, directory: Path) -> Figures:
    figures = Figures(
        machine=f"Python {platform.python_version()}, {os.cpu_count()} cores",
        sync_ms=[],
        echo={connections: [] for connections in CONNECTIONS},
        counter={connections: [] for connections in CONNECTIONS},
        syncs_per_second={connections: [] for connections in CONNECTIONS},
        ten_steps={1: [], 64: []},
        first_item_ms=[],
        calls=Calls(0, 1),
        transfers=Transfers(0, 1, 0, 0),
    )
    with ExitStack() as stack:
        [echo] = stack.enter_context(serving(*echo_server()))
        counter, admin = stack.enter_context(serving(*perdure(directory / "data")))
        measure_http(counter, admin, echo, directory, effort, figures)
        measure_steps(counter, effort, figures)
        with console.status(f"{STREAMS} streams"):
            figures.first_item_ms = uvloop.run(measure_streams(counter))
        with console.status(f"{effort.callers} handlers, {effort.calls:,} calls by each"):
            figures.calls = uvloop.run(measure_calls(counter, effort))
        with console.status(f"{CLIENTS} clients, {effort.transfers:,} awaited transfers among {ACCOUNTS} accounts"):
            figures.transfers = uvloop.run(measure_transfers(counter, effort))
    return figures


class Compared(msgspec.Struct):
    """The same requests without something and with it, in turn, a pair for each round."""

    path: str
    connections: int
    rounds: list[tuple[Load, Load]]

    @property
    def ratio(self) -> float:
        """Of the rates."""
        return statistics.median(with_it.per_second / without.per_second for without, with_it in self.rounds)


def measure_traces(effort: Effort, directory: Path) -> list[Compared]:
    """The echo server is the collector: it takes whatever comes, in a process of its own."""
    measured = [Compared(path, n, []) for path in ("/Counter/%d/add", "/Steps/%d/ten") for n in (1, 64)]
    with ExitStack() as stack:
        [collector] = stack.enter_context(serving(*echo_server()))
        plain, _ = stack.enter_context(serving(*perdure(directory / "plain")))
        to = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector}/echo"}
        traced, _ = stack.enter_context(serving(*perdure(directory / "traced"), "--traces", **to))
        for one in measured:
            for url in (plain, traced):
                drive(url, one.path, one.connections, 1)
            for n in range(max(3, effort.rounds)):
                with console.status(f"{one.path}, {one.connections} connections, round {n + 1}"):
                    pair = [drive(url, one.path, one.connections, effort.seconds) for url in (plain, traced)]
                one.rounds.append((pair[0], pair[1]))
    return measured


def measure_queries(effort: Effort, directory: Path) -> list[Compared]:
    """As many clients as queries may run at a time, each of which asks one greedy query after the other."""
    measured = [Compared("/Counter/%d/add", n, []) for n in (1, 16, 64)]
    with serving(*perdure(directory / "data")) as (url, admin):
        for one in measured:
            drive(url, one.path, one.connections, 1)
            for n in range(max(3, effort.rounds)):
                with console.status(f"{one.connections} connections, round {n + 1}"):
                    without = drive(url, one.path, one.connections, effort.seconds)
                    with greedy_queries(admin):
                        one.rounds.append((without, drive(url, one.path, one.connections, effort.seconds)))
    return measured


@contextmanager
def greedy_queries(admin: str) -> Generator[None, None, None]:
    done = Event()

    def ask(client: int) -> None:
        dice = random.Random(client)
        while not done.is_set():
            body = msgspec.json.encode({"query": dice.choice(GREEDY)})
            request = urllib.request.Request(f"{admin}/query", body, {"content-type": "application/json"})
            with suppress(urllib.error.HTTPError), urllib.request.urlopen(request) as response:
                response.read()

    clients = [Thread(target=ask, args=[number]) for number in range(GREEDY_CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        done.set()
        for client in clients:
            client.join()


# --- telling ----------------------------------------------------------------------------------------------------------


def load_table(figures: Figures) -> Table:
    table = Table(title=f"one add per request, {KEYS:,} keys, each acknowledgement synced", title_justify="left")
    for name in ("conns", "", "req/s", "p50 ms", "p99 ms", "of echo", "syncs/s", "failed"):
        table.add_column(name, justify="left" if not name else "right")
    for connections in CONNECTIONS:
        echo, counter = figures.echo[connections], figures.counter[connections]
        table.add_row(str(connections), "bare echo", *_load_cells(echo), "", "", _failed(echo))
        ratio = f"{figures.ratio(connections):.2f}"
        syncs_per_second = f"{statistics.median(figures.syncs_per_second[connections]):,.0f}"
        table.add_row("", "counter", *_load_cells(counter), ratio, syncs_per_second, _failed(counter), end_section=True)
    return table


def compared_table(title: str, what: str, measured: list[Compared]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("", "conns", f"req/s without, with {what}", "ratio", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right" if name else "left")
    for one in measured:
        sides = [_load_cells([*side]) for side in zip(*one.rounds, strict=True)]
        rates, p50s, p99s = (", ".join(cells) for cells in zip(*sides, strict=True))
        table.add_row(one.path, str(one.connections), rates, f"{one.ratio:.2f}", p50s, p99s)
    return table


def steps_table(figures: Figures) -> Table:
    table = Table(title="ten steps per request, each synced before the next starts", title_justify="left")
    for name in ("conns", "handlers/s", "p50 ms", "p99 ms", "failed"):
        table.add_column(name, justify="right")
    for connections, rounds in figures.ten_steps.items():
        table.add_row(str(connections), *_load_cells(rounds), _failed(rounds))
    return table


def _load_cells(rounds: list[Load]) -> tuple[str, str, str]:
    """The median of the rounds."""
    per_second = statistics.median(load.per_second for load in rounds)
    p50, p99 = statistics.median(load.p50_ms for load in rounds), statistics.median(load.p99_ms for load in rounds)
    return f"{per_second:,.0f}", f"{p50:.2f}", f"{p99:.2f}"


def _failed(rounds: list[Load]) -> str:
    return str(sum(load.failed for load in rounds))


def aims(figures: Figures) -> list[tuple[bool, str, str]]:
    """Each: reached, the aim, what was measured."""
    ratio, calls, transfers = figures.ratio(64), figures.calls, figures.transfers
    p50 = statistics.median(load.p50_ms for load in figures.counter[1])
    sync = statistics.median(figures.sync_ms[: len(figures.counter[1])])  # of the same rounds
    steps_p50 = statistics.median(load.p50_ms for load in figures.ten_steps[1])
    steps_per_second = statistics.median(load.per_second for load in figures.ten_steps[64])
    exact = not (transfers.refused or transfers.money_wrong)
    return [
        (ratio >= RATIO_MIN, f"64 connections: at least {RATIO_MIN} of the bare echo", f"{ratio:.2f}"),
        (
            p50 - sync <= OVER_SYNC_MS_MAX,
            f"1 connection: p50 at most the bare sync plus {OVER_SYNC_MS_MAX} ms",
            f"{p50:.2f} ms, the bare sync {sync:.2f} ms",
        ),
        (
            steps_p50 <= STEPS_P50_MS_MAX,
            f"ten steps, 1 connection: p50 at most {STEPS_P50_MS_MAX} ms",
            f"{steps_p50:.2f} ms",
        ),
        (
            steps_per_second >= STEPS_PER_SECOND_MIN,
            f"ten steps, 64 connections: at least {STEPS_PER_SECOND_MIN:,} handlers/s",
            f"{steps_per_second:,.0f}/s",
        ),
        (
            statistics.quantiles(figures.first_item_ms, n=100)[98] <= FIRST_ITEM_MS_MAX,
            f"the first item of a stream: p99 at most {FIRST_ITEM_MS_MAX} ms",
            f"{statistics.quantiles(figures.first_item_ms, n=100)[98]:.2f} ms, "
            f"p50 {statistics.median(figures.first_item_ms):.2f} ms",
        ),
        (
            calls.per_second >= CALLS_PER_SECOND_MIN,
            f"at least {CALLS_PER_SECOND_MIN:,} calls/s between objects",
            f"{calls.per_second:,.0f}/s ({calls.calls:,} calls)",
        ),
        (
            exact,
            f"{CLIENTS} clients, {transfers.transfers:,} awaited transfers, {ACCOUNTS} accounts: all done, exact",
            f"{transfers.seconds:.1f} s, {transfers.transfers / transfers.seconds:,.0f}/s, "
            f"{transfers.refused} refused, {transfers.money_wrong} money wrong",
        ),
    ]


def aim_table(figures: Figures) -> Table:
    table = Table(title="aims", title_justify="left", show_header=False)
    for reached, aim, measured in aims(figures):
        table.add_row("[green]ok[/]" if reached else "[red]missed[/]", aim, measured)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description="How fast, beside a bare aiohttp echo.")
    parser.add_argument("--quick", action="store_true", help="shorter rounds, rougher figures")
    parser.add_argument("--traces", action="store_true", help="what OpenTelemetry spans cost, and nothing else")
    parser.add_argument("--sql", action="store_true", help="what greedy queries cost the ingress, and nothing else")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--directory", type=Path, default=ROOT, metavar="DIR", help="on the disk to measure")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.exit(1, "bench: wrk is missing; on Debian and Ubuntu: apt-get install wrk (https://github.com/wg/wrk)\n")

    effort = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory(prefix="perdure-bench-", dir=options.directory) as directory:
        if options.traces:
            title = f"with --traces; the aim is {TRACED_RATIO_MIN} of the rate without"
            console.print(compared_table(title, "spans", measure_traces(effort, Path(directory))))
            return 0
        if options.sql:
            title = f"{GREEDY_CLIENTS} clients ask queries that never end, or are too large"
            console.print(compared_table(title, "queries", measure_queries(effort, Path(directory))))
            return 0
        figures = measure(effort, Path(directory))
    console.print(
        f"{figures.machine}; {SYNC_BYTES} B and an fdatasync take {statistics.median(figures.sync_ms):.2f} ms"
    )
    console.print(load_table(figures))
    console.print(steps_table(figures))
    console.print(aim_table(figures))
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The promise, shown: clients send requests, the process is killed again and again, and then every sum is checked.

    make demo

It serves counter.py and bank.py on an empty directory, and 16 clients send adds and transfers over HTTP.  When a
certain number of requests has been acknowledged the process gets SIGKILL, with other requests in the middle, and is
started again.  A client whose request got no answer sends it again with the same idempotency key.  At the end, after
one more kill, each counter has to equal the acknowledged adds and each account what the acknowledged transfers leave.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from rich.console import Console
from rich.table import Table

EXAMPLES = Path(__file__).parent
COUNTERS = [f"counter-{n}" for n in range(20)]
ACCOUNTS = [f"account-{n}" for n in range(8)]
OPENING_BALANCE = 1_000
QUIET_SECONDS_MAX = 20.0

console = Console(highlight=False)


@dataclass(frozen=True)
class Task:
    """One request, which is sent until it has an answer.  `tells` is what its answer 200 means, in adds or money."""

    path: str
    body: object
    key: str
    tells: dict[str, int]


@dataclass
class Tally:
    """What the clients were told."""

    expected: Counter[str] = field(default_factory=Counter[str])
    acknowledged: int = 0
    refused: int = 0
    sent_again: int = 0
    in_flight: int = 0


class Server:
    """The process: started, killed, started again.  `url` is where it can be reached, once it can."""

    def __init__(self, data_dir: Path, log: Path) -> None:
        self._data_dir = data_dir
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ending = False

    async def url(self) -> str:
        return await asyncio.shield(self._url)

    async def start(self) -> None:
        self._ending = False
        self._process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "perdure.runtime", "serve", "counter.py", "bank.py"],
            *["--data-dir", str(self._data_dir), "--ingress", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
            *["--log-format", "json"],
            cwd=EXAMPLES,
            stderr=asyncio.subprocess.PIPE,
        )
        self._reading = asyncio.create_task(self._read_log(self._process, self._url))
        await self.url()

    async def kill(self) -> None:
        """SIGKILL: no handler of it runs, nothing is flushed."""
        self._url = asyncio.get_running_loop().create_future()
        await self._end(kill=True)

    async def stop(self) -> None:
        await self._end(kill=False)

    async def _end(self, *, kill: bool) -> None:
        if self._process is None or self._reading is None:
            return
        self._ending = True
        if self._process.returncode is None:
            self._process.kill() if kill else self._process.terminate()
        await self._reading
        await self._process.wait()

    async def _read_log(self, process: asyncio.subprocess.Process, url: asyncio.Future[str]) -> None:
        assert process.stderr is not None
        with self._log.open("ab") as log:
            async for line in process.stderr:
                log.write(line)
                if b'"serving"' in line:
                    url.set_result(json.loads(line)["ingress"])
        if not self._ending:
            # Nobody killed it: whoever waits for it, and whoever asks from here on, has to know.
            self._url = url = asyncio.get_running_loop().create_future() if url.done() else url
            url.set_exception(RuntimeError(f"the process ended by itself:\n{self._log.read_text()[-2_000:]}"))


# --- the clients ------------------------------------------------------------------------------------------------------


def tasks(count: int, dice: random.Random) -> Iterator[Task]:
    """Adds, transfers by message and transfers by awaited call; the accounts were opened before."""
    for n in range(count):
        kind = dice.choice(["add", "add", "transfer", "transfer_and_wait"])
        if kind == "add":
            counter = dice.choice(COUNTERS)
            yield Task(f"/Counter/{counter}/add", 1, f"add-{n}", {counter: 1})
            continue
        giver, taker = dice.sample(ACCOUNTS, 2)
        amount = dice.randint(1, 100)
        body = {"to": taker, "amount": amount}
        yield Task(f"/Account/{giver}/{kind}", body, f"transfer-{n}", {giver: -amount, taker: amount})


def openings() -> list[Task]:
    return [Task(f"/Account/{a}/deposit", OPENING_BALANCE, f"open-{a}", {a: OPENING_BALANCE}) for a in ACCOUNTS]


class Clients:
    """Send tasks, and count what they are told."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self.tally = Tally()
        self.answered = asyncio.Condition()
        self._server = server
        self._session = session

    async def work(self, tasks: Iterator[Task]) -> None:
        """One client: takes the next task when it is through with one."""
        for task in tasks:
            await self._send_until_answered(task)

    async def read(self, path: str) -> int:
        async with self._session.get(await self._server.url() + path) as response:
            return int(await response.text())

    async def _send_until_answered(self, task: Task) -> None:
        while (status := await self._send(task)) not in (200, 409):
            self.tally.sent_again += 1
            if status not in (None, 429, 503):
                raise RuntimeError(f"{task.path} was answered with {status}")
        async with self.answered:
            self.tally.acknowledged += 1
            if status == 200:
                self.tally.expected.update(task.tells)
            else:
                self.tally.refused += 1  # more than the balance: an answer like any other
            self.answered.notify_all()

    async def _send(self, task: Task) -> int | None:
        """The status, or None: no answer, so it may or may not have happened."""
        url = await self._server.url() + task.path
        self.tally.in_flight += 1
        try:
            async with self._session.post(url, json=task.body, headers={"idempotency-key": task.key}) as response:
                await response.read()
                return response.status
        except (aiohttp.ClientError, ConnectionError):
            return None
        finally:
            self.tally.in_flight -= 1

    async def until_acknowledged(self, count: int) -> None:
        async with self.answered:
            await self.answered.wait_for(lambda: self.tally.acknowledged >= count)


# --- the story --------------------------------------------------------------------------------------------------------


async def kill_and_restart(server: Server, clients: Clients, at: int) -> float:
    """At the `at`-th answer, with requests in the middle; returns the seconds to the next process's first answer."""
    await clients.until_acknowledged(at)
    in_flight, before = clients.tally.in_flight, clients.tally.acknowledged
    killed = time.monotonic()
    await server.kill()
    await server.start()
    await clients.until_acknowledged(before + 1)
    seconds = time.monotonic() - killed
    console.print(
        f"  [red]SIGKILL[/] after {before:5,} answers, {in_flight:2} requests in flight; "
        f"next answer {seconds:.2f} s later"
    )
    return seconds


async def state(clients: Clients) -> dict[str, int]:
    values = {name: await clients.read(f"/Counter/{name}/get") for name in COUNTERS}
    return values | {name: await clients.read(f"/Account/{name}/look") for name in ACCOUNTS}


async def state_when_quiet(clients: Clients) -> dict[str, int]:
    """Messages that are still on their way are given time to arrive; money between two accounts is not lost."""
    deadline = time.monotonic() + QUIET_SECONDS_MAX
    total = OPENING_BALANCE * len(ACCOUNTS)
    while True:
        values = await state(clients)
        if sum(values[name] for name in ACCOUNTS) == total or time.monotonic() > deadline:
            return values


def differences(expected: Counter[str], found: dict[str, int]) -> tuple[int, int]:
    """Acknowledged and not there; there and not acknowledged (so done twice).  In adds of 1; 0 and 0 is a pass."""
    lost = sum(max(0, expected[name] - found[name]) for name in COUNTERS)
    twice = sum(max(0, found[name] - expected[name]) for name in COUNTERS)
    return lost, twice


async def run(options: argparse.Namespace, directory: Path) -> bool:
    server = Server(directory / "data", directory / "log")
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        clients = Clients(server, session)
        began = time.monotonic()
        try:
            await server.start()
            console.print(f"  serving on {urlsplit(await server.url()).netloc}")
            await clients.work(iter(openings()))
            todo = tasks(options.requests, random.Random(options.seed))
            async with asyncio.TaskGroup() as group:
                killing = group.create_task(kill_again_and_again(server, clients, options))
                for _ in range(options.clients):
                    group.create_task(clients.work(todo))
            answers = clients.tally.acknowledged
            console.print(f"  [red]SIGKILL[/] after {answers:5,} answers; the sums are read from the next process")
            await server.kill()
            await server.start()
            found = await state_when_quiet(clients)
            return report(clients.tally, killing.result(), found, time.monotonic() - began)
        finally:
            await server.stop()


async def kill_again_and_again(server: Server, clients: Clients, options: argparse.Namespace) -> list[float]:
    moments = [options.requests * n // (options.kills + 1) for n in range(1, options.kills + 1)]
    return [await kill_and_restart(server, clients, moment) for moment in moments]


def report(tally: Tally, restarts: list[float], found: dict[str, int], seconds: float) -> bool:
    lost, twice = differences(tally.expected, found)
    money = sum(found[name] for name in ACCOUNTS)
    opened = OPENING_BALANCE * len(ACCOUNTS)
    wrong = [name for name in ACCOUNTS if found[name] != tally.expected[name]]
    passed = not (lost or twice or wrong) and money == opened

    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(justify="right", min_width=8)
    table.add_column()
    table.add_row(f"{tally.acknowledged:,}", f"requests answered ({tally.refused:,} with: insufficient funds)")
    table.add_row(f"{tally.sent_again:,}", "sent again with the same idempotency key: no answer")
    table.add_row(f"{len(restarts) + 1}", "times SIGKILL")
    table.add_row(f"{max(restarts):.2f} s", f"at most from SIGKILL to the next answer, {min(restarts):.2f} s at least")
    table.add_row(verdict(lost), "adds acknowledged and lost")
    table.add_row(verdict(twice), "adds applied twice")
    table.add_row(verdict(len(wrong)), f"of {len(ACCOUNTS)} balances not what the answers add up to")
    table.add_row(
        f"{money:,}", f"in all accounts together, {'as' if money == opened else '[bold red]not as[/]'} at the start"
    )
    console.print()
    console.print(table)
    console.print()
    console.print(f"  {'[bold green]PASSED[/]' if passed else '[bold red]FAILED[/]'} in {seconds:.1f} s")
    return passed


def verdict(count: int) -> str:
    return f"[bold green]{count}[/]" if count == 0 else f"[bold red]{count:,}[/]"


def main() -> int:
    parser = argparse.ArgumentParser(description="Requests, SIGKILLs, and then the sums.")
    parser.add_argument("--requests", type=int, default=2_400, metavar="N")
    parser.add_argument("--clients", type=int, default=16, metavar="N")
    parser.add_argument("--kills", type=int, default=6, metavar="N", help="on the way; there is one more at the end")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the requests")
    options = parser.parse_args()
    if options.kills < 1 or options.requests <= options.kills:
        parser.error("there must be a kill at least, and more requests than kills")

    console.print(f"\n  {options.clients} clients, {options.requests:,} requests to counters and bank accounts\n")
    directory = tempfile.TemporaryDirectory(prefix="perdure-demo-")
    with directory:
        try:
            passed = asyncio.run(run(options, Path(directory.name)))
        except ExceptionGroup as several:
            console.print(f"\n  FAILED: {several.exceptions[0]}", style="bold red", markup=False)
            passed = False
        if not passed:
            console.print(f"  the data and the log stay in {keep(directory)}")
    return 0 if passed else 1


def keep(directory: tempfile.TemporaryDirectory[str]) -> str:
    """Out of the reach of the clean-up."""
    kept = f"{directory.name}-kept"
    os.rename(directory.name, kept)
    os.mkdir(directory.name)
    return kept


if __name__ == "__main__":
    sys.exit(main())

"""A real `perdure serve`, for tests that start it, talk to it over HTTP, and kill it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

ROOT = Path(__file__).parent.parent
START_SECONDS_MAX = 60.0
"""Far beyond the usual half second: a machine with two busy cores, and perhaps strace in between."""


class Ended(Exception):
    """The process ended, where it was to serve."""


@dataclass(frozen=True)
class Answer:
    status: int
    value: Any  # Any: the body's JSON, whatever the handler gave
    invocation_id: str

    @property
    def ok(self) -> bool:
        return self.status in (200, 202)


class Perdure:
    """One data directory, and the process that serves it now; each start takes a free port."""

    def __init__(self, targets: tuple[str, ...], data_dir: Path, session: aiohttp.ClientSession) -> None:
        self.targets = targets
        self.data_dir = data_dir
        self.events: list[dict[str, Any]] = []
        """The log of the process that runs now, or ran last; a line that is no event has the key `line`."""
        self.options: tuple[str, ...] = ()
        """More of the command line, for each start."""
        self.unanswered = 0
        """Requests of `settle` that had to be sent again."""
        self._session = session
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._serving: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._killed: set[int] = set()

    async def start(self, *under: str) -> None:
        """Starts it, `under` a tracer if one is named, and returns at once: `serving()` waits until it serves."""
        addresses = ["--ingress", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        arguments = ["serve", *self.targets, "--data-dir", str(self.data_dir), *addresses]
        self._process = await asyncio.create_subprocess_exec(
            *under,
            *[sys.executable, "-m", "perdure.runtime", *arguments, "--log-format", "json", *self.options],
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            cwd=ROOT,
        )
        self.events = []
        if self._serving.done():
            self._serving = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read_log(self._process, self.events, self._serving))

    async def serving(self) -> str:
        """The ingress's URL, once it serves, or the next process does if this one was killed.  Raises Ended."""
        async with asyncio.timeout(START_SECONDS_MAX):
            return str((await asyncio.shield(self._serving))["ingress"])

    async def admin(self) -> str:
        """The admin port's URL, once it serves.  Raises Ended."""
        await self.serving()
        return str(self._serving.result()["admin"])

    async def serving_pid(self) -> int:
        """Of the serving process itself, not of its tracer, once it serves.  Raises Ended."""
        await self.serving()
        return int(self._serving.result()["pid"])

    def kill(self) -> None:
        """SIGKILL, now; also while it starts."""
        assert self._process is not None
        self._killed.add(self._process.pid)
        if self._serving.done():
            self._serving = asyncio.get_running_loop().create_future()
        self._signal(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM, unless it has ended already; returns the exit code."""
        with suppress(ProcessLookupError):
            os.kill(await self.serving_pid(), signal.SIGTERM)
        return await self.exited()

    async def exited(self) -> int:
        """The exit code once it has ended, negative for a signal; its whole log has been read then."""
        assert self._process is not None
        assert self._reading is not None
        async with asyncio.timeout(START_SECONDS_MAX):
            await self._reading
            return await self._process.wait()

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self.kill()
            await self.exited()

    def _signal(self, number: signal.Signals) -> None:
        """To everything in its session: strace doesn't pass a SIGKILL on."""
        assert self._process is not None
        with suppress(ProcessLookupError):  # it has just ended, and nobody has asked how
            if self._process.returncode is None:
                os.killpg(self._process.pid, number)

    async def call(self, path: str, body: object = None, *, key: str | None = None) -> Answer:
        """POST.  Raises aiohttp.ClientError if there was no answer: the outcome is unknown."""
        headers = {} if key is None else {"idempotency-key": key}
        data = b"" if body is None else json.dumps(body).encode()
        async with self._session.post(await self.serving() + path, data=data, headers=headers) as response:
            text = await response.read()
            value = json.loads(text) if text else None
            return Answer(response.status, value, response.headers.get("x-restate-id", ""))

    async def settle(self, path: str, body: object = None, *, key: str) -> Answer:
        """As a careful client: with the same key until there is an answer that isn't `outcome unknown`."""
        while True:
            with suppress(aiohttp.ClientError):
                answer = await self.call(path, body, key=key)
                if answer.status not in (429, 503):
                    return answer
            self._refuse_to_wait_for_the_dead()
            self.unanswered += 1

    def _refuse_to_wait_for_the_dead(self) -> None:
        """A killed process is started again by who killed it; one that ended by itself stays away."""
        process = self._process
        if process is not None and process.returncode is not None and process.pid not in self._killed:
            raise Ended(_last_of(self.events))

    async def _read_log(
        self, process: asyncio.subprocess.Process, events: list[dict[str, Any]], serving: asyncio.Future[dict[str, Any]]
    ) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            event = _event(line)
            events.append(event)
            if event.get("event") == "serving":
                serving.set_result(event)
        if not serving.done() and process.pid not in self._killed:
            serving.set_exception(Ended(_last_of(events)))
            serving.exception()  # whoever waits sees it; if nobody does, that is no error


def _last_of(events: list[dict[str, Any]]) -> str:
    return "\n".join(str(event) for event in events[-20:])


def _event(line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        return {"line": line.decode(errors="replace").rstrip()}


@pytest.fixture
async def perdure(tmp_path: Path) -> AsyncIterator[Callable[..., Perdure]]:
    """Makes a `Perdure` of TARGETs (paths relative to the top), on an empty directory."""
    made: list[Perdure] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:

        def make(*targets: str) -> Perdure:
            made.append(Perdure(targets, tmp_path / f"data-{len(made)}", session))
            return made[-1]

        yield make
        for each in made:
            await each.close()

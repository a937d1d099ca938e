"""The processes that run statements, as the serving one sees them: started, asked, ended.

One that gave its answer waits a while for the next query, since starting one takes some 200 ms of a processor.
One that took too long, or died, is not asked again.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from typing import Final

import msgspec
import structlog

from ..admission import Refused
from .protocol import DATA, FRAME, LENGTH, STOPPED, Query, Stopped

log: structlog.stdlib.BoundLogger = structlog.get_logger("perdure")

IDLE_SECONDS: Final = 60.0
QUERIES_MAX: Final = 100
"""Of one process: what a query leaves behind in it, if anything, is gone with it."""

_GRACE_SECONDS: Final = 1.0
"""A process says itself that the time is over, unless SQLite is busy inside a single call.  It is killed then."""

_START_SECONDS: Final = 10.0
_PIPE_BYTES: Final = 256 * 1024

_COMMAND: Final = (sys.executable, "-P", "-s", "-m", "perdure.runtime.sql.child")
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV")

_stopped = msgspec.json.Decoder(Stopped).decode
_encode = msgspec.json.Encoder().encode


class _Ended(Exception):
    """The process is gone."""


class Child:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.queries = 0

    @classmethod
    async def start(cls) -> Child:
        """Raises OSError."""
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            *_COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            limit=_PIPE_BYTES,
        )
        return cls(process)

    async def ask(self, query: Query) -> list[bytes]:
        """The answer in pieces.  Raises Refused; _Ended if the process is gone."""
        self.queries += 1
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        asked = _encode(query)
        pieces: list[bytes] = []
        try:
            stdin.write(LENGTH.pack(len(asked)) + asked)
            await stdin.drain()
            while True:
                kind, size = FRAME.unpack(await stdout.readexactly(FRAME.size))
                payload = await stdout.readexactly(size)
                if kind == STOPPED:
                    stopped = _stopped(payload)
                    raise Refused(stopped.status, f"query: {stopped.message}")
                if kind != DATA:
                    return pieces
                pieces.append(payload)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise _Ended from error

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def end(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


class Children:
    """At most `running_max` queries at a time."""

    def __init__(self, running_max: int) -> None:
        self._running_max = running_max
        self._running = 0
        self._idle: list[Child] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def run(self, query: Query) -> list[bytes]:
        """The answer in pieces.  Raises Refused."""
        if self._closed:
            raise Refused(503, "the process is stopping", retry_after_seconds=1)
        if self._running >= self._running_max:
            raise Refused(429, f"{self._running} queries are running, no more at a time: ask again", 1)
        self._running += 1
        child: Child | None = None
        try:
            child = await self._one()
            async with asyncio.timeout(query.limits.seconds + _GRACE_SECONDS):
                answer = await child.ask(query)
        except Refused:
            self._keep(child)
            raise
        except TimeoutError:
            self._drop(child)
            raise Refused(504, f"query: it took more than {query.limits.seconds:g} s, and was ended") from None
        except _Ended:
            self._drop(child)
            raise Refused(413, "query: it took more memory or time than a query may, and was ended") from None
        except OSError as error:
            log.error("no process for SQL could be started", why=str(error))
            raise Refused(503, f"no process for the query could be started: {error.strerror}", 1) from error
        except BaseException:  # who asked has left
            self._drop(child)
            raise
        else:
            self._keep(child)
            return answer
        finally:
            self._running -= 1

    async def close(self) -> None:
        """Ends them all."""
        self._closed = True
        self._retire()
        await asyncio.gather(*self._ending)

    async def _one(self) -> Child:
        while self._idle:
            child = self._idle.pop()
            if child.alive:
                return child
        async with asyncio.timeout(_START_SECONDS):
            return await Child.start()

    def _keep(self, child: Child | None) -> None:
        if child is None:
            return
        if self._closed or child.queries >= QUERIES_MAX:
            self._drop(child)
            return
        self._idle.append(child)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._retire)

    def _retire(self) -> None:
        """Nobody has asked for a while."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle:
            self._drop(self._idle.pop())

    def _drop(self, child: Child | None) -> None:
        if child is not None:
            task = asyncio.get_running_loop().create_task(child.end())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

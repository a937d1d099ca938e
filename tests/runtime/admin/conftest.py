"""The admin API over real sockets, in front of an engine in memory whose clock stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from perdure.journal import MemoryJournal
from perdure.runtime import ManualClock, Runtime, Settings
from perdure.runtime.access import Access, Tokens
from perdure.runtime.admin import Admin


@dataclass(frozen=True)
class Answer:
    status: int
    value: Any  # Any: the body's JSON
    headers: dict[str, str]


class Operator:
    """Somebody at the admin port, and the runtime behind it.  Paths begin behind `/invocations/`."""

    def __init__(self, runtime: Runtime, clock: ManualClock, url: str, session: aiohttp.ClientSession) -> None:
        self.runtime = runtime
        self.clock = clock
        self.url = url
        self._session = session

    async def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(method, self.url + path, data=body, headers=sent) as response:
            is_json = response.content_type == "application/json" and await response.read()
            value = await response.json() if is_json else None
            return Answer(response.status, value, {name.lower(): text for name, text in response.headers.items()})

    async def text(self, path: str, **headers: str) -> str:
        async with self._session.get(self.url + path, headers=headers) as response:
            assert response.status == 200
            return await response.text()

    async def get(self, id: str, **headers: str) -> Answer:
        return await self.ask("GET", f"/invocations/{id}", None, **headers)

    async def patch(self, id: str, action: str, **headers: str) -> Answer:
        return await self.ask("PATCH", f"/invocations/{id}/{action}", None, **headers)

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            await asyncio.sleep(0)
            if condition():
                return
        raise AssertionError("it does not happen")


Operate = Callable[..., Coroutine[object, None, Operator]]


@pytest.fixture
async def operate() -> AsyncIterator[Operate]:
    """`await operate(Class, …, token=b"…")`."""
    running: list[tuple[Admin, Runtime]] = []
    async with aiohttp.ClientSession() as session:

        async def start(*classes: type, token: bytes | None = None, journal: Any = None, **settings: Any) -> Operator:
            clock = ManualClock()
            runtime = Runtime(
                classes,
                data_dir=None,
                clock=clock,
                settings=Settings(**settings),
                journal=journal or MemoryJournal(),
            )
            await runtime.__aenter__()
            admin = Admin(runtime.engine, None if token is None else Access(Tokens([token])))
            running.append((admin, runtime))
            [(host, port)] = await admin.start("127.0.0.1", 0)
            return Operator(runtime, clock, f"http://{host}:{port}", session)

        yield start
        for admin, runtime in running:
            await admin.close(0)
            await runtime.__aexit__(None, None, None)

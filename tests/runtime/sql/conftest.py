"""SQL over real sockets, in front of an engine on a disk, answered by real processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest_asyncio

from perdure.runtime import Runtime, Settings
from perdure.runtime.admin import Admin


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str]
    json: Any  # Any: the body's JSON; None if it is something else

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def rows(self) -> list[dict[str, Any]]:
        assert self.status == 200, self.text
        rows: list[dict[str, Any]] = self.json["rows"]
        return rows

    @property
    def message(self) -> str:
        return str(self.json["message"])


class Asker:
    """Somebody at the admin port, and the runtime behind it."""

    def __init__(self, runtime: Runtime, directory: Path, url: str, session: aiohttp.ClientSession) -> None:
        self.runtime = runtime
        self.directory = directory
        self.url = url
        self.path = "/query"
        self.session = session

    async def ask(self, statement: str, accept: str = "application/json") -> Answer:
        return await self.post({"query": statement}, accept=accept)

    async def rows(self, statement: str) -> list[dict[str, Any]]:
        return (await self.until_there_is_time(lambda: self.ask(statement))).rows

    async def until_there_is_time(self, ask: Callable[[], Coroutine[object, None, Answer]]) -> Answer:
        """Queries give way to everything else on the machine, so on a busy one even a short one may take too long."""
        async with asyncio.timeout(60):
            while (answer := await ask()).status == 504:
                pass
        return answer

    async def post(self, body: object, **headers: str) -> Answer:
        async with self.session.post(self.url + self.path, json=body, headers=headers) as response:
            read = await response.read()
            json = await response.json() if response.content_type == "application/json" else None
            return Answer(
                response.status, read, {name.lower(): value for name, value in response.headers.items()}, json
            )


Serve = Callable[..., Coroutine[object, None, Asker]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serve(tmp_path_factory: Any) -> AsyncIterator[Serve]:
    """`await serve(Class, …, setting=…)`; it lasts as long as the tests of a file."""
    running: list[tuple[Admin, Runtime]] = []
    async with aiohttp.ClientSession() as session:

        async def start(*classes: type, on_disk: bool = True, **settings: Any) -> Asker:
            directory: Path = tmp_path_factory.mktemp("data")
            runtime = Runtime(classes, data_dir=directory if on_disk else None, settings=Settings(**settings))
            await runtime.__aenter__()
            admin = Admin(runtime.engine)
            running.append((admin, runtime))
            [(host, port)] = await admin.start("127.0.0.1", 0)
            return Asker(runtime, directory, f"http://{host}:{port}", session)

        yield start
        for admin, runtime in running:
            await admin.close(0)
            await runtime.__aexit__(None, None, None)

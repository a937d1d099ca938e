"""A server that answers by script, and the real runtime in memory behind a real ingress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field

import pytest

from perdure.journal import MemoryJournal
from perdure.runtime.clock import SystemClock
from perdure.runtime.engine import Engine
from perdure.runtime.ingress import Ingress
from perdure.runtime.registry import Registry
from perdure.runtime.settings import Settings


@dataclass
class Received:
    """One request as the scripted server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Scripted:
    """Answers each request with the next of `script`: bytes; None closes without an answer, a tuple in its middle."""

    script: list[bytes | tuple[bytes] | None] = field(default_factory=list["bytes | tuple[bytes] | None"])
    received: list[Received] = field(default_factory=list[Received])
    port: int = 0
    at_work: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def keys(self) -> list[str | None]:
        return [request.headers.get("idempotency-key") for request in self.received]

    def will(self, *script: bytes | tuple[bytes] | None) -> None:
        self.script[:] = script

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                start, *lines = head.strip().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                method, path, _ = start.split(" ")
                self.received.append(Received(method, path, headers, body))
                self.at_work()
                answer = self.script.pop(0)
                if answer is None:
                    break
                if isinstance(answer, tuple):
                    writer.write(answer[0])
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    made = Scripted()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@pytest.fixture
async def runtime() -> AsyncIterator[Callable[..., Coroutine[object, None, str]]]:
    """`await runtime(Counter, …)` serves these classes and gives the ingress's URL."""
    running: list[tuple[Engine, Ingress]] = []

    async def start(*classes: type) -> str:
        settings = Settings()
        engine = await Engine.open(Registry(classes), MemoryJournal(), settings, SystemClock())
        ingress = Ingress(engine, settings)
        [(host, port)] = await ingress.start("127.0.0.1", 0)
        running.append((engine, ingress))
        return f"http://{host}:{port}"

    yield start
    for engine, ingress in running:
        await ingress.close(0)
        await engine.close()

"""Commands as they are typed, against both ports of a runtime on a disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from perdure.runtime import Runtime, Settings, cli
from perdure.runtime.access import Access, Tokens
from perdure.runtime.admin import Admin
from perdure.runtime.ingress import Ingress


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one line on stderr, of a command that has nothing else to say."""
        assert self.out == ""
        assert self.err.startswith("perdure: ")
        assert self.err.count("\n") == 1
        assert self.err[:-1].isprintable()
        return self.err


class Typist:
    """Somebody at a terminal, and the process that they talk to."""

    def __init__(self, runtime: Runtime, admin: str, ingress: str) -> None:
        self.runtime = runtime
        self.admin = admin
        self.ingress = ingress
        self.capture: pytest.CaptureFixture[str] | None = None

    async def types(self, *arguments: str) -> Said:
        """`perdure` and these; the addresses stand in the environment."""
        assert self.capture is not None
        self.capture.readouterr()
        code = await asyncio.to_thread(cli.run, arguments)
        out, err = self.capture.readouterr()
        return Said(code, out, err)

    async def status(self, id: str) -> str:
        return self.runtime.engine.operations.describe(id).status

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(20):
            while not await condition():
                await asyncio.sleep(0)


Serve = Callable[..., Coroutine[object, None, Typist]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serve(tmp_path_factory: Any) -> AsyncIterator[Serve]:
    """`await serve(Class, …, token=b"…")`; it lasts as long as the tests of a file."""
    running: list[tuple[Admin, Ingress, Runtime]] = []

    async def start(*classes: type, token: bytes | None = None) -> Typist:
        directory: Path = tmp_path_factory.mktemp("data")
        runtime = Runtime(classes, data_dir=directory, settings=Settings(sql_running_max=4))
        await runtime.__aenter__()
        admin = Admin(runtime.engine, None if token is None else Access(Tokens([token])))
        ingress = Ingress(runtime.engine, Settings())
        running.append((admin, ingress, runtime))
        [(admin_host, admin_port)] = await admin.start("127.0.0.1", 0)
        [(host, port)] = await ingress.start("127.0.0.1", 0)
        return Typist(runtime, f"http://{admin_host}:{admin_port}", f"http://{host}:{port}")

    yield start
    for admin, ingress, runtime in running:
        await admin.close(0)
        await ingress.close(0)
        await runtime.__aexit__(None, None, None)


@pytest.fixture
def typing(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[Typist], Typist]:
    """What they type goes to that process, and what it prints is caught."""

    def sit_down(typist: Typist) -> Typist:
        monkeypatch.setenv("PERDURE_ADMIN", typist.admin)
        monkeypatch.setenv("PERDURE_INGRESS", typist.ingress)
        typist.capture = capfd
        return typist

    return sit_down

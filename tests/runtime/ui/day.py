"""A day of the examples behind an admin port: what ended, what waits, what is stuck.  For tests and screenshots."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from perdure.objects import List, TerminalError, VirtualObject, handler
from perdure.runtime import RemoteHandle, Runtime, Settings
from perdure.runtime.access import Access, Tokens
from perdure.runtime.admin import Admin

T = TypeVar("T")

EXAMPLES = Path(__file__).parents[3] / "examples"
SECONDS_MAX = 30.0
NOBODY = "http://127.0.0.1:1"
"""Where payments.py looks for a bank, and there is none: its payments are tried again and again."""


class Diary(VirtualObject):
    """No example has a List."""

    pages: List[str]
    owner: str = ""

    @handler
    async def write(self, owner: str, text: str) -> int:
        self.owner = owner
        self.pages.append(text)
        return len(self.pages)


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"page_example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where annotations are looked up
    spec.loader.exec_module(module)
    return module


def classes_of(module: ModuleType, *names: str) -> list[type]:
    return [getattr(module, name) for name in names]


@dataclass
class Day:
    """Some invocations by what they are, and what is asked of the runtime from another thread."""

    url: str
    runtime: Runtime
    loop: asyncio.AbstractEventLoop
    modules: dict[str, Any]
    ids: dict[str, str]

    def do(self, doing: Coroutine[object, None, T]) -> T:
        """On the runtime's loop."""
        return asyncio.run_coroutine_threadsafe(doing, self.loop).result(SECONDS_MAX)

    def status(self, id: str) -> str:
        async def ask() -> str:
            return self.runtime.engine.operations.describe(id).status

        return self.do(ask())

    def send(self, handler: Any, *arguments: object) -> str:
        """The id of an invocation that began now."""

        async def sent() -> str:
            handle: RemoteHandle[Any] = await self.runtime.send(handler, *arguments)
            return handle.id

        return self.do(sent())


class Server:
    """A runtime and its admin port on a loop of their own, since a browser's driver blocks."""

    def __init__(self, data_dir: Path, token: bytes | None = None, more: tuple[type, ...] = ()) -> None:
        self._more = more
        self._data_dir = data_dir
        self._token = token
        self._started = threading.Event()
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self.day: Day | None = None
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)

    def __enter__(self) -> Day:
        self._thread.start()
        self._started.wait(SECONDS_MAX)
        if self.day is None:
            raise RuntimeError("the runtime did not come up") from self._failure
        return self.day

    def __exit__(self, *_: object) -> None:
        assert self.day is not None
        assert self._stop is not None
        self.day.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(SECONDS_MAX)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as failure:
            self._failure = failure
            raise
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        os.environ["BANK_URL"] = NOBODY
        modules: dict[str, Any] = {
            name: example(name) for name in ("bank", "chat", "payments", "reminders", "reports", "signup", "video")
        }
        classes = [
            *self._more,
            *classes_of(modules["bank"], "Account"),
            *classes_of(modules["chat"], "Chat"),
            *classes_of(modules["payments"], "Order"),
            *classes_of(modules["reminders"], "Reminders", "Post"),
            *classes_of(modules["reports"], "Shop", "Stock"),
            *classes_of(modules["signup"], "Signup"),
            *classes_of(modules["video"], "Video", "Desk"),
        ]
        settings = Settings(sql_running_max=4)
        async with Runtime(classes, data_dir=self._data_dir, settings=settings) as runtime:
            admin = Admin(runtime.engine, None if self._token is None else Access(Tokens([self._token])))
            try:
                [(host, port)] = await admin.start("127.0.0.1", 0)
                ids = await live_a_day(runtime, modules)
                self.day = Day(f"http://{host}:{port}", runtime, asyncio.get_running_loop(), modules, ids)
                self._started.set()
                await self._stop.wait()
            finally:
                await admin.close(0)


async def live_a_day(runtime: Runtime, modules: dict[str, Any]) -> dict[str, str]:
    """What the docstrings of the examples tell, up to where somebody has to look."""
    ids: dict[str, str] = {}
    modules["chat"].MODEL.latency_seconds, modules["chat"].MODEL.fails_every = 0, 0

    async def send(name: str, handler: Any, *arguments: object, key: str | None = None, **named: object) -> Any:
        handle = await runtime.send(handler.options(idempotency_key=key or name), *arguments, **named)
        ids[name] = handle.id
        return handle

    account = modules["bank"].Account
    await runtime.ref(account, "alice").deposit(100_00)
    await runtime.ref(account, "bob").deposit(25_00)
    transfer = await send("transfer", runtime.ref(account, "alice").transfer_and_wait, "bob", 30_00)
    await transfer.attach()
    refused = await send("refused", runtime.ref(account, "bob").withdraw, 999_00)
    await _failed(refused.attach())
    chat = modules["chat"].Chat
    said = await send("chat", runtime.ref(chat, "ann").say, "Do I need an umbrella in Oslo?")
    await said.attach()

    signup = modules["signup"].Signup
    waiting = await send("signup", runtime.ref(signup, "ann").run, "ann@example.com")
    await until(runtime, waiting.id, "suspended")
    video = modules["video"].Video
    film = await send("video", runtime.ref(video, "cats").run, "Cats")
    await runtime.ref(video, "cats").uploaded(modules["video"].Upload("s3://inbox/cats.mov", 30))
    await until_stage(runtime.ref(video, "cats").status, "waiting for approval")
    await until(runtime, film.id, "suspended")

    reminders = modules["reminders"].Reminders
    await runtime.ref(reminders, "ann").remind("tax", "declare", modules["reminders"].datetime(2099, 5, 31, tzinfo=UTC))
    shop = modules["reports"].Shop
    for article, euros in (("tea", 4), ("cake", 3)):
        await runtime.ref(shop, "berlin").sell(article, euros)

    order = modules["payments"].Order
    stuck = await send("stuck", runtime.ref(order, "o-1007").pay, 4900)
    await send("queued", runtime.ref(order, "o-1007").pay, 4900, key="again")
    await until(runtime, stuck.id, "backing-off", retries=3)
    return ids


async def _failed(outcome: Awaitable[object]) -> None:
    try:
        await outcome
    except TerminalError:
        return
    raise AssertionError("it was to fail")


async def until(runtime: Runtime, id: str, status: str, retries: int = 0) -> None:
    """The loop runs on meanwhile; what is waited for comes of it."""
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            view = runtime.engine.operations.describe(id)
            if view.status == status and view.retry_count >= retries:
                return
            await asyncio.sleep(0)


async def until_stage(ask: Callable[[], Awaitable[str]], stage: str) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while await ask() != stage:
            await asyncio.sleep(0)

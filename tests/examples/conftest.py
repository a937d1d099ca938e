"""What the tests of the examples share: a fresh copy of an example, its curl lines, power cuts, a bank."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import json
import random
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from perdure.journal import MemoryJournal, SyncFailed
from perdure.runtime import ManualClock, OutcomeUnknown, Refused, Runtime, Settings

if TYPE_CHECKING:
    from tests.conftest import Perdure

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture
def seconds_max() -> int:
    """How long a test may take; one that needs more says so by a fixture of its own."""
    return 40


@pytest.fixture(autouse=True)
def fails_rather_than_hangs(request: pytest.FixtureRequest, seconds_max: int) -> Iterator[None]:
    """Where time stands still, whoever waits for something that does not come would wait for ever."""

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError(f"the test {request.node.name} waits for something that does not come")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds_max)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# --- in process, under a clock that stands still ----------------------------------------------------------------------


@pytest.fixture
def load() -> Callable[[str], Any]:
    """Loads an example anew, so that its stub of the outside world is as at the start."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where annotations are looked up
        spec.loader.exec_module(module)
        return module

    return load


class PowerCut(MemoryJournal):
    """A journal whose disk is gone at its `lasts`-th record: what was synced before is what the next start finds."""

    def __init__(self, lasts: int) -> None:
        super().__init__()
        self.lasts = lasts
        self.gone = False
        self._fail: Callable[[BaseException], None] | None = None

    def subscribe(self, on_synced: Any, on_failed: Any, on_stalled: Any = None) -> None:
        super().subscribe(on_synced, on_failed, on_stalled)
        self._fail = on_failed

    def flush(self, *, alone: bool = False) -> None:
        if self.next_lsn - 1 <= self.lasts:
            super().flush(alone=alone)
        elif not self.gone:
            self.gone = True
            assert self._fail is not None
            self._fail(SyncFailed("the power was cut"))


@dataclass
class Machine:
    """Runs a story in a runtime; cuts the power after each record in turn, and lets the next start go on."""

    classes: list[type]
    settings: Settings

    async def with_power_cuts(
        self, new_world: Callable[[], None], story: Callable[[Runtime], Any], check: Callable[[Runtime], Any]
    ) -> int:
        """`story` is told again after a power cut, so it must be one that may be; returns how many cuts there were."""
        lasts = 0
        while True:
            new_world()
            clock, journal = ManualClock(), PowerCut(lasts)
            async with self._runtime(clock, journal) as runtime:
                with suppress(OutcomeUnknown, Refused):
                    await story(runtime)
            async with self._runtime(clock, MemoryJournal(journal.records)) as runtime:
                await story(runtime)
                await check(runtime)
            if not journal.gone:
                return lasts
            lasts += 1

    def _runtime(self, clock: ManualClock, journal: MemoryJournal) -> Runtime:
        return Runtime(self.classes, data_dir=None, clock=clock, journal=journal, settings=self.settings)


@pytest.fixture(params=[False, True], ids=["", "replay-always"])
def machine(request: pytest.FixtureRequest) -> Callable[..., Machine]:
    """Once as it is, and once with each handler run from its start at every turn."""
    return lambda *classes: Machine(list(classes), Settings(replay_always=request.param))


# --- over HTTP, with the curl lines of the docstring ------------------------------------------------------------------


class Story:
    """The curl lines of an example's docstring, asked one after the other of the process that serves it."""

    def __init__(self, example: str, server: Perdure, curl: bool) -> None:
        text = ast.get_docstring(ast.parse((EXAMPLES / f"{example}.py").read_text())) or ""
        commands = re.findall(r"^    (\w+ (?:.*\\\n)*(?:[^']|'[^']*')*?)$", text, re.MULTILINE)
        self.commands = [shlex.split(command.replace("\\\n", " ")) for command in commands]
        self.asked = 0
        self._server = server
        self._curl = curl
        self._addresses: dict[str, str] = {}

    async def start(self) -> None:
        await self._server.start()

    def replace(self, address: str, real: str) -> None:
        """Another server that the lines speak to, by the address it really has."""
        self._addresses[address] = real

    @property
    def lines(self) -> list[list[str]]:
        return [arguments for program, *arguments in self.commands if program == "curl"]

    async def next(self, **variables: str) -> tuple[int, Any]:
        """Status and JSON of the next line's answer; None for no content, server-sent events as they came."""
        arguments = [string.Template(argument).substitute(variables) for argument in self.lines[self.asked]]
        self.asked += 1
        return await self._ask(arguments)

    async def again(self, **variables: str) -> Any:
        """The line before, once more."""
        self.asked -= 1
        return (await self.next(**variables))[1]

    async def _ask(self, arguments: list[str]) -> tuple[int, Any]:
        self._addresses["localhost:8080"] = urlsplit(await self._server.serving()).netloc
        serving = next(event for event in self._server.events if event.get("event") == "serving")
        self._addresses["localhost:9070"] = urlsplit(str(serving["admin"])).netloc
        for address, real in self._addresses.items():
            arguments = [argument.replace(address, real) for argument in arguments]
        status, text = await (_ask_with_curl if self._curl else _ask_with_aiohttp)(arguments)
        return status, text if text.startswith("id: ") else json.loads(text) if text else None


async def _ask_with_curl(arguments: list[str]) -> tuple[int, str]:
    """In a thread: the bank of payments.py lives in this process."""
    command = ["curl", "-sS", "--max-time", "30", "-w", "\n%{http_code}", *arguments]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    text, _, status = done.stdout.rpartition("\n")
    return int(status), text


async def _ask_with_aiohttp(arguments: list[str]) -> tuple[int, str]:
    """What curl would send, for machines whose curl is older than --json (7.82), or missing."""
    url, body, method = arguments[0], None, None
    headers: dict[str, str] = {}
    for option, value in zip(arguments[1::2], arguments[2::2], strict=True):
        if option == "-H":
            name, _, header = value.partition(":")
            headers[name] = header.strip()
        elif option == "-X":
            method = value
        else:
            assert option == "--json"
            body = value
    method = method or ("GET" if body is None else "POST")
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{url}", data=body, headers=headers) as response,
    ):
        return response.status, await response.text()


def _curl_is_too_old() -> bool:
    if shutil.which("curl") is None:
        return True
    said = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    version = re.match(r"curl (\d+)\.(\d+)", said)
    return version is None or (int(version[1]), int(version[2])) < (7, 82)


@pytest.fixture(
    params=[
        pytest.param(
            True, marks=pytest.mark.skipif(_curl_is_too_old(), reason="no curl with --json (7.82)"), id="curl"
        ),
        pytest.param(False, id="aiohttp"),
    ]
)
def story(request: pytest.FixtureRequest, perdure: Callable[..., Perdure]) -> Callable[[str], Story]:
    """Makes the story of an example's docstring, which has to say how that very file is served."""

    def make(example: str) -> Story:
        target = f"examples/{example}.py"
        story = Story(example, perdure(target), request.param)
        assert ["perdure", "serve", target] in story.commands
        return story

    return make


# --- the bank of payments.py ------------------------------------------------------------------------------------------


@pytest.fixture
async def serve_bank(load: Callable[[str], Any]) -> AsyncIterator[Callable[..., Any]]:
    """Serves a flaky bank in this process, so that it outlives the ones that are killed; gives it and its URL."""
    runners: list[web.AppRunner] = []

    async def serve(seed: int = 1, **options: float) -> tuple[Any, str]:
        bank = load("flaky_bank").FlakyBank(random.Random(seed), **options)
        runners.append(web.AppRunner(bank.application()))
        await runners[-1].setup()
        site = web.TCPSite(runners[-1], "127.0.0.1", 0)
        await site.start()
        return bank, f"http://127.0.0.1:{runners[-1].addresses[0][1]}"

    yield serve
    for runner in runners:
        await runner.cleanup()

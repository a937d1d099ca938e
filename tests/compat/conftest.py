"""Restate's command line and its ingress client, as npm has them, against a real `perdure serve` of the examples."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.conftest import ROOT, Perdure

HERE = Path(__file__).parent
EXAMPLES = tuple(f"examples/{name}.py" for name in ("counter", "bank", "checkout", "signup", "reminders"))
NPM_SECONDS_MAX = 500
SECONDS_MAX = 90
TIMEOUT = ("--request-timeout", str(SECONDS_MAX * 1000))
SETTINGS = f"sql_seconds_max = {SECONDS_MAX}"
"""Queries give way to everything else on the machine."""

_NO_REGISTRY = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ENOTCACHED|EAI_FAIL")


@pytest.fixture(scope="session")
def packages() -> Path:
    """Where package-lock.json is installed: once for each lock, whichever tests and processes ask."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: Restate's own tools can't be run")
    lock = (HERE / "package-lock.json").read_bytes()
    folder = ROOT / "build" / "compat" / hashlib.sha256(lock).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, folder)
            _install(folder)
            (folder / "installed").touch()
    return folder


def _install(folder: Path) -> None:
    """Without scripts: one of theirs reports the installation, none is needed."""
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=NPM_SECONDS_MAX, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm's registry did not answer in time: Restate's own tools can't be run")
    if done.returncode != 0 and (why := _NO_REGISTRY.search(done.stderr)) is not None:
        pytest.skip(f"npm's registry is out of reach ({why[0]}): Restate's own tools can't be run")
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def ok(self) -> str:
        assert self.code == 0, self.out + self.err
        return self.out

    @property
    def json(self) -> Any:
        return json.loads(self.ok)

    @property
    def complaint(self) -> str:
        assert self.code != 0, self.out
        return self.err

    def row(self, first: str) -> list[str]:
        """The cells of the line of a table in which `first` stands."""
        [line] = [line for line in self.ok.splitlines() if first in line.split()]
        return line.split()


class Office:
    """One `perdure serve`, Restate's tools in front of it, and what it says itself of what they did."""

    def __init__(self, perdure: Perdure, session: aiohttp.ClientSession, packages: Path, home: Path) -> None:
        self._perdure = perdure
        self._session = session
        self._packages = packages
        self._home = home
        self.token: str | None = None

    async def urls(self) -> tuple[str, str]:
        """Of the ingress, and of the admin port."""
        ingress = await self._perdure.serving()
        return ingress, next(str(event["admin"]) for event in self._perdure.events if event.get("event") == "serving")

    async def restate(self, *arguments: str, editor: str | None = None) -> Said:
        """`restate --yes` and these."""
        ingress, admin = await self.urls()
        environment = {
            "RESTATE_ADMIN_URL": admin,
            "RESTATE_INGRESS_URL": ingress,
            "RESTATE_CLI_CONFIG_HOME": str(self._home),
        }
        if self.token is not None:
            environment["RESTATE_AUTH_TOKEN"] = self.token
        if editor is not None:
            script = self._home / "editor.sh"
            script.write_text(f"#!/bin/sh\nset -e\n{editor}\n")
            script.chmod(0o700)
            environment["EDITOR"] = environment["VISUAL"] = str(script)
        return await self._run(
            [str(self._packages / "node_modules/.bin/restate"), "--yes", *TIMEOUT, *arguments], environment
        )

    async def client(self, story: str) -> Any:
        """What `client.mjs` was told in it."""
        shutil.copy(HERE / "client.mjs", self._packages)  # a module is looked for from where the file lies
        ingress, _ = await self.urls()
        return (await self._run(["node", str(self._packages / "client.mjs"), ingress, story], {})).json

    async def call(self, path: str, body: object = None, *, key: str | None = None) -> Any:
        answer = await self._perdure.call(path, body, key=key)
        assert answer.ok, answer
        return answer.value

    async def sql(self, statement: str) -> list[dict[str, Any]]:
        """Our own words, at our own path."""
        _, admin = await self.urls()
        headers = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        async with self._session.post(f"{admin}/query", json={"query": statement}, headers=headers) as response:
            assert response.status == 200, await response.text()
            rows: list[dict[str, Any]] = (await response.json())["rows"]
            return rows

    async def statuses(self, target: str) -> list[str]:
        return [row["status"] for row in await self.sql(f"SELECT status FROM sys_invocation WHERE target = '{target}'")]

    async def order(self, name: str) -> str:
        """One that waits for an hour; its id."""
        order = {
            "items": [{"sku": f"lamp-{name}", "count": 1, "cents": 4900}],
            "card": "4242",
            "address": "Main Street 1",
            "may_change_mind_for": "PT1H",
        }
        await self.call(f"/Stock/lamp-{name}/restock", 5)
        sent = await self.call(f"/Checkout/{name}/run/send", order)
        async with asyncio.timeout(SECONDS_MAX):
            while await self.statuses(f"Checkout/{name}/run") != ["suspended"]:
                pass
        return str(sent["invocationId"])

    async def _run(self, command: list[str], environment: dict[str, str]) -> Said:
        inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**inherited, **environment, "HOME": str(self._home), "NO_COLOR": "1", "DO_NOT_TRACK": "1"},
            cwd=self._home,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(SECONDS_MAX):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Said(process.returncode, out.decode(), err.decode())


Open = Callable[..., Coroutine[object, None, Office]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_office(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Open]:
    """`await open_office("an option of perdure serve", …, token="…")`; it lasts as long as the tests of a file."""
    opened: list[Perdure] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS_MAX)) as session:

        async def start(*options: str, token: str | None = None) -> Office:
            perdure = Perdure(EXAMPLES, tmp_path_factory.mktemp("served") / "data", session)
            settings = tmp_path_factory.mktemp("settings") / "perdure.toml"
            settings.write_text(SETTINGS)
            perdure.options = ("--config", str(settings), *options)
            opened.append(perdure)
            await perdure.start()
            await perdure.serving()
            office = Office(perdure, session, packages, tmp_path_factory.mktemp("home"))
            office.token = token
            return office

        yield start
        for perdure in opened:
            await perdure.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def office(open_office: Open) -> Office:
    return await open_office()

"""Each example does what its docstring says: over HTTP with the docstring's own curl lines, and in process."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from perdure.runtime import Runtime

if TYPE_CHECKING:
    from tests.conftest import Perdure

EXAMPLES = Path(__file__).parent.parent / "examples"
NOT_SERVED = {"demo.py", "flaky_bank.py"}
"""demo.py is a script that serves others; flaky_bank.py stands for somebody else's service."""

TESTED_ELSEWHERE = {
    f"{file.stem.removeprefix('test_')}.py" for file in (Path(__file__).parent / "examples").glob("test_*.py")
}
"""Those whose curl lines need what an earlier answer gave."""

# What the docstring's curl lines give, one after the other.
ANSWERS: dict[str, list[object]] = {
    "counter.py": [3, 3],
    "bank.py": [100, 70, 65, 35],
}
# A message may still be on its way when its sender is asked about it, so the last line is asked until this is there.
POLLS_MAX = 200


def docstring(example: str) -> str:
    return ast.get_docstring(ast.parse((EXAMPLES / example).read_text())) or ""


def commands(example: str, program: str) -> list[list[str]]:
    lines = [line.strip() for line in docstring(example).splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"{program} ")]


def load(example: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{Path(example).stem}", EXAMPLES / example)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where annotations are looked up
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    """A new example needs its answers here, and one that is gone leaves none behind."""
    assert {path.name for path in EXAMPLES.glob("*.py")} - NOT_SERVED - TESTED_ELSEWHERE == ANSWERS.keys()


@pytest.mark.parametrize("example", ANSWERS)
def test_the_docstring_says_how_to_serve_and_ask(example: str) -> None:
    """One line to serve this very file, and a curl line for each answer that is expected below."""
    assert commands(example, "perdure") == [["serve", f"examples/{example}"]]
    assert len(commands(example, "curl")) == len(ANSWERS[example])


# --- over HTTP --------------------------------------------------------------------------------------------------------


async def ask_with_curl(arguments: list[str], address: str) -> object:
    """The line itself, run by curl on the address that is really served."""
    arguments = [argument.replace("localhost:8080", address) for argument in arguments]
    curl = ["curl", "-sS", "--fail-with-body", "--max-time", "30"]
    done = subprocess.run([*curl, *arguments], capture_output=True, check=False)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return json.loads(done.stdout)


async def ask_with_aiohttp(arguments: list[str], address: str) -> object:
    """What curl would send, for machines whose curl is older than --json (7.82), or missing."""
    url, body = arguments[0], None
    headers: dict[str, str] = {}
    for option, value in zip(arguments[1::2], arguments[2::2], strict=True):
        if option == "-H":
            name, _, header = value.partition(":")
            headers[name] = header.strip()
        else:
            assert option in ("--json", "-d")
            body = value
    url = f"http://{url.replace('localhost:8080', address)}"
    async with (
        aiohttp.ClientSession() as session,
        session.request("GET" if body is None else "POST", url, data=body, headers=headers) as response,
    ):
        assert response.status == 200, await response.text()
        return await response.json()


def curl_is_too_old() -> bool:
    if shutil.which("curl") is None:
        return True
    said = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    version = re.match(r"curl (\d+)\.(\d+)", said)
    return version is None or (int(version[1]), int(version[2])) < (7, 82)


@pytest.mark.parametrize("example", ANSWERS)
@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(ask_with_curl, marks=pytest.mark.skipif(curl_is_too_old(), reason="no curl with --json (7.82)")),
        ask_with_aiohttp,
    ],
)
async def test_the_curl_lines_give_what_they_should(
    example: str, ask: Callable[[list[str], str], Any], perdure: Callable[..., Perdure]
) -> None:
    """The process serves the file as the docstring says, and each line gets its answer."""
    server = perdure(*commands(example, "perdure")[0][1:])
    await server.start()
    address = urlsplit(await server.serving()).netloc
    *lines, last = commands(example, "curl")
    *answers, final = ANSWERS[example]

    assert [await ask(line, address) for line in lines] == answers
    answer = None
    for _ in range(POLLS_MAX):
        if (answer := await ask(last, address)) == final:
            break
    assert answer == final
    assert await server.stop() == 0


# --- in process -------------------------------------------------------------------------------------------------------


async def test_the_counter_counts_in_process() -> None:
    """As in its docstring, and `reset`, which curl doesn't show."""
    counter = load("counter.py")
    async with Runtime([counter.Counter], data_dir=None) as runtime:
        a = runtime.ref(counter.Counter, "a")

        assert await a.add(3) == 3
        assert await a.add() == 4
        assert await a.get() == 4
        await a.reset()
        assert await a.get() == 0
        assert await runtime.ref(counter.Counter, "b").get() == 0


async def test_the_bank_moves_money_in_process_and_refuses_what_it_must() -> None:
    """Both transfers move money, a refusal moves none, and the sum never changes."""
    bank = load("bank.py")
    async with Runtime([bank.Account], data_dir=None) as runtime:
        alice, bob = runtime.ref(bank.Account, "alice"), runtime.ref(bank.Account, "bob")
        await alice.deposit(100)

        assert await alice.transfer_and_wait("bob", 5) == 95
        assert await bob.look() == 5
        with pytest.raises(bank.InsufficientFunds, match="alice has 95"):
            await alice.transfer("bob", 96)
        assert await alice.transfer("bob", 30) == 65
        assert await bob.withdraw(35) == 0  # behind the deposit in bob's mailbox
        assert [await alice.look(), await bob.look()] == [65, 0]


async def test_a_transfer_outlives_the_runtime_in_process(tmp_path: Path) -> None:
    """With a data directory the accounts are there at the next start."""
    bank = load("bank.py")
    async with Runtime([bank.Account], data_dir=tmp_path) as runtime:
        await runtime.ref(bank.Account, "alice").deposit(100)
        await runtime.ref(bank.Account, "alice").transfer_and_wait("bob", 40)

    async with Runtime([bank.Account], data_dir=tmp_path) as runtime:
        assert await runtime.ref(bank.Account, "alice").look() == 60
        assert await runtime.ref(bank.Account, "bob").look() == 40

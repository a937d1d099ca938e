"""Each command as it is typed in a shell, as a process of its own, against a `perdure serve` that is one, too."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import socket
from typing import Any, Final

import pytest

from perdure.runtime import cli

COMMAND: Final = [sys.executable, "-m", "perdure.runtime"]
ROOT: Final = Path(__file__).parents[3]
SECONDS_MAX: Final = 60
FAR: Final = timedelta(seconds=4)
UNKNOWN_ID: Final = "inv_" + "0" * 35

CLASSES: Final = """
from datetime import timedelta

from perdure.objects import Service, VirtualObject, every, handler


class Till(VirtualObject):
    held: int = 0

    @handler
    async def put(self, amount: int) -> int:
        self.held += amount
        return self.held

    @handler
    async def look(self) -> str:
        return "long " * 10_000

    @handler
    async def wait(self) -> None:
        await self.ctx.awakeable(int)


class Guard(Service):
    @handler(schedules=[every(timedelta(hours=1))])
    async def look(self) -> None: ...
"""

TYPED: Final = {
    "serve": "",  # the fixture's, which also ends it
    "services list": "Till .* VirtualObject",
    "services describe Till": "put .* exclusive .* integer",
    "call Till/a/put 5": "^[0-9]+$",
    "send Till/a/put 5 --delay 1h": "^accepted inv_[0-9a-f]{35}$",
    "invocations list Till/{waiting}": "{waiting}/wait .* suspended .* awakeable",
    "invocations describe {id}": "Awakeable",
    "invocations describe Till/{waiting}": "Awakeable",
    "invocations cancel Till/{waiting}": "^asked to end inv_.* Till/{waiting}/wait$",
    "invocations kill Till/{waiting}": "^killed inv_.* Till/{waiting}/wait$",
    "invocations pause Till/{waiting}": "^paused inv_.* Till/{waiting}/wait$",
    "invocations resume Till/{paused}": "^resumed inv_.* Till/{paused}/wait$",
    "invocations purge Till/{kept}": "^purged inv_.* Till/{kept}/put$",
    "invocations restart Till/{kept}": "^restarted inv_.* Till/{kept}/put as inv_",
    "state keys Till --after {before}": "^Till/{used}$",
    "state get Till/{used}": '"held": 1$',
    "state set Till/{used} held 8": "^Till/{used}: held is set$",
    "state edit Till/{used}": "^Till/{used} is changed$",
    "state clear Till/{used} --yes": "^Till/{used} is cleared$",
    "schedules list": "Guard/look .* every",
    "schedules pause Guard/look": "^paused Guard/look$",
    "schedules resume Guard/look": "^resumed Guard/look$",
    "schedules trigger Guard/look": "^triggered Guard/look inv_",
    "sql {select}": "^1 row$",
    "check {classes} --data-dir {data}": " 0 would diverge",
    "replay {classes} {id} --data-dir {data}": "^{id} .* 1 turn replayed as recorded",
    "journal verify {data}": "^whole: ",
    "journal dump {data}": "Invoked",
    "store verify {data}": "^whole: ",
    "store rebuild {copy}": "made anew",
    "backup {data} {new}": "^{new}: a store up to record ",
    "restore {backup} {new}": "^{new}: a store up to record ",
    "new {new}": "README.md",
    "completion bash": "_PERDURE_COMPLETE=bash_complete",
}
"""What is typed, and a line of what is printed then.  {waiting}: a key whose handler waits, and so on."""


@dataclass(frozen=True)
class Served:
    """A process that serves CLASSES, and a shell beside it."""

    classes: Path
    data: Path
    admin: str
    ingress: str

    @property
    def environment(self) -> dict[str, str]:
        addresses = {"PERDURE_ADMIN": self.admin, "PERDURE_INGRESS": self.ingress}
        return os.environ | addresses | {"EDITOR": "sed -i s/1/7/"}

    def types(self, *words: str) -> str:
        """What is printed; the exit code is 0."""
        done = subprocess.run(
            [*COMMAND, *words], env=self.environment, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    def posts(self, path: str, body: object = None, **headers: str) -> Any:
        sent = b"" if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.ingress + path, sent, named, method="POST")
        with urllib.request.urlopen(request, timeout=SECONDS_MAX) as response:
            return json.load(response)

    def waiting(self, key: str) -> str:
        """Its id, once it waits."""
        id: str = self.posts(f"/Till/{key}/wait/send")["invocationId"]
        while self.invocation(id)["status"] != "suspended":
            pass
        return id

    def invocation(self, id: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.admin}/invocations/{id}", timeout=SECONDS_MAX) as response:
            found: dict[str, Any] = json.load(response)
            return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One process for all tests of this file; it is told to end after them."""
    directory = tmp_path_factory.mktemp("served")
    classes, data = directory / "till.py", directory / "data"
    classes.write_text(CLASSES)
    with serving(str(classes), data) as where:
        served = Served(classes, data, where["admin"], where["ingress"])
        served.posts("/Till/first/put", 1)  # so that there is a record, whichever test comes first
        yield served


@contextmanager
def serving(target: str, data: Path, **environment: str) -> Generator[dict[str, Any]]:
    """Where it serves.  SIGTERM ends it, with exit code 0."""
    ports = ["--ingress", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    arguments = ["serve", target, "--data-dir", str(data), *ports, "--log-format", "json"]
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = (json.loads(line) for line in process.stderr)
        try:
            yield next(line for line in said if line["event"] == "serving")
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=SECONDS_MAX)
        finally:
            process.kill()  # or leaving it would wait for ever after a test that failed
    assert process.returncode == 0


Filled = Callable[[str], str]


@pytest.fixture
def filled(served: Served, tmp_path: Path, request: pytest.FixtureRequest) -> Filled:
    """Text with each of its {names} as what it stands for, made when it is asked for: for this test alone."""
    key = re.sub(r"\W", "-", request.node.name)

    def waiting() -> str:
        served.waiting(key)
        return key

    def paused() -> str:
        served.types("invocations", "pause", served.waiting(key))
        return key

    def used() -> str:
        served.posts(f"/Till/{key}/put", 1)
        return key

    def kept() -> str:
        """Its result: it has an idempotency key."""
        served.posts(f"/Till/{key}/put", 1, idempotency_key=key)
        return key

    def backup() -> str:
        served.types("backup", str(served.data), str(tmp_path / "backup.tar"))
        return str(tmp_path / "backup.tar")

    def copy() -> str:
        served.types("restore", backup(), str(tmp_path / "copy"))
        return str(tmp_path / "copy")

    made: dict[str, str] = {}
    make: dict[str, Callable[[], str]] = {
        "waiting": waiting,
        "paused": paused,
        "used": used,
        "before": lambda: used()[:-1],
        "kept": kept,
        "backup": backup,
        "copy": copy,
        "id": lambda: served.waiting(key),
        "select": lambda: "SELECT name FROM sys_service WHERE name = 'Till'",
        "classes": lambda: str(served.classes),
        "data": lambda: str(served.data),
        "new": lambda: str(tmp_path / "new"),
    }

    def fill(text: str) -> str:
        def value(match: re.Match[str]) -> str:
            name = match[1]
            if name not in made:
                made[name] = make[name]()
            return made[name]

        return re.sub(r"\{([a-z]+)\}", value, text)

    return fill


def commands_of(command: Any, *path: str) -> list[tuple[str, ...]]:
    if hasattr(command, "commands"):
        return [each for name, one in command.commands.items() for each in commands_of(one, *path, name)]
    return [path]


def test_no_command_is_left_out() -> None:
    """One that is new has to be typed here, too."""
    typed = {tuple(line.split()) for line in TYPED}
    left_out = [path for path in commands_of(cli.commands) if not any(words[: len(path)] == path for words in typed)]

    assert left_out == []


@pytest.mark.parametrize("line", [line for line in TYPED if line != "serve"])
def test_it_does_what_it_is_for(served: Served, filled: Filled, line: str) -> None:
    """It ends with 0, and says so in its words."""
    said = served.types(*(filled(word) for word in line.split()))

    assert re.search(filled(TYPED[line]), said, re.MULTILINE), said


ASKING: Final = ("services", "call", "send", "invocations", "state", "schedules", "sql")


@pytest.mark.parametrize("line", [line for line in TYPED if line.startswith(ASKING)])
def test_nobody_answers(
    line: str, filled: Filled, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and an exit code of its own, whatever was asked."""
    words = [re.sub(r"[{}]", "", word) for word in line.split()]
    words = [filled("{select}") if word == "select" else UNKNOWN_ID if word == "id" else word for word in words]
    monkeypatch.setenv("PERDURE_ADMIN", "http://127.0.0.1:1")
    monkeypatch.setenv("PERDURE_INGRESS", "http://127.0.0.1:1")

    assert cli.run(words) == 4

    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "is `perdure serve` running?" in err


PRINTING: Final = (
    "--help",
    "completion bash",
    "services list",
    "services list --json",
    "call Till/a/put 5",
    "call Till/a/look",
    "sql {select}",
    "sql {select} --format csv",
    "journal dump {data}",
)


@pytest.mark.parametrize("line", PRINTING)
def test_output_that_can_not_be_written_is_one_line(served: Served, filled: Filled, line: str) -> None:
    """A full disk behind a redirection: no traceback, an exit code of its own."""
    words = [filled(word) for word in line.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *words],
            env=served.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )

    assert done.returncode == 3
    assert done.stderr.startswith("perdure: standard output can't be written (No space left on device)")
    assert done.stderr.count("\n") == 1


def test_an_interrupt_ends_watching_well(served: Served) -> None:
    """SIGINT while it waits or asks: no traceback, exit code 0."""
    served.waiting("watched-by-a-script")
    watching = ["invocations", "list", "Till/watched-by-a-script", "--watch", "--json", "--every", "0.1"]
    with subprocess.Popen(
        [*COMMAND, *watching], env=served.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(2):
            assert json.loads(process.stdout.readline())[0]["status"] == "suspended"

        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS_MAX)

    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize("what", ["invocations list Till", "state get Till/watched-on-a-terminal", "schedules list"])
def test_a_terminal_is_left_as_it_was(served: Served, what: str) -> None:
    """What is watched has the screen for itself, until Ctrl-C gives it back."""
    served.posts("/Till/watched-on-a-terminal/put", 1)
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *what.split(), "--watch", "--every", "0.1"],
        env=served.environment | {"TERM": "xterm"},
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
    )
    os.close(its_end)
    seen = b""
    while seen.count(b"\x1b[H") < 3:  # the cursor goes to the top: shown anew
        seen += os.read(terminal, 4096)
    process.send_signal(signal.SIGINT)
    with suppress(OSError):  # its other end is closed
        while piece := os.read(terminal, 4096):
            seen += piece
    os.close(terminal)

    assert process.wait(SECONDS_MAX) == 0
    assert seen.count(b"\x1b[?1049h") == seen.count(b"\x1b[?1049l") == 1
    assert b"Traceback" not in seen
    assert seen.endswith(b"\x1b[?25h\x1b[?1049l")


# --- the walk-through in the README -----------------------------------------------------------------------------------


def test_a_stuck_order_is_found_as_the_readme_says(tmp_path: Path) -> None:
    """Each command of it, in its order, prints the same words; ids, times and numbers are another matter."""
    told = (ROOT / "README.md").read_text().partition("## An order is stuck")[2].partition("\n## ")[0]
    lines = [line.removeprefix("    ") for line in told.splitlines() if line.startswith("    ")]
    commands = [part.partition("\n") for part in "\n".join(lines).removeprefix("$ ").split("\n$ ")]
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ids: list[str] = []
    with ExitStack() as stack:
        bank = f"http://127.0.0.1:{port}"
        where = stack.enter_context(serving("examples/payments.py", tmp_path / "data", BANK_URL=bank))
        served = Served(ROOT, tmp_path / "data", where["admin"], where["ingress"])
        for command, _, shown in commands:
            program, *words = shlex.split(command)
            if program == "python":
                until_the_next_attempt_is_far(served, ids[0])
                started = [sys.executable, "-u", words[0], "--port", port, *words[3:-1]]
                stack.enter_context(ended(subprocess.Popen(started, cwd=ROOT, stdout=subprocess.PIPE, text=True)))
            elif program == "perdure":
                typed = [ids[0] if word.startswith("inv_") else word for word in words]
                said = in_the_end(served, typed, words_of(shown))
                ids += re.findall("inv_[0-9a-f]{35}", said) if words[0] == "send" else []
            else:
                with urllib.request.urlopen(f"{bank}/charges", timeout=SECONDS_MAX) as response:
                    assert json.load(response) == json.loads(shown)

    assert len(commands) == 11


def until_the_next_attempt_is_far(served: Served, id: str) -> None:
    """Or it might go on by itself once the bank is there, before it is resumed."""
    while True:
        at = served.invocation(id)["next_retry_at"]
        if at is not None and datetime.fromisoformat(at) - datetime.now(UTC) > FAR:
            return


def in_the_end(served: Served, typed: list[str], words: set[str]) -> str:
    """What is printed, once it has these words: it fails more and more often."""
    said = ""
    for _ in range(15):
        said = served.types(*typed)
        if words_of(said) == words:
            return said
    raise AssertionError((typed, words ^ words_of(said)))


def words_of(text: str) -> set[str]:
    """Without ids, numbers and their units, and without what tables are drawn with."""
    plain = re.sub("inv_[0-9a-f]{35}", "ID", re.sub("[\u2500-\u257f]", " ", text))
    return {re.sub("[0-9]+", "0", word) for word in plain.split()} - {"s", "ms"}


@contextmanager
def ended(process: subprocess.Popen[str]) -> Generator[None]:
    """Once it has said its first word; it is killed afterwards."""
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()

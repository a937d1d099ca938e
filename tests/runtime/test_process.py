"""The serving process, as whoever runs it sees it: real processes, real signals, real exit codes."""

import json
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.runtime import process
from perdure.runtime.process import AddressError
from perdure.runtime.settings import Settings

WAIT_SECONDS = 60.0

COUNTER = """
import asyncio
from perdure.objects import Service, VirtualObject, handler, shared

class Counter(VirtualObject):
    value: int = 0
    begun: bool = False

    @handler
    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    @handler
    async def add_later(self, seconds: float) -> int:
        self.begun = True
        await asyncio.sleep(seconds)
        self.value += 1
        return self.value

    @shared
    async def get(self) -> int:
        return self.value

    @shared
    async def has_begun(self) -> bool:
        return self.begun

class Order(Service):
    @handler
    async def of_hashes(self) -> int:
        return hash("perdure")
"""

UNSTEADY = """

class Unsteady(VirtualObject):
    @handler
    async def run(self) -> int:
        import time
        await self.ctx.run(step_named(str(time.perf_counter_ns())))
        await asyncio.sleep(0.001)
        return 1


def step_named(name: str):
    from perdure.objects import step

    return step(nothing, name=name)


async def nothing() -> None: ...
"""


class Served:
    """A running `perdure serve`: its address, its events, its end."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self._popen = popen
        self.events: list[dict[str, Any]] = []
        self.address = ""

    @property
    def pid(self) -> int:
        return self._popen.pid

    def wait_for(self, name: str) -> dict[str, Any]:
        """The next event of that name; fails with all that was said if the process ends before."""
        assert self._popen.stderr is not None
        for line in self._popen.stderr:
            self.events.append(json.loads(line) if line.startswith("{") else {"event": line.rstrip()})
            if self.events[-1]["event"] == name:
                return self.events[-1]
        raise AssertionError(f"no {name!r} among {self.events}")

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def ended(self) -> tuple[int, list[str]]:
        """The exit code, and the names of all events."""
        assert self._popen.stderr is not None
        for line in self._popen.stderr:
            self.events.append(json.loads(line) if line.startswith("{") else {"event": line.rstrip()})
        return self._popen.wait(WAIT_SECONDS), [event["event"] for event in self.events]

    def post(self, path: str, body: object = None) -> tuple[int, Any]:
        data = b"" if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}{path}", data=data, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


Serve = Callable[..., Any]


@pytest.fixture
def module(tmp_path: Path) -> Path:
    file = tmp_path / "p_counter.py"
    file.write_text(COUNTER)
    return file


def secret(file: Path, content: str) -> None:
    file.touch(mode=0o600)
    file.write_text(content)


def command(target: Path | str, data_dir: Path, *options: str) -> list[str]:
    serve = [sys.executable, "-m", "perdure.runtime", "serve", str(target), "--data-dir", str(data_dir)]
    for name in ("--ingress", "--admin"):
        if name not in options:
            options = (name, "127.0.0.1:0", *options)
    return [*serve, "--log-format", "json", *options]


@pytest.fixture
def serve(module: Path, tmp_path: Path) -> Serve:
    @contextmanager
    def serve(*options: str, data_dir: str = "data") -> Generator[Served]:
        arguments = command(module, tmp_path / data_dir, *options)
        popen = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        guard = threading.Timer(WAIT_SECONDS, popen.kill)
        guard.start()
        try:
            served = Served(popen)
            served.address = served.wait_for("serving")["ingress"]
            yield served
        finally:
            guard.cancel()
            popen.kill()
            popen.wait()
            assert popen.stderr is not None
            popen.stderr.close()

    return serve


def refused(target: Path | str, data_dir: Path, *options: str) -> tuple[int, str]:
    """A start that fails, in the folder of the test: its exit code, and its only line on stderr."""
    cwd = next(folder for folder in data_dir.parents if folder.is_dir())
    ended = subprocess.run(
        command(target, data_dir, *options), capture_output=True, text=True, timeout=WAIT_SECONDS, check=False, cwd=cwd
    )
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert ended.stdout == ""
    return ended.returncode, lines[0]


# --- up -------------------------------------------------------------------------------------------------------------


def test_it_says_once_where_it_serves(serve: Serve, tmp_path: Path) -> None:
    """One event `serving`, with the port that 0 became, when requests are accepted."""
    with serve() as served:
        event = served.events[-1]

        assert served.post("/Counter/a/add", 3) == (200, 3)
        assert event["ingress"].startswith("http://127.0.0.1:")
        assert not event["ingress"].endswith(":0")
        assert event["services"] == ["Counter", "Order"]
        assert event["pid"] == served.pid
        assert event["data_dir"] == str(tmp_path / "data")
        assert [e["event"] for e in served.events].count("serving") == 1


def test_the_admin_port_takes_the_token(serve: Serve, tmp_path: Path) -> None:
    """On every address, then; the one that 0 became is in `serving`, the token nowhere."""
    secret(tmp_path / "token", "0123456789abcdef\n")

    with serve("--admin", "0.0.0.0:0", "--admin-token-file", "token") as served:
        address = served.events[-1]["admin"].replace("0.0.0.0", "127.0.0.1")
        opened = urllib.request.Request(f"{address}/version", headers={"authorization": "Bearer 0123456789abcdef"})
        with urllib.request.urlopen(opened, timeout=WAIT_SECONDS) as response:
            assert json.load(response)["version"]
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{address}/version", timeout=WAIT_SECONDS)
        assert caught.value.code == 401
        caught.value.close()
        assert "0123456789abcdef" not in str(served.events)


def test_replay_always_runs_every_handler_from_the_start_at_each_turn(serve: Serve, module: Path) -> None:
    """In development: what is not deterministic is found at the first wait."""
    module.write_text(COUNTER + UNSTEADY)

    with serve() as served:
        assert served.post("/Unsteady/a/run")[0] == 200
    with serve("--replay-always", data_dir="other") as served:
        status, sent = served.post("/Unsteady/a/run/send")
        assert status == 202
        paused = served.wait_for("paused")
        assert paused["invocation"] == sent["invocationId"]
        assert "the code now" in paused["error"]


def test_what_was_acknowledged_survives_sigkill(serve: Serve) -> None:
    """The next process on the directory has it."""
    with serve() as served:
        assert served.post("/Counter/a/add", 3) == (200, 3)
        served.signal(signal.SIGKILL)
        assert served.ended()[0] == -signal.SIGKILL

    with serve() as served:
        assert served.post("/Counter/a/get") == (200, 3)


def test_the_hash_seed_is_the_same_at_every_start(serve: Serve) -> None:
    """Or a handler that iterates a set would replay in another order."""
    with serve() as served:
        first = served.post("/Order/of_hashes")
    with serve() as served:
        assert served.post("/Order/of_hashes") == first
    with serve(data_dir="other") as served:
        assert served.post("/Order/of_hashes") != first


def test_settings_of_a_file_take_effect(serve: Serve, tmp_path: Path) -> None:
    """Here: no body of more than 10 bytes."""
    (tmp_path / "perdure.toml").write_text("body_bytes_max = 10")

    with serve("--config", "perdure.toml") as served:
        status, error = served.post("/Counter/a/add", "12345678901")

    assert (status, error["code"]) == (413, 413)


# --- down -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_with_exit_code_0(serve: Serve, number: signal.Signals) -> None:
    """It says so, and a next start finds a sealed journal."""
    with serve() as served:
        served.post("/Counter/a/add", 3)
        served.signal(number)
        code, events = served.ended()

    assert code == 0
    assert events[-2:] == ["stopping", "stopped"]
    with serve() as served:
        assert served.post("/Counter/a/get") == (200, 3)


def test_a_request_in_flight_gets_its_answer(serve: Serve) -> None:
    """SIGTERM lets what runs end, within the grace."""
    answers: list[object] = []
    with serve() as served:
        caller = threading.Thread(target=lambda: answers.append(served.post("/Counter/a/add_later", 0.5)))
        caller.start()
        while not served.post("/Counter/a/has_begun")[1]:
            pass
        served.signal(signal.SIGTERM)
        code, _ = served.ended()
        caller.join()

    assert code == 0
    assert answers == [(200, 1)]


def test_what_outlasts_the_grace_goes_on_after_the_next_start(serve: Serve) -> None:
    """Its caller is told that it isn't lost, and the timer is kept."""
    with serve("--drain-grace", "0") as served:
        served.post("/Counter/a/add_later/send", 0.2)
        served.signal(signal.SIGTERM)
        assert served.ended()[0] == 0

    with serve() as served:
        assert served.post("/Counter/a/add", 10) == (200, 11)  # queued behind it


def test_a_second_signal_is_quicker(serve: Serve) -> None:
    """The first waits for a handler that sleeps ten minutes; the second doesn't, and still exits 0."""
    with serve("--drain-grace", "600") as served:
        caller = threading.Thread(target=_ignore_lost, args=(served, "/Counter/a/add_later", 600))
        caller.start()
        while not served.post("/Counter/a/has_begun")[1]:
            pass
        served.signal(signal.SIGTERM)
        served.wait_for("stopping")
        served.signal(signal.SIGTERM)
        code, events = served.ended()
        caller.join()

    assert code == 0
    assert events[-1] == "stopped"


def _ignore_lost(served: Served, path: str, body: object) -> None:
    with suppress(OSError, ValueError):  # the connection may be closed on it
        served.post(path, body)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace: apt-get install strace")
def test_a_failed_sync_stops_it_with_exit_code_14(serve: Serve) -> None:
    """The caller gets 503 "outcome unknown", the log one line, and the next start is correct."""
    with serve() as served:
        served.post("/Counter/a/add", 1)
        with _failing_syncs(served.pid):
            status, error = served.post("/Counter/a/add", 10)
            code, events = served.ended()

    assert status == 503
    assert "outcome unknown" in error["message"]
    assert code == 14
    assert events[-1].startswith("perdure: ")
    with serve() as served:
        assert served.post("/Counter/a/get")[1] in (1, 11)  # unknown, but one of the two


@contextmanager
def _failing_syncs(pid: int) -> Generator[None]:
    inject = [
        "strace",
        "-f",
        "-p",
        str(pid),
        "-e",
        "trace=fdatasync",
        "-e",
        "inject=fdatasync:error=EIO",
        "-o",
        "/dev/null",
    ]
    tracer = subprocess.Popen(inject, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    try:
        assert "attached" in tracer.stderr.readline()
        yield
    finally:
        tracer.terminate()
        tracer.wait(WAIT_SECONDS)
        tracer.stderr.close()


SCHEDULED = """
from perdure.objects import Service, cron, every, handler

class Job(Service):
    @handler(schedules=[{}])
    async def work(self) -> None: ...
"""


# --- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("def broken(:", "invalid syntax"),
        ("import t_absent", "No module named 't_absent'"),
        ("import sys; sys.exit(0)", "sys.exit()"),
        ("raise ValueError('a\\nb')", "ValueError: a b"),
        ("", "defines no VirtualObject"),
        (COUNTER + "\nclass Other(Counter, name='Counter'): pass\n", "Counter"),
        ("from perdure.objects import VirtualObject\nclass Mute(VirtualObject): pass", "no handlers"),
        (COUNTER.replace("value: int = 0", "value: int = 0\n    odd: complex = 1j"), "odd"),
        (COUNTER.replace("self.value +=", "self.valu +="), "valu"),
        (SCHEDULED.format("cron('61 * * * *')"), "Job.work: cron('61 * * * *', timezone='UTC'): the minute can't be"),
        (SCHEDULED.format("cron('0 * * * *', timezone='Mars')"), "Job.work: cron('0 * * * *', timezone='Mars'): there"),
        (SCHEDULED.format("every(0)"), "Job.work: every(0): give a second or more"),
    ],
)
def test_a_target_that_cannot_be_served(tmp_path: Path, source: str, named: str) -> None:
    """One line that names it, exit code 2, and no data directory."""
    file = tmp_path / "p_bad.py"
    file.write_text(source)

    code, line = refused(file, tmp_path / "data")

    assert code == 2
    assert line.startswith("perdure: cannot serve ")
    assert named in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("target", ["no/such.py", "p_nowhere", "p_counter.py:Absent"])
def test_a_target_that_is_not_there(module: Path, tmp_path: Path, target: str) -> None:
    """Likewise for a file, a module, a class."""
    code, line = refused(target, tmp_path / "data")

    assert code == 2
    assert target in line
    assert not (tmp_path / "data").exists()


def test_a_port_in_use(module: Path, tmp_path: Path) -> None:
    """Found before the data directory is touched."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        code, line = refused(module, tmp_path / "data", "--ingress", f"127.0.0.1:{port}")

    assert code == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_an_admin_port_for_everybody_without_a_token(module: Path, tmp_path: Path, address: str) -> None:
    """Who reaches it can stop anything."""
    code, line = refused(module, tmp_path / "data", "--admin", address)

    assert code == 2
    assert "--admin-token-file" in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [(None, "No such file"), ("", "is empty"), (" 123456789012345 \n", "has 15 bytes")],
)
def test_a_token_file_that_is_of_no_use(module: Path, tmp_path: Path, content: str | None, named: str) -> None:
    """It is named, and what it holds is not shown."""
    if content is not None:
        secret(tmp_path / "token", content)

    code, line = refused(module, tmp_path / "data", "--admin-token-file", "token")

    assert code == 2
    assert "token" in line
    assert named in line
    assert "12345" not in line
    assert not (tmp_path / "data").exists()


def test_an_admin_port_in_use(module: Path, tmp_path: Path) -> None:
    """The option is named, as there are two."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, line = refused(module, tmp_path / "data", "--admin", f"127.0.0.1:{taken.getsockname()[1]}")

    assert code == 2
    assert "choose another with --admin" in line
    assert not (tmp_path / "data").exists()


def test_a_settings_file_with_a_mistake(module: Path, tmp_path: Path) -> None:
    """The key is named."""
    (tmp_path / "perdure.toml").write_text("body_bytes_maxx = 10")

    code, line = refused(module, tmp_path / "data", "--config", "perdure.toml")

    assert code == 2
    assert "body_bytes_maxx" in line
    assert not (tmp_path / "data").exists()


def test_a_directory_in_use(serve: Serve, module: Path, tmp_path: Path) -> None:
    """Exit code 10; who holds it is named, and goes on undisturbed."""
    with serve() as served:
        code, line = refused(module, tmp_path / "data")

        assert code == 10
        assert str(served.pid) in line
        assert served.post("/Counter/a/add", 3) == (200, 3)


def test_a_damaged_journal(serve: Serve, module: Path, tmp_path: Path) -> None:
    """Exit code 12, with file, offset and record; nothing is written to the directory."""
    with serve() as served:
        served.post("/Counter/a/add", 3)
        served.signal(signal.SIGTERM)
        served.ended()
    _flip_a_bit_of_the_first_record(tmp_path / "data")
    before = _contents(tmp_path / "data")

    code, line = refused(module, tmp_path / "data")

    assert code == 12
    assert "damaged" in line
    assert _contents(tmp_path / "data") == before


def _flip_a_bit_of_the_first_record(directory: Path) -> None:
    segment = next(file for file in sorted(directory.iterdir()) if b"Counter" in file.read_bytes())
    content = bytearray(segment.read_bytes())
    content[content.index(b"Counter")] ^= 1
    segment.write_bytes(content)


def _contents(directory: Path) -> dict[str, bytes]:
    """The lock names who last asked for it, which is no data."""
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.name != "LOCK"}


def test_a_directory_that_cannot_be_written(module: Path, tmp_path: Path) -> None:
    """Exit code 13; here a file stands in the way."""
    (tmp_path / "file").write_text("")

    code, line = refused(module, tmp_path / "file" / "data")

    assert code == 13
    assert str(tmp_path / "file") in line


# --- parts ----------------------------------------------------------------------------------------------------------


def test_reserving_an_address_does_not_listen_yet() -> None:
    """Port 0 is decided; whoever connects is refused until recovery is over."""
    with process.reserve("127.0.0.1", 0) as reserved, socket.socket() as client:
        port = reserved.getsockname()[1]

        assert port > 0
        assert client.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "::1%nowhere"])
def test_an_address_that_is_not_ours(host: str) -> None:
    """One line that names it and the option."""
    with pytest.raises(AddressError, match=r"cannot listen on .*--ingress") as caught:
        process.reserve(host, 0)

    assert caught.value.exit_code == 2


def test_connections_fit_the_limit_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft limit is raised as needed; a low hard limit lowers the connections, and the journal's stay free."""
    limits = [(64, 100_000)]

    def getrlimit(_: int) -> tuple[int, int]:
        return limits[-1]

    def setrlimit(_: int, limit: tuple[int, int]) -> None:
        limits.append(limit)

    monkeypatch.setattr(resource, "getrlimit", getrlimit)
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    settings = Settings(connections_max=1000)

    assert process.with_descriptors(settings) == settings
    assert limits[-1] == (1128, 100_000)

    limits.append((64, 500))

    assert process.with_descriptors(settings) == msgspec.structs.replace(settings, connections_max=372)
    assert limits[-1] == (500, 500)


def test_the_command_line_comes_before_the_settings_file(tmp_path: Path) -> None:
    """And what neither names is the default."""
    file = tmp_path / "perdure.toml"
    file.write_text("drain_grace_seconds = 5")

    assert process.settings_of(file, 7).drain_grace_seconds == 7
    assert process.settings_of(file, None).drain_grace_seconds == 5.0
    assert process.settings_of(None, None) == Settings()


def test_a_process_takes_well_under_a_second_to_start(serve: Serve) -> None:
    """On an empty directory; measured inside, from the end of the imports (the machine may be busy)."""
    with serve() as served:
        assert served.events[-1]["start_ms"] < 1000

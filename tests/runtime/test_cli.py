"""The command line: what is typed, what is printed, and the exit code."""

import socket
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import pytest

from perdure.runtime import cli


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a wrong command line prints: one line on stderr, nothing on stdout, exit code 2."""
    code = cli.run(arguments)

    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("perdure: ")
    assert err.count("\n") == 1
    return err


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    """As pip knows it."""
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"perdure {metadata.version('perdure')}\n"


@pytest.mark.parametrize("command", [[], ["serve"], ["journal"], ["journal", "verify"], ["journal", "dump"]])
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    """--help and -h, on stdout, exit code 0."""
    for option in ("--help", "-h"):
        assert cli.run([*command, option]) == 0
        assert "Usage: perdure" in capsys.readouterr().out


def test_help_of_serve_names_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """Where it listens and where it writes, before anybody starts it."""
    cli.run(["serve", "--help"])

    text = capsys.readouterr().out
    assert "127.0.0.1:8080" in text
    assert "127.0.0.1:9070" in text
    assert "perdure-data" in text


def test_no_command_shows_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was asked for, so nothing was done."""
    assert cli.run([]) == 2
    assert "Usage: perdure" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["fly"], "fly"),
        (["serve"], "TARGET"),
        (["serve", "x", "--ingres", "1"], "--ingres"),
        (["serve", "x", "--ingress", "8080"], "'8080' is not HOST:PORT"),
        (["serve", "x", "--ingress", ":8080"], "is not HOST:PORT"),
        (["serve", "x", "--ingress", "localhost:"], "is not HOST:PORT"),
        (["serve", "x", "--ingress", "localhost:65536"], "is not HOST:PORT"),
        (["serve", "x", "--ingress", "localhost:-1"], "is not HOST:PORT"),
        (["serve", "x", "--ingress", "localhost:٣"], "is not HOST:PORT"),
        (["serve", "x", "--ingress", "::1:8080"], "[::1]:8080"),
        (["serve", "x", "--admin", "9070"], "'9070' is not HOST:PORT"),
        (["serve", "x", "--drain-grace", "-1"], "--drain-grace"),
        (["serve", "x", "--drain-grace", "nan"], "--drain-grace"),
        (["serve", "x", "--log-format", "xml"], "xml"),
        (["journal", "dump", ".", "--from", "0"], "--from"),
        (["journal", "dump"], "DIR"),
        (["journal", "verify", "a", "b"], "b"),
    ],
)
def test_a_wrong_command_line_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], named: str) -> None:
    """It names what is wrong, and nothing is started."""
    assert named in complaint(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["serve", "examples/counter.py", "--data-dir", ""], "--data-dir"),
        (["invocations", "list", "--watch", "--every", "nan"], "nan"),
        (["invocations", "list", "--every", "nan"], "nan"),
    ],
)
def test_what_only_looks_like_a_value_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    """An unset variable would serve the current directory; nan is between any two numbers."""
    assert named in complaint(capsys, *arguments)


def test_an_answer_that_breaks_off_is_another_matter_than_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Who asks again after exit code 4 pays once; what was asked here may have happened."""

    def break_off() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}")

    with socket.create_server(("127.0.0.1", 0)) as server:
        breaking = threading.Thread(target=break_off)
        breaking.start()
        code = cli.run(["call", "Account/a/deposit", "5", "--ingress", f"http://127.0.0.1:{server.getsockname()[1]}"])
        breaking.join()

    assert code == 9
    assert "what was asked may have happened" in capsys.readouterr().err


def test_what_is_typed_cannot_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters are escaped on the way to the terminal."""
    assert complaint(capsys, "serve", "x", "--ingress", "\x1b[2J\nperdure: fine").rstrip("\n").isprintable()


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:0", ("::1", 0)), ("localhost:65535", ("localhost", 65535))],
)
def test_an_address_is_host_and_port(text: str, address: tuple[str, int]) -> None:
    """IPv6 in brackets; port 0 is any free one."""
    assert cli.address(None, None, text) == address


@pytest.mark.parametrize(("number", "code"), [(12, 12), (None, 15)])
def test_an_error_gives_its_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int | None, code: int
) -> None:
    """Errors made for people carry it and are one line; any other is a bug, with its traceback, 15."""

    class Told(Exception):
        exit_code = number

    def fail(**_: object) -> None:
        raise Told("what happened\nand \x1b[2Jwhere")

    monkeypatch.setattr(cli.verify, "callback", fail)

    assert cli.run(["journal", "verify", "."]) == code
    *before, last = capsys.readouterr().err.splitlines()
    assert last.endswith(r"what happened and \x1b[2Jwhere")
    assert bool(before) == (number is None)


def test_an_interrupt_is_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C before there is anything to drain: no traceback."""

    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.verify, "callback", interrupt)

    assert cli.run(["journal", "verify", "."]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "perdure: interrupted"


def test_the_module_is_the_command_too() -> None:
    """`python -m perdure.runtime …`, for where no script is installed."""
    command = [sys.executable, "-m", "perdure.runtime", "--version"]

    process = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)

    assert process.stdout.startswith("perdure ")


def test_the_installed_script_is_the_command() -> None:
    """`perdure`, beside the interpreter."""
    script = Path(sys.executable).with_name("perdure")

    process = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, timeout=30)

    assert process.stdout.startswith("perdure ")


def test_the_command_line_itself_imports_nothing_heavy() -> None:
    """`--help`, and the process that only re-executes itself, wait neither for the HTTP server nor for the engine.

    (Here without the package's front door, which decides for itself.)
    """
    program = (
        "import sys, types\n"
        "runtime = sys.modules['perdure.runtime'] = types.ModuleType('perdure.runtime')\n"
        "runtime.__path__ = [sys.argv[1]]\n"
        "import perdure.runtime.cli, perdure.runtime.hash_seed\n"
        "print([name for name in ('aiohttp', 'asyncio', 'msgspec', 'rich', 'uvloop') if name in sys.modules])"
    )
    folder = str(Path(cli.__file__).parent)

    process = subprocess.run(
        [sys.executable, "-c", program, folder], capture_output=True, text=True, timeout=30, check=True
    )

    assert process.stdout == "[]\n"

"""What a command says, and ends with, when no good answer comes: whether anything can have happened."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from perdure.runtime import cli, remote

READS: Final = (
    ["services", "list"],
    ["services", "describe", "Account"],
    ["invocations", "list"],
    ["invocations", "describe", "Account/a"],
    ["schedules", "list"],
    ["state", "get", "Account/a"],
    ["state", "keys", "Account"],
    ["sql", "SELECT 1"],
)
CHANGES: Final = (
    ["call", "Account/a/deposit", "5"],
    ["send", "Account/a/deposit", "5"],
    ["schedules", "pause", "Guard/look"],
    ["invocations", "kill", "inv_" + "0" * 35],
)

Complaint = Callable[[list[str], str], tuple[int, str]]


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Complaint:
    """The exit code of a command whose two ports are at that URL, and the one line that it leaves behind."""

    def type_it(words: list[str], url: str) -> tuple[int, str]:
        monkeypatch.setenv("PERDURE_ADMIN", url)
        monkeypatch.setenv("PERDURE_INGRESS", url)
        code = cli.run(words)
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        return code, err

    return type_it


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A process that was stopped: the system connects, and nobody ever answers.  Nobody waits long for it, either."""
    monkeypatch.setattr(remote.Server.__init__, "__defaults__", (None, "admin", 0.05))
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield _url_of(server)


@contextmanager
def answering(status: str, body: str, *headers: str) -> Generator[str]:
    """Who gives one request that answer."""
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]

    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall("\r\n".join([*head, "", body]).encode())

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield _url_of(server)
        finally:
            thread.join()


def _url_of(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_command_waits_half_a_minute() -> None:
    """Whatever the server is at: a list that hangs tells nobody that it is stopped."""
    assert remote.Server("http://127.0.0.1:1").answer_seconds == 30


@pytest.mark.parametrize("words", READS, ids=" ".join)
def test_what_only_reads_is_given_up_and_changed_nothing(words: list[str], silent: str, complaint: Complaint) -> None:
    more = ["--timeout", "0.05"] if words[0] == "sql" else []

    code, said = complaint([*words, *more], silent)

    assert code == 4
    assert f"{silent} did not answer for 0.05 s: nothing was changed, ask again" in said
    assert ("--timeout waits longer" in said) == (words[0] == "sql")


@pytest.mark.parametrize("words", CHANGES, ids=" ".join)
def test_what_changes_something_may_have_happened(words: list[str], silent: str, complaint: Complaint) -> None:
    more = ["--timeout", "0.05"] if words[0] == "call" else []

    code, said = complaint([*words, *more], silent)

    assert code == 9
    assert "what was asked may have happened" in said


@pytest.mark.parametrize(
    ("more", "how"),
    [
        (["--idempotency-key", "k1"], "the same call with 'k1' as its key waits for it again"),
        ([], "`perdure invocations list Account/a/deposit --all` shows it"),
    ],
)
def test_a_call_that_is_given_up_goes_on(more: list[str], how: str, silent: str, complaint: Complaint) -> None:
    """And the line says how to come back to it."""
    code, said = complaint(["call", "Account/a/deposit", "5", "--timeout", "0.05", *more], silent)

    assert code == 9
    assert "if it was accepted it goes on" in said
    assert how in said


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
@pytest.mark.parametrize("words", [["call", "Account/a/deposit"], ["sql", "SELECT 1"]], ids=" ".join)
def test_a_timeout_is_a_number_of_seconds(words: list[str], seconds: str, silent: str, complaint: Complaint) -> None:
    code, _ = complaint([*words, "--timeout", seconds], silent)

    assert code == 2


def test_a_read_whose_answer_breaks_off_changed_nothing(complaint: Complaint) -> None:
    with answering("200 OK", "", "transfer-encoding: chunked") as url:
        code, said = complaint(["services", "list"], url)

    assert code == 4
    assert "nothing was changed" in said


UNKNOWN: Final = '{"code": 503, "message": "outcome unknown: it may have happened", "source": "ingress"}'
STOPPING: Final = '{"code": 503, "message": "the process is stopping: nothing was recorded", "source": "ingress"}'


@pytest.mark.parametrize(
    ("words", "body", "headers", "code", "named"),
    [
        (["call", "Account/a/deposit"], UNKNOWN, [], 9, "outcome unknown"),
        (["send", "Account/a/deposit"], UNKNOWN, [], 9, "outcome unknown"),
        (["call", "Account/a/deposit"], STOPPING, ["retry-after: 1"], 4, "nothing was recorded"),
        (["services", "list"], UNKNOWN, [], 4, "nothing was changed"),
        (["call", "Account/a/deposit"], "<html>", [], 9, "may have happened"),
        (["services", "list"], "<html>", [], 4, "right port"),
    ],
)
def test_a_503_says_whether_anything_was_recorded(
    words: list[str], body: str, headers: list[str], code: int, named: str, complaint: Complaint
) -> None:
    """By its retry-after, as the client takes it; a proxy's may stand for anything."""
    with answering("503 Service Unavailable", body, *headers) as url:
        said = complaint(words, url)

    assert said[0] == code
    assert named in said[1]


@pytest.mark.parametrize("body", ["[]", "{}", "null", '"ok"', "<html>"])
@pytest.mark.parametrize("words", [*READS, ["send", "Account/a/deposit"]], ids=" ".join)
def test_a_good_answer_that_is_not_perdures(words: list[str], body: str, complaint: Complaint) -> None:
    """Whoever else listens there may answer with any JSON."""
    with answering("200 OK", body) as url:
        code, said = complaint(words, url)

    assert code == 4
    assert "is not Perdure's: is that the right port?" in said


@pytest.mark.parametrize("url", ["http://ann:secret@127.0.0.1:1", "ann:secret@host", "http://ann:secret@[::1", "@"])
@pytest.mark.parametrize("words", [["services", "list"], ["call", "Account/a/deposit"]], ids=" ".join)
def test_a_password_in_an_address_is_refused_and_not_shown(words: list[str], url: str, complaint: Complaint) -> None:
    code, said = complaint(words, url)

    assert code == 2
    assert "secret" not in said
    assert "--token-file" in said


@pytest.mark.parametrize("port", ["admin", "ingress"])
def test_an_address_that_is_none_is_named_by_its_option(port: str, complaint: Complaint) -> None:
    """Also one that is empty: a variable that was not set."""
    words = ["services", "list"] if port == "admin" else ["call", "Account/a/deposit"]
    variable = f"PERDURE_{port.upper()}"

    for address in ("", "localhost:9070"):
        code, said = complaint([*words, f"--{port}", address], "http://127.0.0.1:1")
        assert code == 2
        assert f"--{port} (or {variable}) is {address or 'empty'}, which is no address" in said

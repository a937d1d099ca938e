"""`perdure journal verify` and `dump`: what is printed, where, and with which exit code."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.journal import Log, LogOptions
from perdure.objects.errors import Failure
from perdure.runtime import cli, records
from perdure.runtime.record_lines import describe
from perdure.runtime.records import Call, Failed, Invoked, Killed, Record, Success, Turn

AT = 1_767_225_600_000_001
SEED = b"0123456789abcdef"
INVOKED = Invoked(AT, "inv_1", SEED, "Account", "alice", "transfer", True, b'{"to":"bob"}', False)
TURN = Turn(AT + 1, "inv_1", 1, 1, {"balance": b"70"}, [Call(1, "Account", "bob", "deposit", True, b"30")])


def fill(directory: Path, *written: Record) -> Path:
    options = LogOptions(segment_bytes=1024 * 1024, spare_segments=0, writer_thread=False)
    log = Log.open(directory, options=options)
    for record in written:
        data = records.encode(record)
        log.reserve(len(data))
        log.append(data)
        log.flush()
    log.close()
    return directory


def spoil(directory: Path, text: bytes) -> str:
    """Flip a bit of `text`, wherever it stands; the name of the file it stands in."""
    segment = next(file for file in sorted(directory.iterdir()) if text in file.read_bytes())
    content = bytearray(segment.read_bytes())
    content[content.index(text)] ^= 1
    segment.write_bytes(content)
    return segment.name


# --- a record as text -------------------------------------------------------------------------------------------------


def test_a_record_is_its_time_kind_and_fields() -> None:
    """Payloads are shown as the JSON they are; what says nothing is left out."""
    time, kind, fields = describe(records.encode(TURN)).split(maxsplit=2)

    assert time == "2026-01-01T00:00:00.000002Z"
    assert kind == "Turn"
    assert json.loads(fields) == {
        "id": "inv_1",
        "number": 1,
        "consumed": 1,
        "writes": {"balance": 70},
        "commands": [
            {
                "Call": {
                    "index": 1,
                    "service": "Account",
                    "key": "bob",
                    "handler": "deposit",
                    "exclusive": True,
                    "arguments": 30,
                }
            }
        ],
    }


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (Success(b'{"a":[1]}'), {"Success": {"value": {"a": [1]}}}),
        (Success(b"null"), {"Success": {"value": None}}),
        (Success(b"\xff\x00"), {"Success": {"value": "0xff00"}}),
        (
            Failed(Failure("Overdrawn", "no", 409)),
            {"Failed": {"failure": {"Failure": {"type": "Overdrawn", "message": "no", "status": 409}}}},
        ),
    ],
)
def test_outcomes_are_shown_whole(outcome: records.Outcome, shown: object) -> None:
    """What a handler gave, or how it failed; bytes that are no JSON in hexadecimal."""
    text = describe(records.encode(Turn(AT, "inv_1", 1, 1, outcome=outcome)))

    assert json.loads(text[text.index("{") :])["outcome"] == shown


def test_the_seed_is_never_shown() -> None:
    """Who knows it can compute the ids of children and awakeables."""
    text = describe(records.encode(INVOKED))

    assert "seed" not in text
    assert SEED.decode() not in text
    assert SEED.hex() not in text


@pytest.mark.parametrize("at", [-1, 0, 2**62])
def test_an_impossible_time_hides_no_record(at: int) -> None:
    """A machine's clock may be anywhere."""
    assert "Killed" in describe(records.encode(Killed(at, "inv_1")))


# --- dump -------------------------------------------------------------------------------------------------------------


def test_dump_prints_one_record_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LSN first; nothing but the lines, on a pipe."""
    fill(tmp_path, INVOKED, TURN)

    assert cli.run(["journal", "dump", str(tmp_path)]) == 0

    out, err = capsys.readouterr()
    assert [line.split()[0::2][:2] for line in out.splitlines()] == [["1", "Invoked"], ["2", "Turn"]]
    assert err == ""


def test_dump_starts_where_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--from is the first LSN that is shown; beyond the end there is nothing."""
    fill(tmp_path, INVOKED, TURN)

    assert cli.run(["journal", "dump", str(tmp_path), "--from", "2"]) == 0
    assert capsys.readouterr().out.split()[0] == "2"
    assert cli.run(["journal", "dump", str(tmp_path), "--from", "3"]) == 0
    assert capsys.readouterr().out == ""


def test_no_key_can_break_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys and payloads come from strangers."""
    hostile = "\x1b[2J\u2028\u202e\x85"
    fill(tmp_path, Invoked(AT, "inv_1", SEED, "Account", hostile, "get", True, json.dumps("\n\u202e").encode(), False))

    cli.run(["journal", "dump", str(tmp_path)])

    (line,) = capsys.readouterr().out.split("\n")[:-1]
    assert line.isprintable()


def test_dump_beside_a_live_writer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It needs no lock, and leaves the directory as it is."""
    log = Log.open(tmp_path, options=LogOptions(segment_bytes=1024 * 1024, writer_thread=False))
    data = records.encode(INVOKED)
    log.reserve(len(data))
    log.append(data)
    log.flush()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    code = cli.run(["journal", "dump", str(tmp_path)])

    assert code == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    log.close()


def test_dump_of_a_damaged_journal_shows_what_is_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Then the one line with file, offset and record, and exit code 12."""
    fill(tmp_path, INVOKED, TURN, Killed(AT, "inv_killed"))
    name = spoil(tmp_path, b"inv_killed")

    assert cli.run(["journal", "dump", str(tmp_path)]) == 12

    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["1", "2"]
    assert err.count("\n") == 1
    assert name in err


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    """`perdure journal dump DIR | head -1`: no traceback when the pipe is closed."""
    fill(tmp_path, *[INVOKED] * 5000)
    dump = [sys.executable, "-m", "perdure.runtime", "journal", "dump", str(tmp_path)]

    with subprocess.Popen(dump, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("1 ")
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 0


@pytest.mark.parametrize("command", ["dump", "verify"])
def test_a_progress_bar_on_a_terminal_only(tmp_path: Path, command: str) -> None:
    """With a terminal there is a bar; the lines are the same; elsewhere there is none (the tests above)."""
    fill(tmp_path, INVOKED, TURN)

    shown = on_a_terminal([sys.executable, "-m", "perdure.runtime", "journal", command, str(tmp_path)])

    assert "━" in shown
    assert "reading" in shown
    assert ("Invoked" if command == "dump" else "whole: records 1 to 2") in shown


def on_a_terminal(command: list[str]) -> str:
    """What a command prints to a terminal, 300 columns wide."""
    ours, its = pty.openpty()
    environment = os.environ | {"COLUMNS": "300", "TERM": "xterm-256color"}
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:  # how Linux says that the other side is closed
            pass
        os.close(ours)
        assert process.wait(30) == 0
    return shown.decode()


# --- verify -----------------------------------------------------------------------------------------------------------


def test_verify_of_a_sound_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stdout, exit code 0."""
    fill(tmp_path, INVOKED, TURN)

    assert cli.run(["journal", "verify", str(tmp_path)]) == 0

    out, err = capsys.readouterr()
    assert out.startswith("whole: records 1 to 2")
    assert out.count("\n") == 1
    assert err == ""


def test_verify_of_a_damaged_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr with file, offset and record, exit code 12."""
    fill(tmp_path, INVOKED, TURN)
    name = spoil(tmp_path, b"alice")

    assert cli.run(["journal", "verify", str(tmp_path)]) == 12

    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert name in err
    assert "record 1" in err


@pytest.mark.parametrize("command", ["verify", "dump"])
def test_where_there_is_no_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """A missing folder, a folder without one, a file: one line, exit code 2, and nothing is made there."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()

    for name in ("missing", "folder", "file"):
        assert cli.run(["journal", command, str(tmp_path / name)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert name in err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]

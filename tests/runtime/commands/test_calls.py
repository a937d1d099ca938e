"""`perdure call`, `perdure send`, `perdure schedules`: what is typed, what arrives, what is printed."""

from __future__ import annotations

import asyncio
import io
import os
import shlex
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from perdure.objects import Service, TerminalError, VirtualObject, every, handler, shared
from perdure.runtime import cli

# Fixtures' types; see conftest.py, which tests can't import from.
Serve = Any
Typist = Any
Typing = Callable[[Any], Any]

pytestmark = pytest.mark.asyncio(loop_scope="module")


class TooPoor(TerminalError):
    status = 409


class Purse(VirtualObject):
    held: int = 0

    @handler
    async def put(self, amount: int) -> int:
        self.held += amount
        return self.held

    @handler
    async def take(self, amount: int) -> int:
        raise TooPoor(f"{self.key} has \x1b[31m{self.held}")

    @shared
    async def look(self) -> int:
        return self.held


class Echo(Service):
    @handler
    async def say(self, value: Any) -> Any:
        return value

    @handler
    async def count(self, to: int) -> AsyncIterator[str]:
        for number in range(to):
            yield f"\u202e{number}"

    @handler
    async def fail(self) -> AsyncIterator[int]:
        yield 1
        raise TooPoor("no more")

    @handler
    async def wait(self) -> AsyncIterator[int]:
        yield 1
        await self.ctx.awakeable(int)

    @handler(schedules=[every(3600)])
    async def tick(self) -> None:
        await self.ctx.awakeable(int)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(serve: Serve) -> AsyncIterator[Typist]:
    yield await serve(Purse, Echo)


@pytest.fixture
def typist(served: Typist, typing: Typing) -> Typist:
    return typing(served)


async def test_a_call_prints_its_answer(typist: Typist) -> None:
    """Nothing else, so that a script reads it."""
    said = await typist.types("call", "Purse/alice/put", "5")

    assert (said.code, said.out, said.err) == (0, "5\n", "")


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("-3", "-3\n"),
        ("-1.5e3", "-1500.0\n"),
        ('{"a": [1, null]}', '{"a":[1,null]}\n'),
        ("hello there", '"hello there"\n'),
        ("NaN", '"NaN"\n'),
        ("true", "true\n"),
        ('"5"', '"5"\n'),
        ("", '""\n'),
        ("a\x1b[31m\u202e\x9b", '"a\\u001b[31m\\u202e\\u009b"\n'),
    ],
)
async def test_an_argument_is_json_or_else_text(typist: Typist, typed: str, answer: str) -> None:
    """What comes back steers no terminal, and is the same value."""
    assert (await typist.types("call", "Echo/say", typed)).out == answer


async def test_an_argument_may_stand_on_standard_input(typist: Typist, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it is."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'["x"]')))

    assert (await typist.types("call", "Echo/say", "-")).out == '["x"]\n'


async def test_a_key_may_hold_anything(typist: Typist) -> None:
    """Its slash is written %2F; what is in no URL is encoded on the way."""
    assert (await typist.types("call", "Purse/a%2Fb%25 ä?#/put", "7")).out == "7\n"

    assert await typist.runtime.ref(Purse, "a/b% ä?#").look() == 7


async def test_an_idempotency_key_makes_two_calls_one(typist: Typist) -> None:
    """The second prints what the first did."""
    for _ in range(2):
        said = await typist.types("call", "Purse/twice/put", "4", "--idempotency-key", "k ä")
        assert said.out == "4\n"

    assert await typist.runtime.ref(Purse, "twice").look() == 4


async def test_an_error_of_the_handler_is_one_line(typist: Typist) -> None:
    """With its class, and an exit code of its own."""
    said = await typist.types("call", "Purse/poor/take", "1")

    assert said.code == 7
    assert said.complaint == "perdure: TooPoor: poor has \\x1b[31m0 (409)\n"


async def test_a_stream_is_printed_item_by_item(typist: Typist) -> None:
    """Each on a line, as JSON that steers nothing."""
    said = await typist.types("call", "Echo/count", "3")

    assert (said.code, said.out) == (0, '"\\u202e0"\n"\\u202e1"\n"\\u202e2"\n')


async def test_a_streams_error_comes_behind_its_items(typist: Typist) -> None:
    said = await typist.types("call", "Echo/fail")

    assert (said.code, said.out, said.err) == (7, "1\n", "perdure: TooPoor: no more (409)\n")


async def test_an_item_is_printed_when_it_comes(typist: Typist) -> None:
    """Not at the end: this stream has none, until it is killed."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "perdure.runtime", "call", "Echo/wait"],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PERDURE_INGRESS": typist.ingress},
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readline() == b"1\n"
        await typist.types("invocations", "kill", "Echo/wait")
        _, err = await process.communicate()

    assert process.returncode == 7
    assert err.count(b"\n") == 1


async def test_output_that_nobody_reads_is_no_error(typist: Typist) -> None:
    """`| head -1`: no traceback; click sees to it."""
    read, write = os.pipe()
    os.close(read)
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "perdure.runtime", "call", "Echo/count", "3"],
        stdout=write,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PERDURE_INGRESS": typist.ingress},
    )
    os.close(write)
    async with asyncio.timeout(30):
        _, err = await process.communicate()

    assert (process.returncode, err) == (1, b"")


async def test_a_message_is_accepted_once(typist: Typist) -> None:
    """Its id is printed; with the same key it is the one before."""
    first = await typist.types("send", "Purse/bob/put", "5", "--idempotency-key", "m1")
    second = await typist.types("send", "Purse/bob/put", "5", "--idempotency-key", "m1", "--json")

    id = second.json["invocationId"]
    assert first.out == f"accepted {id}\n"
    assert second.json["status"] == "PreviouslyAccepted"


async def test_a_message_may_be_delivered_later(typist: Typist) -> None:
    """It is scheduled until then."""
    id = (await typist.types("send", "Purse/late/put", "5", "--delay", "1h 30m", "--json")).json["invocationId"]

    assert await typist.status(id) == "scheduled"


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["call", "Purse"], 2, "Object/key/handler"),
        (["call", "Purse/a/b/put"], 2, "%2F"),
        (["call", "Purse/a/put", "1", "2"], 2, "2"),
        (["call", "Purse/a/put", "--dely=1"], 2, "--dely=1"),
        (["call", "Purse/a/put", "\udcff"], 2, "UTF-8"),
        (["call", "Purse/a/put", "1", "--idempotency-key", "a\nb"], 2, "control"),
        (["call", "Purse/a/put", "many"], 1, "int"),
        (["call", "Purse/a/fly"], 6, "fly"),
        (["call", "Nobody/a/fly"], 6, "Purse"),
        (["call", "Purse/a/look", "--ingress", "http://127.0.0.1:1"], 4, "perdure serve"),
        (["send", "Purse/a/put", "1", "--delay", "soon"], 2, "--delay: 'soon' is not a duration"),
        (["schedules", "pause", "Echo/none"], 6, "Echo/none"),
        (["schedules", "trigger"], 2, "ID"),
        (["schedules", "list", "--admin", "localhost:9070"], 2, "http://"),
    ],
)
async def test_what_goes_wrong_is_one_line(typist: Typist, arguments: list[str], code: int, named: str) -> None:
    """And an exit code of its own."""
    said = await typist.types(*arguments)

    assert said.code == code
    assert named in said.complaint


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["services", "list"], "is the ingress: --admin (or PERDURE_ADMIN) takes the admin port"),
        (["sql", "SELECT 1"], "is the ingress: --admin (or PERDURE_ADMIN) takes the admin port"),
        (["schedules", "pause", "Echo/tick"], "is the ingress: --admin"),
        (["call", "Purse/a/put", "1"], "is the admin port: --ingress (or PERDURE_INGRESS) takes the ingress"),
        (["send", "Purse/a/put", "1"], "is the admin port: --ingress"),
    ],
)
async def test_the_other_port_is_told(
    typist: Typist, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    """Who has swapped them learns so, and that nothing was done."""
    monkeypatch.setenv("PERDURE_ADMIN", typist.ingress)
    monkeypatch.setenv("PERDURE_INGRESS", typist.admin)

    said = await typist.types(*words)

    assert said.code == 2
    assert says in said.complaint
    assert "nothing was done" in said.complaint


@pytest.mark.parametrize(
    ("words", "command"),
    [(["services", "describe", "Nobody"], "services"), (["schedules", "pause", "Echo/none"], "schedules")],
)
async def test_who_types_commands_is_told_of_commands(typist: Typist, words: list[str], command: str) -> None:
    """The server speaks HTTP."""
    said = await typist.types(*words)

    assert f"`perdure {command} list` lists them" in said.complaint
    assert "GET" not in said.complaint


async def test_a_stream_that_stands_still_is_given_up(typist: Typist) -> None:
    """Its items are there, and its invocation goes on."""
    said = await typist.types("call", "Echo/wait", "--timeout", "0.5", "--idempotency-key", "still")

    id = said.err.partition("behind item 1; ")[2].partition(" ")[0]
    assert (said.code, said.out) == (9, "1\n")
    assert await typist.status(id) == "suspended"
    await typist.types("invocations", "kill", id)


async def test_a_token_is_taken_from_a_file(serve: Serve, typing: Typing, tmp_path: Any) -> None:
    """The first in it; a wrong one, or none, has an exit code."""
    typist = typing(await serve(Purse, token=b"0123456789abcdef"))
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("\n 0123456789abcdef \nanother-one-of-these\n")
    wrong.write_text("fedcba9876543210")

    none = await typist.types("schedules", "list")
    assert none.code == 5
    assert "needs a token: --token-file, or PERDURE_ADMIN_TOKEN_FILE, names" in none.complaint
    other = await typist.types("schedules", "list", "--token-file", str(wrong))
    assert other.code == 5
    assert f"does not take the token in {wrong}" in other.complaint
    assert (await typist.types("schedules", "list", "--token-file", str(right))).code == 0


async def test_a_schedule_is_listed_paused_resumed_and_triggered(typist: Typist) -> None:
    """By the id that the list shows."""
    [listed] = (await typist.types("schedules", "list", "--json")).json
    id = listed["id"]
    table = await typist.types("schedules", "list")
    assert id in table.out
    assert table.out.endswith("1 schedule\n")

    assert (await typist.types("schedules", "pause", id)).out == f"paused {id}\n"
    assert "paused" in (await typist.types("schedules", "list")).out
    made = (await typist.types("schedules", "trigger", id, "--json")).json["invocation_id"]
    assert made in (await typist.types("schedules", "list")).out
    assert (await typist.types("schedules", "trigger", id)).code == 1  # the last call has not ended
    assert (await typist.types("schedules", "resume", id)).out == f"resumed {id}\n"
    assert not (await typist.types("schedules", "list", "--json")).json[0]["paused"]


def commands_of(command: Any, *path: str) -> list[tuple[str, ...]]:
    if hasattr(command, "commands"):
        return [each for name, one in command.commands.items() for each in commands_of(one, *path, name)]
    return [path]


@pytest.mark.parametrize("path", commands_of(cli.commands), ids=" ".join)
async def test_each_command_explains_itself(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its exit codes, and an example of it that can be typed as it stands."""
    assert cli.run([*path, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Exit code" in text

    _, example, lines = text.partition("Example: ")
    assert example
    examples = [line.strip() for line in lines.partition("\n\n")[0].splitlines() if line.strip().startswith("perdure ")]
    command: Any = cli.commands
    for word in path:
        command = command.commands[word]
    called: list[dict[str, object]] = []

    def note(**given: object) -> None:
        called.append(given)

    monkeypatch.setattr(command, "callback", note)
    for line in examples:
        assert cli.run(shlex.split(line)[1:]) == 0, capsys.readouterr().err
    assert len(called) == len(examples) > 0


async def test_shells_complete_commands_and_statuses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As click does it."""
    monkeypatch.setenv("_PERDURE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "perdure invocations list --status sus")
    monkeypatch.setenv("COMP_CWORD", "4")

    with pytest.raises(SystemExit):
        cli.run([])

    assert capsys.readouterr().out == "plain,suspended\n"

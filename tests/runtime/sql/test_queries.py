"""`POST /query`: what is taken, what is answered, and that nothing acknowledged is missing."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from perdure.objects import VirtualObject, handler
from perdure.runtime import cli

# Fixtures' types; see conftest.py, which tests can't import from.
Serve = Any
Asker = Any

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Counter(VirtualObject):
    value: int = 0

    @handler
    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asker(serve: Serve) -> AsyncIterator[Asker]:
    yield await serve(Counter, sql_running_max=4)


async def test_what_was_acknowledged_before_is_in_the_answer(asker: Asker) -> None:
    """Each time, though no checkpoint was due."""
    for number in range(1, 21):
        await asker.runtime.ref(Counter, "before").add(1)
        rows = await asker.rows("SELECT value FROM state WHERE service_key = 'before'")

        assert rows == [{"value": str(number)}]


async def test_so_it_is_for_those_who_ask_at_once(asker: Asker) -> None:
    """Their checkpoints are made together, and each is late enough."""

    async def add_and_ask(key: str) -> None:
        for number in range(1, 6):
            await asker.runtime.ref(Counter, key).add(1)
            rows = await asker.rows(f"SELECT value FROM state WHERE service_key = '{key}'")
            assert rows == [{"value": str(number)}]

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(add_and_ask(f"at-once-{number}"))


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("application/vnd.apache.arrow.stream, application/json;q=0.5", "application/json"),
        ("application/jsonl", "application/x-ndjson"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("text/csv", "text/csv; charset=utf-8"),
    ],
)
async def test_the_answer_has_the_format_asked_for(asker: Asker, accept: str, content_type: str) -> None:
    """And says which."""
    answer = await asker.ask("SELECT 1 AS one, NULL AS missing, 'a,\"b' AS text, x'00ff' AS blob", accept)

    assert answer.status == 200
    assert answer.headers["content-type"] == content_type
    if "csv" in content_type:
        assert [*csv.reader(io.StringIO(answer.text))] == [
            ["one", "missing", "text", "blob"],
            ["1", "", 'a,"b', "00ff"],
        ]
    else:
        [row] = json.loads(answer.text)["rows"] if content_type.endswith("/json") else [json.loads(answer.text)]
        assert row == {"one": 1, "missing": None, "text": 'a,"b', "blob": "00ff"}


async def test_arrow_alone_is_not_acceptable(asker: Asker) -> None:
    """406, with what there is."""
    answer = await asker.ask("SELECT 1", "application/vnd.apache.arrow.stream")

    assert answer.status == 406
    assert "text/csv" in answer.message


@pytest.mark.parametrize("body", [{}, {"query": 1}, [], "SELECT 1"])
async def test_a_body_without_a_query_is_refused(asker: Asker, body: object) -> None:
    """400, with the form that is meant."""
    answer = await asker.post(body)

    assert answer.status == 400
    assert "query" in answer.message


async def test_a_form_of_another_site_is_refused(asker: Asker) -> None:
    """A browser sends it without asking; JSON it asks about."""
    async with asker.session.post(asker.url + "/query", data='{"query": "SELECT 1"}') as response:
        assert response.status == 415


async def test_a_runtime_without_a_disk_says_so(serve: Serve) -> None:
    """There is no store that another process could read."""
    asker = await serve(Counter, on_disk=False)

    answer = await asker.ask("SELECT 1")

    assert answer.status == 501


async def test_too_many_at_a_time_are_refused(serve: Serve) -> None:
    """429; the others are answered."""
    asker = await serve(Counter, sql_running_max=1)

    answers = await asyncio.gather(*(asker.ask("SELECT 1 AS one") for _ in range(4)))

    assert sorted(answer.status for answer in answers) == [200, 429, 429, 429]
    assert [answer.headers["retry-after"] for answer in answers if answer.status == 429] == ["1"] * 3


# --- perdure sql ------------------------------------------------------------------------------------------------------


async def run(asker: Asker, *arguments: str, admin: str = "") -> int:
    return await asyncio.to_thread(cli.run, ["sql", *arguments, "--admin", admin or asker.url])


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        ("json", '{"rows":[{"n":1,"s":"x"}]}\n'),
        ("jsonl", '{"n":1,"s":"x"}\n'),
        ("csv", "n,s\n1,x\n"),
    ],
)
async def test_the_command_prints_what_scripts_read(
    asker: Asker, output: str, shown: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Nothing but the answer."""
    assert await run(asker, "SELECT 1 AS n, 'x' AS s", "--format", output) == 0

    assert capfdbinary.readouterr().out.decode() == shown


async def test_a_value_keeps_its_own_line_ends_in_csv(asker: Asker, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Those of the rows are what Unix tools read."""
    assert await run(asker, "SELECT 'a\r\n\"b' AS s, char(13) AS t UNION ALL SELECT '', ''", "-f", "csv") == 0

    assert capfdbinary.readouterr().out == b's,t\n"a\r\n""b","\r"\n,\n'


async def test_the_command_prints_a_table(asker: Asker, capfd: pytest.CaptureFixture[str]) -> None:
    """Control characters are shown, not sent to the terminal."""
    assert await run(asker, "SELECT 1 AS n, 'a' || char(27) || '[31m' AS s, NULL AS missing") == 0

    out = capfd.readouterr().out
    assert "missing" in out
    assert "\x1b" not in out
    assert out.endswith("1 row\n")


@pytest.mark.parametrize(
    ("statement", "admin", "exit_code"),
    [
        ("DELETE FROM state", "", 1),
        ("SELECT zeroblob(100000000)", "", 3),
        ("SELECT 1", "http://127.0.0.1:1", 4),
        ("SELECT 1", "ftp://127.0.0.1", 2),
    ],
)
async def test_the_commands_exit_code_says_whose_matter_it_is(
    asker: Asker, statement: str, admin: str, exit_code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """And one line says what to do."""
    assert await run(asker, statement, admin=admin) == exit_code

    assert capfd.readouterr().err.count("\n") == 1


async def test_the_command_without_its_token_file_says_so(asker: Asker, tmp_path: Path) -> None:
    """The command line is at fault."""
    assert await run(asker, "SELECT 1", "--token-file", str(tmp_path / "none")) == 2

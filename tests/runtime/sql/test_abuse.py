"""Statements that want something else than an answer: each ends within its limits, and the store is as it was."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from perdure.objects import VirtualObject, handler

# Fixtures' types; see conftest.py, which tests can't import from.
Serve = Any
Asker = Any

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECONDS = 1.0
SLACK_SECONDS = 20.0
"""A process may have to be ended and another one started, beside other tests."""

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
NESTED = "abs(" * 200 + "1" + ")" * 200


class Account(VirtualObject):
    balance: int = 0
    notes: dict[str, str]

    @handler
    async def note(self, name: str) -> None:
        self.balance += 1
        self.notes[name] = name * 20


REFUSED = [
    # writes
    "INSERT INTO state VALUES ('Account', 'a', 'balance', NULL, '9', '9', 1)",
    "UPDATE state SET value = '1000000'",
    "DELETE FROM state",
    "REPLACE INTO sys_invocation (id) VALUES ('x')",
    "CREATE TABLE t (x)",
    "CREATE TEMP TABLE t AS SELECT * FROM state",
    "CREATE VIEW v AS SELECT 1",
    "CREATE TRIGGER t AFTER INSERT ON state BEGIN SELECT 1; END",
    "CREATE INDEX i ON state (key)",
    "CREATE VIRTUAL TABLE t USING fts5(x)",
    "CREATE VIRTUAL TABLE t USING sys_invocation",
    "DROP TABLE state",
    "ALTER TABLE state RENAME TO gone",
    "ANALYZE",
    "REINDEX",
    "VACUUM",
    "WITH x AS (SELECT 1) DELETE FROM state",
    "INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 0, 'x')",
    "EXPLAIN DELETE FROM state",
    # files
    "ATTACH DATABASE '{store}' AS other",
    "ATTACH DATABASE ':memory:' AS other",
    "ATTACH DATABASE 'file:{store}?mode=rw' AS other",
    "DETACH DATABASE main",
    "VACUUM INTO '{directory}/copy.sqlite'",
    "SELECT load_extension('/lib/x86_64-linux-gnu/libc.so.6')",
    "SELECT readfile('/etc/passwd')",
    "SELECT writefile('{directory}/x', 'x')",
    "SELECT edit('x', 'sh')",
    "SELECT fts3_tokenizer('simple')",
    "SELECT sqlite_log(1, 'x')",
    "SELECT * FROM fsdir('/')",
    # settings and transactions
    "PRAGMA journal_mode = DELETE",
    "PRAGMA writable_schema = ON",
    "PRAGMA temp_store_directory = '{directory}'",
    "PRAGMA query_only = OFF",
    "PRAGMA hard_heap_limit = 0",
    "PRAGMA table_info(state)",
    "SELECT * FROM pragma_database_list",
    "SELECT count(*) FROM pragma_database_list",
    "SELECT * FROM dbstat",
    "SELECT * FROM sqlite_schema",
    "BEGIN EXCLUSIVE",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "RELEASE s",
    # no statement, or more than one
    "",
    "   ",
    ";",
    "-- nothing",
    "/* nothing */",
    "/* not closed",
    "SELECT 1; DELETE FROM state",
    "SELECT 1; SELECT 2",
    "SELECT 1 /* ; */ ; ; SELECT 2",
    "SELECT 1\0; DELETE FROM state",
    "\0",
    # no question that can be understood
    "SELECT",
    "SELEC 1",
    "SELECT * FROM nowhere",
    "SELECT nothing FROM state",
    "SELECT ?1",
    "SELECT :name, @other, $third",
    "SELECT 'not closed",
    "SELECT 1 FROM",
    "😀",
    "SELECT CAST(x'ff' AS TEXT)",
    # too deep, too wide, too long
    f"SELECT {NESTED}",
    "SELECT " + "-" * 150 + "1",
    "SELECT " + "+".join("1" * 300),
    "SELECT " + ",".join("1" * 1_000),
    " UNION ALL ".join(["SELECT 1"] * 200),
    "SELECT max(" + ",".join("1" * 500) + ")",
    "SELECT json_extract('" + "[" * 2_000 + "', '$')",
    "SELECT 'a' LIKE '" + "%a" * 1_000 + "'",
    f"{ENDLESS} SELECT json_group_array(x ORDER BY",
]
"""400, each."""

CUT_OFF = [
    # they never end
    f"{ENDLESS} SELECT count(*) FROM c",
    f"{ENDLESS} SELECT x FROM c WHERE x < 0",
    f"{ENDLESS} SELECT sum(x) OVER (ORDER BY x) FROM c",
    f"{ENDLESS} SELECT * FROM c",
    f"{ENDLESS} SELECT * FROM c ORDER BY x DESC",
    f"{ENDLESS} SELECT DISTINCT x % 10 FROM c",
    f"{ENDLESS} SELECT json_group_array(x) FROM c",
    f"{ENDLESS} SELECT group_concat(hex(randomblob(1000))) FROM c",
    f"{ENDLESS}, d AS MATERIALIZED (SELECT x, hex(randomblob(1000)) AS h FROM c) SELECT count(*) FROM d",
    "WITH RECURSIVE c(x) AS (SELECT 'a' UNION ALL SELECT x || x FROM c) SELECT length(x) FROM c",
    "SELECT count(*) FROM " + ", ".join(f"state t{number}" for number in range(10)),
    "SELECT count(*) FROM " + ", ".join(f"state t{number}" for number in range(10)) + " WHERE t0.value LIKE '%z%'",
    "SELECT count(*) FROM state a, state b, state c, state d, state e WHERE a.key > b.value || c.value || e.key",
    "SELECT max(a.value || b.value) FROM "
    + ", ".join(f"state {name}" for name in ("a", "b", "c", "d", "e", "f"))
    + " ORDER BY random()",
    "SELECT * FROM state a, state b, state c",
    "SELECT * FROM json_each('[' || substr(replace(hex(zeroblob(500000)), '00', ',1'), 2) || ']') a,"
    " json_each('[' || substr(replace(hex(zeroblob(500000)), '00', ',1'), 2) || ']') b",
    # they are large
    "SELECT randomblob(1000000000)",
    "SELECT zeroblob(2147483647)",
    "SELECT hex(zeroblob(16000000))",
    "SELECT printf('%1000000000d', 1)",
    "SELECT format('%.*c', 100000000, 'x')",
    "SELECT replace(hex(zeroblob(4000000)), '0', 'abcdefghijklmnopqrst')",
    "SELECT quote(zeroblob(10000000))",
    "SELECT zeroblob(3000000)",
    "SELECT group_concat(hex(zeroblob(1000000))) FROM state",
    "SELECT json_group_array(hex(zeroblob(1000000))) FROM state",
    "SELECT hex(zeroblob(7000000)) AS h FROM state a, state b ORDER BY h || random()",
    # one call of a function that nobody can interrupt
    "SELECT instr(hex(zeroblob(7000000)), hex(zeroblob(3500000)) || '1')",
    "SELECT replace(hex(zeroblob(7000000)), hex(zeroblob(3500000)) || '1', '2')",
]
"""413, or 504."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asker(serve: Serve) -> AsyncIterator[Asker]:
    asker = await serve(
        Account,
        sql_seconds_max=SECONDS,
        sql_rows_max=1_000,
        sql_answer_bytes_max=1024 * 1024,
        sql_memory_bytes_max=64 * 1024 * 1024,
    )
    for number in range(40):
        await asker.runtime.ref(Account, f"k{number}").note("n")
    await asker.rows("SELECT 1")
    yield asker


def store_hash(directory: Path) -> str:
    """Of the store, and of what was committed and isn't in it yet."""
    return "".join(
        hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in ("store.sqlite", "store.sqlite-wal")
    )


async def ends_without_a_trace(asker: Asker, statement: str) -> Any:
    """Its answer."""
    before, files = store_hash(asker.directory), sorted(asker.directory.rglob("*"))
    asked = statement.replace("{directory}", str(asker.directory)).replace(
        "{store}", str(asker.directory / "store.sqlite")
    )

    async with asyncio.timeout(SECONDS + SLACK_SECONDS):
        answer = await asker.ask(asked)

    assert store_hash(asker.directory) == before
    assert sorted(asker.directory.rglob("*")) == files
    return answer


@pytest.mark.parametrize("statement", REFUSED, ids=lambda statement: repr(statement[:50]))
async def test_what_is_no_question_is_refused(asker: Asker, statement: str) -> None:
    """400 and one line, before anything is done."""
    answer = await asker.until_there_is_time(lambda: ends_without_a_trace(asker, statement))

    assert answer.status == 400, answer.text[:200]
    assert "\n" not in answer.message
    assert len(answer.message) < 1_000


@pytest.mark.parametrize("statement", CUT_OFF, ids=lambda statement: repr(statement[:50]))
async def test_what_takes_too_much_is_cut_off(asker: Asker, statement: str) -> None:
    """413 or 504 and the reason; the next query is answered."""
    answer = await ends_without_a_trace(asker, statement)

    assert answer.status in (413, 504), answer.text[:200]
    assert answer.message.startswith("query: ")
    assert await asker.rows("SELECT count(*) AS n FROM state WHERE key = 'balance'") == [{"n": 40}]


async def test_there_are_enough_of_them() -> None:
    """Nobody takes them away one by one."""
    assert len({*REFUSED, *CUT_OFF}) >= 100

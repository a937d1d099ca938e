"""SQL as Restate's command line asks it: its tables, its form of ids, its dialect where it differs, and Arrow."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from perdure.objects import List, VirtualObject, handler
from perdure.runtime.restate_ids import ours, theirs
from perdure.runtime.sql import arrow

if TYPE_CHECKING:
    from tests.runtime.sql.conftest import Answer, Asker, Serve

pytestmark = pytest.mark.asyncio(loop_scope="module")

ARROW = "application/vnd.apache.arrow.stream"


class Job(VirtualObject):
    count: int = 0
    log: List[str]

    @handler
    async def add(self, amount: int) -> int:
        self.count += amount
        self.log.append(str(amount))
        return self.count

    @handler
    async def wait(self) -> None:
        await self.ctx.sleep(3600)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asker(serve: Serve) -> AsyncIterator[Asker]:
    asker = await serve(Job, sql_running_max=4)
    asker.path = "/v3/query"
    yield asker


async def waiting(asker: Asker, key: str) -> str:
    """The id of one that holds `key`, and sleeps."""
    id = (await asker.runtime.send(asker.runtime.ref(Job, key).wait)).id
    while asker.runtime.engine.operations.describe(id).status != "suspended":
        await asker.rows("SELECT 1")
    return str(id)


# --- Arrow ------------------------------------------------------------------------------------------------------------


def columns_of(stream: bytes) -> dict[str, tuple[str, list[object]]]:
    """By name: its type, and its values."""
    import nanoarrow  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]

    na: Any = nanoarrow
    table = na.ArrayStream.from_readable(io.BytesIO(stream)).read_all()
    fields, rows = [*table.schema.fields], [*table.to_pylist()]
    return {field.name: (field.type.name, [row[field.name] for row in rows]) for field in fields}


@pytest.mark.parametrize("accept", ["*/*", ARROW, "application/*"])
async def test_arrow_is_what_it_gets_unless_it_says_otherwise(asker: Asker, accept: str) -> None:
    """One type for each column, its nulls kept; what has several types is text."""
    answer = await asker.ask(
        "SELECT 1 AS n, 'ü' AS t, 2.5 AS x, x'00ff' AS b, NULL AS none, 1 AS mixed, 1 AS wide, 1 = 1 AS truth "
        "UNION ALL SELECT NULL, NULL, 3, NULL, NULL, 'a', 0.5, 0",
        accept,
    )

    assert (answer.status, answer.headers["content-type"]) == (200, ARROW)
    assert columns_of(answer.body) == {
        "n": ("INT64", [1, None]),
        "t": ("STRING", ["ü", None]),
        "x": ("DOUBLE", [2.5, 3.0]),
        "b": ("BINARY", [b"\x00\xff", None]),
        "none": ("STRING", [None, None]),
        "mixed": ("STRING", ["1", "a"]),
        "wide": ("DOUBLE", [1.0, 0.5]),
        "truth": ("INT64", [1, 0]),
    }


async def test_arrow_of_no_rows(asker: Asker) -> None:
    """The columns are there, with the types of the table."""
    answer = await asker.ask("SELECT id, retry_count, cancel_requested FROM sys_invocation WHERE id = 'x'", ARROW)

    assert columns_of(answer.body) == {
        "id": ("STRING", []),
        "retry_count": ("INT64", []),
        "cancel_requested": ("BOOL", []),
    }


async def test_without_the_extra_it_is_not_acceptable(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """406, with what to install; JSON is answered all the same."""
    monkeypatch.setattr(arrow, "INSTALLED", False)

    answer = await asker.ask("SELECT 1", "*/*")

    assert answer.status == 406
    assert "perdure[arrow]" in answer.message
    assert await asker.rows("SELECT 1 AS one") == [{"one": 1}]


# --- tables and ids ---------------------------------------------------------------------------------------------------


async def test_ids_are_in_its_form_and_looked_up_in_either(asker: Asker) -> None:
    """The same invocation, whichever way its id is written in the question."""
    id = await waiting(asker, "ids")

    for written in (id, theirs(id)):
        for table, column in {
            "sys_invocation": "id",
            "sys_journal": "id",
            "sys_keyed_service_status": "invocation_id",
        }.items():
            [row, *_] = await asker.rows(f"SELECT {column} AS found FROM {table} WHERE {column} = '{written}'")
            assert (row["found"], ours(row["found"])) == (theirs(id), id)


async def test_an_id_that_it_takes_for_a_service_is_an_id(asker: Asker) -> None:
    """`restate invocations cancel inv_…` with an id of ours asks for a service of that name."""
    id = await waiting(asker, "named")

    rows = await asker.rows(
        f"SELECT id, status FROM sys_invocation_status WHERE target LIKE '{id}/%' AND status != 'completed'"
    )

    assert rows == [{"id": theirs(id), "status": "suspended"}]


async def test_an_id_of_ours_is_not_described(asker: Asker) -> None:
    """Or the command line would break off in the middle; 400 with the id that it can read."""
    id = await waiting(asker, "described")

    answer = await asker.ask(f"SELECT 1 FROM sys_invocation inv WHERE inv.id = '{id}' LIMIT 1")

    assert answer.status == 400
    assert theirs(id) in answer.message


async def test_a_status_is_what_is_stored_in_one_table_and_what_goes_on_in_the_other(asker: Asker) -> None:
    """One that waits for its key is inboxed there, pending here."""
    await waiting(asker, "busy")
    behind = theirs((await asker.runtime.send(asker.runtime.ref(Job, "busy").add, 1)).id)

    for table, status in {"sys_invocation_status": "inboxed", "sys_invocation": "pending"}.items():
        assert await asker.rows(f"SELECT status FROM {table} WHERE id = '{behind}'") == [{"status": status}]


async def test_state_is_bytes_and_has_no_lists(asker: Asker) -> None:
    """Hexadecimal in JSON, as Restate writes it; what has entries is none of its state."""
    await asker.runtime.ref(Job, "bytes").add(42)

    rows = await asker.rows("SELECT key, value, value_utf8 FROM state WHERE service_key = 'bytes'")

    assert rows == [{"key": "count", "value": b"42".hex(), "value_utf8": "42"}]


async def test_it_can_ask_which_columns_there_are(asker: Asker) -> None:
    """As it does before it asks for one that came with a later version of Restate."""
    [row] = await asker.rows(
        "SELECT COUNT(*) AS n FROM information_schema.columns WHERE table_name = 'sys_journal' "
        "AND column_name IN ('version', 'entry_json', 'appended_at', 'of_another_year')"
    )

    assert row == {"n": 3}


# --- the dialect ------------------------------------------------------------------------------------------------------


async def test_index_is_a_name(asker: Asker) -> None:
    """And a word like any other in a text."""
    id = theirs(await waiting(asker, "index"))

    rows = await asker.rows(
        f"SELECT sj.index, 'an index''s' AS text, sj.entry_type FROM sys_journal sj WHERE sj.id = '{id}' "
        "ORDER BY index DESC"
    )

    assert rows == [
        {"index": 1, "text": "an index's", "entry_type": "Sleep"},
        {"index": 0, "text": "an index's", "entry_type": "Input"},
    ]


async def test_an_alias_is_seen_outside_of_its_subquery(asker: Asker) -> None:
    """`restate invocations list --service` counts so."""
    await waiting(asker, "counted")

    [row] = await asker.rows(
        "SELECT COUNT(1) AS n FROM (SELECT\n    *\n    FROM sys_invocation inv\n    LIMIT 50000\n    )\n"
        "    WHERE inv.target_service_name IN ('Job') AND inv.target = 'Job/counted/wait'"
    )

    assert row == {"n": 1}


async def test_the_first_value_of_a_group(asker: Asker) -> None:
    """In the order asked for; of no rows it is nothing."""
    [row] = await asker.rows(
        "SELECT FIRST_VALUE(column1 ORDER BY column2 DESC) AS first FROM (VALUES ('a', 1), ('b', 3), ('c', 2))"
    )
    [none] = await asker.rows("SELECT first_value(id) AS first FROM sys_invocation WHERE id = 'x'")

    assert (row, none) == ({"first": "b"}, {"first": None})


async def test_what_is_pinned_is_true_or_false(asker: Asker) -> None:
    """To SQLite it is a number; the command line takes none for it."""
    await waiting(asker, "pinned")

    [row] = await asker.rows(
        "SELECT dp.id IS NOT NULL as pinned_deployment_exists FROM sys_deployment dp RIGHT JOIN sys_invocation inv "
        "ON dp.id = inv.pinned_deployment_id WHERE inv.target = 'Job/pinned/wait'"
    )

    assert row["pinned_deployment_exists"] is False


async def test_it_can_only_ask(asker: Asker) -> None:
    """What holds for our own path holds for this one."""
    answer: Answer = await asker.ask("DELETE FROM state")

    assert answer.status == 400

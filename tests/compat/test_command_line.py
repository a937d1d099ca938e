"""Restate's command line, command by command; what each did is asked for in our own words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from perdure.runtime.restate_ids import theirs
from tests.compat.conftest import Office, Open

pytestmark = pytest.mark.asyncio(loop_scope="module")

POST = """node -e 'fetch(process.argv[1], {method: "POST", body: process.argv[2]})'"""
"""For an editor's script: curl need not be there."""

TOKEN = "an-operator-of-ours-0001"


# --- services ---------------------------------------------------------------------------------------------------------


async def test_services_list(office: Office) -> None:
    """Each with its kind, without a warning about the server's version."""
    said = await office.restate("services", "list")

    assert [line.split()[1] for line in said.ok.splitlines() if line.strip().startswith("[public]")] == [
        *("Account", "Checkout", "Counter", "Course", "Post", "Reminders", "Signup", "Stock")
    ]
    assert said.row("Counter")[2:5] == ["1", "virtual", "object"]
    assert said.row("Checkout")[3] == "workflow"
    assert "WARNING" not in said.err


async def test_services_describe(office: Office) -> None:
    """Its handlers, and the one deployment: this process."""
    said = await office.restate("services", "describe", "Counter")

    assert said.row("type:")[-1] == "VirtualObject"
    assert said.row("Endpoint:")[-1] == "in-process"
    assert said.row("get")[1] == "none"
    assert "'application/json'" in said.row("add")


async def test_services_describe_of_none(office: Office) -> None:
    """In our words."""
    assert "no service 'Nobody' is served here" in (await office.restate("services", "describe", "Nobody")).complaint


async def test_services_status(office: Office) -> None:
    """What is going on in its handlers, and who holds which key."""
    id = theirs(await office.order("busy"))

    said = (await office.restate("services", "status", "Checkout")).ok

    assert re.search(rf"busy +0 +{id} \(suspended\) +run", said)
    assert re.search(r"^ +run +- +- +- +- +- +[1-9]", said, re.MULTILINE)


async def test_deployments(office: Office) -> None:
    """One, which has all services."""
    said = await office.restate("deployments", "list")
    id = said.row("in-process")[2]

    assert "Counter" in (await office.restate("deployments", "describe", id)).ok


# --- invocations ------------------------------------------------------------------------------------------------------


async def test_invocations_list(office: Office) -> None:
    """By service, status, key and handler; those that have ended if they are asked for."""
    id = theirs(await office.order("list"))
    await office.call("/Counter/listed/add", 1, key="listed")

    assert id in (await office.restate("invocations", "list")).ok
    assert id in (await office.restate("invocations", "list", "--service", "Checkout", "--status", "suspended")).ok
    assert id in (await office.restate("invocations", "list", "--key", "list", "--handler", "run")).ok
    assert id not in (await office.restate("invocations", "list", "--status", "running")).ok
    assert id not in (await office.restate("invocations", "list", "--service", "Counter")).ok
    every = (await office.restate("invocations", "list", "--all")).ok
    assert "Counter/listed/add" in every
    assert "completed" in every


async def test_invocations_describe(office: Office) -> None:
    """What it did, by the recorded steps, and what it waits for."""
    id = theirs(await office.order("describe"))

    said = (await office.restate("invocations", "describe", id)).ok

    assert re.search(r"Target: +Checkout/describe/run", said)
    assert re.search(r"Status: +suspended", said)
    assert re.search(r"\[DONE\] #1 Call Stock/lamp-describe/reserve inv_1\w{33}", said)
    assert "[DONE] #2 Run [charge_card]" in said
    assert re.search(r"\[PENDING\] #3 Sleep until .*\(\d+ minutes", said)


async def test_invocations_describe_takes_its_own_ids_only(office: Office) -> None:
    """Its own reading of an id breaks off in the middle of an answer; so it is told which to give."""
    id = await office.order("ours")

    said = await office.restate("invocations", "describe", id)

    assert f"describes ids of its own form only: {theirs(id)}" in said.complaint


async def test_invocations_cancel(office: Office) -> None:
    """It undoes what it did."""
    id = theirs(await office.order("cancel"))
    assert await office.call("/Stock/lamp-cancel/left") == 4

    assert "Cancelled 1 invocations" in (await office.restate("invocations", "cancel", id)).ok

    assert await ended(office, "cancel") == "the invocation was cancelled"
    assert await office.call("/Stock/lamp-cancel/left") == 5
    assert "completed with failure" in (await office.restate("invocations", "describe", id)).ok


async def test_invocations_cancel_by_an_id_of_ours(office: Office) -> None:
    """As `x-restate-id` has it."""
    id = await office.order("cancel-ours")

    assert "Cancelled 1 invocations" in (await office.restate("invocations", "cancel", id)).ok
    assert await ended(office, "cancel-ours") == "the invocation was cancelled"


@pytest.mark.parametrize("command", [("kill",), ("cancel", "--kill")], ids=" ".join)
async def test_invocations_kill(office: Office, command: tuple[str, ...]) -> None:
    """Nothing is undone."""
    name = "-".join(command)
    await office.order(name)

    assert "Killed 1 invocations" in (await office.restate("invocations", *command, f"Checkout/{name}")).ok

    assert await ended(office, name) == "the invocation was killed"
    assert await office.call(f"/Stock/lamp-{name}/left") == 4


async def test_invocations_pause_resume_and_purge(office: Office) -> None:
    """By `Object/key/handler`, and by id."""
    id = theirs(await office.order("pause"))

    assert "Paused 1 invocations" in (await office.restate("invocations", "pause", "Checkout/pause/run")).ok
    assert await office.statuses("Checkout/pause/run") == ["paused"]
    assert "paused" in (await office.restate("invocations", "list", "--status", "paused")).ok
    assert "Resumed 1 invocations" in (await office.restate("invocations", "resume", id)).ok
    assert await office.statuses("Checkout/pause/run") == ["suspended"]
    await office.restate("invocations", "kill", id)
    assert "Purged 1 invocations" in (await office.restate("invocations", "purge", id)).ok
    assert await office.statuses("Checkout/pause/run") == []


async def test_invocations_restart_as_new(office: Office) -> None:
    """The same once more, and the command tells its id, which can be described."""
    await office.call("/Counter/restart/add", 5, key="r1")

    said = (await office.restate("invocations", "restart-as-new", "Counter/restart/add")).ok

    ids = re.findall(r"inv_1\w{33}", said)
    assert len(set(ids)) == 2
    assert await office.call("/Counter/restart/get") == 10


async def test_invocations_of_which_there_are_none(office: Office) -> None:
    """Nothing is done."""
    said = await office.restate("invocations", "cancel", "Checkout/nobody")

    assert "No invocations found for query Checkout/nobody" in said.complaint


async def ended(office: Office, order: str) -> str:
    """What it failed with, once it has."""
    while True:
        [row] = await office.sql(f"SELECT completion_failure FROM sys_invocation WHERE target = 'Checkout/{order}/run'")
        if row["completion_failure"] is not None:
            return str(row["completion_failure"])


# --- state ------------------------------------------------------------------------------------------------------------


async def test_state_get(office: Office) -> None:
    """Each field with its value."""
    await office.call("/Counter/got/add", 3)

    assert (await office.restate("state", "get", "Counter", "got")).row("value") == ["value", "3"]
    assert (await office.restate("state", "get", "Counter", "got", "--plain")).json == {"value": 3}


async def test_state_get_of_a_struct(office: Office) -> None:
    """JSON, as it is stored."""
    await office.order("struct")

    state = (await office.restate("state", "get", "Stock", "lamp-struct", "--plain")).json

    stored = await office.sql("SELECT key, value FROM state WHERE service_key = 'lamp-struct'")
    assert state == {row["key"]: json.loads(row["value"]) for row in stored}
    assert state


async def test_state_edit(office: Office) -> None:
    """In an editor; what it leaves is the new state."""
    await office.call("/Counter/edited/add", 3)

    said = await office.restate("state", "edit", "Counter", "edited", editor="""sed -i 's/3/42/' "$1" """)

    assert "Successfully submitted state update" in said.ok
    assert await office.call("/Counter/edited/get") == 42


async def test_state_edit_of_what_changed_meanwhile(office: Office) -> None:
    """It names the version that it has read; Restate drops such an edit without a word, here it fails."""
    await office.call("/Counter/raced/add", 3)
    ingress, _ = await office.urls()
    meanwhile = f"""{POST} {ingress}/Counter/raced/add 1"""

    said = await office.restate("state", "edit", "Counter", "raced", editor=f"""sed -i 's/3/42/' "$1"; {meanwhile}""")

    assert "409 Conflict" in said.complaint
    assert await office.call("/Counter/raced/get") == 4


async def test_state_edit_of_an_unfit_value(office: Office) -> None:
    """The object stays as it was."""
    await office.call("/Counter/unfit/add", 3)

    said = await office.restate("state", "edit", "Counter", "unfit", editor="""sed -i 's/3/"much"/' "$1" """)

    assert "400 Bad Request" in said.complaint
    assert await office.call("/Counter/unfit/get") == 3


async def test_state_patch(office: Office) -> None:
    """By JSON patch."""
    await office.call("/Counter/patched/add", 3)

    patch = '[{"op": "replace", "path": "/value", "value": 9}]'
    said = await office.restate("state", "patch", "--patch", patch, "Counter", "patched")

    assert said.code == 0
    assert await office.call("/Counter/patched/get") == 9


async def test_state_clear(office: Office) -> None:
    """Of one key; the others stay."""
    await office.call("/Counter/cleared/add", 3)
    await office.call("/Counter/kept/add", 4)

    assert "Counter/cleared" in (await office.restate("state", "clear", "Counter/cleared")).ok

    assert await office.sql("SELECT key FROM state WHERE service_key = 'cleared'") == []
    assert await office.call("/Counter/kept/get") == 4


# --- SQL --------------------------------------------------------------------------------------------------------------


async def test_sql(office: Office) -> None:
    """As a table, as JSON, as JSON lines; numbers, text, truth, bytes and nothing keep their kind."""
    await office.call("/Counter/asked/add", 3)
    columns = "service_key, value_length, value, value_utf8, NULL AS none"
    statement = f"SELECT {columns} FROM state WHERE service_key = 'asked'"

    table = await office.restate("sql", statement)
    rows = (await office.restate("sql", "--json", statement)).json

    assert table.row("asked")[:2] == ["asked", "1"]
    assert rows == [{"service_key": "asked", "value_length": 1, "value": "33", "value_utf8": "3"}]
    assert (await office.restate("sql", "--jsonl", "SELECT 1 AS n, 2.5 AS x")).json == {"n": 1, "x": 2.5}


async def test_sql_over_the_tables_it_knows(office: Office) -> None:
    """The names that Restate's documentation has in its examples."""
    id = theirs(await office.order("tables"))

    for table, columns in {
        "sys_invocation": "id, target, last_start_at, pinned_deployment_id, trace_id",
        "sys_invocation_status": "id, target, status, created_at",
        "sys_journal": "id, index, entry_type, name, version",
        "sys_keyed_service_status": "service_name, service_key, invocation_id",
        "sys_service": "name, revision, deployment_id, ty",
        "sys_deployment": "id, ty, endpoint",
        "sys_inbox": "id, service_name, service_key, sequence_number",
        "sys_promise": "service_name, service_key, key, completed",
    }.items():
        rows = (await office.restate("sql", "--json", f"SELECT {columns} FROM {table} LIMIT 1")).json
        assert all(row.keys() <= {*columns.split(", ")} for row in rows)
    found = await office.restate(
        "sql", "--json", f"SELECT service_key FROM sys_keyed_service_status WHERE invocation_id = '{id}'"
    )
    assert found.json == [{"service_key": "tables"}]


async def test_sql_that_only_reads(office: Office) -> None:
    """What isn't a question is refused in our words."""
    assert "table state may not be modified" in (await office.restate("sql", "DELETE FROM state")).complaint


# --- access -----------------------------------------------------------------------------------------------------------


async def test_a_token(open_office: Open, tmp_path: Path) -> None:
    """`RESTATE_AUTH_TOKEN` opens the admin port; without it nothing is told."""
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    office = await open_office("--admin-token-file", str(tokens), token=TOKEN)

    assert "Counter" in (await office.restate("services", "list")).ok
    office.token = None
    assert "Counter" not in (await office.restate("services", "list")).complaint


# --- what does not work, and says so ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("deployments register http://localhost:9080", "method not allowed"),
        ("deployments remove dp_10000000000000000000001 --force", "405 Method Not Allowed"),
        ("subscriptions list", "of Restate's admin API there is"),
        ("kafka-clusters list", "of Restate's admin API there is"),
        ("rules list", "no such table: sys_rules"),
        ("vqueues list", "no such table: sys_vqueue_meta"),
        ("services config patch Counter --public=false", "configured where it is written"),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_what_there_is_not(office: Office, command: str, words: str) -> None:
    """README.md has the reasons."""
    assert words in (await office.restate(*command.split())).complaint

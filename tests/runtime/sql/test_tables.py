"""What each table says of invocations and objects whose story is known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from perdure.objects import (
    List,
    Map,
    Promise,
    RetryPolicy,
    Service,
    TerminalError,
    VirtualObject,
    Workflow,
    handler,
    shared,
    step,
)

# Fixtures' types; see conftest.py, which tests can't import from.
Serve = Any
Asker = Any

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUR = 3600.0
HOURLY = RetryPolicy(first_delay=HOUR, max_delay=HOUR, jitter=0)


class Outside:
    """What steps reach."""

    def __init__(self) -> None:
        self.finished = asyncio.Event()


outside: Outside


async def encode(path: str) -> str:
    await outside.finished.wait()
    return path


async def unreachable() -> None:
    raise ConnectionError("no route to the bank")


class Cart(VirtualObject):
    total: float = 0.5
    address: dict[str, list[str]]
    prices: Map[str, int]
    log: List[str]

    @handler
    async def fill(self) -> str:
        self.total = 2.25
        self.address = {"lines": ["Ägypten Str. 1", "o'Hara"]}
        self.prices["tea"] = 3
        self.prices["milk"] = 4
        self.log.append("first")
        return "full"

    @handler
    async def step(self) -> str:
        return await self.ctx.run(encode, "film.mp4")

    @handler
    async def failing_step(self) -> None:
        await self.ctx.run(step(unreachable, retry=HOURLY))

    @handler(retry=HOURLY)
    async def failing(self) -> None:
        raise ConnectionError("out of luck")

    @handler
    async def timer(self) -> None:
        await asyncio.sleep(HOUR)

    @handler
    async def awakeable(self) -> None:
        await self.ctx.awakeable(bool)

    @handler
    async def signal(self) -> None:
        await self.ctx.signal("go", bool)

    @handler
    async def call(self, other: str) -> None:
        await self.ctx.ref(Cart, other).timer()

    @handler
    async def refuse(self) -> None:
        raise TerminalError("sold out", status=409)


class Signup(Workflow):
    verdict: Promise[str]
    other: Promise[str]

    @handler
    async def run(self, name: str) -> str:
        return f"{name}: {await self.verdict}"

    @shared
    async def decide(self, verdict: str) -> None:
        self.other.resolve(verdict)


class Clock(Service):
    @handler
    async def tick(self) -> int:
        return 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asker(serve: Serve) -> AsyncIterator[Asker]:
    global outside  # noqa: PLW0603
    outside = Outside()
    yield await serve(Cart, Signup, Clock)
    outside.finished.set()


async def until(asker: Asker, id: str, **columns: object) -> dict[str, Any]:
    """Its row in sys_invocation, once these columns are so."""
    async with asyncio.timeout(20):
        while True:
            [row] = await asker.rows(f"SELECT * FROM sys_invocation WHERE id = '{id}'")
            if {name: row[name] for name in columns} == columns:
                return dict(row)


async def sent(asker: Asker, key: str, handler: str, *arguments: object) -> str:
    """The id of an invocation of a Cart."""
    reference = getattr(asker.runtime.ref(Cart, key), handler)
    return str((await asker.runtime.send(reference, *arguments)).id)


def waiting_for(row: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(row["waiting_for"])
    return found


# --- sys_invocation ---------------------------------------------------------------------------------------------------


async def test_an_invocation_that_has_ended_says_how(asker: Asker) -> None:
    """Its target, input and outcome."""
    id = await sent(asker, "ended", "fill")

    row = await until(asker, id, status="completed")

    assert row["target"] == "Cart/ended/fill"
    assert (row["target_service_name"], row["target_service_key"], row["target_handler_name"]) == (
        "Cart",
        "ended",
        "fill",
    )
    assert row["target_service_ty"] == "virtual_object"
    assert (row["completion_result"], row["completion_value"]) == ("success", '"full"')
    assert row["invoked_by"] == "ingress"
    assert row["created_at"] <= row["completed_at"]
    assert waiting_for(row) == []


async def test_an_invocation_that_failed_says_why(asker: Asker) -> None:
    """The failure is not the last failure: that is of an attempt."""
    row = await until(asker, await sent(asker, "refused", "refuse"), status="completed")

    assert (row["completion_result"], row["completion_failure"]) == ("failure", "sold out")
    assert row["last_failure"] is None


async def test_one_that_runs_a_step_is_running(asker: Asker) -> None:
    """And says which step."""
    row = await until(asker, await sent(asker, "step", "step"), status="running")

    assert waiting_for(row) == [{"type": "run", "index": 1, "name": "encode"}]


async def test_one_whose_step_fails_backs_off(asker: Asker) -> None:
    """It names the step, the error and when it is tried again."""
    row = await until(asker, await sent(asker, "failing_step", "failing_step"), status="backing-off", retry_count=1)

    [reason] = waiting_for(row)
    assert (reason["type"], reason["name"], reason["failed_attempts"]) == ("run", "unreachable", 1)
    assert reason["next_attempt_at"] == row["next_retry_at"] > row["created_at"]
    assert "no route to the bank" in row["last_failure"]
    assert row["last_failure_related_command_name"] == "unreachable"


async def test_one_that_fails_itself_backs_off(asker: Asker) -> None:
    """There is no step to blame."""
    row = await until(asker, await sent(asker, "failing", "failing"), status="backing-off")

    assert waiting_for(row) == [{"type": "retry", "at": row["next_retry_at"]}]
    assert row["last_failure_type"] == "ConnectionError"
    assert row["last_failure_related_command_name"] is None


async def test_one_that_sleeps_says_until_when(asker: Asker) -> None:
    """A suspended one."""
    row = await until(asker, await sent(asker, "timer", "timer"), status="suspended")

    [reason] = waiting_for(row)
    assert reason["type"] == "sleep"
    assert reason["until"] > row["created_at"]


async def test_one_that_waits_for_an_awakeable_says_its_id(asker: Asker) -> None:
    """With which an operator can complete it."""
    id = await sent(asker, "awakeable", "awakeable")
    [reason] = waiting_for(await until(asker, id, status="suspended"))

    await asker.runtime.resolve_awakeable(reason["id"], True)

    assert reason["type"] == "awakeable"
    await until(asker, id, status="completed")


async def test_one_that_waits_for_a_signal_says_its_name(asker: Asker) -> None:
    """A suspended one."""
    row = await until(asker, await sent(asker, "signal", "signal"), status="suspended")

    assert waiting_for(row) == [{"type": "signal", "index": 1, "name": "go"}]


async def test_one_that_waits_for_a_call_says_whose(asker: Asker) -> None:
    """The call knows its caller."""
    row = await until(asker, await sent(asker, "caller", "call", "callee"), status="suspended")

    [reason] = waiting_for(row)
    assert (reason["type"], reason["target"]) == ("call", "Cart/callee/timer")
    [callee] = await asker.rows(f"SELECT * FROM sys_invocation WHERE id = '{reason['id']}'")
    assert callee["invoked_by"] == "service"
    assert callee["invoked_by_id"] == row["id"]
    assert callee["invoked_by_target"] == "Cart/caller/call"
    assert callee["invoked_by_service_name"] == "Cart"


async def test_one_that_is_scheduled_says_when_it_begins(asker: Asker) -> None:
    """It has no key yet."""
    handle = await asker.runtime.send_after(HOUR, asker.runtime.ref(Cart, "later").fill)

    row = await until(asker, handle.id, status="scheduled")

    assert waiting_for(row) == [{"type": "start", "at": row["scheduled_start_at"]}]


async def test_one_that_was_paused_waits_for_an_operator(asker: Asker) -> None:
    """And keeps what else it waits for."""
    id = await sent(asker, "paused", "timer")
    await until(asker, id, status="suspended")

    await asker.runtime.engine.operations.pause(id)

    row = await until(asker, id, status="paused")
    assert [reason["type"] for reason in waiting_for(row)] == ["operator", "sleep"]


# --- the other tables -------------------------------------------------------------------------------------------------


async def test_who_waits_for_a_key_is_in_the_inbox(asker: Asker) -> None:
    """In order; the one that holds it has the lock."""
    holder = await sent(asker, "queue", "timer")
    queued = [await sent(asker, "queue", "fill") for _ in range(3)]

    inbox = await asker.rows(
        "SELECT id, sequence_number FROM sys_inbox WHERE service_name = 'Cart' AND service_key = 'queue'"
    )
    [lock] = await asker.rows("SELECT * FROM sys_locks WHERE lock_name = 'Cart/queue'")
    [last] = await asker.rows(f"SELECT * FROM sys_invocation WHERE id = '{queued[-1]}'")

    assert inbox == [{"id": id, "sequence_number": number} for number, id in enumerate(queued)]
    assert (lock["acquired_by"], lock["queued"]) == (holder, 3)
    assert lock["acquired_at"] is not None
    assert last["status"] == "pending"
    assert waiting_for(last) == [{"type": "key", "held_by": holder}]


async def test_the_journal_has_what_was_asked_for_and_what_came_of_it(asker: Asker) -> None:
    """The input, and each command."""
    id = await sent(asker, "journal", "call", "journal-callee")
    await until(asker, id, status="suspended")

    entries = await asker.rows(f"SELECT * FROM sys_journal WHERE id = '{id}' ORDER BY \"index\"")

    assert [(entry["index"], entry["entry_type"], entry["completed"]) for entry in entries] == [
        (0, "Input", True),
        (1, "Call", False),
    ]
    assert entries[1]["invoked_target"] == "Cart/journal-callee/timer"
    assert entries[1]["turn"] == 1
    assert json.loads(entries[0]["entry_json"]) == {"type": "Input", "value": "journal-callee", "headers": {}}
    assert json.loads(entries[1]["entry_json"])["key"] == "journal-callee"
    [callee] = await asker.rows(f"SELECT target FROM sys_invocation WHERE id = '{entries[1]['invoked_id']}'")
    assert callee["target"] == "Cart/journal-callee/timer"


async def test_the_journal_of_what_has_ended_has_its_input_and_its_output(asker: Asker) -> None:
    """The rest is not kept."""
    id = await sent(asker, "journal-ended", "fill")
    await until(asker, id, status="completed")

    entries = await asker.rows(f"SELECT entry_type, result FROM sys_journal WHERE id = '{id}'")

    assert entries == [{"entry_type": "Input", "result": None}, {"entry_type": "Output", "result": '"full"'}]


async def test_the_journal_has_sleeps_with_their_time(asker: Asker) -> None:
    """As sys_invocation says it."""
    id = await sent(asker, "journal-timer", "timer")
    row = await until(asker, id, status="suspended")

    [entry] = await asker.rows(f"SELECT * FROM sys_journal WHERE id = '{id}' AND entry_type = 'Sleep'")

    assert entry["sleep_wakeup_at"] == waiting_for(row)[0]["until"]
    assert entry["completed"] is False


async def test_state_is_fields_as_json(asker: Asker) -> None:
    """SQLite's JSON functions take them; each entry of a Map or List is a row."""
    await asker.runtime.ref(Cart, "state").fill()

    of_it = "FROM state WHERE service_name = 'Cart' AND service_key = 'state'"
    rows = await asker.rows(f"SELECT key, entry, value {of_it} ORDER BY key, entry")
    nested = await asker.rows(f"SELECT value ->> '$.lines[1]' AS line {of_it} AND key = 'address'")
    parts = await asker.rows(
        "SELECT part.value AS line FROM state, json_each(state.value, '$.lines') AS part"
        " WHERE service_key = 'state' AND state.key = 'address'"
    )

    assert rows == [
        {"key": "address", "entry": None, "value": '{"lines":["Ägypten Str. 1","o\'Hara"]}'},
        {"key": "log", "entry": 0, "value": '"first"'},
        {"key": "prices", "entry": "milk", "value": "4"},
        {"key": "prices", "entry": "tea", "value": "3"},
        {"key": "total", "entry": None, "value": "2.25"},
    ]
    assert nested == [{"line": "o'Hara"}]
    assert parts == [{"line": "Ägypten Str. 1"}, {"line": "o'Hara"}]


async def test_promises_are_open_or_have_a_value(asker: Asker) -> None:
    """And say who waits for them."""
    handle = await asker.runtime.send(asker.runtime.ref(Signup, "ann").run, "Ann")
    row = await until(asker, handle.id, status="suspended")
    await asker.runtime.ref(Signup, "ann").decide("yes")

    promises = {row["key"]: row for row in await asker.rows("SELECT * FROM sys_promise WHERE service_key = 'ann'")}

    assert waiting_for(row) == [{"type": "promise", "index": 1, "name": "verdict"}]
    assert row["target_service_ty"] == "workflow"
    assert row["idempotency_key"] is None
    assert promises["verdict"]["completed"] is False
    assert json.loads(promises["verdict"]["awaited_by"]) == [handle.id]
    assert promises["other"]["completed"] is True
    assert promises["other"]["completion_success_value"] == '"yes"'


async def test_services_are_what_is_served(asker: Asker) -> None:
    """With their kinds and handlers."""
    rows = await asker.rows("SELECT name, ty, public, handlers FROM sys_service ORDER BY name")

    assert [(row["name"], row["ty"], row["public"]) for row in rows] == [
        ("Cart", "virtual_object", True),
        ("Clock", "service", True),
        ("Signup", "workflow", True),
    ]
    assert json.loads(rows[2]["handlers"]) == ["run", "decide"]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("service_name = 'Cart' AND service_key = 'where' AND key = 'total'", 1),
        ("service_name = 'Cart' AND service_key = 'where' AND key IN ('total', 'log', 'nothing')", 2),
        ("service_key = 'where' AND key = 'total'", 1),
        ("key = 'total' AND service_key || '' = 'where'", 1),
        ("service_name = 'cart' COLLATE NOCASE AND service_key = 'WHERE' COLLATE NOCASE AND key = 'total'", 1),
        ("service_name = 'Car' AND service_key = 't\0where'", 0),
        ("service_name = 'Cart' AND service_key = 7", 5),
        ("service_name = 'Cart' AND service_key = '7' AND key = 'total'", 1),
        ("service_name = 'Cart' AND service_key = 7.5", 0),
    ],
)
async def test_what_is_looked_up_is_what_a_scan_would_find(asker: Asker, where: str, found: int) -> None:
    """Equality reads less, and finds the same."""
    for key in ("where", "7"):
        if not await asker.rows(f"SELECT 1 FROM state WHERE service_key = '{key}'"):
            await asker.runtime.ref(Cart, key).fill()

    looked_up = await asker.rows("SELECT * FROM state WHERE " + where.replace("\0", "' || char(0) || '"))

    assert len(looked_up) == found

"""Restate's TypeScript ingress client calls, sends, attaches, and resolves awakeables: client.mjs tells what it got."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from tests.compat.conftest import Office

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_it_calls(office: Office) -> None:
    """Services and objects, a key with a slash in it, an idempotency key that makes two calls one, no result."""
    told = await office.client("calls")

    assert told == {"added": 3, "once": 7, "again": 7, "nothing": None, "got": 0, "delivered": None, "generic": 2}
    assert await office.sql("SELECT value FROM state WHERE service_key = 'a/b ü'") == [{"value": "0"}]


async def test_it_sends_and_attaches(office: Office) -> None:
    """At once, with a key, soon, and in an hour; what was sent before says so, and results are attached to."""
    told = await office.client("sends")

    assert told["plain"]["status"] == told["keyed"]["status"] == told["letter"]["status"] == "Accepted"
    assert told["repeated"] == {**told["keyed"], "status": "PreviouslyAccepted"}
    assert (told["result"], told["late"]) == (11, 111)
    assert await office.call("/Counter/sent/get") == 111
    letter = told["letter"]["invocationId"]
    [row] = await office.sql(f"SELECT input, created_at, scheduled_start_at FROM sys_invocation WHERE id = '{letter}'")
    waits = datetime.fromisoformat(row["scheduled_start_at"]) - datetime.fromisoformat(row["created_at"])
    assert waits == timedelta(hours=1)
    assert '"bob"' in row["input"]


async def test_it_runs_a_workflow_and_resolves_an_awakeable(office: Office) -> None:
    """Submitted twice it is one run; its output is there when it has ended, not before."""
    told = await office.client("workflow")

    welcome = {"member": True, "decided_by": "bob", "confirmed": "clicked in Oslo"}
    assert told["submitted"]["status"] == "Accepted"
    assert told["resubmitted"] == {**told["submitted"], "status": "PreviouslyAccepted"}
    assert (told["early"], told["attached"]) == (False, welcome)
    assert told["output"] == {"ready": True, "result": welcome}
    assert await office.statuses("Signup/ann/run") == ["completed"]


async def test_it_rejects_an_awakeable(office: Office) -> None:
    """The reason is what the workflow ends with, for whoever attaches to it."""
    told = await office.client("rejection")

    body = {"code": 500, "message": "the address bounces", "source": "invocation", "type": "TerminalError"}
    assert told["refused"] == told["again"] == {"class": "HttpCallError", "status": 500, "body": body}


@pytest.mark.parametrize(
    ("what", "status", "source", "words"),
    [
        ("funds", 409, "invocation", "poor has 0"),
        ("service", 404, "ingress", "service 'Nobody' not found"),
        ("handler", 404, "ingress", "'steal' was not found"),
        ("value", 400, "ingress", "expected int, got str"),
        ("awakeable", 404, "ingress", "no awakeable awk_unknown"),
        ("scope", 400, "ingress", "scopes are not supported"),
    ],
)
async def test_it_is_refused_in_its_own_words(office: Office, what: str, status: int, source: str, words: str) -> None:
    """Status, code and message are where it looks for them."""
    refused = (await office.client("refusals"))[what]

    assert (refused["class"], refused["status"], refused["body"]["code"]) == ("HttpCallError", status, status)
    assert refused["body"]["source"] == source
    assert words in refused["body"]["message"]

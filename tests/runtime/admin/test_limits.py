"""Limits as operators see them: `GET /limits`, `GET /metrics`, and what an invocation says that is held back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import parser

from perdure.objects import Limits, Rate, Service, VirtualObject, handler
from perdure.runtime import Refused

# Fixtures' types; see conftest.py, which tests can't import from.
Operate = Callable[..., Any]

ended: asyncio.Event


@pytest.fixture(autouse=True)
def not_ended() -> None:
    global ended  # noqa: PLW0603  (the world outside)
    ended = asyncio.Event()


async def wait() -> None:
    await ended.wait()


class Press(VirtualObject, limits=Limits(running=2, steps=1, rate_per_key=Rate(count=2, per=60))):
    @handler
    async def work(self) -> None:
        await self.ctx.run(wait)


class Mail(Service, limits=Limits(rate=Rate(count=1, per=60, burst=2))):
    @handler
    async def post(self) -> None: ...

    @handler
    async def post_more(self, count: int) -> None:
        for _ in range(count):
            self.ctx.ref(Mail).post.send()


class Plain(Service):
    @handler
    async def ask(self) -> None: ...


async def busy(operate: Operate) -> Any:
    """Two presses at work, of which one step waits, and one that waits; one key was too fast, and so was the mail."""
    operator = await operate(Press, Mail, Plain, running_handlers_max=5)
    runtime = operator.runtime
    operator.ids = [(await runtime.send(runtime.ref(Press, key).work)).id for key in "abc"]
    await runtime.send(runtime.ref(Press, "a").work)
    with pytest.raises(Refused):
        await runtime.send(runtime.ref(Press, "a").work)
    await runtime.send(runtime.ref(Mail).post_more, 3)
    limiter = runtime.engine.limiter
    await operator.until(lambda: (limiter.steps.waiting(), limiter.handlers.waiting(), limiter.waiting) == (1, 1, 3))
    return operator


async def test_limits_are_listed_with_what_they_hold(operate: Operate) -> None:
    operator = await busy(operate)

    answer = await operator.ask("GET", "/limits")

    assert answer.status == 200
    plain = {"per_seconds": None, "burst": None, "keys": None, "next_free_at": None, "refused": 0}
    assert answer.value["limits"] == [
        {"service": None, "kind": "running", "capacity": 5, "in_use": 2, "waiting": 1, **plain},
        {"service": "Press", "kind": "running", "capacity": 2, "in_use": 2, "waiting": 1, **plain},
        {"service": "Press", "kind": "steps", "capacity": 1, "in_use": 1, "waiting": 1, **plain},
        {
            "service": "Press",
            "kind": "rate_per_key",
            "capacity": 2,
            "per_seconds": 60.0,
            "burst": 2,
            "in_use": None,
            "waiting": 0,
            "refused": 1,
            "keys": 3,
            "next_free_at": None,
        },
        {
            "service": "Mail",
            "kind": "rate",
            "capacity": 1,
            "per_seconds": 60.0,
            "burst": 2,
            "in_use": None,
            "waiting": 2,
            "refused": 0,
            "keys": None,
            "next_free_at": "2026-01-01T00:03:00Z",
        },
    ]
    ended.set()


async def test_without_limits_there_are_none(operate: Operate) -> None:
    operator = await operate(Plain)
    assert (await operator.ask("GET", "/limits")).value == {"limits": []}
    assert (await operator.ask("GET", "/limits/Plain")).status == 404
    assert (await operator.ask("PATCH", "/limits")).status == 405
    assert "perdure_limit" not in await operator.text("/metrics")


async def test_an_invocation_says_which_limit_holds_it_back(operate: Operate) -> None:
    operator = await busy(operate)
    waiting = (await operator.get(operator.ids[2])).value
    working = (await operator.get(operator.ids[0])).value
    assert (waiting["status"], waiting["held_back_by"]) == ("ready", "running")
    assert (working["status"], working.get("held_back_by")) == ("running", None)
    ended.set()


async def test_the_metrics_tell_of_limits_and_of_no_key(operate: Operate) -> None:
    operator = await busy(operate)
    text = await operator.text("/metrics")
    found = {
        (sample.name, sample.labels["service"], sample.labels["kind"]): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("perdure_limit_")
    }
    assert found == {
        ("perdure_limit_places", "", "running"): 5,
        ("perdure_limit_places", "Press", "running"): 2,
        ("perdure_limit_places", "Press", "steps"): 1,
        ("perdure_limit_places_taken", "", "running"): 2,
        ("perdure_limit_places_taken", "Press", "running"): 2,
        ("perdure_limit_places_taken", "Press", "steps"): 1,
        ("perdure_limit_waiting", "", "running"): 1,
        ("perdure_limit_waiting", "Press", "running"): 1,
        ("perdure_limit_waiting", "Press", "steps"): 1,
        ("perdure_limit_waiting", "Press", "rate_per_key"): 0,
        ("perdure_limit_waiting", "Mail", "rate"): 2,
        ("perdure_limit_refused_total", "Press", "rate_per_key"): 1,
        ("perdure_limit_refused_total", "Mail", "rate"): 0,
    }
    ended.set()

"""Schedules through the admin API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from perdure.objects import VirtualObject, cron, every, handler

# Fixtures' types; see conftest.py, which tests can't import from.
Operate = Callable[..., Any]

HOUR = 3_600.0


class Reports(VirtualObject):
    made: int = 0

    @handler(
        schedules=[
            cron("0 9 * * *", timezone="Europe/Berlin", key="daily/all", args=(2,)),
            every(timedelta(hours=1), key="hourly", name="h"),
        ]
    )
    async def make(self, count: int = 1) -> None:
        self.made += count
        await self.ctx.sleep(60)


async def test_schedules_are_listed(operate: Operate) -> None:
    operator = await operate(Reports)
    await operator.runtime.advance(9 * HOUR)

    answer = await operator.ask("GET", "/schedules")

    assert answer.status == 200
    daily, hourly = answer.value["schedules"]
    assert daily == {
        "id": "Reports/make/daily/all",
        "timing": "cron('0 9 * * *', timezone='Europe/Berlin')",
        "target": "Reports/daily/all/make",
        "paused": False,
        "running": False,
        "next_at": "2026-01-02T08:00:00Z",
        "last_fired_at": "2026-01-01T08:00:00Z",
        "last_invocation": daily["last_invocation"],
        "jitter_seconds": 0.0,
        "overlap": "skip",
        "catch_up": "one",
    }
    assert (hourly["id"], hourly["running"], hourly["next_at"]) == ("Reports/make/h", True, "2026-01-01T10:00:00Z")
    assert (await operator.get(daily["last_invocation"])).value["target"] == "Reports/daily/all/make"


@pytest.mark.parametrize("path", ["/schedules/Reports/make/daily/all", "/schedules/Reports%2Fmake%2Fdaily%2Fall"])
async def test_one_is_paused_resumed_and_triggered(operate: Operate, path: str) -> None:
    operator = await operate(Reports)

    assert (await operator.ask("PATCH", f"{path}/pause")).status == 200
    assert (await operator.ask("PATCH", f"{path}/pause")).status == 200
    paused = (await operator.ask("GET", path)).value
    triggered = await operator.ask("PATCH", f"{path}/trigger")
    resumed = await operator.ask("PATCH", f"{path}/resume")

    assert (paused["paused"], paused["next_at"]) == (True, None)
    assert (triggered.status, resumed.status) == (200, 200)
    made = (await operator.get(triggered.value["invocation_id"])).value
    assert (made["target"], made["status"]) == ("Reports/daily/all/make", "suspended")
    seen = (await operator.ask("GET", path)).value
    assert (seen["paused"], seen["running"], seen["next_at"]) == (False, True, "2026-01-01T08:00:00Z")
    again = await operator.ask("PATCH", f"{path}/trigger")
    assert (again.status, "has not ended" in again.value["message"]) == (409, True)


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/schedules/Reports/make", 404, "no schedule 'Reports/make' here; GET /schedules lists them"),
        ("GET", "/schedules/", 400, "this is no schedule's id"),
        ("PATCH", "/schedules/Reports/make/pause", 404, "no schedule 'Reports/make'"),
        ("PATCH", "/schedules/Reports/make/h/trigger/pause", 404, "no schedule 'Reports/make/h/trigger'"),
        ("PATCH", "/schedules/Reports/make/h", 405, ""),
        ("PATCH", "/schedules/Reports/make/h/stop", 405, ""),
        ("GET", "/schedules/Reports/make/h/pause", 405, ""),
        ("POST", "/schedules/Reports/make/h/pause", 405, ""),
        ("DELETE", "/schedules", 405, ""),
        ("PATCH", "/schedules", 405, ""),
    ],
)
async def test_a_wrong_request_is_told_what_to_do(
    operate: Operate, method: str, path: str, status: int, message: str
) -> None:
    operator = await operate(Reports)

    answer = await operator.ask(method, path)

    assert answer.status == status
    assert message in answer.value["message"]


async def test_they_need_the_token(operate: Operate) -> None:
    operator = await operate(Reports, token=b"0123456789abcdef")

    for method, path in (("GET", "/schedules"), ("PATCH", "/schedules/Reports/make/h/trigger")):
        assert (await operator.ask(method, path)).status == 401
        assert (await operator.ask(method, path, authorization="Bearer 0123456789abcdef")).status == 200

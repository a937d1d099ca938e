"""`sys_limits`, and what `sys_invocation` says of what a limit holds back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.objects import Limits, Rate, Service, handler

# Fixtures' types; see conftest.py, which tests can't import from.
Serve = Any

pytestmark = pytest.mark.asyncio(loop_scope="module")

ended: asyncio.Event


async def wait() -> None:
    await ended.wait()


class Narrow(Service, limits=Limits(running=1, rate=Rate(count=1, per=3_600, burst=50))):
    @handler
    async def work(self) -> None:
        await self.ctx.run(wait)


async def test_limits_and_who_is_held_back_can_be_asked_for(serve: Serve) -> None:
    global ended  # noqa: PLW0603  (the world outside)
    ended = asyncio.Event()
    asker = await serve(Narrow)
    runtime = asker.runtime
    first = (await runtime.send(runtime.ref(Narrow).work)).id
    second = (await runtime.send(runtime.ref(Narrow).work.options(priority="high"))).id
    limiter = runtime.engine.limiter
    async with asyncio.timeout(20):
        while not (limiter.handlers.held() == limiter.handlers.waiting() == 1):
            await asyncio.sleep(0)

    limits = await asker.rows("SELECT * FROM sys_limits ORDER BY kind")
    invocations = await asker.rows("SELECT id, status, held_back_by, priority, waiting_for FROM sys_invocation")

    working = '[{"type":"run","index":1,"name":"wait"}]'
    waits = '[{"type":"limit","name":"running"}]'
    plain = {"service_name": "Narrow", "refused": 0, "keys": None, "next_free_at": None}
    assert limits == [
        plain | {"kind": "rate", "capacity": 1, "per_seconds": 3_600.0, "burst": 50, "in_use": None, "waiting": 0},
        plain | {"kind": "running", "capacity": 1, "per_seconds": None, "burst": None, "in_use": 1, "waiting": 1},
    ]
    assert sorted(invocations, key=lambda row: row["id"] == second) == [
        {"id": first, "status": "running", "held_back_by": None, "priority": "normal", "waiting_for": working},
        {"id": second, "status": "ready", "held_back_by": "running", "priority": "high", "waiting_for": waits},
    ]
    ended.set()
    await runtime.handle(second).attach()

"""What operators see of an invocation, and what they do to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.journal import MemoryJournal
from perdure.objects import RetryPolicy, TerminalError, VirtualObject, Workflow, current_step, handler, shared, step

# Fixtures' types; see conftest.py, which tests can't import from.
Operate = Any
Operator = Any

HOUR = 3600.0
HOURLY = RetryPolicy(first_delay=HOUR, max_delay=HOUR, jitter=0)


class Outside:
    """What steps reach."""

    def __init__(self) -> None:
        self.calls = 0
        self.finished = asyncio.Event()


outside: Outside


@pytest.fixture(autouse=True)
async def fresh_outside() -> None:
    global outside  # noqa: PLW0603
    outside = Outside()


async def encode(path: str) -> str:
    outside.calls += 1
    current_step().heartbeat({"done": 0.5})
    await outside.finished.wait()
    return path


async def leave_slowly() -> None:
    outside.calls += 1
    try:
        await asyncio.Event().wait()
    finally:
        await outside.finished.wait()


async def unreachable() -> None:
    outside.calls += 1
    raise ConnectionError("no route")


class Job(VirtualObject):
    count: int = 0

    @handler
    async def add(self, amount: int) -> int:
        self.count += amount
        return self.count

    @handler
    async def encode(self) -> str:
        return await self.ctx.run(encode, "film.mp4")

    @handler
    async def dawdle(self) -> None:
        await self.ctx.run(leave_slowly)

    @handler
    async def ask(self) -> str:
        await self.ctx.run(step(unreachable, retry=HOURLY))
        return "asked"

    @handler(retry=HOURLY)
    async def fail(self) -> None:
        raise ValueError("boom")

    @handler(retry=RetryPolicy(max_attempts=1))
    async def break_down(self) -> None:
        outside.calls += 1
        if outside.calls < 2:
            raise ValueError("broken")

    @handler
    async def refuse(self) -> None:
        raise TerminalError("no", status=418)

    @handler
    async def sleep(self) -> str:
        await asyncio.sleep(HOUR)
        return "slept"

    @handler
    async def call(self, key: str) -> str:
        return await self.ctx.ref(Job, key).sleep()

    @shared
    async def get(self) -> int:
        return self.count


class Course(Workflow):
    @handler
    async def run(self) -> str:
        return "done"


async def in_status(operator: Operator, status: str) -> str:
    """The id of an invocation that is in `status`."""
    runtime = operator.runtime
    job = runtime.ref(Job, "a")
    if status == "scheduled":
        return str((await runtime.send_after(HOUR, job.add, 1)).id)
    if status == "pending":
        await runtime.send(job.sleep)
    method = {"running": job.encode, "backing-off": job.fail, "suspended": job.sleep, "paused": job.break_down}
    handle = await runtime.send(method.get(status, job.refuse))
    if status == "running":
        await operator.until(lambda: outside.calls == 1)
    else:
        await runtime.advance(1)
    return str(handle.id)


STATUSES = ("scheduled", "pending", "running", "backing-off", "suspended", "paused", "completed")


@pytest.fixture
async def operator(operate: Operate) -> Operator:
    return await operate(Job, Course)


# --- seeing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", STATUSES)
async def test_each_status_is_seen(operator: Operator, status: str) -> None:
    id = await in_status(operator, status)

    answer = await operator.get(id)

    assert answer.status == 200
    assert answer.value["id"] == id
    assert answer.value["target"].startswith("Job/a/")
    assert answer.value["status"] == status
    assert {"last_failure", "retry_count", "next_retry_at", "progress"} <= answer.value.keys()


async def test_one_that_was_not_driven_yet_is_ready(operate: Operate) -> None:
    """Nothing is driven while more than so much waits to be synced: the disk has fallen behind."""

    class Behind(MemoryJournal):
        behind = False

        @property
        def unsynced_bytes(self) -> int:
            return 1 << 30 if self.behind else super().unsynced_bytes

    journal = Behind()
    operator = await operate(Job, journal=journal)
    journal.behind = True
    sent = asyncio.create_task(operator.runtime.send(operator.runtime.ref(Job, "a").add, 1))
    await operator.until(sent.done)

    assert (await operator.get(sent.result().id)).value["status"] == "ready"


async def test_one_that_was_woken_is_ready_until_it_is_driven(operator: Operator) -> None:
    handle = await operator.runtime.send(operator.runtime.ref(Job, "a").sleep)
    await operator.patch(handle.id, "pause")
    operations = operator.runtime.engine.operations

    resumed = operations.resume(handle.id)

    assert operations.describe(handle.id).status == "ready"
    await resumed
    await operator.runtime.advance(0)
    assert operations.describe(handle.id).status == "suspended"


async def test_one_is_ready_while_the_last_holders_step_leaves(operator: Operator) -> None:
    """It has its key, but a cancelled step may still be talking to the world outside on the key's behalf."""
    holder = await operator.runtime.send(operator.runtime.ref(Job, "a").dawdle)
    await operator.until(lambda: outside.calls == 1)
    behind = await operator.runtime.send(operator.runtime.ref(Job, "a").add, 1)

    await holder.cancel()
    await operator.until(lambda: operator.runtime.engine.operations.describe(holder.id).status == "completed")
    assert (await operator.get(behind.id)).value["status"] == "ready"

    outside.finished.set()
    assert await behind.attach() == 1


async def test_what_backs_off_says_why_and_when_it_is_tried_again(operator: Operator) -> None:
    """Times are ISO 8601, UTC."""
    id = await in_status(operator, "backing-off")

    value = (await operator.get(id)).value

    assert value["last_failure"] == {"type": "ValueError", "message": "boom", "code": 500}
    assert value["retry_count"] == 1
    assert value["created_at"] == "2026-01-01T00:00:00Z"
    assert value["next_retry_at"] == "2026-01-01T01:00:00Z"


async def test_a_step_that_backs_off_says_so_too(operator: Operator) -> None:
    handle = await operator.runtime.send(operator.runtime.ref(Job, "a").ask)
    await operator.runtime.advance(1)

    value = (await operator.get(handle.id)).value

    assert value["status"] == "backing-off"
    assert value["last_failure"]["message"] == "no route"
    assert (value["retry_count"], value["next_retry_at"]) == (1, "2026-01-01T01:00:00Z")


async def test_heartbeats_are_seen(operator: Operator) -> None:
    """By the number of the command: several steps may run."""
    id = await in_status(operator, "running")

    assert (await operator.get(id)).value["progress"] == {"1": {"done": 0.5}}


async def test_a_failing_one_keeps_its_key_and_the_mailbox_behind_it_is_seen(operator: Operator) -> None:
    id = await in_status(operator, "paused")
    await operator.runtime.send(operator.runtime.ref(Job, "a").add, 1)

    value = (await operator.get(id)).value

    assert value["queued_behind_it"] == 1
    assert value["last_failure"]["message"] == "broken"


async def test_what_it_waits_for_and_who_asked_for_it(operator: Operator) -> None:
    handle = await operator.runtime.send(operator.runtime.ref(Job, "a").call, "b")
    await operator.runtime.advance(1)

    value = (await operator.get(handle.id)).value
    (callee,) = value["waits_for"]

    assert (await operator.get(callee)).value["caller"] == handle.id


async def test_how_it_ended(operator: Operator) -> None:
    refused = await in_status(operator, "completed")
    fine = await operator.runtime.send(operator.runtime.ref(Job, "b").add, 1)
    await operator.runtime.advance(1)

    value = (await operator.get(refused)).value
    assert (value["outcome"], value["failure"]) == ("failure", {"type": "TerminalError", "message": "no", "code": 418})
    assert value["ended_at"] == "2026-01-01T00:00:00Z"
    assert (await operator.get(fine.id)).value["outcome"] == "success"


async def test_a_workflows_inner_key_is_not_told(operator: Operator) -> None:
    """That it runs once is kept under a key of ours, which means nothing to others."""
    handle = await operator.runtime.send(operator.runtime.ref(Course, "c").run)

    assert "idempotency_key" not in (await operator.get(handle.id)).value


# --- doing ----------------------------------------------------------------------------------------------------------

OPEN = ("scheduled", "pending", "running", "backing-off", "suspended", "paused")
AT_ONCE = ("scheduled", "pending", "backing-off", "paused")
"""Nothing of these has happened yet, here: so a cancelled one ends at once."""


@pytest.mark.parametrize(
    ("action", "status", "code"),
    [
        *[("cancel", status, 200 if status in AT_ONCE else 202) for status in OPEN],
        ("cancel", "completed", 409),
        *[("kill", status, 200) for status in OPEN],
        ("kill", "completed", 409),
        *[("pause", status, 202) for status in ("running", "backing-off", "suspended")],
        ("pause", "paused", 200),
        *[("pause", status, 409) for status in ("scheduled", "pending", "completed")],
        *[("resume", status, 200) for status in ("running", "backing-off", "suspended", "paused")],
        *[("resume", status, 425) for status in ("scheduled", "pending")],
        ("resume", "completed", 409),
        ("purge", "completed", 200),
        *[("purge", status, 409) for status in OPEN],
        ("restart-as-new", "completed", 200),
        *[("restart-as-new", status, 425) for status in ("scheduled", "pending")],
        *[("restart-as-new", status, 409) for status in ("running", "backing-off", "suspended", "paused")],
    ],
)
async def test_every_action_in_every_status(operator: Operator, action: str, status: str, code: int) -> None:
    """The status codes of Restate's admin API; an error says in one line what to do."""
    id = await in_status(operator, status)

    answer = await operator.patch(id, action)

    assert answer.status == code
    if code < 400:
        assert (answer.value is None) == (action != "restart-as-new")
    else:
        assert answer.value["code"] == code
        assert answer.value["source"] == answer.headers["x-restate-error-source"] == "admin"
        assert id in answer.value["message"]
        assert "\n" not in answer.value["message"]


@pytest.mark.parametrize("action", ["cancel", "kill", "pause", "resume", "purge", "restart-as-new"])
async def test_what_is_unknown_and_what_is_no_id(operator: Operator, action: str) -> None:
    """404 and 400, as with Restate."""
    assert (await operator.patch(f"inv_{0:035x}", action)).status == 404
    assert (await operator.get(f"inv_{0:035x}")).status == 404
    for bad in ("x", "inv_", "inv_" + "g" * 35, "inv_%00" + "0" * 34, "awk_" + "0" * 32):
        answer = await operator.patch(bad, action)
        assert answer.status == 400
        assert "inv_" in answer.value["message"]


async def test_a_cancelled_one_ends_as_cancelled(operator: Operator) -> None:
    id = await in_status(operator, "suspended")

    await operator.patch(id, "cancel")
    await operator.runtime.advance(0)

    value = (await operator.get(id)).value
    assert value["status"] == "completed"
    assert value["failure"]["code"] == 409
    assert (await operator.patch(id, "cancel")).status == 409


async def test_a_paused_one_goes_on_when_it_is_resumed(operator: Operator) -> None:
    """From where it was, with its attempts counted anew."""
    id = await in_status(operator, "paused")

    await operator.patch(id, "resume")
    await operator.runtime.advance(0)

    value = (await operator.get(id)).value
    assert (value["status"], value["outcome"]) == ("completed", "success")


async def test_one_that_was_paused_by_an_operator_stands_still(operator: Operator) -> None:
    """What it waits for comes meanwhile, and is there when it goes on."""
    id = await in_status(operator, "suspended")
    await operator.patch(id, "pause")
    await operator.runtime.advance(2 * HOUR)
    assert (await operator.get(id)).value["status"] == "paused"
    assert (await operator.get(id)).value["last_failure"]["type"] == "Paused"

    await operator.patch(id, "resume")

    assert await operator.runtime.handle(id, str).attach() == "slept"


async def test_a_backoff_is_cut_short_by_resume(operator: Operator) -> None:
    id = await in_status(operator, "backing-off")

    await operator.patch(id, "resume")
    await operator.runtime.advance(0)

    assert (await operator.get(id)).value["next_retry_at"] == "2026-01-01T01:00:01Z"


async def test_a_steps_backoff_is_cut_short_by_resume(operator: Operator) -> None:
    """It is tried at once, its attempts are counted anew, and nothing is left of the time that it had."""
    id = (await operator.runtime.send(operator.runtime.ref(Job, "a").ask)).id
    await operator.until(lambda: operator.runtime.engine.operations.describe(id).retry_count == 1)
    await operator.runtime.advance(HOUR)
    await operator.until(lambda: operator.runtime.engine.operations.describe(id).retry_count == 2)
    assert outside.calls == 2

    await operator.patch(id, "resume")

    await operator.until(lambda: outside.calls == 3)
    await operator.until(lambda: operator.runtime.engine.operations.describe(id).retry_count == 1)
    await operator.runtime.advance(HOUR - 1)
    assert outside.calls == 3
    await operator.runtime.advance(1)
    await operator.until(lambda: outside.calls == 4)


async def test_restart_as_new_makes_the_request_again(operator: Operator) -> None:
    """With the arguments it had; the old outcome stays."""
    runtime = operator.runtime
    handle = await runtime.send(runtime.ref(Job, "a").add, 5)

    answer = await operator.patch(handle.id, "restart-as-new")

    assert answer.value["new_invocation_id"] != handle.id
    assert await runtime.handle(answer.value["new_invocation_id"], int).attach() == 10
    assert await handle.attach() == 5


async def test_a_workflow_runs_once(operator: Operator) -> None:
    """So it is not restarted; purged, it may be called again."""
    handle = await operator.runtime.send(operator.runtime.ref(Course, "c").run)
    await operator.runtime.advance(0)

    answer = await operator.patch(handle.id, "restart-as-new")
    assert answer.status == 422
    assert "purge" in answer.value["message"]


async def test_a_purged_one_is_forgotten(operator: Operator) -> None:
    id = await in_status(operator, "completed")

    await operator.patch(id, "purge")

    assert (await operator.get(id)).status == 404


async def test_what_is_told_is_durable(operate: Operate) -> None:
    """Neither what is seen nor what was done is told before it is synced."""

    class Held(MemoryJournal):
        held = False

        def flush(self, *, alone: bool = False) -> None:
            if not self.held:
                super().flush(alone=alone)

    journal = Held()
    operator = await operate(Job, journal=journal)
    id = await in_status(operator, "suspended")
    journal.held = True

    asked = [asyncio.create_task(operator.patch(id, "kill")), asyncio.create_task(operator.get(id))]
    await operator.until(lambda: operator.runtime.engine.operations.describe(id).status == "completed")
    asked.append(asyncio.create_task(operator.get(id)))
    done, _ = await asyncio.wait(asked, timeout=0.2)
    assert not any(task in done for task in (asked[0], asked[2]))

    journal.held = False
    journal.flush()
    assert (await asked[0]).status == 200
    assert (await asked[2]).value["status"] == "completed"


async def test_a_process_that_must_stop_says_so(operate: Operate) -> None:
    """The sync failed: nobody knows what is true."""

    class Failing(MemoryJournal):
        def subscribe(self, on_synced: Any, on_failed: Any, on_stalled: Any = None) -> None:
            super().subscribe(on_synced, on_failed, on_stalled)
            self.fail = on_failed

    journal = Failing()
    operator = await operate(Job, journal=journal)
    id = await in_status(operator, "suspended")

    journal.fail(OSError("EIO"))
    await asyncio.sleep(0)
    answers = [await operator.get(id), await operator.patch(id, "kill")]

    assert [answer.status for answer in answers] == [503, 503]

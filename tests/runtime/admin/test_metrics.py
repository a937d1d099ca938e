"""`GET /metrics`: the figures are right after known traffic, and no key or id is among them."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from prometheus_client import parser

from perdure.journal import MemoryJournal
from perdure.objects import RetryPolicy, Service, TerminalError, VirtualObject, handler, shared, step
from perdure.runtime import ManualClock, Runtime, Settings
from perdure.runtime.admission import Refused
from perdure.runtime.ingress import Ingress
from perdure.runtime.metrics import Metrics
from perdure.runtime.store import MemoryStore

Operate = Any
Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]

failures_left = 0


@step(retry=RetryPolicy(max_attempts=3, first_delay=1), name="step-needle")
async def fail_for_now() -> None:
    global failures_left  # noqa: PLW0603  (the world outside)
    failures_left -= 1
    if failures_left >= 0:
        raise ValueError("not now")


class Account(VirtualObject):
    balance: int = 0

    @handler
    async def add(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @handler
    async def refuse(self) -> None:
        raise TerminalError("no")

    @handler(retry=RetryPolicy(max_attempts=2, first_delay=1))
    async def fail(self) -> None:
        raise ValueError("boom")

    @handler
    async def work(self) -> None:
        await self.ctx.run(fail_for_now)

    @handler
    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @shared
    async def get(self) -> int:
        return self.balance


class Desk(Service):
    @handler
    async def add_to(self, key: str) -> int:
        return await self.ctx.ref(Account, key).add(1)


def parsed(text: str) -> Figures:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def lookup(text: str) -> Any:
    """`figures("perdure_…", service=…)`: the value."""
    found = parsed(text)

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    return value


async def figures_of(operator: Any) -> Any:
    return lookup(await operator.text("/metrics"))


async def scraped(runtime: Runtime) -> Any:
    body, _ = await Metrics(runtime.engine.vitals).text()
    return lookup(body.decode())


async def test_calls_and_messages_are_counted_by_handler_and_outcome(operate: Operate) -> None:
    """From outside and of other handlers; reads too, which leave no record."""
    operator = await operate(Account, Desk)
    runtime = operator.runtime
    for key in "abc":
        await runtime.ref(Account, key).add(5)
    await runtime.ref(Account, "a").get()
    await runtime.ref(Desk).add_to("d")
    with pytest.raises(TerminalError):
        await runtime.ref(Account, "a").refuse()

    figures = await figures_of(operator)

    assert figures("perdure_invocations_accepted_total", service="Account", handler="add") == 4
    assert figures("perdure_invocations_accepted_total", service="Account", handler="get") == 1
    assert figures("perdure_invocations_accepted_total", service="Account", handler="wait") == 0
    assert figures("perdure_invocations_accepted_total", service="Desk", handler="add_to") == 1
    assert figures("perdure_invocations_ended_total", service="Account", handler="add", outcome="succeeded") == 4
    assert figures("perdure_invocations_ended_total", service="Account", handler="get", outcome="succeeded") == 1
    assert figures("perdure_invocations_ended_total", service="Account", handler="refuse", outcome="failed") == 1
    assert figures("perdure_invocations_ended_total", service="Account", handler="refuse", outcome="succeeded") == 0
    assert figures("perdure_retained_outcomes", service="Account") == 1
    assert figures("perdure_turns_total") == 3 + 1 + 2 + 1 + 1  # the one that calls goes on when it has its answer


async def test_cancelled_and_killed_are_outcomes_of_their_own(operate: Operate) -> None:
    operator = await operate(Account)
    runtime = operator.runtime
    cancelled = await runtime.send(runtime.ref(Account, "a").wait, 60)
    killed = await runtime.send(runtime.ref(Account, "b").wait, 60)
    await runtime.advance(1)
    await operator.patch(cancelled.id, "cancel")
    await operator.patch(killed.id, "kill")
    await runtime.engine.settled()

    figures = await figures_of(operator)

    assert figures("perdure_invocations_ended_total", service="Account", handler="wait", outcome="cancelled") == 1
    assert figures("perdure_invocations_ended_total", service="Account", handler="wait", outcome="killed") == 1
    assert figures("perdure_invocations_ended_total", service="Account", handler="wait", outcome="failed") == 0
    assert figures("perdure_invocations_accepted_total", service="Account", handler="wait") == 2
    assert figures("perdure_invocations", service="Account", status="begun") == 0


async def test_what_is_open_is_told_by_status_and_mailboxes_by_their_depth(operate: Operate) -> None:
    """One holds its key, three wait behind it and one behind another; one is delayed, one paused."""
    operator = await operate(Account)
    runtime = operator.runtime
    for key in "aaaabb":
        await runtime.send(runtime.ref(Account, key).wait, 60)
    await runtime.send_after(5, runtime.ref(Account, "c").add, 1)
    paused = await runtime.send(runtime.ref(Account, "d").wait, 60)
    await runtime.engine.settled()
    await operator.patch(paused.id, "pause")

    figures = await figures_of(operator)

    assert figures("perdure_invocations", service="Account", status="begun") == 2
    assert figures("perdure_invocations", service="Account", status="pending") == 4
    assert figures("perdure_invocations", service="Account", status="scheduled") == 1
    assert figures("perdure_invocations", service="Account", status="paused") == 1
    assert figures("perdure_mailbox_depth", service="Account") == 4
    assert figures("perdure_mailbox_depth_max", service="Account") == 3
    assert figures("perdure_invocation_pauses_total", service="Account", handler="wait") == 1

    await operator.patch(paused.id, "resume")
    await runtime.advance(3600)

    figures = await figures_of(operator)
    for status in ("begun", "pending", "scheduled", "paused"):
        assert figures("perdure_invocations", service="Account", status=status) == 0
    assert figures("perdure_mailbox_depth_max", service="Account") == 0


@pytest.mark.parametrize("end", ["cancel", "kill"])
@pytest.mark.parametrize("handler", ["wait", "fail"])
async def test_what_was_paused_is_not_any_more_when_it_has_ended(operate: Operate, end: str, handler: str) -> None:
    """Whether it had committed a turn, and gets its cancellation, or not, and just ends."""
    operator = await operate(Account)
    runtime = operator.runtime
    if handler == "wait":
        paused = await runtime.send(runtime.ref(Account, "a").wait, 60)
        await runtime.engine.settled()
        await operator.patch(paused.id, "pause")
    else:
        paused = await runtime.send(runtime.ref(Account, "a").fail)
        await runtime.advance(600)
    before = await figures_of(operator)

    await operator.patch(paused.id, end)
    await runtime.engine.settled()
    after = await figures_of(operator)

    for figures, count in ((before, 1), (after, 0)):
        assert figures("perdure_invocations", service="Account", status="paused") == count
        assert figures("perdure_invocations", service="Account", status="begun") == 0


async def test_latencies_count_from_the_acceptance_or_when_a_delay_was_over(operate: Operate) -> None:
    """The second waits two seconds behind the first, and two itself; the third is delayed by an hour."""
    operator = await operate(Account)
    runtime = operator.runtime
    for _ in range(2):
        await runtime.send(runtime.ref(Account, "a").wait, 2)
    await runtime.send_after(3600, runtime.ref(Account, "b").wait, 2)
    await runtime.advance(7200)

    figures = await figures_of(operator)

    def up_to(seconds: str) -> Any:
        return figures("perdure_invocation_duration_seconds_bucket", service="Account", handler="wait", le=seconds)

    assert (up_to("1.0"), up_to("2.5"), up_to("10.0"), up_to("+Inf")) == (0, 2, 3, 3)
    assert figures("perdure_invocation_duration_seconds_count", service="Account", handler="wait") == 3
    assert figures("perdure_invocation_duration_seconds_sum", service="Account", handler="wait") == 2 + 4 + 2


async def test_retries_pauses_and_steps_are_counted(operate: Operate) -> None:
    """A handler that fails twice is retried once and paused; a step fails twice and then works, another for good."""
    global failures_left
    operator = await operate(Account)
    runtime = operator.runtime
    await runtime.send(runtime.ref(Account, "a").fail)
    for failures_left in (2, 3):  # noqa: B007
        await runtime.send(runtime.ref(Account, "b").work)
        await runtime.advance(600)

    figures = await figures_of(operator)

    assert figures("perdure_invocation_retries_total", service="Account", handler="fail") == 1
    assert figures("perdure_invocation_pauses_total", service="Account", handler="fail") == 1
    assert figures("perdure_step_attempts_total", service="Account", handler="work") == 6
    assert figures("perdure_step_retries_total", service="Account", handler="work") == 4
    assert figures("perdure_step_failures_total", service="Account", handler="work") == 1
    assert figures("perdure_invocation_retries_total", service="Account", handler="work") == 0


async def test_the_journal_and_answers_are_counted(operate: Operate) -> None:
    """Two records of an `add`; both are synced, and a scrape was answered before this one."""
    operator = await operate(Account)
    await operator.runtime.ref(Account, "a").add(1)
    await figures_of(operator)
    await operator.ask("GET", "/nothing/here")

    figures = await figures_of(operator)

    assert figures("perdure_journal_records_total") == 2
    assert figures("perdure_journal_last_lsn") == figures("perdure_journal_synced_lsn") == 2
    assert figures("perdure_journal_appended_bytes_total") > 50
    assert figures("perdure_journal_unsynced_bytes") == 0
    assert figures("perdure_journal_batch_records_sum") == 2
    assert figures("perdure_journal_sync_duration_seconds_count") > 0
    assert figures("perdure_http_responses_total", server="admin", status="200") == 1
    assert figures("perdure_http_responses_total", server="admin", status="404") == 1
    assert figures("perdure_http_requests_in_flight", server="admin") == 1


async def test_what_the_ingress_refuses_is_counted_by_status() -> None:
    """A mailbox that is full is 429, a connection too many 503, whatever it would have asked for."""
    settings = Settings(mailbox_per_key_max=1, connections_max=1)
    async with Runtime([Account], data_dir=None, settings=settings) as runtime:
        ingress = Ingress(runtime.engine, settings)
        metrics = Metrics(runtime.engine.vitals, {"ingress": ingress})
        [(host, port)] = await ingress.start("127.0.0.1", 0)
        async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
            statuses: list[int] = []
            for _ in range(4):
                async with session.post("/Account/a/wait/send", data=b"60") as response:
                    statuses.append(response.status)
            reader, writer = await asyncio.open_connection(host, port)
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
            writer.close()
        body, _ = await metrics.text()
        figures = lookup(body.decode())
        await ingress.close(0)

    assert statuses == [202, 202, 429, 429]
    assert figures("perdure_http_responses_total", server="ingress", status="202") == 2
    assert figures("perdure_http_responses_total", server="ingress", status="429") == 2
    assert figures("perdure_http_responses_total", server="ingress", status="503") == 1
    assert figures("perdure_invocations_accepted_total", service="Account", handler="wait") == 2


async def test_a_full_journal_is_told_of() -> None:
    """1 while there is no room, 0 when there is again."""
    journal = MemoryJournal()
    async with Runtime([Account], data_dir=None, journal=journal) as runtime:
        await runtime.ref(Account, "a").add(1)
        journal._capacity_bytes = 0  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(Refused, match="full"):
            await runtime.ref(Account, "a").add(1)
        full = await scraped(runtime)
        journal._capacity_bytes = None  # pyright: ignore[reportPrivateUsage]
        await runtime.ref(Account, "a").add(1)
        again = await scraped(runtime)

    assert full("perdure_journal_full") == 1
    assert again("perdure_journal_full") == 0


async def test_after_a_restart_counters_begin_anew_and_gauges_go_on() -> None:
    """What is open is told of although it is not in memory; what comes back is counted."""
    clock = ManualClock()
    settings = Settings(checkpoint_records_max=1, checkpoint_changes_max=1, memory_bytes_max=1)
    journal, store = MemoryJournal(), MemoryStore()

    def start(journal: MemoryJournal) -> Runtime:
        return Runtime([Account], data_dir=None, clock=clock, settings=settings, journal=journal, store=store)

    async with start(journal) as runtime:
        for key in "aabcd":
            await runtime.send(runtime.ref(Account, key).wait, 60)
        await runtime.engine.settled()

    async with start(MemoryJournal(journal.records, first_lsn=journal.first_lsn)) as runtime:
        figures = await scraped(runtime)

        assert figures("perdure_resident_invocations") < 5
        assert figures("perdure_invocations", service="Account", status="begun") == 4
        assert figures("perdure_invocations", service="Account", status="pending") == 1
        assert figures("perdure_mailbox_depth_max", service="Account") == 1
        assert figures("perdure_invocations_accepted_total", service="Account", handler="wait") == 0
        assert figures("perdure_journal_records_total") == 0

        await runtime.ref(Account, "z").add(1)
        await runtime.advance(200)
        figures = await scraped(runtime)

        assert figures("perdure_invocations_accepted_total", service="Account", handler="wait") == 0
        assert figures("perdure_invocations_accepted_total", service="Account", handler="add") == 1
        assert figures("perdure_invocations_ended_total", service="Account", handler="wait", outcome="succeeded") == 5
        assert figures("perdure_cold_restores_total") >= 5
        assert figures("perdure_handler_replays_total") >= 4
        assert figures("perdure_turns_replayed_total") >= 4
        assert figures("perdure_checkpoints_total") >= 1
        assert figures("perdure_evictions_total") >= 5
        assert 0 <= figures("perdure_checkpoint_lag_records") < figures("perdure_journal_last_lsn")


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0; charset=utf-8"])
async def test_keys_and_ids_never_show_up(operate: Operate, accept: str) -> None:
    """Nor idempotency keys, arguments, values, errors and the names of steps."""
    operator = await operate(Account, Desk)
    runtime = operator.runtime
    await runtime.ref(Account, "key-needle").add(98765)
    await runtime.ref(Desk).add_to("key-needle")
    await runtime.ref(Account, "key-needle").add.options(idempotency_key="idempotency-needle")(1)
    await runtime.send(runtime.ref(Account, "step-key-needle").work)
    for _ in range(3):
        await runtime.send(runtime.ref(Account, "mail-key-needle").wait, 60)
    await runtime.send_after(60, runtime.ref(Account, "delayed-needle").add, 1)
    await runtime.send(runtime.ref(Account, "failing-needle").fail)
    await runtime.advance(1)

    text = await operator.text("/metrics", accept=accept)

    assert 'service="Account"' in text
    for hidden in ("needle", "inv_", "98765", "boom", "Error"):
        assert hidden not in text
    assert text.endswith("# EOF\n") == bool(accept)

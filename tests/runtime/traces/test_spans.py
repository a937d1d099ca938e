"""Which spans an invocation leaves, whose children they are, and that none leaves twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from perdure.objects import RetryPolicy, Service, TerminalError, VirtualObject, handler, shared, step
from perdure.runtime import records
from perdure.runtime.records import Invoked
from perdure.runtime.trace_context import span_id_of
from tests.runtime.held_journal import HeldJournal

from .conftest import Spans, World

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
DAY = 86_400.0

pytestmark = pytest.mark.usefixtures("temperature")

Worlds = Callable[..., World]

seen: list[str] = []


async def look() -> str:
    """The current span, as an HTTP client in a step would send it."""
    context = trace.get_current_span().get_span_context()
    seen.append(f"{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}")
    return seen[-1]


def look_in_thread() -> str:
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


class Shop(VirtualObject):
    sold: int = 0

    @handler
    async def buy(self, amount: int) -> str:
        self.sold += amount
        found = await self.ctx.run(look)
        await self.ctx.ref(Stock).take(amount)
        self.ctx.ref(Mail).deliver.send("bought")
        self.ctx.ref(Mail).remind.send_after(timedelta(days=30), "again")
        return found

    @handler
    async def wait(self) -> str:
        first = await self.ctx.run(look)
        await asyncio.sleep(5 * DAY)
        second = await self.ctx.run(look_in_thread)
        return f"{first} {second}"

    @handler
    async def refuse(self) -> None:
        raise TerminalError("sold out", status=409)

    @shared
    async def peek(self) -> int:
        return self.sold


class Stock(Service):
    @handler
    async def take(self, amount: int) -> int:
        return amount


class Mail(Service):
    @handler
    async def deliver(self, text: str) -> None: ...

    @handler
    async def remind(self, text: str) -> None:
        await self.ctx.run(look)


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()


async def test_a_request_its_step_its_call_and_its_message_are_one_tree(worlds: Worlds, spans: Spans) -> None:
    """Under the span that the traceparent header names, with its trace id."""
    world = await worlds(Shop, Stock, Mail).start()

    id = await world.send(world.ref(Shop, "a").buy.options(headers=TRACEPARENT), 2)
    result = await world.result(id)

    assert spans.named("Shop/buy").parent == CALLER
    assert spans.named("Shop/buy").parent_is_remote
    assert {name: spans.parent_of(name) for name in set(spans.names)} == {
        "Shop/buy": None,
        "look": "Shop/buy",
        "call Stock/take": "Shop/buy",
        "Stock/take": "call Stock/take",
        "send Mail/deliver": "Shop/buy",
        "Mail/deliver": "send Mail/deliver",
        "send Mail/remind": "Shop/buy",
    }
    assert spans.trace_ids == {TRACE}
    assert result == f"{TRACE}-{spans.named('look').span_id}-01"
    assert spans.named("call Stock/take").kind is SpanKind.CLIENT
    assert spans.named("Stock/take").kind is SpanKind.SERVER
    assert spans.named("send Mail/deliver").kind is SpanKind.PRODUCER
    assert spans.named("Mail/deliver").kind is SpanKind.CONSUMER
    spans.refuse_twice()


async def test_a_message_of_thirty_days_ago_is_of_the_same_trace(worlds: Worlds, spans: Spans) -> None:
    world = await worlds(Shop, Stock, Mail).start()
    await world.send(world.ref(Shop, "a").buy.options(headers=TRACEPARENT), 2)

    await world.restart()
    await world.advance(31 * DAY)
    await world.until(lambda: "Mail/remind" in spans.names)

    assert spans.parent_of("Mail/remind") == "send Mail/remind"
    assert spans.named("Mail/remind").trace_id == TRACE
    assert seen[-1].startswith(TRACE)
    sent, received = spans.named("send Mail/remind"), spans.named("Mail/remind")
    assert received.start - sent.start == 30 * DAY * 1e9
    spans.refuse_twice()


async def test_a_handler_that_sleeps_for_days_over_a_crash_is_one_span(worlds: Worlds, spans: Spans) -> None:
    """With the time it began at before the crash, and the step it asked for then not told again."""
    world = await worlds(Shop).start()
    began = world.clock.now_us() * 1_000
    id = await world.send(world.ref(Shop, "a").wait.options(headers=TRACEPARENT))
    await world.until(lambda: "look" in spans.names)

    await world.restart()
    await world.advance(5 * DAY + 1)
    first, second = (await world.result(id)).split()

    assert sorted(spans.names) == ["Shop/wait", "look", "look_in_thread"]
    whole = spans.named("Shop/wait")
    assert whole.start == began
    assert whole.end - began >= 5 * DAY * 1e9
    assert first.split("-")[0] == second.split("-")[0] == TRACE
    assert second.split("-")[1] == spans.named("look_in_thread").span_id
    assert {spans.parent_of("look"), spans.parent_of("look_in_thread")} == {"Shop/wait"}
    spans.refuse_twice()


@pytest.mark.parametrize("keep", range(1, 8))
async def test_no_crash_loses_or_doubles_a_span_that_its_record_outlives(
    worlds: Worlds, spans: Spans, keep: int
) -> None:
    """The process ends when so many records are synced: what had left stays, what had not leaves after the start."""
    journal = HeldJournal(held=True)
    world = worlds(Shop, Stock, Mail, journal=journal)
    before = world.spans = Spans()
    await world.start()
    asked = asyncio.ensure_future(world.send(world.ref(Shop, "a").buy.options(headers=TRACEPARENT), 2))
    while len(journal.records) < keep:
        await asyncio.sleep(0)
        journal.release(1)
    await world.settle()
    kept, spans.all = list(journal.records), list(before.all)
    asked.cancel()
    world.spans = spans

    await world.begin_with(kept)
    await world.until(lambda: {"Shop/buy", "Mail/deliver"} <= {*spans.names})
    await world.advance(31 * DAY)
    await world.until(lambda: "Mail/remind" in spans.names)

    assert sorted(spans.names) == [
        "Mail/deliver",
        "Mail/remind",
        "Shop/buy",
        "Stock/take",
        "call Stock/take",
        "look",
        "look",
        "send Mail/deliver",
        "send Mail/remind",
    ]
    assert spans.trace_ids == {TRACE}
    spans.refuse_twice()


async def test_nothing_leaves_before_its_record_is_synced(worlds: Worlds, spans: Spans) -> None:
    """What a crash takes back is done again, and its span would leave twice."""
    journal = HeldJournal(held=False)
    world = await worlds(Stock, journal=journal).start()
    journal.held = True

    submitted = asyncio.ensure_future(world.runtime.send(world.ref(Stock).take, 1))
    await world.settle()
    assert spans.names == []

    journal.release()
    await submitted
    await world.settle()
    assert spans.names == ["Stock/take"]


async def test_without_a_traceparent_an_invocation_begins_a_trace_that_does_not_tell_its_id(
    worlds: Worlds, spans: Spans
) -> None:
    world = await worlds(Stock).start()

    one = await world.send(world.ref(Stock).take, 1)
    other = await world.send(world.ref(Stock).take, 1)

    assert len(spans.trace_ids) == 2
    assert all(span.parent is None for span in spans.all)
    assert not any(span.trace_id in one + other for span in spans.all)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        "00-0-0-01",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{TRACE.upper()}-{CALLER}-01",
        f"00-{TRACE}-{CALLER}-01-more",
        f"00-{TRACE}-{CALLER}-01, 00-{TRACE}-{CALLER}-01",
        "\0" * 55,
        "x" * 100_000,
    ],
)
async def test_a_traceparent_that_can_not_be_read_is_none(worlds: Worlds, spans: Spans, header: str) -> None:
    world = await worlds(Stock).start()

    await world.send(world.ref(Stock).take.options(headers={"traceparent": header}), 1)

    assert spans.named("Stock/take").parent is None
    assert spans.named("Stock/take").trace_id != TRACE


async def test_what_the_caller_does_not_sample_is_not_sampled_but_passed_on(worlds: Worlds, spans: Spans) -> None:
    world = await worlds(Shop, Stock, Mail).start()

    id = await world.send(world.ref(Shop, "a").buy.options(headers={"traceparent": f"00-{TRACE}-{CALLER}-00"}), 1)
    found = await world.result(id)

    assert spans.all == []
    assert found.startswith(TRACE)
    assert found.endswith("-00")


async def test_the_sampler_decides_once_for_all_that_comes_of_a_request(worlds: Worlds, spans: Spans) -> None:
    world = worlds(Shop, Stock, Mail)
    world.sampler = ALWAYS_OFF
    await world.start()
    id = await world.send(world.ref(Shop, "a").buy, 1)
    await world.result(id)
    world.sampler = World.sampler

    await world.restart()
    await world.advance(31 * DAY)
    await world.until(lambda: len(seen) == 2)

    assert spans.all == []


async def test_the_tracestate_is_passed_on_with_the_trace(worlds: Worlds, spans: Spans) -> None:
    world = await worlds(Shop, Stock, Mail).start()

    await world.send(world.ref(Shop, "a").buy.options(headers={**TRACEPARENT, "tracestate": "a=1,b=2"}), 1)
    await world.until(lambda: "Mail/deliver" in spans.names)

    assert {span.state for span in spans.all} == {"a=1,b=2"}


async def test_an_error_is_the_status_of_the_span_and_an_event_in_it(worlds: Worlds, spans: Spans) -> None:
    world = await worlds(Shop).start()

    await world.send(world.ref(Shop, "a").refuse)

    span = spans.named("Shop/refuse")
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "TerminalError: sold out")
    (event,) = span.events
    assert event.name == "exception"
    assert dict(event.attributes or {}) == {"exception.type": "TerminalError", "exception.message": "sold out"}
    assert span.attributes["perdure.outcome"] == "failed"


async def test_no_key_and_no_argument_gets_into_a_span(worlds: Worlds, spans: Spans) -> None:
    world = await worlds(Shop, Stock, Mail).start()

    id = await world.send(world.ref(Shop, "alice@example.org").buy, 12_345)
    await world.result(id)

    said = "".join(span.json for span in spans.all)
    assert "alice" not in said
    assert "12345" not in said


failures: list[int] = []


@step(retry=RetryPolicy(first_delay=1, max_attempts=5))
async def fails_twice() -> int:
    failures.append(1)
    if len(failures) < 3:
        raise ConnectionError("no")
    return 3


class Patient(Service):
    @handler
    async def work(self) -> int:
        return await self.ctx.run(fails_twice)


async def test_a_failed_attempt_shows_at_once_under_the_span_it_belongs_to(worlds: Worlds, spans: Spans) -> None:
    failures.clear()
    world = await worlds(Patient).start()

    id = await world.send(world.ref(Patient).work)
    await world.until(lambda: "fails_twice failed" in spans.names)
    assert spans.names == ["fails_twice failed"]
    for _ in range(3):
        await world.advance(20)
    await world.result(id)

    assert sorted(spans.names) == ["Patient/work", "fails_twice", "fails_twice failed", "fails_twice failed"]
    step_span = spans.named("fails_twice")
    assert {span.parent for span in spans.all if "failed" in span.name} == {step_span.span_id}
    assert step_span.attributes["perdure.attempt"] == 3
    spans.refuse_twice()


async def test_a_read_that_leaves_no_record_has_a_span(worlds: Worlds, spans: Spans) -> None:
    world = await worlds(Shop).start()

    await world.call(world.ref(Shop, "a").peek())

    assert spans.names == ["Shop/peek"]
    assert world.recorded() == []


async def test_the_program_around_a_runtime_is_the_parent(worlds: Worlds, spans: Spans) -> None:
    """Whatever span is the current one where a call is made."""
    world = await worlds(Stock).start()
    own = TracerProvider().get_tracer("program")

    with own.start_as_current_span("outer") as outer:
        await world.call(world.ref(Stock).take(1))

    span = spans.named("Stock/take")
    assert span.trace_id == f"{outer.get_span_context().trace_id:032x}"
    assert span.parent == f"{outer.get_span_context().span_id:016x}"


async def test_what_was_accepted_without_traces_goes_on_without(worlds: Worlds, spans: Spans) -> None:
    """And the other way round: a process without them takes what one with them has recorded, and back."""
    world = worlds(Shop, Stock, Mail)
    world.traced = False
    await world.start()
    untraced = await world.send(world.ref(Shop, "a").wait)
    world.traced = True
    await world.restart()
    traced = await world.send(world.ref(Shop, "b").wait)
    world.traced = False
    await world.restart()
    world.traced = True
    await world.restart()
    await world.advance(5 * DAY + 1)

    await world.result(untraced)
    await world.result(traced)
    assert "Shop/wait" in spans.names
    assert all(span.attributes["perdure.invocation.id"] == traced for span in spans.all)
    recorded: list[Any] = [record.trace for record in world.recorded() if isinstance(record, Invoked)]
    assert [one is None for one in recorded] == [True, False]


async def test_the_ids_of_spans_follow_from_invocation_and_command(worlds: Worlds, spans: Spans) -> None:
    world = await worlds(Shop, Stock, Mail).start()

    id = await world.send(world.ref(Shop, "a").buy, 1)
    await world.result(id)

    assert spans.named("Shop/buy").span_id == span_id_of(id, 0).hex()
    assert spans.named("look").span_id == span_id_of(id, 1).hex()
    assert spans.named("call Stock/take").span_id == span_id_of(id, 2).hex()


async def test_a_journal_from_before_there_were_traces_is_read(worlds: Worlds, spans: Spans) -> None:
    """Its records end before the field; and a release that doesn't know it leaves it out."""
    world = worlds(Shop)
    world.traced = False
    await world.start()
    id = await world.send(world.ref(Shop, "a").wait)
    older = [without_last_field(data) for data in world.journal.records]
    assert older[0] != world.journal.records[0]
    world.traced = True

    await world.begin_with(older)
    await world.advance(5 * DAY + 1)

    assert (await world.result(id)).startswith("0" * 32)
    assert spans.all == []


def without_last_field(data: bytes) -> bytes:
    """As the release before wrote it, if it is an Invoked."""
    parts = msgspec.msgpack.decode(data[1:])
    return data[:1] + msgspec.msgpack.encode(parts[:-1]) if isinstance(records.decode(data), Invoked) else data

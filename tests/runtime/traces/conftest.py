"""The worlds of tests/runtime/durable, with spans: each goes to a list, as to a collector that loses nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Sampler

from perdure.journal import Journal
from perdure.runtime import Runtime
from perdure.runtime.trace_context import span_id_of
from perdure.runtime.trace_spans import TracedSpan, readable
from perdure.runtime.traces import Tracer
from tests.runtime.durable.conftest import World as DurableWorld


class Told:
    """A span that left, as an exporter gets it.  Ids in hexadecimal digits, times in nanoseconds."""

    def __init__(self, traced: TracedSpan) -> None:
        span = readable(traced, Resource({}))
        context, parent = span.get_span_context(), span.parent
        assert context is not None
        self.name = span.name
        self.kind = span.kind
        self.status = span.status
        self.events = span.events
        self.attributes = dict(span.attributes or {})
        self.start = span.start_time or 0
        self.end = span.end_time or 0
        self.trace_id = f"{context.trace_id:032x}"
        self.span_id = f"{context.span_id:016x}"
        self.state = context.trace_state.to_header()
        self.parent = None if parent is None else f"{parent.span_id:016x}"
        self.parent_is_remote = parent is not None and parent.is_remote
        self.json = span.to_json()


class Spans:
    """All that ever left, in the order in which it did, over all starts."""

    def __init__(self) -> None:
        self.all: list[Told] = []

    def take(self, span: TracedSpan) -> None:
        self.all.append(Told(span))

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.all]

    def named(self, name: str) -> Told:
        """The one of that name; AssertionError if there is none, or more."""
        (found,) = [span for span in self.all if span.name == name]
        return found

    def parent_of(self, name: str) -> str | None:
        """The name of the span that the one of this name hangs under; None for a root or a stranger's."""
        parent = self.named(name).parent
        return next((span.name for span in self.all if span.span_id == parent), None)

    def refuse_twice(self) -> None:
        """AssertionError if any span left twice."""
        twice = [id for id, count in Counter(span.span_id for span in self.all).items() if count > 1]
        assert not twice, [span.name for span in self.all if span.span_id in twice]

    @property
    def trace_ids(self) -> set[str]:
        return {span.trace_id for span in self.all}


class World(DurableWorld):
    sampler: Sampler = DEFAULT_ON

    def __init__(self, *classes: type, spans: Spans, **options: Any) -> None:
        super().__init__(*classes, **options)
        self.spans = spans
        self.traced = True

    def make_runtime(self, journal: Journal) -> Runtime:
        span_id_of.cache_clear()  # it is to be as another process
        tracer = Tracer(self.spans.take, self.sampler) if self.traced else None
        return Runtime(
            self.classes,
            data_dir=None,
            clock=self.clock,
            settings=self.settings,
            journal=journal,
            store=self.store,
            tracer=tracer,
        )


@pytest.fixture(params=["warm", "cold"])
def temperature(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each story is told twice: with all in memory, and with everything leaving it as soon as it can."""
    monkeypatch.setattr(World, "cold", request.param == "cold")


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
async def worlds(spans: Spans) -> AsyncIterator[Callable[..., World]]:
    """Makes worlds, not yet started, and ends them."""
    made: list[World] = []

    def make(*classes: type, **options: Any) -> World:
        made.append(World(*classes, spans=spans, **options))
        return made[-1]

    yield make
    for world in made:
        await world.close()

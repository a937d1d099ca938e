"""The figures of a process in Prometheus' text format, for `GET /metrics` of the admin port.

Counted is in meter.py and the kernel, looked up in vitals.py; here it gets its names.  A scrape costs by what there is
to tell (classes, handlers, buckets), not by what there is in memory: figures that belong together are taken at once on
the loop, and made into text in a thread, which takes ten times as long.

Labels are classes, handlers, and what there are a few of (statuses, outcomes, HTTP statuses).  Keys, ids and what
handlers or clients make up are never among them: each would be a time series of its own, for ever.
Counters are since the start of the process, as Prometheus expects; gauges are of everything there is.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from itertools import accumulate
from typing import Protocol

from msgspec import Struct
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from .loop_lag import LoopLag
from .meter import LATENCY_SECONDS, HandlerMeter, Spread
from .vitals import Vitals

_OUTCOMES = ("succeeded", "failed", "cancelled", "killed")
_TARGET = ("service", "handler")
_NOTHING = HandlerMeter()

_Labels = tuple[str, ...]


class HttpFigures(Protocol):
    """What a server tells of itself."""

    @property
    def answers_by_status(self) -> Mapping[int, int]: ...
    @property
    def requests_in_flight(self) -> int: ...
    @property
    def connections_open(self) -> int: ...


class Metrics:
    """`servers` by what the label says of them."""

    def __init__(self, vitals: Vitals, servers: Mapping[str, HttpFigures] | None = None) -> None:
        self._vitals = vitals
        self._servers = dict(servers or {})
        self._lag = LoopLag()
        self._build = (metadata.version("perdure"), platform.python_version())

    @contextmanager
    def watching(self, **servers: HttpFigures) -> Generator[None]:
        """The process is up: these servers are told of too, and how late the loop is."""
        self._servers.update(servers)
        self._lag.start()
        try:
            yield
        finally:
            self._lag.stop()

    async def text(self, accept: str = "") -> tuple[bytes, str]:
        """The figures as they are now, in the form that an `Accept` header asks for, and its content type."""
        figures = [*_of_engine(self._vitals), *self._of_process()]
        return await asyncio.to_thread(_text, figures, accept)

    def _of_process(self) -> Iterator[Figure]:
        servers = [*self._servers.items()]
        yield Gauge("perdure_build_info", "What runs.", ("version", "python_version"), [(self._build, 1)])
        yield _histogram(
            "perdure_loop_lag_seconds", "How late the loop called a timer, ten times a second.", self._lag.seconds
        )
        yield Counter(
            "perdure_http_responses",
            "Answers by HTTP status.",
            ("server", "status"),
            [((name, str(status)), count) for name, of in servers for status, count in of.answers_by_status.items()],
        )
        yield Gauge(
            "perdure_http_requests_in_flight",
            "Requests without an answer yet.",
            ("server",),
            [((name,), of.requests_in_flight) for name, of in servers],
        )
        yield Gauge(
            "perdure_http_connections",
            "Open connections.",
            ("server",),
            [((name,), of.connections_open) for name, of in servers],
        )


class Figure(Struct):
    """A metric as it was when it was taken.  `rows`: values of the labels, and the value."""

    name: str
    what: str
    labels: _Labels
    rows: list[tuple[_Labels, float]]

    def metric(self) -> Metric:
        raise NotImplementedError


class Counter(Figure):
    """The name gets `_total` at its end."""

    def metric(self) -> Metric:
        family = CounterMetricFamily(self.name, self.what, labels=self.labels)
        for values, value in self.rows:
            family.add_metric(values, value)
        return family


class Gauge(Figure):
    def metric(self) -> Metric:
        family = GaugeMetricFamily(self.name, self.what, labels=self.labels)
        for values, value in self.rows:
            family.add_metric(values, value)
        return family


class Histogram(Figure, kw_only=True):
    """`bounds` are those of the buckets, `counts` of each row how many are in which; a row's value is the sum."""

    bounds: tuple[float, ...]
    counts: list[list[int]]

    def metric(self) -> Metric:
        family = HistogramMetricFamily(self.name, self.what, labels=self.labels)
        bounds = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        for (values, total), counts in zip(self.rows, self.counts, strict=True):
            family.add_metric(values, [*zip(bounds, accumulate(counts), strict=True)], total)
        return family


class _Taken(Collector):
    def __init__(self, figures: Iterable[Figure]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        for figure in self._figures:
            yield figure.metric()


def _text(figures: Iterable[Figure], accept: str) -> tuple[bytes, str]:
    registry = CollectorRegistry()  # of its own: users' code may have put anything into the global one
    registry.register(_Taken(figures))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _of_engine(vitals: Vitals) -> Iterator[Figure]:
    yield from _of_invocations(vitals)
    yield from _of_handlers(vitals)
    yield from _of_limits(vitals)
    yield from _of_journal(vitals)
    yield from _of_checkpoints(vitals)
    yield from _of_memory(vitals)


def _of_invocations(vitals: Vitals) -> Iterator[Figure]:
    yield Gauge(
        "perdure_invocations",
        "Invocations that have not ended, in memory or not; begun: ready, running, backing off or suspended.",
        ("service", "status"),
        [*vitals.open_by_status().items()],
    )
    services = sorted({*vitals.registry.services, *vitals.kernel.counts.mailboxes})
    mailed, longest = vitals.mailed(), vitals.longest_mailbox()
    yield Gauge(
        "perdure_mailbox_depth",
        "Invocations that wait for their key, of all objects of a class.",
        ("service",),
        [((service,), mailed.get(service, 0)) for service in services],
    )
    yield Gauge(
        "perdure_mailbox_depth_max",
        "The most invocations that wait for one key of a class.",
        ("service",),
        [((service,), longest.get(service, 0)) for service in services],
    )
    yield Gauge(
        "perdure_retained_outcomes",
        "Invocations that have ended and are kept for a while.",
        ("service",),
        [((service,), count) for service, count in vitals.retained().items()],
    )
    yield _gauge("perdure_ready_invocations", "Invocations that wait for their turn.", len(vitals.kernel.ready))


def _of_handlers(vitals: Vitals) -> Iterator[Figure]:
    """Of those that nobody has called yet that alone is told: most of a text would be zeros."""
    accepted, metered = vitals.accepted(), vitals.metered()
    known = dict.fromkeys([*vitals.served(), *accepted])
    yield Counter(
        "perdure_invocations_accepted",
        "Invocations accepted, from outside or of other handlers.",
        _TARGET,
        [(target, accepted[target]) for target in known],
    )
    used = [(target, metered.get(target, _NOTHING)) for target in known if accepted[target] or target in metered]
    yield Counter(
        "perdure_invocations_ended",
        "Invocations that ended, by how.",
        (*_TARGET, "outcome"),
        [((*target, outcome), getattr(meter, outcome)) for target, meter in used for outcome in _OUTCOMES],
    )
    yield Histogram(
        "perdure_invocation_duration_seconds",
        "From the acceptance of an invocation, or when its delay was over, to its end; without the last sync.",
        _TARGET,
        [(target, meter.latency_us / 1e6) for target, meter in used],
        bounds=LATENCY_SECONDS,
        counts=[[*meter.latency_counts] for _, meter in used],
    )
    for name, attribute, what in (
        ("perdure_invocation_retries", "retries", "Turns that failed and are tried again."),
        ("perdure_invocation_pauses", "paused", "Invocations paused, by their failures or an operator."),
        ("perdure_step_attempts", "steps_started", "Attempts of steps that were started."),
        ("perdure_step_retries", "steps_retried", "Attempts of steps that failed and are made again."),
        ("perdure_step_failures", "steps_failed", "Steps that failed for good."),
    ):
        yield Counter(name, what, _TARGET, [(target, getattr(meter, attribute)) for target, meter in used])
    meter = vitals.meter
    yield _counter("perdure_turns", "Turns run, without replayed ones.", meter.turns)
    yield _counter("perdure_turns_replayed", "Turns run again to bring handlers back.", meter.turns_replayed)
    yield _counter("perdure_handler_replays", "Handlers brought back by replay.", meter.runs_replayed)


def _of_limits(vitals: Vitals) -> Iterator[Figure]:
    """Nothing where there are none.  Those of the process have an empty service."""
    if vitals.limiter is None:
        return
    labels = ("service", "kind")
    views = {(view.service or "", view.kind): view for view in vitals.limiter.views()}
    places = {of: view for of, view in views.items() if view.in_use is not None}
    yield Gauge(
        "perdure_limit_places",
        "How many handlers (running) or steps may be at work at once.",
        labels,
        [(of, view.capacity) for of, view in places.items()],
    )
    yield Gauge(
        "perdure_limit_places_taken",
        "How many are.",
        labels,
        [(of, view.in_use or 0) for of, view in places.items()],
    )
    yield Gauge(
        "perdure_limit_waiting",
        "Invocations (of kind steps: steps) that a limit holds back.",
        labels,
        [(of, view.waiting) for of, view in views.items()],
    )
    yield Counter(
        "perdure_limit_refused",
        "Requests that got 429 for a rate.",
        labels,
        [(of, view.refused) for of, view in views.items() if view.in_use is None],
    )


def _of_journal(vitals: Vitals) -> Iterator[Figure]:
    journal, meter, last_lsn = vitals.journal, vitals.meter, vitals.ledger.last_lsn
    yield _counter("perdure_journal_records", "Records appended.", last_lsn - vitals.lsn_at_start)
    yield _counter("perdure_journal_appended_bytes", "Bytes of the records appended.", journal.appended_bytes)
    yield _gauge("perdure_journal_last_lsn", "The number of the last record.", last_lsn)
    yield _gauge("perdure_journal_synced_lsn", "The last record that survives power loss.", journal.synced_lsn)
    yield _gauge("perdure_journal_first_lsn", "The oldest record that is kept.", journal.first_lsn)
    yield _gauge("perdure_journal_unsynced_bytes", "Bytes of records not yet synced.", journal.unsynced_bytes)
    yield _gauge("perdure_journal_segments", "Files of the journal that hold records.", journal.segments)
    yield _gauge("perdure_journal_full", "1 while the disk has no room for records.", vitals.ledger.full)
    yield _histogram(
        "perdure_journal_sync_duration_seconds", "To write and sync a batch of records.", meter.sync_seconds
    )
    yield _histogram("perdure_journal_batch_records", "Records synced together.", meter.batch_records)


def _of_checkpoints(vitals: Vitals) -> Iterator[Figure]:
    """Nothing without a store."""
    checkpoints = vitals.checkpoints
    if checkpoints is None:
        return
    yield _counter("perdure_checkpoints", "Checkpoints made.", checkpoints.made)
    yield _gauge(
        "perdure_checkpoint_lag_records",
        "Records that the store does not hold yet, which a start would replay.",
        checkpoints.lag_records,
    )
    yield _gauge("perdure_checkpoint_age_seconds", "Since the last checkpoint, or the start.", checkpoints.age_seconds)
    yield _gauge("perdure_store_full", "1 while the disk has no room for a checkpoint.", checkpoints.full)


def _of_memory(vitals: Vitals) -> Iterator[Figure]:
    kernel, memory = vitals.kernel, vitals.kernel.memory
    yield _gauge("perdure_resident_objects", "Objects in memory.", len(kernel.objects))
    yield _gauge("perdure_resident_invocations", "Invocations in memory.", len(kernel.invocations))
    yield _gauge("perdure_resident_handlers", "Handlers in memory, at work or suspended.", vitals.driver.runs)
    yield _gauge("perdure_working_set_bytes", "What is in memory and could leave it, about.", memory.clean_bytes)
    yield _gauge(
        "perdure_working_set_limit_bytes",
        "From where on the least recently used leaves.",
        vitals.settings.memory_bytes_max,
    )
    yield _gauge("perdure_unwritten_changes", "What has changed since the last checkpoint.", memory.changed)
    yield _counter("perdure_evictions", "Objects and invocations that left memory.", memory.evicted)
    yield _counter("perdure_cold_restores", "Objects and invocations read from the store.", memory.loaded)


def _counter(name: str, what: str, value: float) -> Figure:
    return Counter(name, what, (), [((), value)])


def _gauge(name: str, what: str, value: float) -> Figure:
    return Gauge(name, what, (), [((), value)])


def _histogram(name: str, what: str, spread: Spread) -> Figure:
    return Histogram(name, what, (), [((), spread.sum)], bounds=spread.bounds, counts=[[*spread.counts]])

"""The figures of a process in Prometheus' text format, for `GET /metrics` of the admin port.

Counted is in meter.py and the kernel, looked up in vitals.py; here it gets its names.  A scrape reads what is there,
so it costs by what there is to tell (classes, handlers, buckets), not by what there is in memory.

Labels are classes, handlers, and what there are a few of (statuses, outcomes, HTTP statuses).  Keys, ids and what
handlers or clients make up are never among them: each would be a time series of its own, for ever.
Counters are since the start of the process, as Prometheus expects; gauges are of everything there is.
"""

from __future__ import annotations

import platform
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from itertools import accumulate
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from .loop_lag import LoopLag
from .meter import HandlerMeter, Spread
from .vitals import Vitals

_OUTCOMES = ("succeeded", "failed", "cancelled", "killed")
_TARGET = ("service", "handler")
_NOTHING = HandlerMeter()

Rows = Iterable[tuple[tuple[str, ...], float]]


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
        self._lag = LoopLag()
        self._servers = dict(servers or {})
        self._registry = CollectorRegistry()  # of its own: users' code may have put anything into the global one
        self._registry.register(_OfEngine(vitals))
        self._registry.register(_OfProcess(self._lag, self._servers))
        ProcessCollector(registry=self._registry)

    @contextmanager
    def watching(self, **servers: HttpFigures) -> Generator[None]:
        """The process is up: these servers are told of too, and how late the loop is."""
        self._servers.update(servers)
        self._lag.start()
        try:
            yield
        finally:
            self._lag.stop()

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """The figures as they are now, in the form that an `Accept` header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _OfEngine(Collector):
    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals

    def collect(self) -> Iterator[Metric]:
        yield from self._invocations()
        yield from self._handlers()
        yield from self._journal()
        yield from self._checkpoints()
        yield from self._memory()

    def _invocations(self) -> Iterator[Metric]:
        vitals = self._vitals
        yield _gauges(
            "perdure_invocations",
            "Invocations that have not ended, in memory or not; begun: ready, running, backing off or suspended.",
            ("service", "status"),
            vitals.open_by_status().items(),
        )
        services = sorted({*vitals.registry.services, *vitals.kernel.counts.mailboxes})
        mailed, longest = vitals.mailed(), vitals.longest_mailbox()
        yield _gauges(
            "perdure_mailbox_depth",
            "Invocations that wait for their key, of all objects of a class.",
            ("service",),
            (((service,), mailed.get(service, 0)) for service in services),
        )
        yield _gauges(
            "perdure_mailbox_depth_max",
            "The most invocations that wait for one key of a class.",
            ("service",),
            (((service,), longest.get(service, 0)) for service in services),
        )
        yield _gauges(
            "perdure_retained_outcomes",
            "Invocations that have ended and are kept for a while.",
            ("service",),
            (((service,), count) for service, count in vitals.retained().items()),
        )
        yield _gauge("perdure_ready_invocations", "Invocations that wait for their turn.", len(vitals.kernel.ready))

    def _handlers(self) -> Iterator[Metric]:
        vitals, accepted = self._vitals, self._vitals.accepted()
        targets = [*dict.fromkeys([*vitals.handlers(), *accepted])]
        meters = [(target, vitals.meter.handlers.get(target, _NOTHING)) for target in targets]
        yield _counters(
            "perdure_invocations_accepted",
            "Invocations accepted, from outside or of other handlers.",
            _TARGET,
            ((target, accepted[target]) for target in targets),
        )
        yield _counters(
            "perdure_invocations_ended",
            "Invocations that ended, by how.",
            (*_TARGET, "outcome"),
            (((*target, outcome), getattr(meter, outcome)) for target, meter in meters for outcome in _OUTCOMES),
        )
        yield _histograms(
            "perdure_invocation_duration_seconds",
            "From the acceptance of an invocation, or when its delay was over, to its end; without the last sync.",
            _TARGET,
            ((target, meter.latency_seconds) for target, meter in meters),
        )
        for name, attribute, what in (
            ("perdure_invocation_retries", "retries", "Turns that failed and are tried again."),
            ("perdure_invocation_pauses", "paused", "Invocations paused, by their failures or an operator."),
            ("perdure_step_attempts", "steps_started", "Attempts of steps that were started."),
            ("perdure_step_retries", "steps_retried", "Attempts of steps that failed and are made again."),
            ("perdure_step_failures", "steps_failed", "Steps that failed for good."),
        ):
            yield _counters(name, what, _TARGET, ((target, getattr(meter, attribute)) for target, meter in meters))
        meter = vitals.meter
        yield _counter("perdure_turns", "Turns run, without replayed ones.", meter.turns)
        yield _counter("perdure_turns_replayed", "Turns run again to bring handlers back.", meter.turns_replayed)
        yield _counter("perdure_handler_replays", "Handlers brought back by replay.", meter.runs_replayed)

    def _journal(self) -> Iterator[Metric]:
        vitals, journal, meter = self._vitals, self._vitals.journal, self._vitals.meter
        last_lsn = vitals.ledger.last_lsn
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

    def _checkpoints(self) -> Iterator[Metric]:
        checkpoints = self._vitals.checkpoints
        if checkpoints is None:
            return
        yield _counter("perdure_checkpoints", "Checkpoints made.", checkpoints.made)
        yield _gauge(
            "perdure_checkpoint_lag_records",
            "Records that the store does not hold yet, which a start would replay.",
            checkpoints.lag_records,
        )
        yield _gauge(
            "perdure_checkpoint_age_seconds", "Since the last checkpoint, or the start.", checkpoints.age_seconds
        )
        yield _gauge("perdure_store_full", "1 while the disk has no room for a checkpoint.", checkpoints.full)

    def _memory(self) -> Iterator[Metric]:
        vitals = self._vitals
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


class _OfProcess(Collector):
    def __init__(self, lag: LoopLag, servers: Mapping[str, HttpFigures]) -> None:
        self._lag = lag
        self._servers = servers
        self._build = (metadata.version("perdure"), platform.python_version())

    def collect(self) -> Iterator[Metric]:
        yield _gauges("perdure_build_info", "What runs.", ("version", "python_version"), [(self._build, 1)])
        yield _histogram(
            "perdure_loop_lag_seconds", "How late the loop called a timer, ten times a second.", self._lag.seconds
        )
        servers = self._servers.items()
        yield _counters(
            "perdure_http_responses",
            "Answers by HTTP status.",
            ("server", "status"),
            (((name, str(status)), n) for name, of in servers for status, n in of.answers_by_status.items()),
        )
        yield _gauges(
            "perdure_http_requests_in_flight",
            "Requests without an answer yet.",
            ("server",),
            (((name,), of.requests_in_flight) for name, of in servers),
        )
        yield _gauges(
            "perdure_http_connections",
            "Open connections.",
            ("server",),
            (((name,), of.connections_open) for name, of in servers),
        )


def _counter(name: str, what: str, value: float) -> Metric:
    return CounterMetricFamily(name, what, value=value)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=value)


def _counters(name: str, what: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = CounterMetricFamily(name, what, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _gauges(name: str, what: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = GaugeMetricFamily(name, what, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _histogram(name: str, what: str, spread: Spread) -> Metric:
    return _histograms(name, what, (), [((), spread)])


def _histograms(
    name: str, what: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], Spread]]
) -> Metric:
    family = HistogramMetricFamily(name, what, labels=labels)
    for values, spread in rows:
        bounds = [*(str(float(bound)) for bound in spread.bounds), "+Inf"]
        family.add_metric(values, [*zip(bounds, accumulate(spread.counts), strict=True)], spread.sum)
    return family

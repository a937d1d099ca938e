"""Where the spans of `perdure serve --traces` go: OTLP over HTTP, as OpenTelemetry's own variables say.

    OTEL_EXPORTER_OTLP_ENDPOINT   the collector, by default http://localhost:4318; headers, TLS and timeouts likewise
    OTEL_SERVICE_NAME             by default perdure; OTEL_RESOURCE_ATTRIBUTES for more
    OTEL_TRACES_SAMPLER           by default all, and what a traceparent says
    OTEL_BSP_…                    how many spans wait (2,048), and for how long (5 s)
    OTEL_SDK_DISABLED             true: no traces

Spans are sent by a thread of the SDK, from a queue that is bounded: a collector that doesn't answer costs spans, and
one line in the log when it begins and one when it is over.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from .exits import StartRefused
from .traces import Tracer, tracer_of

log: structlog.stdlib.BoundLogger = structlog.get_logger("perdure.traces")

CLOSE_SECONDS_MAX = 3.0
"""For the last spans; a collector that is down must not hold up the end of the process."""


class Traces:
    """The way to the collector, open."""

    def __init__(self, tracer: Tracer, processor: BatchSpanProcessor) -> None:
        self.tracer = tracer
        self._processor = processor

    def close(self) -> None:
        """Sends what is left, if that is possible soon."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS_MAX)
        if closing.is_alive():
            log.warning("spans_lost", why="the collector did not take them before the end of the process")


def open_traces(environment: Mapping[str, str] = os.environ) -> Traces | None:
    """None if the environment says that there are to be none.  Raises StartRefused for what can't be done."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        log.info("no_traces", why="OTEL_SDK_DISABLED is true")
        return None
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    if exporter == "none":
        log.info("no_traces", why="OTEL_TRACES_EXPORTER is none")
        return None
    for name, value, wanted in (
        ("OTEL_TRACES_EXPORTER", exporter, "otlp"),
        *(
            (name, environment.get(name, "").strip().lower(), "http/protobuf")
            for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        ),
    ):
        if value and value != wanted:
            raise StartRefused(f"--traces: {name} is {value!r}, and spans leave here by {wanted} only: unset it")
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)  # each attempt is a line there
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    processor = BatchSpanProcessor(_Watched(OTLPSpanExporter()))
    provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)  # the spans that steps make go the same way
    return Traces(tracer_of(provider, processor), processor)


def _resource() -> Resource:
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: "perdure"}))
    return resource


class _Watched(SpanExporter):
    """Says once that spans get lost, and once that they don't any more."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._lost:
                log.info("spans_taken_again", lost=self._lost)
                self._lost = 0
        else:
            if not self._lost:
                log.warning(
                    "spans_lost",
                    why="the collector does not take them",
                    do="look at OTEL_EXPORTER_OTLP_ENDPOINT; nothing else suffers, and this is said once",
                )
            self._lost += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

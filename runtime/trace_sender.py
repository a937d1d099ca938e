"""`python -m perdure.runtime.trace_sender`: the process that sends spans, by OTLP over HTTP.

    OTEL_EXPORTER_OTLP_ENDPOINT   the collector, by default http://localhost:4318; headers, TLS and timeouts likewise
    OTEL_SERVICE_NAME             by default perdure; OTEL_RESOURCE_ATTRIBUTES for more
    OTEL_BSP_SCHEDULE_DELAY       how long a span waits for others: 5 s
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE   how many are sent together: 512

It ends when the pipe does, having sent what came through it: also after the process that serves was killed.
A collector that doesn't answer costs spans, and one line in the log when that begins and one when it is over.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO, Final, cast

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from . import logs
from .trace_spans import LENGTH, TracedSpan, readable, unpack_spans

log: structlog.stdlib.BoundLogger = structlog.get_logger("perdure.traces")

_NICENESS: Final = 15
_BATCHES_MAX: Final = 16  # further ones stay in the pipe, and then with the process that serves
_DELAY_MS: Final = 5_000
_EXPORTED_MAX: Final = 512


def main() -> int:
    """Exit code 0: all that came was sent."""
    logs.configure(format=cast("logs.Format", sys.argv[1]), level=cast("logs.Level", sys.argv[2]))
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)  # each attempt is a line there
    _outlive_signals()
    with suppress(OSError):
        os.nice(_NICENESS)
    batches: queue.Queue[list[TracedSpan] | None] = queue.Queue(_BATCHES_MAX)
    threading.Thread(target=_read, args=(sys.stdin.buffer, batches), daemon=True).start()
    sender = Sender(exporter(), resource())
    sender.run(batches)
    return 0 if sender.sent_all else 1


def _outlive_signals() -> None:
    """Those are for the process that serves; its end is the end of the pipe."""
    with suppress(OSError):
        os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read(pipe: BinaryIO, batches: queue.Queue[list[TracedSpan] | None]) -> None:
    while len(head := pipe.read(LENGTH.size)) == LENGTH.size:
        (length,) = LENGTH.unpack(head)
        data = pipe.read(length)
        if len(data) < length:  # killed while it wrote
            break
        batches.put(unpack_spans(data))
    batches.put(None)


class Sender:
    def __init__(self, exporter: SpanExporter, resource: Resource) -> None:
        self.sent_all = True
        self._exporter = exporter
        self._resource = resource
        self._delay_seconds = _number("OTEL_BSP_SCHEDULE_DELAY", _DELAY_MS) / 1e3
        self._exported_max = _number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", _EXPORTED_MAX)

    def run(self, batches: queue.Queue[list[TracedSpan] | None]) -> None:
        """Until there are no more."""
        spans: list[TracedSpan] = []
        until = 0.0
        while True:
            try:
                batch = batches.get(timeout=max(0.0, until - time.monotonic()) if spans else None)
            except queue.Empty:
                self._export(spans)
                spans = []
                continue
            if batch is None:
                break
            if not spans:
                until = time.monotonic() + self._delay_seconds
            spans += batch
            while len(spans) >= self._exported_max:
                self._export(spans[: self._exported_max])
                spans = spans[self._exported_max :]
        if spans:
            self._export(spans)
        self._exporter.shutdown()

    def _export(self, spans: list[TracedSpan]) -> None:
        done = self._exporter.export([readable(span, self._resource) for span in spans])
        self.sent_all = done is SpanExportResult.SUCCESS


def exporter() -> SpanExporter:
    """To the collector that the environment names."""
    return _Watched(OTLPSpanExporter())


def resource() -> Resource:
    """What all spans say of this service."""
    found = Resource.create()
    if str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return found.merge(Resource({SERVICE_NAME: "perdure"}))
    return found


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


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "").strip()
    return int(value) if value.isascii() and value.isdigit() and int(value) > 0 else default


if __name__ == "__main__":
    sys.exit(main())

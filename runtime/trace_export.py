"""The spans of `perdure serve --traces` on their way out, as far as the process that serves has to do with it.

They go through a pipe to a process that makes protobuf of them and talks to the collector (trace_sender.py).
For: that takes some 30 µs a span, which would be taken from the handlers; and what has left is sent also if this
process is killed.
Against: another process, with some 40 MiB.

Nothing here waits for it: the loop adds to a list, a thread writes.  The list is bounded, and what doesn't fit is lost.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Final

import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from .exits import StartRefused
from .trace_sender import exporter, resource
from .trace_spans import LENGTH, TracedSpan, pack_spans
from .traces import Tracer

log: structlog.stdlib.BoundLogger = structlog.get_logger("perdure.traces")

CLOSE_SECONDS_MAX: Final = 3.0
"""For the last spans; a collector that is down must not hold up the end of the process."""

WAITING_MAX: Final = 32_768
"""Some 20 MiB, and a few seconds of a busy process."""

_GATHER_SECONDS: Final = 0.02
_BATCH_MAX: Final = 1_024
_AGAIN_SECONDS: Final = 10.0
_COMMAND: Final = (sys.executable, "-P", "-m", "perdure.runtime.trace_sender")


class Traces:
    """The way out, open."""

    def __init__(self, tracer: Tracer, pipe: SpanPipe, provider: TracerProvider) -> None:
        self.tracer = tracer
        self._pipe = pipe
        self._provider = provider

    def close(self) -> None:
        """Sends what is left, if that is possible soon."""
        until = time.monotonic() + CLOSE_SECONDS_MAX
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        sent = self._pipe.close(until)
        closing.join(max(0.0, until - time.monotonic()))
        if not sent or closing.is_alive():
            log.warning("spans_lost", why="the collector did not take them before the end of the process")


def open_traces(log_options: tuple[str, str], environment: Mapping[str, str] = os.environ) -> Traces | None:
    """None if the environment says that there are to be none.  Raises StartRefused for what can't be done.

    `log_options`: format and level, for what the process that sends says.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        log.info("no_traces", why="OTEL_SDK_DISABLED is true")
        return None
    if environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        log.info("no_traces", why="OTEL_TRACES_EXPORTER is none")
        return None
    _refuse_other(environment, "OTEL_TRACES_EXPORTER", "otlp")
    _refuse_other(environment, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    _refuse_other(environment, "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)  # each attempt is a line there
    provider = TracerProvider(resource=resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter()))
    trace.set_tracer_provider(provider)  # of the spans that steps make there are few: they leave from here
    pipe = SpanPipe(log_options)
    return Traces(Tracer(pipe.take, provider.sampler), pipe, provider)


def _refuse_other(environment: Mapping[str, str], name: str, wanted: str) -> None:
    value = environment.get(name, "").strip().lower()
    if value and value != wanted:
        raise StartRefused(f"--traces: {name} is {value!r}, and spans leave here by {wanted} only: unset it")


class SpanPipe:
    """To the process that sends, which is started with the first span, and anew if it has ended."""

    def __init__(self, log_options: tuple[str, str]) -> None:
        self._command = [*_COMMAND, *log_options]
        self._waiting: deque[TracedSpan] = deque()
        self._lost = 0
        self._some = threading.Event()
        self._closing = threading.Event()
        self._sender: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._work, name="perdure-spans", daemon=True)
        self._thread.start()

    def take(self, span: TracedSpan) -> None:
        """On the loop."""
        waiting = self._waiting
        if len(waiting) >= WAITING_MAX:
            self._lost += 1
            return
        waiting.append(span)
        if not self._some.is_set():
            self._some.set()

    def close(self, until: float) -> bool:
        """Whether all that was taken is sent, at the monotonic time `until` at the latest."""
        self._closing.set()
        self._some.set()
        self._thread.join(max(0.0, until - time.monotonic()))
        if (sender := self._sender) is None:
            return not self._waiting
        try:
            return sender.wait(max(0.1, until - time.monotonic())) == 0
        except subprocess.TimeoutExpired:
            sender.kill()
            sender.wait()
            return False

    # --- in the thread --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing.is_set():
            self._some.wait()
            self._closing.wait(_GATHER_SECONDS)
            self._some.clear()
            self._send_waiting()
        if self._sender is not None and self._sender.stdin is not None:
            self._sender.stdin.close()

    def _send_waiting(self) -> None:
        waiting = self._waiting
        while waiting:
            batch = [waiting.popleft() for _ in range(min(len(waiting), _BATCH_MAX))]
            try:
                self._write(pack_spans(batch))
            except OSError as error:
                self._sender_ended(error)
                return
        if self._lost:
            log.warning("spans_lost", why="they were made faster than they could be sent", count=self._lost)
            self._lost = 0

    def _write(self, data: bytes) -> None:
        """Waits while the pipe is full.  Raises OSError if nobody reads it any more."""
        if self._sender is None:
            self._sender = subprocess.Popen(self._command, stdin=subprocess.PIPE, bufsize=0)
        stdin = self._sender.stdin
        assert stdin is not None
        rest = memoryview(LENGTH.pack(len(data)) + data)
        while rest:
            rest = rest[stdin.write(rest) or 0 :]

    def _sender_ended(self, error: OSError) -> None:
        log.warning("spans_lost", why=f"the process that sends them has ended ({error})", again_seconds=_AGAIN_SECONDS)
        sender, self._sender = self._sender, None
        if sender is not None:
            assert sender.stdin is not None
            sender.stdin.close()
            sender.wait()
        self._closing.wait(_AGAIN_SECONDS)

"""A span as it goes from the process that serves to the one that sends: plain data, and there OpenTelemetry's.

This file imports OpenTelemetry only where it makes its spans.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

LENGTH: Final = struct.Struct(">I")
"""Before each batch on the pipe."""

INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = range(5)
"""As OpenTelemetry numbers them."""

Attributes: TypeAlias = dict[str, str | int]


class TracedSpan(Struct, frozen=True, array_like=True, gc=False):
    """One that has ended.  Times are in microseconds, and `error` is its type and its message.

    `parent` empty: it is the first of its trace; `remote`: it is of another process.
    `got_key_at`: until then an invocation waited for its key.
    """

    name: str
    kind: int
    trace_id: bytes
    span_id: bytes
    parent: bytes
    remote: bool
    began: int
    ended: int
    attributes: Attributes
    error: tuple[str, str] | None = None
    got_key_at: int | None = None
    state: str = ""


pack_spans = msgspec.msgpack.Encoder().encode
unpack_spans = msgspec.msgpack.Decoder(list[TracedSpan]).decode


def readable(span: TracedSpan, resource: Resource) -> ReadableSpan:
    """The same for an exporter.  Only what is sampled comes here."""
    from opentelemetry.sdk.trace import Event, ReadableSpan  # noqa: PLC0415
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState  # noqa: PLC0415

    flags, state = TraceFlags(TraceFlags.SAMPLED), TraceState.from_header([span.state] if span.state else [])
    trace_id, ended = int.from_bytes(span.trace_id), max(span.began, span.ended)  # the clock may have been set back
    events: list[Event] = []
    status = Status()
    if span.got_key_at is not None:
        events.append(Event("started", None, span.got_key_at * 1_000))
    if span.error is not None:
        type_, message = span.error
        status = Status(StatusCode.ERROR, f"{type_}: {message}")
        events.append(Event("exception", {"exception.type": type_, "exception.message": message}, ended * 1_000))
    return ReadableSpan(
        span.name,
        SpanContext(trace_id, int.from_bytes(span.span_id), False, flags, state),
        SpanContext(trace_id, int.from_bytes(span.parent), span.remote, flags, state) if span.parent else None,
        resource,
        span.attributes,
        events,
        kind=SpanKind(span.kind),
        status=status,
        start_time=span.began * 1_000,
        end_time=ended * 1_000,
        instrumentation_scope=InstrumentationScope("perdure"),
    )

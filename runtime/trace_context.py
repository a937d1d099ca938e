"""Which trace an invocation belongs to: the W3C headers, and ids that a replay makes again.

A span's id is a hash of the invocation's id and the number of what it stands for: 0 is the invocation itself, any other
the command that asked for a step, a call or a message.  So nothing has to remember an id, and none is made twice.
This file knows nothing of OpenTelemetry: what stands in the journal is read by processes that don't have it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b

from .records import Trace

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_SAMPLED = 1
_STATE_CHARACTERS_MAX = 512
"""What the W3C asks everybody to pass on at least; a longer one is left out, as it allows."""

# Of later versions the beginning is as it is now, and more may follow; ff is none.
_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def from_headers(headers: Mapping[str, str] | None) -> Trace | None:
    """The caller's span, as its headers name it; None if they don't, or not in a form that can be read."""
    found = None if headers is None else _FORM.fullmatch(headers.get(TRACEPARENT, "").strip())
    if headers is None or found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "00" and more is not None:
        return None
    state = headers.get(TRACESTATE, "").strip()
    if len(state) > _STATE_CHARACTERS_MAX or not (state.isascii() and state.isprintable()):
        state = ""
    return Trace(bytes.fromhex(trace_id), bytes.fromhex(span_id), bool(int(flags, 16) & _SAMPLED), state=state)


def trace_id_of(id: str) -> bytes:
    """Of the trace that begins with this invocation.  Others are told it, who must not learn the invocation's id."""
    return blake2b(id.encode(), digest_size=16, person=b"trace").digest()


@lru_cache(maxsize=4_096)  # some 1 MiB; each is asked for two or three times, soon after one another
def span_id_of(id: str, number: int) -> bytes:
    """`number`: 0 for the invocation, or the command."""
    return blake2b(b"%b/%d" % (id.encode(), number), digest_size=8, person=b"span").digest()


def attempt_id_of(id: str, lsn: int) -> bytes:
    """Of the attempt whose failure is the record `lsn`."""
    return blake2b(b"%b/%d" % (id.encode(), lsn), digest_size=8, person=b"attempt").digest()


def child_of(trace: Trace, id: str, command: int, *, sent: bool) -> Trace:
    """Of the invocation that a command of `id`, which belongs to `trace`, makes."""
    return Trace(trace.trace_id, span_id_of(id, command), trace.sampled, sent, trace.state)


def with_current_span(headers: Mapping[str, str] | None) -> dict[str, str] | None:
    """`headers`, and what names OpenTelemetry's current span, if there is one and they don't name another.

    Where nobody has imported OpenTelemetry there is none, and it isn't imported for that.
    """
    if "opentelemetry.trace" not in sys.modules or (headers is not None and TRACEPARENT in headers):
        return None if headers is None else dict(headers)
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return {**(headers or {}), **carrier} or None

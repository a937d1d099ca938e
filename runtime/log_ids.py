"""Whose log line it is: the ids of the invocation whose handler or step runs here.

Asked when a line is logged, so what logs nothing pays nothing.  The runtime's own lines name their invocation
themselves, and take its trace from here.
"""

from __future__ import annotations

import asyncio

from structlog.typing import EventDict, WrappedLogger

from perdure.objects.steps import current_step

from .handler_context import HandlerContext
from .invocations import Invocation
from .step_runner import RunningStep
from .turn_loop import TurnLoop


def with_ids(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Structlog processor: a line of a handler, or of a step, says of which invocation, and of which trace."""
    ids = ids_here()
    return {**ids, **event} if ids else event


def ids_here() -> dict[str, str]:
    """`invocation`, and `trace_id` if it belongs to one; nothing outside of handlers and steps."""
    loop = asyncio._get_running_loop()
    if isinstance(loop, TurnLoop):
        port = loop.timers
        return {"invocation": port.current.id, **trace_of(port.current)} if isinstance(port, HandlerContext) else {}
    try:
        step = current_step()
    except RuntimeError:
        return {}
    return step.log_ids if isinstance(step, RunningStep) else {}


def trace_of(invocation: Invocation) -> dict[str, str]:
    """`trace_id`, for a line that names its invocation itself."""
    trace = invocation.trace
    return {} if trace is None else {"trace_id": trace.trace_id.hex()}

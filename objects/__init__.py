"""The programming model of Perdure: durable objects as plain classes. A table of contents; each name has one home."""

from .collections import List, Map
from .context import (
    Awakeable,
    Context,
    Handle,
    Invocation,
    Promise,
    Signal,
    WorkflowContext,
)
from .errors import (
    DeadlockError,
    DefinitionError,
    HandlerDropped,
    InvalidArguments,
    ReplayMismatch,
    StateError,
    StepFailed,
    TerminalError,
)
from .handlers import BoundHandler, Handler, handler, shared
from .ids import InvalidKey
from .limits import Limits, Rate
from .migrations import OldState
from .retries import RetryPolicy
from .sagas import Saga
from .schedules import Schedule, cron, every
from .steps import StepContext, current_step, step
from .virtual_object import Service, VirtualObject, Workflow

__all__ = [  # noqa: RUF022  (grouped)
    # What you subclass
    "VirtualObject",
    "Service",
    "Workflow",
    # What you decorate
    "handler",
    "shared",
    "step",
    # State larger than memory
    "List",
    "Map",
    # State of an older version, in `migrate`
    "OldState",
    # What a handler may ask for
    "Context",
    "WorkflowContext",
    "Invocation",
    "Handle",
    "Awakeable",
    "Signal",
    "Promise",
    "Saga",
    # Inside a step
    "current_step",
    "StepContext",
    # How often
    "RetryPolicy",
    # When by itself
    "cron",
    "every",
    "Schedule",
    # How much at once, and how often from outside
    "Limits",
    "Rate",
    # Outcomes and mistakes
    "TerminalError",
    "DeadlockError",
    "StepFailed",
    "StateError",
    "DefinitionError",
    "InvalidArguments",
    "InvalidKey",
    "ReplayMismatch",
    "HandlerDropped",
    # The types of a handler
    "Handler",
    "BoundHandler",
]

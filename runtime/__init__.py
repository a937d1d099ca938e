"""The process that makes objects durable. A table of contents; each name has one home.

In your own process:  `Runtime`, with `ManualClock` for tests
Over HTTP:            `Client`
What both give:       `RemoteHandle`
What may go wrong:    `Refused` (nothing happened), `OutcomeUnknown` (ask again with the same idempotency key)
Limits:               `Settings`
"""

# Looked up when asked for: `perdure serve` begins by re-executing itself under its hash seed, and would import the HTTP
# server and the engine twice at each start otherwise. Type checkers see ordinary imports.

import importlib
import typing

if typing.TYPE_CHECKING:
    from .admission import Refused
    from .client import Client
    from .clock import Clock, ManualClock, SystemClock
    from .gate import OutcomeUnknown
    from .local import Runtime
    from .outside import RemoteHandle
    from .settings import Settings


__all__ = [
    "Client",
    "Clock",
    "ManualClock",
    "OutcomeUnknown",
    "Refused",
    "RemoteHandle",
    "Runtime",
    "Settings",
    "SystemClock",
]

_HOMES = {
    "Refused": "admission",
    "Client": "client",
    "RemoteHandle": "outside",
    "Clock": "clock",
    "ManualClock": "clock",
    "SystemClock": "clock",
    "OutcomeUnknown": "gate",
    "Runtime": "local",
    "Settings": "settings",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value

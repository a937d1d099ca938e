"""Silence for code that is run again, or closed, and whose log lines were written the first time or mean nothing.

`with muted():` drops every log record of the current thread, whichever logger the code holds: the standard library's,
any structlog wrapper, structlog's output loggers used directly, and warnings (Python's complaint about coroutines that
were never awaited included). Other threads are not affected; nesting is fine. The runtime's own lines are dropped too:
log after the block.

Decision: the few functions that everything passes through are wrapped once, at the first use, and look up a dict.
For: a handler may hold any logger, made before or after; outside of a mute a line costs one look at an empty dict.
Against: it patches other people's classes.
Ruled out: a logging.Filter or a structlog processor (not every logger has ours), `logging.disable` (all threads, and
not structlog), `warnings.catch_warnings` (all threads), patching at each entry (it empties Python's method caches, and
two threads would undo each other's).

Not silenced: `print`, `sys.stderr`, and handlers or sinks that are called directly.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import wraps
from threading import get_ident
from typing import Any, Final

import structlog

_MUTED: Final[dict[int, int]] = {}
"""How many mutes each thread is in, by its identity; absent when none."""

_installed: list[bool] = []


class muted:
    """A context manager: the current thread logs nothing inside."""

    __slots__ = ()

    def __enter__(self) -> None:
        if not _installed:
            _install()
        thread = get_ident()
        _MUTED[thread] = _MUTED.get(thread, 0) + 1

    def __exit__(self, *_exception: object) -> None:
        thread = get_ident()
        depth = _MUTED[thread] - 1
        if depth:
            _MUTED[thread] = depth
        else:
            del _MUTED[thread]


def is_muted() -> bool:
    """Whether the current thread is inside a mute."""
    return bool(_MUTED) and get_ident() in _MUTED


def _install() -> None:
    _installed.append(True)
    _hush(logging.Logger, "handle", "callHandlers")
    # Every wrapper class, the filtering ones included, ends in this method of their base; processors run inside it.
    _hush(structlog.BoundLoggerBase, "_proxy_to_logger")
    for output in (structlog.PrintLogger, structlog.WriteLogger, structlog.BytesLogger):
        write = vars(output)["msg"]
        _hush(output, *[name for name, value in vars(output).items() if value is write])
    _hush(warnings, "_showwarnmsg", "_warn_unawaited_coroutine")


def _hush(owner: object, *names: str) -> None:
    for name in names:
        setattr(owner, name, _unless_muted(getattr(owner, name)))


def _unless_muted(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def hushed(*args: Any, **kwargs: Any) -> Any:
        if _MUTED and get_ident() in _MUTED:
            return None
        return function(*args, **kwargs)

    return hushed

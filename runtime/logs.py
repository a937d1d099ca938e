"""Where log lines are made: readable on a terminal, one JSON object a line elsewhere, always on stderr.

One event is one line, whatever stands in it. Keys, error messages and headers come from strangers, so everything that
isn't printable is escaped before it is rendered: no value can start a line of its own, or steer a terminal.
Only tracebacks have several lines (in JSON escaped, on a terminal indented).
Lines of the standard library's `logging` (asyncio, aiohttp, users' own) take the same way.
"""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Format = Literal["auto", "console", "json"]
Level = Literal["debug", "info", "warning", "error"]

# Values nest this deep before they are shown by repr(): enough for any log line, and no recursion without end.
DEPTH_MAX = 6


def configure(
    stream: TextIO | None = None, *, format: Format = "auto", level: Level = "info", extra: Sequence[Processor] = ()
) -> None:
    """Set up structlog and `logging` for this process. `auto` asks whether the stream (stderr) is a terminal.

    `extra`: what adds to each line.
    """
    out: TextIO = sys.stderr if stream is None else stream
    console = format == "console" or (format == "auto" and out.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        *extra,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if console else "iso", utc=not console),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        indented if console else escaped,
    ]
    renderer = _renderer(out) if console else structlog.processors.JSONRenderer(ensure_ascii=False, default=repr)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    _route_standard_logging(out, shared, renderer, threshold)


def _renderer(stream: TextIO) -> Processor:
    colors = stream.isatty() and not os.environ.get("NO_COLOR")
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


def _route_standard_logging(stream: TextIO, shared: list[Processor], renderer: Processor, threshold: int) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=threshold, force=True)
    for library in ("asyncio", "aiohttp"):  # what these call info or debug is of no use to who runs this process
        logging.getLogger(library).setLevel(max(threshold, logging.WARNING))
    logging.captureWarnings(True)


def escaped(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Structlog processor: every name and value made printable; the lines of tracebacks are kept apart."""
    return {printable(name): _value(name, value) for name, value in event.items()}


def indented(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Like `escaped`, for a terminal: a traceback's lines are indented, so that none looks like a log line."""
    event = dict(escaped(logger, method, event))
    for name in _TRACEBACKS.intersection(event):
        event[name] = "\n".join(f"    {line}" for line in str(event[name]).split("\n"))
    return event


_TRACEBACKS = frozenset({"exception", "stack"})


def _value(name: str, value: object) -> object:
    if name in _TRACEBACKS and isinstance(value, str):
        return "\n".join(printable(line) for line in value.split("\n"))
    if name.startswith("_"):  # logging's own record, for its formatter
        return value
    return _plain(value, DEPTH_MAX)


def _plain(value: object, depth: int) -> object:
    if isinstance(value, str):
        return printable(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth and isinstance(value, dict):
        items = cast(dict[object, object], value).items()
        return {printable(str(name)): _plain(item, depth - 1) for name, item in items}
    if depth and isinstance(value, list | tuple):
        return [_plain(item, depth - 1) for item in cast(Sequence[object], value)]
    return printable(_repr(value))


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # a log line about a broken object must still appear
        return f"<{type(value).__name__}>"


def printable(text: str) -> str:
    r"""The text on one line: control characters, line separators, bidi marks and lone surrogates as `\n`, `\u202e`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)

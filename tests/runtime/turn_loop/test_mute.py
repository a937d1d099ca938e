"""A muted thread logs nothing, whatever logger its code holds; everybody else logs as before."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from perdure.runtime.mute import is_muted, muted


def lines_of(make: Callable[[io.StringIO], Callable[[str], object]]) -> tuple[str, str, str]:
    """What comes out before, in and after a mute."""
    out = io.StringIO()
    log = make(out)
    seen: list[str] = []
    log("before")
    seen.append(out.getvalue())
    with muted():
        log("muted")
    seen.append(out.getvalue()[len(seen[0]) :])
    log("after")
    seen.append(out.getvalue()[len(seen[0]) :])
    return seen[0], seen[1], seen[2]


def stdlib(out: io.StringIO) -> Callable[[str], object]:
    logger = logging.Logger("test")
    logger.addHandler(logging.StreamHandler(out))
    return logger.error


def stdlib_subclass(out: io.StringIO) -> Callable[[str], object]:
    class Own(logging.Logger):
        def handle(self, record: logging.LogRecord) -> None:
            self.callHandlers(record)

    logger = Own("test")
    logger.addHandler(logging.StreamHandler(out))
    return logger.error


def adapter(out: io.StringIO) -> Callable[[str], object]:
    logger = logging.Logger("test")
    logger.addHandler(logging.StreamHandler(out))
    return logging.LoggerAdapter(logger, {}).error


def filtering(out: io.StringIO) -> Callable[[str], object]:
    wrapper = structlog.make_filtering_bound_logger(logging.INFO)
    log: Any = structlog.wrap_logger(structlog.PrintLogger(out), wrapper_class=wrapper)
    return log.bind(a=1).info  # type: ignore[no-any-return]


def filtering_by_level(out: io.StringIO) -> Callable[[str], object]:
    wrapper = structlog.make_filtering_bound_logger(logging.INFO)
    log: Any = structlog.wrap_logger(structlog.WriteLogger(out), wrapper_class=wrapper)
    return lambda event: log.log(logging.ERROR, event)


def generic(out: io.StringIO) -> Callable[[str], object]:
    log: Any = structlog.wrap_logger(structlog.PrintLogger(out), wrapper_class=structlog.BoundLogger)
    return log.error  # type: ignore[no-any-return]


def over_stdlib(out: io.StringIO) -> Callable[[str], object]:
    logger = logging.Logger("test")
    logger.addHandler(logging.StreamHandler(out))
    log: Any = structlog.wrap_logger(
        logger, wrapper_class=structlog.stdlib.BoundLogger, processors=[structlog.stdlib.render_to_log_kwargs]
    )
    return log.error  # type: ignore[no-any-return]


def processors(out: io.StringIO) -> Callable[[str], object]:
    """Processors do not run either: some send the event somewhere."""

    def send(_logger: object, _name: str, event: Any) -> Any:
        out.write(event["event"])
        raise structlog.DropEvent

    log: Any = structlog.wrap_logger(structlog.ReturnLogger(), processors=[send])
    return log.error  # type: ignore[no-any-return]


def print_logger(out: io.StringIO) -> Callable[[str], object]:
    return lambda event: structlog.PrintLogger(out).error(event)


def write_logger(out: io.StringIO) -> Callable[[str], object]:
    return lambda event: structlog.WriteLogger(out).msg(event)


def bytes_logger(out: io.StringIO) -> Callable[[str], object]:
    class Sink(io.BytesIO):
        def write(self, data: Any, /) -> int:
            return out.write(bytes(data).decode())

    return lambda event: structlog.BytesLogger(Sink()).info(event.encode())


def warning(out: io.StringIO) -> Callable[[str], object]:
    def shown(message: Warning | str, *_rest: Any, **_more: Any) -> None:
        out.write(str(message))

    def warn(event: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = shown
            warnings.warn(event, stacklevel=1)

    return warn


def never_awaited(out: io.StringIO) -> Callable[[str], object]:
    def warn(event: str) -> None:
        def shown(message: Warning | str, *_rest: Any, **_more: Any) -> None:
            assert "'sleep' was never awaited" in str(message)
            out.write(event)

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = shown
            _ = asyncio.sleep(0, event)
            del _

    return warn


@pytest.mark.parametrize(
    "make",
    [
        stdlib,
        stdlib_subclass,
        adapter,
        filtering,
        filtering_by_level,
        generic,
        over_stdlib,
        processors,
        print_logger,
        write_logger,
        bytes_logger,
        warning,
        never_awaited,
    ],
)
def test_every_way_to_log_is_muted(make: Callable[[io.StringIO], Callable[[str], object]]) -> None:
    """A line before and a line after, and none between."""
    before, silence, after = lines_of(make)
    assert "before" in before
    assert silence == ""
    assert "after" in after


def test_a_logger_made_and_bound_before_the_mute_is_muted_too() -> None:
    """Handlers hold module-level loggers."""
    out = io.StringIO()
    error = filtering(out)
    with muted():
        error("muted")
    assert out.getvalue() == ""


def test_other_threads_are_not_muted() -> None:
    """A replay in one thread must not silence a step in another."""
    out = io.StringIO()
    error = stdlib(out)
    with muted():
        thread = threading.Thread(target=error, args=["from a step"])
        thread.start()
        thread.join()
        error("muted")
    assert out.getvalue() == "from a step\n"


def test_mutes_nest() -> None:
    """The inner one's end is not the outer one's."""
    with muted():
        with muted():
            assert is_muted()
        assert is_muted()
    assert not is_muted()


def test_a_mute_ends_with_an_exception() -> None:
    """A replay that fails does not leave the thread mute."""
    with pytest.raises(ZeroDivisionError), muted():
        _ = 1 / 0
    assert not is_muted()

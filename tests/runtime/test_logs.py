"""Log lines: one event, one line, whatever stands in it."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from perdure.runtime import logs

HOSTILE = "a\nlevel=error forged\r\x1b[2J\u2028\u202e\x00\x85\ud800"


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def configured(format: logs.Format, level: logs.Level = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(stream, format=format, level=level)
    return stream


def test_elsewhere_than_on_a_terminal_each_event_is_a_json_object() -> None:
    """`auto` on a stream that is no terminal: one line, with level and time."""
    stream = configured("auto")

    structlog.get_logger().info("serving", port=8080, services=["Counter"])

    event = json.loads(stream.getvalue())
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "serving", "level": "info", "port": 8080, "services": ["Counter"]}


@pytest.mark.parametrize("format", ["json", "console"])
def test_no_value_can_start_a_line_or_steer_a_terminal(format: logs.Format) -> None:
    """Names, values, nested values, reprs and the event itself: every character that isn't printable is escaped."""

    class Hostile:
        def __repr__(self) -> str:
            return HOSTILE

    stream = configured(format)

    structlog.get_logger().info(HOSTILE, key=HOSTILE, deep={"list": [HOSTILE]}, **{HOSTILE: 1}, thing=Hostile())

    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()


@pytest.mark.parametrize("format", ["json", "console"])
def test_the_standard_librarys_logging_takes_the_same_way(format: logs.Format) -> None:
    """A library's message is an event like ours, escaped as ours."""
    stream = configured(format)

    logging.getLogger("somebody").warning("lost %s", HOSTILE)

    line = stream.getvalue()
    assert line[:-1].isprintable()
    assert "somebody" in line
    assert r"lost a\n" in (json.loads(line)["event"] if format == "json" else line)


def test_a_traceback_on_a_terminal_is_indented() -> None:
    """A traceback has several lines, so none of them begins where log lines begin."""
    stream = configured("console")

    try:
        raise ValueError(HOSTILE)
    except ValueError:
        structlog.get_logger().exception("failed")

    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("failed")
    assert any("ValueError" in line for line in rest)
    assert all(line.startswith("    ") and line.isprintable() for line in rest if line)


def test_a_traceback_in_json_is_one_value() -> None:
    """The lines of a traceback are kept, inside one string."""
    stream = configured("json")

    try:
        raise ValueError("no")
    except ValueError:
        structlog.get_logger().exception("failed")

    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["exception"].splitlines()[-1] == "ValueError: no"


def test_a_value_that_cannot_be_shown_costs_no_log_line() -> None:
    """An object whose repr raises is named by its type."""

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    stream = configured("json")

    structlog.get_logger().info("odd", value=Broken())

    assert json.loads(stream.getvalue())["value"] == "<Broken>"


def test_events_below_the_level_are_left_out() -> None:
    """Both of structlog's and of logging's."""
    stream = configured("json", level="warning")

    structlog.get_logger().info("quiet")
    logging.getLogger("somebody").info("quiet")
    structlog.get_logger().warning("loud")

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]


def test_printable_text_is_left_as_it_is() -> None:
    """Letters of any script and emoji are no danger."""
    assert logs.printable("Grüße, 世界 🎉") == "Grüße, 世界 🎉"

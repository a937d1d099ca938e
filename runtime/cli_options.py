"""Options that several commands have, of those that ask a running process by HTTP.

Nothing heavy is imported here, as in cli.py.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from .query_terms import STATUSES

ADMIN_URL = "http://127.0.0.1:9070"
INGRESS_URL = "http://127.0.0.1:8080"

EXIT_CODES = """Exit code 1 if it is refused, 2 if the command line is wrong, 3 if the answer is cut off, 4 if nobody
    answers, 5 without the right token, 6 if there is no such thing, 9 if the answer to a change was lost: it may have
    happened."""

Function = Callable[..., Any]  # Any: a command takes what its options say


def options(*options: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Several options as one, in the order in which --help shows them."""
    return lambda function: functools.reduce(lambda made, option: option(made), reversed(options), function)


def _file(variable: str, port: str) -> Callable[[Function], Function]:
    return click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        envvar=variable,
        help=f"Holds the token of the {port}, if it has one; or {variable}.",
    )


admin: Final = options(
    click.option(
        "--admin",
        metavar="URL",
        envvar="PERDURE_ADMIN",
        default=ADMIN_URL,
        help=f"Default {ADMIN_URL}, or PERDURE_ADMIN.",
    ),
    _file("PERDURE_ADMIN_TOKEN_FILE", "admin port"),
)
ingress: Final = options(
    click.option(
        "--ingress",
        metavar="URL",
        envvar="PERDURE_INGRESS",
        default=INGRESS_URL,
        help=f"Default {INGRESS_URL}, or PERDURE_INGRESS.",
    ),
    _file("PERDURE_INGRESS_TOKEN_FILE", "ingress"),
)
as_json: Final = click.option("--json", "as_json", is_flag=True, help="JSON on one line, for scripts.")
status_option: Final = click.option(
    "--status", "statuses", type=click.Choice(STATUSES), multiple=True, help="Only these; may be repeated."
)


_SECONDS_MAX: Final = 7 * 86_400  # a socket's own time limit ends at 24 days


def _number(context: click.Context, parameter: click.Parameter, seconds: float | None) -> float | None:
    if seconds is not None and math.isnan(seconds):  # which is in every range
        raise click.BadParameter("nan is no number of seconds")
    return seconds


def timeout(default: float | None, help: str) -> Callable[[Function], Function]:
    """The command gets `timeout`, in seconds."""
    return click.option(
        "--timeout",
        type=click.FloatRange(0, _SECONDS_MAX, min_open=True),
        metavar="SECONDS",
        default=default,
        show_default=default is not None,
        callback=_number,
        help=help,
    )


def _every(context: click.Context, parameter: click.Parameter, seconds: float) -> float | None:
    """None where nothing is watched."""
    number = _number(context, parameter, seconds)
    return number if context.params.pop("watched") else None


watch: Final = options(
    click.option("--watch", "watched", is_flag=True, is_eager=True, help="Show it anew again and again, until Ctrl-C."),
    click.option(
        "--every",
        type=click.FloatRange(0.1, 3600),
        default=2.0,
        show_default=True,
        callback=_every,
        help="Seconds, of --watch.",
    ),
)
"""The command gets `every`: how often to look again, in seconds, or None."""

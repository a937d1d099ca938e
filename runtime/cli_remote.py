"""The part of the command line that asks a running process, by HTTP: at its admin port, or at its ingress.

Nothing heavy is imported at the top, as in cli.py.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

ADMIN_URL = "http://127.0.0.1:9070"
INGRESS_URL = "http://127.0.0.1:8080"
STATUSES = ("scheduled", "pending", "ready", "running", "backing-off", "suspended", "paused", "completed")
"""invocation_queries.py has them too, and more that need not be imported for `--help`."""

EXIT_CODES = """Exit code 1 if it is refused, 2 if the command line is wrong, 3 if the answer is cut off, 4 if nobody
    answers, 5 without the right token, 6 if there is no such thing."""

Function = Callable[..., Any]  # Any: a command takes what its options say


def _options(*options: Callable[[Function], Function]) -> Callable[[Function], Function]:
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


admin: Final = _options(
    click.option(
        "--admin",
        metavar="URL",
        envvar="PERDURE_ADMIN",
        default=ADMIN_URL,
        help=f"Default {ADMIN_URL}, or PERDURE_ADMIN.",
    ),
    _file("PERDURE_ADMIN_TOKEN_FILE", "admin port"),
)
ingress: Final = _options(
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


@click.command()
@click.argument("statement", metavar="SELECT")
@click.option("--format", "-f", "output", type=click.Choice(["table", "json", "jsonl", "csv"]), default="table")
@admin
def sql(statement: str, admin: str, output: Any, token_file: Path | None) -> int:  # Any: one of click's choices
    """Ask a running process what it holds: sys_invocation, sys_journal, sys_inbox, sys_promise, sys_locks,
    sys_service, state.

    Exit code 1 if that is no question, 3 if it was cut off, 4 if nobody answers, 5 without the right token.

    \b
    Example: perdure sql "SELECT target, waiting_for FROM sys_invocation WHERE status = 'suspended'"
    """
    from . import sql_commands

    return sql_commands.ask(statement, admin, output, token_file)


# --- invocations ------------------------------------------------------------------------------------------------------


@click.group()
def invocations() -> None:
    """See invocations of a running process, and stop or restart them.

    QUERY is an ID (inv_…), Service, Service/handler, Object/key or Object/key/handler; a slash in a key is
    written %2F, a percent sign %25.
    """


@invocations.command("list")
@click.argument("query", metavar="[QUERY]", required=False)
@status_option
@click.option("--all", "all_", is_flag=True, help="Also those that have ended.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="The newest so many.")
@click.option("--watch", "watched", is_flag=True, help="Show them anew again and again, until Ctrl-C.")
@click.option("--every", type=click.FloatRange(0.1, 3600), default=2.0, show_default=True, help="Seconds, of --watch.")
@as_json
@admin
def list_invocations(
    query: str | None,
    statuses: tuple[str, ...],
    all_: bool,
    limit: int,
    watched: bool,
    every: float,
    as_json: bool,
    admin: str,
    token_file: Path | None,
) -> int:
    """List those that have not ended, the newest first: what each does, since when, and what it waits for.

    Exit code 0 also if there are none, 2 if the command line is wrong, 3 if it took too long, 4 if nobody answers,
    5 without the right token.

    \b
    Example: perdure invocations list Account/alice --status suspended --watch
    """
    from . import invocation_commands as commands
    from .remote import Server

    asked = commands.Listed(query, statuses, all_, limit)
    server = Server(admin, token_file)
    if watched:
        return commands.watch(asked, server, every, as_json=as_json)
    return commands.show(asked, server, as_json=as_json)


_ACTIONS: Final = {
    "cancel": ("Ask them to end: CancelledError at their await, and in what they call.", "Account/alice/transfer"),
    "kill": ("End them and their calls at once: no code of theirs runs any more.", "Account/alice --yes"),
    "pause": ("Keep them where they are, with their journal and their key, until they are resumed.", "Account --yes"),
    "resume": ("Try those that are paused or backing off again, at once.", "Account --status paused --yes"),
    "purge": ("Forget those that have ended, before their retention time is over.", "Account/alice --yes"),
    "restart": ("Make those that have ended again, as new ones with the same input.", "Account/alice/transfer"),
}


def _action(verb: str, does: str, example: str) -> click.Command:
    @click.command(
        verb,
        short_help=does,
        help=f"""{does}

    QUERY is an ID, Service, Service/handler, Object/key or Object/key/handler.  Where it means more than one, this
    asks first, or needs --yes; each is told, and so is each that it is refused for.

    {EXIT_CODES}

    \b
    Example: perdure invocations {verb} {example}
    """,
    )
    @click.argument("query", metavar="QUERY")
    @status_option
    @click.option("--yes", "-y", is_flag=True, help="Don't ask, however many there are.")
    @as_json
    @admin
    def command(
        query: str, statuses: tuple[str, ...], yes: bool, as_json: bool, admin: str, token_file: Path | None
    ) -> int:
        from . import invocation_commands as commands
        from .remote import Server

        server = Server(admin, token_file)
        return commands.act(commands.ACTIONS[verb], query, statuses, server, yes=yes, as_json=as_json)

    return command


for _verb, (_does, _example) in _ACTIONS.items():
    invocations.add_command(_action(_verb, _does, _example))


REMOTE: Final = (sql, invocations)

"""The part of the command line that asks a running process, by HTTP: at its admin port, or at its ingress.

Nothing heavy is imported at the top, as in cli.py.
"""

from pathlib import Path
from typing import Any, Final

import click

from .cli_invocations import invocations
from .cli_objects import services, state
from .cli_options import EXIT_CODES, admin, as_json, ingress, options, timeout, watch


@click.command()
@click.argument("statement", metavar="SELECT")
@click.option("--format", "-f", "output", type=click.Choice(["table", "json", "jsonl", "csv"]), default="table")
@timeout(60, "Give up if nothing has come for so long; how long a query may take, the server says.")
@admin
def sql(
    statement: str,
    output: Any,  # Any: one of click's choices
    timeout: float,
    admin: str,
    token_file: Path | None,
) -> int:
    """Ask a running process what it holds: sys_invocation, sys_journal, sys_inbox, sys_promise, sys_locks, sys_limits,
    sys_service, state.

    Exit code 1 if that is no question, 3 if it was cut off, 4 if nobody answers (in time), 5 without the right token.

    \b
    Example: perdure sql "SELECT target, waiting_for FROM sys_invocation WHERE status = 'suspended'"
    """
    from . import sql_commands

    return sql_commands.ask(statement, admin, output, token_file, timeout)


# --- schedules --------------------------------------------------------------------------------------------------------


@click.group()
def schedules() -> None:
    """See the schedules of a running process, and pause, resume or trigger them."""


@schedules.command(
    "list",
    help=f"""List them: when each is due, when it fired last, whether it is paused.

    {EXIT_CODES}

    \b
    Example: perdure schedules list
    """,
)
@watch
@as_json
@admin
def list_schedules(every: float | None, as_json: bool, admin: str, token_file: Path | None) -> int:
    from . import schedule_commands
    from .remote import Server

    return schedule_commands.show(Server(admin, token_file), every, as_json=as_json)


def _schedule_action(verb: str, does: str) -> click.Command:
    @click.command(
        verb,
        short_help=does,
        help=f"""{does}

    ID is as `perdure schedules list` shows it: Service/handler, or Service/handler/name.

    {EXIT_CODES}

    \b
    Example: perdure schedules {verb} Reports/nightly
    """,
    )
    @click.argument("id", metavar="ID")
    @as_json
    @admin
    def command(id: str, as_json: bool, admin: str, token_file: Path | None) -> int:
        from . import schedule_commands
        from .remote import Server

        return schedule_commands.act(verb, id, Server(admin, token_file), as_json=as_json)

    return command


for _verb, _does in {
    "pause": "Let no tick of it fire until it is resumed, also after a restart.",
    "resume": "Let it fire again, from now on.",
    "trigger": "Call its handler now, paused or not.",
}.items():
    schedules.add_command(_schedule_action(_verb, _does))


# --- calls ------------------------------------------------------------------------------------------------------------

_ARGUMENTS = """TARGET is Object/key/handler or Service/handler; a slash in a key is written %2F, a percent sign %25.
    ARGUMENT is JSON, text where it is no JSON, or - for what stands on standard input; several arguments are an
    object by their names."""

# A negative number is an argument, not an option; call_commands.py refuses what only looks like one.
_CALLING: Final = {"ignore_unknown_options": True}
_target = options(
    click.argument("target", metavar="TARGET"), click.argument("argument", metavar="[ARGUMENT]", required=False)
)
_idempotency_key = click.option(
    "--idempotency-key", metavar="KEY", help="Of two with one key the second gets the answer of the first."
)


@click.command(
    context_settings=_CALLING,
    help=f"""Call a handler of a running process, and print its answer as JSON.

    {_ARGUMENTS} What a stream yields is printed item by item, as it comes.

    It waits as long as the handler takes, or as --timeout says: the invocation goes on without it, and the same call
    with the same --idempotency-key waits for it again.

    {EXIT_CODES[:-1]}, 7 if the handler ended in an error.

    \b
    Example: perdure call Account/alice/deposit 5
             perdure call Account/alice/transfer '{{"to": "bob", "amount": 30}}' --idempotency-key t1
    """,
)
@_target
@_idempotency_key
@timeout(None, "Wait no longer for the answer, or for the next item; what was called goes on.")
@ingress
def call(
    target: str,
    argument: str | None,
    idempotency_key: str | None,
    timeout: float | None,
    ingress: str,
    token_file: Path | None,
) -> int:
    from . import call_commands
    from .remote import Server

    server = Server(ingress, token_file, "ingress", timeout)
    return call_commands.call(target, argument, idempotency_key, server)


@click.command(
    context_settings=_CALLING,
    help=f"""Send a handler a message, and print the ID of what it will run as.

    {_ARGUMENTS}

    {EXIT_CODES}

    \b
    Example: perdure send Reminders/ann/fire r1 --delay 10s
    """,
)
@_target
@click.option("--delay", metavar="DURATION", help="Deliver it later: 10s, 1h 30m, PT10S.")
@_idempotency_key
@as_json
@ingress
def send(
    target: str,
    argument: str | None,
    delay: str | None,
    idempotency_key: str | None,
    as_json: bool,
    ingress: str,
    token_file: Path | None,
) -> int:
    from . import call_commands
    from .remote import Server

    server = Server(ingress, token_file, "ingress")
    return call_commands.send(target, argument, delay, idempotency_key, server, as_json=as_json)


REMOTE: Final = (services, invocations, state, schedules, sql, call, send)

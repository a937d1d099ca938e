"""The part of the command line that is about invocations of a running process.

Nothing heavy is imported at the top, as in cli.py.
"""

from pathlib import Path
from typing import Final

import click

from .cli_options import EXIT_CODES, admin, as_json, status_option, watch


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
@watch
@as_json
@admin
def list_invocations(
    query: str | None,
    statuses: tuple[str, ...],
    all_: bool,
    limit: int,
    every: float | None,
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
    return commands.show(asked, Server(admin, token_file), every, as_json=as_json)


@invocations.command(
    "describe",
    help=f"""Show one of them: its journal as a timeline, how long each entry took, what it waits for and since when,
    its failures, and the tree of calls that it stands in.

    QUERY is an ID, Service, Service/handler, Object/key or Object/key/handler: of those the one that is at work, or
    else waits in line, or else ended last.  Where several are at work, they are named.

    {EXIT_CODES}

    \b
    Example: perdure invocations describe Account/alice
    """,
)
@click.argument("query", metavar="QUERY")
@watch
@as_json
@admin
def describe(query: str, every: float | None, as_json: bool, admin: str, token_file: Path | None) -> int:
    from . import describe_commands
    from .remote import Server

    return describe_commands.describe(query, Server(admin, token_file), every, as_json=as_json)


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

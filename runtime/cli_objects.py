"""The part of the command line that is about classes, and about the state of objects.

Nothing heavy is imported at the top, as in cli.py.
"""

from pathlib import Path

import click

from .cli_options import EXIT_CODES, admin, as_json, watch

_CHANGE_EXIT_CODES = f"{EXIT_CODES[:-1]}, 8 if somebody came in between or a handler is at work on it."
_OBJECT = "OBJECT is Class/key; a slash in a key is written %2F, a percent sign %25."


# --- classes ----------------------------------------------------------------------------------------------------------


@click.group()
def services() -> None:
    """See which classes a running process serves, and what their handlers take."""


@services.command(
    "list",
    help=f"""List the classes: of which kind each is, its version, its handlers.

    {EXIT_CODES}

    \b
    Example: perdure services list
    """,
)
@as_json
@admin
def list_services(as_json: bool, admin: str, token_file: Path | None) -> int:
    from . import service_commands
    from .remote import Server

    return service_commands.show_all(Server(admin, token_file), as_json=as_json)


@services.command(
    "describe",
    help=f"""Show one class: each handler, what it takes and what it gives; its state, and how long results are kept.

    {EXIT_CODES}

    \b
    Example: perdure services describe Account
    """,
)
@click.argument("name", metavar="CLASS")
@as_json
@admin
def describe_service(name: str, as_json: bool, admin: str, token_file: Path | None) -> int:
    from . import service_commands
    from .remote import Server

    return service_commands.show(name, Server(admin, token_file), as_json=as_json)


# --- state ------------------------------------------------------------------------------------------------------------


@click.group(
    help=f"""See the state of objects of a running process, and mend it.

    {_OBJECT} What is changed is checked against the class, and refused if somebody else changed the state meanwhile or
    a handler is at work on it.
    """
)
def state() -> None: ...


_object = click.argument("object", metavar="OBJECT")
_yes = click.option("--yes", "-y", is_flag=True, help="Don't ask.")
_version = click.option("--version", metavar="VERSION", help="Only if the state still has this one, see get --json.")


@state.command(
    "keys",
    help=f"""List the keys of a class that have state.

    {EXIT_CODES}

    \b
    Example: perdure state keys Account --limit 20
    """,
)
@click.argument("name", metavar="CLASS")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="So many, by name.")
@click.option("--after", metavar="KEY", help="Those behind this one: the last of the page before.")
@as_json
@admin
def keys(name: str, limit: int, after: str | None, as_json: bool, admin: str, token_file: Path | None) -> int:
    from . import state_commands
    from .remote import Server

    return state_commands.keys(name, limit, after, Server(admin, token_file), as_json=as_json)


@state.command(
    "get",
    help=f"""Print the state of an object as JSON, or one field of it.

    {_OBJECT} With --json also its version, who holds the object and how many wait for it.

    {EXIT_CODES}

    \b
    Example: perdure state get Account/alice
             perdure state get Account/alice balance
    """,
)
@_object
@click.argument("field", metavar="[FIELD]", required=False)
@watch
@as_json
@admin
def get(object: str, field: str | None, every: float | None, as_json: bool, admin: str, token_file: Path | None) -> int:
    from . import state_commands
    from .remote import Server

    return state_commands.get(object, field, Server(admin, token_file), every, as_json=as_json)


@state.command(
    "set",
    context_settings={"ignore_unknown_options": True},  # a negative number is a value
    help=f"""Set one field of an object's state.

    {_OBJECT} VALUE is JSON, text where it is no JSON, or - for what stands on standard input.

    {_CHANGE_EXIT_CODES}

    \b
    Example: perdure state set Account/alice balance 100
    """,
)
@_object
@click.argument("field", metavar="FIELD")
@click.argument("value", metavar="VALUE")
@_version
@admin
def set_(object: str, field: str, value: str, version: str | None, admin: str, token_file: Path | None) -> int:
    from . import state_commands
    from .remote import Server

    return state_commands.set_field(object, field, value, version, Server(admin, token_file))


@state.command(
    "edit",
    help=f"""Edit the state of an object as JSON, in the editor that VISUAL or EDITOR names.

    {_OBJECT} If it is refused, or is no JSON, what you wrote is kept in a file, and the line on stderr names it.

    {_CHANGE_EXIT_CODES}

    \b
    Example: perdure state edit Account/alice
    """,
)
@_object
@admin
def edit(object: str, admin: str, token_file: Path | None) -> int:
    from . import state_commands
    from .remote import Server

    return state_commands.edit(object, Server(admin, token_file))


@state.command(
    "clear",
    help=f"""Clear the state of an object, its Lists and Maps too: as if it had never been used.

    {_OBJECT}

    {_CHANGE_EXIT_CODES}

    \b
    Example: perdure state clear Account/alice --yes
    """,
)
@_object
@_version
@_yes
@admin
def clear(object: str, version: str | None, yes: bool, admin: str, token_file: Path | None) -> int:
    from . import state_commands
    from .remote import Server

    return state_commands.clear(object, version, Server(admin, token_file), yes=yes)

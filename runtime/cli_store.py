"""The part of the command line that is about the store beside a journal, and about copies of both.

Nothing heavy is imported at the top, as in cli.py.
"""

from pathlib import Path
from typing import Final

import click

_PATH: Final = click.Path(path_type=Path)


@click.group()
def store() -> None:
    """Look at the store beside a journal, or make it anew."""


@store.command("verify")
@click.argument("directory", metavar="DIR", type=_PATH)
def verify_store(directory: Path) -> int:
    """Check every row of the store in data directory DIR, and that it fits the journal; also of a running process.

    Exit code 0 if it is sound or not there yet, 12 if it is damaged or doesn't fit, 11 if a newer release wrote it.

    \b
    Example: perdure store verify perdure-data
    """
    from . import store_commands

    return store_commands.verify(directory)


@store.command()
@click.argument("directory", metavar="DIR", type=_PATH)
def rebuild(directory: Path) -> int:
    """Make the store in data directory DIR anew from the journal, while no process serves it.

    Refused where the journal doesn't begin with record 1 any more. The old store is kept as store.sqlite.damaged.
    Exit code 10 if a process serves DIR, 12 if the journal is damaged or has no beginning.

    \b
    Example: perdure store rebuild perdure-data
    """
    from . import store_commands

    return store_commands.rebuild(directory)


@click.command()
@click.argument("directory", metavar="DIR", type=_PATH)
@click.argument("target", metavar="TARGET", type=_PATH)
def backup(directory: Path, target: Path) -> int:
    """Copy data directory DIR to TARGET, a new folder or a file that ends in .tar; also while a process serves it.

    All that was acknowledged before is in it. The copy is verified before it gets its name.
    Exit code 2 if TARGET exists or is to be another archive, 10 if something else writes TARGET, 12 if DIR is damaged,
    13 if DIR can't be read or TARGET can't be written.

    \b
    Example: perdure backup perdure-data /backups/monday.tar
    """
    from . import backup_commands

    return backup_commands.back_up(directory, target)


@click.command()
@click.argument("source", metavar="SOURCE", type=_PATH)
@click.argument("directory", metavar="DIR", type=_PATH)
def restore(source: Path, directory: Path) -> int:
    """Make the new data directory DIR from the backup SOURCE, if all of it is as it was backed up.

    Exit code 2 if DIR is not empty, 10 if a process serves DIR, 11 if a newer release made SOURCE, 12 if SOURCE is
    damaged, 13 if DIR can't be written.

    \b
    Example: perdure restore /backups/monday.tar perdure-data
    """
    from . import backup_commands

    return backup_commands.restore(source, directory)


STORE: Final = (store, backup, restore)

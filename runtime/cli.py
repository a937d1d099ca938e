"""The command line: `perdure serve`, `check`, `replay` and `journal`; the rest is in cli_store.py and cli_remote.py.

What a person typed becomes one call here, and whatever goes wrong becomes one line on stderr and an exit code
(exits.py). Nothing heavy is imported at the top: `serve` re-executes itself under its hash seed first, and `--help`
must not wait for an HTTP server to be imported.
"""

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import click

from . import standard_output
from .cli_remote import REMOTE
from .cli_store import STORE
from .exits import INTERNAL, INTERRUPTED, NOT_READ, USAGE

DATA_DIR = Path("perdure-data")
INGRESS = "127.0.0.1:8080"
ADMIN = "127.0.0.1:9070"


def address(ctx: click.Context | None, param: click.Parameter | None, value: str) -> tuple[str, int]:
    """HOST:PORT as (host, port); IPv6 as `[::1]:8080`. Port 0 is any free one. Raises click.BadParameter."""
    host, colon, port = value.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not (colon and bare and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535):
        raise click.BadParameter(f"{value!r} is not HOST:PORT, such as {INGRESS}", ctx, param)
    if ":" in bare and bare == host:
        raise click.BadParameter(f"{value!r}: write an IPv6 address in brackets, such as [::1]:8080", ctx, param)
    return bare, int(port)


class _Path(click.Path):
    """Of the empty string `Path` would make the current directory, and an unset variable would be served there."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        if value == "":
            self.fail("a path can't be empty: is a variable not set?", param, ctx)
        return super().convert(value, param, ctx)


PATH = _Path(path_type=Path)
SECONDS = click.IntRange(0, 86_400)


@click.group("perdure", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="perdure", message="perdure %(version)s")
def commands() -> None:
    """Durable virtual objects: ordinary asyncio that survives SIGKILL.

    Exit codes are in the help of each command. Of any: 3 if what it prints can't be written, 130 after Ctrl-C.
    """


@commands.command()
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.option("--data-dir", type=PATH, metavar="DIR", default=DATA_DIR, help="Default ./perdure-data; made if missing.")
@click.option(
    "--ingress",
    callback=address,
    metavar="HOST:PORT",
    default=INGRESS,
    help=f"Default {INGRESS}; port 0: any free one.",
)
@click.option(
    "--admin",
    callback=address,
    metavar="HOST:PORT",
    default=ADMIN,
    help=f"Default {ADMIN}; beyond loopback only with a token.",
)
@click.option(
    "--ingress-token-file", type=PATH, metavar="FILE", help="Tokens, one a line: requests carry one as Bearer."
)
@click.option("--admin-token-file", type=PATH, metavar="FILE", help="The same for admin requests.")
@click.option(
    "--ingress-host",
    metavar="NAME",
    multiple=True,
    help="A Host, and page's origin, to answer to without a token; may be repeated.",
)
@click.option("--tls-cert", type=PATH, metavar="FILE", help="Certificate and its chain (PEM), for both ports.")
@click.option("--tls-key", type=PATH, metavar="FILE", help="Its key (PEM), not encrypted.")
@click.option("--replay-always", is_flag=True, help="Replay each handler at every turn, to find non-determinism.")
@click.option("--traces", is_flag=True, help="Send OpenTelemetry spans, as its OTEL_… variables say.")
@click.option("--config", type=PATH, metavar="FILE", help="Settings in TOML, such as call_depth_max = 50.")
@click.option("--drain-grace", type=SECONDS, metavar="SECONDS", help="How long SIGTERM waits for what runs.")
@click.option("--log-format", type=click.Choice(["auto", "console", "json"]), default="auto", show_default=True)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def serve(
    targets: tuple[str, ...],
    data_dir: Path,
    ingress: tuple[str, int],
    admin: tuple[str, int],
    ingress_token_file: Path | None,
    admin_token_file: Path | None,
    ingress_host: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    replay_always: bool,
    traces: bool,
    config: Path | None,
    drain_grace: int | None,
    log_format: Any,  # Any: one of click's choices above, a Literal there
    log_level: Any,
) -> int:
    """Serve the classes of each TARGET until SIGTERM.

    TARGET is a module, a module:Class, or a path such as examples/counter.py.
    The classes defined in that module are served, imported ones are not.

    Exit code 0 after SIGTERM, 2 if what it is given can't be used, 10 if another process holds DIR, 11 if a newer
    release wrote it, 12 if it is damaged, 13 if it can't be written, 14 after a failed sync, 15 after a bug.

    \b
    Example: perdure serve examples/counter.py --data-dir perdure-data
    """
    from .hash_seed import settle

    hash_seed = settle(data_dir)

    gc.disable()  # until all that stays is there (process.py): a start makes no garbage worth looking for
    from . import access, process, tls

    return process.serve(
        process.Options(
            targets=targets,
            data_dir=data_dir,
            ingress=ingress,
            admin=admin,
            ingress_access=access.Access(access.load_tokens(ingress_token_file), ingress_host),
            admin_access=access.Access(access.load_tokens(admin_token_file)),
            tls=tls.load_tls(tls_cert, tls_key),
            settings=process.settings_of(config, drain_grace, replay_always=replay_always),
            hash_seed=hash_seed,
            traces=traces,
            log_format=log_format,
            log_level=log_level,
        )
    )


@commands.command()
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.option(
    "--data-dir", type=PATH, metavar="DIR", default=DATA_DIR, help="Default ./perdure-data; never written to."
)
def check(targets: tuple[str, ...], data_dir: Path) -> int:
    """Run every open invocation of DIR against the code of each TARGET, without effects: a gate before a deploy.

    Says which would diverge and where, which have no class among the targets, so that they would wait until it is
    served again, and which patches no open invocation needs any more.
    Exit code 0 if all would go on, 1 if any would diverge or wait.

    \b
    Example: perdure check examples/signup.py --data-dir perdure-data
    """
    _take_hash_seed_of(data_dir)

    from . import replay_commands

    return replay_commands.check_all(targets, data_dir)


@commands.command()
@click.argument("target", metavar="TARGET")
@click.argument("id", metavar="ID")
@click.option(
    "--data-dir", type=PATH, metavar="DIR", default=DATA_DIR, help="Default ./perdure-data; never written to."
)
@click.option("--pdb", is_flag=True, help="Stop in the debugger, in the line of the handler that does something else.")
def replay(target: str, id: str, data_dir: Path, pdb: bool) -> int:
    """Run the open invocation ID again from its journal, against the code of TARGET, without effects.

    Says how far it gets. Exit code 0 if all its turns go as recorded, 1 if it diverges or TARGET lacks its class.

    \b
    Example: perdure replay examples/signup.py inv_1f2e… --pdb
    """
    _take_hash_seed_of(data_dir)

    from . import replay_commands

    return replay_commands.replay_one(target, id, data_dir, debug=pdb)


@commands.group()
def journal() -> None:
    """Look at a journal, also of a running process. Nothing is ever written."""


@journal.command()
@click.argument("directory", metavar="DIR", type=PATH)
def verify(directory: Path) -> int:
    """Check every byte of the journal in DIR.

    Exit code 0 if it is sound, 12 if it is damaged, 11 if a newer release wrote it.

    \b
    Example: perdure journal verify perdure-data
    """
    from . import journal_commands

    return journal_commands.verify(directory)


@journal.command()
@click.argument("directory", metavar="DIR", type=PATH)
@click.option("--from", "from_lsn", type=click.IntRange(min=1), default=1, metavar="LSN", help="Start at this record.")
def dump(directory: Path, from_lsn: int) -> int:
    """Print the journal in DIR, one record a line.

    Each line is the record's LSN, its time (UTC), its kind and its content; pipe it to grep or less.
    Exit code 0 if it is sound, 12 if it is damaged, 11 if a newer release wrote it.

    \b
    Example: perdure journal dump perdure-data --from 1000
    """
    from . import journal_commands

    return journal_commands.dump(directory, from_lsn)


@commands.command()
@click.argument("directory", metavar="DIR", type=PATH)
def new(directory: Path) -> int:
    """Write a project to start from into DIR: an object, its tests, a README.

    Exit code 2 if DIR is there and not empty, 13 if it can't be written.

    \b
    Example: perdure new shop
    """
    from . import new_commands

    return new_commands.new(directory)


@commands.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print what makes SHELL (bash, zsh or fish) complete commands, options and statuses: for its startup file.

    Exit code 0, 2 if there is no such shell.

    \b
    Example: perdure completion bash
             eval "$(perdure completion bash)"
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    print(made(commands, {}, "perdure", "_PERDURE_COMPLETE").source())
    return 0


for _command in (*STORE, *REMOTE):
    commands.add_command(_command)


def _take_hash_seed_of(data_dir: Path) -> None:
    """A replay runs under the hash seed of what it replays: re-executes the process, as `serve` does."""
    from . import hash_seed

    if hash_seed.read(data_dir) is not None:
        hash_seed.settle(data_dir)


def main() -> NoReturn:
    """The `perdure` command."""
    standard_output.install()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """One command line; returns the exit code. What went wrong is one line on stderr."""
    try:
        exit_code: int = commands.main(list(arguments), prog_name="perdure", standalone_mode=False) or 0
        sys.stdout.flush()
        return exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        return _complain(error.format_message(), USAGE)
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:  # nobody reads on, as behind `| head`
        return NOT_READ
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> int:
    """Errors made for people (StartRefused, JournalError) carry their exit code; any other is ours to mend."""
    exit_code = getattr(error, "exit_code", None)
    if isinstance(exit_code, int):
        return _complain(str(error), exit_code)
    import traceback

    traceback.print_exc()
    return _complain(f"internal error, please report it: {type(error).__name__}: {error}", INTERNAL)


def _complain(message: str, exit_code: int) -> int:
    from .logs import printable

    with suppress(OSError):  # the exit code is what is left to tell then
        print(f"perdure: {printable(' '.join(message.split()))}", file=sys.stderr)
    return exit_code

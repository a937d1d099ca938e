"""`perdure journal verify` and `dump`: the journal room's offline tools, with records explained and a progress bar.

The bar is for a person who watches: it appears only on a terminal, and never among the lines of a file or a pipe.
"""

import asyncio
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from perdure import journal
from perdure.journal import OnProgress

from .record_lines import describe


def verify(directory: Path) -> int:
    """Print what was found. Raises JournalError."""
    with _progress() as (on_progress, _):
        verified = asyncio.run(journal.verify(directory, on_progress=on_progress))
    print(verified)
    return 0


def dump(directory: Path, from_lsn: int) -> int:
    """Print one record a line. Raises JournalError, after the lines before the damage."""
    try:
        with _progress() as (on_progress, console):
            asyncio.run(_dump(directory, from_lsn, on_progress, console))
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


async def _dump(directory: Path, from_lsn: int, on_progress: OnProgress, console: Console) -> None:
    beside_the_bar = sys.stdout.isatty()
    async for line in journal.dump(directory, from_lsn, describe=describe, on_progress=on_progress):
        if beside_the_bar:
            console.out(line, highlight=False)
        else:
            sys.stdout.write(f"{line}\n")


@contextmanager
def _progress() -> Generator[tuple[OnProgress, Console]]:
    """A bar over the bytes read, where the lines go if that is a terminal, else on stderr if that is one."""
    console = Console(file=sys.stdout if sys.stdout.isatty() else sys.stderr)
    if not console.is_terminal:
        yield _no_progress, console
        return
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def on_progress(done_bytes: int, total_bytes: int) -> None:
            progress.update(task, completed=done_bytes, total=total_bytes)

        yield on_progress, console


def _no_progress(done_bytes: int, total_bytes: int) -> None:
    """Nobody watches."""

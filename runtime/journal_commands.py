"""`perdure journal verify` and `dump`: the journal room's offline tools, with records explained and a progress bar."""

import asyncio
import os
import sys
from pathlib import Path

from rich.console import Console

from perdure import journal
from perdure.journal import OnProgress

from .progress import progress_bar
from .record_lines import describe


def verify(directory: Path) -> int:
    """Print what was found. Raises JournalError."""
    with progress_bar("reading", counts_bytes=True) as (on_progress, _):
        verified = asyncio.run(journal.verify(directory, on_progress=on_progress))
    print(verified)
    return 0


def dump(directory: Path, from_lsn: int) -> int:
    """Print one record a line. Raises JournalError, after the lines before the damage."""
    try:
        with progress_bar("reading", counts_bytes=True) as (on_progress, console):
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

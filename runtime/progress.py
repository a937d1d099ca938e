"""The bar of a command that takes a while, for a person who watches: on a terminal only, never in a file or a pipe."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

OnProgress = Callable[[int, int], None]
"""Called with (done, in all)."""


@contextmanager
def progress_bar(doing: str, *, counts_bytes: bool = False) -> Generator[tuple[OnProgress, Console]]:
    """A bar where the lines go if that is a terminal, else on stderr if that is one; it is gone afterwards."""
    console = Console(file=sys.stdout if sys.stdout.isatty() else sys.stderr)
    if not console.is_terminal:
        yield _no_progress, console
        return
    amount = DownloadColumn() if counts_bytes else MofNCompleteColumn()
    columns = (TextColumn(doing), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def on_progress(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield on_progress, console


def _no_progress(done: int, total: int) -> None:
    """Nobody watches."""

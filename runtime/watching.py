"""What a command shows, once, or with `--watch` again and again until Ctrl-C: on a terminal in place.

A process that is gone for a while is waited for: whoever watches it wants to see it come back, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.text import Text

from .remote import UNREACHABLE, CommandFailed
from .terminal import complain, console, count, print_json, text


class View(NamedTuple):
    """`told` is for scripts, as JSON; `shown` for people."""

    told: object
    shown: RenderableType


Look = Callable[[], View]
"""How it is now.  Raises CommandFailed."""


def show(look: Look, every_seconds: float | None, *, as_json: bool) -> int:
    """Once if `every_seconds` is None.  Raises CommandFailed, if there is nothing to see in the first place."""
    view, out = look(), console()
    if every_seconds is None:
        _print(view, out, as_json=as_json)
        return 0
    try:
        if out.is_terminal and not as_json:
            _watch_in_place(view, look, every_seconds, out)
        else:
            _watch_line_by_line(view, look, every_seconds, out, as_json=as_json)
    except KeyboardInterrupt:  # the way to end it
        return 0


def _watch_in_place(view: View, look: Look, every_seconds: float, out: Console) -> NoReturn:
    with Live(Text(""), console=out, screen=True, auto_refresh=False) as live:
        while True:
            live.update(Cropped(view.shown), refresh=True)
            view = _next(look, every_seconds, lambda why: live.update(text(why), refresh=True))


class Cropped:
    """As much of it as the screen holds, and how much that leaves out."""

    def __init__(self, shown: RenderableType) -> None:
        self._shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.height or console.height
        lines = console.render_lines(self._shown, options.update(height=None), pad=False, new_lines=True)
        whole = len(lines) <= height
        for line in lines if whole else lines[: height - 1]:
            yield from line
        if not whole:
            yield text(f"and {count(len(lines) - height + 1, 'line')} more than the screen holds")


def _watch_line_by_line(view: View, look: Look, every_seconds: float, out: Console, *, as_json: bool) -> NoReturn:
    while True:
        _print(view, out, as_json=as_json)
        view = _next(look, every_seconds, complain)


def _next(look: Look, every_seconds: float, tell: Callable[[str], None]) -> View:
    while True:
        time.sleep(every_seconds)
        try:
            return look()
        except CommandFailed as error:
            if error.exit_code != UNREACHABLE:
                raise
            tell(str(error))


def _print(view: View, out: Console, *, as_json: bool) -> None:
    if as_json:
        print_json(view.told)
    else:
        out.print(view.shown)

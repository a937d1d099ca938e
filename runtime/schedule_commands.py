"""`perdure schedules`: what a process calls because it is time, and whether it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from rich.console import Group, RenderableType

from . import watching
from .remote import Server
from .terminal import Rows, clock, count, print_json, print_line, text
from .watching import View

_TITLES: Final = {
    "id": "id",
    "timing": "timing",
    "next_at": "next (UTC)",
    "last_fired_at": "last fired (UTC)",
    "last_invocation": "last call",
    "state": "state",
}
_DONE: Final = {"pause": "paused", "resume": "resumed", "trigger": "triggered"}


def show(server: Server, every_seconds: float | None, *, as_json: bool) -> int:
    """Prints them all, by id.  Raises CommandFailed."""

    def look() -> View:
        schedules = server.get("/schedules", "schedules")["schedules"]
        return View(schedules, _listing(schedules))

    return watching.show(look, every_seconds, as_json=as_json)


def _listing(schedules: Sequence[Mapping[str, Any]]) -> RenderableType:
    lines = [
        {
            **each,
            "next_at": clock(each.get("next_at")),
            "last_fired_at": clock(each.get("last_fired_at")),
            "state": ", ".join(state for state in ("paused", "running") if each.get(state)),
        }
        for each in schedules
    ]
    return Group(*([Rows(lines, _TITLES)] if lines else []), text(count(len(lines), "schedule")))


def act(verb: str, id: str, server: Server, *, as_json: bool) -> int:
    """Does it, and tells what came of it.  Raises CommandFailed."""
    # %2F for its slashes: a schedule may be named like an action.
    answer: dict[str, str] = server.patch(f"/schedules/{quote(id, safe='', errors='replace')}/{verb}") or {}
    if as_json:
        print_json({"action": verb, "id": id, **answer})
    else:
        print_line(" ".join([_DONE[verb], id, *answer.values()]))
    return 0

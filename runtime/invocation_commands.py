"""`perdure invocations list` and what is done to them, one by one, however many are meant."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import click
from rich.console import Group, RenderableType

from . import watching
from .exits import USAGE
from .invocation_queries import is_id, wanted, why_not_served
from .query_terms import OPEN, STATUSES
from .remote import REFUSED, UNKNOWN, CommandFailed, Server
from .terminal import (
    Rows,
    clock,
    complain,
    count,
    duration,
    path_of,
    print_json,
    print_line,
    seconds_between,
    text,
)
from .watching import View

_FIELDS: Final = (
    "id, target_service_name, target_service_key, target_handler_name, status, created_at, modified_at, completed_at, "
    "retry_count, last_failure, waiting_for, completion_failure"
)
_TITLES: Final = {
    "id": "id",
    "target": "target",
    "status": "status",
    "created": "created (UTC)",
    "since": "for",
    "why": "waits for",
    "retry_count": "retries",
    "failure": "last failure",
}


class Action(NamedTuple):
    """`of` are the statuses that it makes sense for: where many are meant, the others are left alone."""

    verb: str
    path: str
    done: str
    of: tuple[str, ...]


ACTIONS: Final = {
    action.verb: action
    for action in (
        Action("cancel", "cancel", "asked to end", OPEN),
        Action("kill", "kill", "killed", OPEN),
        Action("pause", "pause", "paused", ("ready", "running", "backing-off", "suspended")),
        Action("resume", "resume", "resumed", ("paused", "backing-off")),
        Action("purge", "purge", "purged", ("completed",)),
        Action("restart", "restart-as-new", "restarted", ("completed",)),
    )
}


# --- list -------------------------------------------------------------------------------------------------------------


class Listed(NamedTuple):
    """What `list` was asked for; `statuses` empty: those that have not ended, or any of one ID."""

    query: str | None
    statuses: tuple[str, ...]
    all: bool
    limit: int


def show(asked: Listed, server: Server, every_seconds: float | None, *, as_json: bool) -> int:
    """Prints them, the newest first.  Raises CommandFailed."""
    looked = False

    def look() -> View:
        nonlocal looked
        rows = _rows(asked, server)
        if not (rows or looked) and (why := unserved(asked.query, server)) is not None:
            complain(why)
        looked = True
        return View(rows[: asked.limit], _listing(rows, asked.limit))

    return watching.show(look, every_seconds, as_json=as_json)


def _rows(asked: Listed, server: Server) -> list[dict[str, Any]]:
    """One more than asked for, if there are."""
    found = wanted(asked.query, asked.statuses)
    if not asked.statuses and not asked.all and found.id is None:
        found = wanted(asked.query, OPEN)
    return server.rows(
        f"SELECT {_FIELDS} FROM sys_invocation WHERE {found.where} ORDER BY created_at DESC, id LIMIT {asked.limit + 1}"
    )


def unserved(query: str | None, server: Server) -> str | None:
    """Of what nothing was found for: why that may be, if it names what isn't served.  Raises CommandFailed."""
    if query is None or is_id(query):
        return None
    return why_not_served(query, server.get("/services", "services")["services"])


def _listing(rows: Sequence[Mapping[str, Any]], limit: int) -> RenderableType:
    at = now()
    lines: list[RenderableType] = [Rows([_line(row, at) for row in rows[:limit]], _TITLES)] if rows else []
    more = f", and more: --limit {limit * 10} shows them" if len(rows) > limit else ""
    return Group(*lines, text(count(min(len(rows), limit), "invocation") + more))


def _line(row: Mapping[str, Any], at: str) -> dict[str, object]:
    since = row["modified_at"] if row["status"] != "completed" else row["completed_at"]
    return {
        **row,
        "target": target_of(row),
        "created": clock(row["created_at"]),
        "since": duration(seconds_between(since, at)),
        "why": ", ".join(map(reason_of, reasons_in(row))),
        "retry_count": row["retry_count"] or None,
        "failure": row["completion_failure"] or row["last_failure"],
    }


def now() -> str:
    """As ISO 8601, in UTC."""
    return datetime.now(UTC).isoformat()


def target_of(row: Mapping[str, Any]) -> str:
    """As it is typed."""
    return path_of([row["target_service_name"], row["target_service_key"], row["target_handler_name"]])


def reasons_in(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each thing that it waits for, as `sys_invocation.waiting_for` has it."""
    return json.loads(row.get("waiting_for") or "[]") or []


def reason_of(reason: Mapping[str, Any]) -> str:
    """One thing that is waited for, in a few words."""
    kind = str(reason.get("type"))
    what = reason.get("target") or reason.get("name") or reason.get("held_by") or reason.get("id")
    attempts = reason.get("failed_attempts")
    said = [kind, "held by" if kind == "key" and what else "", str(what or "")]
    said += [f"{word} {clock(reason[word])}" for word in ("until", "at") if reason.get(word)]
    if attempts:
        said.append(f"({count(int(attempts), 'failed attempt')}, next {clock(reason.get('next_attempt_at'))})")
    return " ".join(part for part in said if part)


# --- what is done to them ---------------------------------------------------------------------------------------------


class Meant(NamedTuple):
    id: str
    target: str


def act(action: Action, query: str, statuses: tuple[str, ...], server: Server, *, yes: bool, as_json: bool) -> int:
    """Does it to each that is meant, and tells of each.  Raises CommandFailed."""
    meant = _meant(action, query, statuses, server)
    if not meant:
        kind = "" if statuses == STATUSES else f" that is {' or '.join(statuses or action.of)}"
        why = unserved(query, server)
        because = "" if why is None else f"; {why}"
        raise CommandFailed(f"nothing to {action.verb}: no invocation of {query!r}{kind}{because}", UNKNOWN)
    if len(meant) > 1 and not yes:
        _confirm(action, meant)
    done: list[dict[str, str]] = []
    ended: list[dict[str, str]] = []
    failed: list[dict[str, object]] = []
    for each in meant:
        try:
            answer = server.patch(f"/invocations/{each.id}/{action.path}")
        except CommandFailed as error:
            if len(meant) == 1:
                raise
            if error.status is None:  # nobody there: nor will there be for the rest
                untouched = len(meant) - len(done) - len(ended) - len(failed)
                text = f"{len(done)} of {len(meant)} {action.done}, {untouched} may not be: {error}"
                raise CommandFailed(text, error.exit_code) from error
            if error.status == 409 and action.of == OPEN:  # as it should: by itself, or with its caller
                ended.append({"id": each.id})
                continue
            failed.append({"id": each.id, "target": each.target, "status": error.status, "message": str(error)})
            complain(f"{each.id} {each.target}: {error}")
            continue
        made = answer["new_invocation_id"] if action.path == "restart-as-new" else None
        done.append({"id": each.id, **({} if made is None else {"new_invocation_id": made})})
        if not as_json:
            print_line(" ".join(part for part in (action.done, each.id, each.target, made and f"as {made}") if part))
    if as_json:
        print_json(
            {"action": action.verb, "matched": len(meant), "done": done, "ended_before": ended, "failed": failed}
        )
    elif len(meant) > 1:
        before = f", {len(ended)} had ended before" if ended else ""
        print_line(f"{len(done)} of {count(len(meant), 'invocation')} {action.done}{before}")
    return REFUSED if failed else 0


def _meant(action: Action, query: str, statuses: tuple[str, ...], server: Server) -> list[Meant]:
    """Those of the statuses that it makes sense for; one that is named by its ID whatever it does."""
    found = wanted(query, statuses)
    if found.id is not None and not statuses:
        return [Meant(found.id, "")]
    if not statuses:
        found = wanted(query, action.of)
    fields = "id, target_service_name, target_service_key, target_handler_name"
    # What waits behind a key would begin as soon as its holder is stopped: so it is stopped before that.  Then callers
    # come before what they called, or their code would run on with the error.
    order = "status NOT IN ('scheduled', 'pending'), created_at, id" if action.of == OPEN else "created_at, id"
    rows = server.rows(f"SELECT {fields} FROM sys_invocation WHERE {found.where} ORDER BY {order}")
    return [Meant(row["id"], target_of(row)) for row in rows]


def _confirm(action: Action, meant: Sequence[Meant]) -> None:
    if not sys.stdin.isatty():
        raise CommandFailed(f"this would {action.verb} {count(len(meant), 'invocation')}: say --yes", USAGE)
    for each in meant[:10]:
        complain(f"{each.id} {each.target}")
    if len(meant) > 10:
        complain(f"… and {len(meant) - 10:,} more")
    if not click.confirm(f"{action.verb} {count(len(meant), 'invocation')}?", err=True):
        raise CommandFailed("nothing was done", REFUSED)

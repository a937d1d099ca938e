"""`perdure invocations describe`: one invocation, its journal as a timeline, what it waits for, who called whom."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from . import watching
from .exits import CUT_OFF, USAGE
from .invocation_commands import now, reason_of, reasons_in, target_of, unserved
from .invocation_queries import wanted
from .query_terms import OPEN, literal
from .remote import UNKNOWN, CommandFailed, Server
from .terminal import Rows, clock, count, duration, seconds_between, text
from .watching import View

ENTRIES_MAX: Final = 1000
CALLS_MAX: Final = 200
CANDIDATES_MAX: Final = 5
_DEPTH_MAX: Final = 50
_VALUE_SHOWN_MAX: Final = 200

_ENTRY: Final = (
    '"index", turn, entry_type, name, completed, invoked_id, invoked_target, sleep_wakeup_at, promise_name, '
    "appended_at, completed_at, result, failure"
)
_CALL: Final = (
    "target_service_name, target_service_key, target_handler_name, status, waiting_for, i.created_at, i.modified_at, "
    "completed_at, completion_failure"
)
_TITLES: Final = {
    "index": "#",
    "turn": "turn",
    "entry_type": "entry",
    "what": "what",
    "at": "at (UTC)",
    "took": "took",
    "came": "what came of it",
}


class Found(NamedTuple):
    """`view` is what the admin API says of it, the rest are rows of SQL.  `callers` begin with its own, `calls` with
    itself; each of these has `parent` and `level`, and may not be kept any more: then its status is None."""

    view: dict[str, Any]
    row: dict[str, Any]
    journal: list[dict[str, Any]]
    callers: list[dict[str, Any]]
    calls: list[dict[str, Any]]
    calls_unknown: str | None


def describe(query: str, server: Server, every_seconds: float | None, *, as_json: bool) -> int:
    """Prints all that there is of it.  Raises CommandFailed."""
    id = _meant(query, server)

    def look() -> View:
        found = _found(id, server)
        waits = _waits(found)
        journal, callers, calls = found.journal[:ENTRIES_MAX], found.callers, found.calls[:CALLS_MAX]
        told = {"waiting_for": waits, "journal": journal, "callers": callers, "calls": calls}
        return View({"invocation": found.view, **told}, Group(*_shown(found, waits, now())))

    return watching.show(look, every_seconds, as_json=as_json)


# --- which one --------------------------------------------------------------------------------------------------------


def _meant(query: str, server: Server) -> str:
    """The only one that is at work, whatever stands in line behind it; else the only one in line; else the newest."""
    found = wanted(query)
    if found.id is not None:
        return found.id
    fields = "id, status, target_service_name, target_service_key, target_handler_name"
    in_line = "status IN ('scheduled', 'pending')"
    rows = server.rows(
        f"SELECT {fields} FROM sys_invocation WHERE {wanted(query, OPEN).where} "
        f"ORDER BY {in_line}, created_at, id LIMIT {CANDIDATES_MAX + 1}"
    ) or server.rows(f"SELECT {fields} FROM sys_invocation WHERE {found.where} ORDER BY completed_at DESC, id LIMIT 1")
    if not rows:
        why = unserved(query, server)
        raise CommandFailed(f"no invocation of {query!r} is kept{'' if why is None else f'; {why}'}", UNKNOWN)
    candidates = [row for row in rows if row["status"] not in ("scheduled", "pending")] or rows
    if len(candidates) > 1:
        named = ", ".join(f"{row['id']} ({target_of(row)}, {row['status']})" for row in candidates[:CANDIDATES_MAX])
        more = " and more" if len(candidates) > CANDIDATES_MAX else ""
        raise CommandFailed(f"{query!r} is several: name one by its ID: {named}{more}", USAGE)
    return str(candidates[0]["id"])


# --- what there is of it ----------------------------------------------------------------------------------------------


def _found(id: str, server: Server) -> Found:
    view: dict[str, Any] = server.get(f"/invocations/{id}", "status")
    named = literal(id)
    journal = server.rows(
        f'SELECT {_ENTRY} FROM sys_journal WHERE id = {named} ORDER BY "index" LIMIT {ENTRIES_MAX + 1}'
    )
    callers = server.rows(f"""
        WITH RECURSIVE up(id, parent, level) AS (
            SELECT id, invoked_by_id, 0 FROM sys_invocation WHERE id = {named}
            UNION ALL
            SELECT i.id, i.invoked_by_id, level + 1 FROM up JOIN sys_invocation i ON i.id = up.parent
            WHERE level < {_DEPTH_MAX})
        SELECT up.id, parent, level, {_CALL} FROM up JOIN sys_invocation i ON i.id = up.id ORDER BY level""")
    if not callers:
        raise CommandFailed(f"{id} was forgotten while it was looked at", UNKNOWN)
    row, *callers = callers
    calls = server.rows(f"""
        WITH RECURSIVE tree(id, parent, level, called_as) AS (
            SELECT {named}, NULL, 0, NULL
            UNION
            SELECT j.invoked_id, tree.id, level + 1, j.invoked_target FROM tree JOIN sys_journal j ON j.id = tree.id
            WHERE j.entry_type IN ('Call', 'OneWayCall') AND j.invoked_id IS NOT NULL AND level < {_DEPTH_MAX}
            LIMIT {CALLS_MAX + 1})
        SELECT tree.id, parent, level, called_as, {_CALL}
        FROM tree LEFT JOIN sys_invocation i ON i.id = tree.id ORDER BY level""")
    unknown = None
    if view["status"] == "completed":  # its journal is not kept: those that it called know it, and all are looked at
        try:
            calls += server.rows(
                f"SELECT id, {named} AS parent, 1 AS level, {_CALL} FROM sys_invocation i "
                f"WHERE invoked_by_id = {named} ORDER BY created_at LIMIT {CALLS_MAX}"
            )
        except CommandFailed as error:
            if error.exit_code != CUT_OFF:
                raise
            unknown = f"what it called is not known: {error}"
    return Found(view, row, journal, callers, calls, unknown)


def _waits(found: Found) -> list[dict[str, Any]]:
    """Each thing that it waits for, and since when."""
    asked = {entry["index"]: entry["appended_at"] for entry in found.journal}
    waits: list[dict[str, Any]] = []
    for reason in reasons_in(found.row):
        begun = reason.get("type") not in ("key", "start")
        otherwise = found.row["modified_at" if begun else "created_at"]
        waits.append({**reason, "since": asked.get(reason.get("index"), otherwise)})
    return waits


# --- for people -------------------------------------------------------------------------------------------------------


def _shown(found: Found, waits: Sequence[Mapping[str, Any]], at: str) -> Iterator[RenderableType]:
    yield text(f"{found.view['id']}  {target_of(found.row)}")  # on a line of its own: an ID is there to be copied
    fields = Table.grid(padding=(0, 2))
    fields.add_column(no_wrap=True)
    fields.add_column(overflow="fold")
    for name, value in _fields(found, waits, at):
        fields.add_row(text(name), text(value))
    yield fields
    yield Text("")
    yield Rows([_line(entry, waits, at) for entry in found.journal[:ENTRIES_MAX]], _TITLES)
    if len(found.journal) > ENTRIES_MAX:
        yield text(f"and more: only the first {ENTRIES_MAX:,} are shown")
    if found.view["status"] == "completed":
        yield text("it has ended: of its journal the first and the last are kept")
    yield Text("")
    yield _tree(found, at)
    if found.calls_unknown is not None:
        yield text(found.calls_unknown)
    if len(found.calls) > CALLS_MAX:
        yield text(f"and more: only the first {CALLS_MAX} are shown")


def _fields(found: Found, waits: Sequence[Mapping[str, Any]], at: str) -> Iterator[tuple[str, str]]:
    view, row = found.view, found.row
    yield "status", _status(row, at)
    for wait in waits:
        long = duration(seconds_between(wait["since"], at))
        yield "waits for", f"{reason_of(wait)}, since {clock(wait['since'])} ({long})"
    yield "created", f"{clock(row['created_at'])} by {found.callers[0]['id'] if found.callers else 'the ingress'}"
    if row["completed_at"]:
        yield "ended", clock(row["completed_at"])
    if view.get("retry_count"):
        next_at = f", next {clock(view['next_retry_at'])}" if view.get("next_retry_at") else ""
        yield "retries", f"{view['retry_count']}{next_at}"
    for name in ("last_failure", "failure"):
        failure = view.get(name)
        if failure:
            yield name.replace("_", " "), f"{failure['type']}: {failure['message']} ({failure['code']})"
    if view.get("idempotency_key"):
        yield "idempotency key", view["idempotency_key"]
    if view.get("queued_behind_it"):
        yield "behind it", f"{count(view['queued_behind_it'], 'invocation')} in the mailbox"
    if view.get("progress"):
        yield "progress", json.dumps(view["progress"], ensure_ascii=False)


def _status(row: Mapping[str, Any], at: str) -> str:
    if row["status"] is None:
        return "ended, and is not kept"
    if row["status"] == "completed":
        took = duration(seconds_between(row["created_at"], row["completed_at"]))
        return f"completed in {took}" if row["completion_failure"] is None else f"failed after {took}"
    return f"{row['status']} for {duration(seconds_between(row['modified_at'], at))}"


def _line(entry: Mapping[str, Any], waits: Sequence[Mapping[str, Any]], at: str) -> dict[str, object]:
    until = entry["sleep_wakeup_at"]
    what = [entry["name"], entry["promise_name"], entry["invoked_target"], entry["invoked_id"]]
    what.append(f"until {clock(until)}" if until else None)
    attempts = [wait for wait in waits if wait.get("index") == entry["index"] and wait.get("failed_attempts")]
    if entry["failure"] is not None:
        came = f"failed: {entry['failure']}"
    elif attempts:
        number, next_at = attempts[0]["failed_attempts"], attempts[0]["next_attempt_at"]
        came = f"{count(number, 'failed attempt')}, next {clock(next_at)}"
    else:
        came = entry["result"] or ""
    is_open = not entry["completed"]
    return {
        **entry,
        "what": " ".join(dict.fromkeys(part for part in what if part)),
        "at": clock(entry["appended_at"]),
        "took": ("open for " if is_open else "")
        + duration(seconds_between(entry["appended_at"], at if is_open else entry["completed_at"])),
        "came": came if len(came) <= _VALUE_SHOWN_MAX else came[:_VALUE_SHOWN_MAX] + "…",
    }


def _tree(found: Found, at: str) -> Tree:
    """From the first caller down to this one, and all that it called."""
    branch: Tree | None = None
    top: Tree | None = None
    for caller in reversed(found.callers):
        branch = Tree(_node(caller, at)) if branch is None else branch.add(_node(caller, at))
        top = top or branch
    made: dict[str, Tree] = {}
    for call in found.calls[:CALLS_MAX]:
        if call["id"] in made:  # by its journal, and by itself
            continue
        label = _node(call, at, here=call["level"] == 0)
        above = made.get(call["parent"], branch)
        made[call["id"]] = Tree(label) if above is None else above.add(label)
        top = top or made[call["id"]]
    assert top is not None
    return top


def _node(call: Mapping[str, Any], at: str, *, here: bool = False) -> Text:
    target = target_of(call) if call["status"] is not None else call.get("called_as")
    line = " ".join(part for part in (call["id"], target, _status(call, at)) if part)
    return text(f"{line}  ← this one" if here else line)

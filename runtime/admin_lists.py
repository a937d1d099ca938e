"""The admin API's lists: invocations by filter, what is done to many of them, and the keys of a class.

    GET   /invocations?FILTER&limit=&cursor=          200 {"invocations": […], "next": cursor or null}, newest first
    PATCH /invocations/{action}?FILTER&limit=&dry_run 200 {"matched": […], "done": […], "refused": […], "more"}
    GET   /services/{service}/keys?limit=&after=      200 {"keys": […], "next": the last, or null}, by name

FILTER: service, handler, key, status (several: a,b), result (success, failure), created_after and created_before
(ISO 8601).  At least one of them must say what is meant where something is done.  `dry_run=true` only tells.
`next` goes into `cursor`, or `after`.  400 for a filter that is none; the rest as with `/query`, which answers.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast
from urllib.parse import parse_qsl

import msgspec

from .admission import Refused
from .query_terms import STATUSES, literal
from .sql import Queries
from .sql.waiting import time_of

FORMS = "GET /invocations?status=…, PATCH /invocations/{action}?status=…, /services/{service}/keys"

LIMIT: Final = 100
LIMIT_MAX: Final = 1_000

_COLUMNS: Final = (
    "id, target, target_service_name, target_service_key, target_handler_name, status, completion_result, waiting_for, "
    "invoked_by_id, idempotency_key, retry_count, last_failure, next_retry_at, created_at, modified_at, "
    "scheduled_start_at, completed_at"
)
_EQUAL: Final = {
    "service": "target_service_name",
    "handler": "target_handler_name",
    "key": "target_service_key",
}
_FILTERS: Final = (*_EQUAL, "status", "result", "created_after", "created_before")
_FIELDS_MAX: Final = 20
_CURSOR: Final = re.compile(r"([0-9T:.Z+-]{1,40})~(inv_[0-9a-f]{35})")

Act = Callable[[str], Awaitable[object]]
"""Does it to the invocation of that id; what it answers is not looked at.  Raises Refused."""


async def invocations(queries: Queries, query: str) -> dict[str, object]:
    """A page of them.  Raises Refused, OutcomeUnknown."""
    given = _given(query, (*_FILTERS, "limit", "cursor"))
    limit, conditions = _limit(given), _conditions(given)
    if "cursor" in given:
        cursor = _CURSOR.fullmatch(given["cursor"])
        if cursor is None:
            raise Refused(400, "cursor is what `next` of the page before said; leave it out for the first page")
        conditions.append(f"(created_at, id) < ({literal(cursor[1])}, {literal(cursor[2])})")
    rows = await _select(queries, _COLUMNS, conditions, "created_at DESC, id DESC", limit + 1)
    page = rows[:limit]
    more = len(rows) > limit
    return {"invocations": page, "next": f"{page[-1]['created_at']}~{page[-1]['id']}" if more else None}


async def act_on_many(queries: Queries, query: str, act: Act) -> dict[str, object]:
    """One after the other; what one of them is refused for stops no other.  Raises Refused, OutcomeUnknown.

    What waits behind a key would begin as soon as its holder is stopped, so it comes before that; then callers come
    before what they called, or their code would run on with the error.
    """
    given = _given(query, (*_FILTERS, "limit", "dry_run"))
    limit, conditions = _limit(given), _conditions(given)
    if not conditions:
        raise Refused(400, f"that would be all of them; say which: {', '.join(_FILTERS)}; nothing was done")
    if (dry := given.get("dry_run", "false")) not in ("true", "false"):
        raise Refused(400, f"dry_run is true or false, not {dry[:80]!r}; nothing was done")
    order = "status NOT IN ('scheduled', 'pending'), created_at, id"
    rows = await _select(queries, "id, target, status", conditions, order, limit + 1)
    matched, done, refused = rows[:limit], list[str](), list[dict[str, object]]()
    for row in matched if dry == "false" else ():
        try:
            await act(row["id"])
        except Refused as why:
            refused.append({"id": row["id"], "code": why.status, "message": why.message})
        else:
            done.append(row["id"])
    return {"matched": matched, "done": done, "refused": refused, "more": len(rows) > limit}


async def keys(queries: Queries, service: str, query: str) -> dict[str, object]:
    """Those that have state.  Raises Refused, OutcomeUnknown."""
    given = _given(query, ("limit", "after"))
    limit = _limit(given)
    conditions = [f"service_name = {literal(service)}"]
    if "after" in given:
        conditions.append(f"service_key > {literal(given['after'])}")
    rows = await _rows(
        queries,
        f"SELECT DISTINCT service_key FROM state WHERE {' AND '.join(conditions)} ORDER BY 1 LIMIT {limit + 1}",
    )
    found = [row["service_key"] for row in rows[:limit]]
    return {"keys": found, "next": found[-1] if len(rows) > limit else None}


async def _select(
    queries: Queries, columns: str, conditions: list[str], order: str, limit: int
) -> list[dict[str, Any]]:
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return await _rows(queries, f"SELECT {columns} FROM sys_invocation{where} ORDER BY {order} LIMIT {limit}")


async def _rows(queries: Queries, statement: str) -> list[dict[str, Any]]:
    answer = msgspec.json.decode(await queries.run(statement, "json"))
    return cast("list[dict[str, Any]]", answer["rows"])


# --- what is asked for ------------------------------------------------------------------------------------------------


def _given(query: str, known: tuple[str, ...]) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_FIELDS_MAX)
    except ValueError:
        raise Refused(400, "bad query string; nothing was done") from None
    given = dict(pairs)
    if len(given) != len(pairs):
        raise Refused(400, "a filter is given more than once; several statuses are status=a,b; nothing was done")
    if (unknown := next((name for name in given if name not in known), None)) is not None:
        raise Refused(400, f"there is no filter {unknown[:80]!r}, there are {', '.join(known)}; nothing was done")
    if (empty := next((name for name in ("service", "handler") if given.get(name) == ""), None)) is not None:
        raise Refused(400, f"{empty} is empty, and nothing has no name; leave it out for all; nothing was done")
    return given


def _limit(given: Mapping[str, str]) -> int:
    text = given.get("limit", str(LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= LIMIT_MAX):
        raise Refused(400, f"limit is a number from 1 to {LIMIT_MAX}, not {text[:80]!r}; nothing was done")
    return int(text)


def _conditions(given: Mapping[str, str]) -> list[str]:
    found = [f"{column} = {literal(given[name])}" for name, column in _EQUAL.items() if name in given]
    if "status" in given:
        statuses = given["status"].split(",")
        if (unknown := next((one for one in statuses if one not in STATUSES), None)) is not None:
            raise Refused(400, f"there is no status {unknown[:80]!r}, there are {', '.join(STATUSES)}")
        found.append(f"status IN ({', '.join(map(literal, statuses))})")
    if "result" in given:
        if given["result"] not in ("success", "failure"):
            raise Refused(400, f"result is success or failure, not {given['result'][:80]!r}; nothing was done")
        found.append(f"completion_result = {literal(given['result'])}")
    for name, sign in (("created_after", ">"), ("created_before", "<")):
        if name in given:
            found.append(f"created_at {sign} {literal(_moment(name, given[name]))}")
    return found


def _moment(name: str, text: str) -> str:
    """As the tables have it."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(400, f"{name} is a time such as 2026-01-31T12:00:00Z, not {text[:80]!r}") from None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return time_of(int(aware.timestamp() * 1_000_000)) or ""

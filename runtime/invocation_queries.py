"""Which invocations are meant: `ID`, `Service`, `Object/key`, `Object/key/handler` or `Service/handler`, as SQL.

As on the ingress, a slash in a key is written %2F and a percent sign %25; each part is decoded once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from .exits import USAGE
from .query_terms import literal
from .remote import CommandFailed

FORMS: Final = "an ID (inv_…), Service, Service/handler, Object/key or Object/key/handler; a slash in a key is %2F"

_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ID: Final = re.compile(r"inv_[0-9a-f]{35}")


class Wanted(NamedTuple):
    """`id` is set where one invocation is named; `where` is a condition of SQL, for `sys_invocation`."""

    id: str | None
    where: str


def wanted(query: str | None, statuses: Sequence[str] = ()) -> Wanted:
    """No query means all, no statuses any.  Raises CommandFailed(USAGE)."""
    conditions = [_condition(query)] if query is not None else []
    if statuses:
        conditions.append(f"status IN ({', '.join(map(literal, statuses))})")
    id = query if query is not None and is_id(query) else None
    return Wanted(id, " AND ".join(conditions) or "1")


def why_not_served(query: str, services: Sequence[Mapping[str, Any]]) -> str | None:
    """Which part of a path no class or handler goes by, of those that `GET /services` lists; None if all are served.

    That is no error by itself: invocations are kept, and open, also where their class is served no more.
    """
    name, *rest = parts_of(query, FORMS)
    service = next((each for each in services if each["name"] == name), None)
    if service is None:
        return f"no class {name!r} is served: `perdure services list` lists them"
    keyed = service["ty"] != "Service"
    if len(rest) == 2 and not keyed:
        return f"{name} is a Service: its invocations have no key"
    handlers = sorted(each["name"] for each in service["handlers"])
    called = rest[-1] if len(rest) == 2 or (rest and not keyed) else None
    if called is not None and called not in handlers:
        return f"{name} has no handler {called!r}; it has: {', '.join(handlers)}"
    return None


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def parts_of(path: str, what: str) -> list[str]:
    """The parts of a path as it is typed, decoded.  Raises CommandFailed(USAGE) that tells `what` is expected."""
    try:
        # Not by http_paths.decode, which does the same: with it half a second of engine would be imported.
        parts = [unquote(part, errors="strict") for part in path.encode().decode().split("/")]
    except UnicodeError:
        raise CommandFailed(f"{path!r} is not UTF-8", USAGE) from None
    if _BAD_PERCENT.search(path):
        raise CommandFailed(f"{path!r}: a percent sign is written %25", USAGE)
    if not all(parts) or any("\0" in part for part in parts):
        raise CommandFailed(f"{path!r} is not {what}", USAGE)
    return parts


def _condition(query: str) -> str:
    if query.startswith("inv_"):
        if not is_id(query):
            raise CommandFailed(f"{query!r} is no invocation's ID: one is inv_ and 35 hexadecimal digits", USAGE)
        return f"id = {literal(query)}"
    parts = parts_of(query, FORMS)
    if len(parts) > 3:
        raise CommandFailed(f"{query!r} has too many parts: it is {FORMS}", USAGE)
    service = f"target_service_name = {literal(parts[0])}"
    if len(parts) == 1:
        return service
    second = literal(parts[1])
    if len(parts) == 3:
        return f"{service} AND target_service_key = {second} AND target_handler_name = {literal(parts[2])}"
    # What has no key is meant by its handler.
    keyless = f"target_service_key IS NULL AND target_handler_name = {second}"
    return f"{service} AND (target_service_key = {second} OR ({keyless}))"

"""`perdure state`: what an object holds, and how it is mended.

Each change names the version of the state that it was made from: whoever came in between is not overwritten.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any, Final, cast
from urllib.parse import quote

import click

from . import watching
from .call_commands import body_of
from .exits import USAGE
from .invocation_queries import parts_of
from .query_terms import literal
from .remote import CONFLICT, EXIT_CODES, REFUSED, CommandFailed, Server
from .terminal import complain, json_shown, print_json, print_line, text
from .watching import View

_FORM: Final = "Class/key; a slash in a key is %2F"
_EXIT_CODES: Final = {**EXIT_CODES, 409: CONFLICT}


def keys(name: str, limit: int, after: str | None, server: Server, *, as_json: bool) -> int:
    """One on a line, as the other commands take them.  Raises CommandFailed."""
    service = server.get(f"/services/{_quoted(name)}", "ty")  # which says so if there is no such class
    if service["ty"] == "Service":
        raise CommandFailed(f"{name} is a Service: it has no keys and no state", REFUSED)
    behind = "" if after is None else f" AND service_key > {literal(after)}"
    rows = server.rows(
        f"SELECT DISTINCT service_key FROM state WHERE service_name = {literal(name)}{behind} "
        f"ORDER BY 1 LIMIT {limit + 1}"
    )
    found = [row["service_key"] for row in rows[:limit]]
    if as_json:
        print_json(found)
        return 0
    for key in found:
        print_line(f"{name}/{key.replace('%', '%25').replace('/', '%2F')}")
    if len(rows) > limit:
        complain(f"there are more: --after {json.dumps(found[-1])} shows the next {limit}")
    return 0


def get(object: str, field: str | None, server: Server, every_seconds: float | None, *, as_json: bool) -> int:
    """Raises CommandFailed."""
    path = _path(object)
    if every_seconds is not None:
        return watching.show(lambda: _looked_at(_view(path, server), field), every_seconds, as_json=as_json)
    view = _view(path, server)
    if field is not None:
        if field not in view["state"]:
            raise CommandFailed(f"{object} has no value for {field!r}: {_those_of(view)}", REFUSED)
        print(json_shown(json.dumps(view["state"][field]).encode()), flush=True)
    elif as_json:
        print_json(view)
    else:
        print(json_shown(_pretty(view["state"]).encode()), flush=True)
        for name, entries in view["entries"].items():
            complain(f"{name} is not shown, of its {entries:,} entries the table state knows: perdure sql")
    return 0


def _looked_at(view: dict[str, Any], field: str | None) -> View:
    """Of an object that is watched, also what isn't there yet."""
    shown = view["state"] if field is None else view["state"].get(field)
    return View(view if field is None else shown, text(json_shown(_pretty(shown).encode())))


def set_field(object: str, field: str, value: str, version: str | None, server: Server) -> int:
    """Raises CommandFailed."""
    path = _path(object)
    view = _view(path, server)
    try:
        given = json.loads(body_of(value))
    except ValueError:
        raise CommandFailed(f"the value of {field} is no JSON: nothing was changed", USAGE) from None
    _replace(path, {**view["state"], field: given}, view["version"] if version is None else version, server)
    print_line(f"{object}: {field} is set")
    return 0


def clear(object: str, version: str | None, server: Server, *, yes: bool) -> int:
    """Raises CommandFailed."""
    path = _path(object)
    view = _view(path, server)
    there = bool(view["state"] or view["entries"])
    if there and not yes:
        _confirm(f"Clear {object}, {_those_of(view)}?")
    # Also where nothing is there: it is refused by a version that has passed, or a handler at work.
    _sent(
        server,
        "DELETE",
        f"{path.service}/state/{path.key}?version={_quoted(view['version'] if version is None else version)}",
        None,
    )
    print_line(f"{object} is cleared" if there else f"{object} had no state: there was nothing to clear")
    return 0


def edit(object: str, server: Server) -> int:
    """Raises CommandFailed; what was written is in a file then."""
    path = _path(object)
    view = _view(path, server)
    before = _pretty(view["state"]) + "\n"
    try:
        written = click.edit(before, extension=".json")
    except (click.ClickException, OSError, ValueError) as error:
        # Of an OSError or a ValueError: EDITOR that can't be split into words, a file that the editor removed, or that
        # is no text any more.
        why = error.format_message() if isinstance(error, click.ClickException) else f"the editor failed ({error})"
        raise CommandFailed(f"{why}: name an editor in VISUAL or EDITOR; nothing was changed", USAGE) from error
    if written is None or written == before:
        print_line(f"{object} stays as it was")
        return 0
    try:
        _replace(path, _object_of(written), view["version"], server)
    except CommandFailed as error:
        kept = f"{error}; what you wrote is in {_kept(written)}"
        raise CommandFailed(kept, error.exit_code, error.status) from error
    print_line(f"{object} is changed")
    return 0


def _object_of(written: str) -> dict[str, Any]:
    try:
        state = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise CommandFailed(f"that is no JSON ({error}): nothing was changed", USAGE) from error
    if not isinstance(state, dict):
        raise CommandFailed("that is no object of JSON, with a value for each field: nothing was changed", USAGE)
    return cast("dict[str, Any]", state)


class _Path:
    """Both parts encoded, as the admin API takes them."""

    def __init__(self, service: str, key: str) -> None:
        self.name = key
        self.service = f"/services/{_quoted(service)}"
        self.key = _quoted(key)


def _path(object: str) -> _Path:
    parts = parts_of(object, _FORM)
    if len(parts) != 2:
        raise CommandFailed(f"{object!r} is not {_FORM}", USAGE)
    return _Path(*parts)


def _view(path: _Path, server: Server) -> dict[str, Any]:
    view: dict[str, Any] = server.get(f"{path.service}/state/{path.key}", "state")
    return view


def _replace(path: _Path, state: dict[str, Any], version: str, server: Server) -> None:
    body = {"object_key": path.name, "state": state, "version": version}
    _sent(server, "POST", f"{path.service}/state", json.dumps(body).encode())


def _sent(server: Server, method: str, path: str, body: bytes | None) -> None:
    with server.open(method, path, body, exit_codes=_EXIT_CODES) as response:
        server.read(response)


def _those_of(view: dict[str, Any]) -> str:
    names = [*view["state"], *view["entries"]]
    return f"which has {', '.join(names)}" if names else "which has no state"


def _pretty(state: object) -> str:
    return json.dumps(state, indent=2, ensure_ascii=False)


def _kept(written: str) -> str:
    descriptor, name = tempfile.mkstemp(prefix="perdure-state-", suffix=".json")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(written)
    return name


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise CommandFailed("nothing was cleared: where nobody can be asked, say --yes", USAGE)
    if not click.confirm(question, err=True):
        raise CommandFailed("nothing was cleared", REFUSED)


def _quoted(part: str) -> str:
    return quote(part, safe="", errors="replace")

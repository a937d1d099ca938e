"""`perdure sql`: one question to the admin port of a running process; its answer for a person or for a script."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from .exits import StartRefused

Format = Literal["table", "json", "jsonl", "csv"]

REFUSED: Final = 1
CUT_OFF: Final = 3
UNREACHABLE: Final = 4
UNAUTHORIZED: Final = 5

_ACCEPT: Final[dict[Format, str]] = {
    "table": "application/json",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "csv": "text/csv",
}
_EXIT_CODES: Final = {400: REFUSED, 413: CUT_OFF, 504: CUT_OFF, 401: UNAUTHORIZED, 403: UNAUTHORIZED}
_TIMEOUT_SECONDS: Final = 3600.0
"""How long a query may take is for the server to say."""


class QueryFailed(StartRefused):
    """There is no answer; the exit code says whose matter that is."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def ask(statement: str, admin: str, format: Format, token_file: Path | None) -> int:
    """Prints the answer.  Raises QueryFailed."""
    answer = _answer(statement, admin, format, _token_of(token_file))
    if format == "table":
        _print_table(json.loads(answer)["rows"])
        return 0
    sys.stdout.buffer.write(answer)
    if format == "json":
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    return 0


def _answer(statement: str, admin: str, format: Format, token: str | None) -> bytes:
    url = f"{admin.rstrip('/')}/query"
    if urlsplit(url).scheme not in ("http", "https"):
        raise QueryFailed(f"{admin} is no address of an admin port, such as http://127.0.0.1:9070", 2)
    headers = {"content-type": "application/json", "accept": _ACCEPT[format]}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, json.dumps({"query": statement}).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            answer: bytes = response.read()
            return answer
    except urllib.error.HTTPError as error:
        with error:
            raise QueryFailed(_message_of(error), _EXIT_CODES.get(error.code, UNREACHABLE)) from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise QueryFailed(f"nobody answers at {admin} ({reason}): is `perdure serve` running?", UNREACHABLE) from error


def _message_of(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["message"])
    except (ValueError, KeyError, TypeError):
        return f"{error.url} answered {error.code} {error.reason}"


def _token_of(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text().strip()
    except OSError as error:
        raise QueryFailed(f"cannot read the token file {file}: {error.strerror}", 2) from error


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from .logs import printable

    if rows:
        table = Table()
        for name in rows[0]:
            table.add_column(Text(printable(name)), overflow="fold")
        for row in rows:
            table.add_row(*(Text("" if value is None else printable(_shown(value))) for value in row.values()))
        # Piped, a row stays one line, however long.
        Console(width=None if sys.stdout.isatty() else 10_000).print(table)
    print(f"{len(rows)} row{'' if len(rows) == 1 else 's'}")


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

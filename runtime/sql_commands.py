"""`perdure sql`: one question to the admin port of a running process; its answer for a person or for a script."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final, Literal

from .remote import Server, TimedOut
from .terminal import count, print_table

Format = Literal["table", "json", "jsonl", "csv"]

_ACCEPT: Final[dict[Format, str]] = {
    "json": "application/json",
    "jsonl": "application/jsonl",
    "csv": "text/csv",
}


def ask(statement: str, admin: str, format: Format, token_file: Path | None, timeout_seconds: float) -> int:
    """Prints the answer.  Raises CommandFailed."""
    server = Server(admin, token_file, answer_seconds=timeout_seconds)
    try:
        if format == "table":
            rows = server.rows(statement)
            print_table(rows)
            print(count(len(rows), "row"))
            return 0
        answer = server.query(statement, _ACCEPT[format])
    except TimedOut as error:
        raise TimedOut(f"{error}; --timeout waits longer", error.exit_code) from error
    sys.stdout.buffer.write(_with_lines_of_unix(answer) if format == "csv" else answer)
    if format == "json":
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    return 0


def _with_lines_of_unix(answer: bytes) -> bytes:
    """The lines of text/csv end with CRLF (RFC 4180), those of Unix tools with LF; what is quoted stays as it is.

    The csv module would refuse fields of 128 KiB, and before Python 3.13 not quote a lone CR.
    """
    return re.sub(rb'"[^"]*"|\r\n', lambda found: b"\n" if found[0] == b"\r\n" else found[0], answer)

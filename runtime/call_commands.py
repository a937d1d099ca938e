"""`perdure call` and `perdure send`: a handler is called by its path, with what was typed as its argument."""

from __future__ import annotations

import http.client
import json
import shlex
import sys
import time
from typing import Final
from urllib.parse import quote

from .durations import InvalidDuration, parse_duration_us
from .event_reader import EventReader
from .exits import USAGE
from .invocation_queries import parts_of
from .remote import HANDLER_FAILED, OUTCOME_UNKNOWN, CommandFailed, Server
from .terminal import json_shown, print_json, print_line

_FORMS: Final = "Object/key/handler or Service/handler; a slash in a key is %2F"
_PIECE_BYTES: Final = 64 * 1024


def call(target: str, argument: str | None, idempotency_key: str | None, server: Server) -> int:
    """Prints the answer, however long it takes; of a stream each item.  Raises CommandFailed."""
    path, body, headers = _path("call", target), body_of(argument), _headers(idempotency_key)
    try:
        with server.open("POST", path, body, headers) as response:
            if response.headers.get_content_type() == "text/event-stream":
                _print_items(response, server)
            elif answer := server.read(response):
                print(json_shown(answer), flush=True)
    except CommandFailed as error:
        if error.exit_code != OUTCOME_UNKNOWN:
            raise
        text = f"{error}; {_how_to_go_on(target, idempotency_key)}"
        raise CommandFailed(text, OUTCOME_UNKNOWN, error.status) from error
    return 0


def send(
    target: str, argument: str | None, delay: str | None, idempotency_key: str | None, server: Server, *, as_json: bool
) -> int:
    """Prints the invocation's id, once the message is recorded.  Raises CommandFailed."""
    path, body, headers = _path("send", target), body_of(argument), _headers(idempotency_key)
    if delay is not None:
        _check_delay(delay)
        path += f"?delay={quote(delay, safe='', errors='replace')}"
    with server.open("POST", path, body, headers) as response:
        answer = server.read(response)
    try:
        accepted = json.loads(answer)
        id, before = accepted["invocationId"], accepted["status"] == "PreviouslyAccepted"
    except (ValueError, KeyError, TypeError):
        server.refuse_strange()
    if as_json:
        print_json(accepted)
    else:
        print_line(f"{'accepted before as' if before else 'accepted'} {id}")
    return 0


def _how_to_go_on(target: str, idempotency_key: str | None) -> str:
    """With a call whose answer did not come: what was accepted goes on without whoever called."""
    if idempotency_key is not None:
        return (
            f"if it was accepted it goes on, and the same call with {idempotency_key!r} as its key waits for it again"
        )
    shown = f"`perdure invocations list {shlex.quote(target)} --all` shows it"
    return f"if it was accepted it goes on, and {shown}; a call with --idempotency-key can be asked again"


def body_of(argument: str | None) -> bytes:
    """JSON as it stands, any other text as a string of JSON.  Raises CommandFailed(USAGE)."""
    if argument is None:
        return b""
    if argument == "-":
        return sys.stdin.buffer.read()
    try:
        text = argument.encode()
    except UnicodeEncodeError:
        raise CommandFailed("the argument is not UTF-8", USAGE) from None
    if _is_json(argument):
        return text
    if argument.startswith("-"):
        raise CommandFailed(f"no such option: {argument}; as a text, write it as JSON: '{json.dumps(argument)}'", USAGE)
    return json.dumps(argument).encode()


def _is_json(text: str) -> bool:
    try:
        # Numbers of any size; NaN and Infinity, which Python would take, are none.
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except ValueError:
        return False
    except RecursionError:  # for the server to say
        return True
    return True


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _path(verb: str, target: str) -> str:
    parts = parts_of(target, _FORMS)
    if len(parts) not in (2, 3):
        raise CommandFailed(f"{target!r} is not {_FORMS}", USAGE)
    return f"/restate/{verb}/" + "/".join(quote(part, safe="") for part in parts)


def _check_delay(delay: str) -> None:
    """Here rather than by the server alone: what is typed wrongly has one exit code, whoever finds it."""
    try:
        parse_duration_us(delay)
    except InvalidDuration as error:
        raise CommandFailed(f"--delay: {error}; nothing was sent", USAGE) from None


def _headers(idempotency_key: str | None) -> dict[str, str]:
    if idempotency_key is None:
        return {}
    if not idempotency_key.isprintable() or not idempotency_key.strip():
        raise CommandFailed("the idempotency key is empty, or has control characters in it", USAGE)
    return {"idempotency-key": idempotency_key}


def _print_items(response: http.client.HTTPResponse, server: Server) -> None:
    reader, items, id = EventReader(), 0, response.headers.get("x-restate-id", "")
    last_at = time.monotonic()
    while piece := _piece(response):
        for event in reader.feed(piece):
            if event.kind == "end":
                return
            if event.kind == "error":
                raise _error(event.data)
            print(json_shown(event.data), flush=True)
            items, last_at = items + 1, time.monotonic()
        # In between the server says that it is there, so that the connection's own time limit never comes.
        if server.answer_seconds is not None and time.monotonic() - last_at >= server.answer_seconds:
            break
    raise CommandFailed(f"{server.url} sent nothing more behind item {items}; {id} goes on", OUTCOME_UNKNOWN)


def _piece(response: http.client.HTTPResponse) -> bytes:
    """None of it if the stream was cut off, or nothing came in time."""
    try:
        return response.read1(_PIECE_BYTES)
    except (OSError, http.client.HTTPException):
        return b""


def _error(body: bytes) -> CommandFailed:
    said = json.loads(body)
    return CommandFailed(f"{said.get('type')}: {said['message']} ({said.get('code')})", HANDLER_FAILED)

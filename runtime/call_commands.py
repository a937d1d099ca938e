"""`perdure call` and `perdure send`: a handler is called by its path, with what was typed as its argument."""

from __future__ import annotations

import http.client
import json
import sys
from typing import Final
from urllib.parse import quote

from .event_reader import EventReader
from .exits import USAGE
from .invocation_queries import parts_of
from .remote import HANDLER_FAILED, UNREACHABLE, CommandFailed, Server
from .terminal import json_shown, print_json, print_line

_FORMS: Final = "Object/key/handler or Service/handler; a slash in a key is %2F"
_PIECE_BYTES: Final = 64 * 1024


def call(target: str, argument: str | None, idempotency_key: str | None, server: Server) -> int:
    """Prints the answer, however long it takes; of a stream each item.  Raises CommandFailed."""
    path, body, headers = _path("call", target), body_of(argument), _headers(idempotency_key)
    with server.open("POST", path, body, headers) as response:
        if response.headers.get_content_type() == "text/event-stream":
            _print_items(response, server)
        elif answer := server.read(response):
            print(json_shown(answer), flush=True)
    return 0


def send(
    target: str, argument: str | None, delay: str | None, idempotency_key: str | None, server: Server, *, as_json: bool
) -> int:
    """Prints the invocation's id, once the message is recorded.  Raises CommandFailed."""
    path, body, headers = _path("send", target), body_of(argument), _headers(idempotency_key)
    if delay is not None:
        path += f"?delay={quote(delay, safe='', errors='replace')}"
    with server.open("POST", path, body, headers) as response:
        answer = json.loads(server.read(response))
    if as_json:
        print_json(answer)
    else:
        before = answer["status"] == "PreviouslyAccepted"
        print_line(f"{'accepted before as' if before else 'accepted'} {answer['invocationId']}")
    return 0


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


def _headers(idempotency_key: str | None) -> dict[str, str]:
    if idempotency_key is None:
        return {}
    if not idempotency_key.isprintable() or not idempotency_key.strip():
        raise CommandFailed("the idempotency key is empty, or has control characters in it", USAGE)
    return {"idempotency-key": idempotency_key}


def _print_items(response: http.client.HTTPResponse, server: Server) -> None:
    reader, items, id = EventReader(), 0, response.headers.get("x-restate-id", "")
    try:
        while piece := response.read1(_PIECE_BYTES):
            for event in reader.feed(piece):
                if event.kind == "end":
                    return
                if event.kind == "error":
                    raise _error(event.data)
                print(json_shown(event.data), flush=True)
                items += 1
    except BrokenPipeError:
        raise  # ours: nobody reads what is printed
    except (OSError, http.client.HTTPException):
        pass
    text = f"{server.url} cut the stream off behind item {items}; {id} goes on"
    raise CommandFailed(f"{text}: with an idempotency key the same call gives all of it again", UNREACHABLE)


def _error(body: bytes) -> CommandFailed:
    said = json.loads(body)
    return CommandFailed(f"{said.get('type')}: {said['message']} ({said.get('code')})", HANDLER_FAILED)

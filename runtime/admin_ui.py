"""The admin API's `/ui`: the page for operators, and the one thing it needs that the API has not.

    GET  /ui                                  200 the page; /ui/{file} its styles and scripts
    POST /ui/send/{service}[/{key}]/{handler} 202 {"invocationId", "status"}: as `…/send` at the ingress, `?delay=` too

The page is files in `ui/`, as a browser takes them: no build, nothing from elsewhere, and a policy that lets nothing
else run, whatever a key or a payload holds.  Calls go through here, since another port is another origin to a browser.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib import resources

import msgspec
from aiohttp import web

from .admission import Refused, Request
from .engine import Engine
from .http_paths import Invoke, parse_path
from .http_replies import Reply
from .http_server import origin_form, require_method
from .ingress import delay_us, headers_of

FORMS = "/ui"

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_POLICY = (
    "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'\r\n"
    "x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\ncache-control: no-cache\r\n"
)
_INDEX = "index.html"

FILES = {
    file.name: file.read_bytes()
    for file in resources.files("perdure.runtime").joinpath("ui").iterdir()
    if file.name.rpartition(".")[2] in _TYPES
}
OPEN_PATHS = frozenset(("/ui", "/ui/", *(f"/ui/{name}" for name in FILES)))
"""The page itself is no secret: it asks for the token."""


async def answer(
    engine: Engine, request: web.BaseRequest, parts: Sequence[str], read: Callable[[], Awaitable[bytes]]
) -> Reply:
    """`parts` are those of the path behind `/ui`, still encoded; `read` takes in the body.  Raises Refused."""
    if parts and parts[0] == "send":
        require_method(request, "POST")
        return await _send(engine, request, await read())
    name = "/".join(parts) or _INDEX
    if name not in FILES:
        raise Refused(404, "the page is at /ui")
    require_method(request, "GET")
    return Reply(200, FILES[name], _POLICY, content_type=f"{_TYPES[name.rpartition('.')[2]]}; charset=utf-8")


async def _send(engine: Engine, request: web.BaseRequest, body: bytes) -> Reply:
    if request.content_type != "application/json":  # the one type that a page of another site can't send unasked
        raise Refused(415, "the body is JSON: send content-type: application/json")
    path, _, query = origin_form(request.raw_path).removeprefix("/ui/send").partition("?")
    route = parse_path(f"{path}/send", engine.registry.services)
    if not isinstance(route, Invoke):
        raise Refused(404, "what is called is /ui/send/{service}/{handler}, or /ui/send/{service}/{key}/{handler}")
    headers, idempotency_key = headers_of(request)
    submission = engine.submit(
        Request(
            service=route.service,
            key=route.key,
            handler=route.handler,
            arguments=body,
            send=True,
            delay_us=delay_us(query, send=True) if query else None,
            idempotency_key=idempotency_key,
            headers=headers or None,
        )
    )
    await submission.accepted()
    status = "PreviouslyAccepted" if submission.previously else "Accepted"
    return Reply(202, msgspec.json.encode({"invocationId": submission.id, "status": status}))

"""The admin API: what an operator sees of an invocation, and does to it, in the dialect of Restate's admin API.

    GET   /health                                           200: it serves
    GET   /version                                          {"version"}
    GET   /invocations/{id}                                 what `Operations.describe` says, times as ISO 8601
    GET   /metrics                                          Prometheus' text format: see `metrics`
    PATCH /invocations/{id}/cancel                          200 it has ended, 202 it was asked to
    PATCH /invocations/{id}/kill | resume | purge           200
    PATCH /invocations/{id}/pause                           202, 200 if it was paused already
    PATCH /invocations/{id}/restart-as-new                  200 {"new_invocation_id"}

400 for what is no id, 404 unknown, 409 in no state for it, 425 not begun yet, 422 a workflow is not restarted.

Who reaches this port can stop anything, so it is on loopback unless there is a token, and a web page can't reach it:
a PATCH from another site is one that browsers ask about first, which is never allowed, and without a token only names
of this machine are taken as `Host`, so a name of somebody's own that points here (DNS rebinding) gets nowhere.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from datetime import UTC, datetime
from importlib import metadata
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web

from .admission import Refused
from .engine import Engine
from .http_limits import Connection, ConnectionLimits
from .http_paths import decode
from .http_replies import Reply, error_reply
from .http_server import HttpServer, origin_form, require_method
from .metrics import Metrics
from .operations import InvocationView

CONNECTIONS_MAX = 64
"""Operators and their dashboards; they come out of the descriptors reserved beside the ingress's."""

_BODY_BYTES_MAX = 64 * 1024
_ID = re.compile(r"inv_[0-9a-f]{35}")
_TIMES = ("created_at", "next_retry_at", "scheduled_at", "ended_at")
_ACTIONS = ("cancel", "kill", "pause", "resume", "restart-as-new", "purge")
_FORMS = f"/health, /version, /metrics, /invocations/{{id}} or PATCH /invocations/{{id}}/{'|'.join(_ACTIONS)}"


def is_loopback(host: str) -> bool:
    """Whether an address, or a name as in a Host header, can only mean this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Admin(HttpServer):
    """The HTTP server for operators.  Without a `token`, to be bound to loopback only: see `process`."""

    source = "admin"

    def __init__(self, engine: Engine, token: bytes | None = None) -> None:
        limits = ConnectionLimits(connections_max=CONNECTIONS_MAX, connections_per_address_max=CONNECTIONS_MAX)
        super().__init__(limits, _BODY_BYTES_MAX)
        self._engine = engine
        self._token = token
        self.metrics = Metrics(engine.vitals, {self.source: self})
        self._version = msgspec.json.encode({"version": metadata.version("perdure")})

    async def caught_up(self) -> None:
        await self._engine.caught_up()

    async def answer(self, request: web.BaseRequest, connection: Connection) -> Reply:
        self._require_own_name(request)
        parts = origin_form(request.raw_path).partition("?")[0].split("/")[1:]
        if parts == ["health"]:  # for supervisors, who have no token
            require_method(request, "GET")
            return Reply(200, b'{"status":"ok"}')
        if not self._allowed(request):
            message = "this needs the token of --admin-token-file, as `Authorization: Bearer …`"
            return error_reply(401, message, fields="www-authenticate: Bearer\r\n", source=self.source)
        if parts == ["version"]:
            require_method(request, "GET")
            return Reply(200, self._version)
        if parts == ["metrics"]:
            require_method(request, "GET")
            body, content_type = await self.metrics.text(request.headers.get(hdrs.ACCEPT, ""))
            return Reply(200, body, content_type=content_type)
        if parts[0] == "invocations" and len(parts) == 2:
            require_method(request, "GET")
            return await self._describe(_id(parts[1]))
        if parts[0] == "invocations" and len(parts) == 3 and parts[2] in _ACTIONS:
            require_method(request, "PATCH")
            # What is asked stands in the path; a body is read, so that the connection can go on, and that is all.
            await self.read(request, request.content, connection)
            return await self._act(parts[2], _id(parts[1]))
        raise Refused(404, f"there is {_FORMS}")

    async def _describe(self, id: str) -> Reply:
        view = self._engine.operations.describe(id)
        await self._engine.output(id)  # what is told must be durable
        return Reply(200, msgspec.json.encode(_told(view)))

    async def _act(self, action: str, id: str) -> Reply:
        operations = self._engine.operations
        before = operations.describe(id).status
        if action == "restart-as-new":
            made = self._engine.restart_as_new(id)
            await made.accepted()
            return Reply(200, msgspec.json.encode({"new_invocation_id": made.id}))
        if action in ("cancel", "kill"):
            if before == "completed":
                raise Refused(409, f"{id} has ended: it can't be stopped any more; purge makes it forgotten")
            done = operations.cancel(id) if action == "cancel" else operations.kill(id)
            at_once = action == "kill" or operations.describe(id).status == "completed"
            await done
            return Reply(200 if at_once else 202, b"")
        if action == "pause":
            await operations.pause(id)
            return Reply(200 if before == "paused" else 202, b"")
        await (operations.resume(id) if action == "resume" else operations.purge(id))
        return Reply(200, b"")

    # --- who asks ----------------------------------------------------------------------------------------------------

    def _allowed(self, request: web.BaseRequest) -> bool:
        if self._token is None:
            return True
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        # Bytes, and in constant time: how much of it was right must not be measurable.
        return scheme.lower() == "bearer" and hmac.compare_digest(_bytes(given.strip()), self._token)

    def _require_own_name(self, request: web.BaseRequest) -> None:
        if self._token is not None:
            return
        host = request.headers.get(hdrs.HOST, "")
        if host and not is_loopback(_host_name(host)):
            raise Refused(403, "without a token the admin API is for this machine: ask for it as localhost")


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _id(part: str) -> str:
    id = decode(part)
    if _ID.fullmatch(id) is None:
        raise Refused(400, "this is no invocation's id: one is `inv_` and 35 hexadecimal digits, as in x-restate-id")
    return id


def _told(view: InvocationView) -> dict[str, object]:
    """As JSON for people: what is always there stays, the rest only if it says something."""
    told: dict[str, object] = {
        "id": view.id,
        "target": view.target,
        "status": view.status,
        "last_failure": None,
        "retry_count": view.retry_count,
        "next_retry_at": None,
        "progress": {},
        **msgspec.to_builtins(view, str_keys=True),
    }
    for name, failure in (("last_failure", view.last_failure), ("failure", view.failure)):
        if failure is not None:
            told[name] = {"type": failure.type, "message": failure.message, "code": failure.status}
    times = (view.created_at, view.next_retry_at, view.scheduled_at, view.ended_at)
    for name, at_us in zip(_TIMES, times, strict=True):
        if at_us is not None:
            told[name] = datetime.fromtimestamp(at_us / 1e6, UTC).isoformat().replace("+00:00", "Z")
    return told

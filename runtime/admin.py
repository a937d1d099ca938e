"""The admin API: what an operator sees of an invocation, and does to it, in the dialect of Restate's admin API.

    GET   /health                                           200: it serves
    GET   /version                                          {"version", …}, as Restate's command line asks for it
    GET   /invocations/{id}                                 what `Operations.describe` says, times as ISO 8601
    GET   /metrics                                          Prometheus' text format: see `metrics`
    PATCH /invocations/{id}/cancel                          200 it has ended, 202 it was asked to
    PATCH /invocations/{id}/kill | resume | purge           200
    PATCH /invocations/{id}/pause                           202, 200 if it was paused already
    PATCH /invocations/{id}/restart-as-new                  200 {"new_invocation_id"}
    POST  /query                                            SQL: see `sql/queries.py`
    GET   /invocations?…, PATCH /invocations/{action}?…     many of them: see admin_lists.py
    GET   /limits                                           {"limits": […]}: `LimitView`, times as ISO 8601
    /services …, /openapi                                   see admin_services.py
    /schedules …                                            see admin_schedules.py
    /ui …                                                   the page: see admin_ui.py
    /v2 …, /v3 …                                            for Restate's command line: see admin_restate.py

400 for what is no id, 404 unknown, 409 in no state for it, 425 not begun yet, 422 a workflow is not restarted.

Who reaches this port can stop anything, so it is on loopback unless there is a token; who is let in, `access` decides.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
from aiohttp import hdrs, web

from . import admin_lists, admin_restate, admin_schedules, admin_services, admin_ui
from .access import Access
from .admission import Refused
from .engine import Engine
from .http_limits import Connection, ConnectionLimits
from .http_paths import decode
from .http_replies import Reply
from .http_server import HttpServer, origin_form, require_method
from .limit_views import LimitView
from .metrics import Metrics
from .operations import InvocationView
from .schedules import iso
from .sql import Queries

Read = Callable[[], Awaitable[bytes]]
"""Takes in the request's body."""
Area = Callable[[list[str], web.BaseRequest, Read], Awaitable[Reply]]
"""Answers what begins with one word: the parts of the path behind it, still encoded.  Raises Refused."""

CONNECTIONS_MAX = 64
"""Operators and their dashboards; they come out of the descriptors reserved beside the ingress's."""

_BODY_BYTES_MAX = 4 * 1024 * 1024
"""The state of an object is the largest that comes here."""
_ID = re.compile(r"inv_[0-9a-f]{35}")
_TIMES = ("created_at", "next_retry_at", "scheduled_at", "ended_at")
_ACTIONS = ("cancel", "kill", "pause", "resume", "restart-as-new", "purge")
_FORMS = (
    "/health, /version, /metrics, /query, /limits, "
    f"/invocations/{{id}} or PATCH /invocations/{{id}}/{'|'.join(_ACTIONS)}, "
    f"{admin_lists.FORMS}, {admin_services.FORMS}, {admin_schedules.FORMS}, {admin_ui.FORMS}, "
    f"{admin_restate.FORMS}"
)


class Admin(HttpServer):
    """The HTTP server for operators.  Without tokens, to be bound to loopback only: see `process`."""

    source = "admin"
    open_paths = frozenset(("/health", *admin_ui.OPEN_PATHS))
    """For supervisors, who have no token, and for the page, which asks for it."""

    def __init__(self, engine: Engine, access: Access | None = None) -> None:
        limits = ConnectionLimits(connections_max=CONNECTIONS_MAX, connections_per_address_max=CONNECTIONS_MAX)
        super().__init__(limits, _BODY_BYTES_MAX, access)
        self._engine = engine
        self._queries = Queries(engine)
        self.metrics = Metrics(engine.vitals, {self.source: self})
        restate = admin_restate.RestateAdmin(engine, self._queries, self._act_on)
        self.areas: dict[str, Area] = {
            "version": self._version,
            "metrics": self._metrics,
            "query": self._query,
            "limits": self._limits_in_force,
            "invocations": self._invocations,
            "schedules": self._schedules,
            "services": self._services,
            "openapi": self._openapi,
            "ui": self._ui,
            **{f"v{number}": restate.answer for number in admin_restate.VERSIONS},
        }

    async def caught_up(self) -> None:
        await self._engine.caught_up()

    async def close(self, grace_seconds: float) -> None:
        await super().close(grace_seconds)
        await self._queries.close()

    async def answer(self, request: web.BaseRequest, connection: Connection) -> Reply:
        parts = origin_form(request.raw_path).partition("?")[0].split("/")[1:]
        if parts == ["health"]:
            require_method(request, "GET")
            return Reply(200, b'{"status":"ok"}')
        area = self.areas.get(parts[0])
        if area is None:
            raise Refused(404, f"there is {_FORMS}")
        return await area(parts[1:], request, partial(self.read, request, request.content, connection))

    async def _version(self, rest: list[str], request: web.BaseRequest, read: Read) -> Reply:
        if rest:
            raise Refused(404, f"there is {_FORMS}")
        require_method(request, "GET")
        return Reply(200, msgspec.json.encode(admin_restate.version()))

    async def _metrics(self, rest: list[str], request: web.BaseRequest, read: Read) -> Reply:
        if rest:
            raise Refused(404, f"there is {_FORMS}")
        require_method(request, "GET")
        body, content_type = await self.metrics.text(request.headers.get(hdrs.ACCEPT, ""))
        return Reply(200, body, content_type=content_type)

    async def _query(self, rest: list[str], request: web.BaseRequest, read: Read) -> Reply:
        if rest:
            raise Refused(404, f"there is {_FORMS}")
        require_method(request, "POST")
        self._queries.refuse_other_types(request)
        return await self._queries.answer(request, await read())

    async def _limits_in_force(self, rest: list[str], request: web.BaseRequest, read: Read) -> Reply:
        if rest:
            raise Refused(404, f"there is {_FORMS}")
        require_method(request, "GET")
        limiter = self._engine.limiter
        told = [] if limiter is None else [_told_limit(view) for view in limiter.views()]
        return Reply(200, msgspec.json.encode({"limits": told}))

    async def _invocations(self, rest: list[str], request: web.BaseRequest, read: Read) -> Reply:
        if not rest:
            require_method(request, "GET")
            return Reply(200, msgspec.json.encode(await admin_lists.invocations(self._queries, _query_of(request))))
        if len(rest) == 1 and rest[0] in _ACTIONS:
            require_method(request, "PATCH")
            await read()
            act = partial(self._act, rest[0])
            return Reply(
                200, msgspec.json.encode(await admin_lists.act_on_many(self._queries, _query_of(request), act))
            )
        if len(rest) == 1:
            require_method(request, "GET")
            return await self._describe(_id(rest[0]))
        if len(rest) == 2 and rest[1] in _ACTIONS:
            require_method(request, "PATCH")
            await read()  # what is asked stands in the path; a body is read, so that the connection can go on
            return await self._act(rest[1], _id(rest[0]))
        raise Refused(404, f"there is {_FORMS}")

    async def _act_on(self, action: str, id: str) -> Reply:
        if action not in _ACTIONS:
            raise Refused(404, f"there is {_FORMS}")
        return await self._act(action, _id(id))

    async def _services(self, rest: list[str], request: web.BaseRequest, read: Read) -> Reply:
        if len(rest) == 2 and rest[1] == "keys" and (service := decode(rest[0])) in self._engine.registry.services:
            require_method(request, "GET")
            return Reply(200, msgspec.json.encode(await admin_lists.keys(self._queries, service, _query_of(request))))
        return await admin_services.answer(self._engine, request, rest, read)

    async def _openapi(self, rest: list[str], request: web.BaseRequest, read: Read) -> Reply:
        if rest not in ([], ["admin"]):
            raise Refused(404, f"there is {_FORMS}")
        require_method(request, "GET")
        return admin_services.openapi(self._engine, admin=bool(rest))

    async def _schedules(self, rest: list[str], request: web.BaseRequest, read: Read) -> Reply:
        return await admin_schedules.answer(self._engine, request, rest, read)

    async def _ui(self, rest: list[str], request: web.BaseRequest, read: Read) -> Reply:
        return await admin_ui.answer(self._engine, request, rest, read)

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


def _query_of(request: web.BaseRequest) -> str:
    return origin_form(request.raw_path).partition("?")[2]


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
            told[name] = iso(at_us)
    return told


def _told_limit(view: LimitView) -> dict[str, object]:
    told: dict[str, object] = msgspec.to_builtins(view)
    return told | {"next_free_at": None if view.next_free_at is None else iso(view.next_free_at)}

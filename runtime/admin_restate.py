"""The admin API as Restate's command line asks for it: under `/v2` and `/v3`, which `/version` sends it to.

    GET   /v3/services, /v3/services/{service}              with the deployment that each is of
    POST  /v3/services/{service}/state                      as without `/v3`
    GET   /v3/deployments, /v3/deployments/{id}             one: this process
    PATCH /v3/invocations/{id}/{action}                     as without `/v3`; ids in Restate's form, or ours
    POST  /v3/query                                         SQL over Restate's tables (sql/restate.py)

What differs from our own API lives here and nowhere else: the form of ids, what a service says of itself, Arrow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata

import msgspec
from aiohttp import web

from perdure.objects.definitions import HandlerDefinition, Kind, ServiceDefinition

from . import admin_services
from .admission import Refused
from .engine import Engine
from .http_paths import decode
from .http_replies import Reply
from .http_server import require_method
from .restate_ids import ours, theirs
from .sql import Queries
from .sql.restate import DEPLOYMENT_ID

VERSIONS = (2, 3)
"""Of Restate's admin API; 4 adds scopes, which there are none of here."""

FORMS = f"/v{VERSIONS[-1]}/… for Restate's command line"

_FORMS = "/services, /services/{service}, /services/{service}/state, /deployments, /invocations/{id}/{action}, /query"
_PROTOCOL_VERSION = 5
"""Of what an SDK and Restate's server speak.  Nobody does here; its command line wants a number that it knows."""

Act = Callable[[str, str], Awaitable[Reply]]
"""An action, and the id of an invocation.  Raises Refused."""
Read = Callable[[], Awaitable[bytes]]


def version() -> dict[str, object]:
    """What `GET /version` says, so that the command line knows how to ask."""
    return {
        "version": metadata.version("perdure"),
        "min_admin_api_version": VERSIONS[0],
        "max_admin_api_version": VERSIONS[-1],
        "ingress_endpoint": None,
        "features": {},
    }


class RestateAdmin:
    """Answers what begins with a version.  Raises Refused."""

    def __init__(self, engine: Engine, queries: Queries, act: Act) -> None:
        self._engine = engine
        self._queries = queries
        self._act = act
        self._since = datetime.now(UTC)

    async def answer(self, parts: list[str], request: web.BaseRequest, read: Read) -> Reply:
        """`parts` are those of the path behind the version, still encoded; `read` takes in the body."""
        match [decode(part) for part in parts]:
            case ["query"]:
                require_method(request, "POST")
                self._queries.refuse_other_types(request)
                return await self._queries.answer_restate(request, await read())
            case ["invocations", id, action]:
                require_method(request, "PATCH")
                await read()
                return await self._do(action, ours(id))
            case ["services", *rest]:
                return await self._services(parts[1:], rest, request, read)
            case ["deployments", *rest]:
                require_method(request, "GET")
                return self._deployments(rest)
            case _:
                raise Refused(404, f"of Restate's admin API there is {_FORMS}")

    async def _do(self, action: str, id: str) -> Reply:
        if action != "restart-as-new":
            return await self._act(action, id)
        made = self._engine.restart_as_new(id)
        await made.accepted()
        return _json({"new_invocation_id": theirs(made.id)})

    async def _services(self, encoded: Sequence[str], parts: list[str], request: web.BaseRequest, read: Read) -> Reply:
        services = self._engine.registry.services
        match parts:
            case []:
                require_method(request, "GET")
                return _json({"services": [self._about(service) for _, service in sorted(services.items())]})
            case [name] if name in services:
                if request.method == "PATCH":
                    raise Refused(405, f"{name} is configured where it is written, in its class")
                require_method(request, "GET")
                return _json(self._about(services[name]))
            case _:
                return await admin_services.answer(self._engine, request, encoded, read)

    def _deployments(self, rest: list[str]) -> Reply:
        match rest:
            case []:
                return _json({"deployments": [self._deployment(_revision)]})
            case [id] if id == DEPLOYMENT_ID:
                return _json(self._deployment(self._about))
            case _:
                raise Refused(404, f"there is one deployment, {DEPLOYMENT_ID}: classes are served by their own process")

    def _deployment(self, describe: Callable[[ServiceDefinition], object]) -> dict[str, object]:
        services = self._engine.registry.services
        return {
            "id": DEPLOYMENT_ID,
            "uri": "in-process",
            "protocol_type": "BidiStream",
            "http_version": "HTTP/2.0",
            "created_at": self._since.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "min_protocol_version": _PROTOCOL_VERSION,
            "max_protocol_version": _PROTOCOL_VERSION,
            "sdk_version": f"perdure/{metadata.version('perdure')}",
            "services": [describe(service) for _, service in sorted(services.items())],
        }

    def _about(self, service: ServiceDefinition) -> dict[str, object]:
        settings, own = self._engine.settings, service.lifetimes.retention_seconds
        told: dict[str, object] = {
            **admin_services.about(service),
            "deployment_id": DEPLOYMENT_ID,
            "idempotency_retention": _duration(own or settings.idempotency_retention_seconds),
            "handlers": [_about_handler(service, handler) for handler in service.handlers.values()],
        }
        if service.kind is Kind.WORKFLOW:
            told["workflow_completion_retention"] = _duration(own or settings.workflow_retention_seconds)
        return told


def _revision(service: ServiceDefinition) -> dict[str, object]:
    return {"name": service.name, "revision": service.version}


def _about_handler(service: ServiceDefinition, handler: HandlerDefinition) -> dict[str, object]:
    told = admin_services.about_handler(handler)
    if handler.exclusive and service.kind is Kind.WORKFLOW:
        told["ty"] = "Workflow"
    return told


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1e3)}ms"


def _json(value: object) -> Reply:
    return Reply(200, msgspec.json.encode(value))

"""OpenAPI 3.1 of the admin API itself, `GET /openapi/admin`: what its port takes, and each status that it answers.

It names the classes that are served, so it is made for a process.  What the document can't say: an action on many
needs at least one filter, a query must be a SELECT, the fields of a state are those of its class (400 in each case).
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from typing import Any, Final

from perdure.objects.definitions import ServiceDefinition

from .admin_lists import LIMIT, LIMIT_MAX
from .query_terms import STATUSES
from .schemas import DIALECT, KEY, Schema

_ACTIONS: Final[dict[str, tuple[str, tuple[str, ...], Schema | None]]] = {
    "cancel": ("asks it to end: CancelledError at its await, and in what it calls", ("200", "202", "409"), None),
    "kill": ("ends it and its calls at once", ("200", "409"), None),
    "pause": ("keeps it where it is until it is resumed", ("200", "202", "409"), None),
    "resume": ("tries it again at once", ("200", "409", "425"), None),
    "purge": ("forgets what came of it", ("200", "409"), None),
    "restart-as-new": (
        "makes it again, as a new one with the same input",
        ("200", "409", "422", "425", "429"),
        {"type": "object", "required": ["new_invocation_id"], "properties": {"new_invocation_id": {"type": "string"}}},
    ),
}
_REFUSALS: Final = {
    "400": "it is not as it must be; nothing was done",
    "401": "the token is missing or wrong",
    "403": "this host, or this page, may not ask without a token",
    "404": "unknown",
    "406": "answers are JSON, JSON lines or CSV",
    "409": "in no state for it; nothing was done",
    "413": "too large",
    "415": "the body is JSON: send content-type: application/json",
    "422": "a workflow is not restarted",
    "425": "it has not begun yet",
    "429": "too many at a time; ask again",
    "503": "the process stops, or the outcome is unknown",
    "504": "the query took too long, and was ended",
    "507": "the disk is full; nothing was done",
}
_ALWAYS: Final = ("400", "401", "403", "503")
_OF_A_QUERY: Final = ("413", "429", "504")
_DONE: Final = {"200": "it is so now", "202": "it was asked for"}

_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_MAYBE: Final[Schema] = {"type": ["string", "null"]}
_ID: Final[Schema] = {"type": "string", "pattern": "^inv_[0-9a-f]{35}$"}
_ERROR: Final[Schema] = {
    "type": "object",
    "required": ["code", "message", "source"],
    "properties": {"code": {"type": "integer"}, "message": _TEXT, "source": {"const": "admin"}},
}


def openapi_of_admin(services: Iterable[ServiceDefinition]) -> Schema:
    """Of a process that serves these."""
    classes = sorted(services, key=lambda service: service.name)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": DIALECT,
        "info": {"title": "Perdure, the admin API", "version": metadata.version("perdure")},
        "security": [{"token": []}, {}],
        "paths": _paths(classes),
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _paths(classes: list[ServiceDefinition]) -> Schema:
    invocation = _parameter("id", _ID)
    paths: Schema = {
        "/health": {"get": _operation("health", "whether it serves", {"200": _json(_object(status=_TEXT))}, ())},
        "/version": {"get": _operation("version", "which release it is", {"200": _json(_object(version=_TEXT))})},
        "/metrics": {"get": _operation("metrics", "figures for Prometheus", {"200": _METRICS})},
        "/openapi": {"get": _operation("openapi", "how the classes are called", {"200": _json(_DOCUMENT)})},
        "/openapi/admin": {"get": _operation("openapi.admin", "this document", {"200": _json(_DOCUMENT)})},
        "/limits": {"get": _operation("limits", "the limits in force", {"200": _json(_object(limits=_list(_ANY)))})},
        "/query": {
            "post": _operation(
                "query",
                "SQL: one SELECT over what there is",
                {"200": _ROWS},
                (*_OF_A_QUERY, "406", "415"),
                body=_object(query=_TEXT),
            )
        },
        "/invocations": {
            "get": _operation(
                "invocations.list",
                "those that a filter means, the newest first",
                {"200": _json(_object(invocations=_list(_LISTED), next=_MAYBE))},
                _OF_A_QUERY,
                [*_FILTERS, _LIMIT, _CURSOR],
            )
        },
        "/invocations/{id}": {
            "get": _operation("invocations.get", "one of them", {"200": _json(_INVOCATION)}, ("404",), [invocation])
        },
    }
    for verb, (does, statuses, answer) in _ACTIONS.items():
        good: Schema = {
            status: _json(answer) if answer else {"description": _DONE[status]} for status in statuses if status < "300"
        }
        bad = ("404", "413", "507", *(status for status in statuses if status > "300"))
        paths[f"/invocations/{verb}"] = {
            "patch": _operation(
                f"invocations.{verb}.many",
                f"{does}: each that the filter means, of which there must be one",
                {"200": _json(_MANY)},
                _OF_A_QUERY,
                [*_FILTERS, _LIMIT, _DRY_RUN],
            )
        }
        paths[f"/invocations/{{id}}/{verb}"] = {
            "patch": _operation(f"invocations.{verb}", does, good, bad, [invocation])
        }
    return paths | _paths_of_services(classes) | _paths_of_schedules()


def _paths_of_services(classes: list[ServiceDefinition]) -> Schema:
    named = [service.name for service in classes]
    keyed = [service.name for service in classes if service.keyed]
    service = _parameter("service", {**_TEXT, "enum": named} if named else _TEXT)
    with_state = _parameter("service", {**_TEXT, "enum": keyed} if keyed else _TEXT)
    handlers = sorted({name for one in classes for name in one.handlers})
    handler = _parameter("handler", {**_TEXT, "enum": handlers} if handlers else _TEXT)
    about, of_it, unknown = _object(name=_TEXT, ty=_TEXT, handlers=_list(_HANDLER)), "/services/{service}", ("404",)
    changed: Schema = {"202": {"description": "it is so now"}}
    refused = ("404", "409", "413", "507")
    version = _query("version", _TEXT, "only if the state still has this one")
    return {
        "/services": {
            "get": _operation("services.list", "what is served", {"200": _json(_object(services=_list(about)))})
        },
        of_it: {"get": _operation("services.get", "one class", {"200": _json(about)}, unknown, [service])},
        f"{of_it}/handlers": {
            "get": _operation(
                "handlers.list",
                "its handlers, with what they take and give",
                {"200": _json(_object(handlers=_list(_HANDLER)))},
                unknown,
                [service],
            )
        },
        f"{of_it}/handlers/{{handler}}": {
            "get": _operation("handlers.get", "one", {"200": _json(_HANDLER)}, unknown, [service, handler])
        },
        f"{of_it}/openapi": {
            "get": _operation("services.openapi", "how it is called", {"200": _json(_DOCUMENT)}, unknown, [service])
        },
        f"{of_it}/keys": {
            "get": _operation(
                "keys.list",
                "the keys that have state, by name",
                {"200": _json(_object(keys=_list(_TEXT), next=_MAYBE))},
                (*unknown, *_OF_A_QUERY),
                [service, _LIMIT, _query("after", _TEXT, "those behind this key")],
            )
        },
        f"{of_it}/state": {
            "post": _operation(
                "state.replace",
                "all of an object's state anew: `state` has values, `new_state` the bytes of their JSON",
                changed,
                (*refused, "415"),
                [with_state],
                body=_EDIT,
            )
        },
        f"{of_it}/state/{{key}}": {
            "get": _operation("state.get", "what it holds", {"200": _json(_STATE)}, unknown, [with_state, KEY]),
            "delete": _operation("state.clear", "as if never used", changed, refused, [with_state, KEY, version]),
        },
    }


def _paths_of_schedules() -> Schema:
    form = {**_TEXT, "pattern": "^[A-Za-z_][A-Za-z0-9_]*/[A-Za-z_][A-Za-z0-9_]*(?:/[A-Za-z0-9_ .-]+)?$"}
    id = _parameter("id", form, "Service/handler or Service/handler/name, its slashes as %2F; a name may be any text")
    paths: Schema = {
        "/schedules": {
            "get": _operation("schedules.list", "all of them", {"200": _json(_object(schedules=_list(_SCHEDULE)))})
        },
        "/schedules/{id}": {"get": _operation("schedules.get", "one", {"200": _json(_SCHEDULE)}, ("404",), [id])},
    }
    for verb, does in {"pause": "no tick of it fires", "resume": "it fires again, from now on"}.items():
        paths[f"/schedules/{{id}}/{verb}"] = {
            "patch": _operation(
                f"schedules.{verb}", does, {"200": {"description": _DONE["200"]}}, ("404", "413", "507"), [id]
            )
        }
    paths["/schedules/{id}/trigger"] = {
        "patch": _operation(
            "schedules.trigger",
            "its handler is called now",
            {"200": _json(_object(invocation_id=_ID))},
            ("404", "409", "413", "429", "507"),
            [id],
        )
    }
    return paths


# --- how it is written ------------------------------------------------------------------------------------------------


def _operation(
    id: str,
    summary: str,
    good: Schema,
    bad: Iterable[str] = (),
    parameters: Iterable[Schema] = (),
    body: Schema | None = None,
) -> Schema:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    refused = {status: {"description": _REFUSALS[status], "content": error} for status in sorted({*_ALWAYS, *bad})}
    made: Schema = {"operationId": id, "summary": summary, "tags": [id.partition(".")[0]], "responses": good | refused}
    if given := [*parameters]:
        made["parameters"] = given
    if body is not None:
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return made


def _json(schema: Schema) -> Schema:
    return {"description": "it is so", "content": {"application/json": {"schema": schema}}}


def _object(**properties: Schema) -> Schema:
    """Each of them is there, and there may be more."""
    return {"type": "object", "required": [*properties], "properties": properties}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _parameter(name: str, schema: Schema, description: str | None = None) -> Schema:
    said: Schema = {"name": name, "in": "path", "required": True, "schema": schema}
    return said if description is None else {**said, "description": description}


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


_ANY: Final[Schema] = {"type": "object"}
_DOCUMENT: Final = _object(openapi=_TEXT, paths=_ANY)
_METRICS: Final[Schema] = {
    "description": "Prometheus' text format, or OpenMetrics if `accept` prefers it",
    "content": {"text/plain": {"schema": _TEXT}, "application/openmetrics-text": {"schema": _TEXT}},
}
_ROWS: Final[Schema] = {
    "description": "the rows, as `accept` asks for them",
    "content": {
        "application/json": {"schema": _object(rows=_list(_ANY))},
        "application/x-ndjson": {"schema": _TEXT},
        "text/csv": {"schema": _TEXT},
    },
}
_TIME: Final[Schema] = {"type": "string", "format": "date-time"}
_STATUS: Final[Schema] = {"enum": [*STATUSES]}
_FILTERS: Final = [
    *(_query(name, {**_TEXT, "minLength": 1}, f"of the {name}") for name in ("service", "handler")),
    _query("key", _TEXT, "of the key"),
    _query(
        "status",
        {"type": "string", "pattern": f"^(?:{'|'.join(STATUSES)})(?:,(?:{'|'.join(STATUSES)}))*$"},
        "one, or several with a comma between them",
    ),
    _query("result", {"enum": ["success", "failure"]}, "of what has ended"),
    _query("created_after", _TIME, "ISO 8601"),
    _query("created_before", _TIME, "ISO 8601"),
]
_LIMIT: Final = _query(
    "limit", {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT}, "so many at most"
)
_CURSOR: Final = _query(
    "cursor", {"type": "string", "pattern": "^[0-9T:.Z+-]{1,40}~inv_[0-9a-f]{35}$"}, "`next` of the page before"
)
_DRY_RUN: Final = _query("dry_run", {"enum": ["true", "false"]}, "only tells which are meant")
_LISTED: Final = _object(id=_ID, target=_TEXT, status=_STATUS, created_at=_TEXT)
_INVOCATION: Final = _object(
    id=_ID, target=_TEXT, status=_STATUS, created_at=_TIME, retry_count=_COUNT, next_retry_at=_MAYBE, progress=_ANY
)
_MANY: Final = _object(
    matched=_list(_object(id=_ID, target=_TEXT, status=_STATUS)),
    done=_list(_ID),
    refused=_list(_object(id=_ID, code={"type": "integer"}, message=_TEXT)),
    more={"type": "boolean"},
)
_HANDLER: Final = _object(name=_TEXT, ty={"enum": ["Exclusive", "Shared"]}, public={"type": "boolean"})
_STATE: Final = _object(
    service=_TEXT,
    key=_TEXT,
    version=_TEXT,
    state=_ANY,
    entries={"type": "object", "additionalProperties": _COUNT},
    holder=_MAYBE,
    waiting=_COUNT,
)
_SCHEDULE: Final = _object(
    id=_TEXT, timing=_TEXT, paused={"type": "boolean"}, running={"type": "boolean"}, next_at=_MAYBE
)


def _edit(name: str, values: Schema) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["object_key", name],
        "properties": {
            "object_key": KEY["schema"],
            name: {"type": "object", "additionalProperties": values},
            "version": {"type": ["string", "null"], "description": "only if the state still has this one"},
        },
    }


_BYTES: Final[Schema] = _list({"type": "integer", "minimum": 0, "maximum": 255})
_EDIT: Final[dict[str, Any]] = {"oneOf": [_edit("state", {}), _edit("new_state", _BYTES)]}

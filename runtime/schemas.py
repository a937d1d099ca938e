"""What a class takes and gives, for people and tools: JSON Schema 2020-12 of its handlers, OpenAPI 3.1 of the ingress.

msgspec knows the schema of every type it can encode, but for those with hooks of their own: of such a type nothing is
said, which in a schema means that anything is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any, cast

import msgspec

from perdure.objects.definitions import HandlerDefinition, Kind, ServiceDefinition
from perdure.objects.values import INT_END, INT_MIN

from .event_streams import MIME_TYPE

Schema = dict[str, Any]  # Any: JSON

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ERRORS = {
    "400": "the request is not as it must be; nothing was recorded",
    "404": "unknown",
    "409": "the idempotency key was used with other arguments, or the invocation was cancelled or killed",
    "429": "too much is queued; ask again later",
    "503": "the outcome is unknown, or the process stops; ask again with the same idempotency key",
}
_ERROR = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {
        "code": {"type": "integer"},
        "message": {"type": "string"},
        "source": {"enum": ["ingress", "invocation"]},
        "type": {"type": "string", "description": "the class of the error that the handler raised"},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def schema_of(type_: Any) -> Schema:
    """Whole, with what it refers to in `$defs`; empty for a type of which nothing can be said."""
    try:
        return {"$schema": DIALECT, **msgspec.json.schema(type_)}
    except TypeError:
        return {}


def openapi_of(services: Iterable[ServiceDefinition]) -> Schema:
    """How the handlers of these classes that are public are called over HTTP."""
    paths: Schema = {}
    components: Schema = {"Error": _ERROR}
    shown = list(services)
    for service in shown:
        for handler in service.handlers.values():
            if handler.public:
                paths |= _paths_of(service, handler, components)
    names = ", ".join(service.name for service in shown)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": DIALECT,
        "info": {"title": names or "no services", "version": metadata.version("perdure")},
        "paths": paths,
        "components": {"schemas": components},
    }


def _paths_of(service: ServiceDefinition, handler: HandlerDefinition, components: Schema) -> Schema:
    path = f"/{service.name}/{{key}}/{handler.name}" if service.keyed else f"/{service.name}/{handler.name}"
    parameters = [KEY] if service.keyed else []
    if not (service.kind is Kind.WORKFLOW and handler.exclusive):
        parameters.append(_IDEMPOTENCY_KEY)
    body = _body_of(handler, components)
    about: Schema = {"tags": [service.name], "parameters": parameters} | ({"requestBody": body} if body else {})
    words = handler.fn.__doc__
    if words:
        about["summary"] = words.strip().partition("\n")[0]
    name = f"{service.name}.{handler.name}"
    sent = {
        "description": "accepted",
        "content": {"application/json": {"schema": _SENT}},
    }
    answers = {"200": _answer_of(handler, components), **_refusals()}
    called: Schema = {"post": {**about, "operationId": name, "responses": answers}}
    if handler.takes_nothing:
        called["get"] = {**about, "operationId": f"{name}.get", "responses": answers}
        called["get"].pop("requestBody", None)
    return {
        path: called,
        f"{path}/send": {
            "post": {
                **about,
                "operationId": f"{name}.send",
                "parameters": [*parameters, _DELAY],
                "responses": {"202": sent, **_refusals()},
            }
        },
    }


def _body_of(handler: HandlerDefinition, components: Schema) -> Schema | None:
    if handler.input_type is None:
        return None
    return {
        "required": not handler.input_optional,
        "content": {"application/json": {"schema": _component_of(handler.input_type, handler, components)}},
    }


def _answer_of(handler: HandlerDefinition, components: Schema) -> Schema:
    schema = _component_of(handler.output_type, handler, components)
    if handler.stream:
        said = "each item is the data of a server-sent event; `Last-Event-ID` goes on behind one"
        return {"description": said, "content": {MIME_TYPE: {"schema": {"type": "string"}, "x-item-schema": schema}}}
    return {"description": "what it returns", "content": {"application/json": {"schema": schema}}}


def _component_of(type_: Any, handler: HandlerDefinition, components: Schema) -> Schema:
    """Types of one name from several modules would replace one another: each handler's are named after it."""
    prefix = handler.where.replace(".", "_")
    try:
        (schema,), named = msgspec.json.schema_components(
            [type_], ref_template=f"#/components/schemas/{prefix}_{{name}}"
        )
    except TypeError:
        return {}
    components |= {f"{prefix}_{name}": _bounded(each) for name, each in named.items()}
    bounded: Schema = _bounded(schema)
    return bounded


def _bounded(schema: Any) -> Any:
    """Whole numbers within 64 bits, as they are taken."""
    if isinstance(schema, list):
        return [_bounded(each) for each in cast("Iterable[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    inner = {name: _bounded(each) for name, each in cast("Schema", schema).items()}
    if inner.get("type") == "integer":
        low, high = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
        bounds = {names[0]: at for names, at in ((low, INT_MIN), (high, INT_END - 1)) if not inner.keys() & {*names}}
        return {**inner, **bounds}
    return inner


def _refusals() -> Mapping[str, Schema]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    said = {status: {"description": text, "content": content} for status, text in _ERRORS.items()}
    return {**said, "default": {"description": "the handler raised a TerminalError", "content": content}}


_NO_CONTROL = r"^[^\x00-\x1f\x7f-\x9f]+$"
KEY = {
    "name": "key",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 512, "pattern": _NO_CONTROL},
    "description": "of the object: any text without control characters, at most 512 bytes in UTF-8",
}
_IDEMPOTENCY_KEY = {
    "name": "idempotency-key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 512, "pattern": _NO_CONTROL},
    "description": "the same key again gets the same invocation",
}
_DELAY = {
    "name": "delay",
    "in": "query",
    "required": False,
    "schema": {
        "type": "string",
        "pattern": "^(?:[0-9]{1,4} ?(?:ms|s|m|h|d)|PT[0-9]{1,4}[HMS]|P[0-9]{1,4}D)$",
        "examples": ["10s", "PT30M"],
    },
    "description": "when it is delivered; several units may follow one another: 1h 30m, P1DT2H",
}
_SENT = {
    "type": "object",
    "required": ["invocationId", "status"],
    "properties": {
        "invocationId": {"type": "string"},
        "status": {"enum": ["Accepted", "PreviouslyAccepted"]},
    },
}

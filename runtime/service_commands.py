"""`perdure services`: which classes a process serves, and what their handlers take and give."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote

from .remote import Server
from .terminal import count, print_json, print_line, print_table

_CLASSES: Final = {"name": "class", "ty": "kind", "revision": "version", "handlers": "handlers"}
_HANDLERS: Final = {"name": "handler", "ty": "kind", "takes": "takes", "gives": "gives"}


def show_all(server: Server, *, as_json: bool) -> int:
    """Prints them by name.  Raises CommandFailed."""
    services = server.get("/services", "services")["services"]
    if as_json:
        print_json(services)
        return 0
    lines = [{**each, "handlers": ", ".join(handler["name"] for handler in each["handlers"])} for each in services]
    print_table(lines, _CLASSES)
    print_line(count(len(lines), "class").replace("classs", "classes"))
    return 0


def show(name: str, server: Server, *, as_json: bool) -> int:
    """Raises CommandFailed."""
    service: dict[str, Any] = server.get(f"/services/{quote(name, safe='', errors='replace')}", "handlers")
    if as_json:
        print_json(service)
        return 0
    print_line(f"{service['name']}, {service['ty']}, version {service['revision']}")
    if service["documentation"]:
        print_line(service["documentation"].strip().partition("\n")[0])
    if service["retention_seconds"] is not None:
        print_line(f"results are kept for {service['retention_seconds']:g} s")
    print_table([_line(handler) for handler in service["handlers"]], _HANDLERS)
    if service["state"]:
        fields = [{"name": name, "type": in_words(schema)} for name, schema in service["state"].items()]
        print_table(fields, {"name": "state", "type": "type"})
    return 0


def _line(handler: dict[str, Any]) -> dict[str, str]:
    notes = [
        handler["ty"].lower(),
        *(["stream"] if handler["stream"] else []),
        *([] if handler["public"] else ["private"]),
    ]
    return {
        "name": handler["name"],
        "ty": ", ".join(notes),
        "takes": _taken(handler),
        "gives": in_words(handler["output_json_schema"]),
    }


def _taken(handler: dict[str, Any]) -> str:
    """Of several arguments each by its name; a lone one has none on the wire."""
    schema = handler["input_json_schema"]
    if schema is None:
        return ""
    words = in_words(schema)
    return words if handler["input_required"] or words.startswith("{") else f"{words}, optional"


def in_words(schema: dict[str, Any], root: dict[str, Any] | None = None) -> str:
    """A JSON Schema in a few words; what they can't say, as it is.

    The fields of what it is are named, those of what is in it are not: that may be itself again.
    """
    inner, root = root is not None, schema if root is None else root
    kind = schema.get("type")
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        found = root.get("$defs", {}).get(name, {})
        words = name if inner and "properties" in found else in_words(found, root)
    elif "anyOf" in schema:
        words = " | ".join(in_words(part, root) for part in schema["anyOf"])
    elif "enum" in schema:
        words = " | ".join(map(json.dumps, schema["enum"]))
    elif kind == "object" and "properties" in schema:
        fields: dict[str, dict[str, Any]] = schema["properties"]
        marks = {name: "" if name in schema.get("required", []) else "?" for name in fields}
        words = f"{{{', '.join(f'{name}{marks[name]}: {in_words(part, root)}' for name, part in fields.items())}}}"
    elif kind == "array" and "items" in schema:
        words = f"[{in_words(schema['items'], root)}]"
    elif isinstance(kind, str):
        words = f"{kind} ({schema['format']})" if "format" in schema else kind
    else:
        words = json.dumps(schema) if schema else "anything"
    return words

"""What the document of the admin API can't say, for the program that sends what it describes.

CONTRACT_IDS has the invocations that there are: an id that is made up is found by nobody.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from typing import Any, cast

import schemathesis

IDS = itertools.cycle(json.loads(os.environ["CONTRACT_IDS"]))
UNKNOWN = 4
"""Of so many ids one stays made up."""

asked = itertools.count()


@schemathesis.hook  # pyright: ignore[reportUnknownMemberType]  # its signature has an unknown part
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    path: str = case.operation.path
    body: Any = case.body
    parameters = cast("dict[str, Any]", case.path_parameters or {})
    made_up = str(parameters.get("id", ""))
    if re.fullmatch("inv_[0-9a-f]{35}", made_up) and next(asked) % UNKNOWN:
        case.path_parameters["id"] = next(IDS)
    if path.startswith("/schedules/") and made_up and next(asked) % UNKNOWN:
        case.path_parameters["id"] = "Clock/tick"
    if path.startswith("/invocations/") and "{" not in path and "key" not in (case.query or {}):
        case.query = {
            **(case.query or {}),
            "key": "nobody's",
        }  # many need a filter; this one leaves the IDS as they are
    if isinstance(body, dict) and case.method == "POST":
        case.body = fit(path, cast("dict[str, Any]", body))


def fit(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A query is a SELECT, a state has the fields of its class."""
    if path == "/query" and isinstance(body.get("query"), str):
        return {**body, "query": "SELECT name FROM sys_service"}
    if path.endswith("/state"):
        return body | {name: {} for name in ("state", "new_state") if good(name, body.get(name))}
    return body


def good(name: str, state: Any) -> bool:
    """As the document has it, but for the names of the fields."""
    if not isinstance(state, dict):
        return False
    values = cast("dict[str, Any]", state).values()
    return name == "state" or all(isinstance(value, list) for value in values)

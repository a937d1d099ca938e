"""The admin API's `/schedules`.

    GET   /schedules                        200 {"schedules": […]}: ScheduleView, times as ISO 8601
    GET   /schedules/{id}                   200 one of them
    PATCH /schedules/{id}/pause | resume    200
    PATCH /schedules/{id}/trigger           200 {"invocation_id"}

An id is `Service/handler` or `Service/handler/name`, as it is or with its slashes as %2F.  404 unknown; 409 its last
call has not ended and it skips then; 429 no place in the mailbox.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec
from aiohttp import web

from .admission import Refused
from .engine import Engine
from .http_paths import decode
from .http_replies import Reply
from .http_server import require_method
from .schedule_operations import ScheduleView
from .schedules import iso

ACTIONS = ("pause", "resume", "trigger")
FORMS = f"/schedules, /schedules/{{id}} or PATCH /schedules/{{id}}/{'|'.join(ACTIONS)}"

_TIMES = ("next_at", "last_fired_at", "last_skipped_at")


async def answer(
    engine: Engine, request: web.BaseRequest, parts: Sequence[str], read: Callable[[], Awaitable[object]]
) -> Reply:
    """`parts` are those of the path behind `/schedules`, still encoded; `read` takes in the body.  Raises Refused."""
    schedules = engine.schedules
    if request.method == "PATCH" and len(parts) > 1 and parts[-1] in ACTIONS:
        await read()
        return await _act(engine, parts[-1], _id(parts[:-1]))
    if len(parts) > 1 and parts[-1] in ACTIONS and not schedules.has(_id(parts)):
        require_method(request, "PATCH")
    require_method(request, "GET")
    views = [schedules.describe(_id(parts))] if parts else schedules.list()
    told = [_told(view) for view in views]
    await engine.caught_up()  # what is told must be durable
    return Reply(200, msgspec.json.encode(told[0] if parts else {"schedules": told}))


async def _act(engine: Engine, action: str, id: str) -> Reply:
    schedules = engine.schedules
    if action == "trigger":
        invocation_id, durable = schedules.trigger(id)
        await durable
        return Reply(200, msgspec.json.encode({"invocation_id": invocation_id}))
    await (schedules.pause(id) if action == "pause" else schedules.resume(id))
    return Reply(200, b"")


def _id(parts: Sequence[str]) -> str:
    id = "/".join(decode(part) for part in parts)
    if not id:
        raise Refused(400, f"this is no schedule's id: there is {FORMS}")
    return id


def _told(view: ScheduleView) -> dict[str, object]:
    """As JSON for people: what is always there stays, the rest only if it says something."""
    told: dict[str, object] = {"paused": view.paused, "running": view.running, **msgspec.to_builtins(view)}
    told |= {name: iso(at) for name in _TIMES if (at := getattr(view, name)) is not None}
    return {"next_at": None, "last_fired_at": None, "last_invocation": None, **told}

"""`POST /query`: what is asked, in which format, and the answer.

The body is `{"query": "SELECT …"}`, as Restate's admin API takes it.  The answer is JSON, `{"rows": […]}`, unless
`accept` asks for JSON lines (`application/jsonl`, `application/x-ndjson`) or CSV (`text/csv`).  Arrow, which Restate's
server answers with by default, is spoken under Restate's own paths only (admin_restate.py): here it is 406.

    400   no query, or one that isn't a question, in SQLite's words
    413   the answer is too large, or needs too much memory
    429   too many queries at a time
    504   it took too long
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from aiohttp import hdrs, web
from aiohttp.helpers import parse_mimetype

from perdure.objects.definitions import Kind, ServiceDefinition

from ..admission import Refused
from ..engine import Engine
from ..http_replies import Reply
from . import arrow
from .children import Children
from .protocol import Format, Limits, Query, ServiceRow

_FORMATS: Final[dict[str, Format]] = {
    "application/json": "json",
    "application/jsonl": "jsonl",
    "application/x-ndjson": "jsonl",
    "text/csv": "csv",
    "application/*": "json",
    "text/*": "csv",
    "*/*": "json",
}
_CONTENT_TYPES: Final[dict[Format, str]] = {
    "json": "application/json",
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.stream",
}
_RESTATE_FORMATS: Final[dict[str, Format]] = {
    **_FORMATS,
    _CONTENT_TYPES["arrow"]: "arrow",
    "application/*": "arrow",
    "*/*": "arrow",
}
_HELD_BACK_MAX: Final = 10_000
"""Invocations of which a query is told which limit they wait for: half a megabyte of text."""

_TYPES: Final = {Kind.OBJECT: "virtual_object", Kind.SERVICE: "service", Kind.WORKFLOW: "workflow"}


class _Asked(msgspec.Struct):
    query: str


_asked = msgspec.json.Decoder(_Asked).decode


class Queries:
    """SQL over what an engine holds; `close` ends the processes that run it."""

    def __init__(self, engine: Engine) -> None:
        settings = engine.settings
        self._engine = engine
        self._children = Children(settings.sql_running_max)
        self._services = [_service_row(service) for service in engine.registry.services.values()]
        self._limits = Limits(
            seconds=settings.sql_seconds_max,
            rows=settings.sql_rows_max,
            answer_bytes=settings.sql_answer_bytes_max,
            memory_bytes=settings.sql_memory_bytes_max,
        )

    def refuse_other_types(self, request: web.BaseRequest) -> None:
        """A page of another site may send a form or plain text without asking; never JSON.  Raises Refused(415)."""
        if request.content_type != "application/json":
            raise Refused(415, 'the body is JSON, {"query": "SELECT …"}: send content-type: application/json')

    async def answer(self, request: web.BaseRequest, body: bytes) -> Reply:
        """Everything acknowledged before is in it.  Raises Refused, OutcomeUnknown."""
        format = _format_of(request.headers.getall(hdrs.ACCEPT, []), _FORMATS, "json")
        statement = _statement_of(body)
        return Reply(200, await self.run(statement, format), content_type=_CONTENT_TYPES[format])

    async def answer_restate(self, request: web.BaseRequest, body: bytes) -> Reply:
        """The same for Restate's tools: over the tables they know, and in Arrow if they don't say.  Likewise."""
        format = _format_of(request.headers.getall(hdrs.ACCEPT, []), _RESTATE_FORMATS, "arrow")
        if format == "arrow" and not arrow.INSTALLED:
            raise Refused(406, "Arrow is an extra here: pip install 'perdure[arrow]' on the server, or ask for JSON")
        statement = _statement_of(body)
        return Reply(200, await self.run(statement, format, restate=True), content_type=_CONTENT_TYPES[format])

    async def run(self, statement: str, format: Format, restate: bool = False) -> bytes:
        """The whole answer.  Raises Refused, OutcomeUnknown."""
        path = await self._engine.checkpoint()
        limiter = self._engine.limiter
        query = Query(
            path=str(path),
            statement=statement,
            format=format,
            limits=self._limits,
            services=self._services,
            in_force=[] if limiter is None else limiter.views(),
            held_back={} if limiter is None else limiter.held_back(_HELD_BACK_MAX),
            restate=restate,
        )
        return b"".join(await self._children.run(query))

    async def close(self) -> None:
        await self._children.close()


def _statement_of(body: bytes) -> str:
    try:
        statement = _asked(body).query
    except msgspec.MsgspecError as error:
        raise Refused(400, f'the body is no {{"query": "SELECT …"}}: {error}') from None
    if "\0" in statement:
        raise Refused(400, "query: there is a NUL character in it")
    return statement


def _format_of(accepted: list[str], formats: Mapping[str, Format], unasked: Format) -> Format:
    """The first that is spoken here, in the order in which the header has them."""
    ranges = [part for header in accepted for part in header.split(",") if part.strip()]
    if not ranges:
        return unasked
    for part in ranges:
        found = parse_mimetype(part.strip())
        if (format := formats.get(f"{found.type}/{found.subtype}")) is not None:
            return format
    raise Refused(406, "answers are application/json, application/jsonl or text/csv; accept one of these")


def _service_row(service: ServiceDefinition) -> ServiceRow:
    handlers = [*service.handlers.values()]
    return ServiceRow(
        name=service.name,
        ty=_TYPES[service.kind],
        public=any(handler.public for handler in handlers),
        version=service.version,
        handlers=[handler.name for handler in handlers],
    )

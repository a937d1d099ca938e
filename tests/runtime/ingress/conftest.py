"""An engine in memory that keeps the contract of the real one, an ingress in front of it, and a bare-socket client."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import cast

import msgspec
import pytest
import uvloop

from perdure.journal import MemoryJournal
from perdure.objects.errors import Failure
from perdure.runtime.access import Access
from perdure.runtime.admission import Refused, Request
from perdure.runtime.clock import SystemClock
from perdure.runtime.engine import Engine
from perdure.runtime.gate import OutcomeUnknown
from perdure.runtime.ingress import Ingress, Operations
from perdure.runtime.records import Failed, Outcome, Success
from perdure.runtime.registry import Registry
from perdure.runtime.settings import Settings


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The process runs on uvloop; a Runtime inside somebody's program runs on what that program runs on."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@dataclass
class FakeHandler:
    run: Callable[[Request], object] = lambda request: None
    public: bool = True
    takes_nothing: bool = True


@dataclass
class FakeService:
    keyed: bool
    handlers: dict[str, FakeHandler]


@dataclass
class FakeRegistry:
    services: dict[str, FakeService]


@dataclass
class FakeSubmission:
    id: str
    previously: bool
    durable: Callable[[], Awaitable[None]]
    result: Callable[[], Awaitable[Outcome]]
    stream: bool = False

    def accepted(self) -> Awaitable[None]:
        return self.durable()

    def outcome(self) -> Awaitable[Outcome]:
        return self.result()


@dataclass
class FakeEngine:
    """Runs a handler at once, on the request itself; what it returns or raises is the outcome.

    A handler that returns a Future leaves its invocation open until the future is done.
    """

    registry: FakeRegistry = field(default_factory=lambda: FakeRegistry({}))
    requests: list[Request] = field(default_factory=list[Request])
    outcomes: dict[str, asyncio.Future[Outcome]] = field(default_factory=dict[str, "asyncio.Future[Outcome]"])
    known: dict[tuple[str, str, str, str | None], tuple[str, bytes]] = field(
        default_factory=dict[tuple[str, str, str, "str | None"], tuple[str, bytes]]
    )
    journal_failed: bool = False
    _ids: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def operations(self) -> Operations:
        raise NotImplementedError("ask the real engine, by serve_classes")

    def gives(self, service: str, handler: str, result: object) -> None:
        """From now on that handler gives `result`: a value, a Failure, or a Future of an Outcome."""
        self.registry.services[service].handlers[handler].run = lambda request: result

    def submit(self, request: Request, *, public_only: bool = True) -> FakeSubmission:
        if request.arguments:
            try:
                msgspec.json.decode(request.arguments)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise Refused(400, f"$: {error}") from None
        if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in request.key) or len(request.key.encode()) > 512:
            raise Refused(400, "the key has a control character or is too long")
        name = (request.service, request.key, request.handler, request.idempotency_key)
        if request.idempotency_key is not None and name in self.known:
            id, arguments = self.known[name]
            if arguments != request.arguments:
                raise Refused(409, "the idempotency key was used with other arguments")
            return self._submission(id, previously=True)
        id = f"inv_{next(self._ids):032x}"
        self.outcomes[id] = self._run(request)
        self.known[name] = (id, request.arguments)
        self.requests.append(request)
        return self._submission(id, previously=False)

    def _submission(self, id: str, *, previously: bool) -> FakeSubmission:
        return FakeSubmission(id, previously, self._durable, lambda: self._wait(id))

    def _run(self, request: Request) -> asyncio.Future[Outcome]:
        result = self.registry.services[request.service].handlers[request.handler].run(request)
        if isinstance(result, asyncio.Future):
            return cast("asyncio.Future[Outcome]", result)
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        done.set_result(Failed(result) if isinstance(result, Failure) else Success(msgspec.json.encode(result)))
        return done

    async def _durable(self) -> None:
        await asyncio.sleep(0)
        if self.journal_failed:
            raise OutcomeUnknown

    async def _wait(self, id: str) -> Outcome:
        await self._durable()
        return await asyncio.shield(self.outcomes[id])

    def attach(self, id: str) -> Awaitable[Outcome]:
        if id not in self.outcomes:
            raise Refused(404, "invocation not found")
        return self._wait(id)

    def items(self, id: str, after: int) -> None:
        """None of its handlers yields."""

    def output(self, id: str) -> Awaitable[Outcome | None]:
        if id not in self.outcomes:
            raise Refused(404, "invocation not found")
        return self._peek(id)

    async def _peek(self, id: str) -> Outcome | None:
        await self._durable()
        return self.outcomes[id].result() if self.outcomes[id].done() else None

    async def caught_up(self) -> None:
        """Nothing here ever waits for a disk."""

    def find(self, service: str, key: str, handler: str, idempotency_key: str | None) -> str:
        try:
            return self.known[service, key, handler, idempotency_key][0]
        except KeyError:
            raise Refused(404, "invocation not found") from None


@dataclass
class Answer:
    """One HTTP answer, as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> object:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, object]:
        """The body of an error, checked for its shape."""
        value = msgspec.json.decode(self.body, type=dict[str, object])
        assert isinstance(value["message"], str)
        assert value["source"] == self.headers["x-restate-error-source"]
        assert self.headers["content-type"] == "application/json"
        assert "Traceback" not in value["message"]
        return value

    @property
    def message(self) -> str:
        return str(self.error["message"])


class Wire:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer. Raises EOFError: closed without one (a reset too)."""
        async with asyncio.timeout(10):
            try:
                head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise EOFError from error
            start, *lines = head.rstrip("\r\n").split("\r\n")
            version, status, _ = start.split(" ", 2)
            assert version == "HTTP/1.1"
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = b"" if head_only else await self.reader.readexactly(int(headers["content-length"]))
            return Answer(int(status), headers, body)

    async def closed(self) -> bool:
        """Whether the server closes the connection, with nothing more said."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    async def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        lines = [f"{method} {path} HTTP/1.1", "host: localhost"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        await self.send(("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b""))
        return await self.answer(head_only=method == "HEAD")

    def abort(self) -> None:
        self.writer.transport.abort()


class Served:
    """A running ingress and the ways to talk to it."""

    def __init__(self, ingress: Ingress, engine: FakeEngine | Engine, port: int) -> None:
        self.ingress, self.engine, self.port = ingress, engine, port
        self._open: list[Wire] = []

    async def connect(self, address: str = "127.0.0.1") -> Wire:
        """`address`: where the client comes from; all of 127.0.0.0/8 is this machine."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))
        wire = Wire(reader, writer)
        self._open.append(wire)
        return wire

    async def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        wire = await self.connect()
        answer = await wire.request(method, path, body, **headers)
        wire.abort()
        return answer

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.request("GET", path, None, **headers)

    async def post(self, path: str, body: object = None, **headers: str) -> Answer:
        return await self.request("POST", path, json.dumps(body).encode(), **headers)

    def hang_up(self) -> None:
        for wire in self._open:
            wire.abort()


Serve = Callable[..., Coroutine[object, None, Served]]


@pytest.fixture
def engine() -> FakeEngine:
    """Counter (keyed): add, get, forever, hidden. Greeter (a Service): greet, fail."""
    counter = {
        "add": FakeHandler(lambda request: json.loads(request.arguments or b"1"), takes_nothing=False),
        "get": FakeHandler(lambda request: request.key),
        "forever": FakeHandler(lambda request: asyncio.get_running_loop().create_future()),
        "hidden": FakeHandler(public=False),
        "send": FakeHandler(lambda request: "the handler named send"),
    }
    greeter = {
        "greet": FakeHandler(lambda request: {"hello": json.loads(request.arguments or b"null")}),
        "fail": FakeHandler(lambda request: Failure("TerminalError", "no", 500)),
    }
    return FakeEngine(FakeRegistry({"Counter": FakeService(True, counter), "Greeter": FakeService(False, greeter)}))


@pytest.fixture
async def serve(engine: FakeEngine) -> AsyncIterator[Serve]:
    """Starts ingresses, by default with the settings of production; keywords change single settings."""
    running: list[Served] = []

    async def start(**settings: object) -> Served:
        ingress = Ingress(engine, msgspec.convert(settings, Settings), Access(names=["x"]))  # as raw requests name it
        [(_, port)] = await ingress.start("127.0.0.1", 0)
        running.append(Served(ingress, engine, port))
        return running[-1]

    yield start
    for served in running:
        served.hang_up()
        await served.ingress.close(0)


@pytest.fixture
async def ingress(serve: Serve) -> Served:
    return await serve()


@pytest.fixture
async def serve_classes() -> AsyncIterator[Serve]:
    """`await serve_classes(Counter, …)`: the real engine in memory behind the ingress."""
    running: list[tuple[Served, Engine]] = []

    async def start(*classes: type, **settings: object) -> Served:
        chosen = msgspec.convert(settings, Settings)
        engine = await Engine.open(Registry(classes), MemoryJournal(), chosen, SystemClock())
        ingress = Ingress(engine, chosen, Access(names=["x"]))
        [(_, port)] = await ingress.start("127.0.0.1", 0)
        running.append((Served(ingress, engine, port), engine))
        return running[-1][0]

    yield start
    for served, engine in running:
        served.hang_up()
        await served.ingress.close(0)
        await engine.close()

"""One of the two ports, listening, and what its own code sees of the requests to it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
import uvloop
from aiohttp import web
from yarl import URL

from perdure.journal import MemoryJournal
from perdure.objects import VirtualObject, handler
from perdure.runtime import ManualClock, Runtime, Settings, admin_ui, http_paths
from perdure.runtime.access import Access
from perdure.runtime.admin import Admin
from perdure.runtime.http_limits import Connection
from perdure.runtime.http_server import HttpServer
from perdure.runtime.ingress import Ingress

TOKEN = "0123456789abcdef-token"
OTHER = "fedcba9876543210-token"
GOOD = {"authorization": f"Bearer {TOKEN}"}
ID = "inv_" + "0" * 35


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class Job(VirtualObject):
    @handler
    async def work(self) -> int:
        return 1


INGRESS_ROUTES: dict[Any, list[tuple[str, str]]] = {
    http_paths.Invoke: [
        *[("POST", "/Job/a/work"), ("GET", "/Job/a/work"), ("POST", "/Job/a/work/send?delay=1s")],
        *[("POST", "/restate/call/Job/a/work"), ("POST", "/restate/send/Job/a/work")],
    ],
    http_paths.Await: [
        *[("GET", f"/restate/attach/{ID}"), ("GET", f"/restate/output/{ID}"), ("POST", "/restate/attach")],
        *[("GET", f"/restate/invocation/{ID}/attach"), ("GET", "/restate/workflow/W/1/output")],
    ],
    http_paths.Lookup: [("POST", "/restate/lookup")],
    http_paths.Complete: [
        *[("POST", "/restate/awakeables/a/resolve"), ("POST", "/restate/awakeables/a/reject")],
        ("POST", f"/restate/invocation/{ID}/signals/s/resolve"),
    ],
    http_paths.Cancel: [("POST", f"/restate/invocation/{ID}/cancel")],
    http_paths.Health: [("GET", "/restate/health")],
}
ADMIN_ROUTES = [
    *[("GET", "/health"), ("GET", "/version"), ("GET", f"/invocations/{ID}")],
    *[("PATCH", f"/invocations/{ID}/{verb}") for verb in ("pause", "resume", "cancel", "kill", "purge")],
    ("PATCH", f"/invocations/{ID}/restart-as-new"),
    *[("GET", "/metrics"), ("POST", "/query"), ("GET", "/openapi"), ("GET", "/services"), ("GET", "/schedules")],
    ("GET", "/limits"),
    *[("GET", "/services/Job/state/a"), ("DELETE", "/services/Job/state/a"), ("POST", "/services/Job/state")],
    *[("PATCH", f"/schedules/Job%2Frun/{verb}") for verb in ("pause", "resume", "trigger")],
    *[("GET", "/ui"), ("GET", "/ui/app.js"), ("POST", "/ui/send/Job/a/work"), ("GET", "/ui/no.js")],
    *[("GET", "/v2/services"), ("POST", "/v3/query"), ("PATCH", f"/v3/invocations/{ID}/kill")],
]
NOT_THERE = [
    *[("GET", "/"), ("POST", "/no/such/path"), ("OPTIONS", "/"), ("DELETE", "/health/x"), ("GET", "//health")],
    *[("GET", "/health/"), ("GET", "/%68ealth"), ("GET", "/restate/%68ealth"), ("GET", "/restate/health/../x")],
]
OPEN = {Ingress: {"/restate/health"}, Admin: {"/health", *admin_ui.OPEN_PATHS}}
ROUTES = {
    Ingress: [*[route for routes in INGRESS_ROUTES.values() for route in routes], *NOT_THERE],
    Admin: [*ADMIN_ROUTES, *NOT_THERE],
}
CLOSED = [(port, *route) for port, routes in ROUTES.items() for route in routes if route[1] not in OPEN[port]]


def secret(file: Path, content: bytes, mode: int = 0o600) -> Path:
    file.write_bytes(content)
    file.chmod(mode)
    return file


@dataclass
class Port:
    """One of the two servers, listening; `reached` are the requests that its own code has seen."""

    server: HttpServer
    url: str
    reached: list[str]
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        url = self.url if path.startswith("/") else ""
        async with self.session.request(method, URL(url + path, encoded=True), headers=sent) as response:
            return (
                response.status,
                {name.lower(): value for name, value in response.headers.items()},
                str(await response.read()),
            )

    async def raw(self, data: bytes) -> bytes:
        """What comes back for these bytes, until the server closes."""
        host, _, port = self.url.partition("://")[2].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(data)
        answer = await reader.read()
        writer.close()
        return answer


Open = Callable[..., Coroutine[object, None, Port]]


@pytest.fixture
async def open_port() -> AsyncIterator[Open]:
    """`await open_port(Ingress or Admin, Access(…), tls=…, host=…)`."""
    async with Runtime([Job], data_dir=None, clock=ManualClock(), journal=MemoryJournal()) as runtime:
        running: list[HttpServer] = []
        async with aiohttp.ClientSession() as session:

            async def start(
                kind: type[Ingress] | type[Admin],
                access: Access | None = None,
                tls: ssl.SSLContext | None = None,
                host: str = "127.0.0.1",
                session: aiohttp.ClientSession = session,
            ) -> Port:
                engine: Any = runtime.engine
                server: Any = Ingress(engine, Settings(), access) if kind is Ingress else Admin(engine, access)
                reached: list[str] = []
                answer = server.answer

                def seen(request: web.BaseRequest, connection: Connection) -> Any:
                    reached.append(request.raw_path)
                    return answer(request, connection)

                server.answer = seen
                running.append(server)
                [(host, port)] = await server.start(host, 0, tls)
                scheme = "http" if tls is None else "https"
                return Port(server, f"{scheme}://{host}:{port}", reached, session)

            yield start
            for server in running:
                await server.close(0)


@dataclass
class Papers:
    """A certificate for 127.0.0.1, its key, and who trusts it."""

    authority: trustme.CA
    certificate: Path
    key: Path

    @property
    def trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.load_verify_locations(cadata=self.authority.cert_pem.bytes().decode())
        return context


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    certificate = secret(tmp_path / "cert.pem", made.cert_chain_pems[0].bytes(), 0o644)
    return Papers(authority, certificate, secret(tmp_path / "key.pem", made.private_key_pem.bytes()))

"""Who is let in: every route with no, a bad and a good token, and odd credentials."""

from __future__ import annotations

from typing import ClassVar, get_args

import aiohttp
import pytest
from aiohttp import web

from perdure.runtime import http_paths
from perdure.runtime.access import Access, Tokens
from perdure.runtime.admin import Admin
from perdure.runtime.http_limits import Connection, ConnectionLimits
from perdure.runtime.http_replies import Reply
from perdure.runtime.http_server import HttpServer
from perdure.runtime.ingress import Ingress
from tests.runtime.access.conftest import ADMIN_ROUTES, CLOSED, GOOD, INGRESS_ROUTES, OPEN, OTHER, TOKEN, Open


def test_every_route_of_the_ingress_is_in_the_list() -> None:
    """A new kind of route is a new member of `Route`, and must be asked for here too."""
    assert set(INGRESS_ROUTES) == set(get_args(http_paths.Route))


async def test_every_area_of_the_admin_port_is_in_the_list(open_port: Open) -> None:
    """The first word of a path says which."""
    admin = (await open_port(Admin, None)).server
    assert isinstance(admin, Admin)
    assert {path.split("/")[1] for _, path in ADMIN_ROUTES} == {*admin.areas, "health"}


def test_every_server_is_in_the_list_and_asks_before_it_answers() -> None:
    """`HttpServer._handle` asks; one of its own could forget to. To open a path is a decision, made here too."""
    ours = {server for server in HttpServer.__subclasses__() if server.__module__.startswith("perdure.")}

    assert ours == set(OPEN)
    assert all(server._handle is HttpServer._handle for server in ours)  # pyright: ignore[reportPrivateUsage]
    assert {server: set(server.open_paths) for server in ours} == OPEN


@pytest.mark.parametrize("kind", [Ingress, Admin])
async def test_no_code_of_a_port_sees_a_request_that_was_not_let_in(kind: type[Ingress] | type[Admin]) -> None:
    """Whatever its path: so a route that is written tomorrow is behind the token too."""

    class Tomorrow(HttpServer):
        open_paths: ClassVar[frozenset[str]] = kind.open_paths

        async def answer(self, request: web.BaseRequest, connection: Connection) -> Reply:
            raise AssertionError("it was let in")

    server = Tomorrow(ConnectionLimits(), 1024, Access(Tokens([TOKEN.encode()])))
    [(host, port)] = await server.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as session, session.put(f"http://{host}:{port}/tomorrow") as response:
        assert response.status == 401
    await server.close(0)


@pytest.mark.parametrize(("kind", "method", "path"), CLOSED)
async def test_every_route_is_closed_without_a_good_token(
    open_port: Open, kind: type[Ingress] | type[Admin], method: str, path: str
) -> None:
    """401 without and with a bad one, and its code isn't reached; anything else with any of the good ones."""
    port = await open_port(kind, Access(Tokens([OTHER.encode(), TOKEN.encode()])))

    for headers in ({}, {"authorization": "Bearer wrong-but-long-enough"}):
        status, fields, body = await port.ask(method, path, **headers)
        assert status == 401
        assert fields["www-authenticate"] == "Bearer"
        assert TOKEN not in body
    assert port.reached == []

    for token in (TOKEN, OTHER):
        status, _, _ = await port.ask(method, path, authorization=f"Bearer {token}", host="any.example", origin="null")
        assert status not in (401, 403)
    assert len(port.reached) == 2


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, paths in OPEN.items() for path in sorted(paths)])
async def test_health_and_the_page_stay_open(open_port: Open, kind: type[Ingress] | type[Admin], path: str) -> None:
    """To supervisors, and to a browser whose user has the token but can't send it yet."""
    port = await open_port(kind, Access(Tokens([TOKEN.encode()])))

    assert (await port.ask("GET", path))[0] == 200
    assert (await port.ask("GET", path + "?x=1"))[0] == 200


ODD = {
    "none": [],
    "empty": [b""],
    "no scheme": [TOKEN.encode()],
    "another scheme": [b"Basic " + TOKEN.encode()],
    "scheme alone": [b"Bearer"],
    "scheme and spaces": [b"Bearer    "],
    "no space": [b"Bearer" + TOKEN.encode()],
    "a tab for the space": [b"Bearer\t" + TOKEN.encode()],
    "a prefix": [b"Bearer " + TOKEN[:-1].encode()],
    "longer": [b"Bearer " + TOKEN.encode() + b"x"],
    "another case": [b"Bearer " + TOKEN.upper().encode()],
    "quoted": [b'Bearer "' + TOKEN.encode() + b'"'],
    "two in one": [b"Bearer " + TOKEN.encode() + b" " + TOKEN.encode()],
    "a list": [b"Bearer " + TOKEN.encode() + b", Bearer " + TOKEN.encode()],
    "as a parameter": [b"Bearer token=" + TOKEN.encode()],
    "twice": [b"Bearer " + TOKEN.encode()] * 2,
    "good and bad": [b"Bearer " + TOKEN.encode(), b"Bearer wrong"],
    "latin-1": [b"Bearer \xe9\xff" + TOKEN.encode()],
    "utf-8": ["Bearer ünï\u2028".encode() + TOKEN.encode()],
    "no-break space": ["Bearer \u00a0".encode() + TOKEN.encode()],
    "lone surrogate": [b"Bearer \xed\xa0\x80"],
    "digest": [b"Bearer " + b"0" * 64],
    "huge": [b"Bearer " + b"a" * 8000],
}


@pytest.mark.parametrize("values", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("kind", [Ingress, Admin])
async def test_odd_credentials_open_nothing(
    open_port: Open, kind: type[Ingress] | type[Admin], values: list[bytes]
) -> None:
    port = await open_port(kind, Access(Tokens([TOKEN.encode()])))
    lines = b"".join(b"authorization: " + value + b"\r\n" for value in values)

    answer = await port.raw(b"GET /version HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n" + lines + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 401 ")
    assert port.reached == []


@pytest.mark.parametrize("value", [b"Bearer " + b"a" * 20_000, b"Bearer a\x00b", b"Bearer a\x0bb\x7f"])
async def test_a_header_that_is_none_is_refused_before(open_port: Open, value: bytes) -> None:
    port = await open_port(Ingress, Access(Tokens([TOKEN.encode()])))

    answer = await port.raw(b"GET /Job/a/work HTTP/1.1\r\nhost: x\r\nauthorization: " + value + b"\r\n\r\n")

    assert answer[9:12] in (b"400", b"401", b"431")
    assert port.reached == []


@pytest.mark.parametrize("value", ["Bearer {}", "bearer {}", "BEARER   {}", "Bearer {}  "])
async def test_forms_that_http_allows_are_taken(open_port: Open, value: str) -> None:
    port = await open_port(Admin, Access(Tokens([TOKEN.encode()])))

    assert (await port.ask("GET", "/version", authorization=value.format(TOKEN)))[0] == 200


async def test_a_token_that_is_needed_nowhere_does_no_harm(open_port: Open) -> None:
    assert (await (await open_port(Ingress)).ask("GET", "/Job/a/work", **GOOD))[0] == 200

"""What a web page can make a browser on this machine send, without a token in the way."""

from __future__ import annotations

import pytest

from perdure.runtime.access import Access, HostNameError, is_loopback
from perdure.runtime.admin import Admin
from perdure.runtime.ingress import Ingress
from tests.runtime.access.conftest import OPEN, ROUTES, Open

FOREIGN = [
    *["evil.example", "evil.example:8080", "192.0.2.1", "localhost.evil.example", "[::2]:1", "127.0.0.1.nip.io"],
    *["localhost@evil.example", "evil.example@localhost", "[::1", "a b", "localhost.", "0.0.0.0", "/localhost"],
]


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("kind", [Ingress, Admin])
async def test_a_name_that_is_not_this_machines_gets_nowhere(
    open_port: Open, kind: type[Ingress] | type[Admin], host: str
) -> None:
    """A web page whose own name was made to point here (DNS rebinding) sends that name."""
    port = await open_port(kind)

    for method, path in ROUTES[kind]:
        assert (await port.ask(method, path, host=host))[0] == 403
    assert port.reached == []


@pytest.mark.parametrize("host", ["localhost", "LocalHost:1", "127.0.0.1:9", "[::1]:9", "job.localhost", "app.example"])
async def test_names_of_this_machine_are_taken_and_those_that_were_given(open_port: Open, host: str) -> None:
    port = await open_port(Ingress, Access(names=["App.example:444", "other.example"]))

    assert (await port.ask("GET", "/restate/health", host=host))[0] == 200


async def test_each_host_of_a_connection_is_looked_at(open_port: Open) -> None:
    """A browser may use one connection for a name before and after it was made to point elsewhere; a proxy, for all."""
    port = await open_port(Ingress)

    def request(host: str, more: str = "") -> bytes:
        return f"GET /restate/health HTTP/1.1\r\nhost: {host}\r\n{more}\r\n".encode()

    hosts = ["localhost", "localhost", "evil.example", "localhost", "127.0.0.1"]
    answer = await port.raw(b"".join(map(request, hosts)) + request("evil.example", "connection: close\r\n"))

    statuses = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 200, 403, 200, 200, 403]


async def test_beyond_loopback_any_name_may_be_ours_unless_we_were_told(open_port: Open) -> None:
    """Then the one that was given, the address asked, and loopback's."""
    told = Access(names=["app.example"])
    untold, named = await open_port(Ingress, host="0.0.0.0"), await open_port(Ingress, told, host="0.0.0.0")

    assert (await untold.ask("GET", "/restate/health", host="counter.svc"))[0] == 200
    for host, status in (("counter.svc", 403), ("app.example:1", 200), ("127.0.0.1", 200), ("10.1.1.1", 403)):
        assert (await named.ask("GET", "/restate/health", host=host))[0] == status


PAGES = [
    *[({"origin": "https://evil.example"}, 403), ({"origin": "null"}, 403), ({"origin": ""}, 403)],
    *[({"origin": "http://localhost:3000"}, 403), ({"origin": "http://localhost:8080"}, 200)],
    *[({"origin": "https://app.example"}, 200), ({"origin": "https://app.example:1"}, 403)],
    *[({"origin": "https://APP.example", "sec_fetch_site": "cross-site"}, 200), ({"origin": "app.example"}, 403)],
    *[({"origin": "http://localhost:8080.evil.example"}, 403), ({"origin": "http://app.example@evil.example"}, 403)],
    *[({"sec_fetch_site": "cross-site"}, 403), ({"sec_fetch_site": "same-site"}, 403), ({"sec_fetch_site": ""}, 403)],
    *[({"sec_fetch_site": "same-origin"}, 200), ({"sec_fetch_site": "none"}, 200)],
]


@pytest.mark.parametrize(("headers", "status"), PAGES)
@pytest.mark.parametrize("kind", [Ingress, Admin])
async def test_a_page_of_another_origin_gets_nowhere(
    open_port: Open, kind: type[Ingress] | type[Admin], headers: dict[str, str], status: int
) -> None:
    """Also where the same machine serves it, on another port; and nobody is ever told that it may."""
    port = await open_port(kind, Access(names=["app.example"]))
    paths = ROUTES[kind] if status == 403 else [("GET", next(iter(OPEN[kind])))]

    for method, path in paths:
        got, fields, _ = await port.ask(method, path, host="localhost:8080", **headers)
        assert got == status
        assert not any(name.startswith("access-control") for name in fields)
    assert len(port.reached) == (status == 200)


@pytest.mark.parametrize("name", ["", "http://a.b", "a.b/x", "*", "*.x", "a b", "é.x", "x:y", "x:0", "x@y"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(HostNameError, match="--ingress-host"):
        Access(names=[name])


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *[("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True)],
        *[("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.com", False), ("", False)],
        *[("127.0.0.1.nip.io", False), ("notlocalhost", False), ("::ffff:10.0.0.1", False)],
    ],
)
def test_what_is_loopback(host: str, own: bool) -> None:
    assert is_loopback(host) is own

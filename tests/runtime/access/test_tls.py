"""TLS on both ports, with certificates made here."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from perdure.runtime import Client
from perdure.runtime.access import Access, Tokens
from perdure.runtime.admin import Admin
from perdure.runtime.admission import Refused
from perdure.runtime.http_limits import ConnectionLimits
from perdure.runtime.http_server import HttpServer
from perdure.runtime.ingress import Ingress
from perdure.runtime.tls import TlsError, load_tls
from tests.runtime.access.conftest import OPEN, OTHER, TOKEN, Job, Open, Papers, secret


@pytest.mark.parametrize("kind", [Ingress, Admin])
async def test_a_client_that_trusts_the_certificate_is_answered(
    open_port: Open, papers: Papers, kind: type[Ingress] | type[Admin]
) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=papers.trust)) as session:
        tls = load_tls(papers.certificate, papers.key)
        port = await open_port(kind, Access(Tokens([TOKEN.encode()])), tls, session=session)

        path = next(iter(OPEN[kind]))
        assert [(await port.ask("GET", path))[0] for _ in range(3)] == [200] * 3
        assert (await port.ask("GET", "/version"))[0] == 401


async def test_the_client_sends_its_token_over_tls(open_port: Open, papers: Papers) -> None:
    port = await open_port(Ingress, Access(Tokens([TOKEN.encode()])), load_tls(papers.certificate, papers.key))

    async with Client(port.url, token=TOKEN, ssl=papers.trust) as client:
        assert await client.ref(Job, "a").work() == 1
    async with Client(port.url, token=OTHER, ssl=papers.trust) as client:
        with pytest.raises(Refused, match="token") as refused:
            await client.ref(Job, "a").work()
    assert refused.value.status == 401


async def test_a_client_that_trusts_nobody_says_so_at_once(open_port: Open, papers: Papers) -> None:
    """A certificate is not mended by asking for a minute."""
    port = await open_port(Ingress, None, load_tls(papers.certificate, papers.key))

    async with Client(port.url) as client:
        with pytest.raises(ConnectionError, match=r"no certificate to be trusted.*nothing happened"):
            await client.ref(Job, "a").work()
    assert port.reached == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_many_at_once_are_all_served(open_port: Open, papers: Papers, version: ssl.TLSVersion) -> None:
    """Whenever in the handshake their first request arrives."""
    port = await open_port(Ingress, None, load_tls(papers.certificate, papers.key))
    trust = papers.trust
    trust.maximum_version = version
    host, _, number = port.url.partition("://")[2].rpartition(":")

    async def one() -> bytes:
        reader, writer = await asyncio.open_connection(host, int(number), ssl=trust)
        writer.write(b"GET /restate/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer[:12]

    assert set(await asyncio.gather(*[one() for _ in range(100)])) == {b"HTTP/1.1 200"}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_older_versions_are_refused(open_port: Open, papers: Papers) -> None:
    port = await open_port(Ingress, None, load_tls(papers.certificate, papers.key))
    old = papers.trust
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    host, _, number = port.url.partition("://")[2].rpartition(":")

    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(host, int(number), ssl=old)
    assert port.reached == []


async def test_who_shakes_no_hands_has_a_place_like_any_other_and_a_deadline(papers: Papers) -> None:
    """Or they could take every descriptor there is. Plain HTTP is no handshake either."""
    limits = ConnectionLimits(connections_max=3, header_timeout_seconds=0.3)
    server = HttpServer(limits, 1024)
    [(host, port)] = await server.start("127.0.0.1", 0, load_tls(papers.certificate, papers.key))

    silent = [await asyncio.open_connection(host, port) for _ in range(3)]
    while server.connections_open < 3:
        await asyncio.sleep(0)
    reader, writer = await asyncio.open_connection(host, port)
    with suppress(ConnectionResetError):
        assert not await reader.read()
    writer.close()
    for reader, writer in silent:
        assert await reader.read() == b""
        writer.close()
    while server.connections_open:
        await asyncio.sleep(0)
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /restate/health HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b"HTTP" not in await reader.read()
    writer.close()

    await server.close(0)


async def test_a_stop_leaves_no_handshake_behind(papers: Papers) -> None:
    server = HttpServer(ConnectionLimits(), 1024)
    [(host, port)] = await server.start("127.0.0.1", 0, load_tls(papers.certificate, papers.key))
    reader, writer = await asyncio.open_connection(host, port)
    while not server.connections_open:
        await asyncio.sleep(0)

    await server.close(0)

    assert await reader.read() == b""
    writer.close()


def bad_papers(papers: Papers, what: str) -> tuple[Path | None, Path | None]:
    certificate, key, folder = papers.certificate, papers.key, papers.key.parent
    if what == "encrypted":
        loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        how = serialization.BestAvailableEncryption(b"password")
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
        secret(key, loaded.private_bytes(*form, how))
    if what == "mismatched":
        secret(key, trustme.CA().issue_cert("x").private_key_pem.bytes())
    if what == "damaged":
        secret(key, key.read_bytes().replace(b"\n", b"\n!", 3))
    if what == "open":
        key.chmod(0o644)
    missing, other = folder / "missing", folder
    made: dict[str, tuple[Path | None, Path | None]] = {
        "no key": (certificate, None),
        "no certificate": (None, key),
        "missing key": (certificate, missing),
        "missing certificate": (missing, key),
        "a folder": (certificate, other),
        "swapped": (key, certificate),
        "key for both": (key, key),
    }
    return made.get(what, (certificate, key))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no key", "--tls-cert needs --tls-key"),
        ("no certificate", "--tls-key needs --tls-cert"),
        ("missing key", "cannot read the TLS key .*missing: No such file"),
        ("missing certificate", "cannot read the certificate .*missing: No such file"),
        ("a folder", "cannot read the TLS key .*: Is a directory"),
        ("swapped", "there is no certificate in .*key.pem"),
        ("key for both", "there is no certificate in .*key.pem"),
        ("mismatched", "key.pem is not that of the certificate"),
        ("damaged", "cannot use the certificate .*cert.pem with the key .*key.pem: "),
        ("encrypted", "key.pem is encrypted"),
        ("open", "by everybody"),
    ],
)
def test_a_certificate_or_key_that_is_of_no_use(papers: Papers, what: str, said: str) -> None:
    with pytest.raises(TlsError, match=said) as caught:
        load_tls(*bad_papers(papers, what))

    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)

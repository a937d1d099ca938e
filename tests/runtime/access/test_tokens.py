"""Files of tokens, and that no credential is logged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from perdure.runtime.access import TokenError, load_tokens
from tests.conftest import Perdure
from tests.runtime.access.conftest import OTHER, TOKEN, secret


def test_each_line_of_a_token_file_is_a_token(tmp_path: Path) -> None:
    file = secret(tmp_path / "tokens", f"  {TOKEN}\r\n\n{OTHER}".encode(), 0o640)

    tokens = load_tokens(file)

    assert tokens is not None
    assert [tokens.open([f"Bearer {token}"]) for token in (TOKEN, OTHER, "", "x")] == [True, True, False, False]
    assert load_tokens(None) is None


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"", 0o600, "is empty"),
        (b" \n\t\n", 0o600, "is empty"),
        (b"secret-123456789", 0o644, "by everybody"),
        (b"secret-123456789", 0o602, "by everybody"),
        (b"secret-123456789\nsecret-12345678", 0o600, "line 2 .* has 15 bytes"),
        (b"secret-123456789 0", 0o600, "line 1 .* visible ASCII"),
        ("secret-123456789é".encode(), 0o600, "line 1 .* visible ASCII"),
        (b"secret-\x00\xff1234567890", 0o600, "line 1 .* visible ASCII"),
        (b"secret-0" * 10_000, 0o600, "more than 65536 bytes"),
        (None, 0, "cannot read .* No such file"),
    ],
)
def test_a_token_file_that_is_of_no_use(tmp_path: Path, content: bytes | None, mode: int, said: str) -> None:
    """One line, exit code 2, and nothing of what is in it."""
    file = tmp_path / "tokens" if content is None else secret(tmp_path / "tokens", content, mode)

    with pytest.raises(TokenError, match=said) as caught:
        load_tokens(file)

    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert "secret-" not in str(caught.value)


async def test_no_credential_is_logged(perdure: Callable[..., Perdure], tmp_path: Path) -> None:
    """By a process at debug level: given and refused, in bad requests, and where a handler fails."""
    served = perdure("examples/counter.py")
    files = (secret(tmp_path / name, TOKEN.encode()) for name in ("ingress", "admin"))
    options = zip(("--ingress-token-file", "--admin-token-file"), map(str, files), strict=True)
    served.options = ("--log-level", "debug", *(word for option in options for word in option))
    await served.start()
    await served.serving()
    serving = served.events[-1]

    async with aiohttp.ClientSession() as session:
        for url in (serving["ingress"], serving["admin"]):
            for path in ("/Counter/a/get", "/Counter/a/add?token=x", "/version", "/no/such"):
                for credential, let_in in ((TOKEN, True), (OTHER, False)):
                    headers = {"authorization": f"Bearer {credential}"}
                    async with session.post(url + path, data=b"[", headers=headers) as answer:
                        assert (answer.status == 401) is not let_in
            host, _, port = url.partition("://")[2].rpartition(":")
            for line in (f"authorization: Bearer {TOKEN}\x00", f"authorization Bearer {TOKEN}", f"a: {TOKEN}" * 2000):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(f"GET / HTTP/1.1\r\nhost: x\r\n{line}\r\n\r\n".encode())
                with suppress(ConnectionResetError):  # of the long one not all is read
                    assert b" 4" in (await reader.read())[:12]
                writer.close()
    assert await served.stop() == 0

    assert len(served.events) > 2
    assert TOKEN not in str(served.events)
    assert OTHER not in str(served.events)
    assert not [file for file in served.data_dir.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]

"""What `perdure serve` makes of its options: a real process, asked over TLS, or refused before anything is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
import trustme

from tests.conftest import Perdure
from tests.runtime.access.conftest import GOOD, TOKEN, Papers, secret


async def test_both_ports_speak_tls_and_the_ingress_answers_to_the_name_it_was_given(
    perdure: Callable[..., Perdure], papers: Papers, tmp_path: Path
) -> None:
    admin_tokens = secret(tmp_path / "tokens", TOKEN.encode())
    served = perdure("examples/counter.py")
    served.options = ("--tls-cert", str(papers.certificate), "--tls-key", str(papers.key))
    served.options += ("--ingress-host", "app.example", "--admin-token-file", str(admin_tokens))
    await served.start()
    ingress = await served.serving()
    admin = str(served.events[-1]["admin"])

    assert ingress.startswith("https://")
    assert admin.startswith("https://")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=papers.trust)) as session:

        async def status(url: str, **headers: str) -> int:
            async with session.get(url, headers=headers) as answer:
                return answer.status

        assert await status(f"{ingress}/Counter/a/get", host="app.example", origin="https://app.example") == 200
        assert await status(f"{ingress}/Counter/a/get", host="evil.example") == 403
        assert await status(f"{admin}/version") == 401
        assert await status(f"{admin}/version", **GOOD) == 200
    assert await served.stop() == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tls-cert", "{certificate}"], "--tls-cert needs --tls-key"),
        (["--tls-cert", "{certificate}", "--tls-key", "{other}"], "is not that of the certificate"),
        (["--ingress-token-file", "{short}"], "line 1 of"),
        (["--ingress-token-file", "{certificate}"], "by everybody"),
        (["--ingress-host", "https://app.example"], "is no NAME or NAME:PORT"),
        (["--admin", "0.0.0.0:0", "--ingress-token-file", "{good}"], "--admin-token-file"),
    ],
)
async def test_what_can_not_be_used_is_one_line_and_exit_code_2(
    perdure: Callable[..., Perdure], papers: Papers, tmp_path: Path, options: list[str], said: str
) -> None:
    other = secret(tmp_path / "other.pem", trustme.CA().issue_cert("x").private_key_pem.bytes())
    short, good = secret(tmp_path / "short", b"short"), secret(tmp_path / "good", TOKEN.encode())
    files = {"certificate": papers.certificate, "other": other, "short": short, "good": good}
    served = perdure("examples/counter.py")
    served.options = tuple(option.format(**files) for option in options)
    await served.start()

    assert await served.exited() == 2

    [event] = served.events
    assert said in event["line"]
    assert TOKEN not in event["line"]
    assert not served.data_dir.exists()

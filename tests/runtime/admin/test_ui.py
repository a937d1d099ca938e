"""`/ui` over HTTP: the files, what a browser is told of them, and the calls that go through it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from perdure.objects import VirtualObject, handler
from perdure.runtime import admin_ui
from tests.runtime.admin.conftest import Operate

UI = Path(admin_ui.__file__).parent / "ui"


class Jar(VirtualObject):
    count: int = 0

    @handler
    async def add(self, number: int) -> int:
        self.count += number
        return self.count

    @handler(public=False)
    async def hidden(self) -> None: ...


async def test_each_file_is_served_with_its_type_and_the_policy(operate: Operate) -> None:
    """Also without the token, which the page asks for."""
    operator = await operate(Jar, token=b"0123456789abcdef")
    types = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

    for path in sorted(admin_ui.OPEN_PATHS):
        answer = await operator.ask("GET", path)
        kind = types[path.rpartition(".")[2]] if "." in path else "text/html"
        assert answer.status == 200
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
    assert (await operator.ask("GET", "/services")).status == 401
    assert (await operator.ask("POST", "/ui/send/Jar/a/add", b"1")).status == 401


def test_every_file_of_the_folder_is_served_and_packaged() -> None:
    """And no other: the README and its pictures are for this repository."""
    files = {file.name for file in UI.iterdir() if file.suffix in (".html", ".css", ".js", ".svg")}
    packaged = tomllib.loads((UI.parents[1] / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]

    assert files == set(admin_ui.FILES)
    assert {f"ui/*{Path(name).suffix}" for name in files} == {
        one for one in packaged["perdure.runtime"] if "ui/" in one
    }


def test_the_page_fetches_nothing_from_elsewhere_and_makes_elements_of_no_text() -> None:
    """What the policy forbids anyway."""
    for file in sorted(UI.glob("*.js")):
        text = file.read_text()
        assert not re.findall(
            r"\.(?:innerHTML|outerHTML|insertAdjacentHTML|write)\b|\beval\(|new Function|\.style\b", text
        ), file
        assert set(re.findall(r"https?://[^\"'` ]+", text)) <= {"http://www.w3.org/2000/svg"}, file
        for name in re.findall(r'from "([^"]+)"', text):
            assert (UI / name).is_file(), (file, name)
    index = (UI / "index.html").read_text()
    assert "//" not in index.replace("<!doctype", "")
    assert "<style" not in index
    assert re.findall(r"<script(?![^>]* src=)", index) == []


@pytest.mark.parametrize(
    "path", ["/ui/no.js", "/ui/../admin.py", "/ui/%2e%2e/admin.py", "/ui/README.md", "/ui/x/app.js"]
)
async def test_what_is_no_file_of_the_page_is_not_there(operate: Operate, path: str) -> None:
    operator = await operate(Jar)
    assert (await operator.ask("GET", path)).status == 404
    assert (await operator.ask("POST", "/ui")).status == 405


async def test_a_call_goes_through_as_at_the_ingress(operate: Operate) -> None:
    """A message: its id at once, the same one for the same idempotency key."""
    operator = await operate(Jar)
    sent = {"content_type": "application/json", "idempotency_key": "k"}

    first = await operator.ask("POST", "/ui/send/Jar/a%2Fb/add", b"5", **sent)
    again = await operator.ask("POST", "/ui/send/Jar/a%2Fb/add", b"5", **sent)
    late = await operator.ask("POST", "/ui/send/Jar/a%2Fb/add?delay=1h", b"5", content_type="application/json")

    assert (first.status, first.value["status"]) == (202, "Accepted")
    assert again.value == {"invocationId": first.value["invocationId"], "status": "PreviouslyAccepted"}
    assert (await operator.get(late.value["invocationId"])).value["status"] == "scheduled"
    assert (await operator.get(first.value["invocationId"])).value["target"] == "Jar/a/b/add"


async def test_calls_that_are_refused(operate: Operate) -> None:
    operator = await operate(Jar)
    json = {"content_type": "application/json"}

    assert (await operator.ask("POST", "/ui/send/Jar/a/add", b'"x"', **json)).status == 400
    assert (await operator.ask("POST", "/ui/send/Jar/a/hidden", b"", **json)).status == 400
    assert (await operator.ask("POST", "/ui/send/Jar/a/none", b"5", **json)).status == 404
    assert (await operator.ask("POST", "/ui/send/restate/health", b"", **json)).status == 400
    assert (await operator.ask("POST", "/ui/send/Jar/a/add?delay=soon", b"5", **json)).status == 400
    assert (await operator.ask("POST", "/ui/send/Jar/a/add", b"5", content_type="text/plain")).status == 415
    assert (await operator.ask("GET", "/ui/send/Jar/a/add")).status == 405
    assert (await operator.ask("POST", "/ui/send/Jar/a/add", b"5", **json, origin="http://evil.example")).status == 403
    assert (await operator.ask("GET", "/ui", None, host="evil.example")).status == 403

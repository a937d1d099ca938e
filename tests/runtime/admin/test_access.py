"""Who may reach the admin API, and what it says to everybody else."""

from __future__ import annotations

import asyncio
from importlib import metadata
from typing import Any

import pytest

from perdure.objects import VirtualObject, handler
from perdure.runtime import admin
from perdure.runtime.access import is_loopback

Operate = Any

TOKEN = b"0123456789abcdef-token"


class Job(VirtualObject):
    @handler
    async def sleep(self) -> None:
        await asyncio.sleep(3600)


ROUTES = [
    ("GET", "/version"),
    ("GET", "/invocations/{id}"),
    *[("PATCH", f"/invocations/{{id}}/{verb}") for verb in ("pause", "resume", "cancel", "kill")],
    *[("PATCH", f"/invocations/{{id}}/{verb}") for verb in ("purge", "restart-as-new")],
    *[("PATCH", f"/invocations/{verb}?service=Nobody") for verb in ("pause", "resume", "cancel", "kill", "purge")],
    ("GET", "/invocations?status=running"),
    ("GET", "/services/Job/keys"),
    ("GET", "/metrics"),
    ("POST", "/ui/send/Job/a/sleep"),
    ("GET", "/no/such/path"),
]


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic {token}", "{token}"])
async def test_a_wrong_token_opens_nothing(operate: Operate, authorization: str | None) -> None:
    """401 on every route, also on one that doesn't exist; nothing is done."""
    operator = await operate(Job, token=TOKEN)
    handle = await operator.runtime.send(operator.runtime.ref(Job, "a").sleep)
    headers = {} if authorization is None else {"authorization": authorization.format(token=TOKEN.decode())}

    for method, path in ROUTES:
        answer = await operator.ask(method, path.format(id=handle.id), **headers)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert TOKEN.decode() not in str(answer)

    await operator.runtime.advance(1)
    assert operator.runtime.engine.operations.describe(handle.id).status == "suspended"


async def test_the_right_token_opens_every_route(operate: Operate) -> None:
    operator = await operate(Job, token=TOKEN)
    handle = await operator.runtime.send(operator.runtime.ref(Job, "a").sleep)

    for method, path in ROUTES[:-1]:
        answer = await operator.ask(method, path.format(id=handle.id), authorization=f"bearer {TOKEN.decode()}")
        assert answer.status not in (401, 403)


@pytest.mark.parametrize("token", [None, TOKEN])
async def test_health_needs_no_token(operate: Operate, token: bytes | None) -> None:
    """It is for supervisors, and tells nothing."""
    operator = await operate(Job, token=token)

    assert (await operator.ask("GET", "/health")).status == 200


async def test_the_version(operate: Operate) -> None:
    operator = await operate(Job)

    told = (await operator.ask("GET", "/version")).value
    assert told["version"] == metadata.version("perdure")
    assert (told["min_admin_api_version"], told["max_admin_api_version"]) == (2, 3)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9070", "192.0.2.1", "localhost.evil.example", "[::2]:1"]
)
async def test_a_name_that_is_not_this_machines_gets_nowhere(operate: Operate, host: str) -> None:
    """A web page whose own name was made to point here (DNS rebinding) sends that name."""
    operator = await operate(Job)
    handle = await operator.runtime.send(operator.runtime.ref(Job, "a").sleep)

    for method, path in [*ROUTES, ("GET", "/health")]:
        assert (await operator.ask(method, path.format(id=handle.id), host=host)).status == 403
    assert operator.runtime.engine.operations.describe(handle.id).status == "suspended"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9070", "[::1]:9070", "perdure.localhost:1"])
async def test_names_of_this_machine_are_taken(operate: Operate, host: str) -> None:
    operator = await operate(Job)

    assert (await operator.ask("GET", "/version", host=host)).status == 200


async def test_with_a_token_any_name_is_taken(operate: Operate) -> None:
    """The token is what a page can't know."""
    operator = await operate(Job, token=TOKEN)

    answer = await operator.ask("GET", "/version", host="ops.example", authorization=f"Bearer {TOKEN.decode()}")

    assert answer.status == 200


async def test_a_browser_that_asks_first_is_not_allowed(operate: Operate) -> None:
    """A page of another site may not PATCH without asking, and nobody ever consents."""
    operator = await operate(Job)
    handle = await operator.runtime.send(operator.runtime.ref(Job, "a").sleep)

    path = f"/invocations/{handle.id}/kill"
    answer = await operator.ask("OPTIONS", path, origin="http://evil.example", access_control_request_method="PATCH")

    assert answer.status == 403
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/invocations/", 400),
        ("GET", "/nowhere", 404),
        ("PATCH", "/invocations/inv_1/fly", 404),
        ("GET", "/invocations/a/b/c", 404),
        ("POST", "/health", 405),
        ("POST", "/invocations/inv_1/kill", 405),
        ("DELETE", "/invocations/inv_1", 405),
        ("GET", "/invocations/%ff", 400),
        ("GET", "/invocations/%2", 400),
    ],
)
async def test_bad_paths(operate: Operate, method: str, path: str, status: int) -> None:
    """JSON with one line that says what there is."""
    operator = await operate(Job)

    answer = await operator.ask(method, path)

    assert answer.status == status
    assert "\n" not in answer.value["message"]


async def test_a_body_is_of_no_consequence_but_bounded(operate: Operate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_BODY_BYTES_MAX", 64 * 1024)
    operator = await operate(Job)
    handle = await operator.runtime.send(operator.runtime.ref(Job, "a").sleep)
    path = f"/invocations/{handle.id}/pause"

    assert (await operator.ask("PATCH", path, b"x" * 100_000)).status == 413
    assert (await operator.ask("PATCH", path, b'{"why": "not"}')).status == 202


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

"""The admin API as Restate's command line asks for it, under the versions that `/version` names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from perdure.objects import Service, VirtualObject, Workflow, handler
from perdure.runtime.restate_ids import ours, theirs

if TYPE_CHECKING:
    from tests.runtime.admin.conftest import Operate, Operator


class Job(VirtualObject, retention=60):
    count: int = 0

    @handler
    async def add(self, amount: int) -> int:
        self.count += amount
        return self.count

    @handler
    async def wait(self) -> None:
        await self.ctx.sleep(3600)


class Post(Service):
    @handler
    async def deliver(self) -> None: ...


class Signup(Workflow):
    @handler
    async def run(self) -> None: ...


async def waiting(operator: Operator, key: str = "a") -> str:
    id = (await operator.runtime.send(operator.runtime.ref(Job, key).wait)).id
    await operator.until(lambda: operator.runtime.engine.operations.describe(id).status == "suspended")
    return id


@pytest.mark.parametrize("version", ["v2", "v3"])
async def test_services_say_where_they_are_deployed(operate: Operate, version: str) -> None:
    """All in one deployment, which has them all; how long answers are kept, in a form that it reads."""
    operator = await operate(Job, Post, Signup)

    services = (await operator.ask("GET", f"/{version}/services")).value["services"]
    one = (await operator.ask("GET", f"/{version}/services/Job")).value
    [deployment] = (await operator.ask("GET", f"/{version}/deployments")).value["deployments"]
    described = (await operator.ask("GET", f"/{version}/deployments/{deployment['id']}")).value

    assert [(service["name"], service["ty"]) for service in services] == [
        ("Job", "VirtualObject"),
        ("Post", "Service"),
        ("Signup", "Workflow"),
    ]
    assert {service["deployment_id"] for service in services} == {deployment["id"]}
    assert services[0] == one == described["services"][0]
    assert deployment["services"][0] == {"name": "Job", "revision": 1}
    assert [service["idempotency_retention"] for service in services] == ["60000ms", "86400000ms", "86400000ms"]
    assert [service.get("workflow_completion_retention") for service in services] == [None, None, "2592000000ms"]
    assert services[2]["handlers"][0]["ty"] == "Workflow"


@pytest.mark.parametrize("form", [theirs, ours])
async def test_an_invocation_is_meant_by_its_id_in_either_form(operate: Operate, form: type[str]) -> None:
    """What is answered to an action is what our own path answers."""
    operator = await operate(Job)
    id = await waiting(operator)
    path = f"/v3/invocations/{form(id)}"

    assert (await operator.ask("PATCH", f"{path}/pause")).status == 202
    assert (await operator.ask("PATCH", f"{path}/resume")).status == 200
    assert (await operator.ask("PATCH", f"{path}/kill")).status == 200
    assert (await operator.ask("PATCH", f"{path}/kill")).status == 409
    assert (await operator.ask("PATCH", f"{path}/purge")).status == 200
    assert (await operator.ask("PATCH", f"{path}/purge")).status == 404


async def test_the_id_of_what_is_restarted_is_in_its_form(operate: Operate) -> None:
    """So that the command line can go on with it."""
    operator = await operate(Job)
    id = await waiting(operator)
    await operator.patch(id, "kill")

    made = (await operator.ask("PATCH", f"/v3/invocations/{theirs(id)}/restart-as-new")).value["new_invocation_id"]

    assert made == theirs(ours(made)) != theirs(id)
    assert (await operator.get(ours(made))).value["target"] == "Job/a/wait"


async def test_state_is_written_as_on_our_own_path(operate: Operate) -> None:
    """With the version that was read."""
    operator = await operate(Job)
    await operator.runtime.ref(Job, "a").add(3)
    body = b'{"object_key": "a", "new_state": {"count": [52, 50]}, "version": "of another state"}'

    late = await operator.ask("POST", "/v3/services/Job/state", body, content_type="application/json")
    assert late.status == 409

    body = b'{"object_key": "a", "new_state": {"count": [52, 50]}, "version": null}'
    done = await operator.ask("POST", "/v3/services/Job/state", body, content_type="application/json")
    assert done.status == 202
    assert await operator.runtime.ref(Job, "a").add(0) == 42


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v3", 404),
        ("GET", "/v3/subscriptions", 404),
        ("GET", "/v4/services", 404),
        ("GET", "/v3/services/Nobody", 404),
        ("GET", "/v3/deployments/dp_1xyz", 404),
        ("POST", "/v3/deployments", 405),
        ("DELETE", "/v3/deployments/dp_10000000000000000000001", 405),
        ("PATCH", "/v3/services/Job", 405),
        ("PATCH", "/v3/invocations/inv_1gdJBtdVEcM942bjcDmb1c1khoaJe11Hbz/kill", 400),
        ("PATCH", "/v3/invocations/inv_10000000006X02wzHqZJrfJVQvGQ9esJ61/kill", 404),
        ("PATCH", "/v3/invocations/inv_10000000006X02wzHqZJrfJVQvGQ9esJ61/dance", 404),
        ("GET", "/v3/invocations/inv_10000000006X02wzHqZJrfJVQvGQ9esJ61/kill", 405),
        ("GET", "/v3/query", 405),
        ("POST", "/v3/query", 415),
    ],
)
async def test_what_there_is_not(operate: Operate, method: str, path: str, status: int) -> None:
    """With one line that says what there is."""
    answer = await (await operate(Job)).ask(method, path)

    assert answer.status == status
    assert "\n" not in answer.value["message"]

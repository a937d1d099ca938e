"""What is served, for people and tools, and the state of objects under an operator's hands."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import Struct

from perdure.journal import MemoryJournal
from perdure.objects import List, Map, Service, VirtualObject, Workflow, handler, shared
from perdure.runtime import ManualClock, Runtime
from perdure.runtime.state_edits import version_of

if TYPE_CHECKING:
    from tests.runtime.admin.conftest import Operate, Operator

JSON = {"content_type": "application/json"}


class Line(Struct):
    text: str
    at: datetime | None = None


class Basket(VirtualObject, retention=60, time_to_live=3600):
    """What somebody is about to buy."""

    lines: list[Line]
    paid: int = 0
    log: List[str]
    notes: Map[str, int]

    @handler
    async def add(self, line: Line) -> int:
        """Puts a line in.

        And counts them."""
        self.lines.append(line)
        self.log.append(line.text)
        self.notes[line.text] = 1
        return len(self.lines)

    @handler
    async def pay(self, amount: int, *, tip: int = 0) -> int:
        self.paid += amount + tip
        return self.paid

    @handler
    async def hold(self) -> int:
        self.paid += 1
        await self.ctx.sleep(60)
        return self.paid

    @handler
    async def doubts(self) -> int:
        if self.paid < 100:
            raise RuntimeError("too little")
        return self.paid

    @handler(public=False)
    async def inner(self) -> None: ...

    @shared
    async def texts(self) -> AsyncIterator[str]:
        for line in self.lines:
            yield line.text

    @shared
    async def all(self) -> dict[str, Any]:
        return {
            "lines": [line.text for line in self.lines],
            "paid": self.paid,
            "log": [*self.log],
            "n": len(self.notes),
        }


class Post(Service):
    @handler
    async def send(self, to: str = "all") -> None: ...


class Order(Workflow):
    @handler
    async def run(self, id: int) -> None: ...


@pytest.fixture
async def operator(operate: Operate) -> Operator:
    return await operate(Basket, Post, Order)


async def replace(operator: Operator, **edit: object) -> Any:
    return await operator.ask("POST", "/services/Basket/state", json.dumps(edit).encode(), **JSON)


async def test_what_is_served(operator: Operator) -> None:
    """In the form of Restate's admin API, and with what it does not tell."""
    answer = await operator.ask("GET", "/services")
    assert answer.status == 200
    basket, order, post = answer.value["services"]
    assert [service["ty"] for service in (basket, order, post)] == ["VirtualObject", "Workflow", "Service"]
    assert basket["documentation"] == "What somebody is about to buy."
    assert (basket["retention_seconds"], basket["time_to_live_seconds"]) == (60, 3600)
    handlers = {handler["name"]: handler for handler in basket["handlers"]}
    assert (handlers["add"]["ty"], handlers["texts"]["ty"]) == ("Exclusive", "Shared")
    assert (handlers["texts"]["stream"], handlers["inner"]["public"]) == (True, False)
    assert handlers["pay"]["input_json_schema"]["$defs"]["Arguments"]["required"] == ["amount"]
    assert handlers["hold"]["input_json_schema"] is None
    assert handlers["add"]["output_json_schema"]["type"] == "integer"
    assert basket["state"]["paid"]["type"] == "integer"
    one = await operator.ask("GET", "/services/Basket")
    assert one.value == basket
    assert (await operator.ask("GET", "/services/Basket/handlers/pay")).value == handlers["pay"]
    assert (await operator.ask("GET", "/services/Basket/handlers")).value == {"handlers": basket["handlers"]}


async def test_openapi(operator: Operator) -> None:
    """Of all, or of one; what is not public is not in it."""
    every = (await operator.ask("GET", "/openapi")).value
    assert every["openapi"] == "3.1.0"
    assert {"/Basket/{key}/add", "/Basket/{key}/add/send", "/Post/send", "/Order/{key}/run"} <= every["paths"].keys()
    assert not [path for path in every["paths"] if "inner" in path]
    one = (await operator.ask("GET", "/services/Basket/openapi")).value
    assert not [path for path in one["paths"] if not path.startswith("/Basket/")]
    add = one["paths"]["/Basket/{key}/add"]["post"]
    assert add["summary"] == "Puts a line in."
    assert {parameter["name"] for parameter in add["parameters"]} == {"key", "idempotency-key"}
    assert add["requestBody"]["required"]
    reference = add["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert one["components"]["schemas"][reference.rpartition("/")[2]]["required"] == ["text"]
    run = every["paths"]["/Order/{key}/run"]["post"]
    assert [parameter["name"] for parameter in run["parameters"]] == ["key"]  # its key makes it unique
    assert not every["paths"]["/Post/send"]["post"]["requestBody"]["required"]
    assert "text/event-stream" in one["paths"]["/Basket/{key}/texts"]["post"]["responses"]["200"]["content"]


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        here = [value["$ref"]] if isinstance(value.get("$ref"), str) else []  # pyright: ignore
        return here + [found for item in value.values() for found in _references(item)]  # pyright: ignore
    if isinstance(value, list):
        return [found for item in value for found in _references(item)]  # pyright: ignore
    return []


async def test_what_openapi_refers_to_is_there(operator: Operator) -> None:
    document = (await operator.ask("GET", "/openapi")).value
    references = _references(document)
    assert references
    for reference in references:
        assert reference.startswith("#/components/schemas/")
        assert reference.rpartition("/")[2] in document["components"]["schemas"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/services/Nothing", 404),
        ("GET", "/services/Basket/handlers/nothing", 404),
        ("GET", "/services/Basket/nothing", 404),
        ("GET", "/services/Basket/handlers/add/more", 404),
        ("GET", "/openapi/more", 404),
        ("POST", "/services", 405),
        ("PUT", "/services/Basket/state/a", 405),
        ("GET", "/services/Basket/state", 405),
        ("GET", "/services/Post/state/a", 400),
        ("GET", "/services/Basket/state/", 400),
        ("GET", "/services/Basket/state/a%00", 400),
        ("DELETE", "/services/Basket/state/a?versoin=x", 400),
        ("GET", "/services/Nothing/state/a", 404),
    ],
)
async def test_what_is_not_there(operator: Operator, method: str, path: str, status: int) -> None:
    answer = await operator.ask(method, path)
    assert answer.status == status, answer.value
    assert answer.value["message"]


async def test_a_state_is_read_and_replaced(operator: Operator) -> None:
    """With its version; what is left out of the new one is at its default again, Lists and Maps stay."""
    basket = operator.runtime.ref(Basket, "a/b ü")
    await basket.add(Line("milk"))
    await basket.pay(5, tip=1)
    read = (await operator.ask("GET", "/services/Basket/state/a%2Fb%20%C3%BC")).value
    assert read["state"] == {"lines": [{"text": "milk", "at": None}], "paid": 6}
    assert read["entries"] == {"log": 1, "notes": 1}
    assert (read["holder"], read["waiting"], read["key"]) == (None, 0, "a/b ü")

    edited = await replace(operator, object_key="a/b ü", state={"paid": 7}, version=read["version"])
    assert edited.status == 202
    assert await basket.all() == {"lines": [], "paid": 7, "log": ["milk"], "n": 1}
    assert (await operator.ask("GET", "/services/Basket/state/a%2Fb%20%C3%BC")).value["version"] != read["version"]


async def test_a_conflict_is_told(operator: Operator) -> None:
    """Restate's server drops such an edit without a word."""
    basket = operator.runtime.ref(Basket, "a")
    await basket.pay(1)
    version = (await operator.ask("GET", "/services/Basket/state/a")).value["version"]
    await basket.pay(1)
    answer = await replace(operator, object_key="a", state={"paid": 9}, version=version)
    assert (answer.status, "changed since" in answer.value["message"]) == (409, True)
    assert (await operator.ask("DELETE", f"/services/Basket/state/a?version={version}")).status == 409
    assert (await basket.all())["paid"] == 2


async def test_the_form_of_restate(operator: Operator) -> None:
    """Bytes as numbers; without a version whatever is there is replaced."""
    answer = await replace(operator, object_key="a", new_state={"paid": [*b"41"]})
    assert answer.status == 202
    assert (await operator.runtime.ref(Basket, "a").all())["paid"] == 41


def test_versions_are_those_of_restate() -> None:
    """The examples in its source."""
    assert version_of({"name": b"bob"}) == "tDqA04Lj3_qJ-PgNPTecXDGZgpwy6jm2Ni2BYqJIthM"
    assert version_of({"b": b"bbb", "a": b"aaa"}) == "RVM17P6x18Wp-JnzQ01BzmqCvhAunTOQI_az6Px3Zyk"
    assert version_of({}) == "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"


async def test_a_cleared_object_is_new(operator: Operator) -> None:
    """Its Lists and Maps too."""
    basket = operator.runtime.ref(Basket, "a")
    await basket.add(Line("milk"))
    assert (await operator.ask("DELETE", "/services/Basket/state/a")).status == 202
    assert await basket.all() == {"lines": [], "paid": 0, "log": [], "n": 0}
    assert (await operator.ask("GET", "/services/Basket/state/a")).value["entries"] == {}
    assert await basket.add(Line("bread")) == 1


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"state": {"paid": "much"}}, "Basket.paid"),
        ({"state": {"lines": [{"text": 5}]}}, "[0].text"),
        ({"state": {"payed": 1}}, "payed"),
        ({"state": {"log": []}}, "List or a Map"),
        ({"new_state": {"paid": [256]}}, "0 to 255"),
        ({"new_state": {"paid": []}}, "Basket.paid"),
        ({"new_state": {}, "state": {}}, "new_state"),
        ({}, "new_state"),
        ({"state": {}, "versoin": "1"}, "versoin"),
        ({"state": 5}, "state"),
    ],
)
async def test_an_unfit_edit_is_refused(operator: Operator, edit: dict[str, object], words: str) -> None:
    """With what is wrong about it, and nothing is done."""
    await operator.runtime.ref(Basket, "a").pay(1)
    answer = await replace(operator, object_key="a", **edit)
    assert answer.status == 400
    assert words in answer.value["message"]
    assert (await operator.runtime.ref(Basket, "a").all())["paid"] == 1


async def test_a_page_of_another_site_edits_nothing(operator: Operator) -> None:
    """It can send a form or plain text without asking, never JSON."""
    body = b'{"object_key": "a", "state": {}}'
    assert (await operator.ask("POST", "/services/Basket/state", body, content_type="text/plain")).status == 415


async def test_a_state_in_use_is_left_alone(operator: Operator) -> None:
    """What a handler has read, its replay has to read again."""
    handle = await operator.runtime.send(operator.runtime.ref(Basket, "a").hold)
    await operator.runtime.engine.settled()
    answer = await replace(operator, object_key="a", state={"paid": 50})
    assert answer.status == 409
    assert handle.id in answer.value["message"]
    await operator.runtime.advance(61)
    assert (await replace(operator, object_key="a", state={"paid": 50})).status == 202


async def test_what_fails_for_its_state_is_mended(operator: Operator) -> None:
    """It holds its key, but has done nothing yet: the next attempt reads the new state."""
    handle = await operator.runtime.send(operator.runtime.ref(Basket, "a").doubts)
    await operator.runtime.engine.settled()
    assert (await operator.get(handle.id)).value["status"] == "backing-off"
    assert (await replace(operator, object_key="a", state={"paid": 100})).status == 202
    await operator.runtime.advance(60)
    assert await handle.attach() == 100


async def test_an_edit_outlives_the_process(operator: Operator) -> None:
    """As everything that was acknowledged."""
    assert (await replace(operator, object_key="a", state={"paid": 3})).status == 202
    journal = operator.runtime.engine._journal  # pyright: ignore[reportPrivateUsage]
    assert isinstance(journal, MemoryJournal)
    kept = MemoryJournal(journal.records)
    async with Runtime([Basket], data_dir=None, clock=ManualClock(), journal=kept) as again:
        assert (await again.ref(Basket, "a").all())["paid"] == 3


async def test_an_edited_object_lives_for_its_time(operator: Operator) -> None:
    """It is forgotten an hour after the edit."""
    assert (await replace(operator, object_key="a", state={"paid": 3})).status == 202
    await operator.runtime.advance(3500)
    assert (await operator.ask("GET", "/services/Basket/state/a")).value["state"] == {"paid": 3}
    await operator.runtime.advance(200)
    await operator.runtime.engine.settled()
    assert (await operator.ask("GET", "/services/Basket/state/a")).value["state"] == {}

"""Invocations by filter, what is done to many of them at once, and the keys of a class."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import pytest_asyncio

from perdure.objects import TerminalError, VirtualObject, handler

# Fixtures' types; see conftest.py, which tests can't import from.
Serve = Any
Asker = Any

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Stove(VirtualObject):
    heat: int = 0

    @handler
    async def warm(self, by: int) -> int:
        if by < 0:
            raise TerminalError("it is cold")
        self.heat += by
        return self.heat

    @handler
    async def simmer(self) -> None:
        await self.ctx.awakeable(int)

    @handler
    async def watch_over(self, other: str) -> None:
        try:
            await self.ctx.ref(Stove, other).simmer()
        except TerminalError:
            self.heat += 1000


class Table(VirtualObject):
    laid: bool = False

    @handler
    async def lay(self) -> None:
        self.laid = True


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asker(serve: Serve) -> AsyncIterator[Asker]:
    yield await serve(Stove, Table)


async def ask(asker: Asker, method: str, path: str, **filters: object) -> tuple[int, Any]:
    url = f"{asker.url}{path}?{urlencode(filters)}"
    while True:
        async with asker.session.request(method, url) as response:
            if response.status != 504:  # queries give way to everything else on the machine
                return response.status, await response.json()


async def ids(asker: Asker, **filters: object) -> list[str]:
    status, answer = await ask(asker, "GET", "/invocations", **filters)
    assert status == 200, answer
    return [row["id"] for row in answer["invocations"]]


async def simmering(asker: Asker, *keys: str) -> list[str]:
    """As many, in the order of the keys."""
    found: list[str] = []
    for key in keys:
        found.append((await asker.runtime.send(asker.runtime.ref(Stove, key).simmer)).id)
    return found


async def test_each_filter_finds_what_it_means(asker: Asker) -> None:
    a, b = await simmering(asker, "f1", "it's\u202e")
    await (await asker.runtime.send(asker.runtime.ref(Stove, "f2").warm, 1)).attach()
    with pytest.raises(TerminalError):
        await (await asker.runtime.send(asker.runtime.ref(Stove, "f2").warm, -1)).attach()

    assert await ids(asker, key="f1") == [a]
    assert await ids(asker, key="it's\u202e") == [b]
    assert set(await ids(asker, service="Stove", handler="simmer", status="suspended,pending")) >= {a, b}
    assert await ids(asker, service="Table") == []
    assert await ids(asker, status="paused") == []
    [failed] = await ids(asker, key="f2", result="failure")
    assert await ids(asker, key="f2", result="success") != [failed]
    assert await ids(asker, key="f1", created_after="2020-01-01T00:00:00Z") == [a]
    assert await ids(asker, key="f1", created_before="2020-01-01") == []


async def test_pages_go_on_where_the_one_before_ended(asker: Asker) -> None:
    """The newest first; none twice, none left out."""
    made = await simmering(asker, *(f"p{number}" for number in range(7)))
    seen: list[str] = []
    cursor: dict[str, object] = {}
    while True:
        _, page = await ask(asker, "GET", "/invocations", service="Stove", limit=3, **cursor)
        seen += [row["id"] for row in page["invocations"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}

    assert [id for id in seen if id in made] == made[::-1]
    assert len(set(seen)) == len(seen)


async def test_many_are_stopped_at_once(asker: Asker) -> None:
    """Those that the filter means; a dry run only tells."""
    meant = await simmering(asker, "k", "k", "k")
    [other] = await simmering(asker, "other")

    status, told = await ask(asker, "PATCH", "/invocations/kill", key="k", dry_run="true")
    assert (status, {row["id"] for row in told["matched"]}, told["done"]) == (200, set(meant), [])
    _, done = await ask(asker, "PATCH", "/invocations/kill", key="k", limit=2)

    assert len(done["done"]) == 2
    assert (done["refused"], done["more"]) == ([], True)
    _, rest = await ask(asker, "PATCH", "/invocations/kill", key="k", status="suspended,pending,ready,running")
    assert set(done["done"]) | set(rest["done"]) == set(meant)
    describe = asker.runtime.engine.operations.describe
    assert [describe(id).status for id in meant] == ["completed"] * 3
    assert describe(other).status == "suspended"


async def test_a_caller_is_stopped_before_what_it_called(asker: Asker) -> None:
    """Else its code would run on with the error; what waits behind it doesn't begin in between either."""
    caller = (await asker.runtime.send(asker.runtime.ref(Stove, "above").watch_over, "below")).id
    behind = (await asker.runtime.send(asker.runtime.ref(Stove, "above").warm, 1)).id
    while not await ids(asker, key="below", status="suspended"):
        pass

    meant = {"service": "Stove", "status": "suspended,pending"}
    _, told = await ask(asker, "PATCH", "/invocations/kill", **meant, dry_run="true")
    matched = [row["id"] for row in told["matched"]]
    await ask(asker, "PATCH", "/invocations/kill", **meant)

    [below] = await ids(asker, key="below")
    assert matched.index(behind) < matched.index(caller) < matched.index(below)
    assert asker.runtime.engine.state.read("Stove", "above").state == {}


async def test_what_one_is_refused_for_stops_no_other(asker: Asker) -> None:
    await (await asker.runtime.send(asker.runtime.ref(Stove, "mixed").warm, 1)).attach()
    [open_] = await simmering(asker, "mixed")

    _, answer = await ask(asker, "PATCH", "/invocations/cancel", key="mixed")

    assert answer["done"] == [open_]
    assert [refused["code"] for refused in answer["refused"]] == [409]


@pytest.mark.parametrize(
    ("method", "path", "filters", "why"),
    [
        ("GET", "/invocations", {"status": "stuck"}, "no status 'stuck'"),
        ("GET", "/invocations", {"status": ""}, "no status ''"),
        ("GET", "/invocations", {"status": "paused,"}, "no status ''"),
        ("GET", "/invocations", {"": "x"}, "no filter ''"),
        ("GET", "/invocations", {"colour": "red"}, "no filter 'colour'"),
        ("GET", "/invocations", {"limit": "0"}, "from 1 to 1000"),
        ("GET", "/invocations", {"limit": "\u0661"}, "from 1 to 1000"),
        ("GET", "/invocations", {"created_after": "yesterday"}, "such as 2026"),
        ("GET", "/invocations", {"result": "maybe"}, "success or failure"),
        ("GET", "/invocations", {"cursor": "2026'"}, "page before"),
        ("PATCH", "/invocations/kill", {}, "would be all of them"),
        ("PATCH", "/invocations/kill", {"limit": "5"}, "would be all of them"),
        ("PATCH", "/invocations/kill", {"service": ""}, "service is empty"),
        ("GET", "/invocations", {"handler": ""}, "handler is empty"),
        ("PATCH", "/invocations/kill", {"key": "x", "dry_run": "perhaps"}, "dry_run"),
        ("PATCH", "/invocations/kill", {"key": "x", "cursor": "y"}, "no filter 'cursor'"),
        ("GET", "/services/Stove/keys", {"limit": "many"}, "from 1 to 1000"),
    ],
)
async def test_a_filter_that_is_none(
    asker: Asker, method: str, path: str, filters: dict[str, object], why: str
) -> None:
    status, answer = await ask(asker, method, path, **filters)

    assert status == 400
    assert why in answer["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/invocations", 405), ("GET", "/invocations/kill", 405)]
)
async def test_another_method(asker: Asker, method: str, path: str, status: int) -> None:
    assert (await ask(asker, method, path))[0] == status


async def test_a_status_given_twice(asker: Asker) -> None:
    async with asker.session.get(f"{asker.url}/invocations?status=paused&status=running") as response:
        assert response.status == 400


async def test_keys_of_a_class(asker: Asker) -> None:
    for key in ("a/b", "b", "ä", "c"):
        await asker.runtime.ref(Table, key).lay()

    _, first = await ask(asker, "GET", "/services/Table/keys", limit=2)
    _, second = await ask(asker, "GET", "/services/Table/keys", after=first["next"])

    assert first["keys"] == ["a/b", "b"]
    assert second == {"keys": ["c", "ä"], "next": None}
    assert (await ask(asker, "GET", f"/services/{quote('No such')}/keys"))[0] == 404

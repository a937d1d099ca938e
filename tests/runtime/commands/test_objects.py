"""`perdure services` and `perdure state`: what is shown of classes and objects, and how an object is mended."""

from __future__ import annotations

import shlex
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import pytest_asyncio
from msgspec import Meta, Struct

from perdure.objects import List, Service, VirtualObject, handler

# Fixtures' types; see conftest.py, which tests can't import from.
Serve = Any
Typist = Any
Typing = Callable[[Any], Any]

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Wish(Struct):
    what: str
    count: int = 1


class Chain(Struct):
    next: Chain | None = None


class Sack(VirtualObject):
    """What somebody gets.

    More of this is not shown.
    """

    held: Annotated[int, Meta(ge=-10)] = 0
    colour: Literal["red", "brown"] = "brown"
    wishes: List[Wish]

    @handler
    async def put(self, amount: int) -> int:
        self.held += amount
        return self.held

    @handler
    async def wish(self, wish: Wish) -> None:
        self.wishes.append(wish)

    @handler
    async def swap(self, mine: Wish, *, times: int = 1) -> Wish:
        return mine

    @handler
    async def lengthen(self, chain: Chain) -> list[Wish]:
        return []

    @handler
    async def shake(self, times: int = 1) -> None: ...

    @handler
    async def keep_open(self) -> None:
        await self.ctx.awakeable(int)


class Bell(Service):
    @handler
    async def ring(self) -> bool:
        return True


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(serve: Serve) -> AsyncIterator[Typist]:
    yield await serve(Sack, Bell)


@pytest.fixture
def typist(served: Typist, typing: Typing) -> Typist:
    return typing(served)


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """An editor that does this with the `text` that it finds."""

    def install(change: str) -> None:
        script = tmp_path / "editor.py"
        script.write_text(
            "import pathlib, sys\npath = pathlib.Path(sys.argv[1])\ntext = path.read_text()\n"
            f"{change}\npath.write_text(text)\n"
        )
        monkeypatch.setenv("EDITOR", shlex.join([sys.executable, str(script)]))

    monkeypatch.delenv("VISUAL", raising=False)
    return install


async def state(typist: Typist, key: str) -> Any:
    return (await typist.types("state", "get", f"Sack/{key}")).json


# --- classes ----------------------------------------------------------------------------------------------------------


async def test_classes_are_listed(typist: Typist) -> None:
    said = await typist.types("services", "list")

    assert said.code == 0
    assert ["Bell", "Service", "1", "ring"] in [line.split()[1::2] for line in said.out.splitlines()]
    assert said.out.endswith("2 classes\n")
    assert [each["name"] for each in (await typist.types("services", "list", "--json")).json] == ["Bell", "Sack"]


async def test_a_class_is_described_in_words(typist: Typist) -> None:
    said = await typist.types("services", "describe", "Sack")

    assert "Sack, VirtualObject, version 1\nWhat somebody gets.\n" in said.out
    assert "More of this" not in said.out
    assert '"brown" | "red"' in said.out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.out.splitlines()]
    assert {row[0]: (row[2], row[3]) for row in cells if len(row) == 4} == {
        "put": ("integer", "integer"),
        "wish": ("{what: string, count?: integer}", "null"),
        "swap": ("{mine: Wish, times?: integer}", "{what: string, count?: integer}"),
        "lengthen": ("{next?: Chain | null}", "[Wish]"),
        "shake": ("integer, optional", "null"),
        "keep_open": ("", "null"),
    }


async def test_a_class_that_is_not_served(typist: Typist) -> None:
    said = await typist.types("services", "describe", "Sock")

    assert said.code == 6
    assert "'Sock'" in said.complaint


# --- state ------------------------------------------------------------------------------------------------------------


async def test_state_is_printed_as_json(typist: Typist) -> None:
    await typist.types("call", "Sack/a%2Fb/put", "5")

    assert await state(typist, "a%2Fb") == {"held": 5}
    assert (await typist.types("state", "get", "Sack/a%2Fb", "held")).out == "5\n"
    view = (await typist.types("state", "get", "Sack/a%2Fb", "--json")).json
    assert (view["key"], view["state"], view["holder"]) == ("a/b", {"held": 5}, None)


async def test_what_a_list_holds_is_said_to_be_left_out(typist: Typist) -> None:
    await typist.types("call", "Sack/listed/wish", '{"what": "ball"}')

    said = await typist.types("state", "get", "Sack/listed")

    assert said.out == "{}\n"
    assert "wishes is not shown" in said.err


async def test_a_field_that_has_no_value(typist: Typist) -> None:
    said = await typist.types("state", "get", "Sack/empty", "held")

    assert said.code == 1
    assert "no value for 'held'" in said.complaint


@pytest.mark.parametrize(("value", "becomes"), [("7", 7), ("-7", -7)])
async def test_a_field_is_set(typist: Typist, value: str, becomes: int) -> None:
    await typist.types("state", "set", "Sack/set", "colour", "red")

    assert (await typist.types("state", "set", "Sack/set", "held", value)).out == "Sack/set: held is set\n"

    assert await state(typist, "set") == {"colour": "red", "held": becomes}
    assert (await typist.types("call", "Sack/set/put", "1")).out == f"{becomes + 1}\n"


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("held", "many", "held"),
        ("held", "-11", "held"),
        ("hold", "1", "has no field 'hold'"),
        ("colour", "1", "colour"),
    ],
)
async def test_a_value_that_does_not_fit_changes_nothing(typist: Typist, field: str, value: str, why: str) -> None:
    await typist.types("call", "Sack/unfit/put", "0")
    before = await state(typist, "unfit")

    said = await typist.types("state", "set", "Sack/unfit", field, value)

    assert said.code == 1
    assert why in said.complaint
    assert await state(typist, "unfit") == before


async def test_a_version_that_has_passed_is_refused(typist: Typist) -> None:
    await typist.types("call", "Sack/old/put", "1")
    old = (await typist.types("state", "get", "Sack/old", "--json")).json["version"]
    await typist.types("call", "Sack/old/put", "1")

    for command in (["set", "Sack/old", "held", "9"], ["clear", "Sack/old", "--yes"]):
        said = await typist.types("state", *command, "--version", old)
        assert said.code == 8
        assert "version" in said.complaint

    for command in (["set", "Sack/old", "held", "9"], ["clear", "Sack/old", "--yes"]):
        assert (await typist.types("state", *command, "--version", "")).code != 0, "a variable that was not set"

    assert await state(typist, "old") == {"held": 2}


async def test_state_is_edited(typist: Typist, editor: Callable[[str], None]) -> None:
    await typist.types("call", "Sack/edited/put", "1")
    editor("text = text.replace('1', '10')")

    assert (await typist.types("state", "edit", "Sack/edited")).out == "Sack/edited is changed\n"

    assert await state(typist, "edited") == {"held": 10}


async def test_an_edit_that_changes_nothing(typist: Typist, editor: Callable[[str], None]) -> None:
    editor("pass")

    assert (await typist.types("state", "edit", "Sack/same")).out == "Sack/same stays as it was\n"


@pytest.mark.parametrize(
    ("change", "code", "why"),
    [
        ("text = '{'", 2, "no JSON"),
        ("text = '[1]'", 2, "no object of JSON"),
        ("text = text.replace('1', '\"x\"')", 1, "held"),
    ],
)
async def test_what_was_written_is_kept_if_it_is_refused(
    typist: Typist, editor: Callable[[str], None], change: str, code: int, why: str
) -> None:
    await typist.types("call", "Sack/kept/put", "0")
    await typist.types("state", "set", "Sack/kept", "held", "1")
    editor(change)

    said = await typist.types("state", "edit", "Sack/kept")

    assert said.code == code
    assert why in said.complaint
    kept = Path(said.err.rpartition(" is in ")[2].strip())
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.read_text() != ""
    kept.unlink()
    assert await state(typist, "kept") == {"held": 1}


async def test_an_edit_that_somebody_overtakes_overwrites_nothing(
    typist: Typist, editor: Callable[[str], None]
) -> None:
    """The handler runs while the editor is open."""
    await typist.types("call", "Sack/race/put", "1")
    editor(
        "import urllib.request\n"
        f"urllib.request.urlopen(urllib.request.Request({typist.ingress + '/Sack/race/put'!r}, b'1', method='POST'))\n"
        "text = text.replace('1', '100')"
    )

    said = await typist.types("state", "edit", "Sack/race")

    assert said.code == 8
    assert "version" in said.complaint
    Path(said.err.rpartition(" is in ")[2].strip()).unlink()
    assert await state(typist, "race") == {"held": 2}


async def test_an_editor_that_fails(typist: Typist, editor: Callable[[str], None]) -> None:
    editor("sys.exit(3)")

    said = await typist.types("state", "edit", "Sack/same")

    assert said.code == 2
    assert "EDITOR" in said.complaint


@pytest.mark.parametrize("command", ["rm", 'vim "x', "nowhere-to-be-found", ""])
async def test_an_editor_that_is_none(typist: Typist, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """One that removes the file, or is no command: one line, and nothing was changed."""
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", command)
    monkeypatch.setenv("PATH", "/bin" if command else "")

    said = await typist.types("state", "edit", "Sack/same")

    assert said.code == 2
    assert "name an editor in VISUAL or EDITOR; nothing was changed" in said.complaint


async def test_what_is_no_text_is_not_taken(typist: Typist, editor: Callable[[str], None]) -> None:
    """An editor may save in any encoding."""
    editor("path.write_bytes(b'\\xff'); sys.exit()")

    said = await typist.types("state", "edit", "Sack/same")

    assert said.code == 2
    assert "nothing was changed" in said.complaint


async def test_state_is_cleared_with_yes_only(typist: Typist) -> None:
    await typist.types("call", "Sack/gone/put", "1")
    await typist.types("call", "Sack/gone/wish", '{"what": "ball"}')

    refused = await typist.types("state", "clear", "Sack/gone")
    assert refused.code == 2
    assert "--yes" in refused.complaint
    assert await state(typist, "gone") == {"held": 1}

    assert (await typist.types("state", "clear", "Sack/gone", "--yes")).out == "Sack/gone is cleared\n"
    assert (await typist.types("state", "get", "Sack/gone", "--json")).json["entries"] == {}


async def test_what_was_never_there_is_not_said_to_be_cleared(typist: Typist) -> None:
    """A misspelt key is no success."""
    said = await typist.types("state", "clear", "Sack/never")

    assert (said.code, said.out) == (0, "Sack/never had no state: there was nothing to clear\n")


async def test_a_service_has_no_keys(typist: Typist) -> None:
    """Which is another matter than a class whose objects have no state."""
    said = await typist.types("state", "keys", "Bell")

    assert said.code == 1
    assert "Bell is a Service: it has no keys and no state" in said.complaint


async def test_keys_of_a_class_page_by_page(typist: Typist) -> None:
    """As the other commands take them."""
    for key in ("k1", "k%2F2", "k%253"):
        await typist.types("call", f"Sack/{key}/put", "1")

    first = await typist.types("state", "keys", "Sack", "--limit", "1", "--after", "k")
    assert first.out == "Sack/k%253\n"
    assert first.err == 'perdure: there are more: --after "k%3" shows the next 1\n'
    second = await typist.types("state", "keys", "Sack", "--limit", "1", "--after", "k%3")
    assert second.out == "Sack/k%2F2\n"
    assert "k/2" in (await typist.types("state", "keys", "Sack", "--json")).json


@pytest.mark.parametrize("object", ["Sack", "Sack/", "Sack/a/b", "", "Sack/%zz"])
async def test_what_is_no_object(typist: Typist, object: str) -> None:
    said = await typist.types("state", "get", object)

    assert said.code == 2
    assert said.complaint


async def test_a_key_that_is_held_by_a_handler_is_not_changed(typist: Typist) -> None:
    await typist.types("send", "Sack/busy/keep_open")
    view = (await typist.types("state", "get", "Sack/busy", "--json")).json

    said = await typist.types("state", "set", "Sack/busy", "held", "1")

    assert view["holder"].startswith("inv_")
    assert said.code == 8
    assert view["holder"] in said.complaint

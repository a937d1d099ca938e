"""The rooms import in one direction: journal and objects stand alone, runtime stands on both."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {"journal": {"journal"}, "objects": {"objects"}, "runtime": {"runtime", "journal", "objects"}}

# targets.py turns a TARGET into a module; the front door imports its own room's modules when a name is asked for.
IMPORTS_BY_STRING = {"importlib.import_module", "__import__"}
MAY_IMPORT_BY_STRING = {"runtime/targets.py", "runtime/__init__.py"}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def package_of(file: Path) -> list[str]:
    return ["perdure", *file.relative_to(ROOT).parent.parts]


def imported(source: str, package: list[str]) -> Iterator[str]:
    """The absolute names of the modules that a source imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms_in(module: str) -> set[str]:
    """The rooms that a dotted name reaches into; a top-level `journal` is a room by its folder's name."""
    first, *rest = module.split(".")
    room = rest[0] if first == "perdure" and rest else first
    return {room} & ALLOWED.keys()


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_the_rooms_it_stands_on(room: str) -> None:
    """journal and objects import no other room; runtime may import both."""
    found = {
        f"{file.relative_to(ROOT)} imports {module}"
        for file in files(room)
        for module in imported(file.read_text(), package_of(file))
        if rooms_in(module) - ALLOWED[room]
    }

    assert files(room)
    assert not found


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_nothing_by_a_string(room: str) -> None:
    """Or the test above would be blind: import_module("perdure.runtime") is no import statement."""
    found = {
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in files(room)
        if str(file.relative_to(ROOT)) not in MAY_IMPORT_BY_STRING
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in IMPORTS_BY_STRING
    }

    assert not found


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("import perdure.runtime.engine", {"runtime"}),
        ("from perdure import runtime", {"runtime"}),
        ("from perdure.runtime import engine", {"runtime"}),
        ("from ..runtime import engine", {"runtime"}),
        ("def f():\n    import runtime.engine", {"runtime"}),
        ("from .frames import runtime", {"journal"}),
        ("import asyncio", set[str]()),
    ],
)
def test_the_test_sees_every_form_of_import(source: str, seen: set[str]) -> None:
    """An import is found whether absolute, relative, aliased, or inside a function."""
    modules = imported(source, ["perdure", "journal"])

    assert {room for module in modules for room in rooms_in(module)} == seen

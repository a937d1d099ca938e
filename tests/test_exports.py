"""The front door of each room is a table of contents: what it offers stands in `__all__`, and says what it is."""

import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

ROOMS = ["perdure.journal", "perdure.objects", "perdure.runtime", "perdure.runtime.sql", "perdure.runtime.store"]


def public(module: ModuleType) -> set[str]:
    """The names that the module holds for others: no submodules, nothing private, no `annotations` of __future__."""
    return {
        name
        for name, value in vars(module).items()
        if not (name.startswith("_") or inspect.ismodule(value) or type(value).__name__ == "_Feature")
    }


def own_docstring(thing: object) -> str:
    """A class would else pass with the docstring of its base."""
    doc = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    return (doc or "").strip()


@pytest.mark.parametrize("room", ROOMS)
def test_all_names_exactly_what_the_room_offers(room: str) -> None:
    """No name is offered by accident, and none that is promised is missing; none is named twice."""
    module = importlib.import_module(room)

    offered = {name for name in module.__all__ if hasattr(module, name)}  # first, since a lazy name appears when asked

    assert offered == set(module.__all__)
    assert public(module) <= offered
    assert len(module.__all__) == len(offered)


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_documented(room: str) -> None:
    """The room itself, and every class and function it offers, has a docstring of its own."""
    module = importlib.import_module(room)
    things = {name: getattr(module, name) for name in module.__all__}

    silent = {
        name
        for name, thing in things.items()
        if (inspect.isclass(thing) or inspect.isroutine(thing)) and not own_docstring(thing)
    }

    assert len((module.__doc__ or "").strip()) > 10
    assert not silent


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_says_what_lives_in_it(room: str) -> None:
    """A module without a docstring is one whose reader has to guess."""
    package = importlib.import_module(room)
    files = [file for path in package.__path__ for file in sorted(Path(path).glob("*.py"))]

    silent = {file.name for file in files if not file.read_text().lstrip().startswith(('"""', 'r"""'))}

    assert files
    assert not silent

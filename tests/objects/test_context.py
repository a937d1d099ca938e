"""The interfaces that the runtime fills in."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import perdure.objects
from perdure.objects import Awakeable, Context, Handle, Promise, Saga, Signal, StepContext, WorkflowContext

INTERFACES = [Context, WorkflowContext, Handle, Awakeable, Signal, Promise, StepContext]


def methods(cls: type) -> list[tuple[str, Any]]:
    return [(name, member) for name, member in vars(cls).items() if callable(member) and not name.startswith("_")]


@pytest.mark.parametrize("cls", INTERFACES, ids=lambda cls: cls.__name__)
def test_every_public_method_says_what_it_does(cls: type) -> None:
    assert [name for name, member in methods(cls) if not inspect.getdoc(member)] == []


async def test_what_the_runtime_does_not_fill_in_says_so() -> None:
    context = Context()
    for name in ("now", "uuid"):
        with pytest.raises(NotImplementedError):
            getattr(context, name)()
    with pytest.raises(NotImplementedError):
        await Awakeable[int]()


async def test_a_saga_needs_nothing_of_the_runtime() -> None:
    assert isinstance(Context().saga(), Saga)


def test_the_front_door_lists_each_name_once_and_all_it_imports() -> None:
    names = perdure.objects.__all__
    assert len(names) == len(set(names))
    assert all(hasattr(perdure.objects, name) for name in names)

"""Assignments that cannot be meant are refused when a class is defined, from its source."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from perdure.objects import DefinitionError, Promise, StateError, VirtualObject, Workflow, handler, shared
from perdure.objects.definitions import definition_of

# A class body is run from text written to a file, so that each form of assignment is one line of a table here.
TEMPLATE = """
import contextlib
from perdure.objects import *

class Mixin(VirtualObject):
    mixed: int = 0
    _Subject__far: int = 0

class Subject(Mixin):
    balance: int = 0
    items: list[int]
    __private: int = 0

    @property
    def double(self) -> int:
        return self.balance * 2

    @double.setter
    def double(self, value):
        self.balance = value

    @property
    def fixed(self) -> int:
        return 1

    @{decorator}
    async def act(self, other=None):
        {statement}

    @handler
    async def ok(self): ...
"""


@pytest.fixture
def define(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def define(decorator: str, statement: str) -> Any:
        name = f"subject_{abs(hash((decorator, statement)))}_{tmp_path.name}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(TEMPLATE.format(decorator=decorator, statement=statement))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return __import__(name).Subject

    return define


FORMS = [
    "{} = 1",
    "{} += 1",
    "{}: int = 1",
    "{}: int",
    "a, {} = 1, 2",
    "[a, ({}, b)] = 1, (2, 3)",
    "a, *{} = 1, 2",
    "for {} in (): pass",
    "for a, {} in (): pass",
    "[a for {} in ()]",
    "with contextlib.nullcontext() as {}: pass",
    "with contextlib.nullcontext() as (a, {}): pass",
    "async with contextlib.nullcontext() as {}: pass",
    "async for {} in other: pass",
    "if other: {} = 1",
    "def inner(): {} = 1",
    "f = lambda: [0 for {} in ()]",
    "a = {} = 1",
]
ALSO_DELETED = ["del {}", "del other, {}"]


@pytest.mark.parametrize("form", FORMS + ALSO_DELETED)
@pytest.mark.parametrize("decorator", ["handler", "shared"])
def test_every_form_of_assignment_to_what_is_no_field_is_refused(
    define: Callable[[str, str], Any], decorator: str, form: str
) -> None:
    with pytest.raises(
        DefinitionError, match=r"Subject\.act: `(del )?self\.balence`: 'balence' is no field of Subject; did"
    ):
        define(decorator, form.format("self.balence"))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_assignment_to_a_field_is_refused_in_a_reader(
    define: Callable[[str, str], Any], form: str
) -> None:
    with pytest.raises(DefinitionError, match=r"Subject\.act: `self\.balance`: a @shared handler only reads"):
        define("shared", form.format("self.balance"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "target", ["self.balance", "self.mixed", "self.__private", "self._Subject__far", "self.double"]
)
def test_every_form_of_assignment_to_a_field_is_taken_in_a_writer(
    define: Callable[[str, str], Any], form: str, target: str
) -> None:
    """Inherited ones, private ones under their mangled name, and properties with a setter too."""
    assert list(definition_of(define("handler", form.format(target))).handlers) == ["act", "ok"]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("self.key = 'x'", "`self.key`: read-only"),
        ("self.ctx = None", "`self.ctx`: read-only"),
        ("self.fixed = 1", "'fixed' is no field"),
        ("self.ok = 1", "'ok' is no field"),
        ("self.__other = 1", "'_Subject__other' is no field"),
        ("del self.balance", "`del self.balance`: a field has always a value"),
        ("del self.double", "'double' is no field"),
    ],
)
def test_what_else_cannot_be_assigned(define: Callable[[str, str], Any], statement: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        define("handler", statement)


@pytest.mark.parametrize(
    "statement",
    [
        "other.balence = 1",
        "self.items[0] = 1",
        "self.items.balence = 1",
        "balence = self.balance",
        "def inner(self): self.balence = 1",
        "inner = lambda self: [0 for self.balence in ()]",
        "self.double = 3",
    ],
)
def test_what_is_another_object_is_left_alone(define: Callable[[str, str], Any], statement: str) -> None:
    definition_of(define("handler", statement))


def test_plain_methods_are_read_too() -> None:
    with pytest.raises(DefinitionError, match=r"Plain\.helper: `self\.balence`"):

        class Plain(VirtualObject):  # pyright: ignore[reportUnusedClass]
            balance: int = 0

            def helper(self) -> None:
                self.balence = 1  # pyright: ignore


def test_the_function_below_decorators_is_read() -> None:
    def logged(fn: Callable[..., Any]) -> Any:
        @functools.wraps(fn)
        async def wrapper(*args: Any) -> Any:
            return await fn(*args)

        return wrapper

    with pytest.raises(DefinitionError, match=r"Wrapped\.act: `self\.balence`"):

        class Wrapped(VirtualObject):  # pyright: ignore[reportUnusedClass]
            balance: int = 0

            @handler  # pyright: ignore[reportUntypedFunctionDecorator]
            @logged
            async def act(self) -> None:
                self.balence = 1  # pyright: ignore


def test_a_mixin_that_is_no_durable_class_is_read_with_the_fields_it_is_mixed_into() -> None:
    class Mixin:
        def right(self) -> None:
            self.balance = 1

        def wrong(self) -> None:
            self.balence = 1

    with pytest.raises(DefinitionError, match=r"Mixin\.wrong: `self\.balence`: 'balence' is no field of Mixed"):

        class Mixed(Mixin, VirtualObject):  # pyright: ignore
            balance: int = 0


def test_a_promise_is_completed_not_assigned() -> None:
    with pytest.raises(DefinitionError, match=r"`self\.verdict`: a promise is completed by its \.resolve"):

        class Wf(Workflow):  # pyright: ignore[reportUnusedClass]
            verdict: Promise[bool]

            @handler
            async def run(self) -> None:
                self.verdict = 1  # type: ignore[assignment]  # pyright: ignore


class Celsius:
    """A descriptor of the user's own."""

    def __get__(self, instance: Any, owner: type) -> float:
        return 0.0

    def __set__(self, instance: Any, value: float) -> None:
        instance.kelvin = value + 273


def test_a_descriptor_of_the_users_own_is_set(live: Any) -> None:
    class Thermometer(VirtualObject):
        kelvin: float = 0.0
        celsius = Celsius()

        @handler
        async def set(self, value: float) -> None:
            self.celsius = value

    thermometer = live(Thermometer)
    thermometer.object.celsius = 1.0
    assert thermometer.collect() == {"kelvin": b"274.0"}


def test_without_source_the_run_time_check_stands(live: Any) -> None:
    """A class made from text, as in a REPL: there is nothing to read, and nothing crashes."""
    code = "class Typed(VirtualObject):\n  n: int = 0\n  @handler\n  async def act(self):\n    self.nn = 1\n"
    module = types.ModuleType("typed_at_a_prompt")
    module.__dict__.update(VirtualObject=VirtualObject, handler=handler)
    sys.modules["typed_at_a_prompt"] = module
    try:
        exec(compile(code, "<stdin>", "exec"), module.__dict__)  # noqa: S102  (as a prompt does)
        act = live(module.Typed).object.act()
        with pytest.raises(StateError, match="'nn' is no field of Typed"):
            act.send(None)
    finally:
        del sys.modules["typed_at_a_prompt"]


def test_a_file_that_has_changed_since_is_not_held_against_the_class() -> None:
    """The line numbers of a function point into other text: what stands there is not its source."""

    async def other(self: Any) -> None:
        self.balence = 1

    async def act(self: Any) -> None: ...

    act.__code__ = act.__code__.replace(co_firstlineno=other.__code__.co_firstlineno)
    assert definition_of(type("Moved", (VirtualObject,), {"act": handler(act), "__module__": __name__}))


@shared
async def outside(self: Any) -> int:
    return 1


def test_a_handler_defined_outside_its_class_works() -> None:
    cls = type("Assembled", (VirtualObject,), {"outside": outside, "__module__": __name__})
    assert list(definition_of(cls).handlers) == ["outside"]

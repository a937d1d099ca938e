"""What a class says, and which classes are refused when they are defined or served."""

# The classes here are wrong on purpose; what checkers say of each is tested in tests/typing.
# pyright: reportReturnType=false, reportRedeclaration=false
# pyright: reportUnusedClass=false, reportUntypedFunctionDecorator=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownLambdaType=false

from __future__ import annotations

import functools
import typing
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, TypeVar

import msgspec
import pytest

from perdure.objects import (
    DefinitionError,
    Promise,
    RetryPolicy,
    Service,
    VirtualObject,
    Workflow,
    handler,
    shared,
)
from perdure.objects.definitions import Kind, definition_of

if typing.TYPE_CHECKING:
    from tests.objects.conftest import MakeLive
else:
    MakeLive = Any

V = TypeVar("V")
W = TypeVar("W")


class Line(msgspec.Struct):
    sku: str


class Plain(VirtualObject, name="plain", retry=RetryPolicy(max_attempts=3)):
    n: int = 0

    @handler(name="write", public=False, retry=RetryPolicy(max_attempts=5), timeout=3)
    async def put(self, n: int) -> None:
        self.n = n

    @shared
    async def get(self) -> int:
        return self.n

    @handler
    async def items(self) -> AsyncIterator[Line]:
        yield Line("a")

    async def no_handler(self) -> None: ...


def test_a_definition_has_what_the_class_says() -> None:
    definition = definition_of(Plain)

    assert (definition.name, definition.cls, definition.kind, definition.keyed) == ("plain", Plain, Kind.OBJECT, True)
    assert definition.retry == RetryPolicy(max_attempts=3)
    assert list(definition.handlers) == ["write", "get", "items"]
    assert list(definition.fields) == ["n"]
    assert definition_of(Plain) is definition


def test_a_handler_has_what_its_decorator_says() -> None:
    write, get, items = definition_of(Plain).handlers.values()

    assert (write.exclusive, write.public, write.stream, write.timeout_seconds) == (True, False, False, 3)
    assert write.retry == RetryPolicy(max_attempts=5)
    assert (get.exclusive, get.public, get.stream, get.retry, get.timeout_seconds) == (False, True, False, None, None)
    assert (items.exclusive, items.stream) == (True, True)


class Mail(Service):
    @handler
    async def mail(self) -> None: ...

    @shared
    async def look(self) -> None: ...


def test_no_handler_of_a_service_is_exclusive() -> None:
    definition = definition_of(Mail)

    assert (definition.kind, definition.keyed) == (Kind.SERVICE, False)
    assert [h.exclusive for h in definition.handlers.values()] == [False, False]


# --- inheritance -------------------------------------------------------------------------------------------------


class Base(VirtualObject, ABC):
    total: int = 0

    @handler
    async def add(self, n: int) -> int:
        self.total += await self.price(n)
        return self.total

    @handler
    @abstractmethod
    async def refund(self, n: int) -> int: ...

    @abstractmethod
    async def price(self, n: int) -> int: ...


class Shop(Base, name="shop"):
    total = 100

    @handler
    async def add(self, n: int, *, twice: bool = False) -> int:
        return await super().add(n * 2 if twice else n)

    @handler
    async def refund(self, n: int) -> int:
        return n

    async def price(self, n: int) -> int:
        return n * 10


async def test_super_and_abstract_methods_work(live: MakeLive) -> None:
    shop = live(Shop)

    assert await shop.object.add(1, twice=True) == 120
    assert shop.collect() == {"total": b"120"}


def test_a_subclass_has_its_own_name_and_its_bases_retry() -> None:
    class Sub(Plain):
        pass

    assert definition_of(Sub).name == "Sub"
    assert definition_of(Sub).retry == RetryPolicy(max_attempts=3)
    assert list(definition_of(Sub).handlers) == ["write", "get", "items"]


def test_an_abstract_class_is_not_served() -> None:
    with pytest.raises(DefinitionError, match="Base is abstract: price, refund is not implemented"):
        definition_of(Base)


class Counted:
    """A mixin that is no durable class: what it annotates is state of who mixes it in."""

    count: int = 0
    LIMIT: typing.ClassVar[int] = 3

    def bump(self) -> None:
        self.count += 1

    @shared
    async def counted(self) -> int:
        return self.count


class Logged(VirtualObject):
    log: list[str]

    @shared
    async def read(self) -> list[str]:
        return self.log


class Both(Counted, Logged):
    count = 5

    @handler
    async def act(self) -> int:
        self.bump()
        self.log.append("act")
        return self.count


class Deeper(Both):
    @handler
    async def act(self) -> int:
        return await super().act()


@pytest.mark.parametrize("cls", [Both, Deeper])
async def test_mixins_bring_state_and_handlers(live: MakeLive, cls: Any) -> None:
    both = live(cls)

    assert set(both.definition.handlers) == {"counted", "read", "act"}
    assert await both.object.act() == 6
    assert both.collect() == {"count": b"6", "log": b'["act"]'}


# --- generics ----------------------------------------------------------------------------------------------------


class Cell(VirtualObject, Generic[V]):
    value: V | None = None
    history: dict[str, list[V]]

    @handler
    async def put(self, value: V, note: str = "") -> V | None:
        self.value = value
        return self.value

    @handler
    async def all(self) -> AsyncIterator[V]:
        if self.value is not None:
            yield self.value


class IntCell(Cell[int]):
    @handler
    async def add(self, by: int) -> int:
        self.value = (self.value or 0) + by
        return self.value


class Pair(Cell[tuple[V, W]], Generic[V, W]):
    other: W | None = None


class IntStr(Pair[int, str]):
    pass


def test_a_type_variable_is_what_the_subclass_says() -> None:
    put = definition_of(IntCell).handlers["put"]

    assert put.decode_arguments(b'{"value":5}') == ((5, ""), {})
    with pytest.raises(ValueError, match=r"\$\.value: expected int, got str"):
        put.decode_arguments(b'{"value":"x"}')
    assert definition_of(IntCell).fields["history"].type == dict[str, list[int]]
    assert definition_of(IntCell).handlers["all"].decode_result(b"5") == 5


def test_it_is_followed_through_generic_bases() -> None:
    definition = definition_of(IntStr)

    assert definition.fields["value"].decode(b'[1,"a"]') == (1, "a")
    assert definition.fields["other"].type == str | None
    assert definition.handlers["put"].decode_arguments(b'{"value":[1,"a"]}') == (((1, "a"), ""), {})


def test_a_generic_class_with_arguments_is_a_class_of_its_own() -> None:
    definition = definition_of(Cell[str])

    assert definition is definition_of(Cell[str])
    assert definition.name == "Cell"
    assert definition.fields["value"].type == str | None
    assert definition_of(Cell[int]) is not definition


def test_an_open_type_variable_is_not_served() -> None:
    with pytest.raises(
        DefinitionError, match=r"Cell leaves ~V open; serve a class such as `class MyCell\(Cell\[int\]\)`"
    ):
        definition_of(Cell)


def test_a_handlers_own_type_variable_is_refused_when_the_class_is_defined() -> None:
    with pytest.raises(DefinitionError, match=r"Echo\.echo: 'value' has the type variable ~W, so its"):

        class Echo(VirtualObject):
            @handler
            async def echo(self, value: W) -> W:
                return value


# --- annotations -------------------------------------------------------------------------------------------------


def test_types_of_the_enclosing_function_can_be_named() -> None:
    class Local(msgspec.Struct):
        a: int

    class User(VirtualObject):
        locals: list[Local]

        @handler
        async def put(self, value: Local) -> Local:
            return value

    assert definition_of(User).fields["locals"].type == list[Local]


class Later(VirtualObject):
    field: list[DefinedLater]

    @handler
    async def put(self, value: DefinedLater) -> None: ...


class DefinedLater(msgspec.Struct):
    a: int


def test_types_defined_later_can_be_named() -> None:
    assert definition_of(Later).fields["field"].type == list[DefinedLater]


def test_a_name_that_is_never_defined_is_one_line() -> None:
    class Never(VirtualObject):
        @handler
        async def put(self, value: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(DefinitionError, match="Never: an annotation names 'Missing', which is not defined"):
        definition_of(Never)


class Nested(VirtualObject):
    class Inner(msgspec.Struct):
        a: int

    inner: list[Inner]

    @handler
    async def list(self) -> None: ...

    @handler
    async def put(self, value: Inner) -> Inner:
        return value


def test_types_nested_in_the_class_can_be_named_and_a_handler_called_list_hides_nothing() -> None:
    assert definition_of(Nested).fields["inner"].type == list[Nested.Inner]


def test_without_annotations_anything_goes() -> None:
    class Untyped(VirtualObject):
        @handler
        async def put(self, value):  # type: ignore[no-untyped-def]
            return value

    assert definition_of(Untyped).handlers["put"].decode_arguments(b'{"a":[1]}') == (({"a": [1]},), {})


# --- refused -----------------------------------------------------------------------------------------------------


def _no_wraps(fn: Callable[..., Any]) -> Any:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return wrapper


def sync_handler() -> None:
    class Sync(VirtualObject):
        @handler  # type: ignore[arg-type]
        def put(self) -> int:
            return 1


def sync_handler_with_options() -> None:
    class Sync(VirtualObject):
        @shared()  # type: ignore[arg-type]
        def put(self) -> int:
            return 1


def twice_a_handler() -> None:
    class Twice(VirtualObject):
        @handler  # type: ignore[call-overload]
        @shared
        async def put(self) -> None: ...


def static_handler() -> None:
    class Static(VirtualObject):
        @handler  # type: ignore[arg-type]
        @staticmethod
        async def put() -> None: ...


def no_self() -> None:
    class NoSelf(VirtualObject):
        @handler  # type: ignore[arg-type]
        async def put() -> None: ...


def star_arguments() -> None:
    class Star(VirtualObject):
        @handler
        async def put(self, *items: int) -> None: ...


def unwrapped_decorator() -> None:
    class Unwrapped(VirtualObject):
        @handler
        @_no_wraps
        async def put(self, n: int) -> None: ...


def no_default() -> None:
    class NoDefault(VirtualObject):
        n: int


def no_default_for_a_tuple() -> None:
    class NoDefault(VirtualObject):
        n: tuple[int, ...]


def wrong_default() -> None:
    class WrongDefault(VirtualObject):
        n: int = "x"  # type: ignore[assignment]


def wrong_parameter_default() -> None:
    class WrongDefault(VirtualObject):
        @handler
        async def put(self, lines: list[int] = ["a"]) -> None: ...  # type: ignore[list-item]  # noqa: B006


def field_type() -> None:
    class Odd(VirtualObject):
        n: dict[str, Exception]


def parameter_type() -> None:
    class Odd(VirtualObject):
        @handler
        async def put(self, fn: Callable[[], int]) -> None: ...


def result_type() -> None:
    class Odd(VirtualObject):
        @handler
        async def put(self) -> Exception: ...  # type: ignore[empty-body]


def stream_type() -> None:
    class Odd(VirtualObject):
        @handler  # type: ignore[arg-type]
        async def put(self) -> int:  # type: ignore[misc]
            yield 1


def reserved_field() -> None:
    class Odd(VirtualObject):
        key: str = ""  # pyright: ignore[reportIncompatibleMethodOverride]


def reserved_handler() -> None:
    class Odd(VirtualObject):
        @handler
        async def ctx(self) -> None: ...  # type: ignore[override]


def reserved_prefix() -> None:
    class Odd(VirtualObject):
        _perdure_x: int = 0


def own_init() -> None:
    class Odd(VirtualObject):
        def __init__(self) -> None: ...


def same_wire_name() -> None:
    class Odd(VirtualObject):
        @handler(name="x")
        async def one(self) -> None: ...
        @handler(name="x")
        async def two(self) -> None: ...


def bad_wire_name() -> None:
    class Odd(VirtualObject):
        @handler(name="a/b")
        async def one(self) -> None: ...


def bad_class_name() -> None:
    class Odd(VirtualObject, name="a b"): ...


def class_name_of_the_api() -> None:
    class Odd(VirtualObject, name="restate"): ...


def service_with_state() -> None:
    class Odd(Service):
        n: int = 0


def promise_outside_a_workflow() -> None:
    class Odd(VirtualObject):
        done: Promise[bool]


def promise_with_default() -> None:
    class Odd(Workflow):
        done: Promise[bool] = None  # type: ignore[assignment]


def promise_of_nothing() -> None:
    class Odd(Workflow):
        done: Promise  # type: ignore[type-arg]


def second_exclusive_in_a_workflow() -> None:
    class Odd(Workflow):
        @handler
        async def run(self) -> None: ...
        @handler
        async def other(self) -> None: ...


def shared_run() -> None:
    class Odd(Workflow):
        @shared
        async def run(self) -> None: ...


def undecorated_override() -> None:
    class Odd(Plain):
        async def get(self) -> int:  # type: ignore[override]
            return 1


def method_over_a_field() -> None:
    class Odd(Plain):
        def n(self) -> int:  # type: ignore[override]
            return 1


def method_annotated_as_a_field() -> None:
    class Odd(VirtualObject):
        put: int

        @handler  # type: ignore[no-redef]
        async def put(self) -> None: ...


def odd_retry() -> None:
    class Odd(VirtualObject):
        @handler(retry=3)  # type: ignore[call-overload, untyped-decorator]
        async def put(self) -> None: ...


REFUSED: dict[Callable[[], None], str] = {
    sync_handler: r"@handler: .*Sync.put is a plain def; write `async def`",
    sync_handler_with_options: r"@shared: .*Sync.put is a plain def",
    twice_a_handler: "is a handler already; use one decorator",
    static_handler: "is no method",
    no_self: "NoSelf.put has no self",
    star_arguments: r"Star.put takes \*items: .*int.*, which no caller can see",
    unwrapped_decorator: r"Unwrapped.put takes \*args.*needs functools.wraps",
    no_default: r"NoDefault\.n: int starts as what\? Give it a default",
    no_default_for_a_tuple: r"NoDefault\.n: tuple\[int, \.\.\.\] starts as what\?",
    wrong_default: r"WrongDefault\.n: the default is no int: \$: expected int, got str",
    wrong_parameter_default: r"WrongDefault\.put: a default does not fit its annotation: \$\[0\]: expected int",
    field_type: r"Odd\.n: dict\[str, Exception\]: Exception cannot be encoded as JSON; use a msgspec.Struct",
    parameter_type: r"Odd\.put\(fn\): .*Callable cannot be encoded as JSON",
    result_type: r"Odd\.put -> …: Exception: Exception cannot be encoded",
    stream_type: r"Odd\.put: a stream returns AsyncIterator\[…\], got int",
    reserved_field: "Odd.key: this name is taken by Perdure",
    reserved_handler: "Odd.ctx: this name is taken",
    reserved_prefix: "Odd._perdure_x: this name is taken",
    own_init: "Odd.__init__ would never run",
    same_wire_name: "Odd: one and two have one name, 'x'",
    bad_wire_name: "Odd.one: 'a/b' cannot be a name in a path",
    bad_class_name: "Odd: 'a b' cannot be a name in a path",
    class_name_of_the_api: "Odd: 'restate' cannot be a name in a path",
    service_with_state: "Odd.n: a Service has no state; use a VirtualObject",
    promise_outside_a_workflow: "Odd.done: only a Workflow has promises",
    promise_with_default: "Odd.done: a promise has no default",
    promise_of_nothing: r"Odd.done: say what it will hold: Promise\[bool\]",
    second_exclusive_in_a_workflow: "Odd.other: in a Workflow it runs beside `run`: make it @shared",
    shared_run: "Odd.run: in a Workflow it is its one @handler",
    undecorated_override: "Odd.get hides the handler of Plain; decorate it with @handler",
    method_over_a_field: r"Odd\.n hides the field Plain\.n; rename it",
    method_annotated_as_a_field: "Odd.put is annotated as a field and defined as a method",
    odd_retry: r"@handler\(retry=3\): give a RetryPolicy",
}


@pytest.mark.parametrize("define", REFUSED, ids=lambda define: define.__name__)
def test_a_class_that_could_not_work_is_refused_when_it_is_defined(define: Callable[[], None]) -> None:
    with pytest.raises(DefinitionError, match=REFUSED[define]) as caught:
        define()
    assert "\n" not in str(caught.value)


def test_an_unknown_class_option_is_refused() -> None:
    with pytest.raises(TypeError, match="nmae"):

        class Misspelt(VirtualObject, nmae="x"):  # type: ignore[call-arg]
            pass


class Empty(VirtualObject):
    n: int = 0


class NoRun(Workflow):
    @shared
    async def look(self) -> None: ...


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Empty, "Empty has no handlers; decorate a method with @handler"),
        (NoRun, "NoRun is a Workflow without `run`"),
        (int, "<class 'int'> is no VirtualObject, Service or Workflow"),
        (list[int], "is no VirtualObject"),
        ("Plain", "'Plain' is no VirtualObject"),
        (VirtualObject, "VirtualObject itself cannot be served; subclass it"),
    ],
)
def test_what_cannot_be_served_says_so(cls: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        definition_of(cls)


def test_a_sync_wrapper_of_a_coroutine_function_is_a_handler() -> None:
    def logged(fn: Callable[..., Any]) -> Any:
        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        return wrapper

    class Wrapped(VirtualObject):
        @handler
        @logged
        async def put(self, n: int) -> int:
            return n

        @handler
        @logged
        async def items(self) -> AsyncIterator[int]:
            yield 1

    definition = definition_of(Wrapped)
    assert [h.stream for h in definition.handlers.values()] == [False, True]
    assert definition.handlers["put"].decode_arguments(b"5") == ((5,), {})

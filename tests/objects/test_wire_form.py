"""Which JSON a call is: DESIGN 3 "Values", both ways."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.objects import InvalidArguments, Service, TerminalError, VirtualObject, handler
from perdure.objects.definitions import HandlerDefinition, definition_of

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
Cents = Annotated[int, msgspec.Meta(gt=0)]


class Line(msgspec.Struct):
    sku: str
    count: int = 1


def traced(
    fn: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    @functools.wraps(fn)
    async def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await fn(self, *args, **kwargs)

    return wrapper


class Forms(Service):
    @handler
    async def none(self) -> None: ...

    @handler
    async def lone(self, amount: Cents) -> int:
        return amount

    @handler
    async def only(self, amount: int, /) -> int:
        return amount

    @handler
    async def optional(self, amount: int = 7) -> int:
        return amount

    @handler
    async def items(self, lines: list[Line] = []) -> list[Line]:  # noqa: B006
        return lines

    @handler
    async def nullable(self, name: str | None) -> str | None:
        return name

    @handler
    async def named(self, *, amount: int) -> int:
        return amount

    @handler
    async def two(self, to: str, amount: Cents) -> str:
        return to

    @handler
    async def mixed(self, a: int, /, b: int = 2, *, c: list[int] = [3], d: str = "d") -> None: ...  # noqa: B006

    @handler
    async def loose(self, value, other=1):  # type: ignore[no-untyped-def]  # pyright: ignore
        return value  # pyright: ignore[reportUnknownVariableType]

    @handler
    @traced
    async def decorated(self, to: str, amount: int = 1) -> None: ...

    @handler
    async def stream(self, since: int = 0) -> AsyncIterator[Line]:
        yield Line("a")

    @handler(name="other-name")
    async def renamed(self, x: int) -> None: ...


FORMS = definition_of(Forms).attributes

GOOD: list[tuple[str, tuple[Any, ...], dict[str, Any], bytes, tuple[tuple[Any, ...], dict[str, Any]]]] = [
    ("none", (), {}, b"", ((), {})),
    ("lone", (5,), {}, b"5", ((5,), {})),
    ("lone", (), {"amount": 5}, b"5", ((5,), {})),
    ("only", (5,), {}, b"5", ((5,), {})),
    ("optional", (), {}, b"", ((7,), {})),
    ("optional", (5,), {}, b"5", ((5,), {})),
    ("items", ([Line("a")],), {}, b'[{"sku":"a","count":1}]', (([Line("a")],), {})),
    ("nullable", (None,), {}, b"null", ((None,), {})),
    ("named", (), {"amount": 5}, b'{"amount":5}', ((), {"amount": 5})),
    ("two", ("bob", 5), {}, b'{"to":"bob","amount":5}', (("bob", 5), {})),
    ("two", ("bob",), {"amount": 5}, b'{"to":"bob","amount":5}', (("bob", 5), {})),
    ("two", (), {"amount": 5, "to": "bob"}, b'{"to":"bob","amount":5}', (("bob", 5), {})),
    ("mixed", (1,), {}, b'{"a":1}', ((1, 2), {"c": [3], "d": "d"})),
    ("mixed", (1, 5), {"d": "x"}, b'{"a":1,"b":5,"d":"x"}', ((1, 5), {"c": [3], "d": "x"})),
    ("decorated", ("bob",), {}, b'{"to":"bob"}', (("bob", 1), {})),
    ("loose", ({"x": [1]},), {}, b'{"value":{"x":[1]}}', (({"x": [1]}, 1), {})),
    ("stream", (), {}, b"", ((0,), {})),
]


@pytest.mark.parametrize(("name", "args", "kwargs", "body", "decoded"), GOOD, ids=[row[3].decode() for row in GOOD])
def test_a_call_has_one_wire_form_and_comes_back(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], body: bytes, decoded: object
) -> None:
    assert FORMS[name].encode_arguments(args, kwargs) == body
    assert FORMS[name].decode_arguments(body) == decoded


OTHER: list[tuple[str, bytes, tuple[tuple[Any, ...], dict[str, Any]]]] = [
    ("none", b"null", ((), {})),
    ("none", b" null ", ((), {})),
    ("none", b"\n", ((), {})),
    ("optional", b" ", ((7,), {})),
    ("mixed", b'{"b":1,"a":9}', ((9, 1), {"c": [3], "d": "d"})),
]


@pytest.mark.parametrize(("name", "body", "decoded"), OTHER)
def test_other_writings_are_taken_too(name: str, body: bytes, decoded: object) -> None:
    assert FORMS[name].decode_arguments(body) == decoded


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("none", b"5", "$: Forms.none takes no arguments; send an empty body or null"),
        ("none", b"{}", "$: Forms.none takes no arguments"),
        ("lone", b'"5"', "$: expected int, got str"),
        ("lone", b"0", "$: expected int >= 1"),
        ("lone", b"", "$: the body is empty"),
        ("lone", b"null", "$: expected int, got null"),
        ("lone", b'{"amount":5}', "$: expected int, got object"),
        ("optional", b"null", "$: expected int, got null"),
        ("named", b"5", "$: expected object, got int"),
        ("named", b"", "$: the body is empty"),
        ("two", b'{"to":"bob"}', "$.amount: missing"),
        ("two", b'{"to":"bob","amount":"5"}', "$.amount: expected int, got str"),
        ("two", b'{"to":"bob","amount":5,"memo":""}', "$.memo: unknown name"),
        ("two", b'{"to":"bob","to":"eve","amount":5}', "$.to: this name appears twice"),
        ("two", b'["bob",5]', "$: expected object, got array"),
        ("two", b'{"to":"bob","amount":99999999999999999999}', "$.amount: a whole number beyond 64 bits"),
        ("items", b'[{"sku":"a"},{"sku":5}]', "$[1].sku: expected str, got int"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_path(name: str, body: bytes, message: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        FORMS[name].decode_arguments(body)

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "message"),
    [
        ("none", (5,), {}, "Forms.none: too many positional arguments"),
        ("lone", (), {}, "Forms.lone: missing a required argument: 'amount'"),
        ("lone", (1, 2), {}, "Forms.lone: too many positional arguments"),
        ("lone", (1,), {"amount": 2}, "Forms.lone: multiple values for argument 'amount'"),
        ("lone", (), {"x": 2}, "Forms.lone: missing a required argument: 'amount'"),
        ("only", (), {"amount": 5}, "Forms.only: "),
        ("named", (5,), {}, "Forms.named: "),
        ("two", ("bob",), {}, "Forms.two: missing a required argument: 'amount'"),
        ("two", ("bob", 5), {"memo": ""}, "Forms.two: got an unexpected keyword argument 'memo'"),
        ("two", ("bob", 5), {"to": "x"}, "Forms.two: multiple values for argument 'to'"),
        ("mixed", (), {"a": 1}, "Forms.mixed: "),
        ("lone", ("5",), {}, "Forms.lone: amount: expected int, got str"),
        ("lone", (2**64,), {}, "Forms.lone: amount: a whole number beyond 64 bits"),
        ("two", ("bob", "5"), {}, "Forms.two: amount: expected int, got str"),
        ("items", ([Line("a"), Line(5)],), {}, "Forms.items: lines[1].sku: expected str, got int"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        ("loose", (object(),), {}, "Forms.loose: value: encoding objects of type object"),
    ],
)
def test_a_call_that_does_not_fit_is_a_type_error_at_the_call(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError) as caught:
        FORMS[name].encode_arguments(args, kwargs)

    assert str(caught.value).startswith(message)


def test_a_default_is_fresh_for_each_call() -> None:
    """Python's own would be one list for all invocations: state that nobody journals."""
    (first,), _ = FORMS["items"].decode_arguments(b"")
    first.append(Line("x"))
    _, keywords = FORMS["mixed"].decode_arguments(b'{"a":1}')
    keywords["c"].append(9)

    assert FORMS["items"].decode_arguments(b"") == (([],), {})
    assert FORMS["mixed"].decode_arguments(b'{"a":1}')[1]["c"] == [3]


def test_a_name_on_the_wire_may_differ() -> None:
    assert definition_of(Forms).handlers["other-name"] is FORMS["renamed"]
    assert "renamed" not in definition_of(Forms).handlers


# --- results -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "body"),
    [("none", None, b"null"), ("lone", 5, b"5"), ("items", [], b"[]"), ("stream", Line("a"), b'{"sku":"a","count":1}')],
)
def test_a_result_comes_back(name: str, value: object, body: bytes) -> None:
    """Of a stream, one item."""
    assert FORMS[name].encode_result(value) == body
    assert FORMS[name].decode_result(body) == value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("none", 5, "Forms.none returned a int, which its annotation does not hold: $: expected null, got int"),
        ("lone", "5", "Forms.lone returned a str, which its annotation does not hold: $: expected int, got str"),
        ("items", [5], "Forms.items returned a list, which its annotation does not hold: $[0]: expected object"),
        ("loose", object(), "Forms.loose returned a object, which its annotation does not hold: $: encoding objects"),
    ],
)
def test_a_result_that_cannot_be_given_is_a_terminal_error(name: str, value: object, message: str) -> None:
    """With the type and the handler: the next attempt would return the same."""
    with pytest.raises(TerminalError) as caught:
        FORMS[name].encode_result(value)

    assert caught.value.status == 500
    assert str(caught.value).startswith(message)


def test_a_result_of_another_deploy_is_refused_with_its_path() -> None:
    with pytest.raises(InvalidArguments, match=r"\$: expected int, got str"):
        FORMS["lone"].decode_result(b'"x"')


# --- any signature -----------------------------------------------------------------------------------------------


class Round(VirtualObject):
    @handler
    async def trip(self, a: int, b: str, /, c: float, *, d: list[int], e: dict[str, int] | None = None) -> None: ...


TRIP: HandlerDefinition = definition_of(Round).handlers["trip"]
INTS = st.integers(-(2**63), 2**64 - 1)


@given(INTS, st.text(), st.floats(allow_nan=False, allow_infinity=False), st.lists(INTS),
       st.none() | st.dictionaries(st.text(), INTS))  # fmt: skip
def test_any_arguments_come_back(a: int, b: str, c: float, d: list[int], e: dict[str, int] | None) -> None:
    body = TRIP.encode_arguments((a, b, c), {"d": d, "e": e})

    assert TRIP.decode_arguments(body) == ((a, b, c), {"d": d, "e": e})
    assert TRIP.encode_arguments((a, b), {"e": e, "c": c, "d": d}) == body

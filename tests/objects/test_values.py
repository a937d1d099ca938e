"""JSON in and out: what is refused, with its path, and what comes back."""

from __future__ import annotations

import contextlib
import enum
import json
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.objects.errors import InvalidArguments
from perdure.objects.values import DEPTH_MAX, Codec, Unencodable, UnsupportedType, same_value


class Line(msgspec.Struct):
    sku: str
    count: int = 1


class Frozen(msgspec.Struct, frozen=True):
    a: int
    b: tuple[str, ...] = ()


class FrozenAround(msgspec.Struct, frozen=True):
    inside: list[int]


class Tree(msgspec.Struct):
    value: int
    children: list[Tree] = []


class Color(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


class Typed(TypedDict):
    a: int


@dataclass
class Data:
    a: int
    more: list[str] = field(default_factory=lambda: [])


@dataclass(frozen=True)
class FrozenData:
    a: int


HOSTILE: list[tuple[str, Any, bytes, str]] = [
    ("wrong type", int, b'"5"', "$: expected int, got str"),
    ("float for int", int, b"1.0", "$: expected int, got float"),
    ("exponent for int", int, b"1e3", "$: expected int, got float"),
    ("path", dict[str, list[Line]], b'{"a":[{"sku":1}]}', "$[...][0].sku: expected str, got int"),
    ("missing", Line, b"{}", "$.sku: missing"),
    ("missing inside", list[Line], b'[{"sku":"a"},{}]', "$[1].sku: missing"),
    ("below its minimum", Annotated[int, msgspec.Meta(ge=0)], b"-1", "$: expected int >= 0"),
    ("literal", Literal["a"], b'"b"', "$: invalid enum value 'b'"),
    ("empty", int, b"", "$: the body is empty; send JSON"),
    ("white space", int, b" \n", "$: the body is empty; send JSON"),
    ("word", int, b"five", "$: not JSON: "),
    ("NaN", float, b"NaN", "$: not JSON: "),
    ("Infinity", float, b"-Infinity", "$: not JSON: "),
    ("beyond a float", float, b"1e999", "$: number out of range"),
    ("beyond a float, anywhere", Any, b'{"a":1e999}', "$"),
    ("beyond 64 bits", int, b"18446744073709551616", "$: a whole number beyond 64 bits"),
    ("below 64 bits", int, b"-9223372036854775809", "$: a whole number beyond 64 bits"),
    ("beyond 64 bits inside", dict[str, list[int]], b'{"a":[1,99999999999999999999]}', "$.a[1]: a whole number"),
    ("beyond 64 bits anywhere", Any, b'{"a":99999999999999999999}', "$.a: a whole number beyond 64 bits"),
    ("5,000 digits", int, b"1" * 5000, "$: "),
    ("5,000 digits anywhere", Any, b"1" * 5000, "$: "),
    ("5,000 digits for a float", float, b"1" * 5000, "$: "),
    ("trailing", int, b"5 6", "$: not JSON: trailing"),
    ("trailing brace", int, b"5}", "$: not JSON: trailing"),
    ("unfinished", dict[str, int], b'{"a":', "$: not JSON: it ends too early"),
    ("unfinished, of another type", int, b'{"a":', "$: not JSON: it ends too early"),
    ("trailing, of another type", int, b'"5" 6', "$: not JSON: trailing"),
    ("byte order mark", int, b"\xef\xbb\xbf5", "$: not JSON: "),
    ("not UTF-8", str, b'"\xff"', "$: not UTF-8"),
    ("not UTF-8 in a name", dict[str, int], b'{"\xff":1}', "$: not UTF-8"),
    ("surrogate in UTF-8", str, b'"\xed\xa0\x80"', "$: not UTF-8"),
    ("UTF-16", str, '"a"'.encode("utf-16"), "$"),
    ("high surrogate", str, b'"\\ud800"', "$: not JSON: a lone surrogate"),
    ("high surrogate, then text", str, b'"\\ud800abc"', "$: not JSON: a lone surrogate"),
    ("low surrogate", str, b'"\\uDC00"', "$: not JSON: a lone surrogate"),
    ("surrogate in a name", dict[str, int], b'{"\\udc00":1}', "$: not JSON: a lone surrogate"),
    ("name twice", dict[str, int], b'{"a":1,"a":2}', "$.a: this name appears twice"),
    ("name twice, escaped", dict[str, int], b'{"a":1,"\\u0061":2}', "$.a: this name appears twice"),
    ("name twice in a struct", Line, b'{"sku":"a","sku":"b"}', "$.sku: this name appears twice"),
    ("name twice inside", list[dict[str, Any]], b'[{},{"x":[{"b":1,"b":1}]}]', "$[1].x[0].b: this name appears twice"),
    ("unknown name twice", Line, b'{"sku":"a","z":1,"z":1}', "$.z: this name appears twice"),
    ("depth bomb", Any, b"[" * 100_000 + b"]" * 100_000, "$: nested deeper"),
    ("depth bomb of objects", Any, b'{"a":' * 100_000, "$: nested deeper"),
    ("depth bomb, unclosed", list[int], b"[" * 1_000_000, "$: nested deeper"),
    ("depth bomb where nobody looks", Line, b'{"sku":"a","z":' + b"[" * 500 + b"]" * 500 + b"}", "$: nested deeper"),
    ("depth bomb behind strings", Any, b'["]]]]]",' * 200 + b"1" + b"]" * 200, "$: nested deeper"),
    ("just too deep", Any, b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1), "$: nested deeper"),
]


@pytest.mark.parametrize(("type_", "body", "message"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_hostile_input_is_refused_with_its_path(type_: Any, body: bytes, message: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        Codec(type_).unpack_hostile(body)

    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("type_", "body", "value"),
    [
        (int, b" 5\n", 5),
        (int, b"18446744073709551615", 2**64 - 1),
        (int, b"-9223372036854775808", -(2**63)),
        (float, b"5", 5.0),
        (float, b"0.1234567890123456789012345", 0.12345678901234568),
        (Decimal, b"12345678901234567890.5", Decimal("12345678901234567890.5")),
        (str, b'"\\ud83d\\ude00"', "😀"),
        (str, b'"12345678901234567890"', "12345678901234567890"),
        (str, b'"a:b:c{{[["', "a:b:c{{[["),
        (str, b'"' + b"[" * 1000 + b'"', "[" * 1000),
        (str, b'"' + b'\\"[' * 500 + b'"', '"[' * 500),
        (dict[str, str], b'{"a":"b:c","d":"e:f"}', {"a": "b:c", "d": "e:f"}),
        (list[list[int]], b"[" + b",".join([b"[1]"] * 1000) + b"]", [[1]] * 1000),
        (Line, b'{"count":2,"sku":"a","unknown":null}', Line("a", 2)),
        (bytes, b'"YWJj"', b"abc"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_only_looks_hostile_is_taken(type_: Any, body: bytes, value: object) -> None:
    assert Codec(type_).unpack_hostile(body) == value


def test_the_deepest_that_is_taken_is_taken_by_its_own_encoder_too() -> None:
    body = b"[" * DEPTH_MAX + b"]" * DEPTH_MAX
    codec = Codec(Any)

    assert codec.pack(codec.unpack_hostile(body)) == body


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("type_", "value", "message"),
    [
        (int, "5", "$: expected int, got str"),
        (int, None, "$: expected int, got null"),
        (int, 5.0, "$: expected int, got float"),
        (int, 2**64, "$: a whole number beyond 64 bits"),
        (int, -(2**63) - 1, "$: a whole number beyond 64 bits"),
        (int, 10**5000, "$: a whole number beyond 64 bits"),
        (list[int], [1, 2**64], "$[1]: a whole number beyond 64 bits"),
        (Annotated[int, msgspec.Meta(ge=0)], -1, "$: expected int >= 0"),
        (float, math.nan, "$: nan is not in JSON"),
        (float, math.inf, "$: inf is not in JSON"),
        (float | None, math.nan, "$: nan is not in JSON"),
        (Any, {"a": [1.0, -math.inf]}, "$.a[1]: -inf is not in JSON"),
        (dict[str, float | None], {"a": math.nan}, "$.a: nan is not in JSON"),
        (str, "\ud800", "$: text with a lone surrogate"),
        (Literal["a"], "b", "$: invalid enum value 'b'"),
        (Any, object(), "$: encoding objects of type object is unsupported"),
        (Any, CYCLE, "$: contains itself"),
        (Any, {1: [{(1, 2): 3}]}, "$: only dicts with"),
        (list[Line], [Line("a"), Line(5)], "$[1].sku: expected str, got int"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        (set[int | str], {1, "a"}, "$: the items of a set must have an order"),
        (None, 5, "$: expected null, got int"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_would_not_come_back_is_refused_with_its_path(type_: Any, value: object, message: str) -> None:
    with pytest.raises(Unencodable) as caught:
        Codec(type_).pack(value)

    assert str(caught.value).startswith(message)


def test_depth_is_refused_going_out_as_coming_in() -> None:
    deep: Any = []
    for _ in range(DEPTH_MAX):
        deep = [deep]
    with pytest.raises(Unencodable, match="nested deeper than 128 levels"):
        Codec(Any).pack(deep)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ROUND_TRIPS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(2**63), 2**64 - 1)),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (str, TEXT),
    (bool, st.booleans()),
    (bytes, st.binary()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (datetime, st.datetimes(timezones=st.just(UTC))),
    (date, st.dates()),
    (timedelta, st.timedeltas(timedelta(-1000), timedelta(1000))),
    (uuid.UUID, st.uuids()),
    (Color, st.just(Color.RED)),
    (Point, st.builds(Point, st.integers(-99, 99), st.integers(-99, 99))),
    (Line, st.builds(Line, TEXT, st.integers(-99, 99))),
    (list[Line | None], st.lists(st.none() | st.builds(Line, TEXT))),
    (dict[str, set[int]], st.dictionaries(TEXT, st.sets(st.integers(-99, 99)))),
    (dict[int, str], st.dictionaries(st.integers(-99, 99), TEXT)),
    (frozenset[str], st.frozensets(TEXT)),
    (tuple[int, ...], st.lists(st.integers(-99, 99)).map(tuple)),
    (Any, JSON),
]


@pytest.mark.parametrize(("type_", "values"), ROUND_TRIPS, ids=[str(row[0])[:30] for row in ROUND_TRIPS])
def test_values_come_back_equal(type_: Any, values: st.SearchStrategy[Any]) -> None:
    codec = Codec(type_)

    @given(values)
    def check(value: Any) -> None:
        data = codec.pack(value)
        assert codec.unpack(data) == value
        assert codec.unpack_hostile(data) == value
        assert codec.pack(codec.unpack(data)) == data

    check()


@given(st.binary() | st.text().map(str.encode) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_input_raises_anything_but_invalid_arguments(body: bytes) -> None:
    for codec in FUZZED:
        with contextlib.suppress(InvalidArguments):
            codec.unpack_hostile(body)


FUZZED = [Codec(type_) for type_ in (Any, int, str, Line, list[dict[str, float]], Decimal, datetime, Tree)]


@given(JSON)
def test_any_nesting_of_brackets_in_strings_leaves_the_depth_alone(value: Any) -> None:
    body = json.dumps([value, "[{" * 200, '\\"[' * 200]).encode()
    assert Codec(Any).unpack_hostile(body) == json.loads(body)


def test_sets_are_written_in_one_order() -> None:
    """Their own order depends on the hash seed, and a replay must write the same bytes."""
    assert Codec(set[str]).pack({"b", "c", "a"}) == b'["a","b","c"]'
    assert Codec(Any).pack({"x": {3, 1, 2}}) == b'{"x":[1,2,3]}'


@pytest.mark.parametrize(
    "type_",
    [list[int], set[int], dict[str, int], Line, Data, Typed, Any, bytearray, FrozenAround, tuple[list[int], int],
     Line | None, Annotated[list[int], msgspec.Meta(max_length=3)], Tree],
    ids=str,
)  # fmt: skip
def test_types_that_can_change_in_place(type_: Any) -> None:
    assert Codec(type_).mutable


@pytest.mark.parametrize(
    "type_",
    [int, str, bool, None, float, bytes, int | None, Literal["a", 1], Color, uuid.UUID, Decimal, datetime, date,
     timedelta, Frozen, FrozenData, Point, tuple[int, ...], tuple[Frozen, str], frozenset[str],
     Annotated[int, msgspec.Meta(ge=0)]],
    ids=str,
)  # fmt: skip
def test_types_that_cannot(type_: Any) -> None:
    assert not Codec(type_).mutable


@pytest.mark.parametrize(
    ("type_", "message"),
    [
        (object, "object cannot be encoded"),
        (Callable[[int], int], "Callable cannot be encoded"),
        (complex, "complex cannot be encoded"),
        (dict[str, list[Exception]], "Exception cannot be encoded"),
        (Line | dict[str, int], "more than one dict-like type"),
    ],
)
def test_a_type_that_json_cannot_hold_is_refused_by_name(type_: Any, message: str) -> None:
    with pytest.raises(UnsupportedType, match=message) as caught:
        Codec(type_)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"a":1,"b":[1,2]}', b'{ "b": [1, 2], "a": 1 }', True),
        (b'"\\u0061"', b'"a"', True),
        (b"", b"null", True),
        (b'{"a":1}', b'{"a":2}', False),
        (b"[1,2]", b"[2,1]", False),
        (b"1", b'"1"', False),
    ],
)
def test_same_value_compares_meaning_not_writing(one: bytes, other: bytes, same: bool) -> None:
    assert same_value(one, other) is same

"""List and Map: entries kept one by one, changes in place, readers, and what is refused."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NewType, TypeVar

import msgspec
import pytest

from perdure.objects import (
    DefinitionError,
    HandlerDropped,
    List,
    Map,
    Service,
    StateError,
    VirtualObject,
    Workflow,
    handler,
    shared,
)
from perdure.objects.context import Context
from perdure.objects.definitions import definition_of, new_instance
from perdure.objects.entries import HELD_MAX, PORTION
from perdure.objects.entry_keys import KeyForm, index_key, label_of
from perdure.objects.errors import UnreadableState
from perdure.objects.references import reference
from perdure.objects.state import State
from perdure.objects.values import Unencodable

if TYPE_CHECKING:
    from tests.objects.conftest import Live, MakeLive, Outbox
else:
    Outbox = Live = MakeLive = Any


Use = Callable[[Any], object]
"""Something done to an object, or to a list or map of it."""


class Line(msgspec.Struct):
    text: str
    votes: int = 0


class Fixed(msgspec.Struct, frozen=True):
    text: str


class Room(VirtualObject):
    lines: List[Line]
    said: List[str]
    fixed: List[Fixed]
    members: Map[str, Line]
    scores: Map[int, int]
    tags: Map[str, list[str]]
    topic: str = ""

    @handler
    async def say(self) -> None: ...


def said(room: Live, *texts: str) -> Live:
    """The room with these as its committed entries."""
    room.object.said.extend(texts)
    room.collect_entries()
    return room


def first(values: Iterable[Any], count: int) -> list[Any]:
    return list(islice(values, count))


def again(make: MakeLive, room: Live, *, writable: bool = True) -> Live:
    """The next invocation of the same object."""
    return make(Room, kept=room.kept, writable=writable)


def text_key(text: str) -> bytes:
    return b"s" + text.encode()


# --- List --------------------------------------------------------------------------------------------------------


def test_a_list_starts_empty_and_is_false(live: MakeLive) -> None:
    room = live(Room)

    assert len(room.object.said) == 0
    assert not room.object.said
    assert list(room.object.said) == []
    assert room.collect_entries() == ([], {})


def test_appending_writes_the_entries_that_are_new(live: MakeLive) -> None:
    room = live(Room)
    room.object.said.append("a")
    room.object.said.extend(["b", "c"])

    assert room.collect_entries() == (
        [("said", index_key(0), b'"a"'), ("said", index_key(1), b'"b"'), ("said", index_key(2), b'"c"')],
        {"said": 3},
    )
    assert room.collect_entries() == ([], {})


def test_appending_to_a_long_list_loads_nothing_but_its_length(live: MakeLive) -> None:
    room = again(live, said(live(Room), *map(str, range(1000))))
    room.object.said.append("new")
    room.object.lines.append(Line("new"))

    changes, lengths = room.collect_entries()
    assert [change[:2] for change in changes] == [("said", index_key(1000)), ("lines", index_key(0))]
    assert lengths == {"said": 1001, "lines": 1}
    assert (room.source.gets, room.source.ranges) == ([], [])


def test_reading_one_entry_loads_one(live: MakeLive) -> None:
    room = again(live, said(live(Room), *map(str, range(1000))))

    assert (room.object.said[500], room.object.said[-1]) == ("500", "999")
    assert room.source.gets == [("said", index_key(500)), ("said", index_key(999))]
    assert room.source.ranges == []


def test_slices_are_plain_lists(live: MakeLive) -> None:
    room = again(live, said(live(Room), *"abcdef"))
    texts = room.object.said

    assert texts[1:3] == ["b", "c"]
    assert room.source.ranges == [("said", index_key(0), 2)]  # no more than was asked for
    assert (texts[::2], texts[::-1], texts[-2:], texts[9:]) == (["a", "c", "e"], list("fedcba"), ["e", "f"], [])


def test_iterating_loads_in_portions(live: MakeLive) -> None:
    texts = [str(n) for n in range(PORTION * 2 + 5)]
    room = again(live, said(live(Room), *texts))

    assert first(room.object.said, 3) == texts[:3]
    assert len(room.source.ranges) == 1
    assert list(room.object.said) == texts
    assert list(reversed(room.object.said)) == texts[::-1]
    assert len(room.source.ranges) == 1 + 3 + 3
    assert room.source.gets == []


def test_a_list_is_a_sequence_otherwise(live: MakeLive) -> None:
    texts = said(live(Room), "a", "b", "b").object.said

    assert "b" in texts
    assert "x" not in texts
    assert (texts.index("b"), texts.count("b")) == (1, 2)
    assert texts is not None
    assert repr(texts) == "<List Room['k'].said>"


def test_an_entry_is_assigned(live: MakeLive) -> None:
    room = again(live, said(live(Room), "a", "b"))
    room.object.said[-1] = "B"

    assert room.object.said[1] == "B"
    assert room.collect_entries() == ([("said", index_key(1), b'"B"')], {})
    assert list(room.object.said) == ["a", "B"]


def test_the_last_entry_is_popped(live: MakeLive) -> None:
    room = again(live, said(live(Room), "a", "b"))

    assert room.object.said.pop() == "b"
    assert list(room.object.said) == ["a"]
    assert room.collect_entries() == ([("said", index_key(1), None)], {"said": 1})
    assert list(room.object.said) == ["a"]


def test_what_is_the_same_afterwards_is_no_write(live: MakeLive) -> None:
    room = again(live, said(live(Room), "a", "b"))
    room.object.said.append("c")
    room.object.said.pop()
    room.object.said.append(room.object.said.pop())
    room.object.said[0] = "a"
    room.object.scores[1] = 1
    del room.object.scores[1]

    assert room.collect_entries() == ([], {})


def test_a_list_may_be_appended_to_while_it_is_iterated(live: MakeLive) -> None:
    room = again(live, said(live(Room), "a", "b"))
    seen: list[str] = []
    for text in room.object.said:
        seen.append(text)
        if len(room.object.said) < 5:
            room.object.said.append(text * 2)

    assert seen == ["a", "b", "aa", "bb", "aaaa"]


def test_a_list_may_be_extended_by_itself(live: MakeLive) -> None:
    texts = said(live(Room), "a", "b").object.said
    texts.extend(texts)

    assert list(texts) == ["a", "b", "a", "b"]


def test_an_index_beyond_the_end_is_an_index_error(live: MakeLive) -> None:
    texts = said(live(Room), "a").object.said

    acts: list[Callable[[], object]] = [lambda: texts[1], lambda: texts[-2], lambda: texts.__setitem__(1, "x")]
    for act in acts:
        with pytest.raises(IndexError, match=r"Room\['k'\]\.said has 1 entries, no \[(1|-2)\]"):
            act()
    texts.pop()
    with pytest.raises(IndexError, match=r"pop from Room\['k'\]\.said, which is empty"):
        texts.pop()
    with pytest.raises(TypeError):
        texts["a"]


IN_THE_MIDDLE: list[Use] = [
    lambda texts: texts.insert(0, "x"),
    lambda texts: texts.remove("a"),
    lambda texts: texts.pop(0),
    lambda texts: texts.sort(),
    lambda texts: texts.reverse(),
    lambda texts: texts.__delitem__(0),
    lambda texts: texts.__setitem__(slice(0, 1), ["x"]),
]


@pytest.mark.parametrize("act", IN_THE_MIDDLE)
def test_nothing_is_put_or_taken_in_the_middle(live: MakeLive, act: Use) -> None:
    texts = said(live(Room), "a", "b").object.said

    with pytest.raises(StateError, match=r"Room\['k'\]\.said: a List grows and shrinks at its end only"):
        act(texts)


# --- Map ---------------------------------------------------------------------------------------------------------


def test_a_map_writes_the_entries_that_change(live: MakeLive) -> None:
    room = live(Room)
    room.object.scores.update({5: 1, -3: 2})
    room.object.scores[5] = 3

    changes, lengths = room.collect_entries()
    assert [(field, label_of(entry), data) for field, entry, data in changes] == [
        ("scores", "5", b"3"),
        ("scores", "-3", b"2"),
    ]
    assert lengths == {"scores": 2}


def test_reading_and_writing_one_entry_of_a_map_loads_one(live: MakeLive) -> None:
    room = live(Room)
    room.object.scores.update({n: n for n in range(1000)})
    room.collect_entries()
    room = again(live, room)

    assert room.object.scores[500] == 500
    room.object.scores[501] = 0
    assert len(room.source.gets) == 2
    room.collect_entries()
    assert (len(room.source.gets), room.source.ranges) == (2, [])


def test_a_map_is_iterated_in_the_order_of_its_keys(live: MakeLive) -> None:
    """Numbers by value, text by code points; what this turn added or removed included."""
    room = live(Room)
    room.object.scores.update({2**63 - 1: 1, -(2**63): 2, 0: 3, -1: 4})
    room.object.tags.update({"b": [], "é": [], "a": [], "": [], "\U0001f600": [], "\uffff": []})
    room.collect_entries()
    room = again(live, room)
    room.object.scores[7] = 5
    del room.object.scores[0]

    assert list(room.object.scores.items()) == [(-(2**63), 2), (-1, 4), (7, 5), (2**63 - 1, 1)]
    assert list(room.object.scores.values()) == [2, 4, 5, 1]
    assert list(room.object.tags) == list(room.object.tags.keys()) == ["", "a", "b", "é", "\uffff", "\U0001f600"]
    assert len(room.object.scores) == 4


def test_a_map_is_a_mutable_mapping(live: MakeLive) -> None:
    scores = live(Room).object.scores
    scores.update({1: 1, 2: 2})

    assert (1 in scores, 3 in scores, "1" in scores, None in scores) == (True, False, False, False)
    assert (scores.get(1), scores.get(3), scores.get(3, 0)) == (1, None, 0)
    assert (scores.setdefault(1, 9), scores.setdefault(4, 9)) == (1, 9)
    assert (scores.pop(4), scores.pop(4, None)) == (9, None)
    assert (scores.popitem(), dict(scores)) == ((1, 1), {2: 2})
    with pytest.raises(KeyError):
        scores[1]
    with pytest.raises(KeyError):
        del scores[1]
    assert (2, 2) in scores.items()
    assert 2 in scores.values()
    assert len(scores.items()) == len(scores.values()) == len(scores.keys()) == 1


def test_a_map_is_paged_from_a_key(live: MakeLive) -> None:
    room = live(Room)
    room.object.scores.update({n: n for n in range(0, 1000, 2)})
    room.collect_entries()
    scores = again(live, room).object.scores

    assert first(scores.items(after=499), 2) == [(500, 500), (502, 502)]
    assert next(scores.items(after=None)) == (0, 0)
    assert list(scores.items(after=998)) == []


RESIZES: list[Use] = [lambda scores: scores.update({9: 9}), lambda scores: scores.pop(0), lambda scores: scores.clear()]


@pytest.mark.parametrize("change", RESIZES)
def test_a_map_that_changes_size_while_iterated_says_so(live: MakeLive, change: Use) -> None:
    room = live(Room)
    room.object.scores.update({n: n for n in range(5)})
    keys = iter(room.object.scores)
    next(keys)
    change(room.object.scores)

    with pytest.raises(RuntimeError, match=r"Room\['k'\]\.scores changed size during iteration"):
        next(keys)


def test_values_may_be_replaced_while_a_map_is_iterated(live: MakeLive) -> None:
    room = live(Room)
    room.object.scores.update({n: n for n in range(PORTION * 2)})
    room.collect_entries()
    room = again(live, room)
    for key, value in room.object.scores.items():
        room.object.scores[key] = value + 1
        if key == PORTION:
            room.object.scores[PORTION * 2 - 1] = 0  # loaded already with its portion

    assert list(room.object.scores.values()) == [*range(1, PORTION * 2), 1]


# --- keys --------------------------------------------------------------------------------------------------------

UserId = NewType("UserId", str)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


@pytest.mark.parametrize(
    ("type_", "keys"),
    [
        (str, ["", "a", "x" * 512]),
        (int, [-(2**63), -1, 0, 1, 2**63 - 1]),
        (UserId, [UserId("u")]),
        (Literal["a", 1], ["a", 1]),
        (Colour, list(Colour)),
        (Level, list(Level)),
        (Annotated[int, msgspec.Meta(ge=0)], [0, 5]),
    ],
)
def test_a_key_comes_back_as_what_it_was(type_: Any, keys: list[Any]) -> None:
    form = KeyForm(type_)

    assert [form.unpack(form.pack(key)) for key in keys] == keys
    assert [type(form.unpack(form.pack(key))) for key in keys] == [type(key) for key in keys]


@pytest.mark.parametrize(
    ("type_", "key", "problem"),
    [
        (str, 5, "expected str, got int"),
        (str, "\ud800", "a lone surrogate"),
        (str, "é" * 257, "a key has at most 512 bytes, this one 514"),
        (int, "5", "expected int, got str"),
        (int, True, "expected int, got bool"),
        (int, 2**63, "a whole number beyond 64 bits"),
        (int, -(2**63) - 1, "a whole number beyond 64 bits"),
        (Colour, "green", "invalid enum value"),
        (Annotated[int, msgspec.Meta(ge=0)], -1, "expected int >= 0"),
    ],
)
def test_what_is_no_key_is_refused(type_: Any, key: Any, problem: str) -> None:
    with pytest.raises(Unencodable, match=problem):
        KeyForm(type_).pack(key)


def test_a_wrong_key_names_class_key_and_field(live: MakeLive) -> None:
    scores: Any = live(Room).object.scores

    acts: list[Callable[[], object]] = [
        lambda: scores["x"],
        lambda: scores.get("x"),
        lambda: scores.__setitem__("x", 1),
    ]
    for act in acts:
        with pytest.raises(StateError, match=r"Room\['k'\]\.scores cannot have the key 'x': expected int, got str"):
            act()


# --- changes in place --------------------------------------------------------------------------------------------


def with_members(live: MakeLive) -> Live:
    room = live(Room)
    room.object.members.update(bob=Line("bob"), eve=Line("eve"))
    room.object.lines.extend([Line("a"), Line("b")])
    room.collect_entries()
    return again(live, room)


def test_an_entry_changed_in_place_is_written(live: MakeLive) -> None:
    room = with_members(live)
    room.object.members["bob"].votes += 1
    room.object.lines[1].votes += 2

    assert room.collect_entries() == (
        [
            ("members", text_key("bob"), b'{"text":"bob","votes":1}'),
            ("lines", index_key(1), b'{"text":"b","votes":2}'),
        ],
        {},
    )
    assert room.collect_entries() == ([], {})


def test_an_entry_is_one_object_throughout_the_invocation(live: MakeLive) -> None:
    """Also across an await: what is changed in a later turn is written in that turn."""
    room = with_members(live)
    bob = room.object.members["bob"]
    assert room.collect_entries() == ([], {})

    bob.votes = 7

    assert room.object.members["bob"] is bob
    assert next(iter(room.object.members.values())) is bob
    assert room.collect_entries() == ([("members", text_key("bob"), b'{"text":"bob","votes":7}')], {})


def test_what_was_assigned_can_change_in_place_later(live: MakeLive) -> None:
    room = live(Room)
    line = Line("mine")
    room.object.lines.append(line)
    room.collect_entries()
    line.votes = 1

    assert room.collect_entries() == ([("lines", index_key(0), b'{"text":"mine","votes":1}')], {})
    room.object.tags.setdefault("a", []).append("x")
    assert room.collect_entries()[0] == [("tags", text_key("a"), b'["x"]')]


def test_what_was_removed_or_replaced_is_let_go(live: MakeLive) -> None:
    room = with_members(live)
    bob, last = room.object.members.pop("bob"), room.object.lines.pop()
    eve = room.object.members["eve"]
    room.object.members["eve"] = Line("new")
    room.collect_entries()
    bob.votes = last.votes = eve.votes = 9

    assert room.collect_entries() == ([], {})


def test_an_entry_stored_under_an_older_type_is_not_written_by_reading_it(live: MakeLive) -> None:
    room = with_members(live)
    room.source.fields["members"][text_key("bob")] = b'{"text":"bob"}'
    assert room.object.members["bob"] == Line("bob", 0)

    assert room.collect_entries() == ([], {})


def test_more_than_can_be_watched_is_refused(live: MakeLive) -> None:
    """Letting go of one would lose what is changed in it later."""
    room = live(Room)
    room.source.fields["lines"] = {index_key(n): b'{"text":"x"}' for n in range(HELD_MAX + 1)}
    refused = pytest.raises(StateError, match=r"\.lines has 10,000 entries in use that may change in place.* Line immu")

    assert len(room.object.lines[:HELD_MAX]) == HELD_MAX
    assert len(first(room.object.lines, HELD_MAX)) == HELD_MAX
    with refused:
        list(room.object.lines)
    with refused:
        room.object.lines.append(Line("y"))
    assert room.state.collect_entries() == ([], {})


def test_what_cannot_change_in_place_is_not_held(live: MakeLive) -> None:
    room = live(Room)
    room.source.fields["fixed"] = {index_key(n): b'{"text":"x"}' for n in range(HELD_MAX + 1)}

    assert sum(1 for _ in room.object.fixed) == HELD_MAX + 1
    assert room.object.fixed[0] is not room.object.fixed[0]


# --- values ------------------------------------------------------------------------------------------------------


def test_a_value_that_would_not_come_back_fails_its_turn(live: MakeLive) -> None:
    room = live(Room, "alice")
    room.object.said.append(5)

    with pytest.raises(StateError, match=r"Room\['alice'\]\.said\[0\] cannot be kept: \$: expected str, got int"):
        room.collect_entries()

    room = with_members(live)
    room.object.members["bob"].votes = "x"
    with pytest.raises(StateError, match=r"Room\['k'\]\.members\['bob'\] cannot be kept: \$\.votes: expected int"):
        room.collect_entries()


def test_bytes_that_the_type_does_not_read_say_so(live: MakeLive) -> None:
    room = live(Room)
    room.source.fields = {"lines": {index_key(0): b"5"}, "members": {text_key("bob"): b"5"}, "scores": {b"sx": b"1"}}

    with pytest.raises(
        UnreadableState, match=r"Room\['k'\]\.lines\[0\] is stored as what Line does not read: Expected"
    ):
        room.object.lines[0]
    with pytest.raises(UnreadableState, match=r"Room\['k'\]\.members\['bob'\] is stored as what Line does not read"):
        list(room.object.members.values())
    with pytest.raises(UnreadableState, match=r"Room\['k'\]\.scores\['x'\] is stored under a key that is no int"):
        list(room.object.scores)


def test_a_map_that_was_a_list_or_of_other_keys_says_so(live: MakeLive) -> None:
    room = live(Room)
    room.source.fields = {"scores": {index_key(3): b"1"}, "tags": {b"s\xff": b"[]"}}

    with pytest.raises(
        UnreadableState, match=r"\.scores\[3\] is stored under a key that is no int: an entry of a List"
    ):
        list(room.object.scores)
    with pytest.raises(UnreadableState, match=r"\.tags\['.*xff'\] is stored under a key that is no str"):
        list(room.object.tags)


def test_an_entry_of_a_list_that_is_missing_says_so(live: MakeLive) -> None:
    room = again(live, said(live(Room), "a", "b", "c"))
    room.source.length = lambda field: 3  # type: ignore[method-assign]
    del room.source.fields["said"][index_key(1)]

    with pytest.raises(UnreadableState, match=r"Room\['k'\]\.said\[1\] is missing among the stored entries"):
        list(room.object.said)
    with pytest.raises(UnreadableState, match="is missing"):
        room.object.said[1]


# --- clear -------------------------------------------------------------------------------------------------------


def test_clearing_removes_every_entry(live: MakeLive) -> None:
    room = with_members(live)
    room.object.members["zoe"] = Line("zoe")
    room.object.members.clear()
    room.object.lines.clear()
    room.object.lines.append(Line("first"))

    assert (dict(room.object.members), len(room.object.members)) == ({}, 0)
    changes, lengths = room.collect_entries()
    assert [(field, label_of(entry), data) for field, entry, data in changes] == [
        ("members", "'bob'", None),
        ("members", "'eve'", None),
        ("lines", "0", b'{"text":"first","votes":0}'),
        ("lines", "1", None),
    ]
    assert lengths == {"members": 0, "lines": 1}


def test_clearing_more_than_a_turn_should_hold_is_refused(live: MakeLive) -> None:
    room = live(Room)
    room.source.fields["scores"] = {b"i" + index_key(n): b"1" for n in range(10_001)}

    with pytest.raises(
        StateError, match=r"\.scores has 10,001 entries, and clear\(\) removes at most 10,000 in a turn"
    ):
        room.object.scores.clear()
    del room.object.scores[-(2**63)]
    room.object.scores.clear()
    assert room.state.collect_entries()[1] == {"scores": 0}


# --- the guard ---------------------------------------------------------------------------------------------------

USES: list[tuple[str, Use]] = [
    ("said", len),
    ("said", bool),
    ("said", list),
    ("said", lambda view: list(reversed(view))),
    ("said", lambda view: view[0]),
    ("said", lambda view: view[:1]),
    ("said", lambda view: "a" in view),
    ("said", lambda view: view.append("x")),
    ("said", lambda view: view.extend([])),
    ("said", lambda view: view.pop()),
    ("said", lambda view: view.clear()),
    ("said", lambda view: view.__setitem__(0, "x")),
    ("scores", len),
    ("scores", list),
    ("scores", lambda view: list(view.items())),
    ("scores", lambda view: list(view.values())),
    ("scores", lambda view: view.items(after=0)),
    ("scores", lambda view: view[0]),
    ("scores", lambda view: 0 in view),
    ("scores", lambda view: view.get(0)),
    ("scores", lambda view: view.__setitem__(0, 1)),
    ("scores", lambda view: view.__delitem__(0)),
    ("scores", lambda view: view.clear()),
]


@pytest.mark.parametrize(("field", "use"), USES)
def test_every_use_of_a_kept_list_or_map_is_guarded(live: MakeLive, field: str, use: Use) -> None:
    """On a dead context, or outside its turn, nothing is loaded and nothing changes."""
    room = said(live(Room), "a")
    room.object.scores[0] = 1
    room.collect_entries()
    room = again(live, room)
    view = getattr(room.object, field)
    room.refuse = HandlerDropped()

    with pytest.raises(HandlerDropped):
        use(view)
    assert (room.source.gets, room.source.ranges) == ([], [])
    assert room.state.collect_entries() == ([], {})


def test_an_iterator_that_outlives_its_turn_is_guarded(live: MakeLive) -> None:
    room = said(live(Room), "a", "b")
    room.object.scores.update({1: 1, 2: 2})
    iterators = [iter(room.object.said), iter(room.object.scores), iter(room.object.scores.items())]
    for iterator in iterators:
        next(iterator)
    iterators += [iter(room.object.said), iter(room.object.scores), iter(room.object.scores.values())]
    room.refuse = HandlerDropped()

    for iterator in iterators:
        with pytest.raises(HandlerDropped):
            next(iterator)


# --- readers -----------------------------------------------------------------------------------------------------


CHANGES: list[Use] = [
    lambda room: room.said.append("x"),
    lambda room: room.said.extend(["x"]),
    lambda room: room.said.pop(),
    lambda room: room.said.clear(),
    lambda room: room.said.__setitem__(0, "x"),
    lambda room: room.scores.__setitem__(0, 1),
    lambda room: room.scores.__delitem__(0),
    lambda room: room.scores.update({1: 1}),
    lambda room: room.scores.clear(),
]


@pytest.mark.parametrize("act", CHANGES)
def test_a_reader_cannot_change_entries(live: MakeLive, act: Use) -> None:
    room = again(live, said(live(Room), "a"), writable=False)

    with pytest.raises(StateError, match=r"Room\['k'\]\.(said|scores) changed in a @shared handler, which only reads"):
        act(room.object)
    assert list(room.object.said) == ["a"]
    assert room.collect_entries() == ([], {})


def test_a_readers_change_in_place_is_refused_at_the_end_of_its_turn(live: MakeLive) -> None:
    room = again(live, with_members(live), writable=False)
    bob = room.object.members["bob"]
    assert room.collect_entries() == ([], {})
    room.state.begin_turn()
    bob.votes = 1

    with pytest.raises(StateError, match=r"Room\['k'\]\.members\['bob'\] changed in a @shared handler, which only r"):
        room.state.collect_entries()


def test_a_reader_sees_the_last_committed_turn_in_each_of_its_turns(live: MakeLive) -> None:
    writer = said(with_members(live), "a")
    reader = again(live, writer, writable=False)
    view, bob, eve = reader.object.said, reader.object.members["bob"], reader.object.members["eve"]
    assert len(view) == 1

    writer.object.said.append("b")
    writer.object.members["bob"].votes = 5
    writer.collect_entries()
    reader.state.begin_turn()

    assert reader.object.said is view
    assert list(view) == ["a", "b"]
    assert reader.object.members["eve"] is eve  # its own copy, since nothing happened to it
    assert (bob.votes, reader.object.members["bob"].votes) == (0, 5)
    assert reader.collect_entries() == ([], {})


def test_a_readers_walk_over_an_await_goes_on_in_what_is_committed_by_then(live: MakeLive) -> None:
    writer = said(live(Room), "a", "b", "c")
    writer.object.scores.update({1: 1, 3: 3})
    writer.collect_entries()
    reader = again(live, writer, writable=False)
    texts, scores, backwards = iter(reader.object.said), iter(reader.object.scores), reversed(reader.object.said)
    assert (next(texts), next(scores), next(backwards)) == ("a", 1, "c")

    writer.object.said[1] = "B"
    writer.object.said.pop()
    writer.object.scores[2] = 2
    writer.collect_entries()
    reader.state.begin_turn()

    assert (list(texts), list(scores), list(backwards)) == (["B"], [2, 3], ["B", "a"])


def test_a_reader_of_very_many_is_not_held_up(live: MakeLive) -> None:
    room = live(Room, writable=False)
    room.kept.fields["lines"] = {index_key(n): b'{"text":"x"}' for n in range(HELD_MAX + 1)}

    assert sum(1 for _ in room.object.lines) == HELD_MAX + 1
    assert room.collect_entries() == ([], {})


# --- turns -------------------------------------------------------------------------------------------------------


def test_a_turn_that_fails_leaves_nothing(live: MakeLive) -> None:
    """The State is thrown away with it; the next run begins at what was committed."""
    room = with_members(live)
    room.object.members["bob"].votes = 9
    room.object.lines.clear()
    room.object.said.append("x")

    after = again(live, room)
    assert after.object.members["bob"].votes == 0
    assert (len(after.object.lines), len(after.object.said)) == (2, 0)
    assert after.collect_entries() == ([], {})


def test_the_view_is_the_same_object_each_time(live: MakeLive) -> None:
    room = live(Room).object

    assert room.said is room.said
    assert room.said == room.said


def test_fields_and_entries_are_collected_apart(live: MakeLive) -> None:
    room = live(Room)
    room.object.topic = "news"
    room.object.said.append("x")

    assert room.collect() == {"topic": b'"news"'}
    assert room.collect_entries()[1] == {"said": 1}
    assert room.loads == []


def test_changes_stand_in_the_order_of_the_text(live: MakeLive) -> None:
    """By field as first touched; assigned ones first, then those changed in place."""
    room = with_members(live)
    room.object.members["eve"].votes = 1
    room.object.lines.append(Line("c"))
    room.object.members["zoe"] = Line("zoe")
    room.object.members["amy"] = Line("amy")
    room.object.lines[0].votes = 1

    changes, _ = room.collect_entries()
    assert [(field, label_of(entry)) for field, entry, _ in changes] == [
        ("members", "'zoe'"),
        ("members", "'amy'"),
        ("members", "'eve'"),
        ("lines", "2"),
        ("lines", "0"),
    ]


# --- containers, no values ---------------------------------------------------------------------------------------


def test_a_list_or_map_is_not_assigned_or_deleted(live: MakeLive) -> None:
    room = live(Room).object

    acts: list[Callable[[], object]] = [lambda: setattr(room, "said", []), lambda: delattr(room, "scores")]
    for act in acts:
        with pytest.raises(StateError, match=r"Room\.(said|scores): a List or Map is a container, not a value"):
            act()


def test_it_is_not_compared_hashed_or_constructed(live: MakeLive) -> None:
    room = live(Room).object

    with pytest.raises(TypeError, match=r"Room\['k'\]\.said is not compared by its entries; load them: list"):
        _ = room.said == []
    with pytest.raises(TypeError, match="unhashable"):
        hash(room.scores)
    with pytest.raises(TypeError, match="List is not constructed; declare a field"):
        List()  # type: ignore[call-arg]  # pyright: ignore


def test_without_a_source_of_entries_it_says_so() -> None:
    definition = definition_of(Room)
    state = State(definition, dict[str, bytes]().get, lambda: None, writable=True)
    room: Any = new_instance(definition, "k", Context(), state)

    with pytest.raises(StateError, match=r"Room\['k'\]\.said is a List or Map, and there is nothing here that keeps"):
        _ = room.said
    assert state.collect_entries() == ([], {})


def test_state_of_a_reference_is_not_read(outbox: Outbox) -> None:
    room = reference(Room, "k", outbox)
    with pytest.raises(StateError, match="said is state of Room; ask a handler"):
        _ = room.said


# --- when a class is defined -------------------------------------------------------------------------------------


def test_a_definition_tells_its_collections_apart() -> None:
    definition = definition_of(Room)

    assert list(definition.fields) == ["topic"]
    assert list(definition.collections) == ["lines", "said", "fixed", "members", "scores", "tags"]
    assert definition.collections["scores"].keys is not None
    assert definition.collections["said"].keys is None


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        (List, "say what it holds"),
        (Map, "say what it holds"),
        (Map[float, int], "a key is a str or an int"),  # type: ignore[type-var]  # pyright: ignore
        (Map[bool, int], "a key is a str or an int"),
        (Map[str | int, int], "a key is a str or an int"),
        (Map[Literal["a"] | None, int], "a key is a str or an int"),  # type: ignore[type-var]  # pyright: ignore
        (List[object], "object"),
        (list[Map[str, int]], "is a state field by itself, not part of another type"),
        (List[int] | None, "is a state field by itself, not part of another type"),
        (List[List[int]], "is a state field by itself, not part of another type"),
        (Map[str, Map[str, int]], "is a state field by itself, not part of another type"),
        (dict[str, List[int] | None], "is a state field by itself, not part of another type"),
    ],
)
def test_what_cannot_be_kept_is_refused_when_the_class_is_defined(annotation: Any, problem: str) -> None:
    with pytest.raises(DefinitionError, match=rf"Wrong\.field: .*{problem}"):
        type("Wrong", (VirtualObject,), {"__annotations__": {"field": annotation}, "__module__": __name__})


def test_a_default_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"Wrong\.said: a List or Map starts empty and has no default"):

        class Wrong(VirtualObject):  # pyright: ignore[reportUnusedClass]
            said: List[str] = []  # type: ignore[assignment]  # pyright: ignore  # noqa: RUF012


def test_a_service_has_none() -> None:
    with pytest.raises(DefinitionError, match=r"Wrong\.said: a Service has no state"):

        class Wrong(Service):  # pyright: ignore[reportUnusedClass]
            said: List[str]


def test_it_is_no_argument_and_no_result() -> None:
    with pytest.raises(DefinitionError, match="is a state field by itself, not part of another type"):

        class Wrong(VirtualObject):  # pyright: ignore[reportUnusedClass]
            @handler
            async def take(self, texts: List[str]) -> None: ...


@pytest.mark.parametrize(
    "statement", ["self.said = []", "self.said += ['x']", "del self.said", "self.said = self.said"]
)
def test_an_assignment_is_found_in_the_source(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    name = f"room_{abs(hash(statement))}"
    (tmp_path / f"{name}.py").write_text(
        "from __future__ import annotations\nfrom perdure.objects import *\nimport perdure.objects as objects\n"
        "class Room(VirtualObject):\n    said: objects.List[Later]\n\n"
        f"    @handler\n    async def act(self):\n        {statement}\n\nLater = str\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    with pytest.raises(DefinitionError, match=r"Room\.act: `(del )?self\.said`: a List or Map is a container, not a"):
        __import__(name)


def test_a_workflow_has_them_too(live: MakeLive) -> None:
    class Import(Workflow):
        rows: List[int]

        @handler
        async def run(self) -> None: ...

        @shared
        async def look(self) -> int:
            return len(self.rows)

    flow = live(Import)
    flow.object.rows.append(1)
    assert flow.collect_entries()[1] == {"rows": 1}


KK = TypeVar("KK", str, int)
VV = TypeVar("VV")


class Table(VirtualObject, Generic[KK, VV]):
    rows: Map[KK, VV]

    @handler
    async def act(self) -> None: ...


class Numbers(Table[int, float]):
    pass


def test_a_generic_base_says_its_types_later(live: MakeLive) -> None:
    table = live(Numbers)
    table.object.rows[5] = 0.5

    assert table.collect_entries()[0] == [("rows", b"i" + index_key(5 + 2**63), b"0.5")]
    with pytest.raises(DefinitionError, match=r"Table leaves ~KK open"):
        definition_of(Table)

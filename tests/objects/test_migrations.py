"""What an older version stored, as `migrate` gets it, and what is left of it."""

# The classes here are wrong on purpose; what checkers say of each is tested in tests/typing.
# pyright: reportUnusedClass=false, reportIncompatibleMethodOverride=false, reportAssignmentType=false
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import msgspec
import pytest

from perdure.objects import DefinitionError, List, Map, OldState, Service, VirtualObject, Workflow, handler, shared
from perdure.objects.definitions import definition_of
from perdure.objects.entry_keys import KeyForm, index_key, tag_of
from perdure.objects.errors import StateError, UnreadableState
from perdure.objects.migrations import Migrated, Stored, brought_up_to_date
from tests.garbage import garbage
from tests.objects.conftest import KeptEntries


class Line(msgspec.Struct, frozen=True):
    text: str


class Room(VirtualObject, version=3):
    topic: str = ""
    tags: list[str]
    lines: List[Line]
    votes: Map[int, str]

    @handler
    async def say(self) -> None: ...


def room_whose_migrate(act: Callable[[Any, OldState], object]) -> type:
    class Acting(Room, name="Room", version=3):
        def migrate(self, old: OldState) -> None:
            act(self, old)

    return Acting


def stored(entries: dict[str, dict[bytes, bytes]] | None = None, *, version: int = 1, **fields: bytes) -> Stored:
    kept = KeptEntries(entries)
    lengths = {field: len(rows) for field, rows in kept.fields.items()}
    tags = {field: tag_of(next(iter(rows))) for field, rows in kept.fields.items()}
    return Stored(version, frozenset(fields), lengths, tags, fields.get, kept)


def migrated(act: Callable[[Any, OldState], object], old: Stored) -> Migrated:
    found = brought_up_to_date(definition_of(room_whose_migrate(act)), "k", old)
    assert found is not None
    return found


def listed(*values: bytes) -> dict[bytes, bytes]:
    return {index_key(index): value for index, value in enumerate(values)}


def mapped(**values: bytes) -> dict[bytes, bytes]:
    return {KeyForm(str).pack(key): value for key, value in values.items()}


# --- what it reads ----------------------------------------------------------------------------------------------------


def test_what_is_stored_is_read_as_plain_values() -> None:
    """A List's as a list, a Map's as a dict with its keys as they were; whatever the class declares now."""
    numbers = {KeyForm(int).pack(key): b'"x"' for key in (-1, 7)}
    old = stored({"lines": listed(b"1", b"2"), "by": mapped(bob=b"true"), "counts": numbers}, gone=b'{"a":[1]}')
    seen: dict[str, Any] = {}

    migrated(lambda _, old: seen.update(old), old)

    assert seen == {"lines": [1, 2], "by": {"bob": True}, "counts": {-1: "x", 7: "x"}, "gone": {"a": [1]}}
    assert [*seen] == ["by", "counts", "gone", "lines"]


def test_it_is_a_mapping_with_a_version() -> None:
    said: list[object] = []

    def look(_: Any, old: OldState) -> None:
        said.extend(["topic" in old, "tags" in old, len(old), old.get("tags", 3), old.version])
        with pytest.raises(KeyError, match="tags"):
            old["tags"]
        with pytest.raises(KeyError, match="tags"):
            old.pop("tags")
        said.append(old.pop("tags", 4))

    migrated(look, stored(topic=b'"t"', version=2))

    assert said == [True, False, 1, 3, 2, 4]


def test_a_field_is_read_as_a_type() -> None:
    seen: list[object] = []

    def look(_: Any, old: OldState) -> None:
        seen.append(old.read("line", Line))
        seen.append(old.read("counts", dict[int, Line]))
        with pytest.raises(UnreadableState, match=r"Room\['k'\]\.line is stored as what int does not read: Expected"):
            old.read("line", int)

    migrated(look, stored({"counts": {KeyForm(int).pack(3): b'{"text":"b"}'}}, line=b'{"text":"a"}'))

    assert seen == [Line("a"), {3: Line("b")}]


def test_what_the_annotation_still_reads_is_read_as_self() -> None:
    def act(room: Any, _: OldState) -> None:
        room.tags.append(room.topic)
        room.lines.append(room.lines[0])

    left = migrated(act, stored({"lines": listed(b'{"text":"a"}')}, topic=b'"t"', tags=b'["s"]'))

    assert left.writes == {"tags": b'["s","t"]'}
    assert (left.entries, left.lengths) == ([("lines", index_key(1), b'{"text":"a"}')], {"lines": 2})


# --- what is left -----------------------------------------------------------------------------------------------------


def test_what_is_popped_is_dropped_and_what_is_assigned_is_written() -> None:
    """Also if it is the same field, and whichever comes first."""

    def act(room: Any, old: OldState) -> None:
        room.topic = old.pop("topic") + "!"
        room.tags = ["new"]
        assert old.pop("tags") == ["old"]
        assert old.pop("gone") == 1
        assert [*old] == ["kept"]

    left = migrated(act, stored(topic=b'"t"', tags=b'["old"]', gone=b"1", kept=b"2"))

    assert left.writes == {"topic": b'"t!"', "tags": b'["new"]', "gone": b""}
    assert [left.load(name) for name in ("topic", "gone", "kept", "never")] == [b'"t!"', None, b"2", None]


def test_a_popped_field_has_its_default_from_then_on() -> None:
    seen: list[object] = []

    def act(room: Any, old: OldState) -> None:
        old.pop("topic")
        seen.append(room.topic)

    left = migrated(act, stored(topic=b'"t"'))

    assert (seen, left.writes) == ([""], {"topic": b""})


def test_popped_entries_are_removed_unless_they_are_written_again() -> None:
    old = stored({"lines": listed(b"1", b"2", b"3"), "votes": mapped(a=b"1")})

    def act(room: Any, old: OldState) -> None:
        room.lines.extend(Line(str(number)) for number in old.pop("lines") if number > 1)
        room.votes.update({number: name for name, number in old.pop("votes").items()})

    left = migrated(act, old)

    one = KeyForm(int).pack(1)
    assert {(field, entry): value for field, entry, value in left.entries} == {
        ("lines", index_key(0)): b'{"text":"2"}',
        ("lines", index_key(1)): b'{"text":"3"}',
        ("lines", index_key(2)): None,
        ("votes", KeyForm(str).pack("a")): None,
        ("votes", one): b'"a"',
    }
    assert left.lengths == {"lines": 2, "votes": 1}
    assert (left.length("lines"), left.get("lines", index_key(2)), left.get("votes", one)) == (2, None, b'"a"')
    assert [row[0] for row in left.range("lines", None, 9)] == [index_key(0), index_key(1)]
    assert left.range("votes", None, 9) == [(one, b'"a"')]


def test_what_was_popped_is_not_there_any_more() -> None:
    seen: list[object] = []

    def act(room: Any, old: OldState) -> None:
        room.topic = room.topic  # written again, since what was stored of it goes
        old.pop("topic")
        old.pop("lines")
        old.pop("votes")
        seen.extend([[*room.lines], [*room.votes.items()], 3 in room.votes])

    votes = {KeyForm(int).pack(3): b'"c"'}
    left = migrated(act, stored({"lines": listed(b'{"text":"a"}'), "votes": votes}, topic=b'"t"'))

    assert seen == [[], [], False]
    assert left.writes == {"topic": b'"t"'}
    assert left.lengths == {"lines": 0, "votes": 0}


def test_it_leaves_nothing_to_the_collector() -> None:
    definition = definition_of(room_whose_migrate(lambda room, old: room.lines.extend(old.pop("lines", []))))
    with garbage() as left:
        brought_up_to_date(definition, "k", stored(topic=b'"t"'))
    assert left == []


def test_entries_that_are_not_touched_show_through_what_is_laid_over_them() -> None:
    values = [b'{"text":"%d"}' % number for number in range(300)]

    def act(room: Any, _: OldState) -> None:
        room.lines[7] = Line("seven")
        room.lines.pop()

    left = migrated(act, stored({"lines": listed(*values)}))

    rows, after = list[tuple[bytes, bytes]](), None
    while portion := left.range("lines", after, 10):
        rows, after = [*rows, *portion], portion[-1][0]
    assert [value for _, value in rows] == [*values[:7], b'{"text":"seven"}', *values[8:299]]


def test_without_a_hook_everything_stays() -> None:
    left = brought_up_to_date(definition_of(Room), "k", stored(gone=b"1"))

    assert left is not None
    assert (left.writes, left.entries, left.lengths) == ({}, [], {})


@pytest.mark.parametrize("version", [0, 3])
def test_what_is_of_the_version_or_not_stored_is_not_migrated(version: int) -> None:
    never = room_whose_migrate(lambda *_: pytest.fail("it ran"))

    assert brought_up_to_date(definition_of(never), "k", stored(version=version)) is None


# --- what can't be done -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "problem"),
    [
        (lambda room, old: old["x"], "KeyError: 'x'"),
        (lambda room, old: room.ctx.now(), r"StateError: migrate used the context \(now\)"),
        (lambda room, old: room.say.send(), r"StateError: migrate used the context \(_outbound\)"),
        (lambda room, old: setattr(room, "topic", 5), r"StateError: Room\['k'\]\.topic cannot be kept: .*expected str"),
        (lambda room, old: setattr(room, "topc", "x"), "StateError: 'topc' is no field"),
        (lambda room, old: sys.exit(3), "SystemExit: 3"),
        (
            lambda room, old: (room.lines.append(Line("x")), old.pop("lines")),
            r"StateError: .*lines is used before old\.pop",
        ),
    ],
)
def test_a_hook_that_fails_names_itself_and_the_object(act: Callable[[Any, OldState], object], problem: str) -> None:
    old = stored({"lines": listed(b'{"text":"a"}')})

    with pytest.raises(UnreadableState, match=rf"Room\['k'\]: its migrate raised {problem}"):
        migrated(act, old)


def test_it_has_no_event_loop_and_an_empty_context() -> None:
    async def main() -> None:
        asked.set("by somebody")
        with pytest.raises(UnreadableState, match="RuntimeError: no running event loop"):
            migrated(lambda _, old: asyncio.get_running_loop(), stored(topic=b"1"))
        migrated(lambda _, old: seen.append(asked.get("by nobody")), stored(topic=b"1"))
        asyncio.get_running_loop()

    asked: ContextVar[str] = ContextVar("asked")
    seen: list[str] = []
    asyncio.run(main())

    assert seen == ["by nobody"]


def test_too_many_entries_are_not_taken_at_once() -> None:
    with pytest.raises(UnreadableState, match=r"lines has 10,001 entries, and migrate takes at most 10,000"):
        migrated(lambda _, old: old.pop("lines"), stored({"lines": listed(*[b"1"] * 10_001)}))


def test_rows_that_are_lost_are_noticed() -> None:
    old = stored({"lines": listed(b"1", b"2")})
    assert isinstance(old.entries, KeptEntries)
    del old.entries.fields["lines"][index_key(1)]

    with pytest.raises(UnreadableState, match="lines has 2 entries, and 1 are stored: its rows are damaged"):
        migrated(lambda _, old: old["lines"], old)


def test_what_is_kept_of_it_is_of_no_use_afterwards() -> None:
    kept: list[Any] = []
    migrated(lambda *both: kept.extend(both), stored(topic=b'"t"'))
    room, old = kept

    for use in (
        lambda: room.topic,
        lambda: setattr(room, "topic", "x"),
        lambda: old["topic"],
        lambda: old.pop("topic"),
    ):
        with pytest.raises(StateError, match="was used after that had ended"):
            use()


@pytest.mark.parametrize(
    ("old", "problem"),
    [
        (stored(lines=b"[]"), r"lines is stored as a whole value, and expected is .*List\[.*Line\]"),
        (stored({"tags": listed(b"1")}), r"tags is stored as 1 entries of a List, and expected is list\[str\]"),
        (stored({"lines": mapped(a=b"1")}), r"lines is stored as 1 entries of a Map with text for keys, .*List"),
        (stored({"votes": listed(b"1", b"2")}), r"votes is stored as 2 entries of a List, and expected is .*Map\[int"),
        (stored({"votes": mapped(a=b"1")}), r"votes is stored as 1 entries of a Map with text for keys, .*Map\[int"),
    ],
)
@pytest.mark.parametrize("act", [lambda room, old: None, lambda room, old: (room.lines, len(room.lines), room.tags)])
def test_another_kind_of_collection_is_never_hidden(
    old: Stored, problem: str, act: Callable[[Any, OldState], object]
) -> None:
    """With a hook that leaves it, with one that would look past it, and with none."""
    with pytest.raises(UnreadableState, match=rf"Room\['k'\]\.{problem}.*nothing was overwritten"):
        migrated(act, old)
    with pytest.raises(UnreadableState, match=problem):
        brought_up_to_date(definition_of(Room), "k", old)


def test_what_a_newer_version_wrote_is_left_alone() -> None:
    with pytest.raises(UnreadableState, match=r"Room\['k'\] was written by a newer version of the class"):
        brought_up_to_date(definition_of(Room), "k", stored(version=4, topic=b"1"))


# --- as a class says it -----------------------------------------------------------------------------------------------


def test_a_version_is_inherited_and_1_without_one() -> None:
    class Plain(VirtualObject):
        @handler
        async def go(self) -> None: ...

    class Second(Plain, version=2): ...

    class Third(Second): ...

    assert [definition_of(cls).version for cls in (Plain, Second, Third)] == [1, 2, 2]
    assert not definition_of(Third).migrates


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "2"])
def test_what_is_no_version_is_refused(version: Any) -> None:
    with pytest.raises(DefinitionError, match=r"Wrong: version=.*: give a whole number, 1 or more"):

        class Wrong(VirtualObject, version=version): ...

    with pytest.raises(DefinitionError, match=r"Wrong2: version=.*: give a whole number"):

        class Wrong2(Workflow, version=version): ...


def test_a_service_has_no_version_and_its_migrate_is_its_own() -> None:
    with pytest.raises(DefinitionError, match="version= is that of the state, and a Service has none"):

        class Wrong(Service, version=2): ...

    class Right(Service):
        @handler
        async def migrate(self) -> None: ...

    assert not definition_of(Right).migrates


def test_a_hook_of_another_form_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"Async\.migrate is a plain `def`"):

        class Async(VirtualObject, version=2):
            async def migrate(self, old: OldState) -> None: ...  # type: ignore[override]

    with pytest.raises(DefinitionError, match=r"Short\.migrate takes what is stored"):

        class Short(VirtualObject, version=2):
            def migrate(self) -> None: ...  # type: ignore[override]

    with pytest.raises(DefinitionError, match=r"Asked\.migrate: this name is for the hook"):

        class Asked(VirtualObject, version=2):
            @shared
            async def migrate(self) -> None: ...  # type: ignore[override]

    with pytest.raises(DefinitionError, match=r"Kept\.migrate: this name is for the hook"):

        class Kept(VirtualObject, version=2):
            migrate: int = 0  # type: ignore[assignment]


def test_a_hook_of_the_first_version_would_never_run() -> None:
    class Base(VirtualObject):
        def migrate(self, old: OldState) -> None: ...

        @handler
        async def go(self) -> None: ...

    class Sub(Base, version=2): ...

    assert definition_of(Sub).migrates
    with pytest.raises(DefinitionError, match="Base has a migrate, which runs for what is stored under a lower"):
        definition_of(Base)


def test_a_misspelt_field_in_a_hook_is_refused_when_the_class_is_defined() -> None:
    with pytest.raises(DefinitionError, match=r"Wrong\.migrate: `self\.blance`: .*did you mean `balance`"):

        class Wrong(VirtualObject, version=2):
            balance: int = 0

            def migrate(self, old: OldState) -> None:
                self.blance = 1

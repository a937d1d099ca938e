"""Typed state: reads, writes, changes in place, readers, defaults."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec
import pytest

from perdure.objects import HandlerDropped, Promise, StateError, VirtualObject, Workflow, handler, shared
from perdure.objects.definitions import definition_of

if TYPE_CHECKING:
    from tests.objects.conftest import MakeLive
else:
    MakeLive = Any


class Line(msgspec.Struct):
    sku: str
    count: int = 1


class Fixed(msgspec.Struct, frozen=True):
    a: int


class Account(VirtualObject):
    balance: int = 0
    rate: float = 1.5
    owner: str | None = None
    status: Literal["open", "closed"] = "open"
    limit: Annotated[int, msgspec.Meta(ge=0)] = 0
    since: datetime = datetime(2020, 1, 1, tzinfo=UTC)
    fixed: Fixed = Fixed(1)
    seen: list[str]
    lines: dict[str, Line]
    tags: set[str]
    first: Line = Line("first")
    several: list[int] = [1, 2]  # noqa: RUF012
    made: list[int] = msgspec.field(default_factory=lambda: [7])
    MAX: ClassVar[int] = 3
    NAME: Final = "x"
    plain = 5

    @handler
    async def touch(self) -> None: ...

    @property
    def double(self) -> int:
        return self.balance * 2

    @double.setter
    def double(self, value: int) -> None:
        self.balance = value // 2


def test_a_field_starts_as_its_default(live: MakeLive) -> None:
    account = live(Account).object

    assert (account.balance, account.rate, account.owner, account.status) == (0, 1.5, None, "open")
    assert (account.seen, account.lines, account.tags) == ([], {}, set())
    assert (account.several, account.made, account.first) == ([1, 2], [7], Line("first"))


def test_class_variables_and_plain_attributes_are_no_state(live: MakeLive) -> None:
    account = live(Account)

    assert (account.object.MAX, account.object.NAME, account.object.plain) == (3, "x", 5)
    assert account.loads == []
    assert account.guarded == 0


def test_a_default_is_copied(live: MakeLive) -> None:
    one, other = live(Account).object, live(Account).object
    one.several.append(3)
    one.first.sku = "changed"
    one.seen.append("x")

    assert (other.several, other.first, other.seen) == ([1, 2], Line("first"), [])


def test_a_committed_value_is_read_once(live: MakeLive) -> None:
    account = live(Account, stored={"balance": b"41"})

    assert [account.object.balance, account.object.balance] == [41, 41]
    assert account.loads == ["balance"]


def test_an_assignment_is_one_write(live: MakeLive) -> None:
    account = live(Account, stored={"balance": b"41"})
    account.object.balance += 1

    assert account.collect() == {"balance": b"42"}
    assert account.collect() == {}
    assert account.object.balance == 42


def test_what_is_the_same_afterwards_is_no_write(live: MakeLive) -> None:
    account = live(Account, stored={"balance": b"41"})
    account.object.balance += 1
    account.object.balance -= 1

    assert account.collect() == {}


def test_only_reading_writes_nothing_and_defaults_are_not_stored(live: MakeLive) -> None:
    account = live(Account)
    assert account.object.balance == 0
    assert account.object.seen == []

    assert account.collect() == {}


def test_a_field_written_without_being_read_is_not_loaded(live: MakeLive) -> None:
    account = live(Account)
    account.object.balance = 5

    assert account.collect() == {"balance": b"5"}
    assert account.loads == []


def test_changes_in_place_are_seen_at_the_end_of_each_turn(live: MakeLive) -> None:
    """Across an await: the same list object, changed in a later turn, is written again."""
    account = live(Account)
    seen = account.object.seen
    seen.append("a")
    assert account.collect() == {"seen": b'["a"]'}

    seen.append("b")
    assert account.collect() == {"seen": b'["a","b"]'}

    assert account.collect() == {}


def test_changes_deep_inside_are_seen(live: MakeLive) -> None:
    account = live(Account, stored={"lines": b'{"x":{"sku":"x","count":1}}'})
    account.object.lines["x"].count += 1

    assert account.collect() == {"lines": b'{"x":{"sku":"x","count":2}}'}


def test_what_was_assigned_can_change_in_place_later(live: MakeLive) -> None:
    account = live(Account)
    mine: list[str] = []
    account.object.seen = mine
    assert account.collect() == {"seen": b"[]"}

    mine.append("later")
    assert account.collect() == {"seen": b'["later"]'}


def test_an_immutable_field_is_encoded_only_when_assigned(live: MakeLive, monkeypatch: pytest.MonkeyPatch) -> None:
    account = live(Account)
    encoded: list[object] = []
    for name in ("fixed", "since", "balance"):
        monkeypatch.setattr(account.state.fields[name], "encode", encoded.append)
    _ = account.object.fixed, account.object.since, account.object.balance

    assert account.collect() == {}
    assert encoded == []


def test_sets_are_written_sorted(live: MakeLive) -> None:
    account = live(Account)
    account.object.tags.update(("c", "a", "b"))

    assert account.collect() == {"tags": b'["a","b","c"]'}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("balance", "x", "$: expected int, got str"),
        ("balance", None, "$: expected int, got null"),
        ("balance", 2**64, "$: a whole number beyond 64 bits"),
        ("rate", math.nan, "$: nan is not in JSON"),
        ("limit", -1, "$: expected int >= 0"),
        ("status", "odd", "$: invalid enum value 'odd'"),
        ("owner", "\ud800", "$: text with a lone surrogate"),
        ("lines", {"a": Line(5)}, "$[...].sku: expected str, got int"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        ("seen", [object()], "$: encoding objects of type object is unsupported"),
    ],
)
def test_a_value_that_would_not_come_back_fails_its_turn(
    live: MakeLive, name: str, value: object, problem: str
) -> None:
    """With class, key, field and path: otherwise the object could not be read at the next start."""
    account = live(Account, "alice")
    setattr(account.object, name, value)

    with pytest.raises(StateError) as caught:
        account.collect()

    assert str(caught.value).startswith(f"Account['alice'].{name} cannot be kept: {problem}")


def test_bytes_that_the_annotation_does_not_read_say_so(live: MakeLive) -> None:
    account = live(Account, stored={"balance": b'"x"'})

    with pytest.raises(StateError, match=r"Account\['k'\]\.balance is stored as what int does not read"):
        _ = account.object.balance


# --- what is no field --------------------------------------------------------------------------------------------


def test_an_assignment_to_what_is_no_field_is_refused_with_a_hint(live: MakeLive) -> None:
    account = live(Account)

    with pytest.raises(StateError, match=r"'balence' is no field of Account; did you mean `balance`\?"):
        setattr(account.object, "balence", 5)  # noqa: B010
    with pytest.raises(StateError, match=r"'other' is no field of Account; declare it in the class"):
        setattr(account.object, "other", 5)  # noqa: B010
    with pytest.raises(StateError, match="'plain' is no field"):
        account.object.plain = 6


@pytest.mark.parametrize("name", ["key", "ctx", "touch"])
def test_what_is_not_the_users_to_set_is_read_only(live: MakeLive, name: str) -> None:
    with pytest.raises(StateError, match=rf"Account\.{name} is read-only"):
        setattr(live(Account).object, name, 5)


def test_a_property_with_a_setter_is_set(live: MakeLive) -> None:
    account = live(Account)
    account.object.double = 10

    assert account.collect() == {"balance": b"5"}


def test_a_field_cannot_be_deleted(live: MakeLive) -> None:
    with pytest.raises(StateError, match="has always a value"):
        del live(Account).object.balance
    with pytest.raises(AttributeError):
        del live(Account).object.absent


def test_key_and_context_are_there(live: MakeLive) -> None:
    account = live(Account, "alice")

    assert account.object.key == "alice"
    assert account.object.ctx is account.context
    assert account.guarded == 0


def test_nobody_constructs_one() -> None:
    with pytest.raises(TypeError, match=r"Account is not constructed; ask for a reference: self\.ctx\.ref\(Account"):
        Account()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


# --- the guard ---------------------------------------------------------------------------------------------------


def test_every_access_is_guarded(live: MakeLive) -> None:
    """On a dead context, or outside its turn, nothing is read and nothing written."""
    account = live(Account)
    account.object.balance = 1
    account.refuse = HandlerDropped()

    with pytest.raises(HandlerDropped):
        _ = account.object.balance
    with pytest.raises(HandlerDropped):
        account.object.balance = 2
    with pytest.raises(HandlerDropped):
        _ = account.object.seen
    assert account.collect() == {"balance": b"1"}


# --- readers -----------------------------------------------------------------------------------------------------


def test_a_reader_cannot_assign(live: MakeLive) -> None:
    account = live(Account, writable=False)

    with pytest.raises(StateError, match=r"Account\['k'\]\.balance assigned in a @shared handler"):
        account.object.balance = 5
    assert account.object.balance == 0
    assert account.collect() == {}


def test_a_readers_change_in_place_is_refused_at_the_end_of_its_turn(live: MakeLive) -> None:
    account = live(Account, writable=False)
    account.object.seen.append("x")

    with pytest.raises(StateError, match=r"\.seen changed in place in a @shared handler"):
        account.state.collect_writes()


def test_a_reader_of_another_writing_of_the_same_value_changes_nothing(live: MakeLive) -> None:
    """Edited by hand with spaces, or stored before a field had a default."""
    stored = {"seen": b'[ "a" ]', "lines": b'{"x":{"sku":"x"}}'}
    account = live(Account, stored=stored, writable=False)
    assert account.object.seen == ["a"]
    assert account.object.lines == {"x": Line("x")}

    assert account.state.collect_writes() == {}


def test_a_reader_sees_the_last_committed_turn_in_each_of_its_turns(live: MakeLive) -> None:
    account = live(Account, stored={"balance": b"1"}, writable=False)
    assert account.object.balance == 1
    account.stored["balance"] = b"2"
    assert account.object.balance == 1

    account.state.begin_turn()

    assert account.object.balance == 2
    assert account.loads == ["balance", "balance"]


def test_a_reader_has_its_own_copy_until_the_bytes_change(live: MakeLive) -> None:
    """`messages = self.messages`, an await, and `messages` is still what self.messages gives, if nothing happened."""
    account = live(Account, stored={"seen": b'["a"]'}, writable=False)
    first = account.object.seen

    account.state.begin_turn()
    assert account.object.seen is first

    account.stored["seen"] = b'["a","b"]'
    account.state.begin_turn()
    assert account.object.seen == ["a", "b"]
    assert first == ["a"]


def test_a_reader_that_skips_a_turn_keeps_its_copy(live: MakeLive) -> None:
    account = live(Account, stored={"seen": b'["a"]'}, writable=False)
    first = account.object.seen
    account.state.begin_turn()
    account.state.begin_turn()

    assert account.object.seen is first


def test_a_reader_need_not_touch_a_field_again_in_its_next_turn(live: MakeLive) -> None:
    account = live(Account, stored={"seen": b'["a"]'}, writable=False)
    seen = account.object.seen
    account.state.begin_turn()
    assert account.state.collect_writes() == {}

    account.state.begin_turn()
    seen.append("b")
    assert account.object.seen is seen
    with pytest.raises(StateError, match=r"\.seen changed in place in a @shared handler"):
        account.state.collect_writes()


def test_what_a_reader_loaded_in_a_turn_is_known(live: MakeLive) -> None:
    account = live(Account, stored={"balance": b"1"}, writable=False)
    _ = account.object.balance, account.object.balance, account.object.owner
    assert account.state.reads == {"balance": b"1", "owner": None}

    account.state.begin_turn()
    assert account.state.reads == {}


def test_a_writers_reads_are_not_kept_and_a_turn_forgets_nothing(live: MakeLive) -> None:
    account = live(Account)
    _ = account.object.balance
    account.state.begin_turn()
    _ = account.object.balance

    assert account.state.reads == {}
    assert account.loads == ["balance"]


# --- promises ----------------------------------------------------------------------------------------------------


class Signup(Workflow):
    verdict: Promise[Literal["yes", "no"] | None]
    stage: str = "new"

    @handler
    async def run(self) -> None: ...

    @shared
    async def look(self) -> str:
        return self.stage


def test_a_declared_promise_is_asked_of_the_context_by_name_and_type(live: MakeLive) -> None:
    promise = live(Signup).object.verdict

    assert (promise.name, promise.type) == ("verdict", Literal["yes", "no"] | None)
    assert list(definition_of(Signup).fields) == ["stage"]


def test_a_promise_is_no_state(live: MakeLive) -> None:
    signup = live(Signup)
    _ = signup.object.verdict
    assert signup.collect() == {}
    assert signup.loads == []

    with pytest.raises(StateError, match="verdict is read-only"):
        signup.object.verdict = 5

"""References: calls, messages, options, and everything a reference is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Generic, TypeVar

import pytest

from perdure.objects import (
    BoundHandler,
    DefinitionError,
    InvalidKey,
    Service,
    StateError,
    VirtualObject,
    handler,
    shared,
)
from perdure.objects.definitions import definition_of
from perdure.objects.references import Target, reference, target_of

V = TypeVar("V")


class Account(VirtualObject, name="account"):
    balance: int = 0
    MAX = 3

    @handler
    async def deposit(self, amount: int, *, note: str = "") -> int:
        self.balance += amount
        return self.balance

    @handler
    async def history(self, since: int = 0) -> AsyncIterator[int]:
        yield since

    @shared(name="peek")
    async def look(self) -> int:
        return self.balance

    def helper(self) -> None: ...

    @handler
    async def again(self) -> None:
        self.deposit.send(1)
        self.look.options(headers={"a": "b"}, idempotency_key="k").send_after(3)
        await self.deposit(2)


class Mail(Service):
    @handler
    async def mail(self, to: str) -> None: ...


class Cell(VirtualObject, Generic[V]):
    @handler
    async def put(self, value: V) -> None: ...


@pytest.fixture
def bob(outbox: Any) -> Any:
    return reference(Account, "bob", outbox)


def parts(target: Target) -> tuple[str, str, str, bytes, str | None, Any]:
    return (
        target.service.name,
        target.key,
        target.handler.name,
        target.arguments,
        target.idempotency_key,
        target.headers,
    )


async def test_a_call_is_made_when_written(bob: Any, outbox: Any) -> None:
    """So that calls and messages arrive in the order of the text; awaiting comes when you like."""
    outbox.answers = [7]
    call = bob.deposit(5, note="x")
    bob.deposit.send(6)

    assert [kind for kind, _ in outbox.asked] == ["call", "send"]
    assert parts(outbox.asked[0][1]) == ("account", "bob", "deposit", b'{"amount":5,"note":"x"}', None, None)
    assert await call == 7


def test_a_message_returns_its_handle(bob: Any, outbox: Any) -> None:
    handle = bob.deposit.send(5)
    bob.deposit.send_after(timedelta(minutes=1), 6)
    bob.deposit.send_after(2.5, amount=7)

    assert handle.target is outbox.asked[0][1]
    assert [target.arguments for _, target in outbox.asked] == [b'{"amount":5}', b'{"amount":6}', b'{"amount":7}']
    assert outbox.delays == [None, timedelta(minutes=1), 2.5]


async def test_a_stream_is_iterated(bob: Any, outbox: Any) -> None:
    outbox.answers = [1, 2]

    assert [item async for item in bob.history(3)] == [1, 2]
    assert parts(outbox.asked[0][1]) == ("account", "bob", "history", b"3", None, None)


def test_options_go_before_the_arguments(bob: Any, outbox: Any) -> None:
    careful = bob.deposit.options(idempotency_key="k", headers={"a": "b"})
    careful.send(5)
    bob.deposit.send(5)

    assert [parts(target)[4:] for _, target in outbox.asked] == [("k", {"a": "b"}), (None, None)]


def test_the_wire_name_is_asked_for(bob: Any, outbox: Any) -> None:
    bob.look().close()
    assert outbox.asked[0][1].handler.name == "peek"


def test_a_service_has_no_key(outbox: Any) -> None:
    reference(Mail, "", outbox).mail("x").close()

    assert parts(outbox.asked[0][1]) == ("Mail", "", "mail", b'"x"', None, None)
    with pytest.raises(InvalidKey, match="Mail is a Service and has no key"):
        reference(Mail, "k", outbox)


def test_a_generic_class_with_arguments_has_references(outbox: Any) -> None:
    reference(Cell[str], "c", outbox).put("x").close()

    assert outbox.asked[0][1].arguments == b'"x"'
    with pytest.raises(TypeError, match="value: expected str, got int"):
        reference(Cell[str], "c", outbox).put(5)
    with pytest.raises(DefinitionError, match="leaves ~V open"):
        reference(Cell, "c", outbox)


@pytest.mark.parametrize("key", ["", "a\0", "x" * 513, 5])
def test_a_key_that_cannot_be_is_refused_at_once(key: Any, outbox: Any) -> None:
    with pytest.raises(InvalidKey):
        reference(Account, key, outbox)


def test_a_subclass_has_references_of_its_own(outbox: Any) -> None:
    class Premium(Account):
        @handler
        async def upgrade(self) -> None: ...

    reference(Account, "a", outbox)
    premium = reference(Premium, "a", outbox)
    premium.upgrade.send()
    premium.deposit.send(1)

    assert [target.service.name for _, target in outbox.asked] == ["Premium", "Premium"]


# --- what a reference is not -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("balance", "balance is state of Account; ask a handler"),
        ("helper", "helper of Account is no handler, and runs only inside it; ask a handler"),
        ("ctx", "ctx of Account is no handler"),
        ("depositt", "Account has no handler 'depositt'"),
    ],
)
def test_only_handlers_can_be_reached(bob: Any, name: str, message: str) -> None:
    with pytest.raises(StateError, match=message) as caught:
        getattr(bob, name)
    assert type(caught.value).__name__ == "StateError", "the name that logs and callers show"
    with pytest.raises(StateError, match=message):
        setattr(bob, name, 1)
    with pytest.raises(StateError, match=message):
        delattr(bob, name)
    assert not hasattr(bob, name)


def test_a_handler_of_a_reference_is_not_replaced(bob: Any) -> None:
    with pytest.raises(StateError):
        bob.deposit = 5


def test_nothing_is_asked_when_the_arguments_do_not_fit(bob: Any, outbox: Any) -> None:
    for wrong in ((), ("5",), (5, 6)):
        with pytest.raises(TypeError, match=r"Account\.deposit"):
            bob.deposit(*wrong)
        with pytest.raises(TypeError, match=r"Account\.deposit"):
            bob.deposit.send(*wrong)
    assert outbox.asked == []


def test_a_stream_is_not_sent(bob: Any) -> None:
    with pytest.raises(TypeError, match=r"Account\.history is a stream; nobody would read it"):
        bob.history.send()
    with pytest.raises(TypeError, match="is a stream"):
        bob.history.send_after(5)


@pytest.mark.parametrize(
    ("delay", "error"),
    [(-1, ValueError), (timedelta(seconds=-1), ValueError), (float("nan"), ValueError), (1e12, ValueError),
     ("5s", TypeError), (True, TypeError)],
)  # fmt: skip
def test_a_delay_that_cannot_be_is_refused(bob: Any, outbox: Any, delay: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="send_after"):
        bob.deposit.send_after(delay, 5)
    assert outbox.asked == []


def test_an_empty_idempotency_key_is_refused(bob: Any) -> None:
    with pytest.raises(InvalidKey, match="the idempotency key is empty"):
        bob.deposit.options(idempotency_key="")


def test_references_compare_by_whom_they_mean(outbox: Any) -> None:
    bob = reference(Account, "bob", outbox)

    assert bob == reference(Account, "bob", outbox)
    assert {bob: 1}[reference(Account, "bob", outbox)] == 1
    assert bob != reference(Account, "eve", outbox)
    assert bob.key == "bob"
    assert repr(bob) == "<reference to account 'bob'>"


# --- the handler's own object ------------------------------------------------------------------------------------


async def test_own_handlers_are_plain_calls_and_messages_to_myself(live: Any) -> None:
    account = live(Account, "me")
    await account.object.again()

    assert account.collect() == {"balance": b"2"}
    assert [(kind, *parts(target)) for kind, target in account.outbox.asked] == [
        ("send", "account", "me", "deposit", b'{"amount":1}', None, None),
        ("send", "account", "me", "peek", b"", "k", {"a": "b"}),
    ]
    assert account.outbox.delays == [None, 3]


async def test_the_context_makes_references(context: Any) -> None:
    context.ref(Account, "bob").deposit.send(1)
    context.ref(Mail).mail.send("x")

    assert [target.service.name for _, target in context.outbox.asked] == ["account", "Mail"]
    with pytest.raises(InvalidKey, match="key is empty"):
        context.ref(Account)


# --- from outside ------------------------------------------------------------------------------------------------


def test_the_target_of_a_bound_handler(bob: Any, live: Any) -> None:
    assert parts(target_of(bob.deposit, (5,), {})) == ("account", "bob", "deposit", b'{"amount":5}', None, None)
    assert parts(target_of(bob.look.options(idempotency_key="k"), (), {}))[4] == "k"

    with pytest.raises(TypeError, match="belongs to a running handler; send to a reference"):
        target_of(live(Account).object.deposit, (5,), {})
    with pytest.raises(TypeError, match=r"give a handler of a reference \(ref\.deposit\), not 5"):
        target_of(5, (), {})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_handler_on_its_class_is_the_handler() -> None:
    assert Account.deposit.wire_name == "deposit"
    assert Account.look.wire_name == "peek"
    assert not isinstance(Account.deposit, BoundHandler)
    assert definition_of(Account).attributes["deposit"].fn is Account.deposit.fn

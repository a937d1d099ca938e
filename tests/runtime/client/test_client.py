"""The client against the real runtime, over HTTP."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from perdure.objects import DeadlockError, InvalidKey, Service, TerminalError, VirtualObject, handler, shared
from perdure.runtime.admission import Refused
from perdure.runtime.client import Client

Runtime = Any  # the fixture's type; see conftest.py


class OverdrawnInClientTest(TerminalError):
    status = 409


class Line(msgspec.Struct):
    sku: str
    count: int = 1


class Account(VirtualObject):
    balance: int = 0
    lines: list[Line]

    @handler
    async def deposit(self, amount: int, *, note: str = "") -> int:
        self.balance += amount
        self.lines.append(Line(note))
        return self.balance

    @handler
    async def withdraw(self, amount: int = 1) -> int:
        if amount > self.balance:
            raise OverdrawnInClientTest(f"{self.key} has {self.balance}", metadata={"balance": str(self.balance)})
        self.balance -= amount
        return self.balance

    @handler
    async def call(self, other: str) -> int:
        return await self.ctx.ref(Account, other).deposit(1)

    @handler(public=False)
    async def private(self) -> None: ...

    @handler
    async def headers(self) -> dict[str, str]:
        return dict(self.ctx.invocation.headers)

    @shared
    async def look(self) -> int:
        return self.balance

    @shared
    async def history(self) -> list[Line]:
        return self.lines

    @shared
    async def name(self) -> str:
        return self.key


class Mail(Service):
    @handler
    async def mail(self, to: str, text: str = "") -> str:
        return f"{to}: {text}"


async def test_calls_look_like_calls(runtime: Runtime) -> None:
    async with Client(await runtime(Account, Mail)) as client:
        alice = client.ref(Account, "alice")

        assert await alice.deposit(5, note="first") == 5
        assert await alice.deposit(amount=2) == 7
        assert await alice.withdraw() == 6
        assert await alice.look() == 6
        assert await alice.history() == [Line("first"), Line("")]
        assert await client.ref(Mail).mail("bob", text="hi") == "bob: hi"


async def test_calls_run_together(runtime: Runtime) -> None:
    async with Client(await runtime(Account)) as client:
        balances = await asyncio.gather(*(client.ref(Account, str(n % 10)).deposit(1) for n in range(200)))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(client.ref(Account, "0").look())

    assert sorted(balances) == sorted(n for n in range(1, 21) for _ in range(10))
    assert task.result() == 20


async def test_a_terminal_error_comes_back_as_its_class(runtime: Runtime) -> None:
    async with Client(await runtime(Account)) as client:
        with pytest.raises(OverdrawnInClientTest, match="alice has 0") as caught:
            await client.ref(Account, "alice").withdraw(3)

        assert caught.value.status == 409
        assert caught.value.metadata == {"balance": "0"}
        with pytest.raises(DeadlockError):
            await client.ref(Account, "a").call("a")


async def test_a_message_is_accepted_and_its_result_can_be_had_later(runtime: Runtime) -> None:
    async with Client(await runtime(Account)) as client:
        handle = await client.send(client.ref(Account, "alice").deposit, 5, note="x")

        assert await handle.attach() == 5
        assert await client.handle(handle.id, int).attach() == 5
        assert await client.handle(handle.id).attach() == 5
        lines = await client.send(client.ref(Account, "alice").history)
        assert await lines.attach() == [Line("x")]
        assert await client.handle(lines.id, list[Line]).attach() == [Line("x")]
        failed = await client.send(client.ref(Account, "alice").withdraw, 10)
        with pytest.raises(OverdrawnInClientTest):
            await failed.attach()


@pytest.mark.parametrize("delay", [0.05, timedelta(milliseconds=50)])
async def test_a_delayed_message_comes_later(runtime: Runtime, delay: float | timedelta) -> None:
    async with Client(await runtime(Account)) as client:
        alice = client.ref(Account, "alice")
        handle = await client.send_after(delay, alice.deposit, 5)

        assert await alice.look() == 0
        assert await handle.attach() == 5


async def test_my_own_idempotency_key_makes_it_one_call(runtime: Runtime) -> None:
    async with Client(await runtime(Account)) as client:
        deposit = client.ref(Account, "alice").deposit.options(idempotency_key="tést/1")

        assert [await deposit(5), await deposit(5)] == [5, 5]
        first, again = await client.send(deposit, 5), await client.send(deposit, 5)
        assert first.id == again.id
        assert await client.ref(Account, "alice").look() == 5
        with pytest.raises(Refused) as caught:
            await deposit(6)

    assert caught.value.status == 409


async def test_headers_reach_the_handler_and_the_token_does_not(runtime: Runtime) -> None:
    async with Client(await runtime(Account), token="secret") as client:
        headers = await client.ref(Account, "a").headers.options(headers={"x-tenant": "7"})()

    assert headers == {"x-tenant": "7"}


@pytest.mark.parametrize(
    "key", ["a/b", ".", "..", "%2F", "a b+c", "é", "e\u0301", "?#;=&", "🧮", "x" * 512, "\\", "'\""]
)
async def test_any_key_reaches_its_object(runtime: Runtime, key: str) -> None:
    async with Client(await runtime(Account)) as client:
        assert await client.ref(Account, key).name() == key


async def test_what_the_runtime_does_not_take_is_refused(runtime: Runtime) -> None:
    class Unserved(VirtualObject):
        @handler
        async def go(self) -> None: ...

    async with Client(await runtime(Account)) as client:
        for call, status in [
            (client.ref(Unserved, "a").go(), 404),
            (client.ref(Account, "a").private(), 400),
            (client.handle("inv_0").attach(), 404),
        ]:
            with pytest.raises(Refused) as caught:
                await call
            assert caught.value.status == status


async def test_what_can_not_be_a_call_fails_before_anything_is_sent(runtime: Runtime) -> None:
    async with Client(await runtime(Account)) as client:
        alice = client.ref(Account, "alice")
        with pytest.raises(TypeError, match=r"await client.send\(ref.deposit, …\)"):
            alice.deposit.send(5)
        with pytest.raises(TypeError, match=r"await client.send_after\(delay, ref.deposit, …\)"):
            alice.deposit.send_after(3, 5)
        with pytest.raises(InvalidKey):
            client.ref(Account, "a\nb")
        with pytest.raises(ValueError, match="send_after"):
            await client.send_after(-1, alice.deposit, 5)
        with pytest.raises(TypeError):
            await alice.deposit("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_client_works_only_inside_its_block() -> None:
    client = Client("http://127.0.0.1:1")
    with pytest.raises(RuntimeError, match="async with"):
        await client.ref(Account, "a").look()


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://x", "http://", "http://x?y", "/a"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="ingress's address"):
        Client(url)

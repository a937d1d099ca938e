"""Exotic but plausible."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Concatenate, Final, NewType, ParamSpec, Protocol, TypeVar, assert_type

import msgspec

from perdure.objects import Context, Handle, Service, VirtualObject, Workflow, handler, shared

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")
UserId = NewType("UserId", str)


def traced(
    fn: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    @functools.wraps(fn)
    async def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await fn(self, *args, **kwargs)

    return wrapper


class Audited(VirtualObject):
    """A mixin with state and a handler."""

    log: list[str]

    def note(self, text: str) -> None:
        self.log.append(text)

    @shared
    async def audit(self) -> list[str]:
        return self.log


class Limited(VirtualObject):
    used: int = 0
    MAX: ClassVar[int] = 3
    NAME: Final = "x"

    @shared
    async def usage(self) -> int:
        return self.used


class Both(Audited, Limited):
    @handler
    @traced
    async def act(self, n: int, *, why: str = "") -> UserId:
        self.note(why)
        self.used += n
        self.typo = 3  # not flagged by either checker
        return UserId("u")

    @handler
    async def echo(self, value: T) -> T:
        return value


class Base(VirtualObject, ABC):
    @handler
    async def go(self) -> int:
        return await self.price(1)

    @abstractmethod
    async def price(self, n: int) -> int: ...


class Impl(Base):
    async def price(self, n: int) -> int:
        return n


class Deep(Both, name="deep"):
    @handler
    async def act(self, n: int, *, why: str = "", more: bool = False) -> UserId:
        return await super().act(n, why=why)


class CanDeposit(Protocol):
    """Structural: any class with such a handler?"""

    async def act(self, n: int, *, why: str = "") -> UserId: ...


class Old(msgspec.Struct):
    a: int


async def use(ctx: Context) -> None:
    both = ctx.ref(Both, "k")
    assert_type(await both.act(3, why="x"), UserId)
    assert_type(both.act.send(3), Handle[UserId])
    assert_type(await both.usage(), int)
    assert_type(await both.audit(), list[str])
    fn: Callable[[int], Coroutine[Any, Any, UserId]] = both.act
    await fn(3)
    assert_type(await ctx.ref(Impl, "k").go(), int)
    assert_type(await ctx.ref(Deep, "k").act(3, more=True), UserId)
    generic(ctx, Both)


def generic(ctx: Context, cls: type[Both]) -> Both:
    return ctx.ref(cls, "x")


async def anything(ctx: Context, cls: type[VirtualObject]) -> None:
    ref = ctx.ref(cls, "x")
    assert_type(ref, VirtualObject)


V = TypeVar("V", bound=VirtualObject)


def generic2(ctx: Context, cls: type[V], keys: list[str]) -> list[V]:
    return [ctx.ref(cls, k) for k in keys]


def wf(ctx: Context, cls: type[Workflow]) -> Workflow:
    return ctx.ref(cls, "x")


def sv(ctx: Context, cls: type[Service]) -> Service:
    return ctx.ref(cls)

"""What a handler must not reach from its turn loop, and the errors that say so.

A turn loop runs user code that will be run again from the start, possibly years later on another machine.
Sockets, threads, signals and other loops cannot be replayed, so every way to them ends here, in one sentence that
names what to do instead.
This file does not know how a turn runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, NoReturn, TypeVarTuple

Ts = TypeVarTuple("Ts")

STEP_ADVICE = "do I/O in a step: `await self.ctx.run(fetch, url)`"


class TurnFailed(Exception):
    """The turn is to be rolled back and tried again: a plain callback raised, or the turn never came to rest.

    An exception of the handler itself is no `TurnFailed`: it is in the main task.
    """


class NotInHandler(RuntimeError):
    """Code asked the loop of a handler for what can't be replayed, or from outside of its turn."""


def refusal(what: str) -> NotInHandler:
    """The error for a call that no handler may make."""
    return NotInHandler(f"{what} is not possible in a handler, because it could not be replayed; {STEP_ADVICE}")


def outside_turn(what: str) -> NotInHandler:
    """The error for a call on what belongs to a handler's loop, from a thread or callback that is not its turn."""
    return NotInHandler(
        f"{what} outside of the handler's turn: threads, callbacks of other loops and finished handlers can't "
        f"reach into a handler; {STEP_ADVICE} and return the result from it"
    )


def after_end() -> NotInHandler:
    """The error for what a left-over task asks after its handler has ended."""
    return NotInHandler("asked after the handler has ended: await every task before the handler returns")


def teach(message: str) -> str:
    """What asyncio says about a thing awaited in a task that is no future of this loop, with what to do about it."""
    return f"{message}; a handler can await only what its own loop or context made; {STEP_ADVICE}"


def _refused(name: str) -> Callable[..., Any]:
    def refuse(*_args: object, **_kwargs: object) -> NoReturn:
        raise refusal(f"loop.{name}()")

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


class RefusingLoop(asyncio.AbstractEventLoop):
    """Every method of an event loop that a handler's loop has no use for, refusing."""

    # Driving: the runtime drives a turn loop, nobody else.
    run_forever = _refused("run_forever")
    run_until_complete = _refused("run_until_complete")
    stop = _refused("stop")
    close = _refused("close")
    shutdown_asyncgens = _refused("shutdown_asyncgens")
    shutdown_default_executor = _refused("shutdown_default_executor")
    # A handler of exceptions would be called from finalizers, at moments no replay can repeat.
    set_exception_handler = _refused("set_exception_handler")
    # Threads.
    set_default_executor = _refused("set_default_executor")
    # Names, sockets, servers.
    getaddrinfo = _refused("getaddrinfo")
    getnameinfo = _refused("getnameinfo")
    create_connection = _refused("create_connection")
    create_server = _refused("create_server")
    create_unix_connection = _refused("create_unix_connection")
    create_unix_server = _refused("create_unix_server")
    create_datagram_endpoint = _refused("create_datagram_endpoint")
    connect_accepted_socket = _refused("connect_accepted_socket")
    start_tls = _refused("start_tls")
    sendfile = _refused("sendfile")
    sock_recv = _refused("sock_recv")
    sock_recv_into = _refused("sock_recv_into")
    sock_recvfrom = _refused("sock_recvfrom")
    sock_recvfrom_into = _refused("sock_recvfrom_into")
    sock_sendall = _refused("sock_sendall")
    sock_sendto = _refused("sock_sendto")
    sock_connect = _refused("sock_connect")
    sock_accept = _refused("sock_accept")
    sock_sendfile = _refused("sock_sendfile")
    # Pipes, processes, files, signals.
    connect_read_pipe = _refused("connect_read_pipe")
    connect_write_pipe = _refused("connect_write_pipe")
    subprocess_shell = _refused("subprocess_shell")
    subprocess_exec = _refused("subprocess_exec")
    remove_reader = _refused("remove_reader")
    remove_writer = _refused("remove_writer")
    remove_signal_handler = _refused("remove_signal_handler")

    # The same for those whose types can't be written as `Callable[..., Any]`.
    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> NoReturn:
        raise refusal("loop.call_soon_threadsafe()")

    def run_in_executor(self, executor: object, func: Callable[[*Ts], object], *args: *Ts) -> NoReturn:
        raise refusal("a thread (loop.run_in_executor(), asyncio.to_thread())")

    def add_reader(self, fd: object, callback: Callable[[*Ts], object], *args: *Ts) -> NoReturn:
        raise refusal("loop.add_reader()")

    def add_writer(self, fd: object, callback: Callable[[*Ts], object], *args: *Ts) -> NoReturn:
        raise refusal("loop.add_writer()")

    def add_signal_handler(self, sig: int, callback: Callable[[*Ts], object], *args: *Ts) -> NoReturn:
        raise refusal("loop.add_signal_handler()")

"""One serving process, from its start to its exit code.

What is here is order. Everything that can be refused is tried before the data directory is touched: the settings, the
targets, the address. Then the journal (its lock makes us the only one), the hash seed beside it, the engine's
recovery, and only then does the ingress accept. The way down is the same backwards: stop accepting, let what runs end,
stop the engine, seal the journal.

    first SIGTERM or SIGINT    drain: requests in flight and running steps have `drain_grace_seconds`
    second                     the same without the waiting; nothing is lost, clients see closed connections
    the engine failed          callers get their 503, and the process exits with the error's code

This file does not know what a request or a record is.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import uvloop

from perdure.journal import Journal, JournalError

from . import hash_seed, logs
from .access import Access, TokenError, is_loopback
from .admin import Admin
from .clock import SystemClock
from .data_dir import open_journal, open_slots, open_store
from .engine import Engine
from .exits import InternalError, StartRefused
from .http_server import HttpServer
from .ingress import Ingress
from .log_ids import with_ids
from .registry import Registry
from .settings import Settings, load_settings
from .store import StoreError
from .targets import load_targets

if TYPE_CHECKING:
    from .trace_export import Traces
    from .traces import Tracer

log = structlog.stdlib.get_logger("perdure.process")


FAILED_GRACE_SECONDS = 1.0
"""After a failure: as long as the 503s need to leave. Nothing else is to be waited for."""

DESCRIPTORS_RESERVED = 128
"""For the journal, the listener and users' steps; connections get what is left."""

# After the start everything imported is frozen, so what the collector looks at is live invocations and state. They are
# cut loose by hand when they end; it is a net for users' cycles and need not run every few requests, as 700 would.
GC_THRESHOLD = (20_000, 20, 50)

# The journal's writer needs the interpreter about three times a commit. A busy main thread hands it over only after
# this long; with the usual 5 ms there were 70 syncs/s beside a computing thread, with this 570.
SWITCH_INTERVAL_SECONDS = 0.0005


class AddressError(StartRefused):
    """The process can't listen where it was told to."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What `perdure serve` was asked for."""

    targets: tuple[str, ...]
    data_dir: Path
    ingress: tuple[str, int]
    admin: tuple[str, int]
    ingress_access: Access = msgspec.field(default_factory=Access)
    admin_access: Access = msgspec.field(default_factory=Access)
    tls: ssl.SSLContext | None = None
    settings: Settings
    hash_seed: int
    traces: bool = False
    log_format: logs.Format = "auto"
    log_level: logs.Level = "info"


def settings_of(config: Path | None, drain_grace: int | None, *, replay_always: bool = False) -> Settings:
    """The settings of the file, the command line's before them. Raises SettingsError."""
    settings = Settings() if config is None else load_settings(config)
    if replay_always:
        settings = msgspec.structs.replace(settings, replay_always=True)
    if drain_grace is not None:
        settings = msgspec.structs.replace(settings, drain_grace_seconds=drain_grace)
    return settings


def serve(options: Options) -> int:
    """Serve until a signal or a failure. Returns 0; raises StartRefused, JournalError, StoreError or InternalError."""
    began = time.monotonic()
    logs.configure(format=options.log_format, level=options.log_level, extra=[with_ids])
    registry = load_targets(options.targets)
    traces = _open_traces(options) if options.traces else None
    with reserve(*options.ingress) as reserved, reserve(*options.admin, option="--admin") as admin:
        _refuse_open_admin(admin, options)
        journal = open_journal(options.data_dir)
        try:
            hash_seed.keep(options.data_dir, options.hash_seed)
            tracer = None if traces is None else traces.tracer
            server = Server(options, registry, journal, reserved, admin, began, tracer)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(server.run())
        finally:
            journal.close()
            if traces is not None:
                traces.close()
    log.info("stopped")
    return 0


def _open_traces(options: Options) -> Traces | None:
    """What few processes want is imported here, and is not installed with the rest.  Raises StartRefused."""
    try:
        from .trace_export import open_traces  # noqa: PLC0415
    except ImportError as error:
        raise StartRefused(
            f"--traces needs OpenTelemetry, which is not installed here ({error}): pip install 'perdure[traces]', or "
            "start without --traces; nothing was touched"
        ) from error
    return open_traces((options.log_format, options.log_level))


def _refuse_open_admin(reserved: socket.socket, options: Options) -> None:
    host = str(reserved.getsockname()[0])
    if options.admin_access.tokens is None and not is_loopback(host):
        raise TokenError(
            f"--admin {options.admin[0]} can be reached from elsewhere, and who reaches it can stop anything: "
            "give it a token by --admin-token-file, or leave it on 127.0.0.1"
        )


def reserve(host: str, port: int, option: str = "--ingress") -> socket.socket:
    """Bind an address without listening yet: port 0 is decided, and one in use is known before anything is touched.

    Clients are refused until the ingress listens there, rather than left waiting through a recovery.
    Raises AddressError.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        reserved = socket.socket(family, kind, protocol)
        try:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(address)
        except BaseException:
            reserved.close()
            raise
    except OSError as error:
        raise _address_error(host, port, error, option) from error
    return reserved


def _address_error(host: str, port: int, error: OSError, option: str) -> AddressError:
    return AddressError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with {option}")


class Server:
    """Engine and ingress of one process, up and down."""

    def __init__(
        self,
        options: Options,
        registry: Registry,
        journal: Journal,
        reserved: socket.socket,
        reserved_for_admin: socket.socket,
        began: float,
        tracer: Tracer | None,
    ) -> None:
        self._options = options
        self._settings = with_descriptors(options.settings)
        self._registry = registry
        self._journal = journal
        self._reserved = reserved
        self._reserved_for_admin = reserved_for_admin
        self._began = began
        self._tracer = tracer
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()

    async def run(self) -> None:
        """Raises StartRefused, or JournalError, StoreError or InternalError when the engine fails."""
        data_dir = self._options.data_dir
        store = open_store(data_dir, self._journal)
        try:
            slots = open_slots(data_dir)
            clock = SystemClock()
            engine = await Engine.open(
                self._registry, self._journal, self._settings, clock, slots=slots, store=store, tracer=self._tracer
            )
        except BaseException:
            store.close()
            raise
        try:
            ingress = Ingress(engine, self._settings, self._options.ingress_access)
            admin = Admin(engine, self._options.admin_access)
            with admin.metrics.watching(ingress=ingress):
                await self._serve(engine, ingress, admin)
        finally:
            await _close(engine)
        if engine.failed.done():
            raise _reason(engine.failed.result())

    async def _serve(self, engine: Engine, ingress: Ingress, admin: Admin) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._signals.put_nowait, number)
        await self._listen(ingress, admin)
        _tune_interpreter()
        await self._until_stopped(engine)
        if not engine.failed.done():
            await self._unless_hurried(self._drain(engine, ingress), engine)
        grace_seconds = FAILED_GRACE_SECONDS if engine.failed.done() else 0
        await asyncio.gather(ingress.close(grace_seconds), admin.close(grace_seconds))

    async def _listen(self, ingress: Ingress, admin: Admin) -> None:
        # The address that was looked at, not the name: a name may mean others too, beyond loopback.
        admin_host, tls = self._reserved_for_admin.getsockname()[0], self._options.tls
        at_admin = await _start(admin, admin_host, self._reserved_for_admin, "--admin", tls)
        at_ingress = await _start(ingress, self._options.ingress[0], self._reserved, "--ingress", tls)
        log.info(
            "serving",
            ingress=_url(*at_ingress, tls),
            admin=_url(*at_admin, tls),
            services=sorted(self._registry.services),
            data_dir=str(self._options.data_dir),
            pid=os.getpid(),
            records=self._journal.next_lsn - 1,
            start_ms=round((time.monotonic() - self._began) * 1000),
        )

    async def _until_stopped(self, engine: Engine) -> None:
        asked = asyncio.ensure_future(self._signals.get())
        await _first_of(asked, engine.failed)
        if not engine.failed.done():
            log.info("stopping", signal=asked.result().name, grace_seconds=self._settings.drain_grace_seconds)

    async def _drain(self, engine: Engine, ingress: Ingress) -> None:
        ingress.stop_accepting()
        grace_seconds = self._settings.drain_grace_seconds
        await asyncio.gather(engine.drain(grace_seconds), ingress.close(grace_seconds))

    async def _unless_hurried(self, work: Coroutine[object, None, None], engine: Engine) -> None:
        working = asyncio.ensure_future(work)
        hurried = asyncio.ensure_future(self._signals.get())
        await _first_of(working, hurried, engine.failed)
        hurried.cancel()
        if working.done():
            working.result()
        else:
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working


async def _start(
    server: HttpServer, host: str, reserved: socket.socket, option: str, tls: ssl.SSLContext | None
) -> tuple[str, int]:
    port = reserved.getsockname()[1]
    try:
        addresses = await server.start(host, port, tls)
    except OSError as error:
        raise _address_error(host, port, error, option) from error
    reserved.close()
    return addresses[0]


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _close(engine: Engine) -> None:
    """Seal the journal. One that failed has told why already; how its closing fails adds nothing."""
    try:
        await engine.close()
    except JournalError as error:
        if not engine.failed.done():
            raise
        log.warning("not_sealed", error=str(error))


def _reason(failure: BaseException) -> Exception:
    """What the process ends with; the engine has logged it already."""
    if isinstance(failure, JournalError | InternalError | StoreError):
        return failure
    return InternalError(f"internal error, please report it: {type(failure).__name__}: {failure}")


def with_descriptors(settings: Settings) -> Settings:
    """Raise this process's limit of descriptors to fit the connections, or lower the connections to fit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.connections_max + DESCRIPTORS_RESERVED
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        fitting = max(1, allowed - DESCRIPTORS_RESERVED)
        log.warning(
            "fewer_connections", connections_max=fitting, descriptors=allowed, settings=settings.connections_max
        )
        return msgspec.structs.replace(settings, connections_max=fitting)
    return settings


def _tune_interpreter() -> None:
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    gc.enable()
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)


def _url(host: str, port: int, tls: ssl.SSLContext | None) -> str:
    scheme = "http" if tls is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

"""The client: the same references as inside a handler, over HTTP, from a program of one's own.

    async with Client("http://127.0.0.1:8080") as client:
        await client.ref(Account, "alice").deposit(5)
        handle = await client.send(client.ref(Account, "alice").deposit, 5)

A request that may have got lost is sent again, which is safe because it carries an idempotency key: the server answers
with what the first one did.  Only calls of `@shared` handlers go without (they would have to be recorded for it), and
so do calls of a workflow's `run`, which its key makes unique already.
The file knows the HTTP API and nothing of what is behind it.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from ssl import SSLContext
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, Self, TypeVar
from urllib.parse import quote, urlsplit
from uuid import uuid4

import aiohttp
import msgspec
import structlog
from yarl import URL

from perdure.objects import RetryPolicy, Service, VirtualObject, Workflow
from perdure.objects.definitions import Kind
from perdure.objects.durations import seconds_of
from perdure.objects.errors import Failure, exception_of
from perdure.objects.references import Target
from perdure.objects.values import Codec

from .admission import Refused
from .event_streams import MIME_TYPE, events_of
from .gate import OutcomeUnknown
from .outside import Outside, RemoteHandle, checked_reason, packed
from .trace_context import with_current_span

if TYPE_CHECKING:
    pass

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S", bound="Service")
O = TypeVar("O", bound="VirtualObject | Workflow")  # noqa: E741  (the name that API.md gives it)

RETRY = RetryPolicy(first_delay=0.05, factor=2, max_delay=5, max_duration=60)
"""A restart of the runtime takes about a second, a deployment perhaps a minute."""

_CONNECT_TIMEOUT_SECONDS = 10.0
_RETRY_AFTER_SECONDS_MAX = 60.0
_MESSAGE_MAX = 500

# A peer that vanished without a word (power, a cut cable) is noticed after about a minute; there is no other way, since
# a call may rightly take days to be answered.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}

log: structlog.stdlib.BoundLogger = structlog.get_logger("perdure")


class Client(Outside):
    """Calls and messages to the runtime at `url`, for as long as the `async with` block.

    `token` is sent as `Authorization: Bearer`.  `ssl` is for https:// with a certificate that the system doesn't trust,
    or with one of the client's own.  `retry` bounds how a request that failed is repeated: its
    `max_duration` is counted from the first failure in a row, so a call may take days.
    `connections_max` calls wait at once; further ones queue.  The server allows 1,024 from one address by default.

    A call raises TerminalError (as its own class if this process has one of that name) for what the handler decided,
    Refused for what the runtime did not take (nothing happened), OutcomeUnknown when no answer came, ConnectionError
    when there was nobody to send it to (nothing happened).
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ssl: SSLContext | None = None,
        retry: RetryPolicy = RETRY,
        connections_max: int = 1000,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"Client({url!r}): give the ingress's address, such as http://127.0.0.1:8080")
        if ssl is not None and parts.scheme != "https":
            raise ValueError(f"Client({url!r}, ssl=…): an ssl context is for an address that begins with https://")
        if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
            raise ValueError(
                "Client(token=…): a token is visible ASCII without spaces; was it read from a file with a line end?"
            )
        self._url = url.rstrip("/")
        self._ssl = ssl
        self._token = token
        self._retry = retry
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None
        super().__init__("client")
        self._remote = _OverHttp(self._exchange)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections_max, socket_factory=_kept_alive, ssl=True if self._ssl is None else self._ssl
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=None if self._token is None else {"authorization": f"Bearer {self._token}"},
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # --- what users call ---------------------------------------------------------------------------------------------

    async def resolve_awakeable(self, id: str, value: object = None) -> None:
        """Give an awakeable its value.  Refused: 404 unknown, 409 completed otherwise, 400 of another type."""
        await self._remote.post(f"/restate/awakeables/{_part(id)}/resolve", packed(value), f"resolve {id}")

    async def reject_awakeable(self, id: str, reason: str) -> None:
        """Make an awakeable raise a TerminalError with this reason.  Refused as for `resolve_awakeable`."""
        body = packed(checked_reason(reason))
        await self._remote.post(f"/restate/awakeables/{_part(id)}/reject", body, f"reject {id}")

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _call(self, target: Target) -> Any:
        key = target.idempotency_key or (_new_key() if _needs_key(target) else None)
        answer = await self._exchange("POST", _path("call", target), target.arguments, _headers(target, key), target)
        return target.handler.decode_result(answer)

    async def _stream(self, target: Target) -> AsyncIterator[Any]:
        """A connection that is cut, or a runtime that restarts, is gone on with behind the last item that came."""
        key = target.idempotency_key or (None if _is_run(target) else _new_key())
        headers = {**_headers(target, key), "accept": MIME_TYPE}
        url = URL(self._url + _path("call", target), encoded=True)
        loop = asyncio.get_running_loop()
        attempts = _Attempts(self._retry, self._url, target, repeatable=True)
        failure: _Answer | None = None
        while failure is None:
            began = loop.time()
            try:
                async with self._open_session().post(
                    url, data=target.arguments, headers=headers, allow_redirects=False
                ) as response:
                    if response.status != 200:
                        failed = _Answer(response.status, response.headers.get("retry-after"), await response.read())
                        attempts.count_answer(failed, loop.time(), began)
                    else:
                        async for event in events_of(response.content):
                            if event.kind == "end":
                                return
                            if event.kind == "error":
                                failure = _Answer(response.status, None, event.data)
                                break
                            yield target.handler.decode_result(event.data)
                            headers["last-event-id"] = event.id
                            began = loop.time()
                            attempts = _Attempts(self._retry, self._url, target, repeatable=True)
                        else:
                            attempts.count_error(ConnectionResetError("cut off before its end"), loop.time(), began)
            except (aiohttp.ClientError, OSError) as error:
                attempts.count_error(error, loop.time(), began)
            if failure is None:
                await asyncio.sleep(attempts.pause_seconds(loop.time()))
        raise failure.terminal()

    async def _send(self, target: Target, delay_seconds: float | None) -> RemoteHandle[Any]:
        key = target.idempotency_key or (None if _is_run(target) else _new_key())
        path = _path("send", target)
        if delay_seconds is not None:
            path += f"?delay={round(delay_seconds * 1e6)}us"
        answer = await self._exchange("POST", path, target.arguments, _headers(target, key), target)
        return self._handle(msgspec.json.decode(answer, type=_Sent).invocation_id, target.handler.decode_result)

    def _handle(self, id: str, decode: Callable[[bytes], Any]) -> RemoteHandle[Any]:
        return RemoteHandle(id, self._remote, decode)

    def _reader(self, codec: Codec) -> Callable[[bytes], Any]:
        """Anything may stand between us and the runtime."""
        return codec.unpack_hostile

    async def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        what: object,
        *,
        repeatable: bool = True,
    ) -> bytes:
        """The body of the good answer, after as many attempts as it takes.

        What is not `repeatable` is sent again only if it is certain that it was not received.
        Raises TerminalError, Refused, OutcomeUnknown, ConnectionError.
        """
        loop = asyncio.get_running_loop()
        attempts = _Attempts(self._retry, self._url, what, repeatable=repeatable)
        while True:
            began = loop.time()
            try:
                async with self._open_session().request(
                    method, URL(self._url + path, encoded=True), data=body, headers=headers, allow_redirects=False
                ) as response:
                    answer = await response.read()
                if response.status in (200, 202):
                    return answer
                failed = _Answer(response.status, response.headers.get("retry-after"), answer)
                attempts.count_answer(failed, loop.time(), began)
            except (aiohttp.ClientError, OSError) as error:  # a timed-out connect is both
                attempts.count_error(error, loop.time(), began)
            await asyncio.sleep(attempts.pause_seconds(loop.time()))

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client is not open: use it inside `async with Client(…) as client:`")
        return self._session


class _OverHttp:
    """How a client's handles reach their invocations."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Callable[..., Coroutine[object, None, bytes]]) -> None:
        self._exchange = exchange

    async def post(self, path: str, body: bytes, what: str, *, repeatable: bool = True) -> None:
        await self._exchange("POST", path, body, {"content-type": "application/json"}, what, repeatable=repeatable)

    async def result_of(self, id: str) -> bytes:
        return await self._exchange("GET", f"/restate/attach/{_part(id)}", None, {}, f"attach to {id}")

    async def cancel(self, id: str) -> None:
        await self.post(f"/restate/invocation/{_part(id)}/cancel", b"", f"cancel {id}")

    async def resolve_signal(self, id: str, name: str, value: bytes) -> None:
        await self._signal(id, name, "resolve", value)

    async def reject_signal(self, id: str, name: str, reason: str) -> None:
        await self._signal(id, name, "reject", packed(reason))

    async def _signal(self, id: str, name: str, verb: str, body: bytes) -> None:
        path = f"/restate/invocation/{_part(id)}/signals/{_part(name)}/{verb}"
        await self.post(path, body, f"signal {name} to {id}", repeatable=False)


class _Sent(msgspec.Struct, rename="camel"):
    invocation_id: str


class _Error(msgspec.Struct):
    """The body of an error. Anything may stand between us and the runtime, so nothing has to be there."""

    message: str = ""
    source: str = ""
    code: int = 0
    type: str = "TerminalError"
    metadata: dict[str, str] | None = None


class _Answer:
    """An answer that is not the result."""

    def __init__(self, status: int, retry_after: str | None, body: bytes) -> None:
        self.status = status
        try:
            self.error = msgspec.json.decode(body, type=_Error)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.error = _Error(message=f"HTTP {status}: {body[:_MESSAGE_MAX].decode('utf-8', 'replace')}")
        waits = retry_after is not None and retry_after.isascii() and retry_after.isdigit()
        self.retry_after_seconds = min(float(retry_after or 0), _RETRY_AFTER_SECONDS_MAX) if waits else None

    @property
    def from_handler(self) -> bool:
        return self.error.source == "invocation"

    @property
    def worth_repeating(self) -> bool:
        """The runtime, or a proxy before it, can't answer now; asked again it may."""
        return self.status in (408, 429, 502, 503, 504) or (self.retry_after_seconds is not None)

    @property
    def nothing_happened(self) -> bool:
        """A refusal says when to come again only where nothing was recorded."""
        return self.status == 429 or (self.error.source == "ingress" and self.retry_after_seconds is not None)

    def refusal(self) -> Refused:
        waits = self.retry_after_seconds
        return Refused(self.status, self.error.message, None if waits is None else round(waits))

    def terminal(self) -> BaseException:
        error = self.error
        return exception_of(Failure(error.type, error.message, error.code or self.status, error.metadata))


class _Attempts:
    """The failures of one request in a row, and when to stop."""

    def __init__(self, retry: RetryPolicy, url: str, what: object, *, repeatable: bool) -> None:
        self._retry = retry
        self._repeatable = repeatable
        self._url = url
        self._what = what
        self._count = 0
        self._failing_since: float | None = None
        self._perhaps_done = False
        self._last: _Answer | BaseException | None = None

    def count_answer(self, answer: _Answer, now: float, began: float) -> None:
        """Raises what the answer says, unless it is worth asking again."""
        if answer.from_handler:
            raise answer.terminal()
        if not answer.worth_repeating:
            raise answer.refusal()
        self._perhaps_done |= not answer.nothing_happened
        self._count_failure(answer, now, began)

    def count_error(self, error: BaseException, now: float, began: float) -> None:
        """The connection failed. Only if it never stood is it certain that the request was not received."""
        if isinstance(error, aiohttp.InvalidURL):
            raise error
        if isinstance(error, aiohttp.ClientConnectorCertificateError):  # it will not be another one in a minute
            raise ConnectionError(
                f"{self._what}: {self._url} has no certificate to be trusted ({_shown(error)}); nothing happened"
            ) from error
        self._perhaps_done |= not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
        self._count_failure(error, now, began)

    def _count_failure(self, last: _Answer | BaseException, now: float, began: float) -> None:
        longest = seconds_of(self._retry.max_delay, "max_delay")
        if self._failing_since is None or now - began > max(longest, _CONNECT_TIMEOUT_SECONDS):
            # A long wait was an answer of a kind: the runtime worked on it. The count begins anew.
            self._failing_since, self._count = now, 0
        self._count += 1
        self._last = last
        log.debug("request_failed", what=repr(self._what), attempt=self._count, error=_shown(last))

    def pause_seconds(self, now: float) -> float:
        """Before the next attempt. Raises when there is to be none."""
        assert self._failing_since is not None
        if self._perhaps_done and not self._repeatable:
            self._give_up()
        pause = self._retry.delay_seconds(self._count, random.random())
        if isinstance(self._last, _Answer):
            pause = max(pause, self._last.retry_after_seconds or 0.0)
        if not self._retry.allows(self._count, now - self._failing_since + pause):
            self._give_up()
        return pause

    def _give_up(self) -> NoReturn:
        last = self._last
        cause = last if isinstance(last, BaseException) else None
        tried = f"{self._count} attempts" if self._count > 1 else "one attempt"
        if self._perhaps_done:
            advice = " To be able to ask again, give the call your own key: .options(idempotency_key=…)"
            raise OutcomeUnknown(
                f"{self._what}: no answer from {self._url} in {tried} ({_shown(last)}); it may or may not have "
                f"happened.{advice if self._repeatable else ''}"
            ) from cause
        if isinstance(last, _Answer):
            raise last.refusal()
        raise ConnectionError(
            f"{self._what}: cannot reach {self._url} in {tried} ({_shown(last)}); nothing happened"
        ) from cause


def _needs_key(target: Target) -> bool:
    """A read can be repeated as it is; whatever may change something has to be known again."""
    reads_only = target.service.kind is not Kind.SERVICE and not target.handler.exclusive
    return not reads_only and not _is_run(target)


def _is_run(target: Target) -> bool:
    """A workflow runs once per key anyway; Restate's ingress refuses an idempotency key for it."""
    return target.service.kind is Kind.WORKFLOW and target.handler.exclusive


def _new_key() -> str:
    return str(uuid4())


def _path(verb: str, target: Target) -> str:
    service, handler = quote(target.service.name, safe=""), quote(target.handler.name, safe="")
    if not target.service.keyed:
        return f"/restate/{verb}/{service}/{handler}"
    return f"/restate/{verb}/{service}/{_part(target.key)}/{handler}"


def _part(text: str) -> str:
    """One part of a path."""
    # "." and ".." would be taken for steps in a path by what is between us and the server.
    return text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="")


def _headers(target: Target, idempotency_key: str | None) -> dict[str, str]:
    headers = dict(with_current_span(target.headers) or {})
    headers["content-type"] = "application/json"
    if idempotency_key is not None:
        headers["idempotency-key"] = idempotency_key
    return headers


def _kept_alive(address: tuple[Any, ...]) -> socket.socket:  # Any: getaddrinfo's, as aiohttp hands it over
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


def _shown(last: _Answer | BaseException | None) -> str:
    if isinstance(last, _Answer):
        return f"{last.status} {last.error.message}"[:_MESSAGE_MAX]
    return f"{type(last).__name__}: {last}"[:_MESSAGE_MAX]

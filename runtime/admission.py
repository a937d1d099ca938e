"""What is asked from outside, and whether it is accepted.

Every refusal is made here, before anything is recorded: unknown targets, arguments that don't fit, caps.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from perdure.journal import RECORD_BYTES_MAX
from perdure.objects.definitions import HandlerDefinition, Kind, ServiceDefinition
from perdure.objects.errors import InvalidArguments
from perdure.objects.ids import InvalidKey, validate_idempotency_key, validate_key
from perdure.objects.limits import PRIORITY_HEADER
from perdure.objects.values import same_value

from .execution import Arguments
from .invocations import RUN_ONCE, Invocation
from .kernel import Kernel
from .limiter import LEVELS, Limiter
from .registry import Registry
from .settings import Settings

_REQUEST_BYTES_MAX: Final = RECORD_BYTES_MAX - 64 * 1024
"""What fits a record with all that stands beside it: a read too may turn out to need one."""

HEADROOM_BYTES: Final = 1024 * 1024
"""A new invocation is refused while there is room for its record but not for this much more: what has been accepted
must be able to end."""


class Refused(Exception):
    """A request that was not accepted: nothing was recorded.  `status` is the HTTP status."""

    def __init__(self, status: int, message: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_seconds = retry_after_seconds


class Request(Struct, kw_only=True, gc=False):
    """What somebody outside asks for.  `arguments` is JSON in the handler's wire form, `delay_us` in microseconds."""

    service: str
    key: str = ""
    handler: str
    arguments: bytes = b""
    send: bool = False
    delay_us: int | None = None
    idempotency_key: str | None = None
    headers: dict[str, str] | None = None


class Admission:
    def __init__(self, registry: Registry, kernel: Kernel, settings: Settings, limiter: Limiter | None = None) -> None:
        self._registry = registry
        self._kernel = kernel
        self._settings = settings
        self._limiter = limiter

    def check(self, request: Request, *, public_only: bool) -> tuple[ServiceDefinition, HandlerDefinition, Arguments]:
        """What is asked for, its arguments decoded.  Raises Refused: 404 unknown, 400 not public or unfit."""
        service, handler = self._target(request)
        if _size_of(request) > _REQUEST_BYTES_MAX:
            raise Refused(413, f"the request is {_size_of(request)} bytes long; {_REQUEST_BYTES_MAX} can be recorded")
        if public_only and not handler.public:
            raise Refused(400, f"{service.name}/{handler.name} is not public: only other handlers may call it")
        try:
            if service.keyed:
                validate_key(request.key)
            if request.idempotency_key is not None:
                validate_idempotency_key(request.idempotency_key)
            if request.headers is not None:
                _validate_priority(request.headers.get(PRIORITY_HEADER))
            arguments = handler.decode_arguments(request.arguments)
        except (InvalidKey, InvalidArguments) as error:
            raise Refused(400, str(error)) from None
        if service.kind is Kind.WORKFLOW and handler.exclusive:
            request.idempotency_key = RUN_ONCE
        return service, handler, arguments

    def made_before(self, request: Request) -> Invocation | None:
        """The invocation that the idempotency key names.  Raises Refused(409) if it had other arguments."""
        if request.idempotency_key is None:
            return None
        existing = self._kernel.find_by_idempotency_key(
            request.service, request.key, request.handler, request.idempotency_key
        )
        if existing is not None and not same_value(existing.arguments, request.arguments):
            if request.idempotency_key == RUN_ONCE:
                raise Refused(
                    409, f"this workflow was started with other arguments, as {existing.id}: nothing was done"
                )
            raise Refused(409, f"the idempotency key was used with other arguments, by {existing.id}: nothing was done")
        return existing

    def refuse_when_full(self, request: Request, handler: HandlerDefinition) -> None:
        """Raises Refused(429).  Only here: handlers' own calls go on, or what was accepted could not end."""
        queued = self._kernel.counts.queued
        if self._limiter is not None:
            queued += self._limiter.waiting
        if queued >= self._settings.mailbox_total_max:
            raise Refused(429, f"{queued} invocations are queued, which is the limit; ask again soon", 1)
        entry = self._kernel.entry(request.service, request.key) if handler.exclusive else None
        if entry is not None and len(entry.mailbox) >= self._settings.mailbox_per_key_max:
            raise Refused(429, f"{len(entry.mailbox)} invocations wait for this key, which is the limit", 1)

    def refuse_when_too_fast(self, request: Request) -> None:
        """Raises Refused(429).  What is not refused has paid; what is delayed pays when it begins."""
        if self._limiter is None or request.delay_us:
            return
        too_fast = self._limiter.too_fast(request.service, request.key)
        if too_fast is None:
            self._limiter.take(request.service, request.key)
            return
        whose, seconds = "one key of " if too_fast.of_key else "", too_fast.wait_seconds
        limit = f"{whose}{request.service} takes {too_fast.rate}"
        raise Refused(429, f"{limit}; nothing was kept of this request: ask again in {seconds} s", seconds)

    def _target(self, request: Request) -> tuple[ServiceDefinition, HandlerDefinition]:
        services = self._registry.services
        service = services.get(request.service)
        if service is None:
            raise Refused(404, f"no service {_shown(request.service)} here; there are: {_some(services)}")
        handler = service.handlers.get(request.handler)
        if handler is None:
            raise Refused(
                404, f"{service.name} has no handler {_shown(request.handler)}; it has: {_some(service.handlers)}"
            )
        return service, handler


def _validate_priority(priority: str | None) -> None:
    if priority is not None and priority not in LEVELS:
        raise Refused(400, f"{PRIORITY_HEADER}: {_shown(priority)}: give high, normal or low")


def _size_of(request: Request) -> int:
    size = len(request.arguments)
    return size + sum(len(name) + len(value) for name, value in request.headers.items()) if request.headers else size


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:80] + "…")


def _some(names: dict[str, ServiceDefinition] | dict[str, HandlerDefinition]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:10]) + (", …" if len(listed) > 10 else "") if listed else "none"

"""What operators do with the state of an object: read it, replace it, clear it.

A version says which state was looked at: whoever writes names it, and is refused if the state is another one by then.
It is computed as Restate does (crates/types/src/state_mut.rs): SHA-256 over the sorted fields, as unpadded base64url.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Raw, Struct

from perdure.objects.definitions import ServiceDefinition
from perdure.objects.errors import InvalidArguments
from perdure.objects.ids import InvalidKey, validate_key
from perdure.objects.values import Codec

from .admission import Refused
from .invocations import ObjectEntry
from .records import Edited, Record

if TYPE_CHECKING:
    from .clock import Clock
    from .kernel import Kernel
    from .registry import Registry


class StateView(Struct, frozen=True):
    """`state`: each field that is stored, as JSON; `entries`: how many its Lists and Maps have.

    `holder`: the invocation at work on it; `waiting`: how many wait behind that.
    """

    service: str
    key: str
    version: str
    class_version: int
    state: dict[str, Raw]
    entries: dict[str, int]
    holder: str | None
    waiting: int


class StateEdits:
    """Each raises Refused: 404 no such class, 400 a bad key or value, 409 changed since or in use, 507 no room."""

    def __init__(
        self, kernel: Kernel, registry: Registry, clock: Clock, commit: Callable[[Record], Awaitable[None]]
    ) -> None:
        self._kernel = kernel
        self._registry = registry
        self._clock = clock
        self._commit = commit

    def read(self, service: str, key: str) -> StateView:
        """Of an object that has none: empty, with the version that this has."""
        self._definition(service, key)
        entry = self._kernel.entry(service, key) or ObjectEntry()
        return StateView(
            service,
            key,
            version_of(entry.fields),
            entry.version,
            {name: Raw(data) for name, data in entry.fields.items()},
            dict(entry.lengths),
            entry.holder,
            len(entry.mailbox),
        )

    def replace(self, service: str, key: str, state: Mapping[str, bytes], version: str | None) -> Awaitable[None]:
        """`state` is all of it; nothing at all clears the Lists and Maps too."""
        definition = self._definition(service, key)
        entry = self._kernel.entry(service, key) or ObjectEntry()
        if version is not None and version != version_of(entry.fields):
            raise Refused(409, f"{service}/{key} was changed since version {version}: read it again; nothing was done")
        self._refuse_in_use(definition, key, entry)
        fields = {name: _fit(definition, name, value) for name, value in state.items()}
        if fields and entry.lengths and entry.stored_version != definition.version:
            raise Refused(
                409,
                f"{service}/{key} is stored in the form of version {entry.stored_version} of the class, and has "
                "Lists or Maps: call it once, which migrates it, or clear it",
            )
        now, lasts = self._clock.now_us(), definition.lifetimes.time_to_live_seconds
        expires = None if lasts is None else now + round(lasts * 1e6)
        return self._commit(Edited(now, service, key, fields, definition.version, not fields, expires))

    def _definition(self, service: str, key: str) -> ServiceDefinition:
        definition = self._registry.services.get(service)
        if definition is None:
            raise Refused(404, f"no service {service[:80]!r} is served here")
        if not definition.keyed:
            raise Refused(400, f"{service} is a Service: it has no keys and no state")
        try:
            validate_key(key)
        except InvalidKey as error:
            raise Refused(400, str(error)) from None
        return definition

    def _refuse_in_use(self, definition: ServiceDefinition, key: str, entry: ObjectEntry) -> None:
        """What a handler has read, its replay must read again."""
        holder = None if entry.holder is None else self._kernel.find(entry.holder)
        if holder is not None and holder.last_turn:
            raise Refused(
                409,
                f"{definition.name}/{key} is in use by {holder.handler}, {holder.id}, which has begun: wait for its "
                "end, cancel it or kill it; nothing was done",
            )


def version_of(fields: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for number, (name, value) in enumerate(sorted((name.encode(), value) for name, value in fields.items())):
        digest.update(b"%b\1%b\2%b\3" % (number.to_bytes(8), name, value))
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()


def _fit(definition: ServiceDefinition, name: str, value: bytes) -> bytes:
    """As the class would store it."""
    if name in definition.collections:
        raise Refused(400, f"{definition.name}.{name} is a List or a Map: only its handlers change it; leave it out")
    field = definition.fields.get(name)
    if field is None:
        known = ", ".join(sorted(definition.fields)) or "none"
        raise Refused(400, f"{definition.name} has no field {name[:80]!r}; it has: {known}; nothing was done")
    codec = Codec(field.type)
    try:
        return codec.pack(codec.unpack_hostile(value))
    except InvalidArguments as error:
        raise Refused(400, f"{definition.name}.{name}: {error}; nothing was done") from None

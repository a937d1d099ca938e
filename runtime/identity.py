"""Ids and seeds.

Every invocation has a *seed* of 16 random bytes that nobody is shown.  What it makes, children and their seeds,
random numbers and UUIDs, are keyed hashes of the seed: a replay makes the same ones, and whoever knows an id can't
compute another.

An invocation's id is `inv_`, its virtual partition in three hexadecimal digits, and 128 bits in thirty-two.
"""

from __future__ import annotations

import os
from functools import lru_cache
from hashlib import blake2b
from random import Random
from uuid import UUID

from perdure.objects.ids import partition_of

SEED_BYTES = 16
_POOL_BYTES = 4096
_ID_BYTES = 16


def invocation_id(service: str, key: str, unique: bytes) -> str:
    """`unique`: 16 bytes.  A Service has no key, so its partition is drawn from the id itself."""
    prefix = _prefix(service, key) if key else f"inv_{int.from_bytes(unique[:2], 'big') & 0xFFF:03x}"
    return prefix + unique.hex()


@lru_cache(maxsize=4_096)  # some 1 MiB
def _prefix(service: str, key: str) -> str:
    return f"inv_{partition_of(service, key):03x}"


def child(seed: bytes, index: int, service: str, key: str) -> tuple[str, bytes]:
    """The id and the seed of the invocation that command `index` makes."""
    digest = blake2b(index.to_bytes(8), key=seed, digest_size=_ID_BYTES + SEED_BYTES, person=b"child").digest()
    return invocation_id(service, key, digest[:_ID_BYTES]), digest[_ID_BYTES:]


def awakeable_id(seed: bytes, index: int) -> str:
    """`awk_` and 128 bits in thirty-two hexadecimal digits."""
    return "awk_" + blake2b(index.to_bytes(8), key=seed, digest_size=16, person=b"awakeable").hexdigest()


def step_key(seed: bytes, index: int) -> str:
    """The same in each attempt of a step: an idempotency key for the world outside."""
    return blake2b(index.to_bytes(8), key=seed, digest_size=16, person=b"step").hexdigest()


def random_of(seed: bytes) -> Random:
    return Random(blake2b(key=seed, person=b"random").digest())


def uuid_of(seed: bytes, count: int) -> UUID:
    digest = blake2b(count.to_bytes(8), key=seed, digest_size=16, person=b"uuid").digest()
    return UUID(bytes=digest, version=4)


def number_of(id: str) -> int:
    """The last 60 bits of an invocation's id."""
    return int(id[-15:], 16)


class Entropy:
    """Random bytes of the operating system, drawn in larger pieces: one system call for a hundred requests."""

    __slots__ = ("_at", "_pool")

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def __call__(self, size: int) -> bytes:
        begin, end = self._at, self._at + size
        if end > len(self._pool):
            self._pool, begin, end = os.urandom(max(size, _POOL_BYTES)), 0, size
        self._at = end
        return self._pool[begin:end]

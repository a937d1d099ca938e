"""What a key may be, and which virtual partition it belongs to.

What this file does not know: the ids of invocations; the runtime makes those.
"""

from __future__ import annotations

import unicodedata
from hashlib import blake2b

KEY_BYTES_MAX = 512
PARTITIONS = 4096


class InvalidKey(ValueError):
    """A key that is empty, too long, or has characters that no key may have.

    A handler that it leaves has ended, with 400: the key came with a request, and won't be better next time. The turn
    is rolled back, for it may be one that debits before it asks for the reference.
    """


def validate_key(key: str, what: str = "key") -> None:
    """Raise InvalidKey unless `key` is 1 to 512 bytes of UTF-8 without control characters.

    NFC and NFD spellings are different keys: a key is opaque.
    """
    if type(key) is not str:
        raise InvalidKey(f"a {what} is a str, got {type(key).__name__}")
    if key.isascii() and key.isprintable() and 0 < len(key) <= KEY_BYTES_MAX:
        return
    if not key:
        raise InvalidKey(f"the {what} is empty; give 1 to {KEY_BYTES_MAX} bytes")
    _validate_characters(key, what)


def _validate_characters(key: str, what: str) -> None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidKey(f"the {what} has a lone surrogate at character {error.start}; give valid Unicode") from None
    if size > KEY_BYTES_MAX:
        raise InvalidKey(f"the {what} is {size} bytes long; {KEY_BYTES_MAX} are allowed")
    for index, character in enumerate(key):
        if unicodedata.category(character) == "Cc":
            raise InvalidKey(f"the {what} has the control character {character!r} at {index}; leave it out")


def validate_idempotency_key(key: str) -> None:
    """The same rule as for keys of objects; an empty one would join what was never meant to be one request."""
    validate_key(key, "idempotency key")


def partition_of(service: str, key: str) -> int:
    """One of 4,096 virtual partitions: blake2b of service, NUL, key. Recorded in ids, so it never changes."""
    digest = blake2b(f"{service}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % PARTITIONS

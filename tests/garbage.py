"""What only the cyclic collector could free: objects that reference counts alone leave behind."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


def collect_all() -> None:
    """Collects until nothing is left: what is collected first may have finalizers that leave more behind."""
    while gc.collect():
        pass


@contextmanager
def garbage() -> Generator[list[object]]:
    """What the block leaves to the collector, in the list that it gives, once it has ended."""
    left: list[object] = []
    collect_all()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield left
        gc.collect()
        left.extend(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()

"""Limit the freed memory that glibc and Arrow retain, and the objects that garbage collection scans."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator
from typing import Final

M_ARENA_MAX: Final = -8
"""Parameter of `mallopt`, from malloc.h."""
MAX_ARENAS: Final = 2


def limit_arenas() -> None:
    """Limit this process to two malloc arenas, if its C library is glibc.

    By default glibc creates up to eight arenas per core, and each retains memory that its threads freed:
    rows that are created in one thread and freed in another would be retained many times. See
    `M_ARENA_MAX` in mallopt(3). The environment variable `MALLOC_ARENA_MAX` takes precedence.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, MAX_ARENAS)


def use_system_allocator_for_arrow() -> None:
    """Make Arrow allocate with malloc. Call this before pyarrow is imported.

    Arrow's own memory pools retain the memory of an index file until the process ends. The environment
    variable `ARROW_DEFAULT_MEMORY_POOL` takes precedence.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


@contextlib.contextmanager
def imports_without_collection(*, freeze: bool) -> Iterator[None]:
    """Disable garbage collection while the block imports modules, whose objects are never freed.

    Args:
        freeze: whether to exempt these objects from later collections, too; only the first time in a
            process, because later there are other objects to collect.
    """
    gc.disable()
    try:
        yield
    finally:
        if freeze and not gc.get_freeze_count():
            gc.freeze()
        gc.enable()

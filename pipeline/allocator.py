"""Limit the freed memory that Arrow retains, and the objects that garbage collection scans."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator


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

"""How much freed memory glibc and Arrow keep."""

from __future__ import annotations

import ctypes
import os
from typing import Final

M_ARENA_MAX: Final = -8
"""The parameter's number in malloc.h."""
ARENAS: Final = 2


def limit_arenas() -> None:
    """Let the threads of this process share two of glibc's arenas; other C libraries have no say.

    By default every thread gets an arena of its own, up to eight for each core, and each keeps what
    its thread freed: rows that are made in one thread and dropped in another would be held many times.
    See `M_ARENA_MAX` in mallopt(3). Who sets `MALLOC_ARENA_MAX` is obeyed.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, ARENAS)


def let_arrow_free() -> None:
    """Let Arrow take memory by malloc; to be called before pyarrow is imported.

    A pool of its own keeps what an index file took for as long as the process runs. Who sets
    `ARROW_DEFAULT_MEMORY_POOL` is obeyed.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

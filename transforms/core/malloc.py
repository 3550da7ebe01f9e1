"""Parameters of glibc's malloc, by mallopt(3). Processes with another C library are left as they are."""

from __future__ import annotations

import ctypes
import os
from typing import Final

M_TRIM_THRESHOLD: Final = -1
"""This one and the next two are parameters of `mallopt`, from malloc.h."""
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
MAX_ARENAS: Final = 2
MMAP_THRESHOLD_BYTES: Final = 32 << 20
TRIM_THRESHOLD_BYTES: Final = 64 << 20
"""The highest thresholds that glibc chooses by itself, once a block of this size has been freed."""


def limit_arenas() -> None:
    """Limit this process to two malloc arenas.

    By default glibc creates up to eight arenas per core, and each retains memory that its threads freed:
    rows that are created in one thread and freed in another would be retained many times. The environment
    variable `MALLOC_ARENA_MAX` takes precedence, and `glibc.malloc.arena_max` in `GLIBC_TUNABLES`.
    """
    if "MALLOC_ARENA_MAX" not in os.environ and "glibc.malloc.arena_max" not in _tunables():
        _mallopt(M_ARENA_MAX, MAX_ARENAS)


def reuse_freed_blocks() -> None:
    """Keep the memory of images for the next image, rather than return it to the kernel.

    The kernel clears each page of a block that it hands out, which takes longer than to decode a
    codestream into it. The environment variables `MALLOC_TRIM_THRESHOLD_` and `MALLOC_MMAP_THRESHOLD_`
    take precedence, and any tunable of malloc in `GLIBC_TUNABLES`.
    """
    variables = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}
    if os.environ.keys().isdisjoint(variables) and "glibc.malloc." not in _tunables():
        _mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
        _mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)


def _tunables() -> str:
    return os.environ.get("GLIBC_TUNABLES", "")


def _mallopt(parameter: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(parameter, value)

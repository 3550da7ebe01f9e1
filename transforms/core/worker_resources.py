"""What a worker process may use of its machine or container."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")
MAX_THREADS: Final = 8
MAX_READS: Final = 32
"""Default of `--max_reads`."""
READ_AHEAD_SHARE: Final = 1 / 16
READ_AHEAD_BYTES: Final = (64 << 20, 512 << 20)
"""Minimum and maximum of `default_read_ahead_bytes`."""


@dataclass(frozen=True)
class Concurrency:
    """How much a worker process does at the same time; what is None, each worker chooses.

    Attributes:
        threads: number of objects that are decoded, and that are placed.
        read_ahead_bytes: memory for objects that are read ahead.
        max_reads: maximum number of reads, however fast the source is.
    """

    threads: int | None = None
    read_ahead_bytes: int | None = None
    max_reads: int = MAX_READS

    @property
    def threads_of_worker(self) -> int:
        """`threads` on this worker."""
        return default_threads() if self.threads is None else self.threads

    @property
    def read_ahead_bytes_of_worker(self) -> int:
        """`read_ahead_bytes` on this worker."""
        given = self.read_ahead_bytes
        return default_read_ahead_bytes() if given is None else given


def processors(cgroup: Path = CGROUP) -> int:
    """Return the number of processors that this process may use, at least 1.

    Args:
        cgroup: folder of the limits of this container (cgroup v2).
    """
    available = len(os.sched_getaffinity(0))
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        available = min(available, -(-int(quota) // int(period)))
    return max(1, available)


def memory_bytes(cgroup: Path = CGROUP) -> int:
    """Return the memory of this machine, or the limit of this container (cgroup v2)."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(cgroup / "memory.max")
    return min(physical, int(limit)) if limit.isdigit() else physical


def default_threads(cgroup: Path = CGROUP) -> int:
    """Return the default number of objects that a worker decodes at the same time."""
    return min(MAX_THREADS, processors(cgroup) + 1)


def default_read_ahead_bytes(cgroup: Path = CGROUP) -> int:
    """Return the default memory for objects that are read ahead.

    A machine may run a worker process for each processor: it is a share of what each then has.
    """
    share = READ_AHEAD_SHARE * memory_bytes(cgroup) / processors(cgroup)
    low, high = READ_AHEAD_BYTES
    return int(min(high, max(low, share)))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""

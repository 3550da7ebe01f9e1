"""Which process of which machine: tells a writer that has died from one that still runs."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
import time
from pathlib import Path
from typing import Final

DEAD_STATES: Final = ("Z", "X", "x")
"""Of proc(5): zombies, and processes that are just being removed."""


@functools.cache
def host_id() -> str:
    """Return 12 hex digits that identify this host across reboots.

    They are a digest of the machine id (machine-id(5)) and the host name, since images of virtual
    machines and containers share the former. A host without a machine id is identified by its boot.
    """
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = ""
    return hashlib.sha256(f"{machine or boot_id()}\0{socket.gethostname()}".encode()).hexdigest()[
        :12
    ]


def boot_id() -> str:
    """Return the random id of this boot of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def pid_namespace() -> int:
    """Return the id of this process's PID namespace, or 0 where the kernel has none."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def start_ticks(pid: int) -> int | None:
    """Return when a live process started, in clock ticks since boot; None if it has ended.

    Raises:
        OSError: the process cannot be looked at.
    """
    try:
        text = Path("/proc", str(pid), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *others = text.rpartition(")")[2].split()  # the name before it may contain anything
    return None if state in DEAD_STATES else int(others[18])


def is_running(pid: int, started: int | None = None) -> bool:
    """Return whether a process of this PID namespace is alive; in doubt it is.

    Args:
        pid: its id.
        started: its `start_ticks`, which tell it from a later process of the same id; None: unknown.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # a process of another user
    try:
        ticks = start_ticks(pid)
    except (OSError, ValueError, IndexError):
        return True
    return ticks is not None and started in (None, ticks)


def boottime() -> float:
    """Return seconds since boot; unlike `time.monotonic`, the clock runs on while suspended."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()

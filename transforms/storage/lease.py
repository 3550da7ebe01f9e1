"""A lock in an object store: an object that its holder renews, and that others take when it stops.

No clocks are compared: who waits takes the lock over once it has seen it unchanged for a while.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from transforms.storage.base import (
    ConditionalWritesUnsupported,
    SupportsConditionalWrites,
    read_whole,
)

RENEW_S: Final = 10.0
LAPSE_S: Final = 60.0
"""An unchanged lock is taken over after so long; its holder gives up well before."""
GIVE_UP_S: Final = 40.0
POLL_S: Final = 2.0
WATCH_S: Final = 1.0


class LockingUnsupported(OSError):
    """The store knows no conditional writes, or lets one through that it should have refused."""


@contextlib.contextmanager
def hold_lease(
    store: SupportsConditionalWrites,
    uri: str,
    *,
    on_wait: Callable[[], None],
    on_lost: Callable[[], None],
) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        store: where it stands.
        uri: the lock's object.
        on_wait: called once if somebody else holds it.
        on_lost: called, in another thread, if the lock could not be renewed in time or was taken:
            whatever it protects must stop at once.

    Raises:
        Unprotected: the store knows no conditional writes, so that nothing can be locked there.
        OSError: the store refused.
    """
    try:
        version, asked_at = _acquire(store, uri, on_wait)
    except ConditionalWritesUnsupported as error:
        raise LockingUnsupported(f"{uri}: the store knows no conditional writes") from error
    if store.compare_and_swap(uri, _content(free=True), None) is not None:
        raise LockingUnsupported(f"{uri}: the store does not honour conditional writes")
    holder = _Holder(store, uri, version, asked_at, on_lost)
    holder.start()
    try:
        yield
    finally:
        holder.release()


class _Holder:
    """Renews a lock in one thread and watches in another that it was, whatever hangs in the first."""

    def __init__(
        self,
        store: SupportsConditionalWrites,
        uri: str,
        version: str,
        asked_at: float,
        on_lost: Callable[[], None],
    ) -> None:
        self._store, self._uri, self._version = store, uri, version
        self._held_since = asked_at
        self._on_lost = on_lost
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._renew, self._watch)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def release(self) -> None:
        """Let go: the lock says that nobody holds it, since a store may not delete on condition."""
        self._done.set()
        for thread in self._threads:
            thread.join(GIVE_UP_S)
        with contextlib.suppress(OSError):
            _swap(self._store, self._uri, self._version, free=True)

    def _renew(self) -> None:
        while not self._done.wait(RENEW_S):
            asked_at = time.monotonic()
            try:
                version = _swap(self._store, self._uri, self._version)
            except OSError:
                continue  # the watch knows how long that may go on
            if version is None:
                self._lose()
                return
            self._version, self._held_since = version, asked_at

    def _watch(self) -> None:
        while not self._done.wait(WATCH_S):
            if time.monotonic() - self._held_since > GIVE_UP_S:
                self._lose()
                return

    def _lose(self) -> None:
        if not self._done.is_set():
            self._done.set()
            self._on_lost()


def _acquire(
    store: SupportsConditionalWrites, uri: str, on_wait: Callable[[], None]
) -> tuple[str, float]:
    """Return the lock's version once it is ours, and when it was asked for."""
    seen, since, waited = "", 0.0, False
    while True:
        found = store.stat(uri)
        asked_at = time.monotonic()
        if found is None:
            taken = _swap(store, uri, None)
        else:
            if found.version != seen:
                seen, since = found.version, asked_at
            free = asked_at - since > LAPSE_S or _is_free(_said(_read(store, uri)))
            taken = _swap(store, uri, found.version) if free else None
        if taken is not None:
            return taken, asked_at
        if found is not None and not waited:
            waited = True
            on_wait()
        time.sleep(POLL_S)


def _swap(
    store: SupportsConditionalWrites, uri: str, version: str | None, *, free: bool = False
) -> str | None:
    """As `SupportsConditionalWrites.compare_and_swap`; a lost answer is read from the lock itself."""
    data = _content(free=free)
    swapped = store.compare_and_swap(uri, data, version)
    if swapped is None and _read(store, uri) == data:
        found = store.stat(uri)
        return None if found is None else found.version
    return swapped


def _content(*, free: bool = False) -> bytes:
    """What a lock says; never the same twice, so that each has a version of its own."""
    boot, processes = _machine()
    said = {"free": free, "boot": boot, "processes": processes, "pid": os.getpid()}
    return json.dumps({**said, "written": str(uuid.uuid4())}).encode()


def _is_free(said: dict[str, Any]) -> bool:
    """Whether a lock was let go, or its holder was a process of this machine that is gone."""
    if said.get("free"):
        return True
    if (said.get("boot"), said.get("processes")) != _machine():
        return False
    try:
        os.kill(int(said["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError, KeyError, TypeError, ValueError):
        pass  # somebody else's process is a process
    return False


def _machine() -> tuple[str, int]:
    """What tells this boot of this machine, and this container's processes, from all others."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return boot, Path("/proc/self/ns/pid").stat().st_ino


def _said(data: bytes) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(data)
    except ValueError:
        return {}
    return said


def _read(store: SupportsConditionalWrites, uri: str) -> bytes:
    try:
        return read_whole(store, uri)
    except FileNotFoundError:
        return b""

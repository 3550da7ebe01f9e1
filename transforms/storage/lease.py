"""A lock in an object store: a lease, an object that its holder renews and others take when it lapses.

Clocks of different hosts are never compared: a waiter takes the lock once it has seen it unchanged for
`LAPSE_S`. Its own clock (`time.monotonic`) may stand still while it is suspended, which only makes it
wait longer. The holder's clock must run on then, or a holder that was suspended would resume writing
beside its successor.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, Final

from transforms.storage.base import (
    ConditionalWritesUnsupported,
    LockLost,
    Storage,
    SupportsConditionalWrites,
    read_whole,
)
from transforms.storage.lock_holder import LockHolder, Patience
from transforms.storage.processes import (
    boot_id,
    boottime,
    is_running,
    pid_namespace,
    start_ticks,
)

RENEW_S: Final = 10.0
LAPSE_S: Final = 60.0
"""A lock that has not changed for so long is taken by a waiter."""
GIVE_UP_S: Final = 40.0
"""A holder that could not renew for so long gives up, well before `LAPSE_S`."""
POLL_S: Final = 2.0
WATCH_S: Final = 1.0
FOREVER: Final = Patience()


class LockingUnsupported(OSError):
    """The store has no conditional writes, or ignores their conditions."""


@contextlib.contextmanager
def hold_lease(
    store: SupportsConditionalWrites,
    uri: str,
    *,
    on_wait: Callable[[], None],
    on_lost: Callable[[], None],
    patience: Patience = FOREVER,
) -> Iterator[Lease]:
    """Hold a lock while the block runs.

    Args:
        store: of the lock.
        uri: the lock's object.
        on_wait: called once if another process holds the lock.
        on_lost: called in another thread if the lock was taken or could not be renewed in time:
            whatever it protects must stop at once.
        patience: how long to wait.

    Raises:
        LockTimedOut: another process held the lock for longer.
        LockingUnsupported: the store has no conditional writes, so that nothing can be locked.
        OSError: the store refused.
    """
    epoch = str(uuid.uuid4())
    try:
        version, acquired_at, holder = _acquire(store, uri, epoch, on_wait, patience)
    except ConditionalWritesUnsupported as error:
        raise LockingUnsupported(f"{uri}: the store has no conditional writes") from error
    if store.compare_and_swap(uri, _content(epoch, holder, free=True), None) is not None:
        raise LockingUnsupported(f"{uri}: the store ignores the conditions of writes")
    lease = Lease(store, uri, epoch, version, acquired_at, holder, on_lost)
    lease.start()
    try:
        yield lease
    finally:
        lease.release()


class Lease:
    """A held lock. One thread renews it, another notices if the first one hangs.

    Attributes:
        epoch: identifies this holder; each new holder writes another one into the lock.
    """

    def __init__(
        self,
        store: SupportsConditionalWrites,
        uri: str,
        epoch: str,
        version: str,
        acquired_at: float,
        holder: LockHolder,
        on_lost: Callable[[], None],
    ) -> None:
        self.epoch = epoch
        self._store, self._uri, self._version = store, uri, version
        self._renewed_at = acquired_at
        self._holder = holder
        self._on_lost = on_lost
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._renew, self._watch)
        ]

    def start(self) -> None:
        """Begin to renew."""
        for thread in self._threads:
            thread.start()

    def release(self) -> None:
        """Mark the lock as free; it is not deleted, as stores may not delete on condition."""
        self._ended.set()
        for thread in self._threads:
            thread.join(GIVE_UP_S)
        with contextlib.suppress(OSError):
            _swap(self._store, self._uri, self._content(free=True), self._version)

    def assert_held(self, *, reread: bool = False) -> None:
        """Raise unless the lock is still held.

        Args:
            reread: also read the lock's object, for the moment before a write that must not be
                repeated by a successor.

        Raises:
            LockLost: the lock lapsed, was taken or was released.
            OSError: the lock's object cannot be read.
        """
        if self._ended.is_set() or self._has_lapsed():
            raise LockLost(self._uri)
        if reread and read_epoch(self._store, self._uri) != self.epoch:
            raise LockLost(self._uri)

    def _has_lapsed(self) -> bool:
        return boottime() - self._renewed_at > GIVE_UP_S

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            requested_at = boottime()
            try:
                version = _swap(self._store, self._uri, self._content(), self._version)
            except OSError:
                continue  # _watch limits how long
            if version is None:
                self._lose()
                return
            self._version, self._renewed_at = version, requested_at

    def _watch(self) -> None:
        while not self._ended.wait(WATCH_S):
            if self._has_lapsed():
                self._lose()
                return

    def _lose(self) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self._on_lost()

    def _content(self, *, free: bool = False) -> bytes:
        return _content(self.epoch, self._holder, free=free)


def read_epoch(storage: Storage, uri: str) -> str | None:
    """Return the epoch of the latest holder of a lock, a lease or a `FileLock`; None: there is none.

    Raises:
        OSError: the lock cannot be read.
    """
    return _parse(_read(storage, uri)).get("epoch")


def read_holder(storage: Storage, uri: str) -> LockHolder | None:
    """Return the latest holder of a lock, a lease or a `FileLock`; None if it is unknown.

    Raises:
        OSError: the lock cannot be read.
    """
    return LockHolder.parse(_parse(_read(storage, uri)))


def read_lapse(storage: Storage, uri: str) -> float | None:
    """Return seconds since a lease was renewed, by this clock; None: it is free, or its holder has ended.

    For display only: whoever takes a lease compares no clocks.

    Raises:
        OSError: the lease cannot be read.
    """
    found = storage.stat(uri)
    content = _parse(_read(storage, uri))
    if found is None or not content or _is_free(content):
        return None
    return max(0.0, time.time() - (found.modified or time.time()))


def _acquire(
    store: SupportsConditionalWrites,
    uri: str,
    epoch: str,
    on_wait: Callable[[], None],
    patience: Patience,
) -> tuple[str, float, LockHolder]:
    """Wait for the lock; return its version, the `boottime` when it was requested, and this holder."""
    seen, since, waited = "", 0.0, False
    while True:
        found = store.stat(uri)
        requested_at, now, holder = boottime(), time.monotonic(), LockHolder.current()
        if found is None:
            taken = _swap(store, uri, _content(epoch, holder), None)
        else:
            if found.version != seen:
                seen, since = found.version, now
            free = now - since > LAPSE_S or _is_free(_parse(_read(store, uri)))
            taken = _swap(store, uri, _content(epoch, holder), found.version) if free else None
        if taken is not None:
            return taken, requested_at, holder
        if found is not None and not waited:
            waited = True
            on_wait()
        patience.sleep(POLL_S)


def _swap(
    store: SupportsConditionalWrites, uri: str, data: bytes, version: str | None
) -> str | None:
    """As `compare_and_swap`; where the answer was lost, the lock's own content tells."""
    swapped = store.compare_and_swap(uri, data, version)
    if swapped is None and _read(store, uri) == data:
        found = store.stat(uri)
        return None if found is None else found.version
    return swapped


def _content(epoch: str, holder: LockHolder, *, free: bool = False) -> bytes:
    """Return a lock's content; it is never the same twice, so that each has its own version."""
    content = {
        **asdict(holder),
        "epoch": epoch,
        "free": free,
        "boot": boot_id(),
        "pid_namespace": pid_namespace(),
        "started": start_ticks(holder.pid),
        "written": str(uuid.uuid4()),
    }
    return json.dumps(content).encode()


def _is_free(found: dict[str, Any]) -> bool:
    """Return whether a lock was released, or its holder was a process of this machine and has ended."""
    if found.get("free"):
        return True
    if (found.get("boot"), found.get("pid_namespace")) != (boot_id(), pid_namespace()):
        return False
    try:
        return not is_running(int(found["pid"]), found.get("started"))
    except (KeyError, TypeError, ValueError):
        return False


def _parse(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(storage: Storage, uri: str) -> bytes:
    try:
        return read_whole(storage, uri)
    except FileNotFoundError:
        return b""

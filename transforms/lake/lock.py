"""The locks of a lake: one run at a time writes to it, and others wait."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from transforms.core.errors import UsageError
from transforms.core.storage_failures import FULL_DISK
from transforms.lake.layout import LOCK, SCRATCH, WRITER_LOCK, Layout
from transforms.storage import lease
from transforms.storage.file_lock import hold_file_lock, is_locked
from transforms.storage.folders import make_folders
from transforms.storage.lease import LockingUnsupported, hold_lease
from transforms.storage.local import uri_to_path
from transforms.storage.lock_holder import LockHolder, LockTimedOut, Patience
from transforms.storage.permissions import private_folder_mode
from transforms.storage.renames import (
    NamesUnsupported,
    file_system_type,
    has_hard_links,
    require_names,
)
from transforms.storage.schemes import is_local, join, object_store, scheme_of, storage_of

UNPROTECTED: Final = (
    "warning: {root} has no conditional writes: objects are verified after they are written, but make "
    "sure that only one run at a time writes there"
)
WAITING: Final = "another run is writing to this lake{holder}; waiting for it to finish"
TIMED_OUT: Final = (
    "another run is still writing to this lake{holder} after --lock_timeout; run the same command again "
    "when it has finished, or wait for longer"
)
UNSUPPORTED: Final = (
    "{root} is on a file system ({type}) that has neither hard links nor renameat2(2) with "
    "RENAME_NOREPLACE, without which a write could replace another file; choose a folder on another one"
)
NO_LINKS: Final = "{root} is on a file system ({type}) that has no hard links; use --placement copy"
LOST: Final = (
    "error: this run could not renew its lock on {root} and exits, because another run may write there; "
    "run the same command again"
)


class UnsupportedFileSystem(UsageError):
    """A root is on a file system on which nothing can be written safely; the message names its type."""


class HeldLock(Protocol):
    """A held lock of a root: `storage.lease.Lease` or `storage.file_lock.FileLock`."""

    @property
    def epoch(self) -> str: ...

    def assert_held(self, *, reread: bool = False) -> None: ...


@dataclass(frozen=True)
class LakeLock:
    """The held locks of all roots of a lake.

    Attributes:
        locks: one per lock name and root; roots without conditional writes have none.
        epoch: identifies the holder of the lock on the lake's root: the value of `read_epoch` until
            another process takes the lock. None if the root has no conditional writes.
    """

    locks: Sequence[HeldLock]
    epoch: str | None

    def assert_held(self, *, reread: bool = False) -> None:
        """Raise unless every lock is still held.

        Args:
            reread: whether to read the locks from their roots, instead of only comparing clocks.

        Raises:
            RuntimeError: a lock has expired, or another process has taken it.
            OSError: a lock cannot be read.
        """
        for lock in self.locks:
            lock.assert_held(reread=reread)


def read_epoch(layout: Layout, name: str = WRITER_LOCK) -> str | None:
    """Return the epoch of the last holder of a lake's lock, or None if it was never held.

    A remote worker compares it with that of its run: a different epoch means that another run writes.

    Raises:
        OSError: the lock cannot be read.
    """
    uri = join(layout.root, name)
    return lease.read_epoch(storage_of(uri), uri)


def describe_holder(root: str, name: str) -> str:
    """Return the process that holds a lock of a root, in brackets; empty if it is unknown."""
    uri = join(root, name)
    with contextlib.suppress(OSError):
        if holder := lease.read_holder(storage_of(uri), uri):
            return f" ({holder})"
    return ""


@dataclass(frozen=True)
class LockState:
    """A lock as others see it.

    Attributes:
        holder: its latest holder; None if it is unknown.
        held: whether it is held; None if that cannot be seen from this host.
    """

    holder: LockHolder | None
    held: bool | None


def read_lock_state(layout: Layout, name: str = WRITER_LOCK) -> LockState:
    """Return the state of a lock on the root of a lake, without taking or writing it.

    Raises:
        OSError: the lock cannot be read.
    """
    uri = join(layout.root, name)
    holder = lease.read_holder(storage_of(uri), uri)
    if not is_local(layout.root):
        lapsed = lease.read_lapse(storage_of(uri), uri)
        return LockState(holder, lapsed is not None and lapsed < lease.LAPSE_S)
    held = is_locked(uri_to_path(uri))
    if not held and holder is not None and holder.host != socket.gethostname():
        held = None  # a mounted file system, or a container of this host
    return LockState(holder, held)


@contextlib.contextmanager
def lock_lake(
    layout: Layout,
    on_wait: Callable[[], None] | None = None,
    *,
    names: Sequence[str] = (WRITER_LOCK, LOCK),
    timeout: float = 0.0,
) -> Iterator[LakeLock]:
    """Lock every root of a lake while the block runs.

    The operating system releases the lock of a local root when the process ends, even if it is killed. In
    an object store, the lock of a killed run expires. Roots are locked in sorted order, so that two runs
    cannot deadlock.

    Args:
        layout: the lake and its sinks.
        on_wait: called if another process holds a lock; None names the process on stderr.
        names: names of the locks, in the order of the default.
        timeout: maximum time to wait for all locks in seconds; 0 waits without limit.

    Yields:
        The held locks.

    Raises:
        RuntimeError: a root cannot be created or locked, or not in time.
        UnsupportedFileSystem: a root cannot be written to without the risk of replacing files.
    """
    locks: list[HeldLock] = []
    epoch: str | None = None
    patience = Patience.of(timeout)
    with contextlib.ExitStack() as stack:
        for name, root in itertools.product(names, sorted(layout.object_roots)):
            wait = on_wait or functools.partial(_report_waiting, root, name)
            try:
                lock = _lock_root(stack, root, name, wait, layout.file_mode, patience)
                if is_local(root):
                    _require_names(root, layout.file_mode)
            except LockTimedOut:
                holder = describe_holder(root, name)
                raise RuntimeError(TIMED_OUT.format(holder=holder)) from None
            except OSError as error:
                raise RuntimeError(_lock_error(root, error)) from error
            if lock is not None:
                locks.append(lock)
                if (name, root) == (names[0], layout.root):
                    epoch = lock.epoch
        yield LakeLock(locks, epoch)


def _lock_root(
    stack: contextlib.ExitStack,
    root: str,
    name: str,
    on_wait: Callable[[], None],
    file_mode: int,
    patience: Patience,
) -> HeldLock | None:
    if is_local(root):
        path = uri_to_path(root) / name
        return stack.enter_context(hold_file_lock(path, on_wait, file_mode, patience))

    def exit_at_once() -> None:
        _report(LOST.format(root=root))
        os._exit(1)  # like a kill: the next run recovers

    store = object_store(scheme_of(root))
    try:
        return stack.enter_context(
            hold_lease(
                store,
                join(root, name),
                on_wait=on_wait,
                on_lost=exit_at_once,
                patience=patience,
            )
        )
    except LockingUnsupported:
        _report(UNPROTECTED.format(root=root))
        return None


def _report_waiting(root: str, name: str) -> None:
    _report(WAITING.format(holder=describe_holder(root, name)))


def require_hard_links(layout: Layout) -> None:
    """Raise unless every root of a lake has hard links.

    Raises:
        UnsupportedFileSystem: a root has none.
        OSError: a root cannot be written to.
    """
    for root in filter(is_local, layout.object_roots):
        scratch = uri_to_path(join(root, SCRATCH))
        if not has_hard_links(scratch):
            raise UnsupportedFileSystem(NO_LINKS.format(root=root, type=file_system_type(scratch)))


def _require_names(root: str, file_mode: int) -> None:
    """Raise unless files can be written to a root without the risk of replacing others.

    Raises:
        UnsupportedFileSystem: they cannot.
        OSError: the root cannot be written to.
    """
    scratch = uri_to_path(join(root, SCRATCH))
    make_folders(scratch, private_folder_mode(file_mode))
    try:
        require_names(scratch)
    except NamesUnsupported as error:
        raise UnsupportedFileSystem(
            UNSUPPORTED.format(root=root, type=file_system_type(scratch))
        ) from error


def _lock_error(root: str, error: OSError) -> str:
    remedy = "free space" if error.errno in FULL_DISK else "check its permissions"
    return (
        f"{root} cannot be written or locked ({error.strerror or error}); {remedy}, or correct --lake "
        "or the policy's sinks"
    )


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

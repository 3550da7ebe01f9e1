"""The writer's lock of a lake: one run at a time writes into it, and others wait."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from transforms.lake.layout import LOCK, WRITER_LOCK, Layout
from transforms.storage import lease
from transforms.storage.file_lock import hold_file_lock
from transforms.storage.lease import LockingUnsupported, hold_lease
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import is_local, join, object_store, scheme_of, storage_of

UNPROTECTED: Final = (
    "warning: {root} has no conditional writes: objects are read back after they are written, but "
    "make sure that only one run at a time writes there"
)
LOST: Final = (
    "error: this run could not renew its lock on {root} and ended, so that it does not write beside "
    "another; run the same command again"
)


class HeldLock(Protocol):
    """One held lock of one root; see `storage.lease.Lease` and `storage.file_lock.FileLock`."""

    @property
    def epoch(self) -> str: ...

    def assert_held(self, *, reread: bool = False) -> None: ...


@dataclass(frozen=True)
class LakeLock:
    """The held locks of all roots of a lake.

    Attributes:
        locks: one for each name and root; roots without conditional writes have none.
        epoch: identifies this holder of the lake's own root: as `read_epoch` returns it until
            another holder takes the lock. None where the root has no conditional writes, and thus
            nothing to compare.
    """

    locks: Sequence[HeldLock]
    epoch: str | None

    def assert_held(self, *, reread: bool = False) -> None:
        """Raise unless every lock is still held.

        Args:
            reread: also read the locks from their roots, not only this machine's clock.

        Raises:
            RuntimeError: a lock lapsed, or another process took it.
            OSError: a lock cannot be read.
        """
        for lock in self.locks:
            lock.assert_held(reread=reread)


def read_epoch(layout: Layout, name: str = WRITER_LOCK) -> str | None:
    """Return the epoch of the latest holder of a lake's lock; None: nobody ever held it.

    A worker elsewhere compares it with that of its run: another epoch means that another run writes.

    Raises:
        OSError: the lock cannot be read.
    """
    uri = join(layout.root, name)
    return lease.read_epoch(storage_of(uri), uri)


@contextlib.contextmanager
def lock_lake(
    layout: Layout, on_wait: Callable[[], None], *, names: Sequence[str] = (WRITER_LOCK, LOCK)
) -> Iterator[LakeLock]:
    """Lock every root of a lake while the block runs.

    The system releases the lock of a local root when the process ends, however it ends; in an object
    store, the lock of a killed run lapses.

    Args:
        layout: the lake and its sinks; locked in one order, so that two runs cannot block each other.
        on_wait: called if another run holds a root.
        names: of the locks, in the order of the default.

    Raises:
        RuntimeError: a root cannot be made or locked.
    """
    locks: list[HeldLock] = []
    epoch: str | None = None
    with contextlib.ExitStack() as stack:
        for name, root in itertools.product(names, sorted(layout.object_roots)):
            try:
                lock = _lock_root(stack, root, name, on_wait)
            except OSError as error:
                raise RuntimeError(_refusal(root, error)) from error
            if lock is not None:
                locks.append(lock)
                if (name, root) == (names[0], layout.root):
                    epoch = lock.epoch
        yield LakeLock(locks, epoch)


def _lock_root(
    stack: contextlib.ExitStack, root: str, name: str, on_wait: Callable[[], None]
) -> HeldLock | None:
    if is_local(root):
        return stack.enter_context(hold_file_lock(uri_to_path(root) / name, on_wait))

    def stop() -> None:
        _report(LOST.format(root=root))
        os._exit(1)  # as if killed: the next run completes what is unfinished

    store = object_store(scheme_of(root))
    try:
        return stack.enter_context(
            hold_lease(store, join(root, name), on_wait=on_wait, on_lost=stop)
        )
    except LockingUnsupported:
        _report(UNPROTECTED.format(root=root))
        return None


def _refusal(root: str, error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free space" if full else "check its permissions"
    return (
        f"{root} cannot be written or locked ({error.strerror or error}); {remedy}, or correct --lake "
        "or the policy's sinks"
    )


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

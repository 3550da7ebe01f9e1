"""One run at a time writes into a lake: the others wait for it."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from transforms.lake.layout import LOCK, WRITER_LOCK, Layout
from transforms.storage.lease import LockingUnsupported, hold_lease
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import is_local, join, object_store, scheme_of

UNPROTECTED: Final = (
    "warning: {root} knows no conditional writes; objects are read back after they are written, but "
    "see to it that only one run at a time writes there"
)
LOST: Final = (
    "error: this run could not renew its lock on {root} and ended, so that it does not write beside "
    "another; run the same command again"
)


@contextlib.contextmanager
def lock_lake(
    layout: Layout, on_wait: Callable[[], None], *, names: Sequence[str] = (WRITER_LOCK, LOCK)
) -> Iterator[None]:
    """Hold every root of a lake locked.

    A local root is let go by the system when the process ends, however it ends; in an object store
    a killed run's lock lapses.

    Args:
        layout: the lake and its sinks; locked in one order, so that two runs cannot block each other.
        on_wait: called if another run holds a root.
        names: of the locks, in the order of the default.

    Raises:
        RuntimeError: a root cannot be made or has no locks.
    """
    with contextlib.ExitStack() as held:
        for name, root in itertools.product(names, sorted(layout.object_roots)):
            try:
                if is_local(root):
                    held.enter_context(_file_locked(root, name, on_wait))
                else:
                    _lease(held, root, name, on_wait)
            except OSError as error:
                raise RuntimeError(
                    f"{root} cannot be written or locked ({error.strerror or error}); see to its "
                    "permissions, or correct --lake or the policy's sinks"
                ) from error
        yield


@contextlib.contextmanager
def _file_locked(root: str, name: str, on_wait: Callable[[], None]) -> Iterator[None]:
    folder = uri_to_path(root)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _lease(held: contextlib.ExitStack, root: str, name: str, on_wait: Callable[[], None]) -> None:
    def stop() -> None:
        _say(LOST.format(root=root))
        os._exit(1)  # as if killed: whatever is half done, the next run completes

    store = object_store(scheme_of(root))
    try:
        held.enter_context(hold_lease(store, join(root, name), on_wait=on_wait, on_lost=stop))
    except LockingUnsupported:
        _say(UNPROTECTED.format(root=root))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""One run at a time writes into a lake: the others wait for it."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator

from transforms.lake.layout import LOCK, Layout


@contextlib.contextmanager
def exclusive(layout: Layout, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold every root of a lake locked; the system lets go when the process ends, however it ends.

    Args:
        layout: the lake and its sinks; locked in one order, so that two runs cannot block each other.
        on_wait: called once if another run holds a root.

    Raises:
        RuntimeError: a root cannot be made or has no locks.
    """
    with contextlib.ExitStack() as held:
        for root in sorted(layout.object_roots):
            try:
                root.mkdir(parents=True, exist_ok=True)
                stream = held.enter_context((root / LOCK).open("a"))
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    on_wait()
                    fcntl.flock(stream, fcntl.LOCK_EX)
            except OSError as error:
                raise RuntimeError(
                    f"{root} cannot be written or locked ({error.strerror}); see to its permissions, "
                    "or correct --lake or the policy's sinks"
                ) from error
        yield

"""End a command on SIGINT or SIGTERM with one sentence and the exit code that shells report."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from pipeline.signals import INTERRUPTED, SIGNALS, exit_code_of

_exit_code: Final[list[int]] = []
"""Exit code of a process that a signal has interrupted."""


@atexit.register  # before those of other modules, so that it is called after them
def _exit_if_interrupted() -> None:
    """Exit with the documented code.

    Python kills itself by SIGINT instead, if a `KeyboardInterrupt` has passed native code on its way.
    """
    if _exit_code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_code[0])


class Interruption:
    """The signal that interrupted a command, SIGINT unless another was received."""

    def __init__(self) -> None:
        self.signal = int(signal.SIGINT)

    def end(self) -> int:
        """Print the sentence and return the exit code, 130 for SIGINT and 143 for SIGTERM."""
        line = "\n" if sys.stderr.isatty() else ""  # below the progress line
        print(f"{line}{INTERRUPTED}", file=sys.stderr, flush=True)
        return exit_code_of(self.signal)


@contextlib.contextmanager
def raise_on_interrupt() -> Iterator[Interruption]:
    """Raise `KeyboardInterrupt` in the block on the first SIGINT or SIGTERM; a second ends at once."""
    interruption = Interruption()

    def handle(number: int, frame: FrameType | None) -> None:
        interruption.signal = number
        _exit_code.append(exit_code_of(number))
        for one in SIGNALS:
            signal.signal(one, signal.SIG_DFL)
        raise KeyboardInterrupt

    with handlers(handle):
        yield interruption


@contextlib.contextmanager
def exit_on_interrupt(*release: Callable[[], None]) -> Iterator[None]:
    """End the process on SIGINT or SIGTERM in the block, instead of raising an exception.

    Beam's runners handle an exception by waiting for their workers, which can take forever, and threads
    that lose their connection print tracebacks. Objects in flight are those of a killed run.

    Args:
        *release: called first, to release locks that the operating system does not.
    """
    interruption = Interruption()

    def handle(number: int, frame: FrameType | None) -> None:
        interruption.signal = number
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        code = interruption.end()
        for step in release:
            with contextlib.suppress(Exception):
                step()
        os._exit(code)

    with handlers(handle):
        yield


@contextlib.contextmanager
def handlers(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle SIGINT and SIGTERM in the block; only the main thread may, elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

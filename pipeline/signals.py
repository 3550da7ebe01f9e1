"""The signals that end a command, their exit codes, and what they do before anything else is imported."""

import signal
from os import _exit, write
from types import FrameType

from pipeline.exit_codes import SIGNALLED

INTERRUPTED = "interrupted; run the same command again to complete"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_code_of(number: int) -> int:
    """Return the exit code that shells report for a signal: 130 for SIGINT, 143 for SIGTERM."""
    return SIGNALLED + number


def end_on_signals() -> None:
    """End at once on a signal: while modules are imported, there is nothing to complete or release."""
    for one in SIGNALS:
        signal.signal(one, _end)


def _end(number: int, frame: FrameType | None) -> None:
    write(2, f"{INTERRUPTED}\n".encode())
    _exit(exit_code_of(number))

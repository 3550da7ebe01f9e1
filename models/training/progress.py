"""Live progress of a long computation, on a terminal or in a log."""

from __future__ import annotations

import sys
import time
from typing import Final

TERMINAL_INTERVAL_S: Final = 1.0
LOG_INTERVAL_S: Final = 30.0


class Progress:
    """Reports finished steps and remaining time on standard error."""

    def __init__(self, name: str, steps: int) -> None:
        self._name, self._steps, self._done = name, steps, 0
        self._started_at = self._reported_at = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def step(self, note: str) -> None:
        """Count one step, and report it with a note if the interval has elapsed."""
        self._done += 1
        now = time.monotonic()
        is_last = self._done == self._steps
        interval = TERMINAL_INTERVAL_S if self._is_terminal else LOG_INTERVAL_S
        if now - self._reported_at < interval and not (self._is_terminal and is_last):
            return
        self._reported_at = now
        left = (now - self._started_at) / self._done * (self._steps - self._done)
        line = f"{self._name}: step {self._done} of {self._steps}, {left:.0f} s left, {note}"
        start, end = ("\r" if self._is_terminal else ""), ""
        if is_last or not self._is_terminal:
            end = "\n"
        print(start + line, end=end, file=sys.stderr, flush=True)

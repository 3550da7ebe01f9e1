"""Live progress of a long computation, for a person at a terminal or a log."""

from __future__ import annotations

import sys
import time
from typing import Final

EVERY_S: Final = 30.0
"""Seconds between lines where no one watches; on a terminal the line is renewed each second."""


class Progress:
    """Says on standard error how far one part of the work is and how long the rest takes."""

    def __init__(self, name: str, steps: int) -> None:
        self._name, self._steps, self._done = name, steps, 0
        self._started = self._said = time.monotonic()
        self._is_live = sys.stderr.isatty()

    def step(self, note: str) -> None:
        """Count one step; `note` is shown beside it."""
        self._done += 1
        now = time.monotonic()
        is_last = self._done == self._steps
        if now - self._said < (1.0 if self._is_live else EVERY_S) and not (
            self._is_live and is_last
        ):
            return
        self._said = now
        left = (now - self._started) / self._done * (self._steps - self._done)
        line = f"{self._name}: {self._done} of {self._steps} steps, {left:.0f} s left, {note}"
        end = "\n" if is_last or not self._is_live else ""
        print(("\r" if self._is_live else "") + line, end=end, file=sys.stderr, flush=True)

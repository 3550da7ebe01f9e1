"""Progress of a local run, on stderr."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

from transforms.metrics import PROGRESS, CounterName

TERMINAL_INTERVAL_S = 0.5
LOG_INTERVAL_S = 30.0


class Progress:
    """Show the progress of a run while the block runs: objects, bytes, rate, errors and time.

    A terminal gets one line that is redrawn every `TERMINAL_INTERVAL_S`, anything else a new line every
    `LOG_INTERVAL_S`.
    """

    def __init__(self, *, quiet: bool, stream: TextIO | None = None) -> None:
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._on_terminal = self._stream.isatty()
        self._done = threading.Event()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Progress:
        PROGRESS.reset()
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._done.set()
        if not self._quiet:
            self._thread.join()
            if self._on_terminal:
                self._stream.write(f"\r{self.line()}\n")

    def line(self) -> str:
        """Return the current progress as one line."""
        counts = PROGRESS.snapshot()
        done = sum(
            counts.get(c, 0)
            for c in (
                CounterName.PLACED,
                CounterName.CLASSIFIED,
                CounterName.UNCHANGED,
                CounterName.RECOVERED,
                CounterName.FAILED,
            )
        )
        elapsed = time.monotonic() - self._started
        return (
            f"{counts.get(CounterName.DISCOVERED, 0)} discovered, {done} done, "
            f"{counts.get(CounterName.BYTES_READ, 0) / 1e6:.0f} MB, {done / elapsed:.1f}/s, "
            f"{counts.get(CounterName.FAILED, 0)} errors, {elapsed:.0f} s"
        )

    def _show(self) -> None:
        while not self._done.wait(TERMINAL_INTERVAL_S if self._on_terminal else LOG_INTERVAL_S):
            start, end = ("\r", "\x1b[K") if self._on_terminal else ("", "\n")
            self._stream.write(f"{start}{self.line()}{end}")
            self._stream.flush()

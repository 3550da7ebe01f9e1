"""Progress of a local run, on stderr."""

from __future__ import annotations

import sys
import threading
import time
from typing import Final, TextIO

from transforms.config.route_config import RouteConfig
from transforms.lake.run_state import LAUNCHER, StateWriter, clear_states
from transforms.metrics import PROGRESS, CounterName

TERMINAL_INTERVAL_S = 0.5
LOG_INTERVAL_S = 30.0
STATE_DELAY_S = 10.0
"""Time until a batch run writes its first state; shorter ones write none."""
DONE_COUNTERS: Final = (
    CounterName.PLACED, CounterName.CLASSIFIED, CounterName.UNCHANGED,
    CounterName.RECOVERED, CounterName.FAILED,
)  # fmt: skip


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
        done = sum(counts.get(counter, 0) for counter in DONE_COUNTERS)
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


class RecordState:
    """Write the state of a batch run into its lake while the block runs, for `dicom-router status`."""

    def __init__(self, config: RouteConfig) -> None:
        self._config = config
        self._writer = StateWriter(config.layout, config.run_id, LAUNCHER)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> RecordState:
        clear_states(self._config.layout)  # of a run that was killed: this one holds the lock
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._done.set()
        self._thread.join()
        self._writer.remove()

    def _write(self) -> None:
        delay = STATE_DELAY_S
        while not self._done.wait(delay):
            counts = PROGRESS.snapshot()  # empty where workers are other processes
            self._writer.write(
                source=self._config.source,
                streaming=False,
                started_at=self._config.started_at,
                inputs=len(self._config.inputs),
                discovered=counts.get(CounterName.DISCOVERED),
                done=sum(counts.get(one, 0) for one in DONE_COUNTERS) if counts else None,
                failed=counts.get(CounterName.FAILED, 0) if counts else None,
            )
            delay = LOG_INTERVAL_S

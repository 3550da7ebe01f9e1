"""Watch a stream from the process that launched it: one line a minute, and its state for `status`."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence, Set
from typing import Final

from pipeline.audit.trail import AuditTrail
from pipeline.observability.observer import NO_OBSERVER, Observer, StreamState
from pipeline.summaries import interval_text, plural
from transforms.config.expectations import Checked, check_shares
from transforms.config.route_config import RouteConfig
from transforms.core.reasons import ProcessingFailure, Status
from transforms.lake.append_log import parse_segment
from transforms.lake.files import list_files
from transforms.lake.index_files import DamagedFile, list_index, read_matching
from transforms.lake.run_counts import COUNTED_COLUMNS, RunCounts
from transforms.lake.run_state import LAUNCHER, StateWriter, read_states
from transforms.lake.schema import is_of_run
from transforms.lake.tombstones import forgotten_by_run

WINDOW_S: Final = 3600.0
"""Time whose objects must meet the expectations of the policy."""


class StreamMonitor:
    """Count the rows of a stream as they appear in the index, and report them every `log_interval`."""

    def __init__(
        self,
        config: RouteConfig,
        before: Set[str],
        *,
        quiet: bool,
        observer: Observer = NO_OBSERVER,
        audit: AuditTrail | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Report nothing yet.

        Args:
            config: of the stream.
            before: URIs of the index files that existed before it.
            quiet: whether to print only what the policy does not expect.
            observer: exports what is reported.
            audit: where events are reported.
            clock: returns seconds since 1970.
        """
        assert config.stream is not None
        self._config, self._quiet, self._clock = config, quiet, clock
        self._observer, self._last_row_at = observer, clock()
        self._audit = audit
        self._interval = config.stream.log_interval
        self._read = set(before)
        self._total = RunCounts()
        self._recent: deque[tuple[float, RunCounts]] = deque()
        self._state = StateWriter(config.layout, config.run_id, LAUNCHER)
        self._unmet: frozenset[str] = frozenset()
        self._reported_at = clock()
        self._write_state(0, None, self._checked())

    def close(self) -> None:
        """Remove the state."""
        self._state.remove()

    def update(self, failed: Callable[[], int | None]) -> None:
        """Report if it is time to.

        Args:
            failed: returns the number of failed attempts since the start; None if it is unknown.
        """
        now = self._clock()
        if now - self._reported_at < self._interval:
            return
        self._reported_at = now
        try:
            new = self._count_new()
        except (OSError, ProcessingFailure, DamagedFile) as error:  # the stream itself reports it
            self._print(f"stream: its rows cannot be counted ({type(error).__name__})")
            return
        self._total = RunCounts.sum((self._total, new))
        if _rows(new):
            self._last_row_at = now
        self._recent.append((now, new))
        while self._recent[0][0] <= now - WINDOW_S:
            self._recent.popleft()
        number = failed()
        checked = self._checked()
        self._print(self._write_state(_rows(new), number, checked))
        self._report(checked)
        if self._audit is not None:
            self._audit.try_report(
                self._config.run_id, lambda text: _print(f"warning: stream: {text}")
            )

    def _count_new(self) -> RunCounts:
        """Return the counts of the rows in segments that have appeared; compaction adds no rows."""
        new: list[RunCounts] = []
        files = set(list_index(self._config.layout))
        for uri in sorted(files - self._read):
            if parse_segment(uri) is not None:
                try:
                    tables = list(read_matching(uri, COUNTED_COLUMNS, {}))
                except FileNotFoundError:  # compacted since; the summary counts its rows
                    continue
                for rows in tables:
                    own = rows.filter(is_of_run(rows["run_id"], self._config.run_id))
                    new.append(RunCounts.of_table(own))
        self._read = files
        return RunCounts.sum(new)

    def _write_state(self, last: int, failed: int | None, checked: Sequence[Checked]) -> str:
        """Write the state for `status`, and return the line for the log."""
        config = self._config
        inputs = _inputs(config)
        waiting = [one["waiting"] for one in inputs if one.get("waiting") is not None]
        letters = _dead_letters(config)
        counts = {str(status): self._total.counts[status] for status in Status}
        in_flight = sum(int(one["in_flight"]) for one in inputs) if inputs else None
        retried = sum(int(one["retried"]) for one in inputs)
        self._state.write(
            source=config.source,
            streaming=True,
            started_at=config.started_at,
            inputs=len(config.inputs),
            rows=_rows(self._total),
            counts=counts,
            last_interval=last,
            interval_s=self._interval,
            failed=failed,
            unmet=[one.text for one in checked if not one.met],
        )
        unmet = sum(not one.met for one in checked)
        self._observer.streaming(
            StreamState(self._total, self._last_row_at, inputs, letters, failed, unmet)
        )
        shown = ", ".join(f"{number} {status}" for status, number in counts.items() if number)
        parts = [
            f"{plural(_rows(self._total), 'row')} since start" + (f" ({shown})" if shown else ""),
            f"{last} in the last {interval_text(self._interval)}",
        ]
        if forgotten := _forgotten(config):
            parts.append(f"{forgotten} forgotten")
        if in_flight is not None:
            parts.append(f"{in_flight} in flight" + (f" ({retried} retried)" if retried else ""))
        if waiting:
            parts.append(f"{sum(waiting)} waiting")
        if failed is not None:
            parts.append(f"{failed} errors")
        if letters:
            parts.append(f"{letters} dead letters")
        return f"stream: {', '.join(parts)}"

    def _checked(self) -> list[Checked]:
        """Return the expectations about shares, for the objects of the last hour."""
        recent = RunCounts.sum(counts for _, counts in self._recent)
        return check_shares(self._config.policy.expect, recent, self._config.layout.root)

    def _report(self, checked: Sequence[Checked]) -> None:
        """Report expectations that have ceased to be met, or are met again."""
        unmet = {one.key: one.text for one in checked if not one.met}
        for key in sorted(unmet.keys() - self._unmet):
            _print(f"warning: stream, in the last hour: {unmet[key]}")
        for key in sorted(self._unmet - unmet.keys()):
            _print(f"stream: {key} is met again")
        self._unmet = frozenset(unmet)

    def _print(self, text: str) -> None:
        if not self._quiet:
            _print(text)


def _rows(counts: RunCounts) -> int:
    return sum(counts.counts[status] for status in Status)


def _inputs(config: RouteConfig) -> list[dict[str, int]]:
    """Return the latest states of the stream's inputs; none if the lake cannot be read."""
    try:
        states = read_states(config.layout)
    except OSError:
        return []
    return [s for s in states if s["run_id"] == config.run_id and "in_flight" in s]


def _dead_letters(config: RouteConfig) -> int:
    """Return the number of dead letters in the lake; 0 if it cannot be read."""
    try:
        return len(list_files(config.layout.dead_letters, ".json"))
    except OSError:
        return 0


def _forgotten(config: RouteConfig) -> int:
    """Return the number of objects that the stream has kept out; 0 if the lake cannot be read."""
    try:
        return forgotten_by_run(config.layout, config.run_id)
    except OSError:
        return 0


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

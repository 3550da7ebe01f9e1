"""Streams as an operator has them: started, fed, watched, stopped and killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import soak
from tests.conftest import Lake, counts
from transforms.lake.layout import Layout
from transforms.lake.verify import verify_lake

PATIENCE_S = 150
FAST = ["--poll_every=1", "--settle_for=1", "--max_batch_wait=1"]
VOLATILE = soak.VOLATILE | {"model_id", "status", "stage", "reason", "conflict", "ingest_date"}


class Stream:
    """A `dicom-router route` that goes on until it is stopped."""

    def __init__(self, lake: Path, options: list[str], log: Path, **environment: str) -> None:
        self._lake = lake
        self._log = log
        command = [sys.executable, "-m", "pipeline", "route", "--json", "--lake", str(lake)]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*command, *options], stdout=subprocess.PIPE, stderr=errors, text=True,
                start_new_session=True, env={**os.environ, **environment},
            )  # fmt: skip

    @property
    def said(self) -> str:
        """What it wrote to stderr."""
        return self._log.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until something is so."""
        until = time.monotonic() + PATIENCE_S
        while not condition():
            assert self._process.poll() is None, f"it ended: {self.said[-3000:]}"
            assert time.monotonic() < until, f"{what}: not so: {self.said[-3000:]}"
            time.sleep(0.2)

    def wait_for_rows(self, number: int) -> None:
        """Wait until the index has so many rows."""
        self.wait_until(lambda: rows_in(self._lake) >= number, f"{number} rows")

    def stop(self) -> dict[str, Any]:
        """Ask it to stop, as a service manager does; gives back its summary."""
        self._process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> dict[str, Any]:
        """Wait for its end and give back its summary."""
        out, _ = self._process.communicate(timeout=PATIENCE_S)
        assert self._process.returncode == 0, self.said[-3000:]
        summary: dict[str, Any] = json.loads(out)
        assert summary["complete"]
        return summary

    def failed(self) -> int:
        """Wait for its end by itself and give back its exit code."""
        self._process.communicate(timeout=PATIENCE_S)
        return self._process.returncode

    def kill(self) -> None:
        """SIGKILL to it and all that it started here."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def stream(lake: Path, *options: str, **environment: str) -> Iterator[Stream]:
    one = Stream(lake, list(options), lake.parent / f"{lake.name}.log", **environment)
    try:
        yield one
    finally:
        one.kill()


def rows_in(lake: Path) -> int:
    """Rows of the index, which is read while it grows."""
    return len(Lake(lake).rows()) if list(lake.glob("index/*/*.parquet")) else 0


def drop(images: Path, folder: Path, start: int, end: int) -> None:
    """Put some of the films there, whole at once."""
    folder.mkdir(exist_ok=True)
    for path in sorted(images.iterdir())[start:end]:
        part = folder.parent / f".{path.name}"
        shutil.copy2(path, part)
        part.rename(folder / path.name)


def assert_same(lake: Path, baseline_lake: Path) -> None:
    """Require that a stream's lake holds what a batch made of the same files in another folder.

    Which of several sources of the same bytes is the first one depends, in a stream, on which came
    first; that there is one, and the conflict on what came after, do not.
    """
    mine, theirs = by_name(lake), by_name(baseline_lake)
    assert mine.keys() == theirs.keys()
    for name, row in theirs.items():
        stable = row.keys() - VOLATILE - {"source_uri", "source_version", "object_key"}
        assert {k: mine[name][k] for k in stable} == {k: row[k] for k in stable}
    assert statuses(mine) == statuses(theirs)
    in_conflict = {r["sop_instance_uid"] for r in theirs.values() if r["conflict"]}
    assert {r["sop_instance_uid"] for r in mine.values() if r["conflict"]} == in_conflict
    assert soak.objects_of(lake) == soak.objects_of(baseline_lake)
    assert_sound(lake)


def assert_sound(lake: Path) -> None:
    """Require that the contract holds, and that nothing is left over."""
    assert not verify_lake(Layout(str(lake)), deep=True).violations
    left = [p for part in ("journal", ".tmp", ".stream") for p in (lake / part).glob("*")]
    assert not left


def by_name(lake: Path) -> dict[str, dict[str, Any]]:
    """Rows by the file names of their sources; each once."""
    rows = Lake(lake).rows()
    found = {Path(row["source_uri"]).name: row for row in rows}
    assert len(found) == len(rows)
    return found


def statuses(rows: dict[str, dict[str, Any]]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows.values():
        found[row["content_sha256"]][row["status"]] += 1
    return dict(found)


def accounted(summary: dict[str, Any]) -> int:
    """Objects that a summary accounts for."""
    assert sum(counts(summary).values()) == summary["counts"]["discovered"]
    return int(summary["counts"]["discovered"])

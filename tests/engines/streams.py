"""Runs streams as an operator does: start, feed, observe, stop and kill."""

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
from tests.conformance import violations
from tests.conftest import Lake, counts
from transforms.lake.layout import Layout
from transforms.lake.verify import verify_lake

FAST = ["--poll_interval=1", "--stable_for=1", "--max_batch_wait=1"]
VOLATILE = soak.VOLATILE | {
    "model_id",
    "policy_id",
    "status",
    "stage",
    "reason",
    "conflict",
    "ingest_date",
}


class Stream:
    """A `dicom-router route` process that runs until it is stopped."""

    def __init__(self, lake: Path, options: list[str], log: Path, **environment: str) -> None:
        self._lake = lake
        self._log = log
        command = [sys.executable, "-m", "pipeline", "route", "--lake", str(lake)]
        command += [] if "--quiet" in options else ["--json"]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*command, *options], stdout=subprocess.PIPE, stderr=errors, text=True,
                start_new_session=True, env={**os.environ, **environment},
            )  # fmt: skip

    @property
    def stderr(self) -> str:
        """Its output on stderr."""
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_until(self, condition: Callable[[], Any]) -> None:
        """Wait until a condition holds; the test's own limit ends a wait in vain."""
        while not condition():
            assert self._process.poll() is None, f"the stream ended: {self.stderr[-3000:]}"
            time.sleep(0.2)

    def wait_for_rows(self, number: int) -> None:
        """Wait until the index has at least `number` rows."""
        self.wait_until(lambda: rows_in(self._lake) >= number)

    def stop(self) -> dict[str, Any]:
        """Send SIGTERM, as a service manager does, and return the summary."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def interrupt(self) -> None:
        """Send SIGINT to its process group, as a terminal does after Ctrl-C."""
        os.killpg(self._process.pid, signal.SIGINT)

    def wait(self) -> dict[str, Any]:
        """Wait until it ends successfully, and return the summary."""
        out, _ = self._process.communicate()
        assert self._process.returncode == 0, self.stderr[-3000:]
        summary: dict[str, Any] = json.loads(out)
        assert summary["complete"]
        return summary

    def wait_for_exit_code(self) -> int:
        """Wait until it ends, and return its exit code."""
        self._process.communicate()
        return self._process.returncode

    def kill(self) -> None:
        """Send SIGKILL to its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def start_stream(lake: Path, *options: str, **environment: str) -> Iterator[Stream]:
    """Start a stream, which is killed at the end of the block if it still runs."""
    stream = Stream(lake, list(options), lake.parent / f"{lake.name}.log", **environment)
    try:
        yield stream
    except BaseException:  # also that of the test's limit
        print(f"{soak.placed(lake)} objects placed; {stream.stderr[-3000:]}")
        raise
    finally:
        stream.kill()


def rows_in(lake: Path) -> int:
    """Return the number of rows in the index of a running stream."""
    return len(Lake(lake).rows()) if list(lake.glob("index/*/*.parquet")) else 0


def copy_images(images: Path, folder: Path, start: int, end: int) -> None:
    """Copy some of the images to a folder, each by an atomic rename."""
    folder.mkdir(exist_ok=True)
    for path in sorted(images.iterdir())[start:end]:
        part = folder.parent / f".{path.name}"
        shutil.copy2(path, part)
        part.rename(folder / path.name)


def assert_same(lake: Path, baseline_lake: Path) -> None:
    """Assert that the lake of a stream equals that of a batch run over the same files in another folder.

    Which of several sources of the same bytes is the original depends on arrival order in a stream;
    that exactly one is, and that its conflicts are marked, does not.
    """
    actual, expected = by_name(lake), by_name(baseline_lake)
    assert actual.keys() == expected.keys()
    for name, row in expected.items():
        stable = row.keys() - VOLATILE - {"source_uri", "source_version", "object_key"}
        changed = {k: (actual[name][k], row[k]) for k in stable if actual[name][k] != row[k]}
        assert changed == {}, name
    assert statuses(actual) == statuses(expected)
    in_conflict = {r["sop_instance_uid"] for r in expected.values() if r["conflict"]}
    assert {r["sop_instance_uid"] for r in actual.values() if r["conflict"]} == in_conflict
    assert soak.objects_of(lake) == soak.objects_of(baseline_lake)
    assert_ok(lake)


def assert_ok(lake: Path) -> None:
    """Assert that a lake has no contract violations and no leftover temporary files."""
    assert not verify_lake(Layout(str(lake)), deep=True).violations
    assert violations(lake) == []
    leftover = [p for part in ("journal", ".tmp", ".stream") for p in (lake / part).glob("*")]
    assert not leftover


def by_name(lake: Path) -> dict[str, dict[str, Any]]:
    """Return the rows by the file names of their sources, which must be unique."""
    rows = Lake(lake).rows()
    found = {Path(row["source_uri"]).name: row for row in rows}
    assert len(found) == len(rows)
    return found


def statuses(rows: dict[str, dict[str, Any]]) -> dict[str, Counter[str]]:
    """Return how often each content has each status."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows.values():
        found[row["content_sha256"]][row["status"]] += 1
    return dict(found)


def accounted(summary: dict[str, Any]) -> int:
    """Return the number of objects that a summary accounts for; it must be all that were discovered."""
    assert sum(counts(summary).values()) == summary["counts"]["discovered"]
    return int(summary["counts"]["discovered"])

"""The state of runs and reviews while they run, as small files in the lake, for `dicom-router status`.

The process that launched a run, the sources of a stream and reviews may be on different machines. Each
writes a file about itself now and then. The files decide nothing, and a write that fails is left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any, Final

from transforms.core.reasons import ProcessingFailure
from transforms.lake.files import list_files, put_if_absent, read_json
from transforms.lake.layout import Layout
from transforms.storage.processes import host_id, is_running, pid_namespace, start_ticks
from transforms.storage.schemes import join, storage_of

FOLDER: Final = ".run"
"""Hidden folder of the states of runs."""
REVIEWS: Final = ".reviews"
"""Hidden folder of the states of reviews, which go on when a run begins or ends."""
LAUNCHER: Final = "launcher"
"""Name of the state of the process that launched the run."""


class StateWriter:
    """Write the state of one part of a run; each replaces the last one."""

    def __init__(self, layout: Layout, run_id: str, part: str, folder: str = FOLDER) -> None:
        """Write nothing yet.

        Args:
            layout: the lake.
            run_id: id of the run, or of the review.
            part: `LAUNCHER`, or the number of an input.
            folder: `FOLDER` or `REVIEWS`.
        """
        self._layout, self._run_id, self._part = layout, run_id, part
        self._folder = join(layout.root, folder)
        self._last: str | None = None

    def write(self, **values: Any) -> None:
        """Write a state, with the time and this process; values are ready for JSON."""
        state = {
            "run_id": self._run_id,
            "part": self._part,
            **_this_process(),
            "updated_at": time.time(),
            **values,
        }
        name = f"{self._run_id}-{self._part}-{time.time_ns()}.json"
        uri = join(self._folder, name)
        with contextlib.suppress(OSError, ProcessingFailure):
            put_if_absent(
                uri,
                json.dumps(state).encode(),
                scratch=self._layout.scratch(),
                file_mode=self._layout.file_mode,
            )
            self.remove()
            self._last = uri

    def remove(self) -> None:
        """Remove the state that was written last. Idempotent."""
        if self._last is not None:
            with contextlib.suppress(OSError):
                storage_of(self._last).remove(self._last)
            self._last = None


def _this_process() -> dict[str, Any]:
    """Return what tells this process from others, as long as it runs and afterwards."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        process = {"pid_namespace": pid_namespace(), "start_ticks": start_ticks(os.getpid())}
        return {"host": socket.gethostname(), "pid": os.getpid(), "host_id": host_id(), **process}
    return {"host": socket.gethostname(), "pid": os.getpid()}


def has_ended(state: Mapping[str, Any]) -> bool:
    """Return whether the process of a state has ended; False if that cannot be seen from here."""
    try:
        is_here = (state.get("host_id"), state.get("pid_namespace")) == (host_id(), pid_namespace())
    except OSError:
        return False
    return is_here and not is_running(int(state["pid"]), state.get("start_ticks"))


def read_reviews(layout: Layout) -> list[dict[str, Any]]:
    """Return the states of the reviews of a lake that have not ended, as far as can be seen from here.

    Raises:
        OSError: the lake cannot be listed.
    """
    return [state for state in read_states(layout, REVIEWS) if not has_ended(state)]


def clear_ended_reviews(layout: Layout) -> None:
    """Remove the states that killed reviews have left. Idempotent."""
    with contextlib.suppress(OSError):
        for found in list_files(join(layout.root, REVIEWS), ".json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                if has_ended(read_json(found.uri)):
                    storage_of(found.uri).remove(found.uri)


def read_states(layout: Layout, folder: str = FOLDER) -> list[dict[str, Any]]:
    """Return the states in a lake: the latest of each part of each run, the newest first.

    Args:
        layout: the lake.
        folder: `FOLDER` or `REVIEWS`.

    Raises:
        OSError: the lake cannot be listed.
    """
    latest: dict[tuple[Any, Any], dict[str, Any]] = {}
    for found in list_files(join(layout.root, folder), ".json"):
        with contextlib.suppress(OSError, ValueError):  # replaced since, or damaged
            state = read_json(found.uri)
            if isinstance(state, dict) and isinstance(state.get("updated_at"), int | float):
                key = state.get("run_id"), state.get("part")
                if key not in latest or latest[key]["updated_at"] <= state["updated_at"]:
                    latest[key] = state
    return sorted(latest.values(), key=lambda state: -float(state["updated_at"]))


def clear_states(layout: Layout) -> None:
    """Remove all states of runs, which have ended or were killed. Idempotent."""
    with contextlib.suppress(OSError):
        for found in list_files(join(layout.root, FOLDER)):
            storage_of(found.uri).remove(found.uri)

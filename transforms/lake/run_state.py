"""The state of a run while it runs, as small files in the lake, for `dicom-router status`.

The process that launched the run and the sources of a stream may be on different machines. Each writes a
file about itself now and then. The files decide nothing, and a write that fails is left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import Any, Final

from transforms.core.reasons import ProcessingFailure
from transforms.lake.files import list_files, put_if_absent, read_json
from transforms.lake.layout import Layout
from transforms.storage.schemes import join, storage_of

FOLDER: Final = ".run"
LAUNCHER: Final = "launcher"
"""Name of the state of the process that launched the run."""


class StateWriter:
    """Write the state of one part of a run; each replaces the last one."""

    def __init__(self, layout: Layout, run_id: str, part: str) -> None:
        """Write nothing yet.

        Args:
            layout: the lake.
            run_id: id of the run.
            part: `LAUNCHER`, or the number of an input.
        """
        self._layout, self._run_id, self._part = layout, run_id, part
        self._last: str | None = None

    def write(self, **values: Any) -> None:
        """Write a state, with the time and this process; values are ready for JSON."""
        state = {
            "run_id": self._run_id,
            "part": self._part,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "updated_at": time.time(),
            **values,
        }
        name = f"{self._run_id}-{self._part}-{time.time_ns()}.json"
        uri = join(self._layout.root, FOLDER, name)
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


def read_states(layout: Layout) -> list[dict[str, Any]]:
    """Return the states in a lake: the latest of each part of each run, the newest first.

    Raises:
        OSError: the lake cannot be listed.
    """
    latest: dict[tuple[Any, Any], dict[str, Any]] = {}
    for found in list_files(join(layout.root, FOLDER), ".json"):
        with contextlib.suppress(OSError, ValueError):  # replaced since, or damaged
            state = read_json(found.uri)
            if isinstance(state, dict) and isinstance(state.get("updated_at"), int | float):
                key = state.get("run_id"), state.get("part")
                if key not in latest or latest[key]["updated_at"] <= state["updated_at"]:
                    latest[key] = state
    return sorted(latest.values(), key=lambda state: -float(state["updated_at"]))


def clear_states(layout: Layout) -> None:
    """Remove all states, as of a run that has ended or was killed. Idempotent."""
    with contextlib.suppress(OSError):
        for found in list_files(join(layout.root, FOLDER)):
            storage_of(found.uri).remove(found.uri)

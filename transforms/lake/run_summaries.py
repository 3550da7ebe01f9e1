"""Read the summaries of runs, of this and earlier releases."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

from transforms.lake.files import list_files, read_json
from transforms.lake.layout import Layout
from transforms.storage.schemes import is_below

MAX_RUNS: Final = 30
"""Number of runs whose summaries are read, the latest first."""


def read_summaries(
    layout: Layout,
    limit: int | None = MAX_RUNS,
    is_wanted: Callable[[str], bool] = lambda run_id: True,
) -> list[dict[str, Any]]:
    """Return the summaries of the latest runs of a lake, the latest first.

    Args:
        layout: the lake.
        limit: maximum number of summaries; None for all.
        is_wanted: whether to read the summary of a run, by its id.

    Raises:
        OSError: the folder cannot be listed.
    """
    found = [
        f.uri
        for f in list_files(layout.runs, ".json")
        if not is_below(f.uri, layout.metrics)
        and is_wanted(f.uri.rpartition("/")[2].removesuffix(".json"))
    ]
    found.sort(key=lambda uri: uri.rpartition("/")[2], reverse=True)
    summaries = []
    for uri in found[:limit]:
        with contextlib.suppress(OSError, ValueError):  # damaged: 'verify' reports it
            if (summary := summary_of(read_json(uri))) is not None:
                summaries.append(summary)
    return summaries


def summary_of(content: Any) -> dict[str, Any] | None:
    """Return the content of a summary, or None if it is none that this release can show."""
    if not isinstance(content, dict) or not isinstance(content.get("run_id"), str):
        return None
    counts, options = content.get("counts"), content.setdefault("options", {})
    if not isinstance(counts, dict) or not all(isinstance(n, int) for n in counts.values()):
        return None
    is_known = "discovered" in counts and isinstance(content.get("equation"), str)
    return content if is_known and isinstance(options, dict) else None

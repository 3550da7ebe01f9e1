"""Read the summaries and metrics of the runs of a lake."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transforms.config.policy import Policy
from transforms.lake.files import exists, read_json
from transforms.lake.layout import Layout
from transforms.lake.run_summaries import read_summaries, summary_of


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a policy in force.

    Attributes:
        by_label: minimum confidence of a routed image, by label.
        ood_threshold: maximum OOD score of a routed image; None if there is none.
    """

    by_label: Mapping[str, float]
    ood_threshold: float | None


def read_run(layout: Layout, run_id: str) -> dict[str, Any] | None:
    """Return the summary of a run, or None if it has none."""
    for complete in (True, False):
        uri = layout.run_summary(run_id, complete=complete)
        if exists(uri):
            return summary_of(read_json(uri))
    return None


def latest_run(layout: Layout) -> str | None:
    """Return the id of the latest run that has ended, or None."""
    return next((str(one["run_id"]) for one in read_summaries(layout, 1)), None)


def read_metrics(layout: Layout, run_ids: Iterable[str]) -> tuple[str, dict[str, Any]] | None:
    """Return the first of some runs that has metrics of its steps, and these; None if none has."""
    for run_id in run_ids:
        with contextlib.suppress(OSError, ValueError):
            metrics = read_json(layout.run_metrics(run_id))
            if metrics.get("distributions"):
                return run_id, metrics
    return None


def thresholds_of(
    policy_id: str | None, summaries: Iterable[Mapping[str, Any]]
) -> Thresholds | None:
    """Return the thresholds of a policy: from a summary that has them, or those of the default.

    Args:
        policy_id: as in the index.
        summaries: run summaries.
    """
    for summary in summaries:
        options = summary.get("options")
        if not isinstance(options, dict) or options.get("policy_id") != policy_id:
            continue
        found, ood = options.get("thresholds"), options.get("ood_threshold")
        if isinstance(found, dict) and all(isinstance(one, int | float) for one in found.values()):
            return Thresholds(found, ood if isinstance(ood, int | float) else None)
    default = _default_policy()
    if policy_id is not None and policy_id == default.policy_id:
        return Thresholds(default.thresholds, default.ood_threshold)
    return None


def _default_policy() -> Policy:
    from models.bundle import read_info
    from models.default_bundle import DEFAULT_BUNDLE

    info = read_info(DEFAULT_BUNDLE)
    return Policy().with_defaults(info.thresholds, info.ood_threshold)

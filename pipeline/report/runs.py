"""Read the summaries and metrics of the runs of a lake."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transforms.config.policy import Policy, is_decided_by_age
from transforms.core.labels import DEFAULT_LABELS, AgeGroups, LabelSet
from transforms.core.reasons import Reason
from transforms.lake.files import exists, read_json
from transforms.lake.layout import Layout
from transforms.lake.probabilities import stored_probabilities
from transforms.lake.run_summaries import read_summaries, summary_of


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a policy in force.

    Attributes:
        policy_id: id of the policy.
        by_label: minimum confidence of a routed image, by label.
        by_age: the same for images whose label an age has chosen, where it is another value.
        ood_threshold: maximum OOD score of a routed image; None if there is none.
        adult_from_years: age from which a chest is an adult's.
        age_groups: labels that the age tells apart, or None.
    """

    policy_id: str | None
    by_label: Mapping[str, float]
    by_age: Mapping[str, float]
    ood_threshold: float | None
    adult_from_years: float
    age_groups: AgeGroups | None = DEFAULT_LABELS.age_groups

    def missed_by(self, row: Mapping[str, Any]) -> float | None:
        """Return the threshold that a row in review for low confidence misses, or None.

        Args:
            row: as listed by `queries`.
        """
        label, confidence = row["predicted_label"], row["confidence"]
        if (row["reason"], row["policy_id"]) != (Reason.LOW_CONFIDENCE, self.policy_id):
            return None
        if confidence is None or not math.isfinite(confidence):
            return None
        age, groups = row["patient_age_years"], self.age_groups
        thresholds = self.by_label
        if (
            groups is not None
            and age is not None
            and is_decided_by_age(stored_probabilities(row), groups, age)
        ):
            label = groups.adult if age >= self.adult_from_years else groups.child
            thresholds = {**thresholds, **self.by_age}
        threshold = thresholds.get(label)
        return threshold if threshold is not None and confidence < threshold else None


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
    policy_id: str | None,
    summaries: Iterable[Mapping[str, Any]],
    labels: LabelSet = DEFAULT_LABELS,
) -> Thresholds | None:
    """Return the thresholds of a policy: from a summary that has them, or those of the default.

    Args:
        policy_id: as in the index.
        summaries: run summaries.
        labels: of the lake.
    """
    default = _default_policy()
    for summary in summaries:
        options = summary.get("options")
        if not isinstance(options, dict) or options.get("policy_id") != policy_id:
            continue
        found, ood = _numbers(options.get("thresholds")), options.get("ood_threshold")
        if found is not None:
            limit = ood if isinstance(ood, int | float) else None
            age = options.get("adult_from_years")
            years = age if isinstance(age, int | float) else default.adult_from_years
            by_age = _numbers(options.get("age_thresholds")) or {}
            return Thresholds(policy_id, found, by_age, limit, years, labels.age_groups)
    if policy_id is not None and policy_id == default.policy_id:
        return Thresholds(
            policy_id,
            default.thresholds,
            default.own_age_thresholds,
            default.ood_threshold,
            default.adult_from_years,
        )
    return None


def _numbers(value: object) -> dict[str, float] | None:
    """Return a mapping of a summary to numbers, or None if it is no such mapping."""
    if isinstance(value, dict) and all(isinstance(one, int | float) for one in value.values()):
        return value
    return None


def _default_policy() -> Policy:
    from models.bundle import read_info
    from models.default_bundle import DEFAULT_BUNDLE

    info = read_info(DEFAULT_BUNDLE)
    return Policy().with_defaults(info.limits)

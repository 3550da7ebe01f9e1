"""Explain the decision about one image in words, with the values that decided it."""

from __future__ import annotations

from typing import Final

from transforms.config.decide_row import decide_from
from transforms.config.policy import Decision, Policy
from transforms.core.reasons import MEANINGS, Reason
from transforms.lake.probabilities import probabilities_of
from transforms.lake.schema import IndexRow
from transforms.lake.view_columns import views_of

SOURCE_NAMES: Final = {
    "body_part_region": "Body Part Examined",
    "coded_region": "Anatomic Region Sequence",
    "series_description_region": "Series Description",
    "protocol_name_region": "Protocol Name",
}
"""Elements by the column with the region that they claim."""


def explain_decision(row: IndexRow, policy: Policy) -> str:
    """Return why a row has its status: its values where a rule of the policy decided, else the meaning.

    Args:
        row: a row of the index.
        policy: the policy that decided, with a threshold for every label.
    """
    reason = Reason(str(row.reason))
    decision = _decision(row, policy)
    if decision is not None and row.confidence is not None:
        label, threshold = decision.decided_label, decision.threshold
        confidence = f"{label} {row.confidence:.4f}"
        if reason == Reason.CONFIDENT:
            return f"{confidence} reaches the threshold of {threshold:g}"
        if reason == Reason.SETTLED_BY_AGE:
            return (
                f"the pixels show {_either(policy)} ({row.confidence:.4f}, threshold {threshold:g}), "
                f"and {_age(row, policy)}: {label}"
            )
        if reason == Reason.AGE_CONTRADICTED:
            return f"{_age(row, policy)}: {label}; but the pixels show {row.predicted_label}"
        if reason == Reason.LOW_CONFIDENCE and decision.by_age:
            return (
                f"the pixels show {_either(policy)} ({row.confidence:.4f}), which is below the threshold "
                f"of {threshold:g} where an age decides{_combined(row)}"
            )
        if reason == Reason.LOW_CONFIDENCE:
            return f"{confidence} is below the threshold of {threshold:g}{_combined(row)}"
        if reason == Reason.SETTLED_BY_HEADER:
            return (
                f"the pixels leave the label open ({confidence}, threshold {threshold:g})"
                f"{_combined(row)}"
            )
    limit = policy.ood_threshold
    if reason == Reason.OUT_OF_DISTRIBUTION and row.ood_score is not None and limit is not None:
        return f"the OOD score of {row.ood_score:.2f} exceeds {limit:.2f}"
    if reason == Reason.VIEWS_DISAGREE and (line := views_line(row)) is not None:
        return line
    if reason == Reason.TOO_SMALL:
        side = max(row.rows or 0, row.columns or 0)
        return f"the longer side has {side} pixels, fewer than {policy.min_long_side}"
    return MEANINGS[reason].text


def views_line(row: IndexRow) -> str | None:
    """Return what the views of an image show, or None if it does not show two side by side."""
    views = views_of(row)
    if views is None:
        return None
    left, right = (f"{view.label} ({view.confidence:.4f})" for view in views)
    return f"two views side by side: the left one shows {left}, the right one {right}"


def claim_lines(row: IndexRow) -> list[str]:
    """Return a line for each element that claims a region."""
    return [
        f"{name} claims {claim}"
        for column, name in SOURCE_NAMES.items()
        if (claim := getattr(row, column)) is not None
    ]


def _decision(row: IndexRow, policy: Policy) -> Decision | None:
    """Return the decision about a row, with the label and threshold that `confidence` refers to."""
    probabilities = probabilities_of(row, policy.label_set.names)
    if probabilities is None:
        return None
    return decide_from(probabilities, row.ood_score or 0.0, views_of(row), row, policy)


def _either(policy: Policy) -> str:
    """Return what the labels of the age groups have in common."""
    groups = policy.label_set.age_groups
    regions = {policy.label_set.region_of(label) for label in groups or ()}
    region = regions.pop() if len(regions) == 1 else None
    return f"a {region.meaning.lower()}" if region else " or ".join(groups or ())


def _age(row: IndexRow, policy: Policy) -> str:
    age = row.patient_age_years or 0.0
    side = "at least" if age >= policy.adult_from_years else "below"
    return f"the patient's age of {age:g} years is {side} {policy.adult_from_years:g}"


def _combined(row: IndexRow) -> str:
    if row.combined_label is None or row.combined_confidence is None:
        return ""
    return (
        f"; {', '.join(claim_lines(row))}, which makes {row.combined_label} "
        f"{row.combined_confidence:.4f} by pixels and header together"
    )

"""Statistics of reports: confidence, risk against coverage, and drift."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.report.database import ReportData
from pipeline.report.queries import BY_MACHINE, CLASSIFIED
from transforms.core.reasons import Status
from transforms.lake.drift import population_stability_index, psi_by_chance

BINS: Final = 32
"""Bins of a histogram of confidences."""
CURVE_POINTS: Final = 100
PSI_MODERATE: Final = 0.1
PSI_LARGE: Final = 0.25
MIN_COMPARED: Final = 20
"""Images that each side of a comparison must have."""
DECIDED_LABEL: Final = (
    f"CASE WHEN status = '{Status.ROUTED}' THEN destination ELSE predicted_label END"
)


@dataclass(frozen=True)
class Histogram:
    """Confidences of the images of one label, by bins of equal width from `lowest` to 1.

    Attributes:
        label: label that was decided, or is the most probable one of an image in review.
        routed: number of routed images by bin.
        review: number of images in review by bin.
        threshold: minimum confidence of a routed image; None if it is unknown.
        lowest: the lowest confidence that the most probable label can have, 0..1.
    """

    label: str
    routed: tuple[int, ...]
    review: tuple[int, ...]
    threshold: float | None
    lowest: float


@dataclass(frozen=True)
class RiskCurve:
    """Error against coverage, if images are routed in order of their confidence.

    Attributes:
        coverage: shares of the images, ascending, in (0, 1].
        risk: share of errors among the most confident images up to each coverage.
        images: number of images.
    """

    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    images: int

    def at(self, coverage: float) -> float:
        """Return the risk at the first point that reaches a coverage."""
        return next(
            (r for c, r in zip(self.coverage, self.risk, strict=True) if c >= coverage - 1e-9),
            self.risk[-1],
        )


@dataclass(frozen=True)
class Drift:
    """How the distribution of one quantity differs from the baseline.

    Attributes:
        name: what is compared.
        bins: names of the bins.
        baseline: shares of the baseline by bin.
        current: shares by bin.
        psi: population stability index: sum of (p - q) ln(p / q) over the bins.
        chance: value that two samples of these sizes from one distribution exceed in 5 % of all cases.
    """

    name: str
    bins: tuple[str, ...]
    baseline: tuple[float, ...]
    current: tuple[float, ...]
    psi: float
    chance: float

    @property
    def reading(self) -> str:
        """The usual reading of the index: stable, chance, moderate or large."""
        if self.psi < PSI_MODERATE:
            return "stable"
        if self.psi <= self.chance:
            return "chance"
        return "moderate" if self.psi <= PSI_LARGE else "large"


def histograms(data: ReportData, thresholds: dict[str, float]) -> list[Histogram]:
    """Return a histogram of confidences for each label; images that a person decided are left out."""
    labels = data.labels.names
    lowest = 1 / len(labels)
    found = data.fetch(
        f"""
        SELECT {DECIDED_LABEL} AS label, status = '{Status.ROUTED}' AS is_routed,
            least(greatest(floor((confidence - $low) / (1 - $low) * $bins), 0), $bins - 1)::INT AS bin,
            count(*) AS images
        FROM images WHERE {CLASSIFIED} AND {BY_MACHINE} GROUP BY ALL""",
        {"low": lowest, "bins": BINS},
    )
    counts = {(row["label"], row["is_routed"], row["bin"]): row["images"] for row in found}
    present = {row["label"] for row in found}

    def of(label: str, *, is_routed: bool) -> tuple[int, ...]:
        return tuple(counts.get((label, is_routed, number), 0) for number in range(BINS))

    return [
        Histogram(
            label,
            of(label, is_routed=True),
            of(label, is_routed=False),
            thresholds.get(label),
            lowest,
        )
        for label in labels
        if label in present
    ]


def expected_risk(data: ReportData) -> RiskCurve | None:
    """Return the risk that the calibrated confidences expect; None without images.

    Images that a person decided are left out.
    """
    return _risk_curve(
        data,
        "SELECT confidence, 1 - confidence AS error FROM images "
        f"WHERE {CLASSIFIED} AND {BY_MACHINE}",
    )


def observed_risk(data: ReportData) -> RiskCurve | None:
    """Return the risk by the labels of reviewers (the table `labels`); None with fewer than 20."""
    curve = _risk_curve(
        data,
        """SELECT confidence,
            (coalesce(labels.predicted_label, images.predicted_label) <> answer)::INT AS error
        FROM images JOIN labels USING (content_sha256)
        WHERE confidence IS NOT NULL AND isfinite(confidence)""",
    )
    return None if curve is None or curve.images < MIN_COMPARED else curve


def _risk_curve(data: ReportData, images: str) -> RiskCurve | None:
    found = data.fetch(
        f"""
        WITH ordered AS (
            SELECT row_number() OVER ranked AS number, avg(error) OVER ranked AS risk,
                count(*) OVER () AS images
            FROM ({images}) WINDOW ranked AS
                (ORDER BY confidence DESC, error DESC ROWS UNBOUNDED PRECEDING)
        )
        SELECT number / images AS coverage, risk, images FROM ordered
        WHERE number = images
            OR floor(number * $points / images) > floor((number - 1) * $points / images)
        ORDER BY number""",
        {"points": CURVE_POINTS},
    )
    if not found:
        return None
    return RiskCurve(
        tuple(row["coverage"] for row in found),
        tuple(max(0.0, row["risk"]) for row in found),
        found[0]["images"],
    )


def drift(data: ReportData, current: str, baseline: str) -> list[Drift]:
    """Return the drift of destinations, confidences and OOD scores.

    Args:
        data: the data.
        current: query of the images with the columns of `database.BASELINE_COLUMNS`.
        baseline: query of the images of the baseline.

    Returns:
        A value for each quantity of which both sides have at least `MIN_COMPARED` images.
    """
    found = [_drift_of_destinations(data, current, baseline)]
    for column, name in (("confidence", "confidence"), ("ood_score", "OOD score")):
        found.append(_drift_of_values(data, current, baseline, column, name))
    return [one for one in found if one is not None]


def _drift_of_destinations(data: ReportData, current: str, baseline: str) -> Drift | None:
    counts = "SELECT destination, count(*) AS images FROM ({}) GROUP BY 1"
    rows = data.fetch(f"""
        SELECT destination, coalesce(b.images, 0) AS before, coalesce(c.images, 0) AS now
        FROM ({counts.format(baseline)}) b FULL JOIN ({counts.format(current)}) c USING (destination)
        WHERE destination IS NOT NULL ORDER BY 1""")
    names = [str(row["destination"]) for row in rows]
    return _compare(
        "destination", names, [row["before"] for row in rows], [row["now"] for row in rows]
    )


def _drift_of_values(
    data: ReportData, current: str, baseline: str, column: str, name: str
) -> Drift | None:
    is_known = f"{column} IS NOT NULL AND isfinite({column})"
    quantiles = [number / 10 for number in range(1, 10)]
    (edges,) = data.db.execute(
        f"SELECT quantile_disc({column}::DOUBLE, {quantiles}) FROM ({baseline}) WHERE {is_known}"
    ).fetchall()[0]
    if not edges:
        return None
    edges = sorted(set(edges))

    def counts(images: str) -> list[int]:
        sums = ", ".join(f"count(*) FILTER ({column}::DOUBLE > {edge!r}::DOUBLE)" for edge in edges)
        above = data.db.execute(
            f"SELECT count(*), {sums} FROM ({images}) WHERE {is_known}"
        ).fetchall()[0]
        return [more - less for more, less in zip(above, (*above[1:], 0), strict=True)]

    texts = [f"{edge:.3g}" for edge in edges]
    bins = [f"up to {texts[0]}", *(f"{a} to {b}" for a, b in itertools.pairwise(texts))]
    return _compare(name, [*bins, f"above {texts[-1]}"], counts(baseline), counts(current))


def _compare(
    name: str, bins: Sequence[str], baseline: Sequence[int], current: Sequence[int]
) -> Drift | None:
    before, now = sum(baseline), sum(current)
    if min(before, now) < MIN_COMPARED:
        return None
    return Drift(
        name,
        tuple(bins),
        tuple(count / before for count in baseline),
        tuple(count / now for count in current),
        population_stability_index(current, baseline),
        psi_by_chance(len(bins), now, before),
    )


def wilson_interval(successes: int, number: int) -> tuple[float, float]:
    """Return the 95 % interval of a share by Wilson's score; (0, 1) if the number is 0."""
    if not number:
        return 0.0, 1.0
    z = 1.959963984540054
    share = successes / number
    centre = share + z * z / (2 * number)
    spread = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    scale = 1 + z * z / number
    return (
        (centre - spread) / scale if successes else 0.0,
        (centre + spread) / scale if successes < number else 1.0,
    )


def summary_of_confidence(data: ReportData) -> dict[str, Any]:
    """Return the numbers of classified images, of those that people decided, and of the others routed.

    `expected_error` is the share of errors expected of the images that are routed without a person.
    """
    routed = f"status = '{Status.ROUTED}' AND {BY_MACHINE}"
    return data.one(f"""
        SELECT count(*) AS images, count(*) FILTER (NOT {BY_MACHINE}) AS by_person,
            count(*) FILTER ({routed}) AS routed,
            avg(1 - confidence) FILTER ({routed}) AS expected_error
        FROM images WHERE {CLASSIFIED}""")

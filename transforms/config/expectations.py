"""What a policy expects of a complete run, and the check of what it found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from typing import Any, Final

import pyarrow.compute as pc

from transforms.core.reasons import FORGOTTEN, UNCHANGED, Status
from transforms.lake.drift import Drift, measure_drift, read_predictions
from transforms.lake.layout import Layout
from transforms.lake.run_counts import RunCounts
from transforms.lake.schema import is_of_run

KEY: Final = "expect"
"""Key of the policy file."""
INSPECT: Final = (
    "look at them with 'dicom-router report {lake}'; most often a new device, codec or export is the "
    "cause"
)


@dataclass(frozen=True)
class DriftExpectation:
    """The largest drift that is expected.

    Attributes:
        max_psi: maximum PSI of predicted labels, confidences and OOD scores; None does not check drift.
        baseline_days: number of days before the day of the run whose rows are the baseline.
        baseline: first and last day of a fixed baseline, YYYY-MM-DD; None takes `baseline_days`.
        min_images: minimum number of images of the run and of the baseline with which drift is checked.
    """

    max_psi: float | None = None
    baseline_days: int = 28
    baseline: tuple[str, str] | None = None
    min_images: int = 200

    def days(self, day: str) -> tuple[str, str]:
        """Return the first and last day of the baseline of a run on a day, YYYY-MM-DD."""
        if self.baseline is not None:
            return self.baseline
        of_run = date.fromisoformat(day)
        first = of_run - timedelta(days=self.baseline_days)
        return first.isoformat(), of_run.isoformat()


@dataclass(frozen=True)
class Expectations:
    """What a complete run is expected to find. None checks nothing.

    Shares are of the objects that the run has decided, without duplicates.

    Attributes:
        min_objects: minimum number of objects that the inputs list, ingested before or not.
        min_new_objects: minimum number of objects that the lake did not have before.
        max_review_share: maximum share of review among radiographs, 0..1.
        max_quarantine_share: maximum share of quarantined objects, 0..1.
        max_header_disagreement_share: maximum share of disagreement among images whose header names a
            label, 0..1.
        min_sample: minimum number of objects of which a share is checked.
        not_all_quarantined: whether it is unexpected that a run quarantines all of its objects, however
            few.
        drift: the largest drift.
    """

    min_objects: int | None = None
    min_new_objects: int | None = None
    max_review_share: float | None = None
    max_quarantine_share: float | None = None
    max_header_disagreement_share: float | None = None
    min_sample: int = 20
    not_all_quarantined: bool = True
    drift: DriftExpectation = field(default_factory=DriftExpectation)


@dataclass(frozen=True)
class Checked:
    """An expectation, and what a run found.

    Attributes:
        key: path of the expectation in the policy file.
        limit: value of the expectation.
        found: value of the run; None if there was too little to check.
        sample: number of objects that `found` describes.
        met: whether the expectation is met; True if there was too little to check.
        text: what was expected, what was found and, unless it is met, what to do.
    """

    key: str
    limit: float
    found: float | None
    sample: int
    met: bool
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return the content as in a run summary."""
        return asdict(self)


def check_counts(expected: Expectations, counts: RunCounts, lake: str) -> list[Checked]:
    """Return the expectations about numbers of objects, and whether the counts of a run meet them.

    Args:
        expected: the expectations.
        counts: counts of the run.
        lake: root of the lake, for the remedy.
    """
    return [*_check_numbers(expected, counts), *check_shares(expected, counts, lake)]


def check_shares(expected: Expectations, counts: RunCounts, lake: str) -> list[Checked]:
    """Return the expectations about shares, as `check_counts`; also of a stream that still runs."""
    return list(_check_shares(expected, counts, lake))


def check_drift(
    expected: DriftExpectation, layout: Layout, run_id: str, day: str
) -> Checked | None:
    """Return the expectation about drift, and whether a run meets it; None if there is none.

    Args:
        expected: the expectation.
        layout: the lake, with the rows of the run.
        run_id: id of the run.
        day: day on which the run started, YYYY-MM-DD.

    Raises:
        DamagedFile: an index file cannot be read.
        OSError: the index cannot be listed.
    """
    if expected.max_psi is None:
        return None

    first, last = expected.days(day)
    sample = read_predictions(
        layout, lambda _: True, lambda rows: rows.filter(is_of_run(rows["run_id"], run_id))
    )
    baseline = read_predictions(
        layout,
        lambda partition: first <= partition <= last,
        lambda rows: rows.filter(pc.invert(is_of_run(rows["run_id"], run_id))),
    )
    smaller = min(len(sample), len(baseline))
    limit, key = expected.max_psi, f"{KEY}.drift.max_psi"
    since = f"the rows of {first} to {last}"
    if smaller < max(1, expected.min_images):
        text = (
            f"drift ({key}) was not checked: the run has {len(sample)} images and the baseline, {since}, "
            f"{len(baseline)}; {expected.min_images} are needed ({KEY}.drift.min_images)"
        )
        return Checked(key, limit, None, smaller, True, text)
    return _check_drift(measure_drift(sample, baseline), limit, key, since, layout.root)


def _check_drift(drift: Drift, limit: float, key: str, since: str, lake: str) -> Checked:
    name, psi = drift.largest
    met = psi <= max(limit, drift.by_chance[name])
    text = (
        f"expected a drift of at most {limit:g} PSI against {since} ({key}), found {psi:.2f} in {name} "
        f"({drift.images} images against {drift.baseline_images})"
    )
    if not met:
        text += (
            f"; compare both with 'dicom-router report {lake}': other devices, examinations or another "
            "model explain it, or the images are damaged"
        )
    return Checked(key, limit, round(psi, 4), drift.images, met, text)


def _check_numbers(expected: Expectations, counts: RunCounts) -> Iterator[Checked]:
    discovered = counts.counts["discovered"]
    new = discovered - counts.counts[UNCHANGED] - counts.counts[FORGOTTEN]
    for key, limit, found, what in (
        ("min_objects", expected.min_objects, discovered, "objects"),
        ("min_new_objects", expected.min_new_objects, new, "new objects"),
    ):
        if limit is not None:
            text = f"expected at least {limit} {what} ({KEY}.{key}), found {found}"
            if found < limit:
                text += "; check that the senders, and the copy into the input, have run"
            yield Checked(f"{KEY}.{key}", limit, found, discovered, found >= limit, text)


def _check_shares(expected: Expectations, counts: RunCounts, lake: str) -> Iterator[Checked]:
    number = counts.counts
    radiographs = number[Status.ROUTED] + number[Status.REVIEW]
    decided = radiographs + number[Status.NOT_XRAY] + number[Status.QUARANTINED]
    compared = counts.headers["agree"] + counts.headers["disagree"]
    why = INSPECT.format(lake=lake)
    review = (
        f"see why with 'dicom-router report {lake}', decide them with 'dicom-router review {lake}'"
    )
    for key, limit, found, of, what in (
        ("max_review_share", expected.max_review_share, number[Status.REVIEW], radiographs,
         ("of the radiographs in review", review)),
        ("max_quarantine_share", expected.max_quarantine_share, number[Status.QUARANTINED], decided,
         ("of the objects quarantined", why)),
        ("max_header_disagreement_share", expected.max_header_disagreement_share,
         counts.headers["disagree"], compared,
         ("of the images with a header that disagrees with the pixels", why)),
    ):  # fmt: skip
        if limit is not None:
            yield _check_share(f"{KEY}.{key}", limit, found, of, expected.min_sample, *what)
    if expected.not_all_quarantined and decided:
        quarantined = number[Status.QUARANTINED]
        met = quarantined < decided
        text = (
            f"expected some objects that are not quarantined ({KEY}.not_all_quarantined), found "
            f"{decided - quarantined} of {decided}"
        )
        text += "" if met else f"; {why}"
        yield Checked(f"{KEY}.not_all_quarantined", 1.0, quarantined / decided, decided, met, text)


def _check_share(
    key: str, limit: float, found: int, of: int, min_sample: int, what: str, remedy: str
) -> Checked:
    if of < max(1, min_sample):
        text = (
            f"the share {what} ({key}) was not checked: {of} objects, {min_sample} are needed "
            f"({KEY}.min_sample)"
        )
        return Checked(key, limit, None, of, True, text)
    share = found / of
    met = share <= limit
    text = f"expected at most {limit:.1%} {what} ({key}), found {share:.1%} ({found} of {of})"
    return Checked(key, limit, round(share, 6), of, met, text if met else f"{text}; {remedy}")

"""Drift of a lake's predictions between two sets of rows, as population stability index (PSI).

PSI is the sum over bins of (p - q) ln(p / q), where q and p are the shares of a bin in the baseline and
in the sample (Siddiqi, Credit Risk Scorecards, 2006). By convention, values below 0.1 are no drift, those
above 0.25 a considerable one. Two samples of one distribution differ too, by `psi_by_chance`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.reasons import Status
from transforms.lake.index_files import open_index_file, read_batches, read_index
from transforms.lake.layout import Layout, partition_of

BINS: Final = 10
"""Bins of a continuous value: deciles of the baseline."""
PSEUDOCOUNT: Final = 0.5
"""Added to the number of values of each bin, since PSI is infinite where a bin is empty."""
_Z_95: Final = 1.6448536269514722
DRIFT_COLUMNS: Final = ("status", "run_id", "predicted_label", "confidence", "ood_score")

Counts = npt.NDArray[np.float64]
RowFilter = Callable[[pa.Table], pa.Table]
"""Selects rows of an index file, given its partition, YYYY-MM-DD."""


@dataclass(frozen=True)
class Predictions:
    """What a model predicted for several images.

    Attributes:
        labels: number of images by predicted label.
        confidence: confidences, float64[n], 0..1.
        ood_score: OOD scores, float64[m].
    """

    labels: Counter[str]
    confidence: Counts
    ood_score: Counts

    @classmethod
    def of_tables(cls, tables: Iterable[pa.Table]) -> Predictions:
        """Return the predictions in rows of classified images, which have at least `DRIFT_COLUMNS`."""
        labels: Counter[str] = Counter()
        confidence, scores = [np.empty(0)], [np.empty(0)]
        for table in tables:
            images = table.filter(
                pc.is_in(table["status"], value_set=pa.array([Status.ROUTED, Status.REVIEW]))
            )
            for found in pc.value_counts(images["predicted_label"].drop_null()).to_pylist():
                labels[found["values"]] += found["counts"]
            confidence.append(_values(images["confidence"]))
            scores.append(_values(images["ood_score"]))
        return cls(labels, np.concatenate(confidence), np.concatenate(scores))

    def __len__(self) -> int:
        return self.labels.total()


@dataclass(frozen=True)
class Drift:
    """The drift of a sample against a baseline.

    Attributes:
        images: number of images in the sample.
        baseline_images: number of images in the baseline.
        psi: PSI by quantity: predicted_label, confidence, ood_score; 0 or more.
        by_chance: PSI that samples of these sizes exceed in 5 % of all cases, by quantity.
    """

    images: int
    baseline_images: int
    psi: dict[str, float]
    by_chance: dict[str, float]

    @property
    def largest(self) -> tuple[str, float]:
        """The quantity that exceeds chance the most, and its PSI."""
        name = max(self.psi, key=lambda one: self.psi[one] - self.by_chance[one])
        return name, self.psi[name]


def measure_drift(sample: Predictions, baseline: Predictions) -> Drift:
    """Return the drift of a sample; both have at least one image."""
    names = sorted({*sample.labels, *baseline.labels})
    counts = {
        "predicted_label": (
            np.array([sample.labels[name] for name in names], float),
            np.array([baseline.labels[name] for name in names], float),
        )
    }
    for name in ("confidence", "ood_score"):
        values, reference = getattr(sample, name), getattr(baseline, name)
        if len(values) and len(reference):
            edges = decile_edges(reference)
            counts[name] = count_in_bins(values, edges), count_in_bins(reference, edges)
    return Drift(
        len(sample),
        len(baseline),
        {name: population_stability_index(*pair) for name, pair in counts.items()},
        {
            name: psi_by_chance(len(n), int(n.sum()), int(m.sum()))
            for name, (n, m) in counts.items()
        },
    )


def population_stability_index(sample: npt.ArrayLike, baseline: npt.ArrayLike) -> float:
    """Return the PSI of the numbers of values in the same bins of a sample and of a baseline."""
    shares = []
    for counts in (sample, baseline):
        smoothed = np.asarray(counts, float) + PSEUDOCOUNT
        shares.append(smoothed / smoothed.sum())
    p, q = shares
    return float(np.sum((p - q) * np.log(p / q)))


def psi_by_chance(bins: int, sample: int, baseline: int) -> float:
    """Return the 95th percentile of the PSI of two samples of one distribution, given their sizes.

    It is chi-squared with bins - 1 degrees of freedom, times (1/n + 1/m) (B. Yurdakul and J. Naranjo,
    "Statistical properties of the population stability index", 2020), by the approximation of Wilson and
    Hilferty.
    """
    degrees = max(bins - 1, 1)
    cube_root = 1 - 2 / (9 * degrees) + _Z_95 * math.sqrt(2 / (9 * degrees))
    return float(degrees * cube_root**3 * (1 / sample + 1 / baseline))


def decile_edges(values: npt.ArrayLike) -> Counts:
    """Return the distinct inner edges of the deciles of values, at most 9, ascending."""
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    edges: Counts = np.unique(np.quantile(np.asarray(values, float), inner))
    return edges


def count_in_bins(values: npt.ArrayLike, edges: Counts) -> Counts:
    """Return the number of values in each of the len(edges) + 1 bins between inner edges."""
    bins = np.searchsorted(edges, np.asarray(values, float), side="right")
    return np.bincount(bins, minlength=len(edges) + 1).astype(float)


def read_predictions(
    layout: Layout, wants_partition: Callable[[str], bool], select: RowFilter
) -> Predictions:
    """Return the predictions in the current rows of a lake.

    Args:
        layout: the lake.
        wants_partition: whether the rows of a day, YYYY-MM-DD, are read.
        select: selects rows.

    Raises:
        DamagedFile: an index file cannot be read.
        OSError: the index cannot be listed.
    """

    def read(files: list[str]) -> Predictions:
        def tables() -> Iterable[pa.Table]:
            for uri in files:
                if not wants_partition(partition_of(uri)):
                    continue
                with open_index_file(uri) as file:
                    for table in read_batches(file, DRIFT_COLUMNS):
                        yield select(table)

        return Predictions.of_tables(tables())

    return read_index(layout, read)


def _values(column: pa.ChunkedArray) -> Counts:
    values: Counts = column.drop_null().cast(pa.float64()).to_numpy()
    return values[np.isfinite(values)]

"""Anatomic regions that a model predicts, finer than the labels, such as the knee among `others`."""

from __future__ import annotations

from typing import NamedTuple


class PredictedRegion(NamedTuple):
    """A region that a model predicts, consistent with the label that it predicts.

    Attributes:
        name: as `transforms.core.labels.NAME_PATTERN` allows; part of the names of objects.
        confidence: calibrated probability, 0..1.
        code: SNOMED CT code, or None.
    """

    name: str
    confidence: float
    code: str | None

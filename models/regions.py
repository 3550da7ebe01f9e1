"""Choose the region of an image from the output of a bundle's second head."""

from __future__ import annotations

from collections.abc import Sequence

from models.bundle import RegionsInfo
from transforms.core.regions import PredictedRegion


def choose_region(
    info: RegionsInfo | None, probabilities: Sequence[float], predicted_label: str
) -> PredictedRegion | None:
    """Return the most probable region, or None if the model is unsure.

    It is unsure if the probability is below the threshold, or if the region is not one of the predicted
    label: then the two heads contradict each other.

    Args:
        info: of the second head; None gives None.
        probabilities: of the regions, in order.
        predicted_label: label with the highest probability.
    """
    if info is None:
        return None
    confidence, region = max(zip(probabilities, info.regions, strict=True), key=lambda one: one[0])
    if confidence < info.threshold or predicted_label not in region.labels:
        return None
    return PredictedRegion(region.name, confidence, region.code)

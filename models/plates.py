"""Plates: an image of two views is classified by its views, as an ensemble is by its members.

The mean of the views' logits decides: a view that leaves the label open has little weight. As an image's
logits divided by the temperature are, up to a constant, the logarithms of its probabilities, that is the
normalized geometric mean of the probabilities, a logarithmic opinion pool (Genest and Zidek 1986,
"Combining Probability Distributions"). The OOD score is that of the view that is least like the training
images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from models.inference import Outputs, Thumbnail
from transforms.imaging.plates import IMAGES_OF_PLATE
from transforms.lake.view_columns import View, Views

F = TypeVar("F", np.float32, np.float64)
_TINY: Final = float(np.finfo(np.float32).tiny)


class Classified(NamedTuple):
    """The output of a network for one image.

    Attributes:
        values: float32[n_labels + 1 + n_regions] of the image, or of its views together.
        views: of a plate, else None.
    """

    values: Outputs
    views: Views | None


def parts_of(image: Thumbnail) -> list[Thumbnail]:
    """Return what is classified of an image: its views if it is a plate, else the whole.

    Args:
        image: as `transforms.imaging.plates.network_inputs` returns it.

    Returns:
        uint8[1, S, S] each.
    """
    if getattr(image, "shape", ())[:1] != (IMAGES_OF_PLATE,):
        return [image]
    return [image[1:2], image[2:3]]


def combine(outputs: npt.NDArray[np.float32], labels: Sequence[str]) -> Classified:
    """Return the output for an image from those for its parts.

    Args:
        outputs: float32[1 or 2, n_labels + 1 + n_regions] of the parts; see
            `BodyPartClassifier.forward_with_regions`.
        labels: of the network.
    """
    if len(outputs) == 1:
        return Classified(outputs[0], None)
    chances, scores, of_regions = np.split(outputs, (len(labels), len(labels) + 1), axis=1)
    values = np.concatenate((pool(chances), scores.max(axis=0), pool(of_regions)))
    best = chances.argmax(axis=1)
    left, right = (View(labels[i], float(own[i])) for own, i in zip(chances, best, strict=True))
    return Classified(values, Views(left, right))


def pool(chances: npt.NDArray[F]) -> npt.NDArray[F]:
    """Return the normalized geometric mean of probabilities, float[..., n], for float[..., parts, n]."""
    mean = np.exp(np.log(np.maximum(chances, _TINY)).mean(axis=-2))
    return np.asarray(mean / mean.sum(axis=-1, keepdims=True))

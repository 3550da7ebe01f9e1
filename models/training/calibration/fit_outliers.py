"""Fit the outlier logit of `models.ood_vim`: training images against generated outliers."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.networks import BodyPartClassifier
from models.ood_vim import VirtualLogit
from models.training.data.outliers import shuffle_tiles, synthetic_outlier
from models.training.evaluation.predict import predict_features
from models.weights import round_to_stored
from transforms.imaging.preprocessing import preprocess

MAX_OUTLIERS: Final = 2000
TILES_SHARE: Final = 0.2
"""Share of the outliers that are training images with shuffled tiles."""
OUTLIER_SIDE: Final = 192
"""Side of a generated outlier before preprocessing, in pixels."""
INVERSE_PENALTY: Final = 0.01
"""`C` of scikit-learn's logistic regression on standardized features."""
HIGH: Final = 0.98
"""Quantile of validation images that virtual logit and outlier logit have in common."""
MIN_SPREAD: Final = 1e-3


def fit_outlier_logit(
    network: BodyPartClassifier, ood: VirtualLogit, train: Tensor, val: Tensor
) -> VirtualLogit:
    """Return an OOD score with an outlier logit, rounded as bundles store it.

    A logistic regression on the frozen features, scaled so that median and `HIGH` quantile of the
    validation images are those of the virtual logit: then neither of the two dominates their maximum.

    Args:
        network: in evaluation mode.
        ood: its virtual logit.
        train: uint8[N, 1, S, S], training images.
        val: uint8[M, 1, S, S], validation images.
    """
    from sklearn.linear_model import LogisticRegression

    ordinary = predict_features(network, train)
    unusual = predict_features(network, _outliers(train))
    mean, deviation = ordinary.mean(0), np.maximum(ordinary.std(0), MIN_SPREAD)
    standardized = (np.concatenate((ordinary, unusual)) - mean) / deviation
    is_outlier = np.arange(len(standardized)) >= len(ordinary)
    regression = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=500)
    regression.fit(standardized, is_outlier)
    weight = regression.coef_[0] / deviation
    features = predict_features(network, val)
    logits = features @ weight
    with torch.inference_mode():
        virtual = VirtualLogit(ood.mean, ood.axes, ood.scale)
        scores = virtual(torch.from_numpy(features), network.backbone.get_classifier()).numpy()
    (median, high), (own_median, own_high) = (
        np.quantile(values, (0.5, HIGH)) for values in (scores, logits)
    )
    factor = (high - median) / max(own_high - own_median, MIN_SPREAD)
    fitted = {
        "outlier_weight": torch.tensor(factor * weight, dtype=torch.float32),
        "outlier_bias": torch.tensor(median - factor * own_median, dtype=torch.float32),
    }
    return VirtualLogit(ood.mean, ood.axes, ood.scale, **round_to_stored(fitted))


def _outliers(train: Tensor) -> Tensor:
    """Return generated outliers and shuffled training images, uint8[K, 1, S, S]; the same each time."""
    rng = np.random.default_rng(0)
    side, number = train.shape[-1], min(MAX_OUTLIERS, len(train))
    of_tiles = round(TILES_SHARE * number)
    made: list[npt.NDArray[np.uint8]] = [
        preprocess(synthetic_outlier(rng, OUTLIER_SIDE), side) for _ in range(number - of_tiles)
    ]
    shuffled = [train[index].numpy() for index in rng.integers(0, len(train), of_tiles)]
    return torch.from_numpy(np.stack(made + [shuffle_tiles(image, rng) for image in shuffled]))

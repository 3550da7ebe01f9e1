"""Fit the outlier logit of `models.ood_vim`: training images against images that are not radiographs."""

from __future__ import annotations

import copy
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.fused import fuse
from models.networks import BodyPartClassifier
from models.ood_vim import VirtualLogit
from models.training.data.augmentation import augment
from models.training.data.outlier_folder import OutlierImages
from models.training.data.outliers import shuffle_tiles, synthetic_outlier
from models.training.evaluation.predict import predict_features
from models.weights import round_to_stored
from transforms.imaging.preprocessing import preprocess

MAX_OUTLIERS: Final = 2000
"""Maximum number of generated outliers, and of variants of a folder's images."""
TILES_SHARE: Final = 0.2
"""Share of the generated outliers that are training images with shuffled tiles."""
AUGMENTED_SHARE: Final = 0.5
"""Augmented training images for each training image: what other sites' radiographs may look like."""
MAX_AUGMENTED: Final = 1500
OUTLIER_SIDE: Final = 192
"""Side of a generated outlier before preprocessing, in pixels."""
INVERSE_PENALTY: Final = 0.001
"""`C` of scikit-learn's logistic regression on standardized features."""
MIN_SPREAD: Final = 1e-3

Inputs: TypeAlias = list[npt.NDArray[np.uint8]]


def fit_outlier_logit(
    network: BodyPartClassifier,
    ood: VirtualLogit,
    train: Tensor,
    val: Tensor,
    folder: OutlierImages | None = None,
) -> VirtualLogit:
    """Return an OOD score with an outlier logit, rounded as bundles store it.

    A logistic regression on the frozen features, scaled so that on validation images its mean is 0 and
    its standard deviation that of the virtual logit: then neither of the two dominates their sum.

    Args:
        network: in evaluation mode.
        ood: its virtual logit.
        train: uint8[N, 1, S, S], training images.
        val: uint8[M, 1, S, S], validation images.
        folder: images that are not radiographs, in addition to the generated ones.
    """
    from sklearn.linear_model import LogisticRegression

    layer = network.backbone.get_classifier()
    if network.device.type == "cpu":
        network = copy.deepcopy(network)
        fuse(network, train.shape[-1])
    originals = predict_features(network, train)
    ordinary = np.concatenate((originals, predict_features(network, _augmented(train))))
    unusual = predict_features(network, _outliers(train, folder))
    mean, deviation = originals.mean(0), np.maximum(originals.std(0), MIN_SPREAD)
    standardized = (np.concatenate((ordinary, unusual)) - mean) / deviation
    is_outlier = np.arange(len(standardized)) >= len(ordinary)
    regression = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=500)
    regression.fit(standardized, is_outlier)
    weight = regression.coef_[0] / deviation
    features = predict_features(network, val)
    logits = features @ weight
    with torch.inference_mode():
        virtual = VirtualLogit(ood.mean, ood.axes, ood.scale)
        scores = virtual(torch.from_numpy(features), layer).numpy()
    factor = scores.std() / max(logits.std(), MIN_SPREAD)
    fitted = {
        "added_weight": torch.tensor(factor * weight, dtype=torch.float32),
        "added_bias": torch.tensor(-factor * logits.mean(), dtype=torch.float32),
    }
    return VirtualLogit(ood.mean, ood.axes, ood.scale, **round_to_stored(fitted))


def _augmented(train: Tensor) -> Tensor:
    """Return variants of training images, uint8[K, 1, S, S]; the same each time."""
    rng = np.random.default_rng(1)
    number = min(MAX_AUGMENTED, max(1, round(AUGMENTED_SHARE * len(train))))
    chosen = rng.choice(len(train), number, replace=False)
    side = train.shape[-1]
    return _stack([preprocess(augment(train[n, 0].numpy(), rng), side) for n in chosen.tolist()])


def _outliers(train: Tensor, folder: OutlierImages | None) -> Tensor:
    """Return outliers, uint8[K, 1, S, S]; the same each time.

    Generated ones, training images with shuffled tiles, and variants of the images of a folder.
    """
    rng = np.random.default_rng(0)
    side, number = train.shape[-1], min(MAX_OUTLIERS, len(train))
    of_tiles = round(TILES_SHARE * number)
    made: Inputs = [
        preprocess(synthetic_outlier(rng, OUTLIER_SIDE), side) for _ in range(number - of_tiles)
    ]
    shuffled = [train[index].numpy() for index in rng.integers(0, len(train), of_tiles)]
    made += [shuffle_tiles(image, rng) for image in shuffled]
    if folder is not None:
        made += [preprocess(folder.variant(rng), side) for _ in range(number)]
    return _stack(made)


def _stack(images: Inputs) -> Tensor:
    return torch.from_numpy(np.stack(images))

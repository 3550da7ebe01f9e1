"""Fit the outlier logit of `models.ood_vim`: training images against images that are not radiographs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.fused import fuse
from models.networks import BodyPartClassifier
from models.ood_vim import VirtualLogit
from models.training.data.augmentation import augment
from models.training.data.outlier_folder import OutlierImages
from models.training.data.outliers import shuffle_tiles, synthetic_outlier
from models.training.evaluation.predict import predict_pooled
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
RELATIVE_SPREAD: Final = 2.0
"""Standard deviation of the outlier logit on validation images, relative to that of the virtual logit."""

Inputs: TypeAlias = list[npt.NDArray[np.uint8]]
Reals: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OutlierExamples:
    """What the outlier logit is fitted on: features and statistics as `predict_pooled` returns them.

    Attributes:
        train: float32[N, F + S], training images.
        augmented: float32[*, F + S], some of them augmented.
        generated: float32[*, F + S], generated outliers and shuffled tiles.
        val: float32[*, F + S], validation images.
    """

    train: Reals
    augmented: Reals
    generated: Reals
    val: Reals


def fit_outlier_logit(
    network: BodyPartClassifier,
    ood: VirtualLogit,
    train: Tensor,
    val: Tensor,
    folder: OutlierImages | None = None,
) -> VirtualLogit:
    """Return an OOD score with an outlier logit, rounded as bundles store it.

    Args:
        network: in evaluation mode.
        ood: its virtual logit.
        train: uint8[N, 1, S, S], training images.
        val: uint8[M, 1, S, S], validation images.
        folder: images that are not radiographs, in addition to the generated ones.
    """
    layer = network.backbone.get_classifier()
    if network.device.type == "cpu":
        network = copy.deepcopy(network)
        fuse(network, train.shape[-1])
    examples = pool_examples(network, train, val)
    of_folder = None
    if folder is not None:
        images = variants(folder, outlier_count(train), train.shape[-1])
        of_folder = predict_pooled(network, images)
    return fit_to_examples(ood, layer, examples, of_folder)


def pool_examples(network: BodyPartClassifier, train: Tensor, val: Tensor) -> OutlierExamples:
    """Return the examples that need no folder; see `fit_outlier_logit`."""
    return OutlierExamples(
        *(predict_pooled(network, of) for of in (train, _augmented(train), _generated(train), val))
    )


def fit_to_examples(
    ood: VirtualLogit, layer: nn.Module, examples: OutlierExamples, of_folder: Reals | None
) -> VirtualLogit:
    """Return an OOD score with an outlier logit, rounded as bundles store it.

    A logistic regression on the frozen features and, if the backbone gives its stages, on their
    statistics, scaled so that on validation images its mean is 0 and its standard deviation
    `RELATIVE_SPREAD` times that of the virtual logit.

    Args:
        ood: the virtual logit of the network.
        layer: maps its features to logits.
        examples: see there.
        of_folder: float32[*, F + S], other images that are not radiographs.
    """
    from sklearn.linear_model import LogisticRegression

    ordinary = np.concatenate((examples.train, examples.augmented))
    unusual = [examples.generated] if of_folder is None else [examples.generated, of_folder]
    mean = examples.train.mean(0)
    deviation = np.maximum(examples.train.std(0), MIN_SPREAD)
    standardized = (np.concatenate((ordinary, *unusual)) - mean) / deviation
    is_outlier = np.arange(len(standardized)) >= len(ordinary)
    regression = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=500)
    regression.fit(standardized, is_outlier)
    weight = regression.coef_[0] / deviation
    logits = examples.val @ weight
    features = len(ood.mean)
    with torch.inference_mode():
        virtual = VirtualLogit(ood.mean, ood.axes, ood.scale)
        scores = virtual(torch.from_numpy(examples.val[:, :features]), layer).numpy()
    factor = RELATIVE_SPREAD * scores.std() / max(logits.std(), MIN_SPREAD)
    scaled = torch.tensor(factor * weight, dtype=torch.float32)
    fitted = {
        "added_weight": scaled[:features],
        "added_bias": torch.tensor(-factor * logits.mean(), dtype=torch.float32),
    }
    if len(scaled) > features:
        fitted["statistics_weight"] = scaled[features:]
    return VirtualLogit(ood.mean, ood.axes, ood.scale, **round_to_stored(fitted))


def variants(folder: OutlierImages, number: int, side: int) -> Tensor:
    """Return variants of the images of a folder, uint8[number, 1, side, side]; the same each time."""
    rng = np.random.default_rng(2)
    return _stack([preprocess(folder.variant(rng), side) for _ in range(number)])


def outlier_count(train: Tensor) -> int:
    """Return the number of generated outliers, and of variants of a folder's images."""
    return min(MAX_OUTLIERS, len(train))


def _augmented(train: Tensor) -> Tensor:
    """Return variants of training images, uint8[K, 1, S, S]; the same each time."""
    rng = np.random.default_rng(1)
    number = min(MAX_AUGMENTED, max(1, round(AUGMENTED_SHARE * len(train))))
    chosen = rng.choice(len(train), number, replace=False)
    side = train.shape[-1]
    return _stack([preprocess(augment(train[n, 0].numpy(), rng), side) for n in chosen.tolist()])


def _generated(train: Tensor) -> Tensor:
    """Return generated outliers and shuffled tiles, uint8[K, 1, S, S]; the same each time."""
    rng = np.random.default_rng(0)
    side, number = train.shape[-1], outlier_count(train)
    of_tiles = round(TILES_SHARE * number)
    made: Inputs = [
        preprocess(synthetic_outlier(rng, OUTLIER_SIDE), side) for _ in range(number - of_tiles)
    ]
    shuffled = [train[index].numpy() for index in rng.integers(0, len(train), of_tiles)]
    return _stack([*made, *(shuffle_tiles(image, rng) for image in shuffled)])


def _stack(images: Inputs) -> Tensor:
    return torch.from_numpy(np.stack(images))

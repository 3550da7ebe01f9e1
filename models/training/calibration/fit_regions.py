"""Fit the region head of a bundle on the features of its frozen network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from torch import Tensor

from models.bundle import RegionInfo, RegionsInfo
from models.networks import BodyPartClassifier
from models.region_head import RegionHead
from models.training.data.images import DatasetError, LabeledImage, load_inputs
from models.training.data.regions import (
    MIN_IMAGES,
    is_annotated,
    list_regions,
    regions_of,
)
from models.training.evaluation.metrics import Reals
from models.training.evaluation.predict import predict_features
from models.training.evaluation.region_metrics import region_metrics
from models.weights import round_to_stored

TARGET_PRECISION: Final = 0.95
"""Minimum share of right regions among those that are given, within each label, on val."""
MIN_THRESHOLD: Final = 0.5
WEIGHT_DECAY: Final = 1e-4
STEPS: Final = 100
LOADED_AT_ONCE: Final = 512
"""Images in memory."""


def fit_regions(
    network: BodyPartClassifier, images: Sequence[LabeledImage], input_size: int
) -> RegionHead | None:
    """Fit a region head on train; set temperature and threshold, and measure it, on val.

    The network is not changed.

    Args:
        network: in evaluation mode, with its final weights.
        images: all images; those of the test split are not read.
        input_size: of the network, in pixels.

    Returns:
        None if fewer than two regions have enough train images, or val has no annotated one.
    """
    train = [image for image in images if image.split == "train"]
    regions = list_regions(train)
    train = [image for image in train if _targets([image], regions).any()]
    val = [image for image in images if image.split == "val" and is_annotated(image)]
    if len(regions) < 2 or not val:
        return None
    weight, bias = fit_layer(_features(network, train, input_size), _targets(train, regions))
    stored = round_to_stored({"weight": weight, "bias": bias})
    of_val = _features(network, val, input_size)
    logits = (of_val @ stored["weight"].T + stored["bias"]).double().numpy()
    temperature = fit_temperature(logits, _targets(val, regions).numpy())
    probabilities = softmax(logits / temperature, axis=1)
    with torch.inference_mode():
        of_labels = network.backbone.get_classifier()(of_val.to(network.device))
    predicted = [network.labels[index] for index in of_labels.argmax(1).tolist()]
    draft = RegionsInfo(
        regions=tuple(regions), temperature=temperature, threshold=MIN_THRESHOLD,
        target_precision=TARGET_PRECISION,
    )  # fmt: skip
    threshold = choose_threshold(draft, val, probabilities, predicted)
    info = draft.model_copy(update={"threshold": threshold})
    metrics = {"val": region_metrics(info, val, probabilities, predicted)}
    return RegionHead(**stored, info=info.model_copy(update={"metrics": metrics}))


def require_regions(head: RegionHead | None) -> RegionHead:
    """Return a head that `fit_regions` has returned.

    Raises:
        DatasetError: It is None.
    """
    if head is None:
        raise DatasetError(
            "too few regions: the column region of the manifest must name at least two, each of "
            f"{MIN_IMAGES} train images, and that of a val image"
        )
    return head


def fit_layer(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the layer of minimum loss, with weight decay on standardized features.

    The loss of an image is the negative logarithm of the probability of all regions that it shows, since
    a manifest does not say which of several it shows best.

    Args:
        features: float32[N, F].
        targets: bool[N, n_regions], the regions of each image, at least one.
    """
    mean, deviation = features.mean(0), features.std(0).clamp_min(1e-6)
    standardized = (features - mean) / deviation
    weight = torch.zeros(targets.shape[1], features.shape[1], requires_grad=True)
    bias = torch.zeros(targets.shape[1], requires_grad=True)
    hidden = torch.zeros(targets.shape).masked_fill(~targets, -torch.inf)
    balance = _balance(targets)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        log_probabilities = torch.log_softmax(standardized @ weight.T + bias, dim=1)
        of_images = -torch.logsumexp(log_probabilities + hidden, dim=1)
        total = (balance * of_images).sum() / balance.sum() + WEIGHT_DECAY * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    scaled = (weight / deviation).detach()
    return scaled, (bias - scaled @ mean).detach()


def _balance(targets: Tensor) -> Tensor:
    """Return weights of images, float[N]: one over the root of the number of images of their region.

    Of several regions it is the rarest.
    """
    counts = targets.sum(0).clamp_min(1)
    rarest = torch.where(targets, counts, counts.max()).amin(1)
    return rarest.float().rsqrt()


def fit_temperature(logits: Reals, targets: Reals) -> float:
    """Return the temperature of minimum loss, as in `fit_layer`, on images with a supported region."""
    known = targets.any(1)

    def loss(log_temperature: float) -> float:
        probabilities = softmax(logits[known] / np.exp(log_temperature), axis=1)
        right = (probabilities * targets[known]).sum(1)
        return float(-np.log(right.clip(1e-12)).mean())

    return round(float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)), 4)


def choose_threshold(
    info: RegionsInfo,
    images: Sequence[LabeledImage],
    probabilities: Reals,
    predicted_labels: Sequence[str],
) -> float:
    """Return the lowest threshold from `MIN_THRESHOLD` whose precision reaches the target in each label.

    Over all labels together, the many chests would hide errors among the rest. 1 if none reaches it.
    """
    for threshold in np.arange(MIN_THRESHOLD, 1, 0.01).round(2).tolist():
        found = region_metrics(
            info.model_copy(update={"threshold": threshold}),
            images,
            probabilities,
            predicted_labels,
        )
        precisions = [of["precision"] for of in found["labels"].values()]
        if all(one is None or one >= info.target_precision for one in precisions):
            return float(threshold)
    return 1.0


def _features(
    network: BodyPartClassifier, images: Sequence[LabeledImage], input_size: int
) -> Tensor:
    """Return the features of images, float32[N, F], few of which are loaded at a time."""
    parts = range(0, len(images), LOADED_AT_ONCE)
    loaded = (load_inputs(images[n : n + LOADED_AT_ONCE], input_size) for n in parts)
    return torch.from_numpy(np.concatenate([predict_features(network, one) for one in loaded]))


def _targets(images: Sequence[LabeledImage], regions: Sequence[RegionInfo]) -> Tensor:
    """Return bool[N, n_regions]: the regions that each image shows, among those of its label."""
    shown = [
        [one.name in regions_of(image) and image.label in one.labels for one in regions]
        for image in images
    ]
    return torch.tensor(shown, dtype=torch.bool).reshape(len(images), len(regions))

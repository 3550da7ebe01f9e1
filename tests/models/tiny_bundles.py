"""Bundles of a tiny network, for tests that need predictions and no accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from models.bundle import fields_of
from models.networks import BodyPartClassifier
from models.weights import save_bundle
from tests.synthetic import image
from transforms.core.labels import DEFAULT_LABELS, LabelSet
from transforms.imaging.preprocessing import preprocess

SIDE, SHAPE = 32, (96, 80)
IMAGES = 60


def write_bundle(
    folder: Path,
    threshold: float = 0.6,
    label_set: LabelSet = DEFAULT_LABELS,
    age_thresholds: Mapping[str, float] | None = None,
) -> Path:
    """Write the bundle of a tiny network with random weights, scaled so that its predictions vary.

    Args:
        folder: of the bundle.
        threshold: of every label.
        label_set: of the network.
        age_thresholds: of the bundle; none by default.
    """
    torch.manual_seed(0)
    names = label_set.names
    network = BodyPartClassifier("test_efficientnet", names).eval()
    images = [preprocess(image(n, SHAPE).astype(np.float32), SIDE) for n in range(IMAGES)]
    with torch.no_grad():
        logits = network.logits(torch.from_numpy(np.stack(images)))
        last = network.backbone.get_classifier()
        scale = 2 / logits.std(0).mean()
        last.bias.sub_(logits.mean(0)).mul_(scale)
        last.weight.mul_(scale)
    described = {
        "architecture": "test_efficientnet",
        "input_size": SIDE,
        "ood_threshold": 99.0,
        "thresholds": dict.fromkeys(names, threshold),
        "label_definitions": fields_of(label_set),
        "age_thresholds": dict(age_thresholds or {}),
    }
    save_bundle(folder, network, described)
    return folder

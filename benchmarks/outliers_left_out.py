"""How many CT, MR and US images and photographs are reviewed if the OOD score is not fitted on them.

    python -m benchmarks.outlier_images IMAGES
    python -m benchmarks.outliers_left_out --data MANIFEST --images IMAGES --model BUNDLE

For each source of each kind, the outlier logit of every member of the bundle is fitted again without the
images of that source. The limit is the bundle's, in standard deviations above the mean of validation
images. Images are reviewed for their score, or because they are not confident enough for any label.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import logsumexp, softmax

from benchmarks.profile_route import machine
from models.bundle import read_info
from models.ensemble import members_of
from models.fused import fuse
from models.networks import BodyPartClassifier
from models.ood_vim import VirtualLogit
from models.training.calibration.calibrate import standardize
from models.training.calibration.fit_outliers import (
    OutlierExamples,
    fit_to_examples,
    outlier_count,
    pool_examples,
    variants,
)
from models.training.data.dataset import read_dataset, select_split
from models.training.data.images import load_inputs
from models.training.data.outlier_folder import Gray, OutlierImages, read_outlier_folder
from models.training.evaluation.evaluate import decision_metrics
from models.training.evaluation.predict import Predicted, predict, predict_pooled
from models.weights import load_network
from transforms.config.policy import Policy
from transforms.imaging.preprocessing import preprocess

RESULT: Final = Path("benchmarks/results/outliers_left_out.json")
EACH: Final = 40
"""Images of a source and kind that are classified, at most."""

Reals = npt.NDArray[np.float32]


def main() -> None:
    """Print a line for each source and kind, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="manifest of the data set")
    parser.add_argument("--images", type=Path, required=True, help="folder of outlier_images")
    parser.add_argument("--model", required=True, help="bundle of networks of one input size")
    arguments = parser.parse_args()
    info = read_info(arguments.model)
    folder = read_outlier_folder(arguments.images)
    members = networks(load_network(arguments.model))
    images = read_dataset(arguments.data, info.labels)
    train, val = (
        load_inputs(select_split(images, split), info.input_size) for split in ("train", "val")
    )
    for network in members:
        fuse(network, info.input_size)
    scores = np.mean([predict(network, val)[:, -1] for network in members], 0)
    limit = float((info.ood_threshold - scores.mean()) / scores.std())
    policy = Policy().with_defaults(replace(info.limits, ood_threshold=limit))
    examples = [pool_examples(network, train, val) for network in members]
    rows: list[dict[str, Any]] = []
    for source in sorted({source for _, source in folder.images}):
        kept = OutlierImages(
            {key: own for key, own in folder.images.items() if key[1] != source}, {}
        )
        made = variants(kept, outlier_count(train), info.input_size)
        fitted = [
            fit_to_examples(
                score_of(network), layer_of(network), own, predict_pooled(network, made)
            )
            for network, own in zip(members, examples, strict=True)
        ]
        for (kind, of), own in sorted(folder.images.items()):
            if of == source:
                inputs = sample(own, info.input_size)
                predicted = classify(members, info.temperature, fitted, examples, inputs)
                decided = decision_metrics(predicted, np.zeros(len(inputs), np.int64), policy)
                rows.append(
                    {
                        "kind": kind,
                        "source": source,
                        "images": len(inputs),
                        "by_score": round(float((predicted.ood_scores > limit).mean()), 3),
                        "reviewed": round(1 - decided["coverage"], 3),
                    }
                )
                print(rows[-1], flush=True)
    result: dict[str, Any] = {
        "machine": machine(),
        "model_id": info.model_id,
        "limit": round(limit, 3),
        "mean_of_sources": {
            kind: {
                column: round(float(np.mean([r[column] for r in rows if r["kind"] == kind])), 3)
                for column in ("by_score", "reviewed")
            }
            for kind in sorted({row["kind"] for row in rows})
        },
        "sources": rows,
    }
    print(result["mean_of_sources"])
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def networks(network: BodyPartClassifier) -> list[BodyPartClassifier]:
    """Return the members of a network, each with its OOD score."""
    assert network.ood is not None
    scores = members_of(network.ood)
    members = []
    for backbone, ood in zip(members_of(network.backbone), scores, strict=True):
        member = BodyPartClassifier("", network.labels, backbone=backbone).eval()
        member.ood = ood
        members.append(member)
    return members


def score_of(network: BodyPartClassifier) -> VirtualLogit:
    """Return the OOD score of a member."""
    assert isinstance(network.ood, VirtualLogit)
    return network.ood


def layer_of(network: BodyPartClassifier) -> torch.nn.Module:
    """Return the layer that maps features to logits."""
    layer = network.backbone.get_classifier()
    assert isinstance(layer, torch.nn.Module)
    return layer


def sample(images: Sequence[Gray], side: int) -> torch.Tensor:
    """Return at most `EACH` images, evenly chosen, uint8[N, 1, S, S]."""
    chosen = np.unique(np.linspace(0, len(images) - 1, EACH).astype(int))
    return torch.from_numpy(np.stack([preprocess(images[n], side) for n in chosen.tolist()]))


def classify(
    members: list[BodyPartClassifier],
    temperature: float,
    fitted: list[VirtualLogit],
    examples: list[OutlierExamples],
    inputs: torch.Tensor,
) -> Predicted:
    """Return predictions of uint8[N, 1, S, S]; OOD scores are standardized by validation images."""
    values, reference, logits = [], [], []
    for network, ood, own in zip(members, fitted, examples, strict=True):
        pooled = predict_pooled(network, inputs)
        values.append(scored(network, ood, pooled))
        reference.append(scored(network, ood, own.val))
        features = torch.from_numpy(pooled[:, : len(ood.mean)])
        with torch.inference_mode():
            logits.append(layer_of(network)(features).numpy())
    mean = np.mean(logits, 0)
    scores = standardize(np.mean(values, 0), np.mean(reference, 0)).astype(np.float32)
    energies = -logsumexp(mean, axis=1)
    return Predicted(softmax(mean / temperature, axis=1), scores, energies, (None,) * len(inputs))


def scored(network: BodyPartClassifier, ood: VirtualLogit, pooled: Reals) -> Reals:
    """Return the OOD scores of images by their features and statistics, float32[N]."""
    features, statistics = map(torch.from_numpy, np.split(pooled, [len(ood.mean)], axis=1))
    with torch.inference_mode():
        return np.asarray(ood(features, layer_of(network), statistics).numpy())


if __name__ == "__main__":
    main()

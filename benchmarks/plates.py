"""Compare how images of two views could be decided: as a whole, or by their views together.

    python -m benchmarks.plates --data MANIFEST --model BUNDLE    # prints a table

The plates of train and val, pairs of val images of one label and source, and pairs of two labels, which
should be reviewed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from models.bundle import read_info
from models.plates import pool
from models.training.data.augmentation import side_by_side
from models.training.data.dataset import read_dataset, select_split
from models.training.data.images import LabeledImage, load_image, to_uint8
from models.training.evaluation.predict import load_for_prediction, predict
from transforms.config.policy import MIN_VIEW_CONFIDENCE
from transforms.imaging.plates import network_inputs, split_plate

PAIRS_OF_LABEL: Final = 120
"""Pairs of each label, at most."""
MIXED, PAIRED = "two labels", "pairs"

Reals = npt.NDArray[np.float64]


class Plate(NamedTuple):
    """An image of two views.

    Attributes:
        kind: of images.
        label: of the views, or of one of them.
        inputs: uint8[3, S, S], the whole and its views.
    """

    kind: str
    label: str
    inputs: npt.NDArray[np.uint8]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="manifest of the data set")
    parser.add_argument("--model", required=True, help="bundle")
    arguments = parser.parse_args()
    info = read_info(arguments.model)
    images = read_dataset(arguments.data, info.labels)
    plates: list[Plate] = []
    seconds = []
    for split in ("train", "val"):
        chosen = select_split(images, split)
        for image in chosen:
            gray = np.asarray(load_image(image.path, info.input_size), np.float32)
            started = time.process_time()
            is_plate = bool(split_plate(gray))
            seconds.append(time.process_time() - started)
            if is_plate:
                plates.append(Plate(split, image.label, network_inputs(gray, info.input_size)))
    plates += _pairs(select_split(images, "val"), info.input_size)
    network = load_for_prediction(arguments.model, "cpu")
    flat = torch.from_numpy(np.concatenate([plate.inputs for plate in plates])[:, None])
    outputs = predict(network, flat).astype(np.float64).reshape(len(plates), 3, -1)
    print(f"{info.model_id}; {1000 * np.median(seconds):.2f} ms to look for views\n")
    _print_table(plates, outputs, info.labels, info.thresholds, info.ood_threshold)


def _pairs(images: Sequence[LabeledImage], size: int) -> list[Plate]:
    """Return pairs of single views side by side, of one label and source, and of two labels."""
    rng = np.random.default_rng(0)
    gray = {}
    for image in images:
        pixels = to_uint8(load_image(image.path, size))
        if not split_plate(pixels):
            gray[image] = pixels
    found = []
    counts: dict[str, int] = {}
    for image in gray:
        counts[image.label] = counts.get(image.label, 0) + 1
        if counts[image.label] > PAIRS_OF_LABEL:
            continue
        alike = [o for o in gray if (o.label, o.source) == (image.label, image.source)]
        others = [o for o in gray if o.label != image.label]
        for kind, partners in ((PAIRED, alike), (MIXED, others)):
            other = partners[rng.integers(len(partners))]
            inputs = network_inputs(side_by_side(gray[image], gray[other], rng), size)
            if len(inputs) > 1:
                found.append(Plate(kind, image.label, inputs))
    return found


def _print_table(
    plates: Sequence[Plate],
    outputs: Reals,
    labels: Sequence[str],
    thresholds: dict[str, float],
    ood_threshold: float,
) -> None:
    chances, scores = outputs[:, :, :-1], outputs[:, :, -1]
    views, of_views = chances[:, 1:], scores[:, 1:].max(1)
    best, confidence = views.argmax(2), views.max(2)
    disagree = (best[:, 0] != best[:, 1]) & (confidence.min(1) >= MIN_VIEW_CONFIDENCE)
    nothing = np.zeros(len(plates), np.bool_)
    ways = {
        "whole": (chances[:, 0], scores[:, 0], nothing),
        "mean of the views": (views.mean(1), of_views, nothing),
        "geometric mean of the views": (pool(views), of_views, nothing),
        "geometric mean, or reviewed": (pool(views), of_views, disagree),
        "geometric mean of whole and views": (pool(chances), of_views, nothing),
    }
    kinds = np.array([plate.kind for plate in plates])
    true = np.array([labels.index(plate.label) for plate in plates])
    limit = np.array([thresholds[label] for label in labels])
    names = [kind for kind in ("train", "val", PAIRED) if (kinds == kind).any()]
    heads = [f"{name} ({(kinds == name).sum()}): accuracy, routed, wrong" for name in names]
    print("| decided by |", " | ".join(heads), f"| {MIXED} ({(kinds == MIXED).sum()}): routed |")
    print("| --- |", " | ".join("---:" for _ in names), "| ---: |")
    for way, (probabilities, ood, reviewed) in ways.items():
        predicted = probabilities.argmax(1)
        routed = (probabilities.max(1) >= limit[predicted]) & (ood <= ood_threshold) & ~reviewed
        right = predicted == true
        cells = [
            f"{right[of].mean():.3f}, {routed[of].mean():.2f}, {(routed & ~right)[of].sum()}"
            for of in (kinds == name for name in names)
        ]
        print(f"| {way} |", " | ".join(cells), f"| {routed[kinds == MIXED].sum()} |", flush=True)


if __name__ == "__main__":
    main()

"""Leave-one-source-out: metrics on images of sources that a training never saw, as of unseen sites."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.bundle import BundleError, BundleInfo
from models.networks import BodyPartClassifier
from models.training import provenance
from models.training.calibration.calibrate import standardize
from models.training.calibration.thresholds import Predictions
from models.training.data.dataset import read_dataset, select_split
from models.training.data.images import (
    DatasetError,
    LabeledImage,
    label_indices,
    load_served_inputs,
)
from models.training.evaluation.metrics import compute_metrics
from models.training.evaluation.predict import load_for_prediction, predict_images


def split_holdout(
    data: Path, sources: Sequence[str], labels: Sequence[str] | None = None
) -> tuple[list[LabeledImage], list[LabeledImage]]:
    """Return the images of other sources, and those of held-out sources outside the test split.

    Args:
        data: as for `read_dataset`.
        sources: to hold out.
        labels: as for `read_dataset`.

    Raises:
        DatasetError: The data set cannot be used, or lacks a source.
    """
    images = read_dataset(data, labels)
    if missing := set(sources) - {image.source for image in images}:
        raise DatasetError(f"{data}: no source {', '.join(sorted(missing))}")
    kept = [image for image in images if image.source not in sources]
    return kept, _held_out(images, sources)


def add_holdout_metrics(
    metrics: dict[str, Any],
    network: BodyPartClassifier,
    holdout: Sequence[LabeledImage],
    input_size: int,
) -> None:
    """Add metrics on held-out images, if any, to a bundle's metrics."""
    if not holdout:
        return
    inputs = load_served_inputs(holdout, input_size)
    labels = label_indices(holdout, network.labels)
    metrics["holdout"] = {
        "sources": sorted({image.source for image in holdout}),
        **compute_metrics(
            holdout, predict_images(network, inputs).probabilities, labels, network.labels
        ),
    }


def holdout_record(uri: str, info: BundleInfo) -> dict[str, Any]:
    """Return a bundle's metrics on its held-out sources, with the size and length of its training.

    Raises:
        BundleError: It was trained without held-out sources.
    """
    metrics = info.metrics.get("holdout")
    if metrics is None:
        raise BundleError(f"model bundle {uri}: trained without --holdout_sources")
    epochs = provenance.options_of(info).get("epochs", "")
    sizes = {"input_size": info.input_size, "members": list(info.members)}
    return {**sizes, "epochs": epochs, **metrics}


def predict_holdout(
    uri: str, record: dict[str, Any], images: Sequence[LabeledImage], device: str
) -> Predictions:
    """Return a bundle's predictions on the images that it held out.

    OOD scores are standardized by those of the images that it did not hold out, of the val split.

    Raises:
        DatasetError: `images` lacks a held-out source, or has only test images of them.
    """
    sources, input_size = set(record["sources"]), record["input_size"]
    if missing := sources - {image.source for image in images}:
        raise DatasetError(
            f"no source {', '.join(sorted(missing))}, which {uri} held out, in the data without "
            "--holdout_sources"
        )
    held_out = _held_out(images, sources)
    if not held_out:
        raise DatasetError(f"of the sources that {uri} held out, the data has test images only")
    network = load_for_prediction(uri, device)
    val = select_split([image for image in images if image.source not in sources], "val")
    ordinary = load_served_inputs(val, input_size)
    reference = predict_images(network, ordinary).ood_scores
    inputs = load_served_inputs(held_out, input_size)
    labels = label_indices(held_out, network.labels)
    predicted = predict_images(network, inputs)
    scores = standardize(predicted.ood_scores, reference)
    return Predictions(predicted.probabilities, labels, scores, names=network.labels)


def _held_out(
    images: Sequence[LabeledImage], sources: Sequence[str] | set[str]
) -> list[LabeledImage]:
    return [image for image in images if image.source in sources and image.split != "test"]

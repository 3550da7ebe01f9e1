"""Train a bundle: `dicom-router train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from models.bundle import MAX_INPUT_SIZE, MIN_INPUT_SIZE, BundleInfo, fields_of
from models.training import provenance
from models.training.calibration.calibrate import calibrate_network
from models.training.calibration.fit_outliers import fit_outlier_logit
from models.training.calibration.fit_regions import fit_regions
from models.training.calibration.fit_vim import fit_virtual_logit
from models.training.data.dataset import read_dataset, select_split
from models.training.data.images import (
    DatasetError,
    LabeledImage,
    load_inputs,
)
from models.training.data.label_sets import define_labels, find_labels
from models.training.data.outlier_folder import read_outlier_folder
from models.training.fit import fit
from models.training.holdout import add_holdout_metrics, split_holdout
from models.training.options import TARGET_ERROR, FitOptions
from models.training.pretrained import NONE, initial_weights
from models.training.training_state import discard_checkpoint
from models.weights import round_to_stored, save_bundle
from transforms.core.errors import UsageError


def train_bundle(
    data: Path,
    output: Path,
    options: FitOptions,
    device: str,
    *,
    more_data: Sequence[Path] = (),
    more_weight: float = 1.0,
    holdout_sources: Sequence[str] = (),
    labels: Sequence[str] = (),
    age_groups: Sequence[str] = (),
    outlier_images: Path | None = None,
) -> BundleInfo:
    """Train on the train split, select and calibrate on val, and write a bundle.

    It gets a region head if the data set names regions.

    The test split is not read, not even that of held-out sources.

    Args:
        data: manifest or folder per label; see `data.images.read_dataset`.
        output: folder of the bundle, also gets `training.jsonl`.
        options: of the training.
        device: "cpu" or "cuda".
        more_data: further data sets to train on, without their held-out sources.
        more_weight: sampling weight of their images.
        holdout_sources: sources to hold out; the bundle records the metrics on their train and val
            images.
        labels: in order of the network's outputs; () for those of the data set.
        age_groups: as for `define_labels`.
        outlier_images: folder of images that are not radiographs, to fit the OOD score on besides
            generated ones, and for `outlier_exposure`.

    Raises:
        BundleError: A teacher cannot be read, has other labels, or was trained on a held-out source.
        DatasetError: A data set cannot be used, lacks a held-out source, or `more_data` has groups of
            the val or test split.
        UsageError: The input size is not supported, or as for `fit`.
    """
    if not MIN_INPUT_SIZE <= options.input_size <= MAX_INPUT_SIZE:
        raise UsageError(
            f"--input_size {options.input_size}: must be {MIN_INPUT_SIZE} to {MAX_INPUT_SIZE} pixels"
        )
    weights = initial_weights(options.init, options.architecture)
    options = replace(options, init=NONE if weights is None else str(weights))
    images, holdout = split_holdout(data, holdout_sources, labels or None)
    names = tuple(labels) or find_labels([*images, *holdout])
    label_set = define_labels(names, age_groups)
    images += _more_images(data, images, more_data, more_weight, holdout_sources, names)
    teachers = [provenance.read_bundle(uri) for uri in options.teachers]
    for uri, info in zip(options.teachers, teachers, strict=True):
        provenance.require_unseen(uri, info, holdout_sources)
    training = provenance.of_training(images, data, (more_data, more_weight), options, teachers)
    outliers = None if outlier_images is None else read_outlier_folder(outlier_images)
    training = provenance.with_outliers(training, teachers, outliers, is_refitted=True)
    output.mkdir(parents=True, exist_ok=True)
    network = fit(images, options, device, output, names, outliers)
    network.backbone.load_state_dict(round_to_stored(network.backbone.state_dict()))
    train = load_inputs(select_split(images, "train"), options.input_size)
    network.ood = fit_virtual_logit(network, train)
    if network.ood is not None:
        val = load_inputs(select_split(images, "val"), options.input_size)
        network.ood = fit_outlier_logit(network, network.ood, train, val, outliers)
    calibrated = calibrate_network(
        network, images, data.name, options.input_size, TARGET_ERROR, label_set
    )
    add_holdout_metrics(calibrated["metrics"], network, holdout, options.input_size)
    network.regions = fit_regions(network, images, options.input_size)
    described = {
        "architecture": options.architecture,
        "input_size": options.input_size,
        "label_definitions": fields_of(label_set),
        "training": training,
    }
    info = save_bundle(output, network, {**described, **calibrated})
    discard_checkpoint(output)
    return info


def _more_images(
    data: Path,
    images: Sequence[LabeledImage],
    more_data: Sequence[Path],
    weight: float,
    holdout_sources: Sequence[str],
    labels: Sequence[str],
) -> list[LabeledImage]:
    """Return the images of further data sets, all in the train split."""
    more = [
        image
        for path in more_data
        for image in read_dataset(path, labels)
        if image.source not in holdout_sources
    ]
    evaluated = {(image.source, image.group) for image in images if image.split != "train"}
    if shared := evaluated & {(image.source, image.group) for image in more}:
        raise DatasetError(f"{len(shared)} groups of --more_data are in val or test of {data}")
    return [replace(image, split="train", weight=weight) for image in more]

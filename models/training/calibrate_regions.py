"""Fit the region head of an existing bundle: `dicom-router calibrate --regions`."""

from __future__ import annotations

from pathlib import Path

from models.bundle import BundleError, BundleInfo
from models.training import provenance
from models.training.calibration.fit_regions import fit_regions, require_regions
from models.training.data.dataset import read_dataset
from models.training.evaluation.predict import load_for_prediction
from models.weights import load_network, save_bundle


def calibrate_regions(uri: str, data: Path, output: Path, device: str = "cpu") -> BundleInfo:
    """Write a bundle with a region head; its labels' probabilities and thresholds stay as they are.

    Args:
        uri: of the bundle; a region head that it has is replaced.
        data: manifest with the column region; its train and val splits are read.
        output: folder of the new bundle.
        device: "cpu" or "cuda", where the network runs.

    Raises:
        BundleError: The bundle cannot be read, or its network is an ONNX graph.
        DatasetError: The data set cannot be used, or names too few regions.
    """
    info = provenance.read_bundle(uri)
    if info.onnx is not None:
        raise BundleError(
            f"model bundle {uri}: regions need features, which an ONNX graph does not have"
        )
    fast = load_for_prediction(uri, device)
    network = load_network(uri)
    images = read_dataset(data, info.labels)
    network.regions = require_regions(fit_regions(fast, images, info.input_size))
    decisive = {"thresholds", "age_thresholds", "ood_threshold"}
    kept = {"architecture", "input_size", *decisive, "calibration", "training", "metrics"}
    fields = info.model_dump(include=kept)
    return save_bundle(output, network, {**fields, "label_definitions": info.label_definitions})

"""From a data set to a bundle, and from a bundle to its figures."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch

from models import bundle
from models.networks import FilmClassifier
from models.training.calibrate import TARGET_ERROR, calibrate
from models.training.films import Film, FilmsError, read_films
from models.training.fit import FitOptions, fit, inputs_of, predict_logits
from models.training.score import score


def train_bundle(data: Path, output: Path, options: FitOptions, device: str) -> bundle.BundleInfo:
    """Train on the train split, choose and calibrate on val, and write a bundle.

    The test split is not looked at.

    Args:
        data: manifest or folder per label, see `films.read_films`.
        output: folder of the bundle; gets `training.jsonl` too.
        options: of the training.
        device: "cpu" or "cuda".
    """
    films = read_films(data)
    output.mkdir(parents=True, exist_ok=True)
    network = fit(films, options, device, output / "training.jsonl")
    # Calibrate what is shipped: weights as they come back from fp16.
    network.backbone.load_state_dict(
        {
            name: t.half().float() if t.is_floating_point() else t
            for name, t in network.backbone.state_dict().items()
        }
    )
    fixed = {
        "architecture": options.architecture,
        "input_size": options.input_size,
        "training": _provenance(films, data, options),
    }
    return _calibrated(network, films, output, fixed, TARGET_ERROR)


def calibrate_bundle(uri: str, data: Path, output: Path, target_error: float) -> bundle.BundleInfo:
    """Set temperature, thresholds and OOD limit of a bundle anew, on the val split of a data set."""
    info = bundle.read_info(uri)
    fixed = {
        "architecture": info.architecture,
        "input_size": info.input_size,
        "training": info.training,
    }
    return _calibrated(bundle.load_network(uri), read_films(data), output, fixed, target_error)


def _calibrated(
    network: FilmClassifier,
    films: list[Film],
    output: Path,
    fixed: dict[str, Any],
    target_error: float,
) -> bundle.BundleInfo:
    val = _split(films, "val")
    inputs, labels = inputs_of(val, fixed["input_size"])
    logits = predict_logits(network, inputs)
    calibration = calibrate(logits, labels, target_error=target_error)
    network.temperature = calibration.temperature
    decided = {
        "thresholds": calibration.thresholds,
        "ood_threshold": calibration.ood_threshold,
        "calibration": calibration.evidence,
        "metrics": {"val": score(val, logits, labels, calibration.temperature)},
    }
    return bundle.save(output, network, {**fixed, **decided})


def _split(films: list[Film], split: str) -> list[Film]:
    chosen = [film for film in films if film.split == split]
    if not chosen:
        raise FilmsError(f"the data set has no films in split {split!r}")
    return chosen


def evaluate_bundle(uri: str, data: Path, split: str) -> dict[str, Any]:
    """Return the figures of a bundle on one split of a data set."""
    info = bundle.read_info(uri)
    network = bundle.load_network(uri)
    films = _split(read_films(data), split)
    inputs, labels = inputs_of(films, info.input_size)
    figures = score(films, predict_logits(network, inputs), labels, info.temperature)
    return {"model_id": info.model_id, "split": split, **figures}


def _provenance(films: list[Film], data: Path, options: FitOptions) -> dict[str, Any]:
    sources = Counter((film.source, film.license) for film in films if film.split == "train")
    shown = {**asdict(options), "init": Path(options.init).name if options.init else None}
    return {
        "data": data.name,
        "sources": [
            {"source": source, "license": license_, "films": count}
            for (source, license_), count in sorted(sources.items())
        ],
        "options": shown,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
        },
    }

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
from models.training.calibrate import calibrate
from models.training.films import Film, read_films
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
    val = [film for film in films if film.split == "val"]
    inputs, labels = inputs_of(val, options.input_size)
    # Calibrate what is shipped: weights as they come back from fp16.
    network.backbone.load_state_dict(
        {
            k: v.half().float() if v.is_floating_point() else v
            for k, v in network.backbone.state_dict().items()
        }
    )
    logits = predict_logits(network, inputs)
    calibration = calibrate(logits, labels)
    network.temperature = calibration.temperature
    return bundle.save(
        output,
        network,
        {
            "architecture": options.architecture,
            "input_size": options.input_size,
            "thresholds": calibration.thresholds,
            "ood_threshold": calibration.ood_threshold,
            "calibration": calibration.evidence,
            "training": _provenance(films, data, options),
            "metrics": {"val": score(val, logits, labels, calibration.temperature)},
        },
    )


def evaluate_bundle(uri: str, data: Path, split: str) -> dict[str, Any]:
    """Return the figures of a bundle on one split of a data set."""
    info = bundle.read_info(uri)
    network = bundle.load_network(uri)
    films = [film for film in read_films(data) if film.split == split]
    if not films:
        raise ValueError(f"{data}: no films in split {split!r}")
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

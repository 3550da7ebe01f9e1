"""What a bundle says of where it comes from: images, licences, options, versions, other bundles."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from models.bundle import BundleError, BundleInfo
from models.training.data.images import LabeledImage, select_split
from models.training.options import FitOptions


def of_training(
    images: Sequence[LabeledImage],
    data: Path,
    more: tuple[Sequence[Path], float],
    options: FitOptions,
    teachers: Sequence[BundleInfo],
) -> dict[str, Any]:
    """Return `training` of a bundle; there are no paths of the machine that it ran on.

    Args:
        images: all of them.
        data: where those come from that figures are of.
        more: where others come from, and how often they are drawn.
        options: of the training.
        teachers: what else it learnt from.
    """
    more_data, more_weight = more
    init = Path(options.init).name if options.init else None
    shown = {**asdict(options), "init": init, "teachers": [of.model_id for of in teachers]}
    return {
        "data": data.name,
        "more_data": [path.name for path in more_data],
        "more_weight": more_weight,
        "sources": _sources(select_split(images, "train"), teachers),
        "options": shown,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": version("timm"),
        },
    }


def of_ensemble(infos: Sequence[BundleInfo]) -> dict[str, Any]:
    """Return `training` of several bundles side by side, with an entry for each member.

    Args:
        infos: of the bundles, which may be ensembles themselves.
    """
    return {
        "sources": _sources([], infos),
        "members": [of for info in infos for of in _members(info)],
    }


def options_of(info: BundleInfo) -> dict[str, Any]:
    """Return the options of a bundle's training; of the first of several."""
    options: dict[str, Any] = _members(info)[0].get("options", {})
    return options


def require_unseen(uri: str, info: BundleInfo, holdout_sources: Sequence[str]) -> None:
    """Raise a `BundleError` if a bundle has learnt from a source that is left out."""
    learnt = {of.get("source") for of in info.training.get("sources", [])}
    if seen := learnt & set(holdout_sources):
        raise BundleError(
            f"model bundle {uri}: has learnt from {', '.join(sorted(seen))}, which --holdout_sources "
            "leaves out; give one that was trained without"
        )


def _members(info: BundleInfo) -> list[dict[str, Any]]:
    if members := info.training.get("members"):
        return list(members)
    names = ("data", "more_data", "more_weight", "options", "versions")
    kept: dict[str, Any] = {n: info.training[n] for n in names if n in info.training}
    return [{"model_id": info.model_id, **kept}]


def _sources(images: Sequence[LabeledImage], others: Sequence[BundleInfo]) -> list[dict[str, Any]]:
    """What was learnt from, images and bundles.

    What teachers or members have learnt from is learnt from through them: it counts, licence and all.
    """
    counts: dict[tuple[str, str], int] = {}
    for image in images:
        key = (image.source, image.license)
        counts[key] = counts.get(key, 0) + 1
    for of in [of for info in others for of in info.training.get("sources", [])]:
        key = (of.get("source", ""), of.get("license", ""))
        counts[key] = max(counts.get(key, 0), of.get("images", 0))
    return [
        {"source": source, "license": license_, "images": count}
        for (source, license_), count in sorted(counts.items())
    ]

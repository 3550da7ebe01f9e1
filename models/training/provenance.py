"""Provenance in a bundle: images, licences, options, versions, teachers and members."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from models.bundle import BundleError, BundleInfo, read_info
from models.training.data.dataset import select_split
from models.training.data.images import LabeledImage
from models.training.data.outlier_folder import OutlierImages
from models.training.options import FitOptions


def read_bundle(uri: str) -> BundleInfo:
    """Return a bundle's description, with the provenance that training and evaluation read.

    Raises:
        BundleError: It cannot be read, or its provenance has the keys of an earlier release.
    """
    info = read_info(uri)
    if any("images" not in source for source in info.training.get("sources", ())):
        raise BundleError(
            f"model bundle {uri}: written by an earlier release; it can route, but not be a teacher or "
            "be calibrated or evaluated: train it again"
        )
    return info


def of_training(
    images: Sequence[LabeledImage],
    data: Path,
    more: tuple[Sequence[Path], float],
    options: FitOptions,
    teachers: Sequence[BundleInfo],
) -> dict[str, Any]:
    """Return a bundle's `training`; it names no paths of this machine.

    Args:
        images: all images.
        data: data set with the val split.
        more: further data sets, and their sampling weight.
        options: of the training.
        teachers: bundles distilled from.
    """
    more_data, more_weight = more
    recorded = {
        **asdict(options),
        "init": Path(options.init).name,
        "teachers": [teacher.model_id for teacher in teachers],
    }
    return {
        "data": data.name,
        "more_data": [path.name for path in more_data],
        "more_weight": more_weight,
        "sources": _sources(select_split(images, "train"), teachers),
        "options": recorded,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": version("timm"),
        },
    }


def of_ensemble(infos: Sequence[BundleInfo]) -> dict[str, Any]:
    """Return the `training` of an ensemble of bundles, which may be ensembles themselves."""
    return {
        "sources": _sources([], infos),
        "members": [member for info in infos for member in _members(info)],
    }


def with_outliers(
    training: dict[str, Any],
    bundles: Sequence[BundleInfo],
    folder: OutlierImages | None,
    *,
    is_refitted: bool,
) -> dict[str, Any]:
    """Return a bundle's `training` with the images that are not radiographs.

    Args:
        training: without them, or with those of an earlier fit.
        bundles: that the bundle is made of, or distilled from.
        folder: images that its OOD score is fitted on, or that its network was trained on.
        is_refitted: whether the OOD score is not that of the bundles; then only those of their images
            remain that their networks were trained on.
    """
    kept = [info for info in bundles if not is_refitted or is_exposed(info)]
    images = [one for info in kept for one in info.training.get("outliers", ())]
    images += [] if folder is None else folder.provenance()
    of_source = {one["source"]: one for one in images}
    without = {name: of for name, of in training.items() if name != "outliers"}
    return {**without, "outliers": list(of_source.values())} if of_source else without


def is_exposed(info: BundleInfo) -> bool:
    """Return whether a network of a bundle was trained with outlier exposure."""
    members = _members(info)
    return any(member.get("options", {}).get("outlier_exposure", 0) for member in members)


def options_of(info: BundleInfo) -> dict[str, Any]:
    """Return the training options of a bundle, or of its first member."""
    options: dict[str, Any] = _members(info)[0].get("options", {})
    return options


def require_unseen(uri: str, info: BundleInfo, holdout_sources: Sequence[str]) -> None:
    """Raise `BundleError` if a bundle was trained on a held-out source."""
    trained_on = {source.get("source") for source in info.training.get("sources", [])}
    if seen := trained_on & set(holdout_sources):
        raise BundleError(
            f"model bundle {uri}: was trained on {', '.join(sorted(seen))}, which --holdout_sources "
            "holds out; use a bundle trained without"
        )


def _members(info: BundleInfo) -> list[dict[str, Any]]:
    if members := info.training.get("members"):
        return list(members)
    names = ("data", "more_data", "more_weight", "options", "versions")
    kept: dict[str, Any] = {n: info.training[n] for n in names if n in info.training}
    return [{"model_id": info.model_id, **kept}]


def _sources(images: Sequence[LabeledImage], bundles: Sequence[BundleInfo]) -> list[dict[str, Any]]:
    """Count images by source and licence, including those that teachers or members were trained on."""
    counts: dict[tuple[str, str], int] = {}
    for image in images:
        key = (image.source, image.license)
        counts[key] = counts.get(key, 0) + 1
    for source in [of for info in bundles for of in info.training.get("sources", [])]:
        key = (source.get("source", ""), source.get("license", ""))
        counts[key] = max(counts.get(key, 0), source.get("images", 0))
    return [
        {"source": source, "license": license_, "images": count}
        for (source, license_), count in sorted(counts.items())
    ]

"""From a data set to a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scipy.special import softmax

from models import bundle
from models.ensemble import Ensemble, members_of
from models.networks import BodyPartClassifier
from models.ood_vim import MaxVirtualLogit
from models.training import provenance
from models.training.calibration.calibrate import TARGET_ERROR, calibrate, strangeness
from models.training.calibration.fit_vim import fit_virtual_logit
from models.training.calibration.thresholds import Predictions
from models.training.data.images import DatasetError, LabeledImage, read_dataset, select_split
from models.training.evaluation.metrics import score
from models.training.evaluation.predict import inputs_of, load_to_predict, predict, predict_logits
from models.training.fit import discard_checkpoint, fit
from models.training.options import FitOptions
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
) -> bundle.BundleInfo:
    """Train on the train split, choose and calibrate on val, and write a bundle.

    The test split is not looked at, not even of what is left out.

    Args:
        data: manifest or folder per label, see `images.read_dataset`.
        output: folder of the bundle; gets `training.jsonl` too.
        options: of the training.
        device: "cpu" or "cuda".
        more_data: further data sets, all of whose images are learnt from, less those of sources that are
            left out: simulated ones, say.
        more_weight: their images are drawn so many times as often as others of a source of their size.
        holdout_sources: sources whose train and val images are only looked at in the end: what the
            network is worth on images of hospitals that it never saw.

    Raises:
        BundleError: a teacher cannot be read, has other labels, or has learnt from what is left out.
        DatasetError: a data set cannot be used, has no such source, or groups that must not be learnt
            from stand in `more_data`.
        UsageError: bundles take no images of the input size, or as of `fit`.
    """
    if not bundle.MIN_INPUT_SIZE <= options.input_size <= bundle.MAX_INPUT_SIZE:
        raise UsageError(
            f"--input_size {options.input_size}: give {bundle.MIN_INPUT_SIZE} to "
            f"{bundle.MAX_INPUT_SIZE} pixels"
        )
    images, strange = _split_holdout(data, holdout_sources)
    more = [
        image
        for path in more_data
        for image in read_dataset(path)
        if image.source not in holdout_sources
    ]
    kept = {(image.source, image.group) for image in images if image.split != "train"}
    if torn := kept & {(image.source, image.group) for image in more}:
        raise DatasetError(f"{len(torn)} groups of --more_data stand in val or test of {data}")
    images += [replace(image, split="train", weight=more_weight) for image in more]
    teachers = [bundle.read_info(uri) for uri in options.teachers]
    for uri, info in zip(options.teachers, teachers, strict=True):
        provenance.require_unseen(uri, info, holdout_sources)
    training = provenance.of_training(images, data, (more_data, more_weight), options, teachers)
    output.mkdir(parents=True, exist_ok=True)
    network = fit(images, options, device, output)
    network.backbone.load_state_dict(bundle.round_to_stored(network.backbone.state_dict()))
    fixed = {
        "architecture": options.architecture,
        "input_size": options.input_size,
        "training": training,
    }
    learnt, _ = inputs_of(select_split(images, "train"), options.input_size)
    network.ood = fit_virtual_logit(network, learnt)
    decided = _calibrate(network, images, data, options.input_size, TARGET_ERROR)
    _score_holdout(network, strange, options.input_size, decided["metrics"])
    info = bundle.save(output, network, {**fixed, **decided})
    discard_checkpoint(output)
    return info


def calibrate_bundle(
    uris: Sequence[str],
    data: Path,
    output: Path,
    target_error: float,
    *,
    holdout_sources: Sequence[str] = (),
    holdout_bundles: Sequence[str] = (),
    device: str = "cpu",
) -> bundle.BundleInfo:
    """Set temperature, thresholds and OOD limit anew, on the val split of a data set.

    Args:
        uris: of a bundle; several of one architecture become one, side by side, which takes images of
            the largest input size.
        data: manifest or folder per label, see `images.read_dataset`.
        output: folder of the new bundle.
        target_error: share of wrong images among those routed under a label.
        holdout_sources: sources that none has learnt from, whose train and val images are only looked
            at in the end, as in `train_bundle`.
        holdout_bundles: bundles of the same training without some sources. What they say of the images of
            these, train and val, counts in the thresholds as images of strange hospitals do, and
            their figures are taken over.
        device: "cpu" or "cuda", where networks run.

    Raises:
        BundleError: bundles do not go together, one has learnt from what is left out, or one of
            `holdout_bundles` left nothing out.
        DatasetError: the data set cannot be used, or lacks what a bundle left out.
    """
    infos = [bundle.read_info(uri) for uri in uris]
    if len({(info.architecture, info.labels) for info in infos}) > 1:
        raise bundle.BundleError("bundles of several architectures or labels make no ensemble")
    sides = [side for info in infos for side in info.members or (info.input_size,)]
    if len(sides) > bundle.MAX_MEMBERS:
        raise bundle.BundleError(
            f"{len(sides)} networks side by side: at most {bundle.MAX_MEMBERS}"
        )
    for uri, info in zip(uris, infos, strict=True):
        provenance.require_unseen(uri, info, holdout_sources)
    holdout = [_holdout_figures(uri, bundle.read_info(uri)) for uri in holdout_bundles]
    images, strange = _split_holdout(data, holdout_sources)
    side = max(sides)
    if len(infos) == 1:
        network = bundle.load_network(uris[0])
        training = {name: of for name, of in infos[0].training.items() if name != "holdout"}
    else:
        network = _side_by_side([bundle.load_network(uri) for uri in uris], sides)
        training = provenance.of_ensemble(infos)
    if holdout:
        training["holdout"] = holdout
    network.to(device)
    unseen = [
        _predict_holdout(uri, figures, images, device)
        for uri, figures in zip(holdout_bundles, holdout, strict=True)
    ]
    fixed = {
        "architecture": infos[0].architecture,
        "input_size": side,
        "training": training,
    }
    decided = _calibrate(network, images, data, side, target_error, unseen)
    _score_holdout(network, strange, side, decided["metrics"])
    return bundle.save(output, network, {**fixed, **decided})


def _side_by_side(
    networks: Sequence[BodyPartClassifier], sides: Sequence[int]
) -> BodyPartClassifier:
    """Make the first of networks the ensemble of them all; it has the energy if one of them has."""
    whole = networks[0]
    members = [member for one in networks for member in members_of(one.backbone)]
    scores = [of for one in networks if one.ood is not None for of in members_of(one.ood)]
    whole.backbone = Ensemble(members, sides)
    whole.ood = MaxVirtualLogit(scores) if len(scores) == len(members) else None
    return whole


def _split_holdout(
    data: Path, holdout_sources: Sequence[str]
) -> tuple[list[LabeledImage], list[LabeledImage]]:
    """Return the images of a data set, and those of sources that are left out, less test images."""
    images = read_dataset(data)
    if missing := set(holdout_sources) - {image.source for image in images}:
        raise DatasetError(f"{data}: no source {', '.join(sorted(missing))}")
    strange = [f for f in images if f.source in holdout_sources and f.split != "test"]
    return [image for image in images if image.source not in holdout_sources], strange


def _score_holdout(
    network: BodyPartClassifier, strange: Sequence[LabeledImage], side: int, metrics: dict[str, Any]
) -> None:
    if not strange:
        return
    inputs, labels = inputs_of(strange, side)
    metrics["holdout"] = {
        "sources": sorted({image.source for image in strange}),
        **score(strange, predict(network, inputs)[:, :-1], labels),
    }


def _holdout_figures(uri: str, info: bundle.BundleInfo) -> dict[str, Any]:
    """Figures of a bundle on what it was trained without, and of that training."""
    figures = info.metrics.get("holdout")
    if figures is None:
        raise bundle.BundleError(f"model bundle {uri}: trained without --holdout_sources")
    epochs = provenance.options_of(info).get("epochs", "")
    sides = {"input_size": info.input_size, "members": list(info.members)}
    return {**sides, "epochs": epochs, **figures}


def _predict_holdout(
    uri: str, figures: dict[str, Any], images: Sequence[LabeledImage], device: str
) -> Predictions:
    """What a bundle says of the images that it was trained without."""
    sources, side = set(figures["sources"]), figures["input_size"]
    if missing := sources - {image.source for image in images}:
        raise DatasetError(
            f"no source {', '.join(sorted(missing))}, which {uri} held out, in the "
            "data without --holdout_sources"
        )
    network = load_to_predict(uri, device)
    known = [image for image in images if image.source not in sources]
    own = predict(network, inputs_of(select_split(known, "val"), side)[0])[:, -1]
    strange = [f for f in images if f.source in sources and f.split != "test"]
    if not strange:
        raise DatasetError(f"of what {uri} left out, the data has test images only")
    inputs, labels = inputs_of(strange, side)
    outputs = predict(network, inputs)
    return Predictions(outputs[:, :-1], labels, strangeness(outputs[:, -1], own))


def _calibrate(
    network: BodyPartClassifier,
    images: Sequence[LabeledImage],
    data: Path,
    input_size: int,
    target_error: float,
    holdout: Sequence[Predictions] = (),
) -> dict[str, Any]:
    """Calibrate a network on the val split; returns fields of `BundleInfo`."""
    val = select_split(images, "val")
    inputs, labels = inputs_of(val, input_size)
    logits, ood_scores = predict_logits(network, inputs), predict(network, inputs)[:, -1]
    found = calibrate(logits, ood_scores, labels, target_error=target_error, holdout=holdout)
    network.temperature = found.temperature
    return {
        "thresholds": found.thresholds,
        "ood_threshold": found.ood_threshold,
        "calibration": {"data": data.name, "split": "val", **found.evidence},
        "metrics": {"val": score(val, softmax(logits / found.temperature, axis=1), labels)},
    }

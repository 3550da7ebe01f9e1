"""Calibrate a bundle, or make one ensemble of several: `dicom-router calibrate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.bundle import MAX_MEMBERS, BundleError, BundleInfo
from models.ensemble import Ensemble, members_of
from models.networks import BodyPartClassifier
from models.ood_vim import VirtualLogit, VirtualLogits
from models.shared_stages import share_first_stages
from models.training import provenance
from models.training.calibration.calibrate import calibrate_network
from models.training.calibration.fit_outliers import fit_outlier_logit
from models.training.calibration.fit_regions import fit_regions, require_regions
from models.training.data.dataset import select_split
from models.training.data.images import LabeledImage, load_inputs
from models.training.data.outlier_folder import OutlierImages, read_outlier_folder
from models.training.holdout import (
    add_holdout_metrics,
    holdout_record,
    predict_holdout,
    split_holdout,
)
from models.training.options import HOLDOUT_ERROR
from models.weights import load_network, save_bundle, save_recalibrated


def calibrate_bundle(
    uris: Sequence[str],
    data: Path,
    output: Path,
    target_error: float,
    *,
    holdout_sources: Sequence[str] = (),
    holdout_bundles: Sequence[str] = (),
    holdout_error: float = HOLDOUT_ERROR,
    holdout_error_without_age: float | None = None,
    refit_outliers: bool = False,
    outlier_images: Path | None = None,
    device: str = "cpu",
) -> BundleInfo:
    """Set temperature, thresholds and OOD limit on the val split of a data set.

    A single bundle keeps its region head; that of an ensemble is fitted if one of the bundles has one.
    Frozen first stages of an ensemble's members have the statistics of the first member, so that they are
    computed once.

    Args:
        uris: of a bundle; several of one architecture become an ensemble, which takes images of the
            largest input size.
        data: manifest or folder per label; see `data.images.read_dataset`.
        output: folder of the new bundle.
        target_error: maximum error rate among the images routed to a label, 0..1.
        holdout_sources: sources that no bundle was trained on; the new bundle records the metrics on
            their train and val images.
        holdout_bundles: bundles of the same recipe with held-out sources. Their predictions on the
            held-out train and val images count in the thresholds, as of unseen sites, and the new
            bundle records their metrics.
        holdout_error: maximum error rate of these images, as far as they are routed, 0..1.
        holdout_error_without_age: the same if no patient's age is known, of labels with age groups; None
            takes `holdout_error`, which is the limit for images that an age decides.
        refit_outliers: fit the outlier logit of the OOD score on the train split first.
        outlier_images: folder of images that are not radiographs, on which it is fitted too.
        device: "cpu" or "cuda", where the networks run.

    Raises:
        BundleError: The bundles do not form an ensemble, one was trained on a held-out source, one of
            `holdout_bundles` held nothing out, or one to refit is an ensemble or has no virtual logit.
        DatasetError: The data set cannot be used, lacks a source that a bundle held out, or names too few
            regions.
    """
    infos = [provenance.read_bundle(uri) for uri in uris]
    if len({(info.architecture, info.labels) for info in infos}) > 1:
        raise BundleError("an ensemble needs bundles of one architecture and the same labels")
    if len(infos) > 1 and any(info.onnx is not None for info in infos):
        raise BundleError("an ensemble cannot have members that are ONNX graphs")
    input_sizes = [size for info in infos for size in info.members or (info.input_size,)]
    if len(input_sizes) > MAX_MEMBERS:
        raise BundleError(f"{len(input_sizes)} members: an ensemble has at most {MAX_MEMBERS}")
    for uri, info in zip(uris, infos, strict=True):
        provenance.require_unseen(uri, info, holdout_sources)
    records = [holdout_record(uri, provenance.read_bundle(uri)) for uri in holdout_bundles]
    images, holdout = split_holdout(data, holdout_sources, infos[0].labels)
    input_size = max(input_sizes)
    networks = [load_network(uri, "cuda" if device == "cuda" else "cpu") for uri in uris]
    folder = None if outlier_images is None else read_outlier_folder(outlier_images)
    if len(networks) > 1:
        share_first_stages([member for one in networks for member in members_of(one.backbone)])
    if refit_outliers:
        for uri, info, one in zip(uris, infos, networks, strict=True):
            _refit_outliers(uri, one, images, info.input_size, folder)
    if len(infos) == 1:
        network = networks[0]
        training = {name: of for name, of in infos[0].training.items() if name != "holdout"}
    else:
        network = _ensemble(networks, input_sizes)
        training = provenance.of_ensemble(infos)
    if records:
        training["holdout"] = records
    training = provenance.with_outliers(training, infos, folder, is_refitted=refit_outliers)
    network.to(device)
    unseen = [
        predict_holdout(uri, record, images, device)
        for uri, record in zip(holdout_bundles, records, strict=True)
    ]
    calibrated = calibrate_network(
        network,
        images,
        data.name,
        input_size,
        target_error,
        infos[0].label_set,
        unseen,
        holdout_error,
        holdout_error_without_age,
    )
    add_holdout_metrics(calibrated["metrics"], network, holdout, input_size)
    if len(infos) > 1 and any(info.regions is not None for info in infos):
        network.regions = require_regions(fit_regions(network, images, input_size))
    described = {
        "architecture": infos[0].architecture,
        "input_size": input_size,
        "label_definitions": infos[0].label_definitions,
        "training": training,
    }
    described |= calibrated
    if len(uris) == 1:
        return save_recalibrated(output, uris[0], network, described)
    return save_bundle(output, network, described)


def _refit_outliers(
    uri: str,
    network: BodyPartClassifier,
    images: Sequence[LabeledImage],
    input_size: int,
    folder: OutlierImages | None,
) -> None:
    if not isinstance(network.ood, VirtualLogit):
        raise BundleError(
            f"model bundle {uri}: outliers need a single network whose logits are one linear layer away "
            "from its features; refit the members of an ensemble, then combine them"
        )
    train, val = (
        load_inputs(select_split(images, split), input_size) for split in ("train", "val")
    )
    network.ood = fit_outlier_logit(network, network.ood, train, val, folder)


def _ensemble(
    networks: Sequence[BodyPartClassifier], input_sizes: Sequence[int]
) -> BodyPartClassifier:
    """Turn the first network into the ensemble of all; without an OOD score of each it has none."""
    ensemble = networks[0]
    members = [member for one in networks for member in members_of(one.backbone)]
    scores = [score for one in networks if one.ood is not None for score in members_of(one.ood)]
    ensemble.backbone = Ensemble(members, input_sizes)
    ensemble.regions = None
    ensemble.ood = VirtualLogits(scores) if len(scores) == len(members) else None
    return ensemble

"""Fine-tune a classifier: data loading and epochs."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import f1_score
from torch import Tensor
from torch.utils.data import DataLoader

from models.networks import BodyPartClassifier
from models.training.data.dataset import select_split
from models.training.data.derived_images import derive_images
from models.training.data.images import LabeledImage, label_indices, load_inputs
from models.training.data.mixing import MixedBatch, cutmix, mixup
from models.training.data.outlier_folder import OutlierImages
from models.training.data.regions import UNKNOWN_REGION, number_regions
from models.training.data.weighted_sampler import (
    OUTLIER,
    AugmentedImages,
    SampleOptions,
    WeightedSampler,
    sampling_weights,
)
from models.training.distillation import Teachers, distillation_loss
from models.training.evaluation.predict import predict_logits
from models.training.loss import supervised_loss
from models.training.options import FitOptions
from models.training.pretrained import initial_weights, load_pretrained
from models.training.progress import Progress
from models.training.training_state import LOG_FILE, TrainingState
from transforms.core.errors import UsageError
from transforms.core.labels import LABELS

LOG = logging.getLogger(__name__)
CACHE_FACTOR: Final = 1.5
"""Images are kept in memory at this multiple of the input size, so that crops stay sharp."""
DROP_RATE: Final = 0.2

Loader: TypeAlias = DataLoader[tuple[Tensor, int, int]]


def fit(
    images: list[LabeledImage],
    options: FitOptions,
    device: str,
    folder: Path,
    labels: tuple[str, ...] = LABELS,
    outliers: OutlierImages | None = None,
) -> BodyPartClassifier:
    """Fine-tune a network and return the mean of its weights over the last epochs.

    Not those of the epoch that is best on val: epochs differ there by a few images, and an early one,
    whose learning rate was still high, is worse on sources that are not in val.

    An interrupted training resumes after its last finished epoch, with the same result.

    Args:
        images: the data set; train is trained on, val is evaluated after each epoch.
        options: of the training.
        device: "cpu" or "cuda".
        folder: gets `training.jsonl`, a line per epoch, and a checkpoint.
        labels: names in order of the network's outputs.
        outliers: images that are not radiographs, for `outlier_exposure`.

    Raises:
        BundleError: A teacher cannot be read, or has other labels.
        DatasetError: The train or val split is empty, or an image cannot be read.
        UsageError: The folder has a checkpoint of another training, the network does not support the
            input size or has no stages to freeze, or there are fewer images than a batch or no regions.
    """
    torch.manual_seed(options.seed)
    train, val = select_split(images, "train"), select_split(images, "val")
    if absent := [label for label in labels if all(image.label != label for image in train)]:
        LOG.warning("no train images of %s: never predicted", ", ".join(absent))
    network = BodyPartClassifier(options.architecture, labels, drop_rate=DROP_RATE)
    if weights := initial_weights(options.init, options.architecture):
        load_pretrained(network, weights)
    _check_input_size(network, options)
    val_inputs, val_labels = load_inputs(val, options.input_size), label_indices(val, labels)
    loader, sampler, n_regions = _training_samples(train, options, labels, outliers)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    teachers = Teachers(options.teachers, device, labels, options.batch_size)
    state = TrainingState(network, options, options.epochs * len(loader), n_regions)
    identity = _identity(images, options, outliers)
    state.resume(folder, identity)
    for epoch in range(state.epochs + 1, options.epochs + 1):
        started = time.monotonic()
        sampler.epoch = epoch
        torch.manual_seed(options.seed * options.epochs + epoch)  # of dropout and mixup
        loss = _train_epoch(state, loader, teachers, options, f"epoch {epoch} of {options.epochs}")
        state.end_epoch()
        macro_f1 = _macro_f1(state.kept, val_inputs, val_labels)
        line = {
            "epoch": epoch,
            "loss": round(loss, 4),
            "val_macro_f1": round(macro_f1, 4),
            "seconds": round(time.monotonic() - started, 1),
        }
        print(json.dumps(line), flush=True)
        with (folder / LOG_FILE).open("a") as stream:
            stream.write(json.dumps({**line, "options": asdict(options)}) + "\n")
        state.save_checkpoint(folder, identity)
    return state.kept.to("cpu").eval()


def _identity(
    images: Sequence[LabeledImage], options: FitOptions, outliers: OutlierImages | None
) -> dict[str, Any]:
    """Return what must be the same to resume: the options and the listed images."""
    digest = hashlib.sha256("\n".join(map(repr, images)).encode()).hexdigest()
    identity = {**asdict(replace(options, workers=0)), "images": digest}
    return identity if outliers is None else {**identity, "outliers": outliers.provenance()}


def _training_samples(
    train: list[LabeledImage],
    options: FitOptions,
    names: Sequence[str],
    outliers: OutlierImages | None,
) -> tuple[Loader, WeightedSampler, int]:
    """Return batches of augmented images, their sampler, and the number of regions."""
    n_samples = len(train)
    derived = derive_images(train, options, round(options.input_size * CACHE_FACTOR))
    train, grays = [image for image, _ in derived], [gray for _, gray in derived]
    regions, n_regions = [UNKNOWN_REGION] * len(train), 0
    if options.region_weight:
        regions, n_regions = number_regions(train)
    weights = sampling_weights(train, options.source_power)
    sampler = WeightedSampler(weights, options.seed, n_samples)
    labels = label_indices(train, names).tolist()
    sample_options = SampleOptions(
        input_size=options.input_size,
        augmentation=options.augmentation,
        collimation=options.collimation,
        pairs=options.pairs,
        frames=options.frames,
        style_mix=options.style_mix,
        outlier_exposure=options.outlier_exposure,
    )
    loader = DataLoader(
        AugmentedImages(grays, labels, regions, weights, sample_options, outliers),
        batch_size=options.batch_size,
        sampler=sampler,
        num_workers=options.workers,
        drop_last=True,
        persistent_workers=options.workers > 0,
    )
    if not len(loader):
        raise UsageError(
            f"{len(train)} train images are fewer than a batch of {options.batch_size}; give a smaller "
            "--batch_size or more images"
        )
    return loader, sampler, n_regions


def _train_epoch(
    state: TrainingState, loader: Loader, teachers: Teachers, options: FitOptions, name: str
) -> float:
    """Train on every batch once; return the mean loss."""
    losses: list[float] = []
    progress = Progress(name, len(loader))
    state.network.train()
    if state.epochs:
        state.frozen.freeze_statistics(options.input_size)
    for images, labels, regions in loader:
        batch = _mix(images.to(state.device), options, state.steps)
        loss = _batch_loss(
            state, batch, labels.to(state.device), regions.to(state.device), teachers, options
        )
        state.step(loss)
        losses.append(float(loss.detach()))
        progress.step(f"loss {np.mean(losses):.3f}")
    return float(np.mean(losses))


def _batch_loss(
    state: TrainingState,
    batch: MixedBatch,
    labels: Tensor,
    regions: Tensor,
    teachers: Teachers,
    options: FitOptions,
) -> Tensor:
    """Return the loss of a batch on labels, regions and teachers."""
    head = state.network.backbone.forward_head
    with _autocast(state.device.type):
        maps = state.frozen.feature_maps(batch.images)
        logits = head(maps).float()
        region_logits = logits.new_empty(0)
        if options.region_weight:
            region_logits = state.regions(head(maps, pre_logits=True)).float()
        targets = teachers.probabilities(batch.images) if options.teachers else None
    loss = batch.weight * supervised_loss(logits, region_logits, labels, regions, options)
    if batch.weight < 1:
        partners = (labels[batch.partners], regions[batch.partners])
        partner_loss = supervised_loss(logits, region_logits, *partners, options)
        loss = loss + (1 - batch.weight) * partner_loss
    if targets is not None:
        distillation = distillation_loss(logits, targets)[labels != OUTLIER].sum() / len(labels)
        loss = torch.lerp(loss, distillation, options.teacher_weight)
    return loss


def _mix(images: Tensor, options: FitOptions, step: int) -> MixedBatch:
    """Apply mixup or CutMix; the draw depends on the step, so a resumed training repeats it."""
    rng = np.random.default_rng(step)
    if options.cutmix and (not options.mixup or step % 2):
        return cutmix(images, options.cutmix, rng)
    if options.mixup:
        return mixup(images, options.mixup, rng)
    return MixedBatch(images, torch.arange(len(images)), weight=1.0)


def _macro_f1(network: BodyPartClassifier, inputs: Tensor, labels: npt.NDArray[np.int64]) -> float:
    with _autocast(network.device.type):
        predicted = predict_logits(network, inputs).argmax(1)
    return float(f1_score(labels, predicted, labels=np.unique(labels), average="macro"))


def _autocast(device: str) -> torch.autocast:
    """Use bfloat16 on CUDA; on CPUs it slows the backward pass of depthwise convolutions."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


@torch.no_grad()
def _check_input_size(network: BodyPartClassifier, options: FitOptions) -> None:
    """Raise `UsageError` if the network does not support the input size."""
    size = options.input_size
    try:
        network.eval().logits(torch.zeros(1, 1, size, size, dtype=torch.uint8))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"{options.architecture} does not support --input_size {size}: {error}"
        ) from error

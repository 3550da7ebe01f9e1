"""Fine-tuning of an image classifier: optimisation, weight averaging, choice on validation."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.networks import BodyPartClassifier
from models.training.data.images import LabeledImage, load_resized, select_split
from models.training.data.mixing import MixedBatch, cutmix, mixup
from models.training.data.regions import UNKNOWN, number_regions
from models.training.data.weighted_sampler import (
    OUTLIER,
    AugmentedImages,
    WeightedSampler,
    sampling_weights,
)
from models.training.distillation import Teachers, distillation_loss
from models.training.evaluation.predict import inputs_of, predict_logits
from models.training.frozen_stages import FrozenStages
from models.training.loss import supervised_loss
from models.training.options import FitOptions
from models.training.pretrained import load_initial_weights
from models.training.progress import Progress
from transforms.core.errors import UsageError
from transforms.core.labels import LABELS

LOG = logging.getLogger(__name__)
LOG_FILE = "training.jsonl"
CHECKPOINT_FILE = "checkpoint.pt"
WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""
LEAST_SCHEDULE = 20
"""Steps of the shortest schedule; of ten, a warm-up would be of none."""
CACHE_FACTOR = 1.5
"""Images are kept in memory at this multiple of the input size, so that crops stay sharp."""


def fit(
    images: list[LabeledImage], options: FitOptions, device: str, folder: Path
) -> BodyPartClassifier:
    """Fine-tune a network and return its averaged weights of the pass that was best on val.

    A training that was ended goes on from its last whole pass, and comes to the same.

    Args:
        images: the data set; only train is learnt from, only val chosen on.
        options: see `FitOptions`.
        device: "cpu" or "cuda".
        folder: gets `training.jsonl`, a line per epoch, and `checkpoint.pt`.

    Raises:
        BundleError: a teacher cannot be read, or has other labels.
        DatasetError: there are no images to learn from or to choose on, or one cannot be read.
        UsageError: the folder holds an unfinished training of other images or with other options, the
            network takes no images of this size or has no stages to freeze, or the images make no batch
            or have no regions to tell apart.
    """
    torch.manual_seed(options.seed)
    train, val = select_split(images, "train"), select_split(images, "val")
    if never := [label for label in LABELS if all(image.label != label for image in train)]:
        LOG.warning("no train images of %s: it will not be recognised", ", ".join(never))
    network = BodyPartClassifier(options.architecture, LABELS, drop_rate=0.2)
    if options.init:
        load_initial_weights(network, Path(options.init))
    _check_input_size(network, options)
    grays = load_resized(train, round(options.input_size * CACHE_FACTOR))
    val_inputs, val_labels = inputs_of(val, options.input_size)
    regions, n_regions = [UNKNOWN] * len(train), 0
    if options.region_weight:
        regions, n_regions = number_regions(train)
    weights = sampling_weights(train, options.source_power)
    sampler = WeightedSampler(weights, options.seed)
    loader = DataLoader(
        AugmentedImages(grays, [LABELS.index(f.label) for f in train], regions, weights, options),
        batch_size=options.batch_size,
        sampler=sampler,
        num_workers=options.workers,
        drop_last=True,
        persistent_workers=options.workers > 0,
    )
    if not len(loader):
        raise UsageError(
            f"{len(train)} train images make no batch of {options.batch_size}; give a smaller "
            "--batch_size or more images"
        )
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    teachers = Teachers(options.teachers, device)
    state = Training(network, options, options.epochs * len(loader), n_regions)
    same = _identity(images, options)
    state.resume(folder, same)
    for number in range(state.epochs + 1, options.epochs + 1):
        started = time.monotonic()
        sampler.number = number
        torch.manual_seed(options.seed * options.epochs + number)  # of dropout and mixup
        loss = _train_epoch(state, loader, teachers, options, f"pass {number} of {options.epochs}")
        with _autocast(device):
            predicted = predict_logits(state.averaged, val_inputs).argmax(1)
        macro_f1 = float(
            f1_score(val_labels, predicted, labels=np.unique(val_labels), average="macro")
        )
        line = {
            "epoch": number,
            "loss": round(loss, 4),
            "val_macro_f1": round(macro_f1, 4),
            "seconds": round(time.monotonic() - started, 1),
        }
        print(json.dumps(line), flush=True)
        with (folder / LOG_FILE).open("a") as stream:
            stream.write(json.dumps({**line, "options": asdict(options)}) + "\n")
        state.end_epoch(macro_f1)
        state.save_checkpoint(folder, same)
    state.averaged.load_state_dict(state.best_weights)
    return state.averaged.to("cpu").eval()


def discard_checkpoint(folder: Path) -> None:
    """Forget how to go on with a training: what came of it is safe."""
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)


def _identity(images: Sequence[LabeledImage], options: FitOptions) -> dict[str, Any]:
    """What has to be the same for a training to go on: options, and images as the data set lists them."""
    digest = hashlib.sha256("\n".join(map(repr, images)).encode()).hexdigest()
    return {**asdict(replace(options, workers=0)), "images": digest}


class Training:
    """Everything that changes while a network is trained."""

    def __init__(
        self, network: BodyPartClassifier, options: FitOptions, steps: int, n_regions: int = 0
    ) -> None:
        self.network, self.device = network, network.device
        self.frozen = FrozenStages(network, options.freeze)
        self.averaged = copy.deepcopy(network).eval()
        self.regions: nn.Module = nn.Identity()
        if n_regions:
            n_features = _number_of_features(network, options.input_size)
            self.regions = nn.Linear(n_features, n_regions, device=self.device)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(nn.ModuleList([network, self.regions]), options.weight_decay),
            lr=options.learning_rate,
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            options.learning_rate,
            total_steps=max(steps, LEAST_SCHEDULE),
            pct_start=WARM_UP,
        )
        self.ema_decay = options.ema_decay
        self.epochs = self.steps = 0
        self.best, self.best_weights = -1.0, self.averaged.state_dict()

    def step(self, loss: Tensor) -> None:
        """Descend once."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 2.0)
        self.optimizer.step()
        self.schedule.step()
        self.steps += 1
        decay = min(self.ema_decay, (1 + self.steps) / (10 + self.steps))
        _average(self.averaged, self.network, decay)

    def end_epoch(self, macro_f1: float) -> None:
        """Keep the averaged weights, if they are the best so far."""
        self.epochs += 1
        if macro_f1 >= self.best:
            self.best, self.best_weights = macro_f1, copy.deepcopy(self.averaged.state_dict())

    _STATEFUL = ("network", "averaged", "regions", "optimizer", "schedule")
    _PLAIN = ("epochs", "steps", "best", "best_weights")

    def save_checkpoint(self, folder: Path, identity: dict[str, Any]) -> None:
        """Write all of it, so that a training can go on after its end."""
        kept = {name: getattr(self, name).state_dict() for name in self._STATEFUL}
        kept |= {name: getattr(self, name) for name in self._PLAIN}
        scratch = folder / f"{CHECKPOINT_FILE}.tmp"
        torch.save({**kept, "identity": identity}, scratch)
        scratch.replace(folder / CHECKPOINT_FILE)

    def resume(self, folder: Path, identity: dict[str, Any]) -> None:
        """Go on from what a training left in a folder, if there is such."""
        path = folder / CHECKPOINT_FILE
        if not path.exists():
            (folder / LOG_FILE).unlink(missing_ok=True)
            return
        kept = torch.load(path, map_location=self.device, weights_only=True)
        if kept.get("identity") != identity:
            raise UsageError(
                f"{path} is of an unfinished training of other images or with other options; give the "
                "same, remove the file, or choose another --output"
            )
        for name in self._STATEFUL:
            getattr(self, name).load_state_dict(kept[name])
        for name in self._PLAIN:
            setattr(self, name, kept[name])
        log = folder / LOG_FILE
        if log.exists():  # with a line too many, where a pass was told and not kept
            log.write_text("".join(log.read_text().splitlines(keepends=True)[: self.epochs]))


def _train_epoch(
    state: Training,
    loader: DataLoader[tuple[Tensor, int, int]],
    teachers: Teachers,
    options: FitOptions,
    name: str,
) -> float:
    """Learn from every batch once; returns the mean loss."""
    losses: list[float] = []
    progress = Progress(name, len(loader))
    state.network.train()
    if state.epochs:
        state.frozen.freeze_statistics(options.input_size)
    head = state.network.backbone.forward_head
    for images, *numbers in loader:
        labels, regions = (of.to(state.device) for of in numbers)
        shown = _mix(images.to(state.device), options, state.steps)
        with _autocast(state.device.type):
            maps = state.frozen.feature_maps(shown.images)
            logits = head(maps).float()
            of_regions = logits.new_empty(0)
            if options.region_weight:
                of_regions = state.regions(head(maps, pre_logits=True)).float()
            taught = teachers.probabilities(shown.images) if options.teachers else None
        loss = shown.share * supervised_loss(logits, of_regions, labels, regions, options)
        if shown.share < 1:
            others = (labels[shown.order], regions[shown.order])
            loss = loss + (1 - shown.share) * supervised_loss(logits, of_regions, *others, options)
        if taught is not None:
            apart = distillation_loss(logits, taught)[labels != OUTLIER].sum() / len(labels)
            loss = torch.lerp(loss, apart, options.teacher_weight)
        state.step(loss)
        losses.append(float(loss.detach()))
        progress.step(f"loss {np.mean(losses):.3f}")
    return float(np.mean(losses))


def _mix(images: Tensor, options: FitOptions, step: int) -> MixedBatch:
    """Blend a batch as the options say; another way for each step, the same in a training resumed."""
    rng = np.random.default_rng(step)
    if options.cutmix and (not options.mixup or step % 2):
        return cutmix(images, options.cutmix, rng)
    if options.mixup:
        return mixup(images, options.mixup, rng)
    return MixedBatch(images, torch.arange(len(images)), share=1.0)


def _autocast(device: str) -> torch.autocast:
    """bfloat16 on CUDA; on CPUs the backward of depthwise convolutions is slower in it."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


@torch.no_grad()
def _check_input_size(network: BodyPartClassifier, options: FitOptions) -> None:
    """Raise a `UsageError` if a network takes no images of the input size; some take one only."""
    side = options.input_size
    try:
        network.eval().logits(torch.zeros(1, 1, side, side, dtype=torch.uint8))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"{options.architecture} takes no images of --input_size {side}: {error}"
        ) from error


@torch.no_grad()
def _number_of_features(network: BodyPartClassifier, side: int) -> int:
    """Ask a network, for it is no matter of its architecture's name."""
    was_training = network.training
    image = torch.zeros(1, 1, side, side, dtype=torch.uint8, device=network.device)
    features = network.eval().features(image)
    network.train(was_training)
    return features.shape[1]


def _parameter_groups(network: nn.Module, decay: float) -> Iterator[dict[str, object]]:
    learnt = [p for p in network.parameters() if p.requires_grad]
    matrices = [p for p in learnt if p.ndim > 1]
    vectors = [p for p in learnt if p.ndim <= 1]
    yield {"params": matrices, "weight_decay": decay}
    yield {"params": vectors, "weight_decay": 0.0}


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    for mine, theirs in zip(
        averaged.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if mine.is_floating_point():
            mine.lerp_(theirs, 1 - decay)
        else:
            mine.copy_(theirs)

"""State of a training: network, averaged weights, optimizer and schedule, with checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from models.networks import BodyPartClassifier
from models.training.frozen_stages import FrozenStages
from models.training.options import FitOptions
from transforms.core.errors import UsageError

LOG_FILE: Final = "training.jsonl"
CHECKPOINT_FILE: Final = "checkpoint.pt"
WARM_UP: Final = 0.1
"""Share of the steps in which the learning rate rises."""
MIN_SCHEDULE_STEPS: Final = 20
"""A shorter schedule would have no warm-up."""
MAX_GRADIENT_NORM: Final = 2.0


class TrainingState:
    """Everything that changes during a training.

    Attributes:
        averaged: the network with exponentially averaged weights.
        kept: the network with the mean of `averaged` at the ends of the last epochs; as `averaged`
            before them.
        regions: auxiliary head on the features, of `n_regions` outputs.
        epochs: number of finished epochs.
        steps: number of finished steps.
    """

    _STATEFUL = ("network", "averaged", "kept", "regions", "optimizer", "schedule")
    _PLAIN = ("epochs", "steps")

    def __init__(
        self, network: BodyPartClassifier, options: FitOptions, steps: int, n_regions: int = 0
    ) -> None:
        self.network, self.device = network, network.device
        self.frozen = FrozenStages(network, options.freeze)
        self.averaged = copy.deepcopy(network).eval()
        self.kept = copy.deepcopy(network).eval()
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
            total_steps=max(steps, MIN_SCHEDULE_STEPS),
            pct_start=WARM_UP,
        )
        self.ema_decay = options.ema_decay
        last_epochs = max(1, round(options.epochs * options.averaged_share))
        self.first_kept = 1 + options.epochs - last_epochs
        self.epochs = self.steps = 0

    def step(self, loss: Tensor) -> None:
        """Take one optimizer step and update the averaged weights."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.schedule.step()
        self.steps += 1
        decay = min(self.ema_decay, (1 + self.steps) / (10 + self.steps))
        _average(self.averaged, self.network, decay)

    def end_epoch(self) -> None:
        """Count an epoch, and add its averaged weights to those that are kept."""
        self.epochs += 1
        number = max(1, self.epochs - self.first_kept + 1)
        _average(self.kept, self.averaged, 1 - 1 / number)

    def save_checkpoint(self, folder: Path, identity: dict[str, Any]) -> None:
        """Write the state, so that the training can be resumed.

        Args:
            folder: of the bundle.
            identity: must be the same to resume.
        """
        saved = {name: getattr(self, name).state_dict() for name in self._STATEFUL}
        saved |= {name: getattr(self, name) for name in self._PLAIN}
        temporary = folder / f"{CHECKPOINT_FILE}.tmp"
        torch.save({**saved, "identity": identity}, temporary)
        temporary.replace(folder / CHECKPOINT_FILE)

    def resume(self, folder: Path, identity: dict[str, Any]) -> None:
        """Load the checkpoint in a folder, if there is one.

        Raises:
            UsageError: It is of another training.
        """
        path = folder / CHECKPOINT_FILE
        if not path.exists():
            (folder / LOG_FILE).unlink(missing_ok=True)
            return
        saved = torch.load(path, map_location=self.device, weights_only=True)
        if saved.get("identity") != identity:
            raise UsageError(
                f"{path} is the checkpoint of a training with other images or options; give the same, "
                "remove the file, or choose another --output"
            )
        for name in self._STATEFUL:
            getattr(self, name).load_state_dict(saved[name])
        for name in self._PLAIN:
            setattr(self, name, saved[name])
        log = folder / LOG_FILE
        if log.exists():  # has one line more if the epoch was logged and not saved
            log.write_text("".join(log.read_text().splitlines(keepends=True)[: self.epochs]))


def discard_checkpoint(folder: Path) -> None:
    """Remove the checkpoint, once the bundle is written."""
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)


@torch.no_grad()
def _number_of_features(network: BodyPartClassifier, input_size: int) -> int:
    """Return the number of features, measured, because it depends on the architecture."""
    was_training = network.training
    blank = torch.zeros(1, 1, input_size, input_size, dtype=torch.uint8, device=network.device)
    features = network.eval().features(blank)
    network.train(was_training)
    return features.shape[1]


def _parameter_groups(network: nn.Module, decay: float) -> Iterator[dict[str, object]]:
    trained = [p for p in network.parameters() if p.requires_grad]
    yield {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay}
    yield {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0}


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, current in zip(
        averaged.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if mean.is_floating_point():
            mean.lerp_(current, 1 - decay)
        else:
            mean.copy_(current)

"""Frozen stages keep their weights and their output, and are faster."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from models.networks import BodyPartClassifier
from models.training.data.dataset import read_dataset
from models.training.fit import fit
from models.training.frozen_stages import FrozenStages
from models.training.options import FitOptions
from models.training.training_state import TrainingState
from pipeline.cli import main
from transforms.core.labels import LABELS

SIDE = 64
FROZEN = ("conv_stem", "bn1", "blocks.0.", "blocks.1.")
"""Prefixes of the parameters of two frozen stages."""


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["test_efficientnet", "tf_efficientnet_lite0"])
def test_frozen_stages_keep_their_weights(
    architecture: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_epoch: list[dict[str, torch.Tensor]] = []
    original = TrainingState.save_checkpoint

    def save_checkpoint(self: TrainingState, folder: Path, identity: dict[str, Any]) -> None:
        after_epoch.append(copy.deepcopy(self.network.backbone.state_dict()))
        original(self, folder, identity)

    monkeypatch.setattr(TrainingState, "save_checkpoint", save_checkpoint)
    options = FitOptions(
        architecture=architecture,
        init="none",
        input_size=32,
        epochs=2,
        batch_size=8,
        workers=0,
        freeze=2,
    )
    found = fit(read_dataset(folders), options, "cpu", tmp_path).backbone.state_dict()
    first, second = after_epoch
    means = [name for name in first if name.endswith("running_mean")]
    frozen_means = {name for name in means if torch.equal(first[name], second[name])}
    assert frozen_means == {name for name in means if name.startswith(FROZEN)}
    torch.manual_seed(FitOptions().seed)
    started = BodyPartClassifier(architecture, LABELS, drop_rate=0.2).backbone.state_dict()
    for name in started:
        if name.endswith("weight"):
            is_frozen = name.startswith(FROZEN)
            assert torch.equal(found[name], started[name]) == is_frozen, name


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["test_efficientnet", "tf_efficientnet_lite0"])
def test_frozen_statistics_keep_the_feature_maps(architecture: str) -> None:
    torch.manual_seed(0)
    network = BodyPartClassifier(architecture, LABELS)
    frozen = FrozenStages(network, 3)
    images = torch.randint(256, (12, 1, SIDE, SIDE), dtype=torch.uint8)
    network.train()
    with torch.no_grad():
        for _ in range(20):
            frozen.feature_maps(images)
    moved = network.backbone.bn1.running_mean.clone()
    assert not torch.equal(moved, torch.zeros_like(moved))
    network.eval()
    with torch.no_grad():
        expected = network.backbone.forward_features(network.normalize(images))
    frozen.freeze_statistics(SIDE)
    assert (frozen.fused is not None) == (architecture != "test_efficientnet")
    maps = frozen.feature_maps(images)
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-3)
    maps.sum().backward()  # type: ignore[no-untyped-call]
    network.train()
    frozen.freeze_statistics(SIDE)
    later = network.backbone.blocks[-1].state_dict()
    before = {name: of.clone() for name, of in later.items()}
    frozen.feature_maps(images)
    assert torch.equal(network.backbone.bn1.running_mean, moved)
    trained = {
        name.split(".")[1]: parameter.grad is not None
        for name, parameter in network.backbone.blocks.named_parameters("blocks")
    }
    assert trained == {str(stage): stage >= 3 for stage in range(len(network.backbone.blocks))}
    means = [name for name in later if name.endswith("running_mean")]
    assert not any(torch.equal(later[name], before[name]) for name in means)


def test_a_network_without_stages_is_refused(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--data", str(folders), "--output", str(tmp_path / "x"), "--device", "cpu"]
    train += ["--init", "none", "--input_size", "32", "--workers", "0"]
    assert main([*train, "--architecture", "test_vit", "--freeze", "1"]) == 2
    assert "no stages" in capsys.readouterr().err

"""First stages with the same weights are computed once, and give each member the values that it had."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from models.efficientnet_lite import EfficientNetLite
from models.ensemble import Ensemble
from models.fused import FusedEfficientNetLite, FusedEnsemble, fuse
from models.networks import BodyPartClassifier
from models.shared_stages import share_first_stages, shared_stages
from models.weights import load_network, save_bundle
from pipeline.cli import main
from tests.models.test_ensemble import FIELDS
from tests.models.test_fused import classifier, images
from transforms.core.labels import LABELS

LITE0 = "tf_efficientnet_lite0"
FROZEN = 3


def trained_from(first: BodyPartClassifier, stages: int, seed: int) -> BodyPartClassifier:
    """Return a network with other weights after `stages` stages and other statistics everywhere."""
    other, plain = classifier(LITE0, seed), first.backbone
    parts = [(plain.conv_stem, other.backbone.conv_stem), (plain.bn1, other.backbone.bn1)]
    parts += zip(plain.blocks[:stages], other.backbone.blocks[:stages], strict=True)
    for mine, theirs in parts:
        for (_, parameter), (_, changed) in zip(
            mine.named_parameters(), theirs.named_parameters(), strict=True
        ):
            changed.data.copy_(parameter.data)
    return other


def ensemble_of(
    *members: BodyPartClassifier, sides: tuple[int, ...] = (64, 64)
) -> BodyPartClassifier:
    backbone = Ensemble([copy.deepcopy(member.backbone) for member in members], sides)
    return BodyPartClassifier(LITE0, LABELS, backbone=backbone).eval()


def test_frozen_stages_get_the_statistics_of_the_first_member() -> None:
    first = classifier(LITE0)
    second = trained_from(first, FROZEN, seed=1)
    assert shared_stages([first.backbone, second.backbone]) == 0
    rest = {n: t.clone() for n, t in second.backbone.state_dict().items() if "blocks.3" in n}
    assert share_first_stages([first.backbone, second.backbone]) == FROZEN
    assert shared_stages([first.backbone, second.backbone]) == FROZEN
    assert all(torch.equal(second.backbone.state_dict()[name], rest[name]) for name in rest)


def test_networks_with_other_weights_are_left_alone() -> None:
    networks = [classifier(LITE0, seed).backbone for seed in range(2)]
    before = copy.deepcopy(networks[1].state_dict())
    assert share_first_stages(networks) == 0
    after = networks[1].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert shared_stages(networks[:1]) == 0
    assert share_first_stages([networks[0], torch.nn.Identity()]) == 0


@torch.inference_mode()
def test_shared_stages_are_computed_once_with_the_same_values() -> None:
    first = classifier(LITE0)
    second = trained_from(first, FROZEN, seed=1)
    share_first_stages([first.backbone, second.backbone])
    network, given = ensemble_of(first, second), images(8, 64)
    expected, pooled = network(given), network.features_and_statistics(given)
    fuse(network, 64)
    assert isinstance(network.backbone, FusedEnsemble)
    shared, other = (member.first for member in network.backbone)
    assert shared is other and shared.stages == FROZEN
    calls: list[int] = []
    shared.stem.register_forward_hook(lambda *_: calls.append(1))
    assert torch.allclose(network(given), expected, rtol=0, atol=1e-4)
    assert len(calls) == 1
    for fused, plain in zip(network.features_and_statistics(given), pooled, strict=True):
        assert torch.allclose(fused, plain, rtol=1e-3, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("sides", [(64, 64), (48, 64)], ids=["other statistics", "other sizes"])
def test_members_that_differ_are_computed_each(sides: tuple[int, int]) -> None:
    first = classifier(LITE0)
    second = trained_from(first, FROZEN, seed=1)
    if sides[0] != sides[1]:
        share_first_stages([first.backbone, second.backbone])
    network, given = ensemble_of(first, second, sides=sides), images(8, 64)
    expected = network(given)
    fuse(network, 64)
    one, other = network.backbone
    assert isinstance(one, FusedEfficientNetLite) and one.first is not other.first
    assert torch.allclose(network(given), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_calibrate_makes_an_ensemble_that_shares_frozen_stages(
    manifest: Path, tmp_path: Path
) -> None:
    first = classifier(LITE0)
    for name, network in (("a", first), ("b", trained_from(first, FROZEN, seed=1))):
        save_bundle(tmp_path / name, network, {"architecture": LITE0, **FIELDS})
    command = ["calibrate", "--data", str(manifest), "--model", str(tmp_path / "a")]
    command += ["--ensemble", str(tmp_path / "b"), "--output", str(tmp_path / "joined")]
    assert main(command) == 0
    members = list(load_network(str(tmp_path / "joined")).backbone)
    assert all(isinstance(member, EfficientNetLite) for member in members)
    assert shared_stages(members) == FROZEN

"""The fused backbone is used only if it gives the plain one's values."""

from __future__ import annotations

import logging

import pytest
import torch

from models import fused
from models.efficientnet_lite import EfficientNetLite
from models.ensemble import members_of
from models.fused import CPU_FORWARD_BATCH, FusedEfficientNetLite, fuse
from models.handler import RadiographModelHandler
from models.networks import BodyPartClassifier
from transforms.core.labels import LABELS


def classifier(architecture: str, seed: int = 0) -> BodyPartClassifier:
    torch.manual_seed(seed)
    network = BodyPartClassifier(architecture, LABELS).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def images(count: int, side: int) -> torch.Tensor:
    return torch.randint(256, (count, 1, side, side), dtype=torch.uint8)


@pytest.mark.parametrize("architecture", ["tf_efficientnet_lite0", "tf_efficientnet_lite2"])
@pytest.mark.parametrize("side", [192, 150, 137])
@torch.inference_mode()
def test_values_are_those_of_the_plain_backbone(architecture: str, side: int) -> None:
    network = classifier(architecture)
    given = images(3, side)
    expected, pooled = network(given), network.features_and_statistics(given)
    fuse(network, side)
    assert isinstance(network.backbone, FusedEfficientNetLite)
    assert torch.allclose(network(given), expected, rtol=0, atol=1e-4)
    for served, plain in zip(network.features_and_statistics(given), pooled, strict=True):
        assert torch.allclose(served, plain, rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_a_result_does_not_depend_on_the_batch() -> None:
    network = classifier("tf_efficientnet_lite0")
    fuse(network, 64)
    given = images(CPU_FORWARD_BATCH, 64)
    alone = torch.cat((given[3:4], torch.zeros_like(given[1:])))
    assert torch.equal(network(given)[3], network(alone)[0])


def test_a_fused_backbone_with_other_values_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fused, "CLAMP", fused.NO_CLAMP)
    network = classifier("tf_efficientnet_lite0")
    fuse(network, 64)
    assert isinstance(network.backbone, EfficientNetLite)
    assert "differ" in caplog.text


def test_the_plain_backbone_serves_without_the_operators(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    network = classifier("tf_efficientnet_lite0")
    with caplog.at_level(logging.INFO, logger="models.fused"):
        fuse(network, 64)
    assert isinstance(network.backbone, EfficientNetLite)
    assert "no fused backbone" in caplog.text


def test_other_networks_are_left_alone() -> None:
    network = classifier("test_efficientnet")
    plain = network.backbone
    fuse(network, 64)
    assert network.backbone is plain


def test_the_default_bundle_serves_fused_on_the_cpu() -> None:
    handler = RadiographModelHandler("builtin:default", device="cpu")
    served = handler.load_model().current()
    members = members_of(served.network.backbone)
    assert len(members) == (len(served.info.members) or 1)
    assert all(isinstance(member, FusedEfficientNetLite) for member in members)

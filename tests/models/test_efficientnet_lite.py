"""EfficientNet-Lite has timm's parameters and outputs, and inference does not import timm."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch

from models.efficientnet_lite import VARIANTS, EfficientNetLite


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", [64, 75])
def test_outputs_are_those_of_timm(variant: str, side: int) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(variant, pretrained=False, in_chans=1, num_classes=5).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    ours = EfficientNetLite(variant, in_chans=1, num_classes=5).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 1, side, side) * 2 - 1
    with torch.inference_mode():
        assert torch.allclose(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_default_bundle_is_loaded_without_timm() -> None:
    """Importing timm takes seconds at the start of every run and worker."""
    code = (
        "import sys; from models.weights import load_network; "
        "load_network('builtin:default'); "
        "sys.exit(any(name in sys.modules for name in ('timm', 'torchvision')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

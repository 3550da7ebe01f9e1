"""Load and save the network of a model bundle.

Weights are safetensors, so loading a bundle runs no code from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors.torch
from torch import Tensor

from models.bundle import (
    BUNDLE_FILE,
    WEIGHTS_FILE,
    BundleError,
    BundleInfo,
    make_info,
    read_file,
    read_info,
)
from models.ensemble import Ensemble
from models.networks import BodyPartClassifier
from models.ood_vim import MaxVirtualLogit, VirtualLogit
from transforms.core.errors import UsageError
from transforms.imaging.preprocessing import PREPROCESSING

OOD_PREFIX: Final = "ood."
"""Prefix of the names of the OOD score's tensors; all others are the backbone's."""


def load_network(uri: str) -> BodyPartClassifier:
    """Load the network of a bundle on the CPU, in float32 and evaluation mode.

    Raises:
        BundleError: A file is missing, the weights do not have the digest in `bundle.json`, or they do
            not fit the architecture.
    """
    info = read_info(uri)
    raw = read_file(uri, WEIGHTS_FILE)
    digest = hashlib.sha256(raw).hexdigest()
    if digest != info.weights_sha256:
        raise BundleError(
            f"model bundle {uri}: {WEIGHTS_FILE} has sha256 {digest[:12]}…, {BUNDLE_FILE} expects "
            f"{info.weights_sha256[:12]}…; copy the whole bundle again"
        )
    try:
        network = BodyPartClassifier(
            info.architecture, info.labels, members=info.members, temperature=info.temperature
        )
    except UsageError as error:
        raise BundleError(f"model bundle {uri}: {error}") from error
    try:
        state = {name: t.float() for name, t in safetensors.torch.load(raw).items()}
        network.backbone.load_state_dict(
            {name: t for name, t in state.items() if not name.startswith(OOD_PREFIX)}
        )
        if ood := _with_prefix(OOD_PREFIX, state):
            network.ood = _load_ood(ood, len(info.members))
    except (RuntimeError, TypeError, safetensors.SafetensorError) as error:
        raise BundleError(
            f"model bundle {uri}: the weights do not fit {info.architecture}: {error}"
        ) from error
    return network.eval()


def save_bundle(directory: Path, network: BodyPartClassifier, fields: dict[str, Any]) -> BundleInfo:
    """Write a bundle, with weights in float16.

    Args:
        directory: created if missing; a bundle in it is replaced.
        network: provides backbone, OOD score, labels, members and temperature.
        fields: the other fields of `BundleInfo`, except `weights_sha256` and `preprocessing`.

    Raises:
        BundleError: The fields are invalid.
    """
    tensors = dict(network.backbone.state_dict())
    if network.ood is not None:
        tensors |= network.ood.state_dict(prefix=OOD_PREFIX)
    state = {
        name: (t.half() if t.is_floating_point() else t).contiguous().cpu()
        for name, t in tensors.items()
    }
    raw = safetensors.torch.save(state)
    backbone = network.backbone
    info = make_info(
        {
            "labels": network.labels,
            "members": backbone.input_sizes if isinstance(backbone, Ensemble) else (),
            "temperature": network.temperature,
            "weights_sha256": hashlib.sha256(raw).hexdigest(),
            "preprocessing": PREPROCESSING,
            **fields,
        }
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / WEIGHTS_FILE).write_bytes(raw)
    (directory / BUNDLE_FILE).write_text(json.dumps(info.model_dump(), indent=2) + "\n")
    return info


def round_to_stored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights rounded to float16 and back, as loading a saved bundle returns them."""
    return {name: t.half().float() if t.is_floating_point() else t for name, t in state.items()}


def _load_ood(state: Mapping[str, Tensor], members: int) -> VirtualLogit | MaxVirtualLogit:
    if not members:
        return VirtualLogit(**state)
    parts = [_with_prefix(f"{i}.", state) for i in range(members)]
    if sum(map(len, parts)) < len(state):
        raise TypeError(f"OOD scores of more or other than {members} members")
    return MaxVirtualLogit(VirtualLogit(**part) for part in parts)


def _with_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}

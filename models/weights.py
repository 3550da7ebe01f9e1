"""Load and save the network of a model bundle.

Weights are safetensors, or an ONNX graph with the operators of ONNX Runtime, so loading a bundle runs no
code from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import safetensors.torch
import torch
from torch import Tensor

from models.bundle import (
    BUNDLE_FILE,
    ONNX_FILE,
    BundleError,
    BundleInfo,
    make_info,
    read_file,
    read_info,
    require_onnxruntime,
)
from models.ensemble import Ensemble
from models.networks import BodyPartClassifier
from models.onnx_graph import GraphError
from models.onnx_network import OnnxClassifier
from models.ood_vim import VirtualLogit, VirtualLogits
from models.region_head import RegionHead
from transforms.core.errors import UsageError
from transforms.imaging.preprocessing import PREPROCESSING

MAX_REASON: Final = 300
"""Characters of an error that are shown; those of PyTorch list every tensor."""
OOD_PREFIX: Final = "ood."
"""Prefix of the names of the OOD score's tensors."""
REGION_PREFIX: Final = "regions."
"""Prefix of the names of the region head's tensors; all without a prefix are the backbone's."""


def load_network(uri: str, device: Literal["cpu", "cuda"] = "cpu") -> BodyPartClassifier:
    """Load the network of a bundle in float32 and evaluation mode, on the CPU.

    Args:
        uri: of the bundle.
        device: where an ONNX graph runs; other networks can be moved afterwards.

    Raises:
        BundleError: A file is missing, the weights do not have the digest in `bundle.json`, or they do
            not fit the architecture.
    """
    info = read_info(uri)
    raw = read_weights(uri, info)
    if info.onnx is not None:
        return load_onnx(uri, info, raw, device)
    try:
        network = BodyPartClassifier(
            info.architecture, info.labels, members=info.members, temperature=info.temperature
        )
    except UsageError as error:
        raise BundleError(f"model bundle {uri}: {error}") from error
    try:
        state = {name: t.float() for name, t in safetensors.torch.load(raw).items()}
        network.backbone.load_state_dict(
            {n: t for n, t in state.items() if not n.startswith((OOD_PREFIX, REGION_PREFIX))}
        )
        if ood := _with_prefix(OOD_PREFIX, state):
            network.ood = _load_ood(ood, len(info.members))
        if info.regions is not None:
            network.regions = RegionHead(**_with_prefix(REGION_PREFIX, state), info=info.regions)
        network.eval()
        if network.ood is not None and network.ood.uses_statistics:
            _require_fitting_statistics(network, info.input_size)
    except (RuntimeError, TypeError, safetensors.SafetensorError) as error:
        raise BundleError(
            f"model bundle {uri}: the weights do not fit {info.architecture}: {str(error)[:MAX_REASON]}"
        ) from error
    return network


def read_weights(uri: str, info: BundleInfo) -> bytes:
    """Return the content of the weights file of a bundle.

    Raises:
        BundleError: It is missing, or does not have the digest in `bundle.json`.
    """
    raw = read_file(uri, info.weights_file)
    digest = hashlib.sha256(raw).hexdigest()
    if digest != info.weights_sha256:
        raise BundleError(
            f"model bundle {uri}: {info.weights_file} has sha256 {digest[:12]}…, {BUNDLE_FILE} expects "
            f"{info.weights_sha256[:12]}…; copy the whole bundle again"
        )
    return raw


def load_onnx(
    uri: str, info: BundleInfo, raw: bytes, device: Literal["cpu", "cuda"] = "cpu"
) -> BodyPartClassifier:
    """Return the network of a bundle whose weights are an ONNX graph, in evaluation mode.

    Raises:
        BundleError: ONNX Runtime is not installed, or the graph cannot be used or does not fit.
    """
    require_onnxruntime(uri)
    try:
        return OnnxClassifier(raw, info, device).eval()
    except GraphError as error:
        raise BundleError(f"model bundle {uri}: {ONNX_FILE}: {error}") from error


def save_recalibrated(
    directory: Path, uri: str, network: BodyPartClassifier, fields: dict[str, Any]
) -> BundleInfo:
    """Write a bundle that has the weights of another one; see `save_bundle`.

    Args:
        directory: see `save_bundle`.
        uri: of the other bundle.
        network: of the other bundle, with the new temperature.
        fields: see `save_bundle`.

    Raises:
        BundleError: The fields are invalid, or the other bundle cannot be read.
    """
    info = read_info(uri)
    if info.onnx is None:
        return save_bundle(directory, network, fields)
    described = {
        "labels": network.labels,
        "temperature": network.temperature,
        "onnx": info.onnx,
        **fields,
    }
    return write_bundle(directory, read_weights(uri, info), described)


def save_bundle(directory: Path, network: BodyPartClassifier, fields: dict[str, Any]) -> BundleInfo:
    """Write a bundle, with weights in float16.

    Args:
        directory: created if missing; a bundle in it is replaced.
        network: provides backbone, OOD score, region head, labels, members and temperature.
        fields: the other fields of `BundleInfo`, except `weights_sha256` and `preprocessing`.

    Raises:
        BundleError: The fields are invalid.
    """
    tensors = dict(network.backbone.state_dict())
    if network.ood is not None:
        tensors |= network.ood.state_dict(prefix=OOD_PREFIX)
    if network.regions is not None:
        tensors |= network.regions.state_dict(prefix=REGION_PREFIX)
    state = {
        name: (t.half() if t.is_floating_point() else t).contiguous().cpu()
        for name, t in tensors.items()
    }
    raw = safetensors.torch.save(state)
    backbone = network.backbone
    described = {
        "labels": network.labels,
        "members": backbone.input_sizes if isinstance(backbone, Ensemble) else (),
        "temperature": network.temperature,
        "regions": None if network.regions is None else network.regions.info,
        **fields,
    }
    return write_bundle(directory, raw, described)


def write_bundle(directory: Path, weights: bytes, fields: dict[str, Any]) -> BundleInfo:
    """Write the files of a bundle.

    Args:
        directory: created if missing; a bundle in it is replaced.
        weights: content of the weights file.
        fields: of `BundleInfo`, except `weights_sha256` and `preprocessing`.

    Raises:
        BundleError: The fields are invalid.
    """
    digest = hashlib.sha256(weights).hexdigest()
    info = make_info({"weights_sha256": digest, "preprocessing": PREPROCESSING, **fields})
    directory.mkdir(parents=True, exist_ok=True)
    (directory / info.weights_file).write_bytes(weights)
    given = {name for name, value in info if value}
    absent = {"regions", "onnx", "age_thresholds"} - given
    content = json.dumps(info.model_dump(exclude=absent), indent=2)  # earlier releases read it, too
    (directory / BUNDLE_FILE).write_text(f"{content}\n")
    return info


def round_to_stored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights rounded to float16 and back, as loading a saved bundle returns them."""
    return {name: t.half().float() if t.is_floating_point() else t for name, t in state.items()}


def _load_ood(state: Mapping[str, Tensor], members: int) -> VirtualLogit | VirtualLogits:
    if not members:
        return VirtualLogit(**state)
    parts = [_with_prefix(f"{i}.", state) for i in range(members)]
    if sum(map(len, parts)) < len(state):
        raise TypeError(f"OOD scores of more or other than {members} members")
    return VirtualLogits(VirtualLogit(**part) for part in parts)


def _require_fitting_statistics(network: BodyPartClassifier, input_size: int) -> None:
    """Raise `RuntimeError` if the OOD score has other statistics than the stages, as of another timm."""
    with torch.inference_mode():
        network(torch.zeros(1, 1, input_size, input_size, dtype=torch.uint8))


def _with_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}

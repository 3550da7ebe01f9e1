"""A model bundle: `bundle.json` beside `weights.safetensors`, in a folder or an object store.

The weights are read as safetensors, so that loading a bundle runs no code from it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import safetensors.torch
from torch import Tensor

from models.default_bundle import resolve_uri
from models.ensemble import Ensemble
from models.networks import BodyPartClassifier
from models.ood_vim import MaxVirtualLogit, VirtualLogit
from transforms.core.errors import UsageError
from transforms.imaging.preprocessing import PREPROCESSING
from transforms.storage.base import read_whole
from transforms.storage.schemes import join, storage_of, uri_problem

FORMAT_VERSION: Final = 1
BUNDLE_FILE: Final = "bundle.json"
WEIGHTS_FILE: Final = "weights.safetensors"
OOD_PREFIX: Final = "ood."
"""Of the names of the tensors that belong to the OOD score; the others are the network's."""
MAX_MEMBERS: Final = 16
MIN_INPUT_SIZE: Final = 32
MAX_INPUT_SIZE: Final = 1024
"""Of the input, in pixels."""


class BundleError(UsageError):
    """A bundle cannot be used; the message says which one, why, and what to do."""


@dataclass(frozen=True)
class BundleInfo:
    """What `bundle.json` says.

    Attributes:
        architecture: name of a timm network.
        labels: label of each output, in order.
        input_size: side of the square uint8 input, in pixels.
        temperature: divisor of the logits, > 0.
        thresholds: least confidence per label for an image to be routed, each in [0, 1].
        ood_threshold: images with a higher OOD score are reviewed.
        weights_sha256: hex digest of the weights file.
        preprocessing: what is done to images before the network sees them; see `preprocess`.
        calibration: the data, coverage and error that the thresholds were set for.
        training: data sources, licences, options and versions.
        metrics: figures on validation data, and on sources that were left out.
        members: side of the input of each of several networks of the architecture, whose logits' mean
            counts, in pixels; the largest is `input_size`, for others images are shrunk. Empty: one.
    """

    architecture: str
    labels: tuple[str, ...]
    input_size: int
    temperature: float
    thresholds: dict[str, float]
    ood_threshold: float
    weights_sha256: str
    preprocessing: str
    calibration: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    members: tuple[int, ...] = ()
    format_version: int = FORMAT_VERSION

    @property
    def model_id(self) -> str:
        """Architecture and a digest over all that can change a decision."""
        decisive = [
            self.format_version,
            self.architecture,
            self.labels,
            self.input_size,
            self.temperature,
            sorted(self.thresholds.items()),
            self.ood_threshold,
            self.weights_sha256,
            self.preprocessing,
            *self.members,
        ]
        digest = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
        return f"{self.architecture}-{digest[:12]}"


def read_info(uri: str) -> BundleInfo:
    """Read and check `bundle.json` under `uri` without touching the weights."""
    raw = _read(uri, BUNDLE_FILE)
    try:
        fields = json.loads(raw)
        for name in ("labels", "members"):
            fields[name] = tuple(fields.get(name, ()))
        info = BundleInfo(**fields)
    except (TypeError, KeyError, ValueError) as error:
        raise BundleError(
            f"model bundle {uri}: {BUNDLE_FILE} is not valid ({error}); write it with "
            "'dicom-router train'"
        ) from error
    problems = list(_problems(info))
    if problems:
        raise BundleError(f"model bundle {uri}: " + "; ".join(problems))
    return info


def load_network(uri: str) -> BodyPartClassifier:
    """Load the network of a bundle on the CPU, in float32, ready for inference.

    Raises:
        BundleError: a file is missing, the weights are not those that `bundle.json` names, or they
            do not fit the architecture.
    """
    info = read_info(uri)
    raw = _read(uri, WEIGHTS_FILE)
    digest = hashlib.sha256(raw).hexdigest()
    if digest != info.weights_sha256:
        raise BundleError(
            f"model bundle {uri}: {WEIGHTS_FILE} has sha256 {digest[:12]}…, {BUNDLE_FILE} names "
            f"{info.weights_sha256[:12]}…; copy the bundle again, whole"
        )
    network = BodyPartClassifier(
        info.architecture, info.labels, members=info.members, temperature=info.temperature
    )
    try:
        state = {name: t.float() for name, t in safetensors.torch.load(raw).items()}
        ood = _below(OOD_PREFIX, state)
        network.backbone.load_state_dict(
            {name: t for name, t in state.items() if not name.startswith(OOD_PREFIX)}
        )
        if ood:
            network.ood = _ood_of(ood, len(info.members))
    except (RuntimeError, TypeError, safetensors.SafetensorError) as error:
        raise BundleError(
            f"model bundle {uri}: the weights do not fit {info.architecture}: {error}"
        ) from error
    return network.eval()


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def _ood_of(state: Mapping[str, Tensor], members: int) -> VirtualLogit | MaxVirtualLogit:
    if not members:
        return VirtualLogit(**state)
    parts = [_below(f"{i}.", state) for i in range(members)]
    if sum(map(len, parts)) < len(state):
        raise TypeError(f"OOD scores of more or other than {members} members")
    return MaxVirtualLogit(VirtualLogit(**part) for part in parts)


def round_to_stored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as they come back from a bundle, which keeps them in fp16."""
    return {name: t.half().float() if t.is_floating_point() else t for name, t in state.items()}


def save(directory: Path, network: BodyPartClassifier, fields: dict[str, Any]) -> BundleInfo:
    """Write a bundle, weights in fp16.

    Args:
        directory: made if missing; an older bundle there is replaced.
        network: its backbone and OOD score are saved; labels, members and temperature come from it.
        fields: the other fields of `BundleInfo`, less `weights_sha256` and `preprocessing`.
    """
    tensors = dict(network.backbone.state_dict())
    if network.ood is not None:
        tensors |= network.ood.state_dict(prefix=OOD_PREFIX)
    state = {
        name: (t.half() if t.is_floating_point() else t).contiguous().cpu()
        for name, t in tensors.items()
    }
    raw = safetensors.torch.save(state)
    info = BundleInfo(
        labels=network.labels,
        members=network.backbone.sides if isinstance(network.backbone, Ensemble) else (),
        temperature=network.temperature,
        weights_sha256=hashlib.sha256(raw).hexdigest(),
        preprocessing=PREPROCESSING,
        **fields,
    )
    if problems := list(_problems(info)):
        raise BundleError("; ".join(problems))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / WEIGHTS_FILE).write_bytes(raw)
    (directory / BUNDLE_FILE).write_text(json.dumps(asdict(info), indent=2) + "\n")
    return info


def _problems(info: BundleInfo) -> list[str]:
    found = []
    if info.format_version != FORMAT_VERSION:
        found.append(f"format_version {info.format_version}, this router reads {FORMAT_VERSION}")
    if info.preprocessing != PREPROCESSING:
        found.append(f"preprocessing {info.preprocessing!r}, this router's is {PREPROCESSING!r}")
    if sorted(info.thresholds) != sorted(info.labels):
        found.append("thresholds must name exactly the labels")
    if not all(_is_finite(t) and 0.0 <= t <= 1.0 for t in info.thresholds.values()):
        found.append("thresholds must be numbers in [0, 1]")
    if not _is_finite(info.temperature) or info.temperature <= 0:
        found.append("temperature must be a number above 0")
    if not _is_finite(info.ood_threshold):
        found.append("ood_threshold must be a finite number")
    if (
        not isinstance(info.input_size, int)
        or not MIN_INPUT_SIZE <= info.input_size <= MAX_INPUT_SIZE
    ):
        found.append(f"input_size must be a whole number in {MIN_INPUT_SIZE}..{MAX_INPUT_SIZE}")
    if len(info.members) > MAX_MEMBERS:
        found.append(f"{len(info.members)} members, this router takes {MAX_MEMBERS}")
    if info.members and not _are_sides(info.members, info.input_size):
        found.append(
            f"members must be whole numbers, {MIN_INPUT_SIZE} or more, the largest of them input_size"
        )
    return found


def _are_sides(members: tuple[object, ...], input_size: int) -> bool:
    sides = [side for side in members if isinstance(side, int) and side >= MIN_INPUT_SIZE]
    return len(sides) == len(members) and max(sides) == input_size


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _read(uri: str, name: str) -> bytes:
    if problem := uri_problem(resolve_uri(uri)):
        raise BundleError(f"model bundle {uri}: {problem}")
    file = join(resolve_uri(uri), name)
    try:
        return read_whole(storage_of(file), file)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise BundleError(f"model bundle {uri}: cannot read {name} ({why})") from error

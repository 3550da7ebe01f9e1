"""Make a bundle from an ONNX file: `dicom-router import-model`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import torch

from models.architectures import ARCHITECTURE
from models.bundle import (
    MAX_BYTES,
    ONNX_FILE,
    REVIEW_ALL,
    BundleError,
    BundleInfo,
    fields_of,
    make_info,
    require_onnxruntime,
)
from models.onnx_fields import LOGITS, PROBABILITIES, Channels, OnnxFields, OutputKind
from models.onnx_graph import GraphError
from models.onnx_network import (
    OnnxBackbone,
    OnnxClassifier,
    input_of,
    open_session,
    output_names,
)
from models.training.data.label_sets import define_labels
from models.training.import_options import AUTO, ImportOptions
from models.weights import write_bundle
from transforms.core.errors import UsageError
from transforms.imaging.preprocessing import PREPROCESSING
from transforms.storage.base import read_whole
from transforms.storage.schemes import canonical, storage_of, uri_problem

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PROBE_IMAGES: Final = 8
SUM_TOLERANCE: Final = 1e-3
UNKNOWN_DIGEST: Final = "0" * 64


def import_onnx(uri: str, folder: Path, options: ImportOptions) -> BundleInfo:
    """Write a bundle with the graph of an ONNX file; until it is calibrated, every image is reviewed.

    Args:
        uri: of the file.
        folder: of the bundle.
        options: what the file does not say.

    Raises:
        BundleError: ONNX Runtime is not installed, the file cannot be used, or an option does not fit it.
    """
    require_onnxruntime(uri)
    if options.name is not None and not ARCHITECTURE.fullmatch(options.name):
        raise UsageError("--name: must be letters, digits and _")
    graph = _read(uri)
    label_set = define_labels(options.labels, options.age_groups)
    try:
        session = open_session(graph)
        fields, size = _describe(session, options)
        described = {
            "architecture": options.name or _name_of(uri),
            "labels": options.labels,
            "label_definitions": fields_of(label_set),
            "input_size": size,
            "temperature": 1.0,
            "thresholds": dict.fromkeys(options.labels, 1.0),
            "ood_threshold": REVIEW_ALL,
            "training": {"imported": {"format": "ONNX", "license": options.license}},
            "onnx": fields,
        }
        checked = {"weights_sha256": UNKNOWN_DIGEST, "preprocessing": PREPROCESSING, **described}
        OnnxClassifier(graph, make_info(checked))
    except (GraphError, BundleError) as error:
        raise BundleError(f"{uri}: {error}") from error
    return write_bundle(folder, graph, described)


def _describe(session: InferenceSession, options: ImportOptions) -> tuple[OnnxFields, int]:
    """Return input and output of a graph, and its input size in pixels.

    Raises:
        GraphError: The graph and the options do not fit together.
    """
    graph_input = input_of(session)
    size = graph_input.side or options.input_size
    if size is None:
        raise GraphError("its input has no fixed size; give --input_size")
    if options.input_size not in (None, size):
        raise GraphError(
            f"its input has {size} x {size} pixels, not --input_size {options.input_size}"
        )
    channels = graph_input.channels or options.channels
    if channels is None:
        raise GraphError("its input does not say how many channels it has; give --channels 1 or 3")
    if channels not in (1, 3):
        raise GraphError("--channels must be 1 or 3")
    if options.channels not in (None, channels):
        raise GraphError(f"its input has {channels} channels, not --channels {options.channels}")
    fields = OnnxFields(
        output=_output(session, options.graph_output),
        output_kind=PROBABILITIES if options.output_kind == PROBABILITIES else LOGITS,
        layout=graph_input.layout or "NCHW",
        channels=cast(Channels, channels),
        mean=_by_channel("mean", options.mean, channels),
        std=_by_channel("std", options.std, channels),
    )
    if options.output_kind == AUTO:
        fields = fields.model_copy(update={"output_kind": _output_kind(session, fields, size)})
    return fields, size


def _output(session: InferenceSession, requested: str | None) -> str:
    names = output_names(session)
    if requested is None and len(names) == 1:
        return names[0]
    if requested in names:
        return str(requested)
    listed = ", ".join(name[:60] for name in names[:10])
    raise GraphError(f"give --graph_output, one of its outputs: {listed}")


def _output_kind(session: InferenceSession, fields: OnnxFields, size: int) -> OutputKind:
    """Return whether the outputs for random images are probabilities: not negative, with the sum 1."""
    generator = torch.Generator().manual_seed(0)
    shape = (PROBE_IMAGES, 1, size, size)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    try:
        outputs = OnnxBackbone(session, fields).run(images)
    except GraphError:
        raise
    except Exception:  # reported by the check that follows
        return LOGITS
    sums = outputs.reshape(len(images), -1).sum(1)
    is_share = outputs.min() >= 0 and abs(sums - 1).max() <= SUM_TOLERANCE
    return PROBABILITIES if is_share else LOGITS


def _by_channel(name: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise GraphError(f"--{name}: give one value, or one for each of the {channels} channels")
    if name == "std" and min(values) <= 0:
        raise GraphError("--std: must be above 0")
    return tuple(values) * (channels // len(values))


def _name_of(uri: str) -> str:
    """Return the name of a file as the name of a network."""
    stem = uri.rstrip("/").rpartition("/")[2].removesuffix(".onnx")
    return re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")[:100] or "onnx"


def _read(uri: str) -> bytes:
    if problem := uri_problem(uri):
        raise UsageError(f"{uri}: {problem}")
    try:
        return read_whole(storage_of(canonical(uri)), canonical(uri), MAX_BYTES[ONNX_FILE])
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UsageError(f"{uri}: cannot be read ({why})") from error

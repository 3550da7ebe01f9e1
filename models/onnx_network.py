"""The classifier of a bundle whose network is an ONNX graph, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.bundle import BundleInfo
from models.networks import WHITE, BodyPartClassifier
from models.onnx_fields import LOGITS, PROBABILITIES, OnnxFields
from models.onnx_graph import GraphError, require_self_contained
from transforms.core.errors import UsageError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CPU_PROVIDER: Final = "CPUExecutionProvider"
CUDA_PROVIDER: Final = "CUDAExecutionProvider"
CUDA_OPTIONS: Final = {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}
"""For the same values in each run, and about those of the CPU."""
SESSION_CONFIG: Final = {
    "session.load_model_format": "ONNX",  # the format that has been checked
    "session.intra_op.allow_spinning": "0",  # threads that wait leave the processor to decoders
}
FATAL: Final = 4
"""Log level at which ONNX Runtime prints nothing; it raises its errors, too."""
DTYPES: Final[dict[str, Any]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
"""Types of a graph's input."""
MIN_PROBABILITY: Final = 1e-7
MAX_REASON: Final = 300


def has_cuda_provider() -> bool:
    """Return whether the installed ONNX Runtime can use CUDA."""
    import onnxruntime

    return CUDA_PROVIDER in onnxruntime.get_available_providers()


class OnnxClassifier(BodyPartClassifier):
    """A `BodyPartClassifier` whose network is an ONNX graph.

    It has logits and no features. The OOD score is the energy of logits; of probabilities, whose energy
    is constant, the negative logarithm of the highest (Hendrycks and Gimpel 2017, "A Baseline for
    Detecting Misclassified and Out-of-Distribution Examples in Neural Networks").
    """

    def __init__(
        self, graph: bytes, info: BundleInfo, device: Literal["cpu", "cuda"] = "cpu"
    ) -> None:
        """Load a graph.

        Args:
            graph: content of the `.onnx` file.
            info: of the bundle; its `onnx` is not None.
            device: where the graph runs.

        Raises:
            GraphError: The graph cannot be used, or does not fit the description.
        """
        assert info.onnx is not None
        backbone = OnnxBackbone(open_session(graph, device), info.onnx)
        super().__init__(
            info.architecture, info.labels, temperature=info.temperature, backbone=backbone
        )
        self._fields = info.onnx
        self._device = torch.device(device)
        backbone.require_fit(info.input_size, len(info.labels))

    def logits(self, images: Tensor) -> Tensor:
        """Return logits, float32[N, n_labels], for [N, 1, S, S] in 0..255, on the images' device."""
        out: Tensor = self.backbone(images)
        return out.to(images.device)

    def features(self, images: Tensor) -> Tensor:
        """Raise `UsageError`: a graph has no features."""
        raise UsageError("the network of an ONNX bundle has no features, which this needs")

    def _logits_and_score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self._fields.output_kind == LOGITS:
            return super()._logits_and_score(images)
        logits = self.logits(images)
        return logits, -logits.amax(1)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the inputs."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """The device on which the graph runs."""
        return self._device


class OnnxBackbone(nn.Module):
    """A graph as a module: [N, 1, S, S] in 0..255 to logits, float32[N, n_labels], on the CPU."""

    def __init__(self, session: InferenceSession, fields: OnnxFields) -> None:
        """Wrap a session.

        Raises:
            GraphError: The graph does not have the output or input of the description.
        """
        super().__init__()
        self._session, self._fields = session, fields
        self._input = input_of(session)
        if fields.output not in output_names(session):
            raise GraphError(f"it has no output {fields.output!r}")
        if (self._input.layout or fields.layout) != fields.layout:
            raise GraphError(f"its input is {self._input.layout}, not {fields.layout}")
        if (self._input.channels or fields.channels) != fields.channels:
            raise GraphError(
                f"its input has {self._input.channels} channels, not {fields.channels}"
            )
        mean, std = np.array(fields.mean), np.array(fields.std)
        self._scale = torch.from_numpy((1 / (WHITE * std)).astype(np.float32))[:, None, None]
        self._shift = torch.from_numpy((-mean / std).astype(np.float32))[:, None, None]

    def require_fit(self, input_size: int, labels: int) -> None:
        """Run the graph on two blank images.

        Raises:
            GraphError: It fails, or its input size or number of outputs is another.
        """
        if (self._input.side or input_size) != input_size:
            raise GraphError(
                f"its input has {self._input.side} x {self._input.side} pixels, not {input_size}"
            )
        blank = torch.zeros(2, 1, input_size, input_size, dtype=torch.uint8)
        try:
            outputs = self.run(blank)
        except Exception as error:  # the classes of ONNX Runtime have only Exception in common
            raise GraphError(f"it fails on a blank image: {reason_of(error)}") from error
        if outputs.shape != (2, labels):
            raise GraphError(
                f"its output {self._fields.output!r} has the shape {_shape(outputs)} for two images; "
                f"{labels} labels need 2 x {labels}"
            )
        if self._fields.output_kind == PROBABILITIES and not _in_unit_range(outputs):
            raise GraphError("its outputs are not in 0..1, so they are no probabilities")

    def run(self, images: Tensor) -> npt.NDArray[np.float32]:
        """Return the graph's output for [N, 1, S, S] in 0..255, float32[N, ...]."""
        inputs = images.detach().cpu().float() * self._scale + self._shift
        if self._fields.layout == "NHWC":
            inputs = inputs.permute(0, 2, 3, 1)
        batch = np.ascontiguousarray(inputs.numpy(), dtype=self._input.dtype)
        size = self._input.batch or len(batch)
        parts = [self._run_one(batch[at : at + size], size) for at in range(0, len(batch), size)]
        return np.concatenate(parts).astype(np.float32, copy=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits; those of probabilities are their logarithms."""
        outputs = torch.from_numpy(self.run(images))
        if self._fields.output_kind == PROBABILITIES:
            return outputs.clamp(MIN_PROBABILITY, 1).log()
        return outputs

    def _run_one(self, part: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
        """Run the graph on at most `size` images, padded by the first one."""
        missing = size - len(part)
        if missing:
            part = np.concatenate((part, np.repeat(part[:1], missing, axis=0)))
        (outputs,) = self._session.run([self._fields.output], {self._input.name: part})
        if len(outputs) != size:
            raise GraphError(f"{len(outputs)} outputs for {size} images")
        return np.asarray(outputs)[: size - missing]


class GraphInput(NamedTuple):
    """The input of a graph; what the graph leaves open is None.

    Attributes:
        name: of the input.
        dtype: float32 or float16.
        batch: number of images.
        layout: NCHW or NHWC.
        channels: 1 or 3.
        side: of the images, in pixels.
    """

    name: str
    dtype: Any
    batch: int | None
    layout: Literal["NCHW", "NHWC"] | None
    channels: Literal[1, 3] | None
    side: int | None


def open_session(graph: bytes, device: Literal["cpu", "cuda"] = "cpu") -> InferenceSession:
    """Return a session that runs a graph; it writes no files and opens none.

    It uses as many threads as PyTorch.

    Raises:
        GraphError: The graph cannot be used.
        UsageError: CUDA is requested, and ONNX Runtime cannot use it.
    """
    require_self_contained(graph)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = FATAL
    for name, value in SESSION_CONFIG.items():
        options.add_session_config_entry(name, value)
    providers: list[Any] = [CPU_PROVIDER]
    if device == "cuda":
        providers.insert(0, (CUDA_PROVIDER, CUDA_OPTIONS))
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # the classes of ONNX Runtime have only Exception in common
        raise GraphError(f"ONNX Runtime refuses it: {reason_of(error)}") from error
    if device == "cuda" and session.get_providers()[0] != CUDA_PROVIDER:
        raise UsageError(
            "--device cuda: ONNX Runtime cannot use CUDA; install onnxruntime-gpu and the CUDA version "
            "that it needs, or give --device cpu"
        )
    return session


def input_of(session: InferenceSession) -> GraphInput:
    """Return the input of a graph.

    Raises:
        GraphError: The graph has none or several, or it is not one of images.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise GraphError(f"it has {len(inputs)} inputs; it must have one, of images")
    (only,) = inputs
    if only.type not in DTYPES:
        raise GraphError(f"its input is {only.type}; it must be {' or '.join(DTYPES)}")
    if len(only.shape) != 4:
        raise GraphError(f"its input has {len(only.shape)} dimensions; a batch of images has 4")
    sizes = [size if isinstance(size, int) and size > 0 else None for size in only.shape]
    batch, first, middle, last = sizes
    layout, channels, sides = _layout(first, middle, last)
    known = {side for side in sides if side is not None}
    if len(known) > 1:
        raise GraphError("its input is not square")
    return GraphInput(
        only.name, DTYPES[only.type], batch, layout, channels, known.pop() if known else None
    )


def output_names(session: InferenceSession) -> list[str]:
    """Return the names of a graph's outputs."""
    return [output.name for output in session.get_outputs()]


def reason_of(error: Exception) -> str:
    """Return the message of an error of ONNX Runtime on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"


def _layout(
    first: int | None, middle: int | None, last: int | None
) -> tuple[Literal["NCHW", "NHWC"] | None, Literal[1, 3] | None, Sequence[int | None]]:
    """Return layout, channels and sides for the dimensions after the batch."""
    if first == 1 or first == 3:
        return "NCHW", (1 if first == 1 else 3), (middle, last)
    if last == 1 or last == 3:
        return "NHWC", (1 if last == 1 else 3), (first, middle)
    if first is not None and last is not None:
        raise GraphError(f"its input has {first} or {last} channels; it must have 1 or 3")
    return None, None, (middle,)


def _in_unit_range(outputs: npt.NDArray[np.float32]) -> bool:
    return bool(((outputs >= -MIN_PROBABILITY) & (outputs <= 1 + 1e-4)).all())


def _shape(array: npt.NDArray[Any]) -> str:
    return " x ".join(map(str, array.shape))

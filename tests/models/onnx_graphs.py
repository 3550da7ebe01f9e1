"""ONNX graphs for tests."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

SIDE: Final = 32
OUTPUTS: Final = 3
OPSET: Final = 17
IR_VERSION: Final = 9
"""That of opset 17, which older versions of ONNX Runtime read, too."""


def weights(values: int = 3 * SIDE**2, outputs: int = OUTPUTS) -> np.ndarray:
    """Random weights, float32[values, outputs]."""
    drawn = np.random.default_rng(0).normal(size=(values, outputs)) / SIDE
    return drawn.astype(np.float32)


def linear_graph(
    shape: Sequence[int | str | None] = ("n", 3, SIDE, SIDE),
    *,
    outputs: int = OUTPUTS,
    values: int = 3 * SIDE**2,
    last: str | None = None,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A linear layer on all values of an image.

    Args:
        shape: of the input.
        outputs: number of outputs.
        values: number of values of an image.
        last: operator that is applied to the logits, or None.
        dtype: of the input; computed in float32.
    """
    tensor = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["x"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        helper.make_node(last or "Identity", ["logits"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [tensor("x", dtype, shape)],
        [tensor("y", TensorProto.FLOAT, [shape[0], outputs])],
        [numpy_helper.from_array(weights(values, outputs), "w")],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )


def export(backbone: torch.nn.Module, side: int) -> bytes:
    """A network of PyTorch on single-channel images as an ONNX file."""
    file: Any = io.BytesIO()
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is deprecated
        torch.onnx.export(
            backbone,
            (torch.zeros(2, 1, side, side),),
            file,
            dynamo=False,
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
            **names,
        )
    return bytes(file.getvalue())

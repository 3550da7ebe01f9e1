"""Read and check an ONNX graph before ONNX Runtime parses it. Imports neither onnxruntime nor torch.

Source: `onnx.proto` of ONNX 1.23; only the fields that matter here are declared.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

_MESSAGES: Final = {
    "Model": {"graph": (7, "Graph"), "training_info": (20, "Training"), "functions": (25, "Function")},
    "Training": {"initialization": (1, "Graph"), "algorithm": (2, "Graph")},
    "Graph": {"node": (1, "Node"), "initializer": (5, "Tensor"), "sparse_initializer": (15, "Sparse")},
    "Function": {"name": (1, "string"), "node": (7, "Node"), "domain": (10, "string"),
                 "attribute_proto": (11, "Attribute")},
    "Node": {"op_type": (4, "string"), "attribute": (5, "Attribute"), "domain": (7, "string")},
    "Attribute": {"t": (5, "Tensor"), "g": (6, "Graph"), "tensors": (10, "Tensor"),
                  "graphs": (11, "Graph"), "sparse_tensor": (22, "Sparse"),
                  "sparse_tensors": (23, "Sparse")},
    "Sparse": {"values": (1, "Tensor"), "indices": (2, "Tensor")},
    "Tensor": {"external_data": (13, "Entry"), "data_location": (14, "int32")},
    "Entry": {"key": (1, "string")},
}  # fmt: skip
"""Number and type of each field. All are declared as repeated, so that no occurrence is missed."""
_SCALARS: Final = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
}
_PACKAGE: Final = "dicom_router.onnx"

OPERATOR_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Domains of the operators that ONNX Runtime has built in."""
RANDOM_OPERATORS: Final = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)


class GraphError(ValueError):
    """A graph cannot be used; the message has the reason and the remedy."""


@dataclass(frozen=True)
class _Contents:
    has_external_data: bool
    operators: frozenset[tuple[str, str]]
    functions: frozenset[tuple[str, str]]


def require_self_contained(data: bytes) -> None:
    """Check that a graph reads no other file and has only deterministic operators of ONNX Runtime.

    Tensors with external data name a file, or an address in memory: neither is looked at.

    Args:
        data: content of an `.onnx` file.

    Raises:
        GraphError: It does, or has others, or the data are no ONNX model.
    """
    found = _contents(data)
    if found.has_external_data:
        raise GraphError(
            "its weights are in another file (external data); save it as one file: "
            'onnx.save(onnx.load("MODEL.onnx"), "ONE_FILE.onnx")'
        )
    custom = {
        f"{domain}:{name}"
        for domain, name in found.operators - found.functions
        if domain not in OPERATOR_DOMAINS
    }
    if custom:
        raise GraphError(
            f"custom operators: {_listed(custom)}; export it with operators of ONNX only"
        )
    if random := {name for _, name in found.operators} & RANDOM_OPERATORS:
        raise GraphError(
            f"random operators: {_listed(random)}; export it for inference, so that the same image gets "
            "the same answer"
        )


def _contents(data: bytes) -> _Contents:
    model = _model_class()()
    try:
        model.ParseFromString(data)
    except message.DecodeError as error:
        raise GraphError("not an ONNX model") from error
    if not model.graph or not model.graph[-1].node:
        raise GraphError("not an ONNX model: it has no graph")
    messages = list(_nested(model))
    return _Contents(
        any(
            any(one.data_location) or bool(one.external_data)
            for one in _of_type("Tensor", messages)
        ),
        frozenset((_last(one.domain), _last(one.op_type)) for one in _of_type("Node", messages)),
        frozenset((_last(one.domain), _last(one.name)) for one in _of_type("Function", messages)),
    )


def _of_type(name: str, messages: list[Any]) -> Iterator[Any]:
    return (one for one in messages if one.DESCRIPTOR.name == name)


def _nested(outer: Any) -> Iterator[Any]:
    """Yield a message and all messages in it; their depth is limited by the parser."""
    yield outer
    for field, values in outer.ListFields():
        if field.message_type is not None:
            for value in values:
                yield from _nested(value)


def _last(values: Any) -> str:
    """Return the last value of a field that has at most one, as protobuf defines it, or ""."""
    return str(values[-1]) if values else ""


def _listed(names: set[str], limit: int = 5) -> str:
    shown = [name[:60] for name in sorted(names)[:limit]]
    return ", ".join(shown) + (" and others" if len(names) > limit else "")


@functools.cache
def _model_class() -> type[Any]:
    """Return the message class of an ONNX model."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="dicom_router_onnx.proto", package=_PACKAGE, syntax="proto2"
    )
    for name, fields in _MESSAGES.items():
        declared = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            added = declared.field.add(name=field, number=number, label=kinds.LABEL_REPEATED)
            if kind in _SCALARS:
                added.type = _SCALARS[kind]
            else:
                added.type = kinds.TYPE_MESSAGE
                added.type_name = f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found: type[Any] = message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{_PACKAGE}.Model")
    )
    return found

"""Beam coders of all elements that cross a shuffle; importing this module registers them.

The modules of steps import it, so that it is imported on every worker. Without a coder, Beam would pickle
elements, and a pickle cannot be decoded by a release that adds a field.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack
import numpy as np
import numpy.typing as npt
from apache_beam.coders import Coder, typecoders

from transforms.core.manifest_part import ManifestPart
from transforms.core.object_ref import Failure, ObjectRef
from transforms.core.record_batch import RecordBatch
from transforms.core.record_codec import RecordCodec
from transforms.lake.existing_rows import ExistingRow, ExistingVersion
from transforms.lake.run_counts import RunCounts
from transforms.lake.schema import REPEATED_COLUMNS, IndexRow

CODECS: Final[dict[type, RecordCodec[Any]]] = {
    ExistingRow: RecordCodec(ExistingRow),
    ExistingVersion: RecordCodec(ExistingVersion),
    Failure: RecordCodec(Failure),
    ManifestPart: RecordCodec(ManifestPart),
    IndexRow: RecordCodec(IndexRow, interned=REPEATED_COLUMNS),
    ObjectRef: RecordCodec(ObjectRef),
    RecordBatch: RecordCodec(RecordBatch),
    RunCounts: RecordCodec(RunCounts),
}
"""The codec of each record type that is an element of a PCollection."""


class RecordCoder(Coder):
    """Code records of one type with its `RecordCodec`."""

    def __init__(self, record_type: type) -> None:
        self._record_type = record_type
        self._codec = CODECS[record_type]
        self._estimated_size = 0

    def encode(self, value: Any) -> bytes:
        return self._codec.encode(value)

    def decode(self, encoded: bytes) -> Any:
        return self._codec.decode(encoded)

    def estimate_size(self, value: Any) -> int:
        """Return the size of the first record; engines show it, and would encode many for it."""
        self._estimated_size = self._estimated_size or len(self.encode(value))
        return self._estimated_size

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> type:
        return self._record_type

    @classmethod
    def from_type_hint(cls, typehint: type, registry: object) -> RecordCoder:  # type: ignore[override]
        return cls(typehint)

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordCoder, (self._record_type,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecordCoder) and other._record_type is self._record_type

    def __hash__(self) -> int:
        return hash(self._record_type)


class ArrayCoder(Coder):
    """Code numeric arrays: network inputs, if an engine does not fuse the steps before and after."""

    def encode(self, value: npt.NDArray[Any]) -> bytes:
        encoded: bytes = msgpack.packb((value.dtype.str, value.shape, value.tobytes()))
        return encoded

    def decode(self, encoded: bytes) -> npt.NDArray[Any]:
        dtype, shape, data = msgpack.unpackb(encoded)
        return np.frombuffer(data, dtype).reshape(shape)

    def estimate_size(self, value: npt.NDArray[Any]) -> int:
        return value.nbytes

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> type:
        return np.ndarray


for record_type in CODECS:
    typecoders.registry.register_coder(record_type, RecordCoder)
typecoders.registry.register_coder(np.ndarray, ArrayCoder)

"""Batch the references of a stream before objects are read, so that no pixels are kept in state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.pvalue import PCollection

from transforms.coders import CODECS
from transforms.core.batch_sizes import STREAM_BATCH_KEYS
from transforms.core.object_ref import ObjectRef


@dataclass
class BatchRefs(beam.PTransform[PCollection[ObjectRef], PCollection[ObjectRef]]):
    """Group unbounded references so that those of a batch are consecutive in one bundle.

    Later steps batch within bundles: without grouping, a slow stream would give the model single images.

    Attributes:
        batch_size: Maximum number of references in a batch.
        max_wait_s: Maximum time in seconds that a reference waits for its batch to fill.
    """

    batch_size: int
    max_wait_s: float

    def expand(self, refs: PCollection[ObjectRef]) -> PCollection[ObjectRef]:
        batched: PCollection[ObjectRef] = (
            refs
            | "KeyRefs" >> beam.Map(_encoded).with_output_types(tuple[int, bytes])
            | "Batch"
            >> beam.GroupIntoBatches(self.batch_size, max_buffering_duration_secs=self.max_wait_s)
            | "Refs" >> beam.FlatMapTuple(_decoded).with_output_types(ObjectRef)
        )
        return batched


def _encoded(ref: ObjectRef) -> tuple[int, bytes]:
    """Return a reference as it is kept in state: Beam's own state of batches would pickle it."""
    key = int.from_bytes(ref.digest()[:4]) % STREAM_BATCH_KEYS
    return key, CODECS[ObjectRef].encode(ref)


def _decoded(key: int, batch: Iterable[bytes]) -> list[ObjectRef]:
    return [CODECS[ObjectRef].decode(encoded) for encoded in batch]

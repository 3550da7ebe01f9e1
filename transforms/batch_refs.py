"""Batch the references of a stream before objects are read, so that no pixels are kept in state."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam
from apache_beam.pvalue import PCollection

import transforms.coders  # noqa: F401  # registers the coders of its elements
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
            | "KeyRefs"
            >> beam.Map(
                lambda ref: (int.from_bytes(ref.digest()[:4]) % STREAM_BATCH_KEYS, ref)
            ).with_output_types(tuple[int, ObjectRef])
            | "Batch"
            >> beam.GroupIntoBatches(self.batch_size, max_buffering_duration_secs=self.max_wait_s)
            | "Refs" >> beam.FlatMapTuple(lambda _, batch: batch).with_output_types(ObjectRef)
        )
        return batched

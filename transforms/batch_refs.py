"""Gathers references of a stream into batches: small in state, so that no pixels need to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam

from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import ObjectRef

KEYS: Final = 16
"""References are spread over so many keys, and these over the workers."""


@dataclass
class BatchRefs(beam.PTransform):  # type: ignore[misc]
    """Unbounded references to the same ones, those of a batch one after the other in one bundle.

    What comes after works on bundles: a trickle of objects would otherwise reach the model one by one.
    """

    config: RouteConfig

    def expand(self, refs: beam.PCollection[ObjectRef]) -> beam.PCollection[ObjectRef]:
        assert self.config.stream is not None
        return (
            refs
            | "KeyRefs"
            >> beam.Map(
                lambda ref: (int.from_bytes(ref.digest()[:4]) % KEYS, ref)
            ).with_output_types(tuple[int, Any])
            | "Batch"
            >> beam.GroupIntoBatches(
                self.config.batch_size,
                max_buffering_duration_secs=self.config.stream.max_batch_wait,
            )
            | "Refs" >> beam.FlatMapTuple(lambda _, batch: batch).with_output_types(Any)
        )

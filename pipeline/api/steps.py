"""The steps of the router for other Beam pipelines; importing this imports Beam and PyTorch.

`DecideObjects` is what most pipelines need. The other steps are those of `route`, which passes elements
from one to the next; only the next run of `route` into the same lake indexes what `Place` has placed.

| step | takes | gives |
|---|---|---|
| `DecideObjects` | `str`: paths and URIs | `DECIDED`: `IndexRow`, and `FAILED`: `Failure` |
| `FetchAndExamine` | `ObjectRef` | `IMAGES`: `(IndexRow, image)`, `DECIDED`: `IndexRow`, `FAILED` |
| `ClassifyAndDecide` | `(IndexRow, image)` | `IndexRow` |
| `Place` | `IndexRow` | `PLACED`: `IndexRow` with `object_uri`, and `FAILED` |

An image is the input of the network, uint8[1, S, S], or uint8[3, S, S] of two views side by side. The
coders of these types are registered when this module is imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final, Unpack

import apache_beam as beam
from apache_beam.pvalue import PCollection, TaggedOutput

from models.classify import ClassifyAndDecide
from pipeline.api.decide import object_options
from pipeline.api.options import ObjectKeywords
from pipeline.cli.resolve_config import object_config
from pipeline.sources.outputs import REFS
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import FAILED, Failure, ObjectRef, failure_of
from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.core.storage_failures import read_failure
from transforms.core.worker_resources import Concurrency
from transforms.fetch import DECIDED, IMAGES, FetchAndExamine
from transforms.lake.schema import IndexRow
from transforms.place import PLACED, Place
from transforms.sandbox.examine import ExamineOptions
from transforms.storage.schemes import absolute, storage_of

__all__ = [
    "DECIDED",
    "FAILED",
    "IMAGES",
    "PLACED",
    "ClassifyAndDecide",
    "DecideObjects",
    "ExamineOptions",
    "Failure",
    "FetchAndExamine",
    "IndexRow",
    "ObjectRef",
    "Place",
]

BATCH_SIZE: Final = 32


class DecideObjects(beam.PTransform[PCollection[str], dict[str, PCollection[Any]]]):
    """Decide objects as `route` does, without a lake.

    Takes paths and URIs of objects, as text. Gives two outputs by name: in `DECIDED` a row for each, in
    `FAILED` the objects that could not be read, identified by their `object_key`. A row is that of the
    index (docs/index-schema.md), without `object_uri`; whether an object is a duplicate is not decided.

    Args:
        batch_size: maximum number of images per model call; at most 8 on a CPU.
        concurrency: how many objects a worker decodes and reads at the same time.
        **options: as for `pipeline.api.Decider`. Workers must be able to read the model.

    Raises:
        UsageError: an option, the model or the policy cannot be used.
    """

    def __init__(
        self,
        *,
        batch_size: int = BATCH_SIZE,
        concurrency: Concurrency | None = None,
        **options: Unpack[ObjectKeywords],
    ) -> None:
        super().__init__()
        config = object_config(object_options(options), [], os.curdir)
        config.check()
        self._config: RouteConfig = config
        self._batch_size = batch_size
        self._concurrency = concurrency or Concurrency()

    def expand(self, names: PCollection[str]) -> dict[str, PCollection[Any]]:
        config = self._config
        examining = ExamineOptions.from_config(config)
        found = names | "LookUp" >> beam.FlatMap(_look_up).with_output_types(
            ObjectRef, **{FAILED: Failure}
        ).with_outputs(FAILED, main=REFS)
        examined = (
            found[REFS]
            | "Redistribute" >> beam.Reshuffle()
            | "Fetch"
            # Nothing is placed afterwards, so that no bytes are kept.
            >> FetchAndExamine(
                replace(examining, cache_objects=False, scratch=None), self._concurrency
            )
        )
        classified = examined[IMAGES] | "Classify" >> ClassifyAndDecide(
            config.model_uri,
            config.own_policy,
            config.device,
            None,
            self._batch_size,
            concurrency=self._concurrency,
        )
        decided = (classified, examined[DECIDED]) | "Decided" >> beam.Flatten()
        failed = (found[FAILED], examined[FAILED]) | "Failed" >> beam.Flatten()
        return {DECIDED: decided, FAILED: failed}


def _look_up(name: str) -> Iterator[ObjectRef | TaggedOutput[str, Failure]]:
    """Yield the reference to an object, or its failure."""
    uri = absolute(name)
    try:
        found = storage_of(uri).stat(uri)
        if found is None:
            raise ProcessingFailure(Stage.FETCH, Reason.DISAPPEARED)
    except (OSError, ProcessingFailure) as error:
        failure = (
            error if isinstance(error, ProcessingFailure) else read_failure(error, Stage.FETCH)
        )
        yield TaggedOutput(FAILED, failure_of(uri, failure, log_uris=False))
        return
    yield ObjectRef.of(found)

"""Filters out what the lake has already: references joined with the existing rows of their sources."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import apache_beam as beam
from apache_beam import pvalue

from transforms.core.batch_sizes import SHUFFLE_BATCH
from transforms.core.choices import REPROCESS_ALL, REPROCESS_MODEL, REPROCESS_NONE, REPROCESS_POLICY
from transforms.core.object_ref import ObjectRef
from transforms.core.packed import pack, unpack
from transforms.core.reasons import Status
from transforms.lake.index_files import ExistingVersion, hash_of
from transforms.lake.run_counts import RunCounts
from transforms.metrics import CounterName, count
from transforms.shuffle_batching import BatchForShuffleFn

TO_PROCESS, COUNTS = "to_process", "counts"
"""Tags of `FilterIngested`: references that need work, in batches; counts of the others."""

BUCKETS: Final = 256
"""References and existing versions meet in one of them, by the hash of their source's URI."""


@dataclass(frozen=True)
class Reprocessing:
    """Which objects that the lake has are decided again.

    Attributes:
        mode: none, model, policy or all.
        model_id: Model of the run.
        policy_id: Policy of the run.
    """

    mode: str
    model_id: str
    policy_id: str

    def is_ingested(self, existing: Iterable[ExistingVersion]) -> bool:
        """Return whether a version of a source needs no work.

        "model" decides again what another model decided, "policy" what another policy decided; rows
        that the option cannot change are left alone.

        Args:
            existing: Rows of this very version.
        """
        if self.mode == REPROCESS_ALL:
            return False
        rows = list(existing)
        if self.mode == REPROCESS_MODEL:
            return any(row.model_id in (self.model_id, None) for row in rows)
        if self.mode == REPROCESS_POLICY:
            return any(
                row.policy_id == self.policy_id or row.status == Status.QUARANTINED for row in rows
            )
        assert self.mode == REPROCESS_NONE
        return bool(rows)


@dataclass
class FilterIngested(beam.PTransform):  # type: ignore[misc]
    """Leave the references that need work.

    Input: a dict with "refs" and "existing" (as of `ReadExistingVersions`). Both cross the shuffle in
    batches: a night's listing may name every object of an archive.
    """

    reprocessing: Reprocessing

    def expand(self, pcolls: dict[str, beam.PCollection[Any]]) -> pvalue.DoOutputsTuple:
        reprocessing = self.reprocessing
        batching = {
            "refs": _batching(lambda ref: ref.uri, ObjectRef.pack),
            "existing": _batching(lambda existing: existing[0], pack),
        }
        return (
            {
                name: pcolls[name]
                | f"Batch_{name}" >> beam.ParDo(batch).with_output_types(tuple[int, bytes])
                for name, batch in batching.items()
            }
            | "GroupByBucket" >> beam.CoGroupByKey()
            | "Filter"
            >> beam.FlatMapTuple(lambda _, batches: _filter(batches, reprocessing))
            .with_output_types(bytes)
            .with_outputs(COUNTS, main=TO_PROCESS)
        )


@dataclass
class RedistributeRefs(beam.PTransform):  # type: ignore[misc]
    """Batches of references to references, spread over the workers."""

    def expand(self, batches: beam.PCollection[bytes]) -> beam.PCollection[ObjectRef]:
        return (
            batches
            | "Redistribute" >> beam.Reshuffle()
            | "Unbatch" >> beam.FlatMap(ObjectRef.unpack).with_output_types(Any)
        )


def _batching(
    uri_of: Callable[[Any], str], encode: Callable[[Sequence[Any]], bytes]
) -> BatchForShuffleFn:
    return BatchForShuffleFn(
        lambda element: hash_of(uri_of(element)) % BUCKETS,
        lambda bucket, elements: (bucket, encode(elements)),
    )


@dataclass
class _Source:
    """What meets of one source."""

    refs: set[ObjectRef] = field(default_factory=set)
    existing: set[ExistingVersion] = field(default_factory=set)


def _filter(
    batches: dict[str, Iterable[bytes]], reprocessing: Reprocessing
) -> Iterator[bytes | pvalue.TaggedOutput]:
    sources: dict[str, _Source] = defaultdict(_Source)
    named = 0
    for ref in chain.from_iterable(map(ObjectRef.unpack, batches["refs"])):
        sources[ref.uri].refs.add(ref)
        named += 1
    for uri, version in chain.from_iterable(map(unpack, batches["existing"])):
        if source := sources.get(uri):  # the lake may have far more than a run is about
            source.existing.add(ExistingVersion(*version))

    to_process: list[ObjectRef] = []
    unchanged = distinct = 0
    for _uri, source in sorted(sources.items()):
        distinct += len(source.refs)
        for ref in sorted(source.refs, key=lambda r: r.version):
            same = [v for v in source.existing if v.source_version == ref.version]
            if reprocessing.is_ingested(same):
                count(CounterName.UNCHANGED)
                unchanged += 1
            else:
                to_process.append(ref)
    for start in range(0, len(to_process), SHUFFLE_BATCH):
        yield ObjectRef.pack(to_process[start : start + SHUFFLE_BATCH])
    # An object that several inputs name was discovered as often, and is one object.
    counts = Counter({"unchanged": unchanged, "discovered": distinct - named})
    yield pvalue.TaggedOutput(COUNTS, RunCounts(counts))

"""Filter out ingested objects: join references with the existing rows of their sources."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import DoOutputsTuple, PCollection, TaggedOutput

from transforms.coders import CODECS
from transforms.core.batch_sizes import SHUFFLE_BATCH
from transforms.core.choices import REPROCESS_ALL, REPROCESS_MODEL, REPROCESS_NONE, REPROCESS_POLICY
from transforms.core.object_ref import ObjectRef
from transforms.core.reasons import BY_PERSON, FORGOTTEN, Status
from transforms.core.record_batch import RecordBatch
from transforms.lake.existing_rows import ExistingVersion
from transforms.lake.layout import Layout
from transforms.lake.run_counts import RunCounts
from transforms.lake.schema import IndexRow
from transforms.lake.source_states import SourceStates
from transforms.lake.source_versions import KnownVersion, resolve_version
from transforms.lake.tombstones import NONE, tombstones_of_run
from transforms.metrics import CounterName, count
from transforms.shuffle_batching import BatchForShuffleFn, key_of_source, records_of

TO_PROCESS, RECOVERED, COUNTS = "to_process", "recovered", "counts"
"""Output tags of `FilterIngested`: batches of references to process; recovered rows, even if their source
is not among the references; counts."""

REFS, EXISTING, JOURNALED = "refs", "existing", "journaled"
"""Kinds of batches."""


@dataclass(frozen=True)
class Reprocessing:
    """Which ingested objects are decided again.

    Attributes:
        mode: none, model, policy or all.
        model_id: Model of the run.
        policy_id: Policy of the run.
        overrule_people: Whether to decide again what a person decided.
    """

    mode: str
    model_id: str
    policy_id: str
    overrule_people: bool = False

    def is_ingested(self, existing: Iterable[ExistingVersion]) -> bool:
        """Return whether a source version need not be processed.

        "model" decides again what another model decided, and "policy" what another model or policy
        decided, unless the row cannot depend on it or a person decided. "all" processes also what a
        person decided, since the object may be lost; `supersede` keeps the decision.

        Args:
            existing: Existing rows of the version.
        """
        if self.mode == REPROCESS_ALL:
            return False
        return any(self._is_up_to_date(row) for row in existing)

    def _is_up_to_date(self, row: ExistingVersion) -> bool:
        if self.mode == REPROCESS_NONE or row.status == Status.QUARANTINED:
            return True
        if row.decided_by == BY_PERSON and not self.overrule_people:
            return True
        assert self.mode in (REPROCESS_MODEL, REPROCESS_POLICY)
        same_model = row.model_id in (self.model_id, None)
        return same_model and (self.mode == REPROCESS_MODEL or row.policy_id == self.policy_id)


@dataclass
class FilterIngested(beam.PTransform[dict[str, PCollection[Any]], DoOutputsTuple]):
    """Filter out the references of ingested and recovered objects.

    Takes a dict with "refs", "existing" (of `ReadExistingVersions`) and "journaled" (of `OpenLake`), and
    has the outputs `TO_PROCESS`, `RECOVERED` and `COUNTS`. Records cross the shuffle in batches, because
    a source may list every object of an archive each night.
    """

    reprocessing: Reprocessing
    layout: Layout | None = None
    run_id: str = ""

    def expand(self, pcolls: dict[str, PCollection[Any]]) -> DoOutputsTuple:
        batch_refs = BatchForShuffleFn(ObjectRef, REFS, lambda ref: key_of_source(ref.uri))
        batch_versions = BatchForShuffleFn(
            ExistingVersion, EXISTING, lambda version: key_of_source(version.source_uri)
        )
        batch_rows = BatchForShuffleFn(
            IndexRow, JOURNALED, lambda row: key_of_source(row.source_uri)
        )
        outputs: DoOutputsTuple = (
            (
                pcolls["refs"] | "BatchRefs" >> beam.ParDo(batch_refs),
                pcolls["existing"] | "BatchExisting" >> beam.ParDo(batch_versions),
                pcolls["journaled"] | "BatchJournaled" >> beam.ParDo(batch_rows),
            )
            | "Batches" >> beam.Flatten()
            | "GroupBySource" >> beam.GroupByKey()
            | "Filter"
            >> beam.FlatMap(_filter, self.reprocessing, self.layout, self.run_id)
            .with_output_types(RecordBatch, **{RECOVERED: IndexRow, COUNTS: RunCounts})
            .with_outputs(RECOVERED, COUNTS, main=TO_PROCESS)
        )
        return outputs


@dataclass
class RedistributeRefs(beam.PTransform[PCollection[RecordBatch], PCollection[ObjectRef]]):
    """Redistribute batches of references over the workers, and unbatch them."""

    def expand(self, batches: PCollection[RecordBatch]) -> PCollection[ObjectRef]:
        refs: PCollection[ObjectRef] = (
            batches
            | "Redistribute" >> beam.Reshuffle()
            | "Unbatch"
            >> beam.FlatMap(lambda batch: batch.records(CODECS[ObjectRef])).with_output_types(
                ObjectRef
            )
        )
        return refs


@dataclass
class _Source:
    """The records of one source; journaled rows by source version."""

    refs: set[ObjectRef] = field(default_factory=set)
    existing: set[ExistingVersion] = field(default_factory=set)
    journaled: dict[str, IndexRow] = field(default_factory=dict)


def _filter(
    group: tuple[int, Iterable[RecordBatch]],
    reprocessing: Reprocessing,
    layout: Layout | None,
    run_id: str,
) -> Iterator[RecordBatch | TaggedOutput[str, RunCounts] | TaggedOutput[str, IndexRow]]:
    sources, listed = _join(list(group[1]))
    states = None if layout is None else SourceStates(layout, group[0])
    tombstones = NONE if layout is None else tombstones_of_run(layout, run_id)
    to_process: list[ObjectRef] = []
    # Each listed reference is counted as discovered elsewhere, also if inputs list an object twice.
    counts = Counter({"discovered": -listed})
    for _, source in sorted(sources.items()):
        for row in source.journaled.values():
            count(CounterName.RECOVERED)
            yield TaggedOutput(RECOVERED, row)
        known: list[KnownVersion] = [*source.existing, *source.journaled.values()]
        resolved = {resolve_version(ref, known, states) for ref in source.refs}
        # A recovered object that no longer exists was discovered by the interrupted run.
        counts["discovered"] += len(source.journaled.keys() - {ref.version for ref in resolved})
        counts["discovered"] += len(resolved)
        counts["recovered"] += len(source.journaled)
        for ref in sorted(resolved, key=lambda r: r.version):
            if ref.version in source.journaled:
                continue
            same_version = [v for v in source.existing if v.source_version == ref.version]
            if reprocessing.is_ingested(same_version):
                count(CounterName.UNCHANGED)
                counts["unchanged"] += 1
            elif tombstones.has_source(ref):
                count(CounterName.FORGOTTEN)
                counts[FORGOTTEN] += 1
            else:
                to_process.append(ref)
    if states is not None:
        states.save()
    for start in range(0, len(to_process), SHUFFLE_BATCH):
        refs = to_process[start : start + SHUFFLE_BATCH]
        yield RecordBatch.of(CODECS[ObjectRef], refs, kind=REFS)
    yield TaggedOutput(COUNTS, RunCounts(counts))


def _join(batches: Sequence[RecordBatch]) -> tuple[dict[str, _Source], int]:
    """Return the sources that have a reference or a journaled row, and the number of references."""
    sources: dict[str, _Source] = defaultdict(_Source)
    listed = 0
    for ref in records_of(batches, REFS, ObjectRef):
        sources[ref.uri].refs.add(ref)
        listed += 1
    for row in records_of(batches, JOURNALED, IndexRow):
        sources[row.source_uri].journaled.setdefault(row.source_version, row)
    for version in records_of(batches, EXISTING, ExistingVersion):
        if version.source_uri in sources:
            sources[version.source_uri].existing.add(version)
    return sources, listed

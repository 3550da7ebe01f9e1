"""Skips what the lake holds: references joined with its index and the journal of a killed run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import apache_beam as beam
from apache_beam import pvalue

from transforms.config.route_config import RouteConfig
from transforms.core.batch_sizes import SHUFFLE_BATCH
from transforms.core.object_ref import ObjectRef
from transforms.core.packed import pack, unpack
from transforms.lake.index_files import ExistingVersion, hash_of
from transforms.lake.journal import JournalRow, recovered_row
from transforms.lake.resolve_duplicates import REPROCESS_ALL, REPROCESS_MODEL, REPROCESS_NONE
from transforms.lake.run_counts import RunCounts
from transforms.metrics import CounterName, count
from transforms.shuffle_batching import BatchForShuffleFn

TO_PROCESS, RECOVERED, STALE, TALLIES = "todo", "recovered", "stale", "tallies"
"""Tags of `FilterIngested`: references that need work, in batches; rows recovered from the journal, also
those whose source is no longer among the references; journaled rows that only say what was
placed; counts."""

BUCKETS: Final = 256
"""What belongs together meets in one, by the hash of its source's URI."""


@dataclass
class FilterIngested(beam.PTransform):  # type: ignore[misc]
    """Leaves the references that need work; see the tags for what becomes of the others.

    Input: a dict with "refs", "held" (as of `ReadExistingVersions`) and "journal". All of them cross the
    shuffle in batches: a night's listing may name every object of an archive.
    """

    config: RouteConfig

    def expand(self, pcolls: dict[str, beam.PCollection[Any]]) -> pvalue.DoOutputsTuple:
        config, fingerprint = self.config, self.config.fingerprint()
        packers = {
            "refs": _packer(lambda ref: ref.uri, ObjectRef.pack),
            "held": _packer(lambda held: held[0], pack),
            "journal": _packer(lambda entry: entry.row.source_uri, JournalRow.pack),
        }
        return (
            {
                name: pcolls[name]
                | f"Pack_{name}" >> beam.ParDo(packer).with_output_types(tuple[int, bytes])
                for name, packer in packers.items()
            }
            | "GroupByBucket" >> beam.CoGroupByKey()
            | "SkipHeld"
            >> beam.FlatMapTuple(lambda _, packs: _partition(packs, config, fingerprint))
            .with_output_types(Any)
            .with_outputs(RECOVERED, STALE, TALLIES, main=TO_PROCESS)
        )


@dataclass
class RedistributeRefs(beam.PTransform):  # type: ignore[misc]
    """Packs of references to references, spread over the workers."""

    def expand(self, packs: beam.PCollection[bytes]) -> beam.PCollection[ObjectRef]:
        return (
            packs
            | "Spread" >> beam.Reshuffle()
            | "Unpack" >> beam.FlatMap(ObjectRef.unpack).with_output_types(Any)
        )


def is_ingested(
    ref: ObjectRef, known: Iterable[ExistingVersion], reprocess: str, model_id: str
) -> bool:
    """Whether a reference needs no work.

    With reprocess "model", what another model decided is decided again; rows that no model decided
    (quarantined, not_xray) stand.
    """
    if reprocess == REPROCESS_ALL:
        return False
    models = {model for version, model in known if version == ref.version}
    if reprocess == REPROCESS_MODEL:
        return bool(models & {model_id, None})
    assert reprocess == REPROCESS_NONE
    return bool(models)


def _packer(
    uri_of: Callable[[Any], str], packed: Callable[[Sequence[Any]], bytes]
) -> BatchForShuffleFn:
    return BatchForShuffleFn(
        lambda element: hash_of(uri_of(element)) % BUCKETS,
        lambda bucket, elements: (bucket, packed(elements)),
    )


@dataclass
class _Source:
    """What meets of one source."""

    refs: list[ObjectRef] = field(default_factory=list)
    held: set[ExistingVersion] = field(default_factory=set)
    journal: list[JournalRow] = field(default_factory=list)


def _partition(
    packs: dict[str, Iterable[bytes]], config: RouteConfig, fingerprint: str
) -> Iterator[bytes | pvalue.TaggedOutput]:
    sources: dict[str, _Source] = defaultdict(_Source)
    for ref in chain.from_iterable(map(ObjectRef.unpack, packs["refs"])):
        sources[ref.uri].refs.append(ref)
    for entry in chain.from_iterable(map(JournalRow.unpack, packs["journal"])):
        sources[entry.row.source_uri].journal.append(entry)
    for uri, version in chain.from_iterable(map(unpack, packs["held"])):
        if source := sources.get(uri):  # the lake may hold far more than a run is about
            source.held.add(version)

    todo: list[ObjectRef] = []
    counts: Counter[str] = Counter()
    for _uri, source in sorted(sources.items()):
        todo += yield from _partition_source(source, config, fingerprint, counts)
    for start in range(0, len(todo), SHUFFLE_BATCH):
        yield ObjectRef.pack(todo[start : start + SHUFFLE_BATCH])
    yield pvalue.TaggedOutput(TALLIES, RunCounts(counts))


def _order_of(entry: JournalRow) -> tuple[str, str, str]:
    return entry.row.source_version, entry.fingerprint, str(entry.row.object_uri)


def _partition_source(
    source: _Source, config: RouteConfig, fingerprint: str, counts: Counter[str]
) -> Generator[pvalue.TaggedOutput, None, list[ObjectRef]]:
    """Give out what is known of a source; return its references that need work."""
    usable: dict[str, JournalRow] = {}
    for entry in sorted(source.journal, key=_order_of):
        row = entry.row
        is_indexed = (row.source_version, row.model_id) in source.held
        if (
            entry.fingerprint == fingerprint
            and not is_indexed
            and row.source_version not in usable
            and entry.is_placed
        ):
            usable[row.source_version] = entry
        else:
            yield pvalue.TaggedOutput(STALE, row)

    recovered: list[JournalRow] = []
    todo: list[ObjectRef] = []
    refs = sorted(set(source.refs), key=lambda ref: ref.version)
    for ref in refs:
        entry_of_ref = usable.pop(ref.version, None)
        if is_ingested(ref, source.held, config.reprocess, config.model_id):
            count(CounterName.UNCHANGED)
            counts["unchanged"] += 1
            if entry_of_ref:  # of a killed --reprocess
                yield pvalue.TaggedOutput(STALE, entry_of_ref.row)
        elif entry_of_ref:
            recovered.append(entry_of_ref)
        else:
            todo.append(ref)
    # Each that was named was counted as discovered; so are those whose source is gone by now.
    counts["discovered"] += len(usable) - (len(source.refs) - len(refs))
    for entry in (*recovered, *usable.values()):
        count(CounterName.RECOVERED)
        counts["recovered"] += 1
        row = recovered_row(entry, config.run_id, config.ingest_date)
        yield pvalue.TaggedOutput(RECOVERED, row)
    return todo

"""Skips what the lake holds: references joined with its index and the journal of a killed run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import apache_beam as beam
from apache_beam import pvalue

from transforms.config import RouteConfig
from transforms.lake.index_files import HeldVersion, hash_of
from transforms.lake.journal import JournalRow, taken_over
from transforms.lake.settle import REPROCESS_ALL, REPROCESS_MODEL, REPROCESS_NONE
from transforms.metrics import Count, count
from transforms.packed import pack, unpack
from transforms.packs import PACK, PackFn
from transforms.refs import ObjectRef
from transforms.tally import RunTally

TODO, RECOVERED, STALE, TALLIES = "todo", "recovered", "stale", "tallies"
"""Tags of `SkipHeld`: references that need work, in packs; rows taken over from the journal, also those
whose source is no longer among the references; journaled rows that only tell what was placed; counts."""

BUCKETS: Final = 256
"""What belongs together meets in one, by the hash of its source's URI."""


@dataclass
class SkipHeld(beam.PTransform):  # type: ignore[misc]
    """Leaves the references that need work; see the tags for what becomes of the others.

    Input: a dict with "refs", "held" (as of `HeldSources`) and "journal". All of them cross the shuffle
    in packs: a night's listing may name every object of an archive.
    """

    config: RouteConfig

    def expand(self, pcolls: dict[str, beam.PCollection[Any]]) -> pvalue.DoOutputsTuple:
        config, decided_by = self.config, self.config.decided_by()
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
            >> beam.FlatMapTuple(lambda _, packs: _sorted_out(packs, config, decided_by))
            .with_output_types(Any)
            .with_outputs(RECOVERED, STALE, TALLIES, main=TODO)
        )


@dataclass
class SpreadRefs(beam.PTransform):  # type: ignore[misc]
    """Packs of references to references, spread over the workers."""

    def expand(self, packs: beam.PCollection[bytes]) -> beam.PCollection[ObjectRef]:
        return (
            packs
            | "Spread" >> beam.Reshuffle()
            | "Unpack" >> beam.FlatMap(ObjectRef.unpack).with_output_types(Any)
        )


def is_held(ref: ObjectRef, known: Iterable[HeldVersion], reprocess: str, model_id: str) -> bool:
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


def _packer(uri_of: Callable[[Any], str], packed: Callable[[Sequence[Any]], bytes]) -> PackFn:
    return PackFn(
        lambda element: hash_of(uri_of(element)) % BUCKETS,
        lambda bucket, elements: (bucket, packed(elements)),
    )


@dataclass
class _Source:
    """What meets of one source."""

    refs: list[ObjectRef] = field(default_factory=list)
    held: set[HeldVersion] = field(default_factory=set)
    journal: list[JournalRow] = field(default_factory=list)


def _sorted_out(
    packs: dict[str, Iterable[bytes]], config: RouteConfig, decided_by: str
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
        todo += yield from _sorted_out_one(source, config, decided_by, counts)
    for start in range(0, len(todo), PACK):
        yield ObjectRef.pack(todo[start : start + PACK])
    yield pvalue.TaggedOutput(TALLIES, RunTally(counts))


def _order_of(entry: JournalRow) -> tuple[str, str, str]:
    return entry.row.source_version, entry.decided_by, str(entry.row.object_uri)


def _sorted_out_one(
    source: _Source, config: RouteConfig, decided_by: str, counts: Counter[str]
) -> Generator[pvalue.TaggedOutput, None, list[ObjectRef]]:
    """Give out what is known of a source; return its references that need work."""
    usable: dict[str, JournalRow] = {}
    for entry in sorted(source.journal, key=_order_of):
        row = entry.row
        is_indexed = (row.source_version, row.model_id) in source.held
        if (
            entry.decided_by == decided_by
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
        if is_held(ref, source.held, config.reprocess, config.model_id):
            count(Count.UNCHANGED)
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
        count(Count.RECOVERED)
        counts["recovered"] += 1
        row = taken_over(entry, config.run_id, config.ingest_date)
        yield pvalue.TaggedOutput(RECOVERED, row)
    return todo

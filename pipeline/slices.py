"""Route many objects in slices, by one pipeline after the other, in bounded memory.

The in-process runner holds every element of a pipeline in memory: references, existing versions and rows.
So the process that launches it lists the inputs itself, as far as one slice, which it writes to a
temporary file, and lists on when the slice is in the index. A slice is routed as a run of its own would
be: its journal is empty afterwards. There is one summary, about all slices.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.pvalue import DoOutputsTuple, PBegin, TaggedOutput

from pipeline.known_refs import without_known
from pipeline.runners import IN_PROCESS
from pipeline.sources.outputs import REFS, SKIPPED, SourceOutput, may_pause_before
from pipeline.sources.registry import LISTINGS
from transforms.coders import CODECS
from transforms.config.route_config import RouteConfig
from transforms.core.choices import REPROCESS_NONE
from transforms.core.object_ref import FAILED, Failure, ObjectRef
from transforms.core.reasons import Stage
from transforms.core.record_batch import RecordBatch
from transforms.core.storage_failures import TEMPORARY, write_failure
from transforms.lake.run_counts import RunCounts
from transforms.lake.schema import RUN_ID_SEPARATOR
from transforms.metrics import CounterName, count, count_listed
from transforms.storage.temporary import private_folder

SLICE_REFS: Final = 100_000
"""Number of references and failures of a slice; it may have more members of an archive."""
KNOWN_REFS: Final = 8
"""Number of known references that count as one: a new object does not wait for all of a long list."""
BATCH_RECORDS: Final = 1024
"""Number of records that are written and read together."""
_LENGTH_BYTES: Final = 4
_TYPES: Final = {REFS: ObjectRef, FAILED: Failure, SKIPPED: RunCounts}


@dataclass(frozen=True)
class Slice:
    """Some of the elements that the source of a run has.

    Attributes:
        folder: folder on this machine's disk.
        number: from 1.
        is_last: whether it has the last elements.
    """

    folder: str
    number: int
    is_last: bool

    @property
    def path(self) -> Path:
        """The file with the elements."""
        return Path(self.folder, f"{self.number}.elements")

    def config_of(self, config: RouteConfig) -> RouteConfig:
        """Return the configuration of a slice; rows have its number if there are several."""
        if self.number == 1 and self.is_last:
            return config
        return replace(config, run_id=f"{config.run_id}{RUN_ID_SEPARATOR}{self.number}")

    def elements(self) -> Iterator[SourceOutput]:
        """Yield the elements, in batches."""
        with self.path.open("rb") as file:
            while header := file.read(_LENGTH_BYTES):
                batch = CODECS[RecordBatch].decode(file.read(int.from_bytes(header)))
                records = batch.records(CODECS[_TYPES[batch.kind]])
                if batch.kind == REFS:
                    count_listed(len(records), ())
                    yield from records
                else:
                    if batch.kind == FAILED:
                        count_listed(0, (failure.reason for failure in records))
                    else:
                        known = sum(record.counts["unchanged"] for record in records)
                        count_listed(known, ())
                        count(CounterName.UNCHANGED, known)
                    yield from (TaggedOutput(batch.kind, record) for record in records)

    def save_counts(self, counts: RunCounts) -> None:
        """Keep the counts of a slice that is not the last one."""
        kept = replace(counts, segments=(), orphans=())
        _write(self._counts_of(self.number), CODECS[RunCounts].encode(kept))

    def with_earlier(self, counts: RunCounts) -> RunCounts:
        """Return counts together with those of the slices before this one."""
        files = map(self._counts_of, range(1, self.number))
        return RunCounts.sum(
            [counts, *(CODECS[RunCounts].decode(one.read_bytes()) for one in files)]
        )

    def _counts_of(self, number: int) -> Path:
        return Path(self.folder, f"{number}.counts")


@dataclass
class ReadSlice(beam.PTransform[PBegin, DoOutputsTuple]):
    """Read a slice; has the outputs of a source."""

    part: Slice

    def expand(self, pbegin: PBegin) -> DoOutputsTuple:
        outputs: DoOutputsTuple = (
            pbegin
            | "Slice" >> beam.Create([self.part.number]).with_output_types(int)
            | "Read"
            >> beam.FlatMap(lambda _, part: part.elements(), self.part)
            .with_output_types(ObjectRef, **{FAILED: Failure, SKIPPED: RunCounts})
            .with_outputs(FAILED, SKIPPED, main=REFS)
        )
        return outputs


def are_sliced(config: RouteConfig, options: PipelineOptions) -> bool:
    """Return whether a batch run is routed in slices: by workers in this process, and only new objects.

    A run that supersedes rows needs all of them at its end.
    """
    return (
        options.view_as(StandardOptions).runner == IN_PROCESS
        and options.view_as(DirectOptions).direct_running_mode != "multi_processing"
        and config.reprocess == REPROCESS_NONE
    )


@contextlib.contextmanager
def slices_of(config: RouteConfig, options: PipelineOptions) -> Iterator[Iterator[Slice | None]]:
    """Provide the slices of a run, each to be routed before the next one is asked for.

    There is always one; it is None if the workers list the inputs.
    """
    if not are_sliced(config, options):
        yield iter([None])
        return
    with (
        private_folder() as folder,
        contextlib.closing(LISTINGS[config.source](config)) as listed,
        contextlib.closing(without_known(listed, config.layout)) as new,
    ):
        yield write_slices(new, folder, SLICE_REFS)


def write_slices(elements: Iterator[SourceOutput], folder: Path, limit: int) -> Iterator[Slice]:
    """Write elements of a source to files, and yield each file when it is complete; always one.

    Args:
        elements: of the source; read as far as a slice needs.
        folder: where the files are, one at a time.
        limit: number of elements of a slice; more if all are counts of known references.

    Raises:
        ProcessingFailure: this machine's disk refused a write.
    """
    following = next(elements, None)
    number = 0
    while number == 0 or following is not None:
        number += 1
        path = Slice(str(folder), number, False).path
        writer = _Writer(path)
        while following is not None and not (
            writer.has_work and writer.number >= limit and may_pause_before(following)
        ):
            writer.add(following)
            following = next(elements, None)
        writer.finish()
        yield Slice(str(folder), number, following is None)
        path.unlink()


class _Writer:
    """Writes elements of a source to a file.

    Attributes:
        number: number of elements, of which `KNOWN_REFS` known references are one.
        has_work: whether there is a reference or a failure among them.
    """

    def __init__(self, path: Path) -> None:
        self.number = 0
        self.has_work = False
        self._path = path
        _write(path, b"")
        self._waiting: dict[str, list[Any]] = {tag: [] for tag in _TYPES}

    def add(self, element: SourceOutput) -> None:
        """Write an element, now or later."""
        tag: str = REFS
        record: Any = element
        if isinstance(element, TaggedOutput):
            tag, record = element.tag, element.value
        self.number += record.counts["unchanged"] // KNOWN_REFS if tag == SKIPPED else 1
        self.has_work |= tag != SKIPPED
        self._waiting[tag].append(record)
        if len(self._waiting[tag]) == BATCH_RECORDS:
            self._write(tag)

    def finish(self) -> None:
        """Write the elements that wait."""
        for tag, records in self._waiting.items():
            if records:
                self._write(tag)

    def _write(self, tag: str) -> None:
        batch = RecordBatch.of(CODECS[_TYPES[tag]], self._waiting[tag], kind=tag)
        data = CODECS[RecordBatch].encode(batch)
        _write(self._path, len(data).to_bytes(_LENGTH_BYTES) + data, "ab")
        self._waiting[tag] = []


def _write(path: Path, data: bytes, mode: str = "wb") -> None:
    """Write data to a file on this machine's disk."""
    try:
        with path.open(mode) as file:
            file.write(data)
    except OSError as error:
        raise write_failure(error, Stage.FETCH, TEMPORARY) from error

"""List the objects that match files, folders (recursively) and globs, local or in a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.pvalue import DoOutputsTuple, PBegin

from pipeline.sources.archives import expand_archive
from pipeline.sources.listing import groups_of, list_objects
from pipeline.sources.outputs import REFS, SKIPPED, SourceOutput, skipped_outputs, to_output
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import FAILED, Failure, ObjectRef
from transforms.core.reasons import ProcessingFailure
from transforms.lake.run_counts import RunCounts
from transforms.storage.local import path_to_uri
from transforms.storage.selection import Skipped


@dataclass
class MatchFiles(beam.PTransform[PBegin, DoOutputsTuple]):
    """List inputs. Returns references in `REFS`, unlisted folders in `FAILED`, reasons in `SKIPPED`."""

    config: RouteConfig

    def expand(self, pbegin: PBegin) -> DoOutputsTuple:
        outputs: DoOutputsTuple = (
            pbegin
            | "Patterns"
            >> beam.Create(range(len(groups_of(self.config.inputs)))).with_output_types(int)
            | "Match"
            >> beam.FlatMap(_match, self.config)
            .with_output_types(ObjectRef, **{FAILED: Failure, SKIPPED: RunCounts})
            .with_outputs(FAILED, SKIPPED, main=REFS)
        )
        return outputs


def listed_files(config: RouteConfig) -> Generator[SourceOutput, None, None]:
    """Yield the elements of `MatchFiles`, listed in this process."""
    for group in range(len(groups_of(config.inputs))):
        yield from _match(group, config)


def _match(group: int, config: RouteConfig) -> Iterator[SourceOutput]:
    patterns = groups_of(config.inputs)[group]
    skipped: Counter[str] = Counter()
    for found in list_objects(patterns, config.selection):
        uri = patterns[0]
        expanded: Iterable[ObjectRef | OSError | ProcessingFailure | Skipped] = [found]
        if isinstance(found, ObjectRef):
            uri, expanded = found.uri, expand_archive(found, config)
        elif isinstance(found, OSError):
            uri = path_to_uri(str(found.filename or uri))
        for one in expanded:
            if isinstance(one, Skipped):
                skipped[one.why] += 1
            else:
                yield to_output(one, uri, config)
    yield from skipped_outputs(skipped)

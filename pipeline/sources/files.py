"""List the objects that match files, folders (recursively) and globs, local or in a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.pvalue import DoOutputsTuple, PBegin

from pipeline.sources.outputs import REFS, SourceOutput, to_output
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import FAILED, Failure, ObjectRef
from transforms.storage.local import path_to_uri
from transforms.storage.schemes import scheme_of, storage_of


@dataclass
class MatchFiles(beam.PTransform[PBegin, DoOutputsTuple]):
    """List inputs. Returns references in `REFS`, and folders that cannot be listed in `FAILED`."""

    config: RouteConfig

    def expand(self, pbegin: PBegin) -> DoOutputsTuple:
        outputs: DoOutputsTuple = (
            pbegin
            | "Patterns" >> beam.Create(self.config.inputs)
            | "Match"
            >> beam.FlatMap(_match, self.config)
            .with_output_types(ObjectRef, **{FAILED: Failure})
            .with_outputs(FAILED, main=REFS)
        )
        return outputs


def _match(pattern: str, config: RouteConfig) -> Iterator[SourceOutput]:
    for found in list_objects(pattern, config.layout.object_roots):
        path = getattr(found, "filename", None) or pattern
        yield to_output(found, path_to_uri(str(path)), config)


def list_objects(pattern: str, lakes: Sequence[str]) -> Iterator[ObjectRef | OSError]:
    """Yield the objects that match a pattern, and errors of folders that cannot be listed.

    Args:
        pattern: path or URI of an object or a folder, or a glob where ** spans folders.
        lakes: roots to exclude, so that a lake is never routed into itself.
    """
    excluded = [root for root in lakes if scheme_of(root) == scheme_of(pattern)]
    for found in storage_of(pattern).match(pattern, excluded):
        if isinstance(found, OSError):
            yield found
        else:
            yield ObjectRef.of(found)

"""Discovers objects by patterns: files, folders (with all below) and globs, local or in a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from pipeline.sources.discovered import REFS, discovered
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import FAILED, ObjectRef
from transforms.storage.local import path_to_uri
from transforms.storage.schemes import scheme_of, storage_of


@dataclass
class MatchFiles(beam.PTransform):  # type: ignore[misc]
    """Input patterns to references in `REFS`, and `FAILED` for folders that cannot be listed."""

    config: RouteConfig

    def expand(self, pbegin: pvalue.PBegin) -> pvalue.DoOutputsTuple:
        return (
            pbegin
            | "Patterns" >> beam.Create(self.config.inputs)
            | "Match"
            >> beam.FlatMap(_match, self.config)
            .with_output_types(Any)
            .with_outputs(FAILED, main=REFS)
        )


def _match(pattern: str, config: RouteConfig) -> Iterator[Any]:
    for found in list_objects(pattern, config.layout.object_roots):
        named = getattr(found, "filename", None) or pattern
        yield discovered(found, path_to_uri(str(named)), config)


def list_objects(pattern: str, lakes: Sequence[str]) -> Iterator[ObjectRef | OSError]:
    """List the objects that a pattern names, and the errors of what cannot be looked at.

    Args:
        pattern: path or URI of an object or a folder, or a glob where ** spans folders.
        lakes: roots whose objects are never listed: a lake is not routed into itself.
    """
    own = [root for root in lakes if scheme_of(root) == scheme_of(pattern)]
    for found in storage_of(pattern).match(pattern, own):
        if isinstance(found, OSError):
            yield found
        else:
            yield ObjectRef.of(found)

"""List the instances of DICOMweb servers by QIDO-RS, the studies in parallel."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.pvalue import DoOutputsTuple, PBegin

from pipeline.sources.outputs import REFS, SKIPPED, SourceOutput, to_output
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import FAILED, Failure, ObjectRef
from transforms.lake.run_counts import RunCounts
from transforms.storage.dicomweb import Query
from transforms.storage.schemes import dicomweb


@dataclass
class QueryDicomWeb(beam.PTransform[PBegin, DoOutputsTuple]):
    """List servers. Returns references in `REFS`, and studies that cannot be listed in `FAILED`."""

    config: RouteConfig

    def expand(self, pbegin: PBegin) -> DoOutputsTuple:
        query = Query(self.config.study_date, self.config.modalities)
        outputs: DoOutputsTuple = (
            pbegin
            | "Servers" >> beam.Create(self.config.inputs).with_output_types(str)
            | "Studies" >> beam.FlatMap(_studies, query).with_output_types(str)
            | "Reshuffle" >> beam.Reshuffle()
            | "Instances"
            >> beam.FlatMap(_instances, query, self.config)
            .with_output_types(ObjectRef, **{FAILED: Failure, SKIPPED: RunCounts})
            .with_outputs(FAILED, SKIPPED, main=REFS)
        )
        return outputs


def queried_instances(config: RouteConfig) -> Generator[SourceOutput, None, None]:
    """Yield the elements of `QueryDicomWeb`, listed in this process."""
    query = Query(config.study_date, config.modalities)
    for server in config.inputs:
        for uri in _studies(server, query):
            yield from _instances(uri, query, config)


def first_match(server: str, config: RouteConfig) -> str | OSError | None:
    """Return the server if it has matching studies, the error of listing it, or None."""
    query = Query(config.study_date, config.modalities)
    try:
        found = _is_study(server) or dicomweb().has_studies(server, query)
    except OSError as error:
        return error
    return server if found else None


def _studies(server: str, query: Query) -> list[str]:
    """Return the URIs of the studies of a server; its own URI if it cannot be listed or is a study."""
    server = server.rstrip("/")
    try:
        return [server] if _is_study(server) else dicomweb().studies(server, query)
    except OSError:
        return [server]  # listed again by the next step, which reports the error


def _instances(uri: str, query: Query, config: RouteConfig) -> Iterator[SourceOutput]:
    try:
        studies = [uri] if _is_study(uri) else dicomweb().studies(uri, query)
        for study in studies:
            for found in dicomweb().instances(study, query):
                yield to_output(ObjectRef.of(found), found.uri, config)
    except OSError as error:
        yield to_output(error, uri, config)


def _is_study(uri: str) -> bool:
    return uri.rpartition("/")[0].endswith("/studies")

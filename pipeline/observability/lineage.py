"""Emit OpenLineage events about a run: https://openlineage.io/docs/spec/run-cycle.

They name the lake and the folder or bucket of the inputs: no file, no value of a header, no message of an
exception.
"""

from __future__ import annotations

import contextlib
import logging
import os
import posixpath
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, Final
from urllib.parse import urlsplit

import attr
from openlineage.client import OpenLineageClient, set_producer
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    JobFacet,
    RunFacet,
    error_message_run,
    input_statistics_input_dataset,
    job_type_job,
    output_statistics_output_dataset,
    processing_engine_run,
    schema_dataset,
)
from openlineage.client.uuid import generate_static_uuid

from transforms.core.errors import UsageError
from transforms.lake.layout import Layout
from transforms.lake.schema import COLUMNS, PARTITION, SCHEMA
from transforms.storage.local import uri_to_path
from transforms.storage.names import MAGIC
from transforms.storage.schemes import is_local

LOG: Final = logging.getLogger("dicom_router")
NAMESPACE_VARIABLE: Final = "OPENLINEAGE_NAMESPACE"
DEFAULT_NAMESPACE: Final = "dicom-router"
PRODUCER: Final = "https://pypi.org/project/dicom-imaging-router"
FILE: Final = "file"
PUBSUB: Final = "pubsub"
CLOSE_TIMEOUT_S: Final = 5.0
"""Maximum time that the end of a run waits for events to be delivered."""
NOT_CONFIGURED: Final = (
    "--lineage: no transport is configured; set OPENLINEAGE_URL, or OPENLINEAGE_CONFIG to an "
    "openlineage.yml, as https://openlineage.io/docs/client/python describes"
)


@attr.define
class CompletenessRunFacet(RunFacet):
    """The completeness equation of a run.

    Attributes:
        runId: id of the run in its lake.
        complete: whether every object is accounted for.
        equation: the equation as text.
        counts: its terms and other counts by name.
    """

    runId: str
    complete: bool
    equation: str
    counts: dict[str, int]

    @staticmethod
    def _get_schema() -> str:
        return f"{PRODUCER}#CompletenessRunFacet"


class Lineage:
    """The events of one run, delivered in the background: no failure or delay reaches the run."""

    def __init__(self, layout: Layout, run_id: str, kind: str) -> None:
        """Read the configuration of the client.

        Raises:
            UsageError: there is none, or it cannot be used.
        """
        logging.getLogger("openlineage").setLevel(
            logging.CRITICAL + 1
        )  # it quotes events and replies
        set_producer(PRODUCER)
        try:
            self._client = OpenLineageClient()
            configured = self._client.config.transport or {}
        except Exception as error:  # of any kind: from YAML, transports and their modules
            raise UsageError(f"--lineage: its configuration cannot be used ({error})") from error
        if self._client.transport.kind == "console" and configured.get("type") != "console":
            raise UsageError(NOT_CONFIGURED)
        self._layout, self._run_id = layout, run_id
        namespace = os.environ.get(NAMESPACE_VARIABLE) or DEFAULT_NAMESPACE
        job_type = job_type_job.JobTypeJobFacet("BATCH", "DICOM_ROUTER", "JOB")
        facets: dict[str, JobFacet] = {"jobType": job_type}
        self._job = Job(namespace, f"{kind}.{layout.root.rstrip('/').rpartition('/')[2]}", facets)
        self._id = ""
        self._inputs: list[InputDataset] = []
        self._events: SimpleQueue[RunEvent | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._deliver, daemon=True)

    def start(self, started_at: float, inputs: Sequence[str], engine: str, version: str) -> None:
        """Emit START.

        Args:
            started_at: when the run started, seconds since 1970.
            inputs: the inputs of the run.
            engine: name of the Beam runner.
            version: version of this package.
        """
        started = datetime.fromtimestamp(started_at, UTC)
        self._id = str(generate_static_uuid(started, self._run_id.encode()))
        self._inputs = [InputDataset(*one) for one in datasets_of(inputs)]
        facet = processing_engine_run.ProcessingEngineRunFacet(version, engine)
        self._thread.start()
        self._emit(RunState.START, {"processing_engine": facet}, self._inputs, started)

    def complete(self, summary: Mapping[str, Any]) -> None:
        """Emit COMPLETE for a complete run, and FAIL for an incomplete one."""
        counts = summary["counts"]
        facets: dict[str, RunFacet] = {
            "dicom_router_completeness": CompletenessRunFacet(
                self._run_id, summary["complete"], summary["equation"], dict(counts)
            )
        }
        if not summary["complete"]:
            text = f"the run is incomplete: {counts['failed']} failed, {summary['equation']}"
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(text, "python")
        read = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
            fileCount=counts["discovered"], size=summary["size_bytes"]
        )
        inputs = self._inputs
        if len(inputs) == 1:  # the numbers are of all inputs together
            inputs = [attr.evolve(inputs[0], inputFacets={"inputStatistics": read})]
        rows = sum(one["objects"] for one in summary["reasons"])
        written = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=rows)
        state = RunState.COMPLETE if summary["complete"] else RunState.FAIL
        self._emit(state, facets, inputs, written=written)

    def fail(self, error: BaseException) -> None:
        """Emit FAIL, or ABORT after an interrupt; only the type of the exception is named."""
        if not self._id:  # it had not started
            return
        aborted = isinstance(error, KeyboardInterrupt)
        facet = error_message_run.ErrorMessageRunFacet(type(error).__name__, "python")
        state = RunState.ABORT if aborted else RunState.FAIL
        self._emit(state, {"errorMessage": facet}, self._inputs)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Wait for the events to be delivered, for a limited time."""
        self._events.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                LOG.warning("OpenLineage: events were not delivered within %.0f s", timeout_s)

    def _emit(
        self,
        state: RunState,
        facets: dict[str, RunFacet],
        inputs: list[InputDataset],
        at: datetime | None = None,
        written: output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet | None = None,
    ) -> None:
        namespace, name = dataset_of(f"{self._layout.index}/", is_folder=True)
        output = OutputDataset(
            namespace,
            name,
            facets={"schema": _schema()},
            outputFacets={} if written is None else {"outputStatistics": written},
        )
        self._events.put(
            RunEvent(
                eventType=state,
                eventTime=(at or datetime.now(UTC)).isoformat(),
                run=Run(self._id, facets),
                job=self._job,
                inputs=inputs,
                outputs=[output],
            )
        )

    def _deliver(self) -> None:
        failing = False
        while (event := self._events.get()) is not None:
            try:
                self._client.emit(event)
            except Exception as error:  # of any kind: the run does not depend on it
                if not failing:
                    LOG.warning("OpenLineage: events are not delivered (%s)", type(error).__name__)
                failing = True
        with contextlib.suppress(Exception):
            self._client.close()


def datasets_of(inputs: Sequence[str]) -> list[tuple[str, str]]:
    """Return namespace and name of the datasets of inputs: one for each bucket, server or file system.

    Several folders of one are named by the folder that they have in common.
    """
    names: dict[str, list[str]] = {}
    for namespace, name in map(dataset_of, inputs):
        names.setdefault(namespace, []).append(name)
    return [
        (namespace, found[0] if len(found) == 1 else _common(namespace, found))
        for namespace, found in sorted(names.items())
    ]


def dataset_of(location: str, *, is_folder: bool = False) -> tuple[str, str]:
    """Return namespace and name of the dataset of a location, without the names of files.

    A glob is cut before its first wildcard, and a file stands for its folder. In a store, a name that
    does not end in / may be that of an object, so it stands for the prefix before it. Source of the
    names: https://openlineage.io/docs/spec/naming.

    Args:
        location: a path, URI or subscription.
        is_folder: whether a path is that of a folder, even if there is none yet.
    """
    if location.startswith("projects/"):  # a subscription
        _, project, _, name = location.split("/")
        return PUBSUB, f"subscription:{project}:{name}"
    if is_local(location):
        path = uri_to_path(location).absolute()
        if found := MAGIC.search(str(path)):
            return FILE, posixpath.dirname(str(path)[: found.start()]) or "/"
        return FILE, str(path if is_folder or path.is_dir() else path.parent)
    parts = urlsplit(location)
    found = MAGIC.search(parts.path)
    prefix = posixpath.dirname(parts.path[: found.start()] if found else parts.path)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", prefix.strip("/") or "/"


def _common(namespace: str, names: Sequence[str]) -> str:
    if namespace == PUBSUB:
        return "subscriptions"
    common = posixpath.commonpath([f"/{name.lstrip('/')}" for name in names])
    return common if namespace == FILE else common.strip("/") or "/"


def _schema() -> schema_dataset.SchemaDatasetFacet:
    """Return the columns of the index."""
    field = schema_dataset.SchemaDatasetFacetFields
    return schema_dataset.SchemaDatasetFacet(
        [
            field(name, "string" if name == PARTITION else str(SCHEMA.field(name).type), text)
            for name, text in COLUMNS.items()
        ]
    )

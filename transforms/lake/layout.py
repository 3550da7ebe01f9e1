"""Where everything stands in a lake: names from identity and content, nothing from arrival order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from transforms.core.labels import LABELS
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import is_below, is_local, join

REVIEW: Final = "review"
NOT_XRAY: Final = "not_xray"
QUARANTINE: Final = "quarantine"
SINKS: Final = (*LABELS, REVIEW, NOT_XRAY, QUARANTINE)

SCRATCH: Final = ".tmp"
"""Folder of each root where files stand until they are whole; on the same file system."""
LOCK: Final = ".lock"
"""File of each root that who reads, adds to and removes from the index as a whole holds locked."""
WRITER_LOCK: Final = ".writer.lock"
"""File of each root that the one run routing into it holds locked, a stream as long as it goes on."""
PARTITION_PREFIX: Final = "ingest_date="
MARKER: Final = "lake.json"


def is_lake_name(relative: str) -> bool:
    """Return whether a name is part of a lake: no part of it starts with `.` or `_`.

    Others belong to file managers, engines and the lake's own bookkeeping: `.DS_Store`, `_SUCCESS`,
    `._part-….parquet`, `_temporary/…`.

    Args:
        relative: the name, relative to the folder that is listed.
    """
    return not any(part.startswith((".", "_")) for part in relative.split("/"))


@dataclass(frozen=True)
class Layout:
    """A lake and its sinks; every name is a local path or a URI.

    Attributes:
        root: absolute local path or URI of the lake.
        sinks: roots of the sinks that stand elsewhere.
    """

    root: str
    sinks: dict[str, str] = field(default_factory=dict)

    def object_uri(
        self, destination: str, study: str, series: str, instance: str, sha256: str
    ) -> str:
        """Name of an object; the UIDs must have been checked by `imaging.uids`."""
        return join(
            self._sink_root(destination),
            "objects",
            f"body_part={destination}",
            f"study={study}",
            f"series={series}",
            f"{instance}~{sha256[:16]}.dcm",
        )

    def quarantine_uri(self, sha256: str) -> str:
        """Name of a quarantined object."""
        return join(self._sink_root(QUARANTINE), "quarantine", sha256[:2], f"{sha256}.dcm")

    @property
    def index(self) -> str:
        """Folder of the index."""
        return join(self.root, "index")

    @property
    def history(self) -> str:
        """Folder of superseded rows."""
        return join(self.root, "history")

    @property
    def rewrites(self) -> str:
        """Folder of notes on index files that a rewrite has replaced; see `lake.rewrite`."""
        return join(self.root, ".rewrite")

    @property
    def marker(self) -> str:
        """File that makes a folder a lake; see `lake.marker`."""
        return join(self.root, MARKER)

    @property
    def journal(self) -> str:
        """Folder of the rows of a run that has not ended."""
        return join(self.root, "journal")

    @property
    def runs(self) -> str:
        """Folder of the summaries of complete runs."""
        return join(self.root, "runs")

    @property
    def incomplete_runs(self) -> str:
        """Folder of the summaries of runs that ended incomplete."""
        return join(self.runs, "incomplete")

    def dead_letter(self, name: str) -> str:
        """Name of a note about a message whose object cannot be had."""
        return join(self.root, "dead_letters", f"{name}.json")

    @property
    def metrics(self) -> str:
        """Folder of the metrics of runs."""
        return join(self.runs, "metrics")

    def partition(self, ingest_date: str) -> str:
        """Folder of one day's index files."""
        return join(self.index, f"{PARTITION_PREFIX}{ingest_date}")

    def history_partition(self, ingest_date: str) -> str:
        """Folder of the superseded rows of one day."""
        return join(self.history, f"{PARTITION_PREFIX}{ingest_date}")

    def relative(self, uri: str) -> str:
        """Return an object's name as the index holds it: below the root where it is there."""
        return uri[len(self.root.rstrip("/")) + 1 :] if is_below(uri, self.root) else uri

    def absolute(self, object_uri: str) -> str:
        """Return where an `object_uri` of the index is, as a path or URI."""
        return join(self.root, object_uri) if is_relative(object_uri) else object_uri

    def run_summary(self, run_id: str, *, complete: bool) -> str:
        """Name of a run's summary."""
        return join(self.runs if complete else self.incomplete_runs, f"{run_id}.json")

    def run_metrics(self, run_id: str) -> str:
        """Name of a run's metrics; not among the summaries, which other tools read as such."""
        return join(self.metrics, f"{run_id}.json")

    def scratch(self, destination: str | None = None) -> str:
        """Folder for files on their way to a sink, or to the lake's own folders."""
        return join(self.root if destination is None else self._sink_root(destination), SCRATCH)

    @property
    def local_scratch(self) -> str | None:
        """The lake's own `scratch` as a path, or None where it is in an object store."""
        return str(uri_to_path(self.scratch())) if is_local(self.root) else None

    @property
    def object_roots(self) -> tuple[str, ...]:
        """Every root that may hold objects."""
        return tuple(dict.fromkeys((self.root, *self.sinks.values())))

    def holds(self, uri: str) -> bool:
        """Whether a name stands in this lake or in one of its sinks."""
        return any(is_below(uri, root) for root in self.object_roots)

    def _sink_root(self, destination: str) -> str:
        if destination not in SINKS:
            raise ValueError(f"no sink named {destination!r}")
        return self.sinks.get(destination, self.root)


def is_relative(object_uri: str) -> bool:
    """Whether an `object_uri` is relative to its lake."""
    return not object_uri.startswith("/") and "://" not in object_uri


def partition_of(uri: str) -> str:
    """Return the day of the partition, YYYY-MM-DD, that an index file is in."""
    return uri.rpartition("/")[0].rpartition(PARTITION_PREFIX)[2]

"""The layout of a lake: names of its files and objects, derived from identity and content."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from transforms.core.labels import NAME_PATTERN, QUARANTINE
from transforms.storage.local import uri_to_path
from transforms.storage.permissions import FILE_MODE
from transforms.storage.schemes import canonical, is_below, is_local, join
from transforms.storage.selection import LAKE_MARKER

SCRATCH: Final = ".tmp"
"""Folder of each root for partial files, on the same file system."""
LOCK: Final = ".lock"
"""Lock file of each root, held while the index is recovered, rewritten or superseded."""
WRITER_LOCK: Final = ".writer.lock"
"""Lock file of each root, held by the run that routes into it until it ends."""
REPORTS: Final = "structured_reports"
"""Folder of each root for structured reports; names in it are those of objects in `objects/`."""
DERIVED: Final = "derived"
"""Folder of the table of derived objects; see `lake.derived`."""
DERIVED_OBJECTS: Final = "derived_objects"
"""Folder of each root for derived objects."""
PARTITION_PREFIX: Final = "ingest_date="
REGION_PREFIX: Final = "region="
"""Begins the name of a folder by region."""
_REGION: Final = re.compile(rf"(body_part=[^/]+)/{REGION_PREFIX}([^/]+)(/study=)")
MARKER: Final = LAKE_MARKER


HASH_IN_NAME: Final = 16
"""Hex digits of the sha256 in the name of an object."""


def object_name(sop_instance_uid: str, sha256: str, digits: int = HASH_IN_NAME) -> str:
    """Return the file name of an object: `<SOP Instance UID>~<first digits of sha256>.dcm`.

    Args:
        sop_instance_uid: a valid UID (see `imaging.uids`).
        sha256: of its content, hex.
        digits: number of hex digits in the name.
    """
    return f"{sop_instance_uid}~{sha256[:digits]}.dcm"


def is_lake_name(relative: str) -> bool:
    """Return whether a name is part of a lake: no component of it starts with `.` or `_`.

    Other names belong to file managers, engines and the lake's internal files: `.DS_Store`, `_SUCCESS`,
    `._part-….parquet`, `_temporary/…`.

    Args:
        relative: name relative to the listed folder.
    """
    return not any(part.startswith((".", "_")) for part in relative.split("/"))


@dataclass(frozen=True)
class Layout:
    """The names of a lake and its sinks. Each is an absolute local path or a URI.

    Attributes:
        root: root of the lake.
        sinks: roots of the sinks outside the lake, by sink.
        by_region: labels whose objects are in a folder by region, `body_part=<label>/region=<region>`,
            where the model predicts one.
        file_mode: permissions of new local files; see `storage.permissions`.
        derived: roots of derived objects outside the lake, by the label of their sources.
    """

    root: str
    sinks: dict[str, str] = field(default_factory=dict)
    file_mode: int = FILE_MODE
    by_region: frozenset[str] = frozenset()
    derived: dict[str, str] = field(default_factory=dict)

    def object_uri(
        self,
        destination: str,
        study: str,
        series: str,
        instance: str,
        sha256: str,
        region: str | None = None,
    ) -> str:
        """Return the URI of an object; the UIDs must be valid (see `imaging.uids`).

        Args:
            destination: its sink.
            study: Study Instance UID.
            series: Series Instance UID.
            instance: SOP Instance UID.
            sha256: of its content.
            region: that the model predicts, or None.
        """
        folder = self._region_folder(destination, region)
        sink = destination if folder is None else f"{destination}/{REGION_PREFIX}{folder}"
        return self._object_uri("objects", destination, sink, study, series, instance, sha256)

    def is_misplaced(self, object_uri: str, destination: str, region: str | None) -> bool:
        """Return whether an object is in the folder of a region that is not that of its row.

        In a sink without folders by region, objects stay where an earlier policy placed them, unless
        their region has changed.

        Args:
            object_uri: of the object, in the sink `destination`.
            destination: its sink.
            region: that the model predicts, or None.
        """
        found = region_of(object_uri)
        if destination in self.by_region:
            return found != self._region_folder(destination, region)
        return found not in (None, region)

    def _region_folder(self, destination: str, region: str | None) -> str | None:
        return region if destination in self.by_region else None

    def report_uri(
        self, destination: str, study: str, series: str, instance: str, sha256: str
    ) -> str:
        """Return the URI of the structured report about an object; as for `object_uri`, by no region."""
        return self._object_uri(REPORTS, destination, destination, study, series, instance, sha256)

    def derived_uri(self, label: str, study: str, series: str, instance: str, digest: str) -> str:
        """Return the URI of a derived object.

        Args:
            label: of its source.
            study: its own Study Instance UID.
            series: its own Series Instance UID.
            instance: its own SOP Instance UID.
            digest: keyed digest of its source and transform, hex.
        """
        if not NAME_PATTERN.fullmatch(label):
            raise ValueError(f"no sink named {label!r}")
        return join(
            self.derived.get(label, self.root),
            DERIVED_OBJECTS,
            f"body_part={label}",
            f"study={study}",
            f"series={series}",
            object_name(instance, digest),
        )

    def quarantine_uri(self, sha256: str) -> str:
        """Return the URI of a quarantined object."""
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
    def derived_table(self) -> str:
        """Folder of the table of derived objects; see `lake.derived`."""
        return join(self.root, DERIVED)

    @property
    def derived_roots(self) -> tuple[str, ...]:
        """Roots that may contain derived objects."""
        return tuple(dict.fromkeys((self.root, *self.derived.values())))

    @property
    def rewrites(self) -> str:
        """Folder of the intents of rewrites; see `lake.rewrite_intents`."""
        return join(self.root, ".rewrite")

    @property
    def marker(self) -> str:
        """File that marks a folder as a lake; see `lake.marker`."""
        return join(self.root, MARKER)

    @property
    def labels(self) -> str:
        """Folder of the answers of reviewers; see `lake.labels`."""
        return join(self.root, "labels")

    @property
    def label_sets(self) -> str:
        """Folder of the labels of models; see `lake.label_sets`."""
        return join(self.root, "label_sets")

    @property
    def journal(self) -> str:
        """Folder of the journal; see `lake.journal`."""
        return join(self.root, "journal")

    @property
    def runs(self) -> str:
        """Folder of the summaries of complete runs."""
        return join(self.root, "runs")

    @property
    def incomplete_runs(self) -> str:
        """Folder of the summaries of incomplete runs."""
        return join(self.runs, "incomplete")

    @property
    def thumbnails(self) -> str:
        """Folder of thumbnails; see `lake.thumbnails`."""
        return join(self.root, "thumbnails")

    @property
    def headers(self) -> str:
        """Folder of headers; see `lake.headers`."""
        return join(self.root, "headers")

    def dead_letter(self, name: str) -> str:
        """Return the URI of a dead letter; see `lake.dead_letters`."""
        return join(self.dead_letters, f"{name}.json")

    @property
    def dead_letters(self) -> str:
        """Folder of the dead letters."""
        return join(self.root, "dead_letters")

    @property
    def forgotten(self) -> str:
        """Folder of tombstones and reports of erasures; see `lake.tombstones`."""
        return join(self.root, "forgotten")

    @property
    def predictions(self) -> str:
        """Hidden folder of predictions that `reroute` has not applied."""
        return join(self.root, ".predictions")

    @property
    def audit(self) -> str:
        """Folder of notes about reported audit events; see `pipeline.audit.notes`."""
        return join(self.root, "audit")

    @property
    def header_reliability(self) -> str:
        """Folder of what the lake shows about headers; see `lake.header_reliability`."""
        return join(self.root, "header_reliability")

    @property
    def metrics(self) -> str:
        """Folder of the metrics of runs."""
        return join(self.runs, "metrics")

    @property
    def tables(self) -> str:
        """Folder of the published tables, which are not part of the lake; see `lake.published_tables`."""
        return join(self.root, "_tables")

    @property
    def published_index(self) -> str:
        """Folder of the files of the published index: the root of its Delta table."""
        return join(self.tables, "index")

    def partition(self, ingest_date: str) -> str:
        """Return the folder of the index files of a day, YYYY-MM-DD."""
        return join(self.index, f"{PARTITION_PREFIX}{ingest_date}")

    def history_partition(self, ingest_date: str) -> str:
        """Return the folder of the history files of a day, YYYY-MM-DD."""
        return join(self.history, f"{PARTITION_PREFIX}{ingest_date}")

    def relative(self, uri: str) -> str:
        """Return a URI as in the column `object_uri`: relative to the root if it is below it."""
        return uri[len(self.root.rstrip("/")) + 1 :] if is_below(uri, self.root) else uri

    def absolute(self, object_uri: str) -> str:
        """Return the path or URI of a value of the column `object_uri`."""
        return join(self.root, object_uri) if is_relative(object_uri) else object_uri

    def run_summary(self, run_id: str, *, complete: bool) -> str:
        """Return the URI of the summary of a run."""
        return join(self.runs if complete else self.incomplete_runs, f"{run_id}.json")

    def run_metrics(self, run_id: str) -> str:
        """Return the URI of the metrics of a run; other tools read all files among the summaries."""
        return join(self.metrics, f"{run_id}.json")

    def scratch(self, destination: str | None = None) -> str:
        """Return the folder for partial files of a sink, or of the lake's own folders if it is None."""
        return join(self.root if destination is None else self._sink_root(destination), SCRATCH)

    @property
    def local_scratch(self) -> str | None:
        """The lake's own `scratch` as a path, or None if the lake is in an object store."""
        return str(uri_to_path(self.scratch())) if is_local(self.root) else None

    def canonical(self) -> Layout:
        """Return the layout with canonical roots, as listings have them."""
        return replace(
            self,
            root=canonical(self.root),
            sinks={sink: canonical(root) for sink, root in self.sinks.items()},
            derived={label: canonical(root) for label, root in self.derived.items()},
        )

    @cached_property
    def object_roots(self) -> tuple[str, ...]:
        """Roots that may contain objects: of the lake and of its sinks."""
        return tuple(dict.fromkeys((self.root, *self.sinks.values())))

    def contains(self, uri: str) -> bool:
        """Return whether a path or URI is in the lake or in one of its sinks."""
        return any(is_below(uri, root) for root in self.object_roots)

    def _object_uri(
        self,
        folder: str,
        destination: str,
        sink: str,
        study: str,
        series: str,
        instance: str,
        sha256: str,
    ) -> str:
        return join(
            self._sink_root(destination),
            folder,
            f"body_part={sink}",
            f"study={study}",
            f"series={series}",
            object_name(instance, sha256),
        )

    def _sink_root(self, destination: str) -> str:
        if not NAME_PATTERN.fullmatch(destination):
            raise ValueError(f"no sink named {destination!r}")
        return self.sinks.get(destination, self.root)


def region_of(object_uri: str) -> str | None:
    """Return the region in the name of an object, or None."""
    found = _REGION.search(object_uri)
    return None if found is None else found[2]


def without_region(name: str) -> str:
    """Return the name of an object as it would be without a folder by region: that of its report."""
    return _REGION.sub(r"\1\3", name)


def is_relative(object_uri: str) -> bool:
    """Return whether an `object_uri` is relative to its lake."""
    return not object_uri.startswith("/") and "://" not in object_uri


def partition_of(uri: str) -> str:
    """Return the day, YYYY-MM-DD, of the partition of an index or history file."""
    return uri.rpartition("/")[0].rpartition(PARTITION_PREFIX)[2]

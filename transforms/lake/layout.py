"""Where everything stands in a lake: names from identity and content, nothing from arrival order."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from transforms.labels import LABELS

REVIEW: Final = "review"
NOT_XRAY: Final = "not_xray"
QUARANTINE: Final = "quarantine"
SINKS: Final = (*LABELS, REVIEW, NOT_XRAY, QUARANTINE)

SCRATCH: Final = ".tmp"
"""Folder of each root where files stand until they are whole; on the same file system."""
LOCK: Final = ".lock"
"""File of each root that the one run writing there holds locked."""


def object_key(source_uri: str) -> str:
    """Return an object's name in logs and errors: 12 hex digits of sha256 of its URI."""
    return hashlib.sha256(source_uri.encode()).hexdigest()[:12]


def path_to_uri(path: str) -> str:
    """Return a local path as a source URI: the path itself, or `file://` where it is no Unicode."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + quote(os.fsencode(path))
    return path


def uri_to_path(uri: str) -> Path:
    """Return the local path of a source or object URI."""
    if uri.startswith("file://"):
        return Path(os.fsdecode(unquote_to_bytes(uri[7:])))
    return Path(uri)


@dataclass(frozen=True)
class Layout:
    """A lake and its sinks.

    Attributes:
        root: absolute local path of the lake.
        sinks: roots of the sinks that stand elsewhere.
    """

    root: str
    sinks: dict[str, str] = field(default_factory=dict)

    def object_path(
        self, destination: str, study: str, series: str, instance: str, sha256: str
    ) -> Path:
        """Path of an object; the UIDs must have been checked by `imaging.uids`."""
        return (
            self._sink_root(destination)
            / "objects"
            / f"body_part={destination}"
            / f"study={study}"
            / f"series={series}"
            / f"{instance}~{sha256[:16]}.dcm"
        )

    def quarantine_path(self, sha256: str) -> Path:
        """Path of a quarantined object."""
        return self._sink_root(QUARANTINE) / "quarantine" / sha256[:2] / f"{sha256}.dcm"

    @property
    def index(self) -> Path:
        """Folder of the index."""
        return Path(self.root) / "index"

    @property
    def journal(self) -> Path:
        """Folder of the rows of a run that has not ended."""
        return Path(self.root) / "journal"

    def partition(self, ingest_date: str) -> Path:
        """Folder of one day's index files."""
        return self.index / f"ingest_date={ingest_date}"

    def run_summary(self, run_id: str, *, complete: bool) -> Path:
        """Path of a run's summary; those of incomplete runs stand apart."""
        runs = Path(self.root) / "runs"
        return (runs if complete else runs / "incomplete") / f"{run_id}.json"

    def scratch(self, destination: str | None = None) -> Path:
        """Folder for files on their way to a sink, or to the lake's own folders."""
        root = Path(self.root) if destination is None else self._sink_root(destination)
        return root / SCRATCH

    @property
    def object_roots(self) -> tuple[Path, ...]:
        """Every root that may hold objects."""
        return tuple(dict.fromkeys(map(Path, (self.root, *self.sinks.values()))))

    def _sink_root(self, destination: str) -> Path:
        if destination not in SINKS:
            raise ValueError(f"no sink named {destination!r}")
        return Path(self.sinks.get(destination, self.root))

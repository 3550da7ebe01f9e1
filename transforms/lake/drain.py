"""Draining a stream: the request and the reports of the sources, as small files in the lake.

No engine lets a job finish its objects in flight and then end. The sources and the process that
launched the job may run on different machines, and the lake is what all of them reach.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from transforms.lake.files import exists, list_files, put_if_absent, read_bytes
from transforms.lake.layout import Layout
from transforms.storage.schemes import join, storage_of

FOLDER: Final = ".stream"
REQUEST: Final = "stop"


@dataclass(frozen=True)
class DrainReport:
    """The report of a source that has drained.

    Attributes:
        object_keys: of the objects that it emitted and that still have no row.
    """

    object_keys: tuple[str, ...]


def request(layout: Layout) -> None:
    """Request the stream that writes to a lake to drain."""
    put_if_absent(_uri(layout, REQUEST), b"stop\n", scratch=layout.scratch())


def is_requested(layout: Layout) -> bool:
    """Return whether a drain was requested; False if the storage refuses to answer."""
    try:
        return exists(_uri(layout, REQUEST))
    except OSError:  # asked again at the next poll
        return False


def report(layout: Layout, run_id: str, number: int, drained: DrainReport) -> None:
    """Report that the source of input `number` has drained."""
    uri = _uri(layout, f"{run_id}-{number}.json")
    put_if_absent(uri, json.dumps(asdict(drained)).encode(), scratch=layout.scratch())


def reports(layout: Layout, run_id: str, inputs: int) -> list[DrainReport]:
    """Return the reports of those of a run's `inputs` sources that have drained."""
    uris = [_uri(layout, f"{run_id}-{number}.json") for number in range(inputs)]
    found = [json.loads(read_bytes(uri)) for uri in uris if exists(uri)]
    return [DrainReport(tuple(one["object_keys"])) for one in found]


def clear(layout: Layout) -> None:
    """Remove the request and all reports."""
    for found in list_files(join(layout.root, FOLDER)):
        storage_of(found.uri).remove(found.uri)


def _uri(layout: Layout, name: str) -> str:
    return join(layout.root, FOLDER, name)

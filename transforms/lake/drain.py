"""Drain a stream: the request, and the reports of drained sources, as small files in the lake.

Beam has no portable way to let a job finish its objects in flight and then end. The sources and the
process that launched the job may run on different machines, and all of them have access to the lake.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Final

from transforms.lake.files import exists, list_files, put_if_absent, read_json
from transforms.lake.layout import Layout
from transforms.storage.schemes import join, storage_of

FOLDER: Final = ".stream"
REQUEST: Final = "stop"


@dataclass(frozen=True)
class DrainReport:
    """The report of a source that has drained.

    Attributes:
        object_keys: keys of the objects that it emitted and that still have no row.
        skipped: number of names that its last poll skipped, by `Skip`.
    """

    object_keys: tuple[str, ...]
    skipped: dict[str, int] = field(default_factory=dict)


def request(layout: Layout) -> None:
    """Request a drain of the stream that writes to a lake."""
    put_if_absent(
        _uri(layout, REQUEST), b"stop\n", scratch=layout.scratch(), file_mode=layout.file_mode
    )


def is_requested(layout: Layout) -> bool:
    """Return whether a drain is requested; False if the storage does not respond."""
    try:
        return exists(_uri(layout, REQUEST))
    except OSError:  # the next poll tries again
        return False


def report(layout: Layout, run_id: str, number: int, drained: DrainReport) -> None:
    """Report that the source of input `number` has drained."""
    uri = _uri(layout, f"{run_id}-{number}.json")
    put_if_absent(
        uri,
        json.dumps(asdict(drained)).encode(),
        scratch=layout.scratch(),
        file_mode=layout.file_mode,
    )


def reports(layout: Layout, run_id: str, inputs: int) -> list[DrainReport]:
    """Return the reports of the sources of a run that have drained; `inputs` is the number of sources."""
    uris = [_uri(layout, f"{run_id}-{number}.json") for number in range(inputs)]
    found = [read_json(uri) for uri in uris if exists(uri)]
    return [DrainReport(tuple(one["object_keys"]), one.get("skipped", {})) for one in found]


def clear(layout: Layout) -> None:
    """Remove the request and all reports."""
    for found in list_files(join(layout.root, FOLDER)):
        storage_of(found.uri).remove(found.uri)


def _uri(layout: Layout, name: str) -> str:
    return join(layout.root, FOLDER, name)

"""`lake.json`, which makes a folder a lake, and the claims of a lake on the roots of its sinks.

A root belongs to one lake: what another lake has claimed is refused, so that no run ever removes or
writes beside objects that another lake's index names.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from typing import Final

from transforms.core.errors import UsageError
from transforms.lake.files import list_files, put_if_absent, read_bytes
from transforms.lake.layout import MARKER, Layout
from transforms.storage.schemes import join

FORMAT: Final = 2
"""Format of the lakes that this release writes."""
CLAIM: Final = ".dicom-router-lake.json"
"""File in the root of a sink outside the lake, which names the lake that it belongs to."""


class NotALake(UsageError):
    """A folder has no `lake.json` and nothing of a lake of format 1."""


class ForeignLake(UsageError):
    """A lake is of a later format, or a root belongs to another lake."""


@dataclass(frozen=True)
class Marker:
    """Content of `lake.json`.

    Attributes:
        format: version of the lake's format.
        lake_id: names the lake wherever it is moved.
    """

    format: int
    lake_id: str


def read_marker(layout: Layout) -> Marker | None:
    """Return a lake's marker; None where there is none, as in a lake of format 1.

    Raises:
        ForeignLake: the lake is of a later format than this release knows, or the file is damaged.
    """
    return _read(layout.marker)


def format_of(layout: Layout) -> int | None:
    """Return the format of a lake; None where there is no lake.

    Raises:
        ForeignLake: as `read_marker`.
    """
    marker = read_marker(layout)
    if marker is not None:
        return marker.format
    return 1 if _has_index(layout) or list_files(layout.runs, ".json") else None


def require_lake(layout: Layout) -> int:
    """Return the format of a lake.

    Raises:
        NotALake: there is no lake.
        ForeignLake: as `read_marker`.
    """
    found = format_of(layout)
    if found is None:
        raise NotALake(
            f"{layout.root} is not a lake: it has no {MARKER}; give the folder that --lake named"
        )
    return found


def require_claimable(layout: Layout) -> None:
    """Raise unless every root of a lake is its own or nobody's; writes nothing.

    Raises:
        ForeignLake: a root belongs to another lake, or the lake is of a later format.
    """
    marker = read_marker(layout)
    mine = None if marker is None else marker.lake_id
    for name, root in [("--lake", layout.root), *_external_sinks(layout)]:
        claim = _read(join(root, CLAIM))
        lake_there = None if root == layout.root else _read(join(root, MARKER))
        for found in (claim, lake_there):
            if found is not None and found.lake_id != mine:
                raise ForeignLake(
                    f"{name}: {root} belongs to another lake (id {found.lake_id}); choose another "
                    "folder, or a folder below it"
                )


def write_marker(layout: Layout) -> Marker:
    """Make a folder a lake of this release's format, unless it is one, and claim its sinks' roots.

    Raises:
        ForeignLake: as `require_claimable`.
        ProcessingFailure: the storage refused.
    """
    require_claimable(layout)
    if read_marker(layout) is None:
        _put(layout.marker, Marker(FORMAT, uuid.uuid4().hex), layout)
    marker = read_marker(layout)
    assert marker is not None
    for name, root in _external_sinks(layout):
        _put(join(root, CLAIM), marker, Layout(root))
        claimed = _read(join(root, CLAIM))
        if claimed is None or claimed.lake_id != marker.lake_id:  # another was first
            raise ForeignLake(f"{name}: {root} belongs to another lake; choose another folder")
    return marker


def _put(uri: str, marker: Marker, layout: Layout) -> None:
    put_if_absent(uri, (json.dumps(asdict(marker)) + "\n").encode(), scratch=layout.scratch())


def _read(uri: str) -> Marker | None:
    try:
        found = json.loads(read_bytes(uri))
        marker = Marker(int(found["format"]), str(found["lake_id"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ForeignLake(f"{uri} is damaged; restore it from a backup") from error
    if marker.format > FORMAT:
        raise ForeignLake(
            f"{uri}: format {marker.format} is of a later release; this one knows up to {FORMAT}"
        )
    return marker


def _external_sinks(layout: Layout) -> list[tuple[str, str]]:
    """The roots of sinks outside the lake, with the policy's name for each."""
    named = {root: f"sinks.{sink}" for sink, root in sorted(layout.sinks.items(), reverse=True)}
    return sorted((name, root) for root, name in named.items() if root != layout.root)


def _has_index(layout: Layout) -> bool:
    return any("/ingest_date=" in found.uri for found in list_files(layout.index, ".parquet"))

"""The marker of a lake, `lake.json`, and the claims of a lake on the roots of its external sinks.

Each root belongs to one lake. A root that another lake has claimed is refused, so that no run removes
objects that another lake's index references.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from typing import Final

from transforms.core.errors import UsageError
from transforms.lake.files import list_files, put_if_absent, read_json
from transforms.lake.layout import MARKER, PARTITION_PREFIX, Layout
from transforms.storage.permissions import FILE_MODE, parse_file_mode
from transforms.storage.schemes import join
from transforms.storage.selection import LAKE_CLAIM

FORMAT: Final = 2
"""Lake format that this release writes."""
CLAIM: Final = LAKE_CLAIM
"""File with a lake's marker in the root of a sink outside the lake."""


class NotALake(UsageError):
    """A folder has neither a `lake.json` nor the index or run summaries of a format 1 lake."""


class ForeignLake(UsageError):
    """A lake has the format of a later release, or a root belongs to another lake."""


@dataclass(frozen=True)
class Marker:
    """Content of `lake.json`.

    Attributes:
        format: version of the lake format.
        lake_id: identifies the lake, also after it is moved.
        file_mode: permissions of files with which the lake was made, in octal; None for the default.
    """

    format: int
    lake_id: str
    file_mode: str | None = None


def read_marker(layout: Layout) -> Marker | None:
    """Return a lake's marker, or None if it has none, like a lake of format 1.

    Raises:
        ForeignLake: the lake has the format of a later release, or the file is damaged.
    """
    return _read(layout.marker)


def recorded_file_mode(layout: Layout) -> int:
    """Return the permissions of files with which a lake was made, or the default.

    Raises:
        ForeignLake: as `read_marker`.
    """
    marker = read_marker(layout)
    recorded = None if marker is None else marker.file_mode
    return FILE_MODE if recorded is None else parse_file_mode(recorded)


def format_of(layout: Layout) -> int | None:
    """Return the format of a lake, or None if there is no lake.

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
    lake_format = format_of(layout)
    if lake_format is None:
        raise NotALake(
            f"{layout.root} is not a lake: it has no {MARKER}; give the folder of a run's --lake"
        )
    return lake_format


def require_claimable(layout: Layout) -> None:
    """Raise if a root of a lake belongs to another lake; write nothing.

    Raises:
        ForeignLake: a root belongs to another lake, or the lake has the format of a later release.
    """
    marker = read_marker(layout)
    own_id = None if marker is None else marker.lake_id
    for name, root in [("--lake", layout.root), *_external_sinks(layout)]:
        claim = _read(join(root, CLAIM))
        other = None if root == layout.root else _read(join(root, MARKER))
        for owner in (claim, other):
            if owner is not None and owner.lake_id != own_id:
                raise ForeignLake(
                    f"{name}: {root} belongs to another lake (id {owner.lake_id}); choose another "
                    "folder, or a folder below it"
                )


def write_marker(layout: Layout) -> Marker:
    """Write `lake.json` if it is absent, and claim the roots of external sinks. Idempotent.

    Raises:
        ForeignLake: as `require_claimable`.
        ProcessingFailure: the storage refused a write.
    """
    require_claimable(layout)
    if read_marker(layout) is None:
        mode = None if layout.file_mode == FILE_MODE else f"{layout.file_mode:04o}"
        _put(layout.marker, Marker(FORMAT, uuid.uuid4().hex, mode), layout)
    marker = read_marker(layout)
    assert marker is not None
    for name, root in _external_sinks(layout):
        _put(join(root, CLAIM), marker, Layout(root, file_mode=layout.file_mode))
        claimed = _read(join(root, CLAIM))
        if claimed is None or claimed.lake_id != marker.lake_id:  # another run was first
            raise ForeignLake(f"{name}: {root} belongs to another lake; choose another folder")
    return marker


def _put(uri: str, marker: Marker, layout: Layout) -> None:
    content = {name: value for name, value in asdict(marker).items() if value is not None}
    put_if_absent(
        uri,
        (json.dumps(content) + "\n").encode(),
        scratch=layout.scratch(),
        file_mode=layout.file_mode,
    )


def _read(uri: str) -> Marker | None:
    try:
        content = read_json(uri)
        marker = Marker(int(content["format"]), str(content["lake_id"]), content.get("file_mode"))
        if marker.file_mode is not None:
            parse_file_mode(marker.file_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise PermissionError(
            f"{uri} cannot be read ({error.strerror or error}); check its permissions and those of the "
            "folders above it, or correct --lake or the policy's sinks"
        ) from error
    except (ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise ForeignLake(f"{uri} is damaged; restore it from a backup") from error
    if marker.format > FORMAT:
        raise ForeignLake(
            f"{uri}: format {marker.format} is of a later release; this release reads up to {FORMAT}"
        )
    return marker


def _external_sinks(layout: Layout) -> list[tuple[str, str]]:
    """Return the policy key and root of each sink outside the lake; one key per root."""
    derived = sorted(layout.derived.items(), reverse=True)
    keys = {root: f"sinks.{sink}.derive" for sink, root in derived}
    keys |= {root: f"sinks.{sink}" for sink, root in sorted(layout.sinks.items(), reverse=True)}
    return sorted((key, root) for root, key in keys.items() if root != layout.root)


def _has_index(layout: Layout) -> bool:
    return any(f"/{PARTITION_PREFIX}" in file.uri for file in list_files(layout.index, ".parquet"))

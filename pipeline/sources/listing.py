"""List the objects that match patterns, in this process. Without Beam."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transforms.core.object_ref import ObjectRef
from transforms.storage.base import ObjectInfo
from transforms.storage.local import LocalStorage
from transforms.storage.schemes import is_local, storage_of
from transforms.storage.selection import Selection, Skipped


def groups_of(inputs: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the patterns to list together: all local ones, which may overlap, and each other one."""
    local = tuple(filter(is_local, inputs))
    return [*([local] if local else []), *((one,) for one in inputs if not is_local(one))]


def list_objects(
    patterns: Sequence[str], selection: Selection
) -> Iterator[ObjectRef | OSError | Skipped]:
    """Yield the objects that match patterns, errors of folders that cannot be listed, and skipped names.

    Args:
        patterns: paths or URIs of objects or folders, or globs where ** spans folders; a group of
            `groups_of`.
        selection: names that are inputs.
    """
    first = patterns[0]
    matches = (
        LocalStorage().match_all(patterns, selection)
        if is_local(first)
        else storage_of(first).match(first, selection)
    )
    for found in matches:
        yield ObjectRef.of(found) if isinstance(found, ObjectInfo) else found

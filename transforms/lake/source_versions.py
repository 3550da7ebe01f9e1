"""Tell apart versions of a local file that have the same size and modification time.

A program can replace the content of a file and restore both (`os.utime`, `rsync --times`, `cp -p`). The
inode or the time of the last status change (ctime) then differs from `source_state` in the row. They also
differ after a chmod, a new hard link, or a restored backup, and network file systems may make them up.
So a difference alone is no new version: the content is read and compared with the row's sha256.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from transforms.core.object_ref import ObjectRef
from transforms.lake.source_states import SourceStates
from transforms.storage.base import sha256_of
from transforms.storage.local import is_version_of
from transforms.storage.schemes import storage_of


class KnownVersion(Protocol):
    """What the index or the journal has of a version of a source; see `lake.schema.IndexRow`."""

    @property
    def source_version(self) -> str: ...

    @property
    def source_state(self) -> str | None: ...

    @property
    def content_sha256(self) -> str | None: ...


def resolve_version(
    ref: ObjectRef, known: Iterable[KnownVersion], states: SourceStates | None = None
) -> ObjectRef:
    """Return a reference with the source version of the row that has its content, if there is one.

    Rows of earlier releases have no state: they match if size and modification time are equal.

    Args:
        ref: reference to a listed object.
        known: versions of its source.
        states: states whose content was compared before; the caller saves what is added.

    Returns:
        The reference, with a version of its own if its content is new although its size and modification
        time are known.
    """
    if ref.state is None:
        return ref
    same = [version for version in known if is_version_of(version.source_version, ref.version)]
    for state in (ref.state, None):
        for version in same:
            if version.source_state == state:
                return replace(ref, version=version.source_version)
    if not same:
        return ref
    compared = None if states is None else states.get(ref)
    sha256 = _sha256_of(ref) if compared is None else None
    for version in same:
        if version.source_version == compared or version.content_sha256 == (sha256 or ""):
            if states is not None and compared is None:
                states.add(ref, version.source_version)
            return replace(ref, version=version.source_version)
    return replace(ref, version=f"{ref.version}-{ref.state}")


def _sha256_of(ref: ObjectRef) -> str | None:
    """Return the sha256 of a file, or None if it cannot be read, as the step that fetches it reports."""
    try:
        return sha256_of(storage_of(ref.uri), ref.uri, ref.version)
    except OSError:
        return None

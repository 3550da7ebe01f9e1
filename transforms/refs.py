"""References to source objects: all that crosses a shuffle before an object is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from transforms.lake.layout import object_key, uri_to_path
from transforms.reasons import Reason, Stage, Unaccounted


@dataclass(frozen=True)
class ObjectRef:
    """One version of one source object.

    Attributes:
        uri: absolute path of a local file.
        version: `<size>-<mtime_ns>` of a local file.
        size: in bytes.
    """

    uri: str
    version: str
    size: int

    @property
    def key(self) -> str:
        """The object's name in logs and errors."""
        return object_key(self.uri)


@dataclass(frozen=True)
class Failure:
    """An object that the run could not account for: it makes the run incomplete.

    Attributes:
        object_key: names the object.
        stage: where it failed.
        reason: why.
        detail: technical words, without values from the object.
        source_uri: kept only where the operator asked for `--log_uris`.
    """

    object_key: str
    stage: str
    reason: str
    detail: str
    source_uri: str | None = None


FAILED: Final = "failed"
"""Tag of a step's output of failures."""


def failure_of(uri: str, error: Unaccounted, *, log_uris: bool) -> Failure:
    """Return what may be said of an object that could not be accounted for."""
    shown = uri if log_uris else None
    return Failure(object_key(uri), error.stage, error.reason, error.detail, shown)


def version_of(status: os.stat_result) -> str:
    """Return the source version of a local file."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def read_ref(ref: ObjectRef) -> bytes:
    """Read the bytes of exactly this version.

    Raises:
        Unaccounted: it is gone, may not be read, or changed before or while it was read.
    """
    try:
        with uri_to_path(ref.uri).open("rb") as stream:
            check_version(ref, os.fstat(stream.fileno()))
            data = stream.read()
            check_version(ref, os.fstat(stream.fileno()))
    except OSError as error:
        raise unaccounted(error, Stage.FETCH) from error
    if len(data) != ref.size:
        raise Unaccounted(Stage.FETCH, Reason.CHANGED)
    return data


def check_version(ref: ObjectRef, status: os.stat_result) -> None:
    """Raise `Unaccounted` if a file is no longer the version that was discovered."""
    if version_of(status) != ref.version:
        raise Unaccounted(Stage.FETCH, Reason.CHANGED)


def unaccounted(error: OSError, stage: Stage) -> Unaccounted:
    """Return what an error of reading means."""
    if isinstance(error, FileNotFoundError):
        return Unaccounted(stage, Reason.DISAPPEARED)
    if isinstance(error, PermissionError):
        return Unaccounted(stage, Reason.PERMISSION_DENIED)
    return Unaccounted(stage, Reason.READ_FAILED, type(error).__name__)

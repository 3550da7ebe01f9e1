"""References to source objects: all that crosses a shuffle before an object is read."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import Final

from transforms.core.reasons import MEANINGS, ProcessingFailure, Reason
from transforms.storage.base import ObjectInfo, plausible_time


def object_key(source_uri: str) -> str:
    """Return what identifies an object in logs and errors: 12 hex digits of its URI's sha256."""
    return hashlib.sha256(source_uri.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class ObjectRef:
    """One version of one source object.

    Attributes:
        uri: absolute path of a local file, or `gs://…`, `s3://…`.
        version: as `storage.base.ObjectInfo.version`.
        size: in bytes.
        modified: when this version was written, seconds since 1970: its event time; None: as
            `storage.base.plausible_time`.
    """

    uri: str
    version: str
    size: int
    modified: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "modified", plausible_time(self.modified))

    @classmethod
    def of(cls, found: ObjectInfo) -> ObjectRef:
        """Return the reference to an object that a storage listed."""
        return cls(found.uri, found.version, found.size, found.modified)

    @property
    def key(self) -> str:
        """As `object_key`."""
        return object_key(self.uri)

    def digest(self) -> bytes:
        """Return 16 bytes that identify this version of this object."""
        return hashlib.sha256(f"{self.uri}\0{self.version}".encode()).digest()[:16]


@dataclass(frozen=True)
class Failure:
    """An object that could not be processed; it makes the run incomplete.

    Attributes:
        object_key: identifies the object.
        stage: where it failed.
        reason: why.
        detail: technical detail without values from the object.
        source_uri: only with `--log_uris`.
    """

    object_key: str
    stage: str
    reason: str
    detail: str
    source_uri: str | None = None


FAILED: Final = "failed"
"""Tag of a step's output of failures."""


def failure_of(uri: str, error: ProcessingFailure, *, log_uris: bool) -> Failure:
    """Return the failure of an object; with its URI only if `log_uris`."""
    shown = uri if log_uris else None
    return Failure(object_key(uri), error.stage, error.reason, error.detail, shown)


def format_failure(failure: Failure) -> str:
    """Return one line: which object failed, where, why, and what to do."""
    meaning = MEANINGS[Reason(failure.reason)]
    name = failure.source_uri or failure.object_key
    detail = f" ({failure.detail})" if failure.detail else ""
    return f"{name} at {failure.stage}: {meaning.text}{detail}; {meaning.remedy}"


def log_failure(failure: Failure) -> None:
    """Log a failure on the worker."""
    logging.getLogger("dicom_router").warning("%s", format_failure(failure))

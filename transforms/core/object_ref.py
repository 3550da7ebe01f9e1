"""References to source objects, and failures of processing them."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import Final

from transforms.core.reasons import MEANINGS, ProcessingFailure, Reason
from transforms.storage.base import ObjectInfo, plausible_time


def object_key(source_uri: str) -> str:
    """Return the key that identifies an object in logs and errors: 12 hex digits of its URI's sha256."""
    return hashlib.sha256(source_uri.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class ObjectRef:
    """One version of one source object.

    Attributes:
        uri: absolute path of a local file, or `gs://…`, `s3://…`.
        version: as `storage.base.ObjectInfo.version`.
        size: size in bytes.
        modified: event time: when this version was written, seconds since 1970; None if unknown or
            implausible (see `storage.base.plausible_time`).
        state: as `storage.base.ObjectInfo.state`.
    """

    uri: str
    version: str
    size: int
    modified: float | None = field(default=None, compare=False)
    state: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "modified", plausible_time(self.modified))

    @classmethod
    def of(cls, info: ObjectInfo) -> ObjectRef:
        """Return the reference to an object that a storage has listed."""
        return cls(info.uri, info.version, info.size, info.modified, info.state)

    @property
    def key(self) -> str:
        """The object key; see `object_key`."""
        return object_key(self.uri)

    @property
    def version_key(self) -> tuple[str, str]:
        """URI and version; see `lake.schema.VersionKey`."""
        return self.uri, self.version

    def digest(self) -> bytes:
        """Return a 16-byte digest that identifies this version and state of this object."""
        text = f"{self.uri}\0{self.version}\0{self.state or ''}"
        return hashlib.sha256(text.encode()).digest()[:16]


@dataclass(frozen=True)
class Failure:
    """An object that could not be processed; it makes the run incomplete.

    Attributes:
        object_key: key of the object.
        stage: `Stage` that failed.
        reason: `Reason` of the failure.
        detail: technical detail without values of the object, or "".
        source_uri: URI of the object, only with `--log_uris`.
    """

    object_key: str
    stage: str
    reason: str
    detail: str
    source_uri: str | None = None


FAILED: Final = "failed"
"""Output tag of failures."""


def failure_of(uri: str, error: ProcessingFailure, *, log_uris: bool) -> Failure:
    """Return the failure of an object, with its URI if `log_uris` is true."""
    shown = uri if log_uris else None
    return Failure(object_key(uri), error.stage, error.reason, error.detail, shown)


def format_failure(failure: Failure) -> str:
    """Return a failure as one line: object, stage, reason and remedy."""
    meaning = MEANINGS[Reason(failure.reason)]
    name = failure.source_uri or failure.object_key
    detail = f" ({failure.detail})" if failure.detail else ""
    return f"{name} at {failure.stage}: {meaning.text}{detail}; {meaning.remedy}"


def log_failure(failure: Failure) -> None:
    """Log a failure on the worker."""
    logging.getLogger("dicom_router").warning("%s", format_failure(failure))

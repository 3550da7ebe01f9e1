"""References to source objects: all that crosses a shuffle before an object is read."""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from transforms.core.packed import pack, unpack
from transforms.core.reasons import MEANINGS, ProcessingFailure, Reason, Stage
from transforms.core.shared_bytes import SharedBytes, can_be_mapped
from transforms.storage.base import ObjectChanged, ObjectInfo, sha256_of
from transforms.storage.local import LocalStorage, is_still
from transforms.storage.schemes import storage_of

DISK_FAILS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""What the disk may say on which an object is put before it has a name."""


def object_key(source_uri: str) -> str:
    """Return an object's name in logs and errors: 12 hex digits of sha256 of its URI."""
    return hashlib.sha256(source_uri.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class ObjectRef:
    """One version of one source object.

    Attributes:
        uri: absolute path of a local file, or `gs://…`, `s3://…`.
        version: as `storage.base.ObjectInfo.version`.
        size: in bytes.
        modified: when this version came to be there, seconds since 1970: its event time.
    """

    uri: str
    version: str
    size: int
    modified: float | None = field(default=None, compare=False)

    @classmethod
    def of(cls, found: ObjectInfo) -> ObjectRef:
        """Return the reference to an object as its place lists it."""
        return cls(found.uri, found.version, found.size, found.modified)

    @property
    def key(self) -> str:
        """The object's name in logs and errors."""
        return object_key(self.uri)

    @staticmethod
    def pack(refs: Iterable[ObjectRef]) -> bytes:
        """Return references as bytes, without when they came to be."""
        return pack((ref.uri, ref.version, ref.size) for ref in refs)

    @staticmethod
    def unpack(packed: bytes) -> list[ObjectRef]:
        """Return what was packed by `pack`."""
        return [ObjectRef(*record) for record in unpack(packed)]

    def digest(self) -> bytes:
        """16 bytes that stand for this version of this object."""
        named = f"{self.uri}\0{self.version}".encode()
        return hashlib.sha256(named).digest()[:16]


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


def failure_of(uri: str, error: ProcessingFailure, *, log_uris: bool) -> Failure:
    """Return what may be said of an object that could not be accounted for."""
    shown = uri if log_uris else None
    return Failure(object_key(uri), error.stage, error.reason, error.detail, shown)


def describe_failure(failure: Failure) -> str:
    """Return which object failed, where, what happened and what to do, as a person reads it."""
    meaning = MEANINGS[Reason(failure.reason)]
    named = failure.source_uri or failure.object_key
    detail = f" ({failure.detail})" if failure.detail else ""
    return f"{named} at {failure.stage}: {meaning.text}{detail}; {meaning.remedy}"


def log_failure(failure: Failure) -> None:
    """Say in the worker's log what became of an object, and what to do."""
    logging.getLogger("dicom_router").warning("%s", describe_failure(failure))


def read_ref(ref: ObjectRef, folder: str | None = None) -> SharedBytes:
    """Read the bytes of exactly this version; they are the caller's to close.

    Args:
        ref: the version.
        folder: as of `SharedBytes`; a disk that is full or fails is left for memory.

    Raises:
        Unaccounted: it is gone, may not be read, or changed before or while it was read.
    """
    data = SharedBytes(folder)
    try:
        storage_of(ref.uri).copy_to(ref.uri, ref.version, data.file)
        if data.size != ref.size:
            raise ObjectChanged("another size than it was listed with")
    except OSError as error:
        data.close()
        if not data.in_memory and error.errno in DISK_FAILS:
            return read_ref(ref)
        raise processing_failure(error, Stage.FETCH) from error
    return data


def open_ref(ref: ObjectRef) -> SharedBytes:
    """Like `read_ref` for a local file: the file itself where it can be mapped, not copied.

    Call `require_unchanged` once its bytes were used: somebody may write into it meanwhile.

    Raises:
        Unaccounted: as `read_ref`.
    """
    try:
        file = LocalStorage().opened(ref.uri, ref.version)
    except OSError as error:
        raise processing_failure(error, Stage.FETCH) from error
    if can_be_mapped(file):
        return SharedBytes.of(file)
    file.close()
    return read_ref(ref)


def require_unchanged(ref: ObjectRef, data: SharedBytes) -> None:
    """Raise unless what `open_ref` gave is the same version still.

    Raises:
        Unaccounted: it is not.
    """
    if not data.in_memory and not is_still(ref.version, data.file):
        raise ProcessingFailure(Stage.FETCH, Reason.CHANGED)


def hash_ref(ref: ObjectRef) -> str:
    """Return the hex sha256 of exactly this version, which may be too large for memory.

    Raises:
        Unaccounted: as `read_ref`.
    """
    try:
        return sha256_of(storage_of(ref.uri), ref.uri, ref.version)
    except OSError as error:
        raise processing_failure(error, Stage.FETCH) from error


def processing_failure(error: OSError, stage: Stage) -> ProcessingFailure:
    """Return what an error of reading means."""
    if isinstance(error, ObjectChanged):
        return ProcessingFailure(stage, Reason.CHANGED)
    if isinstance(error, FileNotFoundError):
        return ProcessingFailure(stage, Reason.DISAPPEARED)
    if isinstance(error, PermissionError):
        return ProcessingFailure(stage, Reason.PERMISSION_DENIED)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of the copy, on this machine
        return ProcessingFailure(stage, Reason.NO_SPACE, "temporary folder")
    return ProcessingFailure(stage, Reason.READ_FAILED, type(error).__name__)

"""Map errors of file systems and object stores to processing failures, by type and error code."""

from __future__ import annotations

import errno
from typing import Final

from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.storage.base import ObjectChanged

FULL_DISK: Final = (errno.ENOSPC, errno.EDQUOT)
TEMPORARY: Final = "temporary folder"
"""Detail of a failure outside the lake's storage."""
_REASONS: Final = {
    **dict.fromkeys(FULL_DISK, Reason.NO_SPACE),
    errno.EACCES: Reason.PERMISSION_DENIED,
    errno.EPERM: Reason.PERMISSION_DENIED,
    errno.EROFS: Reason.PERMISSION_DENIED,
    errno.EXDEV: Reason.OTHER_FILE_SYSTEM,
}


def read_failure(error: OSError, stage: Stage) -> ProcessingFailure:
    """Return the failure for an error of reading an object."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ProcessingFailure(stage, Reason.DISAPPEARED)
    where = TEMPORARY if error.errno in FULL_DISK else ""  # reading needs space only for a copy
    return _failure(error, stage, Reason.READ_FAILED, where)


def write_failure(error: OSError, stage: Stage, where: str = "") -> ProcessingFailure:
    """Return the failure for an error of writing an object; `where` is appended to its detail."""
    if isinstance(error, FileExistsError):
        return ProcessingFailure(stage, Reason.NAME_TAKEN)
    return _failure(error, stage, Reason.WRITE_FAILED, where)


def _failure(error: OSError, stage: Stage, default: Reason, where: str) -> ProcessingFailure:
    if isinstance(error, ObjectChanged):
        return ProcessingFailure(stage, Reason.CHANGED)
    code = error.errno or 0
    reason = _REASONS.get(code, default)
    if reason is default and isinstance(error, PermissionError):  # raised without a code
        reason = Reason.PERMISSION_DENIED
    detail = errno.errorcode.get(code, type(error).__name__)
    return ProcessingFailure(stage, reason, f"{detail}, {where}" if where else detail)

"""Errors of file systems and object stores, mapped to reasons by their type and code."""

from __future__ import annotations

import errno
from typing import Final

from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.storage.base import ObjectChanged

FULL_DISK: Final = (errno.ENOSPC, errno.EDQUOT)
_BY_CODE: Final = {
    **dict.fromkeys(FULL_DISK, Reason.NO_SPACE),
    errno.EACCES: Reason.PERMISSION_DENIED,
    errno.EPERM: Reason.PERMISSION_DENIED,
    errno.EROFS: Reason.PERMISSION_DENIED,
    errno.EXDEV: Reason.OTHER_FILE_SYSTEM,
}


def read_failure(error: OSError, stage: Stage) -> ProcessingFailure:
    """Return the failure of reading an object."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ProcessingFailure(stage, Reason.DISAPPEARED)
    failure = _failure(error, stage, Reason.READ_FAILED)
    if failure.reason is Reason.NO_SPACE:  # reading needs space only for a copy
        return ProcessingFailure(stage, Reason.NO_SPACE, f"{failure.detail}, temporary folder")
    return failure


def write_failure(error: OSError, stage: Stage) -> ProcessingFailure:
    """Return the failure of writing an object."""
    if isinstance(error, FileExistsError):
        return ProcessingFailure(stage, Reason.NAME_TAKEN)
    return _failure(error, stage, Reason.WRITE_FAILED)


def _failure(error: OSError, stage: Stage, otherwise: Reason) -> ProcessingFailure:
    if isinstance(error, ObjectChanged):
        return ProcessingFailure(stage, Reason.CHANGED)
    code = error.errno or 0
    reason = _BY_CODE.get(code, otherwise)
    if reason is otherwise and isinstance(error, PermissionError):  # raised without a code
        reason = Reason.PERMISSION_DENIED
    return ProcessingFailure(stage, reason, errno.errorcode.get(code, type(error).__name__))

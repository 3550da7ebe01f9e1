"""Why an object is refused: the status of its answer, without values of the object."""

from __future__ import annotations

import errno
from typing import Final

OUT_OF_RESOURCES: Final = 0xA700
SOP_CLASS_MISMATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000
PROCESSING_FAILURE: Final = 0x0110
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
"""Statuses of C-STORE (PS3.4 table B.2-1, PS3.7 annex C), which STOW-RS also uses (PS3.18 annex I)."""

RESOURCES: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)
"""Errors of a lack of space, files or memory."""


class Refused(Exception):
    """An object is not stored, and its sender keeps it.

    Attributes:
        status: DIMSE status, and Failure Reason of STOW-RS.
        comment: for Error Comment (0000,0902); at most 64 characters, no values of the object.
    """

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(status, comment)
        self.status, self.comment = status, comment


def refusal_of(error: OSError | MemoryError) -> Refused:
    """Return the refusal for an error of writing an object."""
    if isinstance(error, MemoryError):
        return Refused(OUT_OF_RESOURCES, "out of memory")
    code = errno.errorcode.get(error.errno or 0, type(error).__name__)
    if error.errno in RESOURCES:
        return Refused(OUT_OF_RESOURCES, f"out of resources ({code})")
    return Refused(PROCESSING_FAILURE, f"the object cannot be written ({code})")

"""Read the UIDs of an object from the beginning of its data set, without parsing the rest.

Standard: PS3.5 section 7 (data elements are in order of their tags) and annex A (transfer syntaxes).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from transforms.core.reasons import InvalidObject, Reason, Stage
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import ItemCountingStream, suppress_reader_messages
from transforms.imaging.uids import is_valid_uid

STUDY_INSTANCE_UID: Final = 0x0020000D
TAGS: Final = (0x00080016, 0x00080018, STUDY_INSTANCE_UID)
MAX_INFLATED_BYTES: Final = 1 << 20
"""Of a deflated data set, this much is inflated; the UIDs are near its beginning."""
MAX_READ_BYTES: Final = 4 << 20
"""Maximum size of what is read to find the UIDs; values of other elements are skipped, not read."""
MAX_VALUE_BYTES: Final = 1 << 20
"""Maximum size of one value that is read."""
MAX_UID_BYTES: Final = 128
"""Longer values are not decoded; a UID has at most 64 characters (PS3.5 section 9.1)."""
MAX_READS: Final = 200_000
"""Maximum number of reads, of which an element costs one to three: a second of processor time."""


@dataclass(frozen=True)
class Identity:
    """UIDs of an object; None if missing or malformed.

    Attributes:
        transfer_syntax_uid: as stated in the file meta information.
    """

    sop_class_uid: str | None
    sop_instance_uid: str | None
    study_instance_uid: str | None
    transfer_syntax_uid: str | None


class _BoundedStream(ItemCountingStream):
    """Bounds the time and memory of parsing, outside the sandbox, what an attacker can send."""

    def __init__(self, view: memoryview, max_items: int) -> None:
        super().__init__(view, max_items)
        self._bytes, self._reads = MAX_READ_BYTES, MAX_READS

    def read(self, size: int = -1) -> bytes:
        """As the overridden method.

        Raises:
            InvalidObject: there were too many reads, or too many bytes.
        """
        remaining = max(0, len(self._view) - self._position)
        size = remaining if size < 0 else min(size, remaining)
        self._reads -= 1
        self._bytes -= size
        if self._reads < 0 or self._bytes < 0 or size > MAX_VALUE_BYTES:
            raise InvalidObject(Stage.HEADER, Reason.TOO_MANY_ITEMS)
        return super().read(size)


def read_identity(data: memoryview, limits: Limits) -> Identity:
    """Return the UIDs of a PS3.10 file.

    Raises:
        InvalidObject: the bytes are not a PS3.10 file, or its data set cannot be parsed.
    """
    suppress_reader_messages()
    if bytes(data[128:132]) != b"DICM":
        raise InvalidObject(Stage.HEADER, Reason.NOT_DICOM)
    try:
        return _read(data, limits)
    except InvalidObject:
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # pydicom raises many types for malformed input
        raise InvalidObject(Stage.HEADER, Reason.UNREADABLE_HEADER, type(error).__name__) from error


def _read(data: memoryview, limits: Limits) -> Identity:
    stream = cast(BinaryIO, _BoundedStream(data, limits.max_items))
    read_preamble(stream, force=False)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    syntax = _uid(meta, "TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        start = stream.tell()  # zlib copies what it does not need
        begin = inflater.decompress(data[start : start + MAX_INFLATED_BYTES], MAX_INFLATED_BYTES)
        stream = cast(BinaryIO, _BoundedStream(memoryview(begin), limits.max_items))
    dataset = read_dataset(
        stream,
        syntax == ImplicitVRLittleEndian,
        syntax != ExplicitVRBigEndian,
        stop_when=lambda tag, vr, length: tag > STUDY_INSTANCE_UID,
        specific_tags=list(TAGS),
    )
    return Identity(
        _uid(dataset, "SOPClassUID"),
        _uid(dataset, "SOPInstanceUID"),
        _uid(dataset, "StudyInstanceUID"),
        syntax,
    )


def _uid(dataset: Dataset, keyword: str) -> str | None:
    raw = dataset.get_item(keyword)
    if raw is not None and isinstance(raw.value, bytes) and len(raw.value) > MAX_UID_BYTES:
        return None  # before it is decoded, and split at backslashes
    value = dataset.get(keyword)
    return str(value) if isinstance(value, str) and is_valid_uid(value) else None

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
    stream = cast(BinaryIO, ItemCountingStream(data, limits.max_items))
    read_preamble(stream, force=False)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    syntax = _uid(meta, "TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        begin = inflater.decompress(data[stream.tell() :], MAX_INFLATED_BYTES)
        stream = cast(BinaryIO, ItemCountingStream(memoryview(begin), limits.max_items))
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
    value = dataset.get(keyword)
    return str(value) if isinstance(value, str) and is_valid_uid(value) else None

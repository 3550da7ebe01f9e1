"""Bytes to a parsed DICOM object, pixel data left where it lies.

Standard: PS3.10 section 7 (file format), PS3.5 section 7 (data set) and annex A (transfer syntaxes).
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from io import SEEK_SET
from typing import BinaryIO, cast

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)
from pydicom.valuerep import VR

from transforms.core.reasons import InvalidObject, Reason, Stage
from transforms.imaging.buffer_stream import BufferStream
from transforms.imaging.limits import Limits
from transforms.imaging.quiet import silence_readers

UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
"""Of both byte orders (PS3.5 section 7.5)."""
ITEM_PATTERN = re.compile(b"|".join(ITEM_TAGS))
PIXEL_DATA = 0x7FE00010
SEEKS_OF_NO_ITEM = 16
"""More than the parser needs for an object without any."""
FLOAT_PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009})
PIXEL_TAGS = FLOAT_PIXEL_TAGS | {PIXEL_DATA}
LONG_LENGTH_VRS = frozenset({b"OB", b"OW", b"OD", b"OF", b"OL", b"OV", b"UN"})


@dataclass(frozen=True)
class PixelElement:
    """Where the value of the pixel data element lies.

    Attributes:
        tag: (7FE0,0010), or the float variants.
        buffer: the bytes that hold it: the object's own, or the inflated data set.
        offset: start of the value in `buffer`.
        length: of the value in bytes; for encapsulated pixel data, all that follows.
        vr: its value representation, OB or OW.
        encapsulated: whether the length is undefined (PS3.5 annex A.4).
    """

    tag: int
    buffer: memoryview
    offset: int
    length: int
    vr: str
    encapsulated: bool

    @property
    def value(self) -> memoryview:
        """The value, not copied."""
        return self.buffer[self.offset : self.offset + self.length]


@dataclass(frozen=True)
class ParsedObject:
    """A DICOM object without its pixel data.

    Attributes:
        dataset: every element before the pixel data, with `file_meta`.
        transfer_syntax_uid: as the file says, or as found where it says nothing.
        pixels: where the pixel data lies, or None.
    """

    dataset: Dataset
    transfer_syntax_uid: str
    pixels: PixelElement | None


def parse(data: bytes | memoryview, limits: Limits) -> ParsedObject:
    """Parse a DICOM object; files without the PS3.10 preamble are read if they say what they are.

    Raises:
        Rejected: the bytes are no DICOM, end early, inflate too far or cannot be parsed.
    """
    silence_readers()
    if not data:
        raise InvalidObject(Stage.FETCH, Reason.EMPTY)
    try:
        return _parse(memoryview(data), limits)
    except InvalidObject:
        raise
    except InvalidDicomError as error:
        raise InvalidObject(Stage.HEADER, Reason.NOT_DICOM) from error
    except (EOFError, struct.error) as error:
        raise InvalidObject(Stage.HEADER, Reason.TRUNCATED) from error
    except zlib.error as error:
        raise InvalidObject(Stage.HEADER, Reason.UNREADABLE_HEADER, "deflate") from error
    except (KeyboardInterrupt, SystemExit):
        raise
    except MemoryError as error:
        raise InvalidObject(Stage.HEADER, Reason.TOO_MUCH_MEMORY) from error
    except RecursionError as error:
        raise InvalidObject(Stage.HEADER, Reason.NESTED_TOO_DEEP) from error
    except BaseException as error:  # pydicom raises many types on malformed input
        if isinstance(
            error.__context__, InvalidObject
        ):  # which pydicom took for an error of the file
            raise error.__context__ from None
        raise InvalidObject(Stage.HEADER, Reason.UNREADABLE_HEADER, type(error).__name__) from error


def _parse(data: memoryview, limits: Limits) -> ParsedObject:
    has_preamble = bytes(data[128:132]) == b"DICM"
    if not has_preamble and not _looks_like_dataset(data):
        raise InvalidObject(Stage.HEADER, Reason.NOT_DICOM)
    stream = _stream(data, limits)
    read_preamble(stream, force=True)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    _require_few_items(data[: stream.tell()], limits)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if syntax == DeflatedExplicitVRLittleEndian:
        buffer = memoryview(_inflate(data[stream.tell() :], limits))
        stream = _stream(buffer, limits)
        dataset = read_dataset(stream, False, True, stop_when=_at_pixels)
    else:
        buffer, stream = data, _stream(data, limits)
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
        syntax = syntax or _found_syntax(dataset)
    _require_few_items(buffer[: stream.tell()], limits)
    _require_shallow(dataset, limits)
    dataset.file_meta = meta  # type: ignore[assignment]
    if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise InvalidObject(Stage.HEADER, Reason.MEDIA_DIRECTORY)
    if not len(dataset):
        raise InvalidObject(Stage.HEADER, Reason.TRUNCATED if has_preamble else Reason.NOT_DICOM)
    if not has_preamble and not ("SOPClassUID" in dataset or "SOPInstanceUID" in dataset):
        raise InvalidObject(Stage.HEADER, Reason.NOT_DICOM)
    pixels = _pixel_element(buffer, stream.tell(), _is_little_endian(dataset))
    if pixels is None:
        _check_complete(dataset)
    return ParsedObject(dataset, syntax, pixels)


class ItemCountingStream(BufferStream):
    """Raises `InvalidObject` once items abound: each costs the parser a kilobyte.

    What pydicom takes for an item need not have an item's tag, but it seeks once for each (twice for
    one that is private, of implicit VR and undefined length). In sequences of a stated length, which
    it parses only when they are asked for, items without a tag are bounded by the child's limits.
    """

    def __init__(self, view: memoryview, max_items: int) -> None:
        super().__init__(view)
        self._left = max_items + SEEKS_OF_NO_ITEM

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move to a position, and count."""
        self._left -= 1
        if self._left < 0:
            raise InvalidObject(Stage.HEADER, Reason.TOO_MANY_ITEMS)
        return super().seek(offset, whence)


def _stream(data: memoryview, limits: Limits) -> BinaryIO:
    return cast(BinaryIO, ItemCountingStream(data, limits.max_items))


def _require_few_items(header: memoryview, limits: Limits) -> None:
    """Raise `InvalidObject` if item tags abound in sequences of a stated length.

    Those are parsed only when they are asked for, where nobody counts. Pixel data, where such bytes
    mean nothing, are not searched.
    """
    for number, _ in enumerate(ITEM_PATTERN.finditer(header), 1):
        if number > limits.max_items:
            raise InvalidObject(Stage.HEADER, Reason.TOO_MANY_ITEMS)


def _require_shallow(dataset: Dataset, limits: Limits) -> None:
    """Raise `InvalidObject` if sequences are nested too deep; only those that were parsed can do harm."""
    level: list[Dataset] = [dataset]
    for _ in range(limits.max_nesting + 1):
        level = [
            item
            for outer in level
            for element in outer.values()
            if isinstance(element, DataElement) and element.VR == VR.SQ
            for item in element.value
        ]
        if not level:
            return
    raise InvalidObject(Stage.HEADER, Reason.NESTED_TOO_DEEP)


def _looks_like_dataset(data: memoryview) -> bool:
    """Whether bytes without a preamble start with an element of group 0002 or 0008."""
    if len(data) < 8:
        return False
    little, big = struct.unpack_from("<H", data)[0], struct.unpack_from(">H", data)[0]
    return little in (0x0002, 0x0008) or big == 0x0008


def _at_pixels(tag: int, vr: str | None, length: int) -> bool:
    return tag in PIXEL_TAGS


def _inflate(deflated: memoryview, limits: Limits) -> bytes:
    """Inflate a data set; what grows a thousandfold is a blank film if small, a bomb if large."""
    likely = max(limits.min_inflated_bytes, len(deflated) * limits.max_inflation)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(deflated, min(limits.max_object_bytes, likely))
    if inflater.unconsumed_tail:
        raise InvalidObject(Stage.HEADER, Reason.INFLATES_TOO_FAR)
    if not inflater.eof:
        raise InvalidObject(Stage.HEADER, Reason.TRUNCATED)
    return inflated


def _is_little_endian(dataset: Dataset) -> bool:
    return bool(dataset.original_encoding[1] is not False)


def _found_syntax(dataset: Dataset) -> str:
    """The transfer syntax of a file that names none: the native one that it was read with."""
    is_implicit, is_little_endian = dataset.original_encoding
    if not is_little_endian:
        return str(ExplicitVRBigEndian)
    return str(ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian)


def _pixel_element(buffer: memoryview, at: int, little_endian: bool) -> PixelElement | None:
    """Read the header of the element at `at`; explicit and implicit VR are told apart by the bytes."""
    if len(buffer) - at < 8:
        return None
    order = "<" if little_endian else ">"
    group, element = struct.unpack_from(order + "HH", buffer, at)
    tag = group << 16 | element
    if tag not in PIXEL_TAGS:
        return None
    if (named := bytes(buffer[at + 4 : at + 6])) in LONG_LENGTH_VRS:
        (length,) = struct.unpack_from(order + "L", buffer, at + 8)
        vr, start = named.decode("ascii"), at + 12
    else:
        (length,) = struct.unpack_from(order + "L", buffer, at + 4)
        vr, start = "OW", at + 8
    available = len(buffer) - start
    if length == UNDEFINED_LENGTH:
        return PixelElement(tag, buffer, start, available, vr, encapsulated=True)
    if length > available:
        raise InvalidObject(Stage.HEADER, Reason.TRUNCATED, "pixel data")
    return PixelElement(tag, buffer, start, length, vr, encapsulated=False)


def _check_complete(dataset: Dataset) -> None:
    """Reject a data set with an element that has fewer bytes than it says."""
    for element in dataset.elements():
        length = getattr(element, "length", UNDEFINED_LENGTH)
        value = getattr(element, "value", None)
        if length != UNDEFINED_LENGTH and isinstance(value, bytes) and len(value) < length:
            raise InvalidObject(Stage.HEADER, Reason.TRUNCATED)

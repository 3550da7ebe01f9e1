"""Parse a DICOM object without copying its pixel data.

Standard: PS3.10 section 7 (file format), PS3.5 section 7 (data set) and annex A (transfer syntaxes).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import SEEK_SET
from typing import Any, BinaryIO, cast

import pydicom
import pydicom.config
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
from transforms.imaging.unknown_vr import KNOWN_VRS, LONG_VRS, UNDEFINED_LENGTH, VRRepair

ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
"""In both byte orders (PS3.5 section 7.5)."""
ITEM_PATTERN = re.compile(b"|".join(ITEM_TAGS))
PIXEL_DATA = 0x7FE00010
MAX_SEEKS_WITHOUT_ITEMS = 16
"""Upper bound of the parser's seeks for an object without sequence items."""
FLOAT_PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009})
PIXEL_TAGS = FLOAT_PIXEL_TAGS | {PIXEL_DATA}


@dataclass(frozen=True)
class PixelElement:
    """Location of the pixel data element's value.

    Attributes:
        tag: (7FE0,0010), or one of the float variants.
        buffer: Buffer that contains the value: the object, or its inflated data set.
        offset: Start of the value in `buffer`.
        length: Length of the value in bytes; for encapsulated pixel data, all bytes that follow.
        vr: Value representation, OB or OW.
        encapsulated: Whether the length is undefined (PS3.5 annex A.4).
    """

    tag: int
    buffer: memoryview
    offset: int
    length: int
    vr: str
    encapsulated: bool

    @property
    def value(self) -> memoryview:
        """The value as a view, not a copy."""
        return self.buffer[self.offset : self.offset + self.length]


@dataclass(frozen=True)
class ParsedObject:
    """A DICOM object without its pixel data.

    Attributes:
        dataset: All elements before the pixel data, with `file_meta`.
        transfer_syntax_uid: As stated in the file meta information, else inferred from the encoding.
        pixels: Location of the pixel data, or None.
    """

    dataset: Dataset
    transfer_syntax_uid: str
    pixels: PixelElement | None


def parse(data: bytes | memoryview, limits: Limits, *, is_complete: bool = True) -> ParsedObject:
    """Parse a DICOM object; a file without the PS3.10 preamble must have a SOP Class or Instance UID.

    Args:
        data: The object.
        limits: Limits of the object.
        is_complete: False if `data` is only the start of the object, of which the header is wanted.

    Raises:
        InvalidObject: The bytes are not DICOM, are truncated, exceed a limit or cannot be parsed.
    """
    suppress_reader_messages()
    if not data:
        raise InvalidObject(Stage.FETCH, Reason.EMPTY)
    try:
        return _parse(memoryview(data), limits, is_complete)
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
    except BaseException as error:  # pydicom raises many types for malformed input
        if isinstance(error.__context__, InvalidObject):  # replaced by pydicom
            raise error.__context__ from None
        raise InvalidObject(Stage.HEADER, Reason.UNREADABLE_HEADER, type(error).__name__) from error


@functools.cache
def suppress_reader_messages() -> None:
    """Suppress warnings and log records of pydicom and Pillow, which can quote header values."""
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logger = logging.getLogger("pydicom")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")


def _parse(data: memoryview, limits: Limits, is_complete: bool) -> ParsedObject:
    has_preamble = bytes(data[128:132]) == b"DICM"
    if not has_preamble and not _looks_like_dataset(data):
        raise InvalidObject(Stage.HEADER, Reason.NOT_DICOM)
    stream = _open_stream(data, limits)
    read_preamble(stream, force=True)
    meta, meta_end, repair = _read_meta(data, stream.tell(), limits)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if syntax == DeflatedExplicitVRLittleEndian:
        repair = _repair(memoryview(_inflate(data[meta_end:], limits, is_complete)), limits)
        stream = _open_stream(repair.patched(repair.search(0)), limits)
        read: Callable[[], Dataset] = functools.partial(
            read_dataset, stream, False, True, stop_when=_is_pixel_data
        )
    else:
        end = len(data)
        if _is_explicit(data[meta_end:], syntax):
            repair.is_little_endian = syntax != ExplicitVRBigEndian
            end = repair.search(meta_end)
        stream = _open_stream(repair.patched(end), limits)
        read = functools.partial(pydicom.dcmread, stream, stop_before_pixels=True, force=True)
    with _blame_unknown_vrs(repair):
        dataset = read()
        syntax = syntax or _infer_transfer_syntax(dataset)
        _require_few_items(repair.buffer[: stream.tell()], limits)
        _require_max_nesting(dataset, limits)
        dataset.file_meta = meta
        if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            raise InvalidObject(Stage.HEADER, Reason.MEDIA_DIRECTORY)
        if not len(dataset):
            raise InvalidObject(
                Stage.HEADER, Reason.TRUNCATED if has_preamble else Reason.NOT_DICOM
            )
        if not has_preamble and not ("SOPClassUID" in dataset or "SOPInstanceUID" in dataset):
            raise InvalidObject(Stage.HEADER, Reason.NOT_DICOM)
        pixels = None
        if is_complete:
            pixels = _read_pixel_element(repair.buffer, stream.tell(), _is_little_endian(dataset))
            if pixels is None:
                _require_complete(dataset)
    return ParsedObject(dataset, syntax, pixels)


def _read_meta(data: memoryview, start: int, limits: Limits) -> tuple[Any, int, VRRepair]:
    """Return the file meta information, the position of its end, and the repair of its VRs."""
    repair = _repair(data, limits)
    end = repair.search(start, group=2)
    stream = _open_stream(repair.patched(end), limits)
    stream.seek(start)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    _require_few_items(data[: stream.tell()], limits)
    return meta, stream.tell(), repair


def _repair(buffer: memoryview, limits: Limits) -> VRRepair:
    return VRRepair(buffer, True, limits.max_items, PIXEL_TAGS)


def _is_explicit(dataset: memoryview, transfer_syntax_uid: str) -> bool:
    """Return whether a data set has explicit VRs; its first VR decides if no transfer syntax does."""
    if not transfer_syntax_uid:
        return bytes(dataset[4:6]) in KNOWN_VRS
    return transfer_syntax_uid != ImplicitVRLittleEndian


@contextlib.contextmanager
def _blame_unknown_vrs(repair: VRRepair) -> Iterator[None]:
    """Convert errors of an object in which the length of an element of unknown VR is not clear."""
    try:
        yield
    except (EOFError, struct.error, InvalidObject) as error:
        is_truncated = not isinstance(error, InvalidObject) or error.reason is Reason.TRUNCATED
        if repair.has_unresolved and is_truncated:
            reason = Reason.UNREADABLE_HEADER
            raise InvalidObject(Stage.HEADER, reason, "unknown VR") from error
        raise


class ItemCountingStream(BufferStream):
    """Bounds the number of sequence items, of which each costs the parser a kilobyte of memory.

    pydicom accepts items without an item tag but seeks once per item, or twice for a private item of
    implicit VR and undefined length, so seeks are counted. pydicom parses sequences of defined length
    lazily: their items are bounded by `_require_few_items` or, without an item tag, by the memory limit
    of the sandbox.
    """

    def __init__(self, view: memoryview, max_items: int) -> None:
        super().__init__(view)
        self._remaining = max_items + MAX_SEEKS_WITHOUT_ITEMS

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move to a position.

        Raises:
            InvalidObject: There have been too many seeks.
        """
        self._remaining -= 1
        if self._remaining < 0:
            raise InvalidObject(Stage.HEADER, Reason.TOO_MANY_ITEMS)
        return super().seek(offset, whence)


def _open_stream(data: memoryview, limits: Limits) -> BinaryIO:
    return cast(BinaryIO, ItemCountingStream(data, limits.max_items))


def _require_few_items(header: memoryview, limits: Limits) -> None:
    """Raise `InvalidObject` if there are too many item tags in sequences of defined length.

    pydicom parses them lazily, without `ItemCountingStream`. Pixel data, in which these bytes may occur
    by chance, is not searched.
    """
    for number, _ in enumerate(ITEM_PATTERN.finditer(header), 1):
        if number > limits.max_items:
            raise InvalidObject(Stage.HEADER, Reason.TOO_MANY_ITEMS)


def _require_max_nesting(dataset: Dataset, limits: Limits) -> None:
    """Raise `InvalidObject` if parsed sequences are nested too deep; unparsed ones are harmless."""
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
    """Return whether bytes without a preamble start with an element of group 0002 or 0008."""
    if len(data) < 8:
        return False
    little, big = struct.unpack_from("<H", data)[0], struct.unpack_from(">H", data)[0]
    return little in (0x0002, 0x0008) or big == 0x0008


def _is_pixel_data(tag: int, vr: str | None, length: int) -> bool:
    return tag in PIXEL_TAGS


def _inflate(deflated: memoryview, limits: Limits, is_complete: bool) -> bytes:
    """Inflate a data set up to the limit on decompression bombs, or the start of an incomplete one.

    The ratio limit applies above `min_inflated_bytes`: a small blank image also has a ratio of 1,000.
    """
    max_size = max(limits.min_inflated_bytes, len(deflated) * limits.max_inflation)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    if not is_complete:
        return inflater.decompress(deflated, limits.min_inflated_bytes)
    inflated = inflater.decompress(deflated, min(limits.max_object_bytes, max_size))
    if inflater.unconsumed_tail:
        raise InvalidObject(Stage.HEADER, Reason.INFLATES_TOO_FAR)
    if not inflater.eof:
        raise InvalidObject(Stage.HEADER, Reason.TRUNCATED)
    return inflated


def _is_little_endian(dataset: Dataset) -> bool:
    return bool(dataset.original_encoding[1] is not False)


def _infer_transfer_syntax(dataset: Dataset) -> str:
    """Return the native transfer syntax with which a file that states none was read."""
    is_implicit, is_little_endian = dataset.original_encoding
    if not is_little_endian:
        return str(ExplicitVRBigEndian)
    return str(ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian)


def _read_pixel_element(
    buffer: memoryview, position: int, little_endian: bool
) -> PixelElement | None:
    """Read the element header at `position`, of explicit or implicit VR; None if it is not pixel data.

    If the VR is unknown, the length is the one of explicit VR, unless only that of implicit VR fits.
    """
    if len(buffer) - position < 8:
        return None
    order = "<" if little_endian else ">"
    group, element = struct.unpack_from(order + "HH", buffer, position)
    tag = group << 16 | element
    if tag not in PIXEL_TAGS:
        return None
    explicit_vr = bytes(buffer[position + 4 : position + 6])
    if explicit_vr in LONG_VRS:
        (length,) = struct.unpack_from(order + "L", buffer, position + 8)
        vr, start = explicit_vr.decode("ascii"), position + 12
    else:
        vr, (start, length) = "OW", _value_without_vr(buffer, position, order)
    available = len(buffer) - start
    if length == UNDEFINED_LENGTH:
        return PixelElement(tag, buffer, start, available, vr, encapsulated=True)
    if length > available:
        raise InvalidObject(Stage.HEADER, Reason.TRUNCATED, "pixel data")
    return PixelElement(tag, buffer, start, length, vr, encapsulated=False)


def _value_without_vr(buffer: memoryview, position: int, order: str) -> tuple[int, int]:
    """Return start and length of pixel data whose VR is absent (implicit VR) or unknown (explicit VR).

    The value that ends with the object is the one; else the first that is in the object.
    """
    (length,) = struct.unpack_from(order + "L", buffer, position + 4)
    values = [(position + 8, length)]
    if position + 12 <= len(buffer) and bytes(buffer[position + 6 : position + 8]) == b"\0\0":
        (length,) = struct.unpack_from(order + "L", buffer, position + 8)
        values.append((position + 12, length))
    exact = [value for value in values if sum(value) == len(buffer)]
    inside = [
        (start, length)
        for start, length in values
        if length == UNDEFINED_LENGTH or 0 < length <= len(buffer) - start
    ]
    return (exact or inside or values)[0]


def _require_complete(dataset: Dataset) -> None:
    """Raise `InvalidObject` if an element has fewer bytes than its length field states."""
    for element in dataset.elements():
        length = getattr(element, "length", UNDEFINED_LENGTH)
        value = getattr(element, "value", None)
        if length != UNDEFINED_LENGTH and isinstance(value, bytes) and len(value) < length:
            raise InvalidObject(Stage.HEADER, Reason.TRUNCATED)

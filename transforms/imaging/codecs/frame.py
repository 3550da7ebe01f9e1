"""What a decoder is asked and what it answers."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import RLELossless

from transforms.core.reasons import InvalidObject, Reason, Stage
from transforms.imaging.buffer_stream import BufferStream
from transforms.imaging.codecs.stream_header import StreamHeader, read_stream_header
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import PIXEL_DATA, ParsedObject, PixelElement

ITEM = (0xFFFE, 0xE000)
GRAY = frozenset({"MONOCHROME1", "MONOCHROME2"})


class NoFastPath(Exception):
    """A reduced decoder does not apply to this frame; the full decode does."""


@dataclass(frozen=True)
class FrameRequest:
    """One frame of one object, and how large the answer must at least be.

    Attributes:
        dataset: the header.
        transfer_syntax_uid: encoding of the pixel data.
        pixels: where the pixel data lies.
        index: 0-based frame.
        long_side: the answer's long side is at least this, or the frame's own; pixels.
    """

    dataset: Dataset
    transfer_syntax_uid: str
    pixels: PixelElement
    index: int
    long_side: int
    rows: int
    columns: int
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str

    @property
    def reduction(self) -> int:
        """The largest integer factor that still leaves `long_side` pixels, and one on the short side."""
        factor = max(self.rows, self.columns) // self.long_side
        return max(1, min(factor, self.rows, self.columns))

    @property
    def is_gray(self) -> bool:
        """Whether the stored values are one gray sample a pixel."""
        return self.samples == 1 and self.photometric in GRAY


@dataclass(frozen=True)
class StoredFrame:
    """A frame's stored values, perhaps reduced: before modality and VOI transformations.

    Attributes:
        values: float32[h, w] for one sample a pixel; float32[h, w, 3] for RGB.
        padding: bool[h, w], True where there is only pixel padding, or None.
    """

    values: npt.NDArray[np.float32]
    padding: npt.NDArray[np.bool_] | None = None


def frame_request(
    parsed: ParsedObject, frame_number: int, long_side: int, limits: Limits
) -> FrameRequest:
    """Check the description of the pixels and make a request for one frame.

    Args:
        parsed: the object.
        long_side: pixels that the answer's long side must have, where the frame has as many.
        limits: on the size of a frame.
        frame_number: 1 is the first; an object with fewer frames answers with its last.

    Raises:
        Rejected: there are no pixels, their description is missing, contradictory or too large, or the
            items that hold them (PS3.5 annex A.4) are too many or not whole.
    """
    if parsed.pixels is None:
        raise InvalidObject(Stage.DECODE, Reason.NO_PIXEL_DATA)
    if parsed.pixels.tag != PIXEL_DATA:
        raise InvalidObject(Stage.DECODE, Reason.BAD_PIXEL_DESCRIPTION, "float pixel data")
    ds = parsed.dataset
    rows, columns = _number(ds, "Rows"), _number(ds, "Columns")
    samples = _number(ds, "SamplesPerPixel", 1)
    allocated = _number(ds, "BitsAllocated")
    stored = _number(ds, "BitsStored", allocated)
    high_bit = _number(ds, "HighBit", stored - 1)
    if not stored - 1 <= high_bit < max(allocated, 1):
        high_bit = stored - 1  # senseless; what nearly all objects mean
    photometric = _text(ds, "PhotometricInterpretation").upper()
    if samples == 1 and not photometric:
        photometric = "MONOCHROME2"
    problems = [
        name
        for name, wrong in (
            ("Rows", rows < 1),
            ("Columns", columns < 1),
            ("SamplesPerPixel", samples not in (1, 3)),
            ("BitsAllocated", allocated not in (1, 8, 16, 32)),
            ("BitsStored", not 1 <= stored <= max(allocated, 1)),
            ("PhotometricInterpretation", not photometric),
        )
        if wrong
    ]
    if problems:
        raise InvalidObject(Stage.DECODE, Reason.BAD_PIXEL_DESCRIPTION, ", ".join(problems))
    if rows * columns > limits.max_pixels:
        raise InvalidObject(Stage.DECODE, Reason.TOO_MANY_PIXELS)
    frames = max(1, _number(ds, "NumberOfFrames", 1))
    if frames > limits.max_frames:
        raise InvalidObject(Stage.DECODE, Reason.TOO_MANY_FRAMES)
    if parsed.pixels.encapsulated:
        _require_whole_items(parsed.pixels, limits)
    return FrameRequest(
        dataset=ds,
        transfer_syntax_uid=parsed.transfer_syntax_uid,
        pixels=parsed.pixels,
        index=min(frame_number, frames) - 1,
        long_side=long_side,
        rows=rows,
        columns=columns,
        frames=frames,
        samples=samples,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high_bit,
        signed=_number(ds, "PixelRepresentation", 0) == 1,
        photometric=photometric,
    )


def encapsulated_frame(request: FrameRequest) -> bytes:
    """Return one frame's compressed stream.

    Raises:
        Rejected: the items of the encapsulated pixel data (PS3.5 annex A.4) do not hold it, or the
            stream is of another size than the header says (a decoder would obey the stream,
            whatever it claims) or has no end (a decoder would fill up the rest).
    """
    if not request.pixels.encapsulated:
        raise InvalidObject(
            Stage.DECODE, Reason.BAD_PIXEL_DESCRIPTION, "pixel data not encapsulated"
        )
    with undecodable_unless_said():
        frame = get_frame(
            BufferStream(request.pixels.value), request.index, number_of_frames=request.frames
        )
    if request.transfer_syntax_uid != RLELossless:
        _require_agreement(read_stream_header(frame), request)
    return frame


def _require_agreement(stream: StreamHeader | None, request: FrameRequest) -> None:
    if stream is None:
        raise InvalidObject(Stage.DECODE, Reason.UNDECODABLE_PIXELS, "no stream header")
    said = (request.rows, request.columns, request.samples)
    if (stream.rows, stream.columns, stream.components) != said:
        raise InvalidObject(Stage.DECODE, Reason.SIZE_MISMATCH)
    if not stream.has_end:
        raise InvalidObject(Stage.DECODE, Reason.TRUNCATED, "stream")


def _require_whole_items(pixels: PixelElement, limits: Limits) -> None:
    """Raise `InvalidObject` where there are too many fragments, or one runs past the object's end."""
    at, end, left = pixels.offset, pixels.offset + pixels.length, limits.max_items
    while at + 8 <= end:
        group, element, length = struct.unpack_from("<HHL", pixels.buffer, at)
        if (group, element) != ITEM:
            return
        at, left = at + 8 + length, left - 1
        if left < 0:
            raise InvalidObject(Stage.DECODE, Reason.TOO_MANY_ITEMS)
    if at > end:
        raise InvalidObject(Stage.DECODE, Reason.TRUNCATED, "pixel data")


@contextlib.contextmanager
def undecodable_unless_said() -> Iterator[None]:
    """Turn whatever a malformed object raises into `InvalidObject`.

    Codecs and pydicom raise many types; a panic of a codec written in Rust is no `Exception`.
    """
    try:
        yield
    except (InvalidObject, NoFastPath, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except MemoryError as error:
        raise InvalidObject(Stage.DECODE, Reason.TOO_MUCH_MEMORY) from error
    except BaseException as error:
        raise InvalidObject(
            Stage.DECODE, Reason.UNDECODABLE_PIXELS, type(error).__name__
        ) from error


def _number(ds: Dataset, keyword: str, default: int = 0) -> int:
    try:
        value = ds.get(keyword)
        return default if value is None or value == "" else int(value)
    except Exception as error:  # a malformed element raises many types
        raise InvalidObject(Stage.DECODE, Reason.BAD_PIXEL_DESCRIPTION, keyword) from error


def _text(ds: Dataset, keyword: str) -> str:
    try:
        return str(ds.get(keyword) or "").strip()
    except Exception as error:  # a malformed element raises many types
        raise InvalidObject(Stage.DECODE, Reason.BAD_PIXEL_DESCRIPTION, keyword) from error

"""The request and the result of a decoder, and the checks before one runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import UID, JPEGLSNearLossless, RLELossless

from transforms.core.reasons import InvalidObject, Reason, Stage
from transforms.imaging.codecs.codestream_header import (
    CodestreamHeader,
    read_codestream_header,
    starts_codestream,
    strip_leading_zeros,
)
from transforms.imaging.codecs.fragments import Fragments, join_frame, read_fragments
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import PIXEL_DATA, ParsedObject, PixelElement
from transforms.imaging.pixel_aspect import pixel_aspect

GRAYSCALE = frozenset({"MONOCHROME1", "MONOCHROME2"})
PALETTE = "PALETTE COLOR"


class NoFastPath(Exception):
    """The fast decoder does not support this frame; the pydicom fallback may."""


@dataclass(frozen=True)
class FrameRequest:
    """One frame of one object, its validated description, and the resolution needed.

    Attributes:
        dataset: The header.
        transfer_syntax_uid: Encoding of the pixel data.
        pixels: Location of the pixel data.
        fragments: Fragments of encapsulated pixel data, or None.
        index: 0-based index of the frame.
        long_side: Minimum long side of the decoded frame in pixels, if its pixels were square.
        bits_stored: Together with the following ones, from the header, or from the codestream where that
            describes its samples; see `encapsulated_frame`.
        is_irreversible: Whether samples differ from the original by noise, so that bits outside Bits
            Stored may be an overflow.
        padding: Pixel Padding Value, and Pixel Padding Range Limit if any, as unsigned numbers of
            `padding_bits`.
        pixel_aspect: Height of a pixel divided by its width.
    """

    dataset: Dataset
    transfer_syntax_uid: str
    pixels: PixelElement
    fragments: Fragments | None
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
    is_irreversible: bool = False
    padding: tuple[int, ...] = ()
    padding_bits: int = 16
    pixel_aspect: float = 1.0

    @property
    def reduction(self) -> int:
        """Largest integer factor that keeps `long_side` pixels and at least one on the short side."""
        height, width = max(1.0, self.pixel_aspect), max(1.0, 1 / self.pixel_aspect)
        long_side = max(self.rows * height, self.columns * width)
        factor = int(long_side / (self.long_side * max(height, width)))
        return max(1, min(factor, self.rows, self.columns))

    @property
    def is_gray(self) -> bool:
        """Whether the frame is grayscale: MONOCHROME1 or MONOCHROME2."""
        return self.samples == 1 and self.photometric in GRAYSCALE


@dataclass(frozen=True)
class StoredFrame:
    """Stored values of a frame, possibly reduced, before the Modality LUT.

    Attributes:
        values: float32[h, w] for one sample per pixel, float32[h, w, 3] for RGB.
        padding: bool[h, w], True for pixel padding, or None.
    """

    values: npt.NDArray[np.float32]
    padding: npt.NDArray[np.bool_] | None = None


def build_frame_request(
    parsed: ParsedObject, frame_number: int, long_side: int, limits: Limits
) -> FrameRequest:
    """Validate the pixel description and build the request for one frame.

    Args:
        parsed: The object.
        frame_number: Frame to decode, from 1; the last one if the object has fewer.
        long_side: Minimum long side of the decoded frame in pixels.
        limits: Limits of pixels, frames and fragments.

    Raises:
        InvalidObject: The pixel data is missing; its description is missing, contradictory or exceeds
            a limit; or its fragments (PS3.5 annex A.4) are too many or incomplete.
    """
    if parsed.pixels is None:
        raise InvalidObject(Stage.DECODE, Reason.NO_PIXEL_DATA)
    if parsed.pixels.tag != PIXEL_DATA:
        raise InvalidObject(Stage.DECODE, Reason.BAD_PIXEL_DESCRIPTION, "float pixel data")
    ds = parsed.dataset
    rows, columns = _number(ds, "Rows"), _number(ds, "Columns")
    photometric = _photometric(ds)
    samples = _number(ds, "SamplesPerPixel", 3 if photometric.startswith(("RGB", "YBR")) else 1)
    photometric = photometric or ("MONOCHROME2" if samples == 1 else "RGB")
    allocated = _number(ds, "BitsAllocated")
    stored = _number(ds, "BitsStored", allocated)
    if parsed.pixels.encapsulated and allocated != 1:  # the codestream has its own description
        allocated = next((bits for bits in (8, 16) if max(allocated, stored) <= bits), 32)
        stored = stored if 1 <= stored <= allocated else allocated
    high_bit = _number(ds, "HighBit", stored - 1)
    if not stored - 1 <= high_bit < max(allocated, 1):
        high_bit = stored - 1  # the value of nearly all objects
    problems = [
        name
        for name, is_invalid in (
            ("Rows", rows < 1),
            ("Columns", columns < 1),
            ("SamplesPerPixel", samples not in (1, 3)),
            ("BitsAllocated", allocated not in (1, 8, 16, 32)),
            ("BitsStored", not 1 <= stored <= max(allocated, 1)),
        )
        if is_invalid
    ]
    if problems:
        raise InvalidObject(Stage.DECODE, Reason.BAD_PIXEL_DESCRIPTION, ", ".join(problems))
    if rows * columns > limits.max_pixels:
        raise InvalidObject(Stage.DECODE, Reason.TOO_MANY_PIXELS)
    frames = max(1, _number(ds, "NumberOfFrames", 1))
    if frames > limits.max_frames:
        raise InvalidObject(Stage.DECODE, Reason.TOO_MANY_FRAMES)
    _require_matching_encapsulation(parsed.pixels, parsed.transfer_syntax_uid)
    fragments = (
        read_fragments(parsed.pixels, limits.max_items) if parsed.pixels.encapsulated else None
    )
    return FrameRequest(
        dataset=ds,
        transfer_syntax_uid=parsed.transfer_syntax_uid,
        pixels=parsed.pixels,
        fragments=fragments,
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
        padding=_padding(ds, allocated),
        padding_bits=allocated,
        pixel_aspect=pixel_aspect(ds),
    )


def encapsulated_frame(request: FrameRequest) -> tuple[memoryview, FrameRequest]:
    """Return the compressed codestream of one frame, up to its end marker, and its own description.

    Returns:
        The codestream, and the request with the samples that the codestream describes.

    Raises:
        InvalidObject: There is no fragment; the codestream and the header disagree on the size, in which
            case a decoder would allocate what the codestream claims; or the codestream has no end marker,
            in which case a decoder would fill the rest.
    """
    assert request.fragments is not None, "encapsulation matches the transfer syntax"
    frame = join_frame(request.fragments, request.index, request.frames, request.dataset)
    if request.transfer_syntax_uid == RLELossless:
        return frame, request
    frame = strip_leading_zeros(frame)
    codestream = read_codestream_header(frame)
    if codestream is None:
        raise InvalidObject(Stage.DECODE, Reason.UNDECODABLE_PIXELS, "no stream header")
    end = _require_matching_codestream(codestream, request)
    frame = frame[:end] if starts_codestream(frame) else frame
    return frame, _with_samples_of(codestream, request)


def _require_matching_codestream(codestream: CodestreamHeader, request: FrameRequest) -> int:
    """Return the position after a codestream's end marker, if the codestream matches the header."""
    if (codestream.rows, codestream.columns) != (request.rows, request.columns):
        raise InvalidObject(Stage.DECODE, Reason.SIZE_MISMATCH, "rows, columns")
    if codestream.components not in (1, 3):
        raise InvalidObject(Stage.DECODE, Reason.SIZE_MISMATCH, "components")
    if codestream.end is None:
        raise InvalidObject(Stage.DECODE, Reason.TRUNCATED, "stream")
    return codestream.end


def with_samples(request: FrameRequest, components: int, precision: int) -> FrameRequest:
    """Return the request with the samples that the compressed frame describes.

    Standard: PS3.5 section 8.2, by which the codestream decides if the header disagrees. The header adds
    what a codestream cannot say: which of its bits are stored, and the sign of samples without one, whose
    sign bit is then the highest.
    """
    bits, high_bit = request.bits_stored, request.high_bit
    if precision <= bits or precision > request.bits_allocated:
        bits, high_bit = precision, precision - 1
    elif high_bit >= precision:
        high_bit = bits - 1
    photometric = request.photometric
    if components == 1 and photometric not in GRAYSCALE | {PALETTE}:
        photometric = "MONOCHROME2"
    return replace(
        request,
        samples=components,
        photometric=photometric,
        bits_allocated=8 if precision <= 8 else 16 if precision <= 16 else 32,
        bits_stored=bits,
        high_bit=high_bit,
    )


def _with_samples_of(codestream: CodestreamHeader, request: FrameRequest) -> FrameRequest:
    described = with_samples(request, codestream.components, codestream.precision)
    photometric = described.photometric
    if codestream.components == 3 and request.samples == 1 and photometric in GRAYSCALE:
        photometric = "YBR_FULL_422" if codestream.is_dct else "RGB"  # the usual color spaces
    is_near_lossless = request.transfer_syntax_uid == JPEGLSNearLossless
    return replace(
        described,
        photometric=photometric,
        signed=request.signed or codestream.is_signed,
        is_irreversible=codestream.is_irreversible or is_near_lossless,
    )


def _require_matching_encapsulation(pixels: PixelElement, transfer_syntax_uid: str) -> None:
    """Raise `InvalidObject` if pixel data is encapsulated, but not its transfer syntax, or the reverse.

    Unknown transfer syntaxes are left to the decoders, which support none of them.
    """
    syntax = UID(transfer_syntax_uid)
    if syntax.is_private or not syntax.is_transfer_syntax:
        return
    if pixels.encapsulated != syntax.is_encapsulated:
        kind = "encapsulated" if pixels.encapsulated else "native"
        detail = f"{kind} pixel data under {syntax.name}"
        raise InvalidObject(Stage.DECODE, Reason.TRANSFER_SYNTAX_MISMATCH, detail)


@contextlib.contextmanager
def wrap_decoder_errors() -> Iterator[None]:
    """Convert any error caused by a malformed object to `InvalidObject`.

    Codecs and pydicom raise many types; a panic of a codec written in Rust is not an `Exception`.
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
    except Exception as error:  # pydicom raises many types for malformed elements
        raise InvalidObject(Stage.DECODE, Reason.BAD_PIXEL_DESCRIPTION, keyword) from error


def _photometric(ds: Dataset) -> str:
    """Return Photometric Interpretation in upper case, MONOCHROME and MONOCHROME 2 as MONOCHROME2."""
    try:
        text = str(ds.get("PhotometricInterpretation") or "").strip().upper()
    except Exception as error:  # pydicom raises many types for malformed elements
        detail = "PhotometricInterpretation"
        raise InvalidObject(Stage.DECODE, Reason.BAD_PIXEL_DESCRIPTION, detail) from error
    text = text.replace(" ", "") if text.startswith("MONOCHROME") else text
    return "MONOCHROME2" if text == "MONOCHROME" else text


def _padding(ds: Dataset, bits: int) -> tuple[int, ...]:
    """Return Pixel Padding Value and Range Limit as unsigned numbers; empty if there is no padding.

    Standard: PS3.3 C.7.5.1.1.2.
    """
    try:
        value, limit = ds.get("PixelPaddingValue"), ds.get("PixelPaddingRangeLimit")
    except Exception:  # pydicom raises many types; the image is usable without padding
        return ()
    if not isinstance(value, int):
        return ()
    return tuple(v % (1 << bits) for v in (value, limit) if isinstance(v, int))

"""Generate DICOM objects with pydicom."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

ROOT = "1.2.826.0.1.3680043.10.1473"
SSIZ_POSITION = 42
"""Position of sign and precision of the first component in a JPEG 2000 codestream (A.5.1)."""


def image(seed: int = 0, shape: tuple[int, int] = (640, 512), bits: int = 12) -> np.ndarray:
    """Return a smooth image of one view with edges and a marker: uint16[H, W] in 0..2**bits - 1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    y, x = y / shape[0], x / shape[1]
    values = np.zeros(shape, dtype=np.float32)
    for _ in range(6):
        cy, cx, sy, sx = rng.uniform(0.1, 0.9, 4)
        values += rng.uniform(0.3, 1) * np.exp(-(((y - cy) / sy) ** 2) - ((x - cx) / sx) ** 2)
    values += 0.3 * (np.abs(x + 0.2 * y - rng.uniform(0.4, 0.8)) < 0.06)
    values[: shape[0] // 20, : shape[1] // 10] = values.max()
    values += rng.normal(0, 0.004, shape).astype(np.float32)
    values -= values.min()
    scaled: np.ndarray = (values * ((2**bits - 1) / values.max())).round().astype(np.uint16)
    return scaled


@disable_value_validation()
def dataset(
    pixels: np.ndarray | None = None,
    *,
    name: str = "1",
    syntax: str = ExplicitVRLittleEndian,
    **elements: Any,
) -> FileDataset:
    """Return a DX object.

    Args:
        pixels: uint8, uint16 or int16; [H, W], [H, W, 3] for RGB, or [N, H, W] for frames.
        name: Suffix of its UIDs.
        syntax: Transfer syntax UID.
        **elements: Values by keyword, also invalid ones; None deletes the element.
    """
    pixels = image() if pixels is None else pixels
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    ds = FileDataset(
        "",
        {},
        file_meta=meta,
        preamble=b"\0" * 128,
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
    )
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = f"{ROOT}.3.{name}"
    ds.SeriesInstanceUID = f"{ROOT}.2.{name}"
    ds.StudyInstanceUID = f"{ROOT}.1.{name}"
    ds.Modality = "DX"
    ds.PatientID = "P1"
    ds.PatientName = "SECRET^NAME"
    color = pixels.ndim == 3 and pixels.shape[-1] == 3
    frames = 1 if color or pixels.ndim == 2 else pixels.shape[0]
    ds.Rows, ds.Columns = pixels.shape[-3:-1] if color else pixels.shape[-2:]
    ds.SamplesPerPixel = 3 if color else 1
    ds.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
    if color:
        ds.PlanarConfiguration = 0
    if frames > 1:
        ds.NumberOfFrames = frames
    ds.BitsAllocated = pixels.dtype.itemsize * 8
    ds.BitsStored = elements.pop("BitsStored", 8 if ds.BitsAllocated == 8 else 12)
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    _set_pixels(ds, pixels, syntax)
    for keyword, value in elements.items():
        if value is None:
            if keyword in ds:
                delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    if "SOPClassUID" in ds:
        meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = UID(f"{ROOT}.3.{name}")
    return ds


def dicom_bytes(pixels: np.ndarray | None = None, **properties: Any) -> bytes:
    """Return `dataset(...)` as bytes."""
    return to_bytes(dataset(pixels, **properties))


@disable_value_validation()
def to_bytes(ds: Dataset) -> bytes:
    """Return a data set as bytes with file meta information; malformed values are kept."""
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _set_pixels(ds: FileDataset, pixels: np.ndarray, syntax: str) -> None:
    if syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.PixelData = pixels.tobytes()
        ds.compress(syntax, generate_instance_uid=False)
        return
    if syntax == JPEG2000:
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.PixelData = pixels.tobytes()
        ds.compress(syntax, j2k_cr=[8], generate_instance_uid=False)
        return
    encode = _ENCODERS.get(syntax)
    if syntax == HTJ2KLossless:
        encode = partial(htj2k_lossless, precision=ds.BitsStored)
    if encode:
        frames = pixels if pixels.ndim == 3 and ds.SamplesPerPixel == 1 else [pixels]
        ds.PixelData = encapsulate([bytes(encode(frame)) for frame in frames])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        return
    big_endian = syntax == ExplicitVRBigEndian
    dtype = pixels.dtype.newbyteorder(">" if big_endian else "<")
    ds.PixelData = pixels.astype(dtype).tobytes()
    ds["PixelData"].VR = "OW" if ds.BitsAllocated > 8 else "OB"


def _baseline(frame: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def htj2k_lossless(frame: np.ndarray, precision: int) -> bytes:
    """Return an unsigned grayscale frame as HTJ2K of a precision, for which the encoder has no option.

    Its samples are encoded as signed ones, without level shift, and then declared to be unsigned ones of
    `precision` bits, which decoders shift by half of their range (ISO/IEC 15444-1 A.5.1 and G.1.1).
    """
    if frame.dtype != np.uint16 or precision == 16:
        return bytes(imagecodecs.htj2k_encode(frame, reversible=True))
    shifted = (frame.astype(np.int32) - (1 << precision - 1)).astype(np.int16)
    stream = bytearray(imagecodecs.htj2k_encode(shifted, reversible=True))
    stream[SSIZ_POSITION] = precision - 1
    return bytes(stream)


_ENCODERS: dict[str, Callable[[np.ndarray], bytes | bytearray]] = {
    JPEGBaseline8Bit: _baseline,
    JPEGExtended12Bit: lambda a: imagecodecs.jpeg8_encode(a, level=95, bitspersample=12),
    JPEGLossless: lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=12),
    JPEGLosslessSV1: lambda a: imagecodecs.jpeg8_encode(
        a, lossless=True, predictor=1, bitspersample=12
    ),
    JPEGLSNearLossless: lambda a: imagecodecs.jpegls_encode(a, level=2),
}


def smooth_view(
    seed: int, shape: tuple[int, int], low: int = 40, high: int = 220
) -> npt.NDArray[np.uint8]:
    """Return a smooth image, uint8[shape], of gray levels from `low` to `high`."""
    coarse = np.random.default_rng(seed).uniform(low, high, (9, 7)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC)).astype(
        np.uint8
    )

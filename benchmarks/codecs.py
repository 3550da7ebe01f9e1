"""Compare decoders of compressed pixels: python -m benchmarks.codecs.

Generated radiographs are decoded in each compressed transfer syntax by the packages of PyPI that support
it, and by the router as in a run: parsed, at reduced resolution where that is possible, and averaged.
Codecs are interleaved; those that are not installed are skipped:

    pip install cft-jpegls dicomsdl pillow-jpls pylibjpeg-libjpeg python-gdcm simpleitk simplejpeg

pylibjpeg-libjpeg is under GPL-3.0, and cft-jpegls an alpha version: both are measured, never used. A
codec that fails or gives other values than were encoded gets no rate.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from benchmarks.profile_route import machine
from models.bundle import read_info
from models.default_bundle import DEFAULT_BUNDLE
from models.training.evaluation.markdown import markdown_table
from tests.synthetic import dataset, image, to_bytes
from transforms.core import malloc
from transforms.imaging.codecs.codestream_header import read_codestream_header
from transforms.imaging.codecs.frame import build_frame_request
from transforms.imaging.codecs.registry import decode_frame
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse

Pixels = npt.NDArray[np.integer]

JPEG_LS: Final = "JPEG-LS"
NEAR: Final = "JPEG-LS, near-lossless"
LOSSLESS_SV1: Final = "JPEG lossless, .70"
LOSSLESS: Final = "JPEG lossless, .57"
JPEG_12: Final = "JPEG, 12 bits"
JPEG_8: Final = "JPEG, 8 bits"
J2K: Final = "JPEG 2000"
HT: Final = "HTJ2K"
RLE: Final = "RLE"
SYNTAXES: Final = {
    JPEG_LS: JPEGLSLossless,
    NEAR: JPEGLSNearLossless,
    LOSSLESS_SV1: JPEGLosslessSV1,
    LOSSLESS: JPEGLossless,
    JPEG_12: JPEGExtended12Bit,
    JPEG_8: JPEGBaseline8Bit,
    J2K: JPEG2000Lossless,
    HT: HTJ2KLossless,
    RLE: RLELossless,
}
PLANE_PREDICTOR: Final = 4
"""Selection value of `LOSSLESS`; its decoding takes longest. That of `LOSSLESS_SV1` is 1."""
TOLERANCE: Final = {JPEG_12: 8, JPEG_8: 2}
"""Largest difference between the inverse cosine transforms of two codecs; others must agree."""
ROUTER: Final = "router"
LIBRARIES: Final = ("charls", "libjpeg_turbo", "liblj92", "jpegsof3", "openjpeg", "openjph")
"""Libraries inside of imagecodecs whose versions are of interest."""


@dataclass(frozen=True)
class Encoded:
    """An image in one transfer syntax.

    Attributes:
        path: The object as a file.
        data: The object.
        stream: Its codestream.
        pixels: What a decoder gives.
    """

    path: Path
    data: bytes
    stream: bytes
    pixels: Pixels


Decode = Callable[[Any, Encoded], Any]
"""Takes the codec's module and an image."""


@dataclass(frozen=True)
class Codec:
    """A package, or a decoder of one, and what it decodes.

    Attributes:
        name: Of the codec in the results.
        module: Passed to the decoders.
        distribution: Its name on PyPI; empty for the router.
        license: SPDX identifier.
        decoders: By syntax.
    """

    name: str
    module: str
    distribution: str
    license: str
    decoders: Mapping[str, Decode]


def by_router(_: object, encoded: Encoded) -> None:
    """Decode as a run does; the result is reduced, and other tests compare it."""
    request = build_frame_request(parse(encoded.data, Limits()), 1, input_size(), Limits())
    decode_frame(request)


def by_gdcm(gdcm: Any, encoded: Encoded) -> Pixels:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(encoded.path))
    if not reader.Read():
        raise RuntimeError("GDCM cannot read the object")
    buffer = reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(buffer, encoded.pixels.dtype)


def by_simpleitk(simpleitk: Any, encoded: Encoded) -> Any:
    read = simpleitk.ReadImage(str(encoded.path), imageIO="GDCMImageIO")
    return simpleitk.GetArrayFromImage(read)


def by_dicomsdl(dicomsdl: Any, encoded: Encoded) -> Any:
    return dicomsdl.open(str(encoded.path)).pixelData(storedvalue=True)


def by_pillow(pillow: Any, encoded: Encoded) -> Any:
    values = np.asarray(pillow.open(BytesIO(encoded.stream)))
    scale = 16 - 12 if values.dtype == np.uint16 and encoded.stream.startswith(b"\xff\x4f") else 0
    return values >> scale  # Pillow scales JPEG 2000 to 16 bits


def by_rle(rle: Any, encoded: Encoded) -> Any:
    rows, columns = encoded.pixels.shape
    options = {"rows": rows, "columns": columns, "bits_allocated": 16}
    return np.frombuffer(rle.decode_pixel_data(encoded.stream, version=2, **options), "<u2")


CODECS: Final = (
    Codec(ROUTER, "pydicom", "", "", dict.fromkeys(SYNTAXES, by_router)),
    Codec(
        "imagecodecs", "imagecodecs", "imagecodecs", "BSD-3-Clause",
        {
            **dict.fromkeys((JPEG_LS, NEAR), lambda m, e: m.jpegls_decode(e.stream)),
            **dict.fromkeys(
                (LOSSLESS_SV1, LOSSLESS, JPEG_12, JPEG_8), lambda m, e: m.jpeg8_decode(e.stream)
            ),
            J2K: lambda m, e: m.jpeg2k_decode(e.stream),
            HT: lambda m, e: m.htj2k_decode(e.stream),
            RLE: lambda m, e: np.frombuffer(m.dicomrle_decode(e.stream, "<u2"), "<u2"),
        },
    ),
    Codec(
        "imagecodecs, liblj92", "imagecodecs", "imagecodecs", "BSD-3-Clause",
        dict.fromkeys((LOSSLESS_SV1, LOSSLESS), lambda m, e: m.ljpeg_decode(e.stream)),
    ),
    Codec(
        "imagecodecs, jpegsof3", "imagecodecs", "imagecodecs", "BSD-3-Clause",
        dict.fromkeys((LOSSLESS_SV1, LOSSLESS), lambda m, e: m.jpegsof3_decode(e.stream)),
    ),
    Codec(
        "pyjpegls", "jpeg_ls", "pyjpegls", "MIT",
        dict.fromkeys(
            (JPEG_LS, NEAR), lambda m, e: np.frombuffer(m.decode_pixel_data(e.stream)[0], "<u2")
        ),
    ),
    Codec(
        "pillow-jpls", "pillow_jpls", "pillow-jpls", "BSD-3-Clause",
        dict.fromkeys((JPEG_LS, NEAR), lambda _, e: np.asarray(Image.open(BytesIO(e.stream)))),
    ),
    Codec(
        "cft-jpegls", "cft_jpegls", "cft-jpegls", "BSD-3-Clause",
        dict.fromkeys((JPEG_LS, NEAR), lambda m, e: m.decode(e.stream)),
    ),
    Codec(
        "Pillow", "PIL.Image", "pillow", "MIT-CMU", dict.fromkeys((JPEG_8, J2K, HT), by_pillow)
    ),
    Codec(
        "simplejpeg", "simplejpeg", "simplejpeg", "MIT",
        {JPEG_8: lambda m, e: m.decode_jpeg(e.stream, "GRAY")},
    ),
    Codec(
        "pylibjpeg-openjpeg", "openjpeg", "pylibjpeg-openjpeg", "MIT",
        dict.fromkeys((J2K, HT), lambda m, e: m.decode(e.stream)),
    ),
    Codec("pylibjpeg-rle", "rle.utils", "pylibjpeg-rle", "MIT", {RLE: by_rle}),
    Codec("GDCM", "gdcm", "python-gdcm", "BSD-3-Clause", dict.fromkeys(SYNTAXES, by_gdcm)),
    Codec(
        "SimpleITK", "SimpleITK", "simpleitk", "Apache-2.0", dict.fromkeys(SYNTAXES, by_simpleitk)
    ),
    Codec(
        "dicomsdl", "dicomsdl", "dicomsdl", "MIT",
        dict.fromkeys([name for name in SYNTAXES if name != HT], by_dicomsdl),
    ),
    Codec(
        "pylibjpeg-libjpeg", "libjpeg", "pylibjpeg-libjpeg", "GPL-3.0",
        dict.fromkeys(
            (JPEG_LS, NEAR, LOSSLESS_SV1, LOSSLESS, JPEG_12, JPEG_8),
            lambda m, e: m.decode(e.stream),
        ),
    ),
)  # fmt: skip


@cache
def input_size() -> int:
    """Return the side of the default network's input in pixels."""
    return read_info(DEFAULT_BUNDLE).input_size


def encode(name: str, pixels: Pixels, folder: Path) -> Encoded:
    """Return an image in a syntax of `SYNTAXES`; of 12 bits, or of 8 as `JPEG_8`."""
    if name == JPEG_8:
        pixels = (pixels >> 4).astype(np.uint8)
    ds = dataset(pixels, syntax=SYNTAXES[name])
    if name == LOSSLESS:
        stream = imagecodecs.jpeg8_encode(
            pixels, lossless=True, predictor=PLANE_PREDICTOR, bitspersample=12
        )
        ds.PixelData = encapsulate([bytes(stream)])
    data = to_bytes(ds)
    path = folder / f"{len(list(folder.iterdir()))}.dcm"
    path.write_bytes(data)
    stream = get_frame(dcmread(path).PixelData, 0)
    header = read_codestream_header(stream)
    stream = stream[: header.end] if header else stream  # without padding, which some codecs reject
    if name == NEAR:
        pixels = imagecodecs.jpegls_decode(stream)
    elif name in (JPEG_12, JPEG_8):
        pixels = imagecodecs.jpeg8_decode(stream)
    return Encoded(path, data, stream, pixels)


def problem(name: str, codec: Codec, module: Any, encoded: Encoded) -> str:
    """Return why a codec gets no rate for a syntax; empty if it decodes an image correctly."""
    try:
        values = codec.decoders[name](module, encoded)
    except Exception as error:  # each codec has its own
        return f"{type(error).__name__}: {error}"
    if codec.name == ROUTER:
        return ""
    found = np.asarray(values).reshape(encoded.pixels.shape).astype(np.int32)
    difference = int(np.abs(found - encoded.pixels).max())
    return f"values differ by {difference}" if difference > TOLERANCE.get(name, 0) else ""


def load(codecs: Sequence[Codec]) -> dict[str, Any]:
    """Return the modules of codecs by name; says which are not installed."""
    modules = {}
    for codec in codecs:
        try:
            modules[codec.name] = importlib.import_module(codec.module)
        except ImportError as error:
            print(f"skipped: {codec.name} ({error}); pip install {codec.distribution}")
    return modules


def versions(codecs: Sequence[Codec]) -> dict[str, str]:
    """Return the versions of packages and of the libraries inside of imagecodecs, as in the results."""
    found = {c.distribution: importlib.metadata.version(c.distribution) for c in codecs}
    inside = imagecodecs.version(dict)
    return found | {name: inside[name] for name in LIBRARIES if name in inside}


def time_rounds(
    name: str,
    codecs: Sequence[Codec],
    modules: Mapping[str, Any],
    images: Sequence[Encoded],
    rounds: int,
) -> dict[str, dict[str, list[float]]]:
    """Return milliseconds per image of every round by codec: wall and processor time.

    The order of codecs changes from round to round.
    """
    times: dict[str, dict[str, list[float]]] = {
        c.name: {"wall_ms": [], "cpu_ms": []} for c in codecs
    }
    for number in range(rounds):
        shift = number % max(1, len(codecs))
        for codec in (*codecs[shift:], *codecs[:shift]):
            decode, module = codec.decoders[name], modules[codec.name]
            wall, cpu = time.perf_counter(), time.process_time()
            for encoded in images:
                decode(module, encoded)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            times[codec.name]["wall_ms"].append(1000 * wall / len(images))
            times[codec.name]["cpu_ms"].append(1000 * cpu / len(images))
    return times


def measure(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a measurement, or the reason why there is none, by syntax and codec."""
    shape = tuple(args.shape)
    sources = [image(seed, shape) for seed in range(args.images)]
    modules = load(CODECS)
    for name in args.syntaxes:
        images = [encode(name, pixels, folder) for pixels in sources]
        able = [c for c in CODECS if c.name in modules and name in c.decoders]
        problems = {c.name: problem(name, c, modules[c.name], images[0]) for c in able}
        able = [c for c in able if not problems[c.name]]
        times = time_rounds(name, able, modules, images, args.rounds)
        for codec, why in problems.items():
            found: Mapping[str, object] = {"problem": why} if why else times[codec]
            yield {"syntax": name, "codec": codec, **found}


def rate(one: Mapping[str, Any], results: Mapping[str, Any]) -> float:
    """Return the median rate of a measurement in megapixels per second of processor time."""
    rows, columns = results["shape"]
    return float(rows * columns / 1e3 / statistics.median(one["cpu_ms"]))


def tables(results: Mapping[str, Any]) -> str:
    """Return the rates as Markdown, and how near the router is to the fastest codec."""
    measured = [one for one in results["measurements"] if "problem" not in one]
    rates = {(one["codec"], one["syntax"]): rate(one, results) for one in measured}
    syntaxes = list(dict.fromkeys(one["syntax"] for one in measured))
    codecs = list(dict.fromkeys(c for c, _ in rates))
    rows = [
        [codec, *(f"{rates[codec, s]:.0f}" if (codec, s) in rates else "" for s in syntaxes)]
        for codec in sorted(codecs, key=[c.name for c in CODECS].index)
    ]
    fastest = {s: max(r for (c, o), r in rates.items() if o == s and c != ROUTER) for s in syntaxes}
    ratios = (f"{rates[ROUTER, s] / fastest[s]:.2f}" for s in syntaxes)
    problems = (
        f"{one['codec']}, {one['syntax']}: {one['problem']}"
        for one in results["measurements"]
        if "problem" in one
    )
    title = "Megapixels per second of processor time, median"
    table = markdown_table(["", *syntaxes], [*rows, ["router / fastest codec", *ratios]])
    return "\n\n".join([title, table, *problems])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=4, help="number of images per syntax")
    parser.add_argument("--rounds", type=int, default=9, help="number of repetitions")
    parser.add_argument("--shape", type=int, nargs=2, default=(2500, 2000), help="rows and columns")
    parser.add_argument("--syntaxes", nargs="+", default=list(SYNTAXES), choices=list(SYNTAXES))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/codecs.json"))
    args = parser.parse_args(argv)
    malloc.reuse_freed_blocks()  # as the router does
    with tempfile.TemporaryDirectory() as folder:
        measurements = list(measure(args, Path(folder)))
    measured = {one["codec"] for one in measurements} - {ROUTER}
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "versions": versions([c for c in CODECS if c.name in measured]),
        "licenses": {c.name: c.license for c in CODECS if c.name in measured},
        "shape": list(args.shape),
        "images": args.images,
        "measurements": measurements,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["machine"] | results["versions"]))
    print(tables(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())

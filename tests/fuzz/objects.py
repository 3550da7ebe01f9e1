"""Coverage-guided fuzzing of parsing and decoding: python -m tests.fuzz.objects CORPUS [OPTION…].

Any bytes must give an image or `InvalidObject`. Any other exception, a crash, a hang or more than 2 GB of
memory is a finding; libFuzzer writes the input to the current folder. Options after CORPUS are passed to
libFuzzer, such as -max_total_time=60.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pydicom", "transforms"]):
    from transforms.imaging.header import read_header, require_uids
    from transforms.imaging.limits import Limits
    from transforms.imaging.part10 import parse
    from transforms.imaging.read_image import decode_inputs

import numpy as np
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.synthetic import dicom_bytes, image
from transforms.core.reasons import InvalidObject

LIMITS = Limits(max_object_bytes=4 << 20, max_pixels=1 << 22, max_items=2000)
SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
)


def fuzz_one(data: bytes) -> None:
    """Parse and decode bytes as a child process does."""
    try:
        parsed = parse(data, LIMITS)
        read_header(parsed)
        require_uids(parsed)
        decode_inputs(parsed, 16, limits=LIMITS)
    except InvalidObject:
        pass


def write_seeds(corpus: Path) -> None:
    """Write a small image in each transfer syntax."""
    corpus.mkdir(parents=True, exist_ok=True)
    for number, syntax in enumerate(SYNTAXES):
        pixels = image(number, (64, 48))
        if syntax == JPEGBaseline8Bit:
            pixels = (pixels >> 4).astype(np.uint8)
        extra = {"WindowCenter": "2000", "WindowWidth": "900", "RescaleSlope": "2"}
        (corpus / f"{number}.dcm").write_bytes(dicom_bytes(pixels, syntax=syntax, **extra))


def main() -> None:
    corpus = Path(sys.argv[1])
    write_seeds(corpus)
    options = ["-rss_limit_mb=2048", "-timeout=120", "-max_len=32768", *sys.argv[2:]]
    atheris.Setup([sys.argv[0], str(corpus), *options], fuzz_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Fast decoders lead to the same decisions as full decodes by pydicom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from models.bundle import read_info
from models.classifier import ModelOutput
from models.default_bundle import DEFAULT_BUNDLE
from models.handler import RadiographModelHandler
from tests.synthetic import dicom_bytes, image
from transforms.core.labels import LABELS
from transforms.imaging.codecs import registry
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.read_image import decode_inputs

SYNTAXES = (
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    JPEGLSLossless,
    JPEGLosslessSV1,
    JPEGExtended12Bit,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGLSNearLossless,
)
EIGHT_BITS = (JPEGBaseline8Bit,)
REAL = (
    "RG1_UNCR.dcm",
    "RG1_J2KR.dcm",
    "RG1_J2KI.dcm",
    "RG3_UNCR.dcm",
    "RG3_J2KR.dcm",
    "RG3_J2KI.dcm",
)
"""Radiographs of pydicom's test data."""
SIDE = read_info(DEFAULT_BUNDLE).input_size
PROBABILITY = 0.02
PROBABILITY_OF_GENERATED = 0.05
"""No label is certain for these, where probabilities are most sensitive."""
OOD_SCORE = 0.5


@pytest.fixture(scope="module")
def handler() -> RadiographModelHandler:
    return RadiographModelHandler(DEFAULT_BUNDLE, device="cpu")


def packaged(name: str) -> Path | None:
    """Return the path of a packaged file, without downloading."""
    found = get_testdata_file(name, download=False)
    return None if found is None else Path(str(found))


def both(data: bytes, plain: bytes, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Return the network's input from a fast decode and from a full one of the same image."""
    fast, used_fallback = decode_inputs(parse(data, Limits()), SIDE, limits=Limits())
    assert not used_fallback
    monkeypatch.setattr(registry, "_FAST_DECODERS", {})
    full, used_fallback = decode_inputs(parse(plain, Limits()), SIDE, limits=Limits())
    assert used_fallback
    return [fast, full]


def require_same_decision(
    images: list[np.ndarray], handler: RadiographModelHandler, within: float = PROBABILITY
) -> None:
    fast, full = (r.inference for r in handler.run_inference(images, handler.load_model()))
    assert isinstance(fast, ModelOutput)
    assert isinstance(full, ModelOutput)
    assert fast.values[:-1].argmax() == full.values[:-1].argmax()
    assert np.abs(fast.values[:-1] - full.values[:-1]).max() < within
    assert abs(fast.values[-1] - full.values[-1]) < OOD_SCORE
    if abs(margin(full)) > within:
        assert is_routed(fast) == is_routed(full)


def margin(scored: ModelOutput) -> float:
    """Return how far the confidence is above the threshold of the most probable label."""
    label = LABELS[int(scored.values[:-1].argmax())]
    return float(scored.values[:-1].max()) - scored.limits.thresholds[label]


def is_routed(scored: ModelOutput) -> bool:
    return margin(scored) >= 0 and float(scored.values[-1]) <= scored.limits.ood_threshold


@pytest.mark.slow
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: UID(uid).name)
@pytest.mark.parametrize("seed", [0, 1])
def test_generated_images(
    syntax: str, seed: int, handler: RadiographModelHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare with the uncompressed image: not every syntax has a free codec in pydicom."""
    pixels = image(seed, (1400, 1150))
    if syntax in EIGHT_BITS:
        pixels = (pixels >> 4).astype(np.uint8)
    images = both(dicom_bytes(pixels, syntax=syntax), dicom_bytes(pixels), monkeypatch)
    require_same_decision(images, handler, PROBABILITY_OF_GENERATED)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_radiographs(
    name: str, handler: RadiographModelHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packaged(name)
    assert path is not None, "pydicom-data is among the packages that tests need"
    assert pydicom.dcmread(path, stop_before_pixels=True).Modality in ("CR", "DX", "RG")
    data = path.read_bytes()
    require_same_decision(both(data, data, monkeypatch), handler)

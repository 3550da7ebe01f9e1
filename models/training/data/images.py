"""Labelled images of a data set, loaded from PNG, JPEG or DICOM files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from transforms.core.errors import UsageError
from transforms.core.reasons import ObjectError
from transforms.imaging.header import read_header
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.plates import network_inputs
from transforms.imaging.preprocessing import Gray, preprocess
from transforms.imaging.read_image import read_image

IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg"})
Gray8: TypeAlias = npt.NDArray[np.uint8]


class DatasetError(UsageError):
    """A data set cannot be used; the message lists every problem."""


@dataclass(frozen=True)
class LabeledImage:
    """One labelled image.

    Attributes:
        path: PNG, JPEG or DICOM file.
        label: one of the body-part labels.
        split: train, val or test.
        source: collection or site; sampling is balanced over sources.
        group: patient, or the closest known; a group never spans splits.
        license: from the manifest, or "".
        age_years: of the patient, from the manifest, or None.
        region: anatomy finer than the label, from the manifest, or "".
        weight: sampling weight relative to other images of a source of that size.
    """

    path: Path
    label: str
    split: str
    source: str
    group: str
    license: str = ""
    age_years: float | None = None
    region: str = ""
    weight: float = 1.0


def age_of(image: LabeledImage) -> float | None:
    """Return the patient's age in years from the manifest, or else from the DICOM header.

    None if neither has a plausible one.
    """
    if image.age_years is not None or image.path.suffix.lower() in IMAGE_SUFFIXES:
        return image.age_years
    return read_header(parse(image.path.read_bytes(), Limits())).patient_age_years


def shrink(gray: Gray8, long_side: int) -> Gray8:
    """Return an image with at most `long_side` pixels a side, uint8[H, W]."""
    image = Image.fromarray(gray)
    image.thumbnail((long_side, long_side), Image.Resampling.BILINEAR)
    return np.asarray(image)


def load_inputs(images: Sequence[LabeledImage], input_size: int) -> Tensor:
    """Load whole images with the preprocessing of inference.

    Returns:
        uint8[N, 1, input_size, input_size].
    """
    return torch.from_numpy(np.stack(_load_all(images, input_size, preprocess)))


def load_served_inputs(images: Sequence[LabeledImage], input_size: int) -> list[Gray8]:
    """Load images as a run classifies them, the views of plates apart.

    Returns:
        what `network_inputs` returns for each.
    """
    return _load_all(images, input_size, network_inputs)


def _load_all(
    images: Sequence[LabeledImage], input_size: int, prepare: Callable[[Gray, int], Gray8]
) -> list[Gray8]:
    with ThreadPoolExecutor() as pool:
        return list(
            pool.map(lambda one: prepare(load_image(one.path, input_size), input_size), images)
        )


def label_indices(images: Sequence[LabeledImage], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the index of the label of each image, int64[N].

    Args:
        images: of these labels.
        labels: names in order of the network's outputs.
    """
    return np.array([labels.index(image.label) for image in images])


def load_image(path: Path, long_side: int) -> Gray:
    """Load an image, dense tissue bright, with at least `long_side` pixels if the file has as many.

    Returns:
        uint8[H, W] of an 8-bit PNG or JPEG, float32[H, W] of any other file.

    Raises:
        DatasetError: The file is not a readable image.
    """
    try:
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            return read_image(path.read_bytes(), long_side)
        with Image.open(path) as image:
            image.draft("L", (long_side, long_side))
            if image.mode.startswith("I"):
                return np.asarray(image, dtype=np.float32)
            return np.asarray(image.convert("L"))
    except (ObjectError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        why = str(error) if isinstance(error, ObjectError) else type(error).__name__
        raise DatasetError(
            f"{path}: not a readable PNG, JPEG or DICOM image ({why}); repair the file or remove it from "
            "the data set"
        ) from error


def to_uint8(gray: Gray) -> Gray8:
    """Return an image as uint8; other types are stretched between the 0.1 and 99.9 percentiles."""
    if gray.dtype == np.uint8:
        return gray.astype(np.uint8, copy=False)
    values = gray.astype(np.float32)
    low, high = np.percentile(values, (0.1, 99.9))
    scaled = (values - low) * (255.0 / max(float(high - low), 1e-6))
    return np.asarray(np.clip(scaled, 0, 255).round(), dtype=np.uint8)

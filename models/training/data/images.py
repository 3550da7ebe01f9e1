"""Labelled images for training: from a manifest or from one folder per class, PNG, JPEG or DICOM."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from transforms.core.errors import UsageError
from transforms.core.labels import ABDOMINAL, ADULT_CHEST, LABELS, OTHERS, PEDIATRIC_CHEST
from transforms.core.reasons import ObjectError
from transforms.imaging.header import is_plausible_age, parse_age_string, read_header
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.preprocessing import Gray, preprocess
from transforms.imaging.read_image import read_image

SPLITS = ("train", "val", "test")
SPLIT_ALIASES: Final = {"valid": "val", "validation": "val"}
VAL_OF_TRAIN: Final = 0.15 / 0.85
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
LABEL_ALIASES: Final = {
    "abdomen": ABDOMINAL,
    "adult": ADULT_CHEST,
    "pediatric": PEDIATRIC_CHEST,
    "paediatric": PEDIATRIC_CHEST,
    "other": OTHERS,
}
"""Other names that mean a label, as those of VinDr-BodyPartXR's folders (Pham, Do, Nguyen 2021)."""


class DatasetError(UsageError):
    """A data set cannot be used; the message lists everything wrong with it."""


@dataclass(frozen=True)
class LabeledImage:
    """One labelled image.

    Attributes:
        path: image or DICOM file.
        label: one of the body-part labels.
        split: train, val or test.
        source: where it comes from; sampling is balanced over it.
        group: patient or the nearest thing known; a group never spans splits.
        license: as the manifest says, or "".
        age_years: of the patient, as the manifest says, or None.
        region: finer anatomy than the label, as the manifest says, or "".
        weight: how many times as often it is drawn as another image of a source of that size.
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


def read_dataset(data: Path) -> list[LabeledImage]:
    """Read a data set.

    Args:
        data: a CSV manifest with columns path, label and, where known, split, source, group, license,
            age (years, or an Age String of DICOM) and region; or a folder with one sub-folder per
            label, or with such folders under train, test and perhaps val. Upper case and aliases
            of labels and splits count. Images without a split are put in train, val or test (70, 15,
            15 %) by a hash of their group, and val comes from train where it has no folder. In a folder
            every file is its own group, so give a manifest where patients have several images. What is
            hidden there is passed over.

    Raises:
        DatasetError: unknown labels or splits, missing files, a group in two splits, or no CSV in UTF-8.
    """
    images = _read_manifest(data) if data.is_file() else _read_folders(data)
    if not images:
        raise DatasetError(f"{data}: no images found; give a manifest or a folder per label")
    problems = sorted({f"unknown label {f.label!r}" for f in images if f.label not in LABELS})
    if problems:
        problems.append(f"known labels are {', '.join(LABELS)}")
    problems += sorted({f"unknown split {f.split!r}" for f in images if f.split not in SPLITS})
    problems += [f"missing file {f.path}" for f in images if not f.path.is_file()][:10]
    select_split: dict[tuple[str, str], str] = {}
    torn: set[tuple[str, str]] = set()  # a group can be a patient: it is counted, not named
    for image in images:
        key = (image.source, image.group)
        if select_split.setdefault(key, image.split) != image.split:
            torn.add(key)
    problems += [
        f"{number} groups of {source} stand in two splits"
        for source, number in sorted(Counter(source for source, _ in torn).items())
    ]
    if problems:
        raise DatasetError(f"{data}: " + "; ".join(problems[:20]))
    return images


def select_split(images: Sequence[LabeledImage], split: str) -> list[LabeledImage]:
    """Return the images of a split.

    Raises:
        DatasetError: it has none.
    """
    chosen = [image for image in images if image.split == split]
    if not chosen:
        raise DatasetError(f"the data set has no images in split {split!r}")
    return chosen


def age_of(image: LabeledImage) -> float | None:
    """Return the age of a patient in years: the manifest's, or else that in a DICOM file's header.

    None if neither says a plausible one.
    """
    if image.age_years is not None or image.path.suffix.lower() in IMAGE_SUFFIXES:
        return image.age_years
    years = read_header(parse(image.path.read_bytes(), Limits())).patient_age_years
    return years if is_plausible_age(years) else None


def load_resized(images: list[LabeledImage], long_side: int) -> list[npt.NDArray[np.uint8]]:
    """Load images to augment, as uint8[H, W] with a long side of at most `long_side` pixels."""

    def load(image: LabeledImage) -> npt.NDArray[np.uint8]:
        resized = Image.fromarray(to_uint8(load_image(image.path, long_side)))
        resized.thumbnail((long_side, long_side), Image.Resampling.BILINEAR)
        return np.asarray(resized)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(load, images))


def load_inputs(images: Sequence[LabeledImage], size: int) -> npt.NDArray[np.uint8]:
    """Load images as serving sees them: uint8[N, 1, size, size]."""
    with ThreadPoolExecutor() as pool:
        return np.stack(
            list(pool.map(lambda f: preprocess(load_image(f.path, size), size), images))
        )


def load_image(path: Path, long_side: int) -> Gray:
    """Load an image, dense tissue bright, with at least `long_side` pixels where it has as many.

    Returns:
        uint8[H, W] of an 8-bit PNG or JPEG, float32[H, W] of any other file.

    Raises:
        DatasetError: it cannot be read as one.
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
            f"{path}: no PNG, JPEG or DICOM that can be read as an image ({why}); repair the file, or "
            "take it out of the data set"
        ) from error


def to_uint8(gray: Gray) -> npt.NDArray[np.uint8]:
    """Return an image as uint8; other types are stretched between the 0.1 and 99.9 percentiles."""
    if gray.dtype == np.uint8:
        return gray.astype(np.uint8, copy=False)
    values = gray.astype(np.float32)
    low, high = np.percentile(values, (0.1, 99.9))
    scaled = (values - low) * (255.0 / max(float(high - low), 1e-6))
    return np.asarray(np.clip(scaled, 0, 255).round(), dtype=np.uint8)


def _read_manifest(manifest: Path) -> list[LabeledImage]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as stream:  # spreadsheets write a mark
            reader = csv.DictReader(stream)
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            rows = [row for row in reader if any(row.values())]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{manifest}: no CSV in UTF-8 ({error}); save it as such") from error
    if rows and not {"path", "label"} <= set(rows[0]):
        raise DatasetError(f"{manifest}: the header must name at least path and label")
    return [
        replace(
            _labeled_image(
                manifest.parent / (row["path"] or ""),
                _known_as(row["label"] or "", LABEL_ALIASES),
                row.get("source") or "data",
                row.get("group") or row["path"],
                _known_as(row.get("split") or "", SPLIT_ALIASES),
            ),
            license=row.get("license") or "",
            age_years=_age_years(row.get("age") or ""),
            region=row.get("region") or "",
        )
        for row in rows
    ]


def _read_folders(root: Path) -> list[LabeledImage]:
    folders = [path for path in sorted(root.iterdir()) if path.is_dir()]
    named = {path: _known_as(path.name, SPLIT_ALIASES) for path in folders}
    splits = {path: split for path, split in named.items() if split in SPLITS}
    if not splits:
        return list(_read_label_folders(root, root, None))
    if beside := [path.name for path in folders if _known_as(path.name, LABEL_ALIASES) in LABELS]:
        raise DatasetError(
            f"{root}: folders of labels ({', '.join(beside)}) stand beside those of splits "
            f"({', '.join(splits.values())}); put all of them into splits, or none"
        )
    images = [
        image for path, split in splits.items() for image in _read_label_folders(root, path, split)
    ]
    if "val" in splits.values():
        return images
    return [
        replace(image, split="val")
        if image.split == "train" and _share(image.source, image.group) < VAL_OF_TRAIN
        else image
        for image in images
    ]


def _read_label_folders(root: Path, parent: Path, split: str | None) -> Iterator[LabeledImage]:
    for path in sorted(path for path in parent.glob("*/**/*") if path.is_file()):
        folder, *parts = path.relative_to(parent).parts
        if not any(part.startswith(".") for part in (folder, *parts)):
            label = _known_as(folder, LABEL_ALIASES)
            yield _labeled_image(path, label, "data", path.relative_to(root).as_posix(), split)


def _known_as(name: str, aliases: Mapping[str, str]) -> str:
    name = name.strip().lower()
    return aliases.get(name, name)


def _labeled_image(
    path: Path, label: str, source: str, group: str, split: str | None
) -> LabeledImage:
    return LabeledImage(path, label, split or _hashed_split(source, group), source, group)


def _age_years(text: str) -> float | None:
    """Of 42, 42.5, 042Y, 42Y or 006M; None of anything else, as of what means a range."""
    years = parse_age_string(text.strip().upper().zfill(4))
    if years is None:
        try:
            years = float(text)
        except ValueError:
            return None
    return years if is_plausible_age(years) else None


def _hashed_split(source: str, group: str) -> str:
    share = _share(source, group)
    return "train" if share < 0.70 else "val" if share < 0.85 else "test"


def _share(source: str, group: str) -> float:
    """A number in 0..1 that is a group's for ever."""
    digest = hashlib.sha256(f"{source}/{group}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32

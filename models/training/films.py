"""Labelled films for training: from a manifest or from one folder per class, PNG, JPEG or DICOM."""

from __future__ import annotations

import csv
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from transforms.errors import UsageError
from transforms.imaging.film import read_film
from transforms.imaging.network_input import Gray, network_input
from transforms.labels import LABELS

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})


class FilmsError(UsageError):
    """A data set cannot be used; the message lists everything wrong with it."""


@dataclass(frozen=True)
class Film:
    """One labelled film.

    Attributes:
        path: image or DICOM file.
        label: one of the body-part labels.
        split: train, val or test.
        source: where it comes from; sampling is balanced over it.
        group: patient or the nearest thing known; a group never spans splits.
        license: as the manifest says, or "".
    """

    path: Path
    label: str
    split: str
    source: str
    group: str
    license: str = ""


def read_films(data: Path) -> list[Film]:
    """Read a data set.

    Args:
        data: a CSV manifest with columns path, label and, where known, split, source, group; or a
            folder with one sub-folder per label. Films without a split are put in train, val or
            test (70, 15, 15 %) by a hash of their group; in a folder every file is its own group,
            so give a manifest where patients have several films.

    Raises:
        FilmsError: unknown labels or splits, missing files, or a group in two splits.
    """
    films = _from_manifest(data) if data.is_file() else _from_folders(data)
    if not films:
        raise FilmsError(f"{data}: no films found; give a manifest or a folder per label")
    problems = sorted({f"unknown label {f.label!r}" for f in films if f.label not in LABELS})
    problems += sorted({f"unknown split {f.split!r}" for f in films if f.split not in SPLITS})
    problems += [f"missing file {f.path}" for f in films if not f.path.is_file()][:10]
    split_of: dict[tuple[str, str], str] = {}
    for film in films:
        key = (film.source, film.group)
        if split_of.setdefault(key, film.split) != film.split:
            problems.append(f"group {film.group} of {film.source} stands in two splits")
    if problems:
        raise FilmsError(f"{data}: " + "; ".join(problems[:20]))
    return films


def load_grays(films: list[Film], long_side: int) -> list[npt.NDArray[np.uint8]]:
    """Load films to augment, as uint8[H, W] with a long side of at most `long_side` pixels."""

    def load(film: Film) -> npt.NDArray[np.uint8]:
        image = Image.fromarray(_to_uint8(load_film(film.path, long_side)))
        image.thumbnail((long_side, long_side), Image.Resampling.BILINEAR)
        return np.asarray(image)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(load, films))


def load_inputs(films: list[Film], size: int) -> npt.NDArray[np.uint8]:
    """Load films as serving sees them: uint8[N, 1, size, size]."""
    with ThreadPoolExecutor() as pool:
        return np.stack(
            list(pool.map(lambda f: network_input(load_film(f.path, size), size), films))
        )


def load_film(path: Path, long_side: int) -> Gray:
    """Load a film, dense tissue bright, with at least `long_side` pixels where it has as many.

    Returns:
        uint8[H, W] of an 8-bit PNG or JPEG, float32[H, W] of any other file.
    """
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return read_film(path.read_bytes(), long_side)
    with Image.open(path) as image:
        image.draft("L", (long_side, long_side))
        if image.mode.startswith("I"):
            return np.asarray(image, dtype=np.float32)
        return np.asarray(image.convert("L"))


def _to_uint8(gray: Gray) -> npt.NDArray[np.uint8]:
    if gray.dtype == np.uint8:
        return gray.astype(np.uint8, copy=False)
    values = gray.astype(np.float32)
    low, high = np.percentile(values, (0.1, 99.9))
    scaled = (values - low) * (255.0 / max(float(high - low), 1e-6))
    return np.asarray(np.clip(scaled, 0, 255).round(), dtype=np.uint8)


def _from_manifest(manifest: Path) -> list[Film]:
    with manifest.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    if rows and not {"path", "label"} <= set(rows[0]):
        raise FilmsError(f"{manifest}: the header must name at least path and label")
    return [
        _film(
            manifest.parent / row["path"],
            row["label"],
            row.get("source") or "data",
            row.get("group") or row["path"],
            row.get("split"),
            row.get("license") or "",
        )
        for row in rows
    ]


def _from_folders(root: Path) -> list[Film]:
    return [
        _film(path, folder.name, "data", path.relative_to(root).as_posix(), None)
        for folder in sorted(root.iterdir())
        if folder.is_dir()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def _film(
    path: Path, label: str, source: str, group: str, split: str | None, license_: str = ""
) -> Film:
    return Film(path, label, split or _hashed_split(source, group), source, group, license_)


def _hashed_split(source: str, group: str) -> str:
    digest = hashlib.sha256(f"{source}/{group}".encode()).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    return "train" if share < 0.70 else "val" if share < 0.85 else "test"

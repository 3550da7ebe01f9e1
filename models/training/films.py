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
            test (70, 15, 15 %) by a hash of their group.

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
    """Load films as uint8[H, W] with the long side at most `long_side` pixels, dense tissue bright."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda film: _load_gray(film.path, long_side), films))


def _load_gray(path: Path, long_side: int) -> npt.NDArray[np.uint8]:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        with Image.open(path) as image:
            image.draft("L", (long_side, long_side))
            gray: npt.NDArray[np.generic] = np.asarray(
                image.convert("F" if image.mode.startswith("I") else "L")
            )
    else:
        from transforms.imaging.film import read_film

        gray = read_film(path.read_bytes(), long_side).gray
    film = Image.fromarray(_to_uint8(gray))
    film.thumbnail((long_side, long_side), Image.Resampling.BILINEAR)
    return np.asarray(film)


def _to_uint8(gray: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
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

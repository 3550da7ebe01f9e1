"""Read a data set from a CSV manifest, from one folder per label, or from the answers in a lake."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from models.training.data.images import DatasetError, LabeledImage
from models.training.data.lake_images import answered_objects, is_lake
from transforms.core.choices import SPLITS
from transforms.core.labels import ABDOMINAL, ADULT_CHEST, LABELS, OTHERS, PEDIATRIC_CHEST
from transforms.imaging.age import is_plausible_age, parse_age_string

SPLIT_ALIASES: Final = {"valid": "val", "validation": "val"}
TRAIN_SHARE: Final = 0.70
TRAIN_AND_VAL_SHARE: Final = 0.85
VAL_SHARE_OF_TRAIN: Final = 0.15 / 0.85
"""Share of the train folder that becomes val where there is no val folder."""
LABEL_ALIASES: Final = {
    "abdomen": ABDOMINAL,
    "adult": ADULT_CHEST,
    "pediatric": PEDIATRIC_CHEST,
    "paediatric": PEDIATRIC_CHEST,
    "other": OTHERS,
}
"""Names accepted for labels, such as those of VinDr-BodyPartXR's folders (Pham, Do, Nguyen 2021)."""
MAX_LISTED_FILES: Final = 10
MAX_LISTED_PROBLEMS: Final = 20


def read_dataset(data: Path, labels: Sequence[str] | None = None) -> list[LabeledImage]:
    """Read a data set.

    Args:
        data: a CSV manifest with the columns path and label, and optionally split, source, group,
            license, age (years or a DICOM Age String) and region; or a folder with one sub-folder per
            label, alone or below train, test and optionally val. Labels and splits are matched without
            regard to case, and by aliases. Images without a split go to train, val or test (70, 15,
            15 %) by a hash of their group; without a val folder, val is taken from train. In a folder
            every file is its own group, so patients with several images need a manifest. Hidden files
            are ignored. Or a lake, whose name is the source: the objects whose body part reviewers have
            named, in groups by `patient_key`, or by study where that is unknown.
        labels: that the images may have, such as those of a bundle; None for any.

    Raises:
        DatasetError: Unknown labels or splits, missing files, a group in two splits, not a CSV file in
            UTF-8, or a lake without such answers, or whose objects are not local files.
        DamagedFile: A file of a lake cannot be read.
    """
    if not data.exists():
        raise DatasetError(f"{data}: no such file or folder; give a manifest or a folder per label")
    if is_lake(data):
        return _read_lake(data, labels)
    images = _read_manifest(data) if data.is_file() else _read_folders(data)
    if not images:
        raise DatasetError(f"{data}: no images found; give a manifest or a folder per label")
    found = {image.label for image in images}
    problems = ["an image has no label"] if "" in found else []
    unknown = sorted(found - {*labels, ""}) if labels is not None else []
    problems += [f"unknown label {label!r}" for label in unknown]
    if labels is not None and unknown:
        problems.append(f"known labels are {', '.join(labels)}")
    problems += sorted({f"unknown split {i.split!r}" for i in images if i.split not in SPLITS})
    problems += [f"missing file {i.path}" for i in images if not i.path.is_file()][
        :MAX_LISTED_FILES
    ]
    problems += _groups_in_two_splits(images)
    if problems:
        raise DatasetError(f"{data}: " + "; ".join(problems[:MAX_LISTED_PROBLEMS]))
    return images


def select_split(images: Sequence[LabeledImage], split: str) -> list[LabeledImage]:
    """Return the images of a split.

    Raises:
        DatasetError: The split is empty.
    """
    selected = [image for image in images if image.split == split]
    if not selected:
        raise DatasetError(f"the data set has no images in split {split!r}")
    return selected


def _groups_in_two_splits(images: Sequence[LabeledImage]) -> list[str]:
    """Return problems; groups are counted and not named, because they can be patients."""
    splits: dict[tuple[str, str], str] = {}
    groups: set[tuple[str, str]] = set()
    for image in images:
        key = (image.source, image.group)
        if splits.setdefault(key, image.split) != image.split:
            groups.add(key)
    return [
        f"{number} groups of {source} are in two splits"
        for source, number in sorted(Counter(source for source, _ in groups).items())
    ]


def _read_manifest(manifest: Path) -> list[LabeledImage]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as stream:  # spreadsheets write a BOM
            reader = csv.DictReader(stream)
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            rows = [row for row in reader if any(row.values())]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{manifest}: not a CSV file in UTF-8 ({error})") from error
    if rows and not {"path", "label"} <= set(rows[0]):
        raise DatasetError(f"{manifest}: the header must have the columns path and label")
    return [
        replace(
            _labeled_image(
                manifest.parent / (row["path"] or ""),
                _label_name(row["label"] or ""),
                row.get("source") or "data",
                row.get("group") or row["path"],
                _resolve_alias(row.get("split") or "", SPLIT_ALIASES),
            ),
            license=row.get("license") or "",
            age_years=_parse_age_years(row.get("age") or ""),
            region=row.get("region") or "",
        )
        for row in rows
    ]


def _read_lake(root: Path, labels: Sequence[str] | None) -> list[LabeledImage]:
    images, problems, source = [], [], root.resolve().name
    for one in answered_objects(root):
        if labels is not None and one.label not in labels:
            continue
        if one.path is None or not one.path.is_file():
            problems.append(f"object {one.object_key} is not a local file that exists")
        else:
            image = _labeled_image(one.path, one.label, source, one.group, None)
            images.append(replace(image, age_years=one.age_years))
    if problems:
        raise DatasetError(f"{root}: " + "; ".join(problems[:MAX_LISTED_FILES]))
    if not images:
        raise DatasetError(
            f"{root}: no reviewer has named a body part yet; start dicom-router review {root}"
        )
    return images


def _read_folders(root: Path) -> list[LabeledImage]:
    folders = [path for path in sorted(root.iterdir()) if path.is_dir()]
    named = {path: _resolve_alias(path.name, SPLIT_ALIASES) for path in folders}
    splits = {path: split for path, split in named.items() if split in SPLITS}
    if not splits:
        return list(_read_label_folders(root, root, None))
    if mixed := [p.name for p in folders if _label_name(p.name) in LABELS]:
        raise DatasetError(
            f"{root}: has both folders of labels ({', '.join(mixed)}) and of splits "
            f"({', '.join(splits.values())}); move the labels into splits"
        )
    images = [
        image for path, split in splits.items() for image in _read_label_folders(root, path, split)
    ]
    if "val" in splits.values():
        return images
    return [
        replace(image, split="val")
        if image.split == "train" and _hash_share(image.source, image.group) < VAL_SHARE_OF_TRAIN
        else image
        for image in images
    ]


def _read_label_folders(root: Path, parent: Path, split: str | None) -> Iterator[LabeledImage]:
    for path in sorted(path for path in parent.glob("*/**/*") if path.is_file()):
        folder, *parts = path.relative_to(parent).parts
        if not any(part.startswith(".") for part in (folder, *parts)):
            label = _label_name(folder)
            group = path.relative_to(root).as_posix()
            yield _labeled_image(path, label, "data", group, split)


def _label_name(text: str) -> str:
    """Return the label that a folder or a cell of a manifest names."""
    name = re.sub(r"[\s-]+", "_", text.strip().lower())
    return LABEL_ALIASES.get(name, name)


def _resolve_alias(name: str, aliases: Mapping[str, str]) -> str:
    name = name.strip().lower()
    return aliases.get(name, name)


def _labeled_image(
    path: Path, label: str, source: str, group: str, split: str | None
) -> LabeledImage:
    return LabeledImage(path, label, split or _hashed_split(source, group), source, group)


def _parse_age_years(text: str) -> float | None:
    """Return years for 42, 42.5, 042Y, 42Y or 006M; None for anything else, such as a range."""
    years = parse_age_string(text)
    if years is None:
        try:
            years = float(text)
        except ValueError:
            return None
    return years if is_plausible_age(years) else None


def _hashed_split(source: str, group: str) -> str:
    share = _hash_share(source, group)
    return "train" if share < TRAIN_SHARE else "val" if share < TRAIN_AND_VAL_SHARE else "test"


def _hash_share(source: str, group: str) -> float:
    """Return a number in 0..1 that depends on the group alone."""
    digest = hashlib.sha256(f"{source}/{group}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32

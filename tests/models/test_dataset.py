"""A data set is read from a manifest or folders, or refused with all its problems."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.training.data.dataset import read_dataset
from models.training.data.derived_images import derive_images
from models.training.data.images import DatasetError, LabeledImage, age_of, load_image
from models.training.options import FitOptions
from tests.synthetic import dicom_bytes, image
from transforms.core.labels import LABELS


def test_every_problem_of_a_manifest_is_listed(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    manifest.write_text(
        "path,label,split,source,group\n"
        "a.png,hand,train,s,1\n"
        "a.png,spine,later,s,2\n"
        "b.png,spine,train,s,3\n"
        "a.png,spine,val,s,3\n"
    )
    with pytest.raises(DatasetError) as caught:
        read_dataset(manifest, LABELS)
    for part in ("'hand'", "'later'", "b.png", "1 groups of s are in two splits"):
        assert part in str(caught.value)


def test_a_group_never_spans_splits(folders: Path) -> None:
    images = read_dataset(folders)
    assert {f.split for f in images} == {"train", "val", "test"}
    assert read_dataset(folders) == images


def test_ages_come_from_the_manifest_or_the_header(tmp_path: Path) -> None:
    (tmp_path / "aged.dcm").write_bytes(dicom_bytes(image(1), PatientAge="006M"))
    (tmp_path / "bare.dcm").write_bytes(dicom_bytes(image(1), PatientAge=None))
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    expected = {
        "42": 42.0, "7.5": 7.5, "042Y": 42.0, "85y": 85.0, "018M": 1.5, "1-5y": None, "child": None,
        "": None, "000Y": None, "Y": None, "999Y": None, "-3": None, "0": None, "nan": None, "4200": None,
    }  # fmt: skip
    lines = [f"a.png,spine,{age}" for age in expected]
    (tmp_path / "anonymised.dcm").write_bytes(dicom_bytes(image(1), PatientAge="000Y"))
    lines += ["aged.dcm,spine,", "aged.dcm,spine,30", "bare.dcm,spine,", "anonymised.dcm,spine,"]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,label,age", *lines]))
    ages = [age_of(one) for one in read_dataset(tmp_path / "manifest.csv")]
    assert ages == [*expected.values(), 0.5, 30.0, None, None]


def test_manifests_written_by_spreadsheets_are_read(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        "Path,label,Split\na.png,Spine,Train\n,,\nb.png,Adult,validation\n", encoding="utf-8-sig"
    )
    images = read_dataset(manifest)
    assert [image.label for image in images] == ["spine", "adult_chest"]
    assert [image.split for image in images] == ["train", "val"]
    manifest.write_bytes("path,label\nMüller.png,spine\n".encode("cp1252"))
    with pytest.raises(DatasetError, match=r"manifest.csv: not a CSV file in UTF-8"):
        read_dataset(manifest)
    manifest.write_text("path,label\na.png\n")
    with pytest.raises(DatasetError, match=r"an image has no label"):
        read_dataset(manifest)


def test_a_folder_named_valid_is_the_val_split(tmp_path: Path) -> None:
    for split in ("Train", "valid", "test"):
        (tmp_path / split / "spine").mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / split / "spine" / "a.png")
    assert sorted(image.split for image in read_dataset(tmp_path)) == ["test", "train", "val"]
    (tmp_path / "Others").mkdir()
    with pytest.raises(DatasetError, match=r"has both folders of labels \(Others\) and of splits"):
        read_dataset(tmp_path)


def test_hidden_files_are_ignored_and_unreadable_ones_named(tmp_path: Path) -> None:
    (tmp_path / "spine").mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x").write_bytes(b"x")
    (tmp_path / "spine" / ".checkpoints").mkdir()
    (tmp_path / "spine" / ".checkpoints" / "a.png").write_bytes(b"x")
    (tmp_path / "spine" / ".DS_Store").write_bytes(b"x")
    Image.new("L", (8, 8)).save(tmp_path / "spine" / "a.PNG")
    (one,) = read_dataset(tmp_path)
    assert load_image(one.path, 8).shape == (8, 8)
    for name, data in (
        ("Thumbs.db", b"x"),
        ("cut.png", one.path.read_bytes()[:40]),
        ("cut.dcm", b""),
    ):
        path = tmp_path / "spine" / name
        path.write_bytes(data)
        with pytest.raises(DatasetError, match=rf"{name}: not a readable .* remove it"):
            load_image(path, 8)


def test_bit_depth_and_polarity_do_not_matter(tmp_path: Path) -> None:
    pixels = image(3, (60, 40))
    Image.fromarray(pixels.astype(np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "two.dcm").write_bytes(dicom_bytes(pixels))
    inverted = dicom_bytes(
        (4095 - pixels).astype(np.uint16), PhotometricInterpretation="MONOCHROME1"
    )
    (tmp_path / "one.dcm").write_bytes(inverted)
    images = [
        LabeledImage(tmp_path / name, "spine", "train", "s", name)
        for name in ("deep.png", "two.dcm", "one.dcm")
    ]
    deep, two, one = (gray.astype(int) for _, gray in derive_images(images, FitOptions(), 60))
    assert deep.shape == two.shape == one.shape == (60, 40)
    assert deep.std() > 20
    assert abs(deep - two).max() <= 2
    assert abs(one - two).max() <= 2


def test_a_missing_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.csv: no such file or folder; give a manifest"):
        read_dataset(tmp_path / "none.csv")

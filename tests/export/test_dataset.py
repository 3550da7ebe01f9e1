"""Exported images are a data set that others can read, and say no more than they may."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import mlcroissant
import pyarrow.parquet as pq
import pydicom
import pytest
import webdataset
from PIL import Image

from models.training.data.dataset import read_dataset
from models.training.data.images import load_inputs
from tests.conftest import Lake
from tests.export.conftest import CANARIES, Export, files_of


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def routed(lake: Lake) -> list[dict[str, Any]]:
    return [row for row in lake.rows() if row["status"] == "routed"]


def test_a_folder_has_each_routed_image_once_with_checksums(
    export: Export, exported_lake: Lake
) -> None:
    out = export()
    rows = rows_of(out)
    assert len(rows) == len(routed(exported_lake)) == 10
    assert {row["object_key"] for row in rows} == {r["object_key"] for r in routed(exported_lake)}
    for row in rows:
        data = (out / row["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert len(data) == int(row["size_bytes"])
        assert row["path"].startswith(f"{row['split']}/{row['label']}/")
        with Image.open(io.BytesIO(data)) as shown:
            assert max(shown.size) == 512 and shown.mode == "L"
        with Image.open(out / row["thumbnail"]) as thumbnail:
            assert thumbnail.format == "WEBP"
    sums = dict(line.split("  ")[::-1] for line in (out / "SHA256SUMS").read_text().splitlines())
    described = {"export.json", "summary.json", "croissant.json", "SHA256SUMS"}
    assert sums.keys() == files_of(out).keys() - described
    for name, sha256 in sums.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == sha256


def test_no_patient_is_in_two_splits(export: Export, exported_lake: Lake) -> None:
    out = export("--shares", "0.4", "0.3", "0.3", "--split_key", "k")
    patients = {row["object_key"]: row["patient_key"] for row in routed(exported_lake)}
    by_patient: dict[str, set[tuple[str, str]]] = {}
    for row in rows_of(out):
        by_patient.setdefault(patients[row["object_key"]], set()).add((row["split"], row["group"]))
    assert len(by_patient) == 3
    assert all(len(found) == 1 for found in by_patient.values())
    assert len({group for found in by_patient.values() for _, group in found}) == 3


@pytest.mark.parametrize("to", ["folder", "webdataset"])
def test_nothing_that_identifies_a_patient_leaves_the_lake(
    export: Export, exported_lake: Lake, to: str
) -> None:
    files = files_of(export("--to", to))
    everything = "\n".join(files).encode() + b"".join(files.values())
    for row in routed(exported_lake):
        for column in ("patient_key", "source_uri", "content_sha256", "object_uri"):
            assert row[column].encode() not in everything
        for column in ("study_instance_uid", "sop_instance_uid"):
            assert row[column].encode() not in everything
    assert not [canary for canary in CANARIES if canary.encode() in everything]


def test_ages_above_89_are_one(export: Export) -> None:
    assert {row["age"] for row in rows_of(export())} == {"50.0", "90.0"}


def test_identifiers_are_exported_if_asked_for(export: Export, exported_lake: Lake) -> None:
    out = export("--identifiers", "uids", "patient_key", "source_uri")
    found = {row["sop_instance_uid"]: row for row in rows_of(out)}
    for row in routed(exported_lake):
        for column in ("patient_key", "source_uri", "content_sha256", "study_instance_uid"):
            assert found[row["sop_instance_uid"]][column] == row[column]
    assert "95.0" in {row["age"] for row in found.values()}


def test_objects_leave_only_if_asked_for(
    export: Export, exported_lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    export("--images", "dicom", expect=2)
    assert "add --identifiers objects" in capsys.readouterr().err
    out = export("--images", "dicom", "--identifiers", "objects")
    expected = {row["content_sha256"] for row in routed(exported_lake)}
    assert {row["sha256"] for row in rows_of(out)} == expected
    for row in rows_of(out):
        assert pydicom.dcmread(out / row["path"]).PatientName == "SECRET^NAME"


def test_a_condition_selects(export: Export, exported_lake: Lake) -> None:
    key = routed(exported_lake)[0]["object_key"]
    (row,) = rows_of(export("--where", f"object_key = '{key}'"))
    assert row["object_key"] == key


def test_an_image_in_review_has_no_label(export: Export) -> None:
    (row,) = rows_of(export("--status", "review"))
    assert row["label"] == "" and "/review/" in row["path"]


def test_train_reads_the_folder_and_its_manifest(export: Export) -> None:
    out = export("--shares", "0.5", "0.5", "0", "--split_key", "2")
    assert {row["split"] for row in rows_of(out)} == {"train", "val"}
    from_manifest = read_dataset(out / "manifest.csv")
    from_folder = read_dataset(out)
    rows = {out / row["path"]: row for row in rows_of(out)}
    assert {one.path for one in from_folder} == {one.path for one in from_manifest} == set(rows)
    for one in (*from_manifest, *from_folder):
        assert (one.label, one.split) == (rows[one.path]["label"], rows[one.path]["split"])
    for one in from_manifest:
        assert one.group == rows[one.path]["group"] and one.source == "lake-export"
        assert one.age_years in (50, 90)
    assert load_inputs(from_manifest, 128).shape == (10, 1, 128, 128)


@pytest.mark.filterwarnings("ignore")  # of webdataset
def test_shards_are_read_by_webdataset(export: Export, exported_lake: Lake) -> None:
    out = export("--to", "webdataset", "--shard_rows", "3", "--size", "64", "--manifest", "parquet")
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    shards = sorted((out / "shards").iterdir())
    assert {str(out / row["path"]) for row in rows} == set(map(str, shards))
    assert len(shards) >= 4
    images = webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False)
    samples = {sample["__key__"]: sample for sample in images}
    assert len(samples) == len(rows) == len(routed(exported_lake))
    for row in rows:
        sample = samples[row["member"].removesuffix(".png")]
        assert hashlib.sha256(sample["png"]).hexdigest() == row["sha256"]
        values = json.loads(sample["json"])
        assert (values["label"], values["split"]) == (row["label"], row["split"])
        assert values["confidence"] == pytest.approx(row["confidence"])
        assert sample["thumbnail.webp"]


@pytest.mark.filterwarnings("ignore")  # of mlcroissant
@pytest.mark.parametrize("options", [(), ("--to", "webdataset", "--manifest", "parquet")])
def test_the_metadata_is_valid_croissant(export: Export, options: tuple[str, ...]) -> None:
    out = export(*options, "--name", "night", "--license", "CC0-1.0")
    dataset = mlcroissant.Dataset(out / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    assert dataset.metadata.name == "night"
    records = list(dataset.records("images"))
    assert len(records) == 10
    assert {record["images/label"] for record in records} <= {b"spine", b"others", b"abdominal",
        b"adult_chest", b"pediatric_chest"}  # fmt: skip


def test_the_same_options_give_the_same_bytes(export: Export) -> None:
    for to in ("folder", "webdataset"):
        first = files_of(export("--to", to, "--threads", "1", name=f"{to} 1"))
        second = files_of(export("--to", to, "--threads", "2", name=f"{to} 2"))
        assert first == second


def test_a_spreadsheet_runs_no_text_of_a_header(export: Export) -> None:
    assert {row["manufacturer"] for row in rows_of(export())} == {"'=cmd|ACME"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shares", "0.5", "0.5"), "--shares: give 3 shares"),
        (("--size", "1"), "--size must be in"),
        (("--name", "a/b"), "--name: write letters"),
        (("--to", "fhir"), "add --identifiers uids"),
        (("--where", "nothing = 1"), "--where: "),
        (("--persons", "p.csv"), "need --to omop"),
    ],
)
def test_a_wrong_option_is_reported(
    export: Export, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    out = export(*options, expect=2)
    assert message in capsys.readouterr().err
    assert not out.exists()

"""Whole runs: real files in, objects, index and summary read with ordinary readers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import polars
import pyarrow.parquet as pq
import pydicom
import pydicom.data
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

import transforms.append_index_batch
import transforms.shuffle_batching
from pipeline.cli import main
from tests.conftest import Lake, Route, counts, write
from tests.synthetic import dataset, dicom_bytes, image, to_bytes
from transforms.core.choices import COPY, PLACEMENTS
from transforms.core.labels import ADULT_CHEST, LABELS, OTHERS
from transforms.lake.existing_rows import ExistingRow
from transforms.lake.resolve_duplicates import Resolution, resolve_all
from transforms.lake.schema import COLUMNS, IndexRow


def data_file(name: str) -> Path:
    return Path(str(pydicom.data.get_testdata_file(name)))


def test_every_status_in_one_run_and_its_rerun(route: Route, lake: Lake, source: Path) -> None:
    image_bytes = dicom_bytes(image(1), name="1")
    write(source, "a.dcm", image_bytes)
    write(source, "sub/b.dcm", image_bytes)  # the same bytes
    write(source, "c.dcm", dicom_bytes(image(2), name="2"))
    write(source, "d.dcm", dicom_bytes(image(3), name="2"))  # other bytes, same UIDs
    write(source, "ct.dcm", dicom_bytes(image(4), name="4", SOPClassUID=CTImageStorage))
    write(source, "cut.dcm", image_bytes[:4000])
    write(source, "empty.dcm", b"")
    write(source, "notes.txt", b"no DICOM")
    write(source, "hostile.dcm", dicom_bytes(name="5", SOPInstanceUID="../../../../tmp/x"))

    summary = route()

    assert summary["complete"]
    assert summary["counts"]["discovered"] == 9
    got = counts(summary)
    assert got.pop("routed", 0) + got.pop("review", 0) == 3
    assert got == {"duplicate": 1, "not_xray": 1, "quarantined": 4}
    rows = {Path(r["source_uri"]).name: r for r in lake.rows()}
    assert {
        name: rows[name]["reason"] for name in rows if rows[name]["status"] == "quarantined"
    } == {
        "cut.dcm": "truncated",
        "empty.dcm": "empty",
        "notes.txt": "not_dicom",
        "hostile.dcm": "invalid_uid",
    }
    assert rows["b.dcm"]["status"] == "duplicate"
    assert rows["b.dcm"]["object_uri"] == rows["a.dcm"]["object_uri"]
    assert [rows[n]["conflict"] for n in ("a.dcm", "b.dcm", "c.dcm", "d.dcm")] == [
        False, False, True, True,
    ]  # fmt: skip
    for name, row in rows.items():
        stored = lake.path(row)
        original = Path(row["source_uri"]).read_bytes()
        assert stored.read_bytes() == original, name
        assert row["content_sha256"] == hashlib.sha256(original).hexdigest()
        assert row["object_key"] == hashlib.sha256(row["source_uri"].encode()).hexdigest()[:12]
        if row["status"] != "quarantined":
            assert pydicom.dcmread(stored).SOPInstanceUID == row["sop_instance_uid"]

    before = lake.tree()
    again = route()
    assert counts(again) == {"unchanged": 9}
    assert lake.tree() == before

    write(source, "later.dcm", image_bytes)
    third = route()
    assert counts(third) == {"unchanged": 9, "duplicate": 1}
    assert {path: sha for path, sha in lake.tree().items() if path in before} == before
    assert main(["verify", str(lake.root), "--deep"]) == 0


def test_real_images_are_routed_in_every_encoding(route: Route, lake: Lake, source: Path) -> None:
    for stem in ("RG1", "RG3"):
        for code in ("UNCR", "UNCI", "J2KR", "J2KI"):
            shutil.copy(data_file(f"{stem}_{code}.dcm"), source)
    chest = pydicom.dcmread(data_file("RG1_UNCR.dcm"))
    for syntax in (RLELossless, JPEGLSLossless):
        chest.decompress() if chest.file_meta.TransferSyntaxUID.is_compressed else None
        chest.compress(syntax, generate_instance_uid=False)
        chest.save_as(source / f"RG1_{syntax.name[:4]}.dcm")
    summary = route()
    assert counts(summary) == {"routed": 10}
    by_stem: dict[str, list[dict[str, Any]]] = {"RG1": [], "RG3": []}
    for row in lake.rows():
        by_stem[Path(row["source_uri"]).name[:3]].append(row)
    for stem, label in (("RG1", ADULT_CHEST), ("RG3", OTHERS)):
        rows = by_stem[stem]
        assert {row["destination"] for row in rows} == {label}
        chances = [row[f"prob_{label}"] for row in rows]
        assert max(chances) - min(chances) < 0.05
        assert all(row["header_agrees"] for row in rows)
    assert {row["transfer_syntax_uid"] for row in by_stem["RG1"]} >= {JPEG2000Lossless}


def test_the_index_is_what_the_contract_says(route: Route, lake: Lake, source: Path) -> None:
    write(source, "a.dcm", dicom_bytes(PatientAge="041Y", BodyPartExamined="CHEST"))
    write(source, "b.txt", b"no DICOM")
    summary = route("--ingest_date", "2026-02-28")
    (row, broken) = lake.rows()
    assert list(row) and set(row) == set(COLUMNS)
    assert row["ingest_date"] == "2026-02-28"
    assert row["run_id"] == summary["run_id"]
    assert sum(row[f"prob_{label}"] for label in LABELS) == pytest.approx(1, abs=1e-4)
    assert row["model_id"] == summary["model_id"]
    assert broken["model_id"] is None
    assert broken["sop_instance_uid"] is None
    for path in lake.root.glob("index/**/*.parquet"):
        for field in pq.read_schema(path):
            assert field.metadata[b"description"]
    pattern = f"{lake.root}/index/**/*.parquet"
    by_duckdb = dict(
        duckdb.sql(f"select destination, count(*) from '{pattern}' group by 1").fetchall()
    )
    by_pandas = pandas.read_parquet(lake.root / "index")["destination"].value_counts().to_dict()
    by_polars = dict(
        polars.read_parquet(pattern, hive_partitioning=True)["destination"].value_counts().rows()
    )
    assert by_duckdb == by_pandas == by_polars == dict(Counter([row["destination"], "quarantine"]))


@pytest.mark.slow
def test_inputs_may_be_files_folders_and_globs_with_odd_names(
    route: Route, lake: Lake, source: Path
) -> None:
    names = ["a[1].dcm", "new\nline.dcm", "'quote\".dcm", "-dash.dcm", "star*.dcm", ".hidden"]
    for number, name in enumerate(names):
        write(source / "odd", name, dicom_bytes(image(number, (96, 64)), name=f"9.{number}"))
    undecodable = os.fsdecode(os.fsencode(source / "odd") + b"/caf\xe9.dcm")
    Path(undecodable).write_bytes(b"no DICOM")
    write(source, "other.bin", b"not matched")
    (source / "odd" / "dangling").symlink_to(source / "nowhere")
    os.mkfifo(source / "odd" / "pipe")
    summary = route(
        inputs=(str(source / "odd"), str(source / "odd" / "a[1].dcm"), str(source / "**" / "star*"))
    )
    assert summary["counts"]["discovered"] == len(names) + 1
    uris = {r["source_uri"] for r in lake.rows()}
    assert {str(source / "odd" / name) for name in names} < uris
    assert any(uri.startswith("file://") and uri.endswith("caf%E9.dcm") for uri in uris)
    assert counts(route(inputs=(str(source / "odd"),))) == {"unchanged": len(names) + 1}


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["{source}", "{source}/**", "{alias}", "{source}/lake/**"])
def test_a_lake_is_not_routed_into_itself(
    route: Route, source: Path, lake: Lake, pattern: str
) -> None:
    write(source, "a.dcm", dicom_bytes())
    alias = lake.root.parent / "alias"
    alias.symlink_to(source)
    inside = ("--lake", str(source / "lake"), "--allow_empty")
    route(*inside)
    before = Lake(source / "lake").tree()
    again = route(*inside, inputs=(pattern.format(source=source, alias=alias),))
    assert again["counts"]["discovered"] == (0 if "lake" in pattern else 1)
    assert all(Lake(source / "lake").tree()[path] == sha for path, sha in before.items())


@pytest.mark.slow
def test_a_lake_may_be_a_file_uri(route: Route, source: Path, tmp_path: Path) -> None:
    path = write(source, "a.dcm", dicom_bytes())
    route("--lake", f"file://{tmp_path}/by%20uri", inputs=(f"file://{path}",))
    (stored,) = (tmp_path / "by uri").glob("objects/**/*.dcm")
    assert stored.read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_a_second_run_waits_for_the_first(lake: Lake, source: Path) -> None:
    """Two runs at once over the same input end as one after the other would."""
    for number in range(6):
        data = dicom_bytes(image(number, (96, 64)), name=str(number))
        write(source, f"{number}.dcm", data)
    command = [sys.executable, "-m", "pipeline", "route", "--input", str(source), "--lake"]
    runs = [
        subprocess.Popen([*command, str(lake.root), "--json"], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    summaries = [json.loads(run.communicate()[0]) for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sorted(s["counts"]["unchanged"] for s in summaries) == [0, 6]
    assert len(lake.rows()) == 6
    assert main(["verify", str(lake.root), "--deep"]) == 0


@pytest.mark.slow
def test_hard_links_and_index_only(route: Route, lake: Lake, source: Path) -> None:
    path = write(source, "a.dcm", dicom_bytes())
    twin = write(source, "b.dcm", path.read_bytes())
    route("--placement", "link")
    linked = lake.path(lake.row(path)).stat().st_ino  # whichever came first
    assert linked in (path.stat().st_ino, twin.stat().st_ino)
    shutil.rmtree(lake.root)
    route("--placement", "index_only")
    assert lake.row(path)["object_uri"] == lake.row(twin)["object_uri"] == str(path)
    assert not (lake.root / "objects").exists()
    assert twin.exists()
    assert main(["verify", str(lake.root), "--deep"]) == 0


@pytest.mark.slow
def test_a_policy_moves_sinks_and_thresholds(
    route: Route, lake: Lake, source: Path, tmp_path: Path
) -> None:
    path = write(source, "a.dcm", dicom_bytes())
    policy = tmp_path / "policy.yaml"
    thresholds = ", ".join(f"{label}: 1.0" for label in LABELS)
    policy.write_text(
        f"thresholds: {{{thresholds}}}\nood_threshold: 1000\n"
        f"sinks: {{review: {tmp_path / 'second'}}}\n"
    )
    route("--policy", str(policy))
    row = lake.row(path)
    assert (row["status"], row["reason"]) == ("review", "low_confidence")
    assert Path(row["object_uri"]).is_relative_to(tmp_path / "second" / "objects")
    assert main(["verify", str(lake.root), "--deep", "--policy", str(policy)]) == 0


def test_patient_data_stays_out_of_everything_but_the_source_uri(
    lake: Lake, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    marker = "XQZ7MARKER"
    elements = {
        keyword: f"{marker}^{number}"
        for number, keyword in enumerate(
            "PatientName PatientID PatientAddress OtherPatientIDs ReferringPhysicianName "
            "PatientComments StudyDescription SeriesDescription InstitutionName AccessionNumber "
            "OperatorsName ImageComments PatientMotherBirthName PatientBirthName OtherPatientNames "
            "PatientTelephoneNumbers MilitaryRank EthnicGroup Occupation AdditionalPatientHistory "
            "RequestingPhysician RequestedProcedureDescription PerformedProcedureStepDescription "
            "StationName InstitutionAddress InstitutionalDepartmentName DeviceSerialNumber "
            "ProtocolName StudyID".split()
        )
    }
    elements["BodyPartExamined"] = f"{marker} AND WORDS"
    born, studied = "19710317", "20251224"
    ds = dataset(image(1), name="1", **elements, PatientBirthDate=born, StudyDate=studied)
    other = Dataset()
    other.PatientID, other.IssuerOfPatientID = f"{marker}-OTHER", f"{marker}-ISSUER"
    ds.OtherPatientIDsSequence = Sequence([other])
    ds.private_block(0x0011, f"{marker} CREATOR", create=True).add_new(1, "LO", f"{marker} PRIVATE")
    write(source, f"{marker}^JOHN.dcm", to_bytes(ds))
    write(source, f"{marker}-cut.dcm", to_bytes(ds)[:3000])
    write(source, f"{marker}-no.txt", marker.encode())
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    code = main(
        ["route", "--input", str(source), "--lake", str(lake.root), "--patient_key_file", str(key)]
    )
    captured = capfd.readouterr()
    assert code == 0
    assert main(["verify", str(lake.root)]) == 0
    captured_verify = capfd.readouterr()
    for text in (*captured, *captured_verify):
        assert marker not in text
    for row in lake.rows():
        source_uri = row.pop("source_uri")
        assert marker in source_uri
        shown = str(row).lower()
        assert not any(secret in shown for secret in (marker.lower(), born, studied))
        assert not any(f"{d[:4]}-{d[4:6]}-{d[6:]}" in shown for d in (born, studied))
    for path in lake.root.rglob("*"):
        assert marker not in str(path.relative_to(lake.root))
        if path.suffix == ".json":
            assert marker not in path.read_text()
    (named,) = [row for row in lake.rows() if row["patient_key"]]
    assert len(named["patient_key"]) == 64
    assert named["patient_age_years"] == 54


@pytest.mark.slow
def test_the_patient_key_depends_on_the_key_alone(
    route: Route, lake: Lake, source: Path, tmp_path: Path
) -> None:
    write(source, "a.dcm", dicom_bytes(image(1), name="1", PatientID="42"))
    write(source, "b.dcm", dicom_bytes(image(2), name="2", PatientID="42"))
    write(source, "c.dcm", dicom_bytes(image(3), name="3", PatientID="43"))
    keys = []
    for secret in (b"k" * 16, b"l" * 16):
        shutil.rmtree(lake.root, ignore_errors=True)
        (tmp_path / "key").write_bytes(secret + b"\n")
        route("--patient_key_file", str(tmp_path / "key"))
        keys.append([row["patient_key"] for row in lake.rows()])
    assert keys[0][0] == keys[0][1] != keys[0][2]
    assert keys[0] != keys[1]


@pytest.mark.slow
def test_the_frame_asked_for_is_classified(route: Route, lake: Lake, source: Path) -> None:
    frames = np.stack([image(1), image(8)])
    path = write(source, "two.dcm", dicom_bytes(frames))
    chances = []
    for frame in ("1", "2"):
        shutil.rmtree(lake.root, ignore_errors=True)
        route("--frame", frame)
        row = lake.row(path)
        assert row["number_of_frames"] == 2
        chances.append([row[f"prob_{label}"] for label in LABELS])
    assert chances[0] != chances[1]


@pytest.mark.slow
def test_a_shard_resolved_in_parts_equals_one_resolved_at_once(
    route: Route, lake: Lake, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        data = dicom_bytes(image(number, (128, 96)), name=str(number))
        (source / f"{number}.dcm").write_bytes(data)
        if number % 2:
            (source / f"twin of {number}.dcm").write_bytes(data)
    (source / "conflict.dcm").write_bytes(dicom_bytes(image(9, (128, 96)), name="0"))
    parts: list[int] = []

    def resolve(rows: list[IndexRow], existing: list[ExistingRow]) -> Resolution:
        parts.append(len(rows))
        return resolve_all(rows, existing)

    monkeypatch.setattr(transforms.append_index_batch, "resolve_all", resolve)
    whole = route("--index_shards", "1", "--lake", str(tmp_path / "whole"))
    assert parts == [10]
    monkeypatch.setattr(transforms.append_index_batch, "PART_ROWS", 2)
    for module in (transforms.append_index_batch, transforms.shuffle_batching):
        monkeypatch.setattr(module, "SHUFFLE_BATCH", 2)
    parted = route("--index_shards", "1")
    assert sum(parts[1:]) == 10 and len(parts) > 3
    assert parted["counts"] == whole["counts"] and whole["counts"]["duplicate"] == 3

    def rows_of(of: Path) -> list[dict[str, Any]]:
        (index,) = of.glob("index/*/*.parquet")
        own = ["run_id", "ingested_at", "decided_at"]
        rows: list[dict[str, Any]] = pq.read_table(index).drop_columns(own).to_pylist()
        return rows

    assert rows_of(lake.root) == rows_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("syntax", "placement"),
    [
        *((ExplicitVRLittleEndian, placement) for placement in PLACEMENTS),
        (DeflatedExplicitVRLittleEndian, COPY),
    ],
)
def test_the_header_of_an_object_over_the_size_limit_can_decide(
    route: Route, lake: Lake, source: Path, syntax: str, placement: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (1600, 1600)).astype(np.uint16)
    ct = write(
        source, "ct.dcm", dicom_bytes(pixels, name="1", SOPClassUID=CTImageStorage, syntax=syntax)
    )
    write(source, "dx.dcm", dicom_bytes(pixels, name="2", syntax=syntax))
    (source / "holes.dcm").write_bytes(ct.read_bytes()[:1000])
    os.truncate(source / "holes.dcm", 1 << 26)
    os.truncate(write(source, "zeros.dcm", b""), 1 << 26)
    route("--max_object_bytes", "100000", "--placement", placement)
    found = {path.name: lake.row(path)["reason"] for path in source.iterdir()}
    assert found == {
        "ct.dcm": "sop_class",
        "dx.dcm": "too_large",
        "holes.dcm": "sop_class",
        "zeros.dcm": "too_large",
    }
    row = lake.row(ct)
    assert (row["status"], row["sop_class_uid"]) == ("not_xray", CTImageStorage)
    assert main(["verify", str(lake.root), "--deep"]) == 0
    assert lake.path(row).read_bytes() == ct.read_bytes()

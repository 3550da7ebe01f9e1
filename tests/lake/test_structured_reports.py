"""Structured reports: valid, about the image and its decision, and in step with the index."""

from __future__ import annotations

import datetime
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom.sr
import pydicom
import pytest
from pydicom.sr.codedict import codes

from pipeline.cli import main
from pipeline.structured_reports import write_reports
from tests.conformance import violations
from tests.conftest import Lake, route_into
from tests.lake.conftest import LENIENT
from tests.stores import Store
from tests.synthetic import dicom_bytes, image
from transforms.imaging.structured_report import (
    SCHEME,
    ReportedDecision,
    ReportError,
    build_report,
)
from transforms.lake.apply_labels import apply_labels
from transforms.lake.index_files import list_index, read_table
from transforms.lake.labels import append_label, new_label
from transforms.lake.layout import Layout, partition_of
from transforms.lake.orphans import remove_orphans
from transforms.lake.schema import IndexRow, from_table
from transforms.lake.structured_reports import has_reports, list_reports
from transforms.lake.verify import verify_lake

HEADER = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
    "SOPInstanceUID": "1.2.3.4",
    "SeriesInstanceUID": "1.2.3",
    "StudyInstanceUID": "1.2",
    "InstanceNumber": "7",
    "PatientName": "Müller^Jürgen=山田^太郎",
    "PatientID": "4711",
    "PatientBirthDate": "19700101",
    "PatientSex": "F",
    "StudyDate": "20260130",
    "StudyTime": "101112.5",
    "StudyID": "S1",
    "AccessionNumber": "A1",
    "ReferringPhysicianName": "Arzt^Eva",
}
DECISION = ReportedDecision(
    content_sha256="a" * 64,
    label="pediatric_chest",
    region=("816094009", "Chest"),
    confidence=0.9876,
    decided_by="model",
    decided_at=datetime.datetime(2026, 2, 1, 3, 4, 5, tzinfo=datetime.UTC),
    model_id="default-1",
    router_version="0.3.0",
)


def errors_of(file: Path) -> list[str]:
    """The errors that dciodvfy finds in a file."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (make senders)")
    done = subprocess.run(["dciodvfy", "-new", str(file)], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    assert any("EnhancedSR" in line for line in lines)
    return [line for line in lines if line.startswith("Error")]


def finding_of(file: Path) -> Any:
    """The only measurement group of a report, as highdicom reads it."""
    report = highdicom.sr.EnhancedSR.from_dataset(pydicom.dcmread(file))
    (group,) = report.content.get_image_measurement_groups()
    return group


def evaluations_of(group: Any) -> dict[str, str]:
    """The coded values of a measurement group by the code of their name."""
    return {item.name.value: item.value.value for item in group.get_qualitative_evaluations()}


HOSTILE = {
    **{name: HEADER[name] for name in list(HEADER)[:4]},
    "PatientName": "x" * 500,
    "PatientBirthDate": "yesterday",
    "PatientSex": "male",
    "StudyDate": "2026",
    "AccessionNumber": "a\\b",
    "InstanceNumber": "-1.5",
}


@pytest.mark.parametrize(
    ("header", "changes"),
    [
        (HEADER, {}),
        (HEADER, {"label": "others", "region": None}),
        (HEADER, {"decided_by": "person"}),
        (HOSTILE, {"confidence": None, "model_id": None}),
    ],
    ids=["model", "no region", "person", "invalid values"],
)
def test_a_report_is_valid(
    tmp_path: Path, header: Mapping[str, str], changes: dict[str, Any]
) -> None:
    file = tmp_path / "report.dcm"
    file.write_bytes(build_report(header, replace(DECISION, **changes)))
    finding_of(file)
    assert errors_of(file) == []


def test_a_report_says_what_was_decided_about_which_image(tmp_path: Path) -> None:
    file = tmp_path / "report.dcm"
    file.write_bytes(build_report(HEADER, DECISION))
    report = highdicom.sr.EnhancedSR.from_dataset(pydicom.dcmread(file))
    for keyword in list(HEADER)[5:]:
        assert str(report[keyword].value) == HEADER[keyword]
    assert (report.StudyInstanceUID, report.Modality) == ("1.2", "SR")
    assert (report.ContentDate, report.ContentTime) == ("20260130", "101112.5")
    assert report.get_evidence() == [("1.2", "1.2.3", "1.2.3.4", HEADER["SOPClassUID"])]
    (observer,) = report.content.get_observer_contexts(observer_type=codes.DCM.Device)
    assert observer.observer_identifying_attributes.name == "DICOM Imaging Router"
    group = finding_of(file)
    assert evaluations_of(group) == {
        "123014": "816094009",
        "body_part_label": "pediatric_chest",
        "decided_by": "model",
    }
    (site,) = group.finding_sites
    assert (site.value.scheme_designator, site.value.value) == ("SCT", "816094009")
    (certainty,) = group.get_measurements(name=codes.DCM.CertaintyOfFinding)
    assert (certainty.value, certainty.unit) == (98.76, codes.UCUM.Percent)
    text = str(pydicom.dcmread(file))
    assert "model_id=default-1" in file.read_bytes().decode(errors="replace")
    assert "Algorithm Version" in text
    assert SCHEME in text


def test_equal_decisions_about_equal_bytes_give_equal_reports() -> None:
    later = replace(DECISION, decided_at=datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC))
    assert build_report(HEADER, later) == build_report(HEADER, DECISION)
    other = build_report(HEADER, replace(DECISION, model_id="default-2"))
    assert other != build_report(HEADER, DECISION)


def test_an_image_without_uids_has_no_report() -> None:
    with pytest.raises(ReportError, match="StudyInstanceUID"):
        build_report({**HEADER, "StudyInstanceUID": "none"}, DECISION)


def reports_in(lake: Path) -> dict[str, bytes]:
    folder = lake / "structured_reports"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.dcm")}


def index_rows(layout: Layout) -> list[IndexRow]:
    return [r for f in list_index(layout) for r in from_table(read_table(f), partition_of(f))]


def routed_in(lake: Lake) -> set[str]:
    return {
        row["object_uri"].removeprefix("objects/")
        for row in lake.rows()
        if row["status"] == "routed"
    }


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `source`, `lenient.yaml`, and the lake of a run with `--write_sr`."""
    folder = tmp_path_factory.mktemp("reported")
    (folder / "source").mkdir()
    for number in range(3):
        data = dicom_bytes(
            image(number, (96, 64)), name=str(number), PatientName="Roe^Jane", StudyDate="20260130"
        )
        (folder / "source" / f"{number}.dcm").write_bytes(data)
    (folder / "source" / "copy.dcm").write_bytes((folder / "source" / "0.dcm").read_bytes())
    (folder / "lenient.yaml").write_text(LENIENT)
    route_into(
        Lake(folder / "lake"), "--policy", str(folder / "lenient.yaml"), "--write_sr",
        inputs=(str(folder / "source"),),
    )  # fmt: skip
    return folder


@pytest.mark.slow
def test_each_routed_object_has_a_report(reported: Path) -> None:
    lake = Lake(reported / "lake")
    reports = reports_in(lake.root)
    assert len(reports) == 3
    assert reports.keys() == routed_in(lake)
    for row in lake.rows():
        if row["status"] != "routed":
            continue
        file = lake.root / "structured_reports" / row["object_uri"].removeprefix("objects/")
        assert errors_of(file) == []
        assert str(pydicom.dcmread(file).PatientName) == "Roe^Jane"
        assert evaluations_of(finding_of(file))["body_part_label"] == row["destination"]
    assert verify_lake(Layout(str(lake.root)), deep=True).violations == []
    assert violations(lake.root) == []


@pytest.mark.slow
def test_reports_follow_decisions(reported: Path, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    shutil.copytree(reported / "lake", lake.root)
    before = reports_in(lake.root)
    strict = tmp_path / "strict.yaml"
    strict.write_text(LENIENT.replace("min_long_side: 10", "min_long_side: 4000"))
    assert main(["reroute", str(lake.root), "--policy", str(strict), "--apply", "--quiet"]) == 0
    assert {row["status"] for row in lake.rows()} == {"review", "duplicate"}
    assert reports_in(lake.root) == {}
    lenient = str(reported / "lenient.yaml")
    assert main(["reroute", str(lake.root), "--policy", lenient, "--apply", "--quiet"]) == 0
    assert reports_in(lake.root) == before
    layout = Layout(str(lake.root))
    (first, *_) = [row for row in index_rows(layout) if row.status == "routed"]
    answer = "spine" if first.destination != "spine" else "abdominal"
    append_label(layout, new_label(first, answer, "ann", 1_000_000))
    assert apply_labels(layout, then=write_reports).images == 1
    assert reports_in(lake.root).keys() == routed_in(lake)
    file = next((lake.root / "structured_reports" / f"body_part={answer}").rglob("*.dcm"))
    assert evaluations_of(finding_of(file))["decided_by"] == "person"
    assert verify_lake(Layout(str(lake.root))).violations == []
    stale = lake.root / "structured_reports" / "body_part=spine" / "study=1" / "x.dcm"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    (found,) = verify_lake(Layout(str(lake.root))).violations
    assert found.kind == "structured report about an object that is not routed"


@pytest.mark.slow
def test_an_object_without_a_report_is_routed(
    reported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*args: object) -> bytes:
        raise ReportError("refused")

    monkeypatch.setattr("transforms.sandbox.write_report.build_report", refuse)
    lake = Lake(tmp_path / "lake")
    route_into(
        lake, "--policy", str(reported / "lenient.yaml"), "--write_sr",
        inputs=(str(reported / "source"),),
    )  # fmt: skip
    assert len(routed_in(lake)) == 3
    assert reports_in(lake.root) == {}
    messages = [r.getMessage() for r in caplog.records if "no structured report" in r.getMessage()]
    assert any(lake.rows()[0]["object_key"] in message for message in messages)
    assert "Roe" not in caplog.text


def test_the_report_about_an_orphan_is_removed_in_a_store(store: Store) -> None:
    layout = Layout(f"{store.root}/lake", {"spine": f"{store.root}/spine"})
    kept = store.write("lake/objects/body_part=others/study=1/series=2/3~0.dcm", b"kept")
    reports = [
        store.write(f"{root}/structured_reports/body_part={label}/study=1/series=2/3~0.dcm", b"x")
        for root, label in (("lake", "others"), ("spine", "spine"))
    ]
    assert has_reports(layout)
    assert sorted(list_reports(layout)) == sorted(reports)
    orphan = store.write("spine/objects/body_part=spine/study=1/series=2/3~0.dcm", b"orphan")
    remove_orphans(layout, [orphan])
    assert {f"{store.root}/{name}" for name in store.read_all()} == {kept, reports[0]}


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["lenient", "strict"])
def test_reports_of_an_interrupted_run_are_recovered_or_removed_with_their_objects(
    reported: Path, lake: Lake, interrupt: Callable[..., None], tmp_path: Path, policy: str
) -> None:
    strict = tmp_path / "strict.yaml"
    strict.write_text(LENIENT.replace("min_long_side: 10", "min_long_side: 4000"))
    lenient = reported / "lenient.yaml"
    interrupt(reported / "source", "--policy", str(lenient), "--write_sr")
    written = reports_in(lake.root)
    assert len(written) == 3
    again = str(lenient if policy == "lenient" else strict)
    route_into(lake, "--policy", again, "--write_sr", inputs=(str(reported / "source"),))
    assert reports_in(lake.root) == (written if policy == "lenient" else {})
    assert reports_in(lake.root).keys() == routed_in(lake)
    assert verify_lake(Layout(str(lake.root))).violations == []

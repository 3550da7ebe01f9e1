"""Studies as FHIR ImagingStudy resources, and series as rows of OMOP's image_occurrence."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.imagingstudy import ImagingStudy as ImagingStudyR5
from fhir.resources.R4B.imagingstudy import ImagingStudy as ImagingStudyR4B

from pipeline.export.fhir import imaging_study
from pipeline.export.options import ExportOptions
from tests.conftest import Lake
from tests.export.conftest import CANARIES, Export, files_of

UIDS = ("--identifiers", "uids")
R4_NAMES = {
    "resourceType", "id", "identifier", "status", "modality", "subject", "numberOfSeries",
    "numberOfInstances", "series",
}  # fmt: skip
"""Elements of ImagingStudy 4.0.1 that are written; R4B, which fhir.resources has, has the same."""


def studies_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "ImagingStudy.ndjson").read_text().splitlines()]


def instances(rows: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    names = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")
    return {tuple(row[name] for name in names) for row in rows}


@pytest.mark.parametrize("version", ["R4", "R5"])
def test_each_study_is_a_valid_resource(export: Export, exported_lake: Lake, version: str) -> None:
    studies = studies_of(export("--to", "fhir", "--fhir_version", version, *UIDS))
    checked = ImagingStudyR4B if version == "R4" else ImagingStudyR5
    found = set()
    for study in studies:
        again = json.loads(checked.model_validate(study).model_dump_json())
        assert again == study
        assert study.keys() == R4_NAMES
        uid = study["identifier"][0]["value"].removeprefix("urn:oid:")
        for series in study["series"]:
            assert series["numberOfInstances"] == len(series["instance"])
            found |= {(uid, series["uid"], one["uid"]) for one in series["instance"]}
        assert study["numberOfSeries"] == len(study["series"])
    assert len(studies) == 4
    assert found == instances([r for r in exported_lake.rows() if r["status"] == "routed"])


def test_elements_that_differ_between_releases_have_the_types_of_theirs(export: Export) -> None:
    (r4, *_) = studies_of(export("--to", "fhir", *UIDS, name="r4"))
    (r5, *_) = studies_of(export("--to", "fhir", "--fhir_version", "R5", *UIDS, name="r5"))
    dcm = "http://dicom.nema.org/resources/ontology/DCM"
    assert r4["modality"] == [{"system": dcm, "code": "DX"}]
    assert r5["modality"] == [{"coding": r4["modality"]}]
    assert r4["series"][0]["modality"] == {"system": dcm, "code": "DX"}
    assert r5["series"][0]["modality"] == {"coding": [r4["series"][0]["modality"]]}


@pytest.mark.parametrize("version", ["R4", "R5"])
def test_the_body_site_is_the_region_of_all_images_of_the_series(version: str) -> None:
    chest = {
        "study_instance_uid": "1.2", "series_instance_uid": "1.3", "sop_instance_uid": "1.4",
        "sop_class_uid": "1.5", "modality": None, "laterality": "L", "region_code": "816094009",
        "region_meaning": "Chest", "predicted_region_code": None, "patient_key": None,
        "patient_hash": "a" * 32,
    }  # fmt: skip
    spine = {**chest, "sop_instance_uid": "1.6", "region_code": "421060004"}
    options = ExportOptions(to="fhir", fhir_version=version, identifiers=("uids",))  # type: ignore[arg-type]
    (series,) = imaging_study("1.2", [chest], options)["series"]
    coding = {"system": "http://snomed.info/sct", "code": "816094009", "display": "Chest"}
    left = {"system": "http://snomed.info/sct", "code": "7771000", "display": "Left"}
    if version == "R4":
        assert (series["bodySite"], series["laterality"]) == (coding, left)
        assert series["modality"]["code"] == "OT"
    else:
        assert series["bodySite"] == {"concept": {"coding": [coding]}}
        assert series["laterality"] == {"coding": [left]}
    (mixed,) = imaging_study("1.2", [chest, spine], options)["series"]
    assert "bodySite" not in mixed and mixed["numberOfInstances"] == 2


def test_a_patient_is_a_hash_without_a_name(export: Export, exported_lake: Lake) -> None:
    out = export("--to", "fhir", *UIDS)
    text = b"".join(files_of(out).values())
    assert not [canary for canary in CANARIES if canary.encode() in text]
    keys = {row["patient_key"] for row in exported_lake.rows()}
    assert not [key for key in keys if key.encode() in text]
    named = export("--to", "fhir", *UIDS, "patient_key", name="named")
    subjects = {study["subject"]["identifier"]["value"] for study in studies_of(named)}
    assert subjects <= keys


def occurrences_of(out: Path) -> list[dict[str, str]]:
    with (out / "image_occurrence.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_series_is_an_image_occurrence(export: Export, exported_lake: Lake) -> None:
    rows = [row for row in exported_lake.rows() if row["status"] == "routed"]
    out = export("--to", "omop", *UIDS)
    found = occurrences_of(out)
    names = ("study_instance_uid", "series_instance_uid", "destination")
    assert len(found) == len({tuple(row[name] for name in names) for row in rows})
    assert len({one["image_occurrence_id"] for one in found}) == len(found)
    folders = {row["object_uri"].rpartition("/")[0] for row in rows}
    assert {one["local_path"] for one in found} == folders
    for one in found:
        assert int(one["image_occurrence_id"]) < 2**53
        assert one["modality_source_value"] == "DX"
        assert (one["modality_concept_id"], one["anatomic_site_concept_id"]) == ("0", "0")
        assert one["person_id"] == one["image_occurrence_date"] == ""
    text = b"".join(files_of(out).values())
    assert not [canary for canary in CANARIES if canary.encode() in text]


def test_concepts_and_persons_are_those_of_files(
    export: Export, exported_lake: Lake, tmp_path: Path
) -> None:
    rows = [row for row in exported_lake.rows() if row["status"] == "routed"]
    concepts = tmp_path / "CONCEPT.csv"
    header = "concept_id\tconcept_name\tvocabulary_id\tconcept_code\n"
    codes = {row["region_code"] for row in rows if row["region_code"]}
    lines = [f'{n}\tSite "{n}\tSNOMED\t{code}\n' for n, code in enumerate(sorted(codes), 7)]
    concepts.write_text(header + "99\tDX\tDICOM\tDX\n98\tother\tICD10\tDX\n" + "".join(lines))
    patient = rows[0]["patient_key"]
    persons = tmp_path / "persons.csv"
    persons.write_text(f"patient_key,person_id\n{patient},42\n")
    files = ("--concepts", str(concepts), "--persons", str(persons))
    found = occurrences_of(export("--to", "omop", *UIDS, *files))
    assert found and {one["person_id"] for one in found} == {"42"}
    assert {one["modality_concept_id"] for one in found} == {"99"}
    studies = {row["study_instance_uid"] for row in rows if row["patient_key"] == patient}
    assert {one["image_study_uid"] for one in found} <= studies
    for one in found:
        assert (one["anatomic_site_concept_id"] != "0") == bool(one["anatomic_site_source_value"])


def test_a_file_of_concepts_without_its_columns_is_refused(
    export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.csv").write_text("a,b\n")
    export("--to", "omop", *UIDS, "--concepts", str(tmp_path / "c.csv"), expect=2)
    assert "has no column concept_code, concept_id, vocabulary_id" in capsys.readouterr().err

"""An export is in the audit trail, before anything leaves the lake."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.audit.audit_messages import lines, parsed, summary_of
from tests.conftest import Lake
from tests.export.conftest import CANARIES, Export, files_of

UIDS = ("--identifiers", "uids")


@pytest.mark.parametrize(
    ("options", "details"),
    [
        (("--to", "folder", "--size", "32"), {"images": "png"}),
        (("--to", "webdataset", "--images", "dicom", "--identifiers", "objects"), {"images": "dicom"}),
        (("--to", "fhir", *UIDS), {}),
        (("--to", "omop", *UIDS), {}),
    ],
    ids=["folder", "webdataset", "fhir", "omop"],
)  # fmt: skip
def test_every_export_is_reported(
    export: Export,
    exported_lake: Lake,
    tmp_path: Path,
    options: tuple[str, ...],
    details: dict[str, str],
) -> None:
    audit, before = tmp_path / "audit.xml", files_of(exported_lake.root)
    out = export(*options, "--audit_file", str(audit), "--where", "study_instance_uid != '1.2.3.0'")
    rows = [
        row
        for row in exported_lake.rows()
        if row["status"] == "routed" and row["study_instance_uid"] != "1.2.3.0"
    ]
    expected = Counter((row["study_instance_uid"], row["patient_key"]) for row in rows)
    found = list(map(summary_of, lines(audit)))
    assert {(one["study"], one["patient"]): one["instances"] for one in found} == expected
    assert len(found) == len(expected) > 1
    for one in found:
        assert (one["event"], one["action"], one["types"]) == ("Export", "R", ["exported"])
        assert details.items() <= one["details"].items()
        assert one["details"]["export"] == options[1]
        assert one["details"].get("identifiers", "") == "".join(
            options[-1:] * ("--identifiers" in options)
        )
    media = parsed(lines(audit)[0]).findall("ActiveParticipant")[-1]
    assert media.get("UserID") == out.as_uri()
    assert not [canary for canary in CANARIES if canary.encode() in audit.read_bytes()]
    assert files_of(exported_lake.root) == before


def test_only_patients_that_are_exported_are_reported(
    export: Export, exported_lake: Lake, tmp_path: Path
) -> None:
    patient = next(row["patient_key"] for row in exported_lake.rows() if row["status"] == "routed")
    (tmp_path / "persons.csv").write_text(f"patient_key,person_id\n{patient},42\n")
    audit = tmp_path / "audit.xml"
    persons = ("--persons", str(tmp_path / "persons.csv"))
    export("--to", "omop", *UIDS, *persons, "--audit_file", str(audit))
    assert {summary_of(line)["patient"] for line in lines(audit)} == {patient}


def test_nothing_leaves_the_lake_unreported(
    export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    out = export("--size", "32", "--audit_syslog", "tcp://127.0.0.1:1", expect=1)
    assert "--audit_syslog" in capsys.readouterr().err
    assert list(files_of(out)) == ["export.json"]
    export("--size", "32")
    assert (out / "manifest.csv").exists()


def test_a_refused_export_is_not_reported(export: Export, tmp_path: Path) -> None:
    audit = tmp_path / "audit.xml"
    export("--size", "32", "--where", "confidence > 2")
    export("--size", "32", "--audit_file", str(audit), expect=2)
    assert not audit.exists()

"""`forget` erases everywhere, keeps out what returns, and leaves everything else as it was."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake, counts, route_into, write
from tests.erasures import (
    KEY,
    OTHER,
    PATIENT,
    Hospital,
    content_of,
    files_with,
    hospital,
    identifiers,
    rows_of,
)
from tests.lake.rows import (
    append_rows,
    index_row,
    lake_of,
    new_lake,
    replica_of,
    rows_in,
)
from tests.stores import Store
from tests.synthetic import dicom_bytes, image
from transforms.core.object_ref import ObjectRef, object_key
from transforms.core.patient_key import patient_key_of
from transforms.lake.dead_letters import write_dead_letter
from transforms.lake.erase import list_erasure_intents
from transforms.lake.files import put_bytes
from transforms.lake.layout import Layout
from transforms.lake.run_counts import count_stream
from transforms.lake.tombstones import forget_source, read_tombstones
from transforms.lake.verify import verify_lake


@pytest.fixture(scope="module")
def treated(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """A lake of two patients."""
    return hospital(tmp_path_factory.mktemp("hospital"))


@pytest.fixture(scope="module")
def forgotten(treated: Hospital, tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """A copy of `treated` from which a patient was erased."""
    copy = treated.copy(tmp_path_factory.mktemp("forgotten") / "lake")
    assert copy.apply("--deep") == 0
    return copy


@pytest.fixture
def copied(treated: Hospital, tmp_path: Path) -> Hospital:
    return treated.copy(tmp_path / "lake")


def verified(root: Path) -> list[str]:
    """Kinds of violations."""
    found = verify_lake(Layout(str(root)), deep=True).violations
    return [one.kind for one in found] + violations(root)


def test_a_dry_run_changes_nothing(copied: Hospital, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in copied.lake.rglob("*") if p.is_file()}
    assert copied.forget() == 0
    out = capsys.readouterr().out
    assert "give --apply" in out
    assert {p: p.stat().st_mtime_ns for p in copied.lake.rglob("*") if p.is_file()} == before
    assert copied.forget("--json") == 0
    found = json.loads(capsys.readouterr().out)["found"]
    assert found["index"] == 7
    assert found["objects"] == 6  # of which one has two rows
    places = ("history", "labels", "thumbnails", "structured reports")
    assert all(found[place] for place in places), found


def test_no_byte_of_the_lake_has_a_trace(treated: Hospital, forgotten: Hospital) -> None:
    names = identifiers(treated.lake, treated.patient_key)
    assert len(names) > 30
    present = files_with(treated.lake, names)
    for part in ("index", "history", "labels", "thumbnails", "objects", "quarantine"):
        assert any(name.startswith(part) for name in present), part
    assert files_with(forgotten.lake, names) == []
    assert files_with(forgotten.lake, [PATIENT]) == []


def test_everything_else_is_as_before(treated: Hospital, forgotten: Hospital) -> None:
    before, after = content_of(treated.lake), content_of(forgotten.lake)
    assert before.keys() >= after.keys()
    assert after == {name: before[name] for name in after}
    lost = before.keys() - after.keys()
    assert all(name.startswith("structured_reports/") for name in lost), lost
    assert verified(forgotten.lake) == []


def test_the_report_says_what_was_erased_and_names_nobody(
    treated: Hospital, forgotten: Hospital
) -> None:
    (file,) = forgotten.lake.glob("forgotten/reports/*.json")
    report = json.loads(file.read_text())
    assert report["ordered_by"] == "data protection"
    assert report["erased"]["index"] == 7
    assert report["traces"] == 0
    assert report["searched"]["objects_read"]
    assert (forgotten.lake / "forgotten" / "key").stat().st_mode & 0o777 == 0o600
    assert not list_erasure_intents(Layout(str(forgotten.lake)))


@pytest.mark.slow
def test_what_returns_is_kept_out(forgotten: Hospital, tmp_path: Path) -> None:
    lake = forgotten.copy(tmp_path / "lake")
    before = lake_rows(lake)
    again = route_into(Lake(lake.lake), *lake.options, inputs=(str(lake.source),))
    assert counts(again) == {"unchanged": 7, "forgotten": 7}
    assert again["counts"]["discovered"] == 14
    assert "7 forgotten" in again["equation"]
    assert not again["metrics"]["counters"].get("bytes_read")  # known by name and version
    resent = tmp_path / "resent"
    original = next(lake.source.glob(f"{PATIENT}^NAME *.dcm"))
    shutil.copy(original, write(resent, "other name.dcm", b""))
    study = dict(name="99", StudyInstanceUID="1.2.77.100", PatientID="anonymous")
    write(resent, "study.dcm", dicom_bytes(image(5, (64, 48)), **study))
    patient = dict(name="98", StudyInstanceUID="1.2.99", PatientID=PATIENT)
    write(resent, "patient.dcm", dicom_bytes(image(6, (64, 48)), **patient))
    write(resent, "instance.dcm", dicom_bytes(image(7, (64, 48)), name="101", PatientID="X"))
    cut = dicom_bytes(image(9, (64, 48)), name="96", PatientID=PATIENT)
    write(resent, "cut.dcm", cut[: len(cut) // 2])
    write(resent, "new.dcm", dicom_bytes(image(8, (64, 48)), name="97", PatientID="NEW"))
    first = route_into(Lake(lake.lake), *lake.options, inputs=(str(resent),))
    assert first["counts"]["forgotten"] == 5
    assert first["counts"]["discovered"] == 6
    second = route_into(Lake(lake.lake), *lake.options, inputs=(str(resent),))
    assert counts(second) == {"unchanged": 1, "forgotten": 5}
    assert not second["metrics"]["counters"].get("bytes_read")
    assert len(lake_rows(lake)) == len(before) + 1
    assert verified(lake.lake) == []


def lake_rows(lake: Hospital) -> list[str]:
    return [row.object_key for row in rows_of(Layout(str(lake.lake)))]


def test_a_stream_counts_and_does_not_read_again_what_it_has_forgotten(
    forgotten: Hospital, tmp_path: Path
) -> None:
    lake = forgotten.copy(tmp_path / "lake")
    layout = Layout(str(lake.lake))
    tombstones = read_tombstones(layout)
    row = index_row("/inbox/again.dcm", run_id="stream", source_state="7-8", source_version="1-2")
    ref = ObjectRef(row.source_uri, row.source_version, 1, state="7-8")
    with replica_of(layout) as replica:
        replica.refresh()
        assert replica.finished([ref]) == set()
        for file in lake.lake.glob("forgotten/tombstones/*"):
            file.write_bytes(b"read again")
        forget_source(layout, tombstones, row)
        replica.refresh()  # reads new files only
        assert replica.finished([ref]) == {ref.version_key}
        assert replica.finished([replace(ref, state="7-9")]) == set()
        assert (
            replica.existing([ref.version_key]) == set()
        )  # `append` drops no row of other content
    counted = count_stream(layout, "stream", frozenset())
    assert counted.counts["forgotten"] == counted.counts["discovered"] == 1
    assert counted.complete


def test_traces_and_changed_reports_are_violations(forgotten: Hospital, tmp_path: Path) -> None:
    lake = forgotten.copy(tmp_path / "lake")
    write(lake.lake, "runs/note.txt", b"see study 1.2.77.100")
    (report,) = lake.lake.glob("forgotten/reports/*.json")
    report.write_text(report.read_text().replace("data protection", "nobody"))
    found = {one.kind for one in verify_lake(Layout(str(lake.lake))).violations}
    assert found == {"trace of an erased object", "erasure report with other bytes"}
    (lake.lake / "forgotten" / "key").unlink()
    found = {one.kind for one in verify_lake(Layout(str(lake.lake))).violations}
    assert "tombstones without their key" in found


def test_a_study_or_an_object_takes_all_rows_of_its_contents(copied: Hospital) -> None:
    rows = rows_of(Layout(str(copied.lake)))
    (copy,) = (row for row in rows if row.status == "duplicate" and PATIENT in row.source_uri)
    assert copied.apply(who=("--object", copy.object_key)) == 0
    left = rows_of(Layout(str(copied.lake)))
    assert len(left) == len(rows) - 2
    assert copy.content_sha256 not in {row.content_sha256 for row in left}
    (conflict,) = (row for row in rows if row.source_uri.endswith(f"{PATIENT} conflict.dcm"))
    assert copied.apply(who=("--object", conflict.object_key)) == 0
    uids = [row.sop_instance_uid for row in rows_of(Layout(str(copied.lake)))]
    assert uids.count(conflict.sop_instance_uid) == 1  # the other content
    again = route_into(Lake(copied.lake), *copied.options, inputs=(str(copied.source),))
    assert counts(again) == {"unchanged": 11, "forgotten": 3}
    assert copied.apply(who=("--study", "1.2.77.100")) == 0
    assert len(rows_of(Layout(str(copied.lake)))) == 7
    assert verified(copied.lake) == []


def test_lists_and_patient_ids_select(
    copied: Hospital,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{PATIENT}\n".encode())))
    key_file = ("--patient_key_file", str(copied.key_file))
    assert copied.forget("--json", *key_file, who=("--patient_ids", "-")) == 0
    assert json.loads(capsys.readouterr().out)["found"]["index"] == 7
    entries = tmp_path / "list.txt"
    keys = [object_key(str(copied.source / f"{OTHER} ct.dcm"))]
    entries.write_text(f"# order 12\n1.2.77.100\n{keys[0]}\n\n{patient_key_of('none', KEY)}\n")
    assert copied.forget("--json", who=("--list", str(entries))) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["found"]["index"] == 8
    assert found["unknown"] == {"patient_key": 1}


@pytest.mark.parametrize("column", ["--patient_ids", "--list"])
def test_a_list_may_be_one_of_windows(
    treated: Hospital, column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = PATIENT if column == "--patient_ids" else treated.patient_key.upper()
    entries = tmp_path / "list.txt"
    entries.write_bytes(b"\xef\xbb\xbf" + f"{entry}\r\n\r\n  {entry} \r\n".encode())
    key_file = ("--patient_key_file", str(treated.key_file))
    assert treated.forget("--json", *key_file, who=(column, str(entries))) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["found"]["index"], found["unknown"]) == (7, {})


def lake_of_quarantined(root: Path, objects: dict[str, bytes]) -> Layout:
    """Return a lake of objects in quarantine whose rows have no header."""
    layout = new_lake(root)
    rows = []
    for name, data in objects.items():
        sha256 = hashlib.sha256(data).hexdigest()
        uri = layout.quarantine_uri(sha256)
        put_bytes(uri, data, scratch=layout.scratch())
        header = dict(sop_instance_uid=None, series_instance_uid=None, study_instance_uid=None)
        columns = dict(status="quarantined", destination="quarantine", reason="truncated")
        uri = layout.relative(uri)
        rows.append(index_row(f"/in/{name}", sha256, object_uri=uri, **columns, **header))
    append_rows(layout, *rows)
    return layout


@pytest.mark.parametrize(
    ("patient", "elements"),
    [
        (PATIENT, {}),
        (PATIENT, {"syntax": ImplicitVRLittleEndian}),
        (PATIENT, {"syntax": ExplicitVRBigEndian}),
        ("MÜL-7", {"SpecificCharacterSet": "ISO_IR 100"}),
    ],
)
def test_a_truncated_object_is_found_by_its_patient(
    patient: str, elements: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = {
        name: dicom_bytes(image(1, (64, 48)), name=name, PatientID=one, **elements)[:2000]
        for name, one in {"1": patient, "2": OTHER}.items()
    }
    layout = lake_of_quarantined(tmp_path / "lake", cut)
    (tmp_path / "key").write_bytes(KEY)
    key_file = ("--patient_key_file", str(tmp_path / "key"))
    command = ["forget", layout.root, "--patient_key", patient_key_of(patient, KEY)]
    assert main(command) == 0
    assert "quarantined objects without a patient in their row: 2;" in capsys.readouterr().out
    assert main([*command, *key_file, "--apply", "--ordered_by", "me"]) == 0
    (left,) = tmp_path.glob("lake/quarantine/*/*")
    assert left.read_bytes() == cut["2"]
    assert [row["source_uri"] for row in rows_in(layout)] == ["/in/2"]


def test_rows_whose_patient_is_unknown_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [index_row("/in/1"), index_row("/in/2", "b" * 64, patient_key="c" * 64)]
    layout = lake_of(tmp_path / "lake", rows)
    assert main(["forget", layout.root, "--patient_key", "d" * 64]) == 0
    assert "rows without a patient, which may be of those given: 1;" in capsys.readouterr().out
    assert main(["forget", layout.root, "--study", "1.2.99"]) == 0
    assert "without a patient" not in capsys.readouterr().out


def test_a_truncated_object_is_under_the_hold_of_its_patient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = dicom_bytes(image(1, (64, 48)), PatientID=PATIENT)[:2000]
    layout = lake_of_quarantined(tmp_path / "lake", {"1": cut})
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "holds").write_text(patient_key_of(PATIENT, KEY))
    (tmp_path / "policy.yaml").write_text("retention: {days: {quarantine: 1}}\n")
    options = ["--patient_key_file", str(tmp_path / "key"), "--apply", "--ordered_by", "me"]
    options += ["--legal_holds", str(tmp_path / "holds")]
    assert main(["forget", layout.root, "--object", object_key("/in/1"), *options]) == 2
    assert "1 of the 1 selected contents are under a legal hold" in capsys.readouterr().err
    assert main(["retain", layout.root, "--policy", str(tmp_path / "policy.yaml"), *options]) == 0
    assert "contents that are kept because of a legal hold: 1" in capsys.readouterr().out
    assert len(rows_in(layout)) == 1


@pytest.mark.parametrize(
    ("who", "message"),
    [
        ((), "give --patient_key"),
        (("--study", "Smith"), "--study: write a UID"),
        (("--object", "0123456789ab"), "1 of the given object keys are not in the lake"),
        (("--patient_ids", "ids.txt"), "needs --patient_key_file"),
        (("--list", "/nowhere/list"), "--list cannot be read"),
        (("--list", "/dev/null"), "not a regular file"),
        (("--list", "-", "--legal_holds", "-"), "can be standard input"),
    ],
)
def test_what_cannot_be_selected_is_an_error(
    treated: Hospital, who: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forget", str(treated.lake), *who]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Smith" not in error


def test_an_order_is_needed(treated: Hospital, capsys: pytest.CaptureFixture[str]) -> None:
    assert treated.forget("--apply") == 2
    assert "--ordered_by" in capsys.readouterr().err


def test_a_legal_hold_stops_it(copied: Hospital, capsys: pytest.CaptureFixture[str]) -> None:
    (copied.lake / "legal_holds.txt").write_text("1.2.77.100  # case 7\n")
    before = content_of(copied.lake)
    assert copied.apply() == 2
    error = capsys.readouterr().err
    assert "6 of the 6 selected contents are under a legal hold" in error
    assert "unknown without --policy" in error  # said before anything is erased or refused
    assert content_of(copied.lake) == before
    (copied.lake / "legal_holds.txt").unlink()
    assert copied.apply() == 0


def test_a_legal_hold_of_a_policy_needs_the_policy(
    treated: Hospital, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holds, policy = tmp_path / "holds.txt", tmp_path / "policy.yaml"
    holds.write_text("1.2.77.100\n")
    policy.write_text(f"retention: {{legal_holds: {holds}}}\n")
    assert treated.forget("--policy", str(policy)) == 2
    assert "6 of the 6 selected contents are under a legal hold" in capsys.readouterr().err
    for form in ((), ("--json",)):
        assert treated.forget(*form) == 0
        assert "legal holds of a policy are unknown without --policy" in capsys.readouterr().err


def test_failures_and_dead_letters_of_erased_objects_go_too(copied: Hospital) -> None:
    layout = Layout(str(copied.lake))
    source = str(next(copied.source.glob(f"{PATIENT} ct.dcm")))
    key, other = object_key(source), object_key(str(next(copied.source.glob(f"{OTHER} ct.dcm"))))
    summary = next(copied.lake.glob("runs/*.json"))
    content = json.loads(summary.read_text())
    content["failures"] = [
        {"object_key": one, "stage": "fetch", "reason": "r"} for one in (key, other)
    ]
    summary.write_text(json.dumps(content, indent=2) + "\n")
    write_dead_letter(layout, "1", "disappeared", source)
    write_dead_letter(layout, "2", "disappeared", "gs://other")
    assert copied.apply() == 0
    left = json.loads(summary.read_text())
    assert [one["object_key"] for one in left["failures"]] == [other]
    assert {**left, "failures": []} == {**content, "failures": []}
    assert [path.stem for path in copied.lake.glob("dead_letters/*")] == ["2"]


def test_a_quarantined_object_without_a_header_is_erased_by_its_key(
    lake: Lake, source: Path
) -> None:
    path = write(source, "unknown", b"no DICOM at all")
    route_into(lake, inputs=(str(source),))
    key = object_key(str(path))
    command = ["forget", str(lake.root), "--object", key, "--apply", "--ordered_by", "me"]
    assert main(command) == 0
    assert not [*lake.root.glob("quarantine/*/*")]
    assert counts(route_into(lake, inputs=(str(source),))) == {"forgotten": 1}


@pytest.mark.parametrize("placement", ["link", "index_only"])
def test_sources_are_never_removed(lake: Lake, source: Path, placement: str) -> None:
    data = dicom_bytes(image(1, (64, 48)), name="1")
    paths = [write(source, name, data) for name in ("a.dcm", "b.dcm")]
    route_into(lake, "--placement", placement, inputs=(str(source),))
    (study,) = {row["study_instance_uid"] for row in lake.rows()}
    command = ["forget", str(lake.root), "--study", study, "--apply", "--ordered_by", "me"]
    assert main(command) == 0
    assert [path.read_bytes() for path in paths] == [data, data]
    assert not [*lake.root.glob("objects/**/*.dcm")]
    assert not [*lake.root.glob("objects/body_part=*/*")]


@pytest.mark.slow
def test_sinks_at_other_roots(lake: Lake, source: Path, tmp_path: Path) -> None:
    write(source, "a.dcm", dicom_bytes(image(1, (64, 48)), name="1"))
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"sinks: {{review: {tmp_path / 'sink'}}}\nmin_long_side: 4000\n")
    route_into(lake, "--policy", str(policy), inputs=(str(source),))
    (row,) = lake.rows()
    command = ["forget", str(lake.root), "--study", row["study_instance_uid"]]
    assert main(command) == 2
    apply = ("--policy", str(policy), "--apply", "--ordered_by", "me")
    assert main([*command, *apply]) == 0
    assert not [*(tmp_path / "sink").glob("objects/*/*")]
    assert main(["verify", str(lake.root), "--policy", str(policy), "--deep"]) == 0


@pytest.mark.slow
def test_a_lake_in_a_store(store: Store, source: Path, route: Callable[..., object]) -> None:
    for number in range(2):
        write(source, f"{number}.dcm", dicom_bytes(image(number, (64, 48)), name=str(number)))
    root = f"{store.root}/lake"
    route("--lake", root)
    layout = Layout(root)
    gone, kept = sorted(rows_of(layout), key=lambda row: row.source_uri)
    command = ["forget", root, "--study", str(gone.study_instance_uid), "--apply"]
    assert main([*command, "--ordered_by", "me", "--deep"]) == 0
    assert [row.object_key for row in rows_of(layout)] == [kept.object_key]
    names = "\n".join(store.read_all())
    assert str(gone.study_instance_uid) not in names
    assert str(kept.study_instance_uid) in names
    assert verify_lake(layout, deep=True).violations == []

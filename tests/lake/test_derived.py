"""Derived objects: in step with decisions, accounted for, the same after every kill."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pydicom
import pytest

from pipeline import derived
from pipeline.cli import main
from pipeline.derived import AfterChanges, write_missing_derived
from tests.conformance import violations
from tests.conftest import Lake, counts, route_into
from tests.lake.conftest import LENIENT
from tests.lake.rows import append_rows, index_row, new_lake
from tests.stores import Store
from tests.synthetic import dicom_bytes, image
from transforms.config.derivation import Derivation, DerivationError, parse_derivation, prepare
from transforms.config.policy_file import PolicyError, parse_policy
from transforms.core.reasons import Status
from transforms.imaging.object_transforms import find_transform
from transforms.lake.apply_labels import apply_labels
from transforms.lake.change_decisions import change_decisions, prepare_changes
from transforms.lake.derived import count_derived, remove_derived, write_derived
from transforms.lake.erasure_places import PLACES, Erasure
from transforms.lake.files import put_bytes, remove_all
from transforms.lake.index_files import list_index, read_table
from transforms.lake.labels import append_label, new_label
from transforms.lake.layout import WRITER_LOCK, Layout, partition_of
from transforms.lake.lock import lock_lake
from transforms.lake.marker import write_marker
from transforms.lake.schema import IndexRow, from_table
from transforms.lake.verify import verify_lake

ROOT = "1.2.826.0.1.3680043.10.1473"
LABELS = ("spine", "others")
KEY = b"a key of the research office"


def write_key(folder: Path) -> str:
    (folder / "key").write_bytes(KEY)
    return str(folder / "key")


def derivations_of(key: str, root: str | None = None, **options: Any) -> dict[str, Derivation]:
    """Derive de-identified objects of two labels, those of `spine` below another root."""
    one = {"transform": "deidentify", "key_file": key, "options": options}
    found = {}
    for label in LABELS:
        given = {**one, "root": root} if root and label == "spine" else one
        derivation, problems = parse_derivation(given)
        assert derivation is not None, problems
        found[label] = derivation
    return found


def object_of(number: int, **elements: Any) -> bytes:
    return dicom_bytes(
        image(number, (24, 16)), name=str(number), PatientID=f"PAT-{number}", **elements
    )


def stored(layout: Layout, source: str, number: int, **columns: Any) -> IndexRow:
    """Store an object in the lake; return its row."""
    data = object_of(number, **columns.pop("elements", {}))
    sha256 = hashlib.sha256(data).hexdigest()
    row = index_row(
        source,
        sha256,
        sop_instance_uid=f"{ROOT}.3.{number}",
        series_instance_uid=f"{ROOT}.2.{number}",
        study_instance_uid=f"{ROOT}.1.{number}",
        source_size_bytes=len(data),
        **columns,
    )
    uri = layout.object_uri(*row.uri_parts)
    put_bytes(uri, data, scratch=layout.scratch())
    return replace(row, object_uri=layout.relative(uri))


def small_lake(layout: Layout) -> list[IndexRow]:
    """Three routed images, the last with text burned in, and one in review."""
    rows = [
        stored(layout, "/in/a", 1, destination="spine"),
        stored(layout, "/in/b", 2, destination="others"),
        stored(layout, "/in/c", 3, elements={"BurnedInAnnotation": "YES"}),
        stored(layout, "/in/d", 4, destination="review", status=Status.REVIEW),
    ]
    append_rows(layout, *rows)
    return rows


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key, the lake of `small_lake`, and `research`, both after deriving."""
    folder = tmp_path_factory.mktemp("derived")
    layout = layout_of(folder)
    new_lake(folder / "lake")
    small_lake(layout)
    derivations = derivations_of(write_key(folder), str(folder / "research"))
    counted = write_missing_derived(layout, derivations, "run", threads=2)
    assert counted == {"written": 2, "refused": 1}
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of `prepared`, where the rows have the URIs of the copy."""
    layout = layout_of(tmp_path)
    new_lake(tmp_path / "lake")
    small_lake(layout)
    derivations = derivations_of(write_key(tmp_path), str(tmp_path / "research"))
    write_missing_derived(layout, derivations, "run", threads=1)
    return tmp_path


def layout_of(folder: Path) -> Layout:
    return Layout(str(folder / "lake"), derived={"spine": str(folder / "research")})


def derive_again(folder: Path, **options: Any) -> dict[str, int]:
    derivations = derivations_of(str(folder / "key"), str(folder / "research"), **options)
    return write_missing_derived(layout_of(folder), derivations, "again", threads=1)


def derived_rows(lake: Path) -> list[dict[str, Any]]:
    """The rows that DuckDB finds."""
    query = f"SELECT * FROM '{lake}/derived/*/*.parquet' ORDER BY object_key"
    found: list[dict[str, Any]] = duckdb.sql(query).arrow().read_all().to_pylist()
    return found


def files_in(folder: Path) -> dict[str, str]:
    """sha256 of derived objects by name; and of nothing else in the lake but its table."""
    found = [
        p for name in ("research", "lake/derived_objects") for p in (folder / name).rglob("*.dcm")
    ]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def problems(folder: Path) -> list[str]:
    """The kinds of violations that `verify --deep` finds."""
    return [one.kind for one in verify_lake(layout_of(folder), deep=True).violations]


def test_a_derived_object_has_its_row(prepared: Path) -> None:
    rows = derived_rows(prepared / "lake")
    files = files_in(prepared)
    assert len(rows) == 3
    (refused,) = [row for row in rows if row["status"] == "refused"]
    assert (refused["reason"], refused["derived_uri"]) == ("burned_in_annotation", None)
    for row in (row for row in rows if row["status"] == "written"):
        path = prepared / "lake" / row["derived_uri"]
        data = path.read_bytes()
        assert files[str(path.relative_to(prepared))] == row["derived_sha256"]
        assert len(data) == row["derived_size_bytes"]
        ds = pydicom.dcmread(io.BytesIO(data))
        assert ds.SOPInstanceUID == row["derived_sop_instance_uid"] != row["content_sha256"]
        assert ds.StudyInstanceUID in path.as_posix()
        assert (row["transform"], row["burned_in"]) == ("deidentify", "unknown")
        for trace in (b"SECRET", b"PAT-", ROOT.encode()):
            assert trace not in data
            assert trace.decode() not in path.as_posix()
    assert {p.split("/")[0] for p in files} == {"research", "lake"}
    report = verify_lake(layout_of(prepared), deep=True)
    assert report.violations == []
    assert report.derived == {"written": 2, "refused": 1}
    assert violations(prepared / "lake") == []


def test_deriving_again_changes_nothing(prepared: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = files_in(prepared), derived_rows(prepared / "lake")
    caplog.set_level(logging.INFO)
    assert derive_again(prepared) == {}
    assert (files_in(prepared), derived_rows(prepared / "lake")) == before
    assert "SECRET" not in caplog.text


def test_a_lake_without_derivations_has_no_table(tmp_path: Path) -> None:
    layout = new_lake(tmp_path / "lake")
    small_lake(layout)
    before = {p for p in Path(layout.root).rglob("*")}
    assert write_missing_derived(layout, {}, "run") == {}
    assert {p for p in Path(layout.root).rglob("*")} == before


def test_what_was_lost_is_written_again_byte_for_byte(folder: Path) -> None:
    before = files_in(folder)
    shutil.rmtree(folder / "lake" / "derived")
    assert derive_again(folder) == {"written": 2, "refused": 1}
    assert files_in(folder) == before


def test_other_options_replace_the_objects(folder: Path) -> None:
    before = files_in(folder)
    assert derive_again(folder, burned_in="flag") == {"written": 3}
    assert len(files_in(folder)) == 3
    assert not files_in(folder).keys() & before.keys()
    flagged = [row["burned_in"] for row in derived_rows(folder / "lake")]
    assert sorted(flagged) == ["unknown", "unknown", "yes"]
    assert problems(folder) == []


STEPS = ("write_derived_intent", "write_derived", "finish_intent")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_run_is_repeated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    """The run ends before or after a step; its objects are of another transform id than the old ones."""
    module = sys.modules["pipeline.derived"]
    original: Callable[..., Any] = getattr(module, step)

    def end(*args: Any, **kwargs: Any) -> None:
        if when == "after":
            original(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, step, end)
        with pytest.raises(KeyboardInterrupt):
            derive_again(folder, burned_in="flag")
    assert problems(folder) == []  # what is unfinished has an intent
    derive_again(folder, burned_in="flag")
    assert len(files_in(folder)) == 3
    assert problems(folder) == []
    assert not list((folder / "lake" / "journal").glob("*"))


def test_derived_objects_follow_decisions(folder: Path) -> None:
    layout = layout_of(folder)
    (row,) = [r for r in rows_of(layout) if r.destination == "others"]
    append_label(layout, new_label(row, "spine", "ann", 1_000_000))
    assert apply_labels(layout).images == 1  # without the policy: removed, not written
    assert problems(folder) == []
    assert len(files_in(folder)) == 1
    append_label(layout, new_label(row, "others", "ann", 2_000_000))
    then = AfterChanges(derivations_of(str(folder / "key"), str(folder / "research")))
    assert apply_labels(layout, then=then).images == 1
    assert sorted(name.split("/")[0] for name in files_in(folder)) == ["lake", "research"]
    (routed,) = [r for r in rows_of(layout) if r.source_uri == row.source_uri]
    prepare_changes(layout)
    reviewed = replace(routed, status=Status.REVIEW, destination="review")
    change_decisions(layout, [reviewed], "review", overrule_people=True)
    assert [name.split("/")[0] for name in files_in(folder)] == ["research"]
    assert problems(folder) == []


def test_other_days_are_not_read_after_a_change(folder: Path) -> None:
    layout = layout_of(folder)
    rows = rows_of(layout)
    shutil.rmtree(folder / "lake" / "derived")  # everything is missing
    for table in ("index", "derived"):
        damaged = folder / "lake" / table / "ingest_date=2026-01-02"
        damaged.mkdir(parents=True)
        name = "derived.parquet" if table == "derived" else "log-002-001-000000001.parquet"
        (damaged / name).write_bytes(b"damaged: whoever reads it fails")
    changed = [row for row in rows if row.destination == "others"]
    derivations = derivations_of(str(folder / "key"), str(folder / "research"))
    for expected in ({"written": 1}, {}):
        found = write_missing_derived(layout, derivations, "again", threads=1, changed=changed)
        assert found == expected
    contents = [str(row.content_sha256) for row in rows]
    (day,) = {row.ingest_date for row in rows}
    assert remove_derived(layout, contents, changed_in=[day]) == 0
    assert remove_derived(layout, contents, changed_in=["2026-01-03"]) == 0


def test_deriving_a_large_day_writes_its_rows_a_few_times_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = written = 0
    while done < 1_000_000:
        done += derived.batch_rows(done)
        written += done
    assert written < 80 * done  # with batches of one size it grows with their number: 977
    shutil.rmtree(folder / "lake" / "derived")
    writes = []
    monkeypatch.setattr(derived, "BATCH_ROWS", 1)
    monkeypatch.setattr(derived, "BATCH_SHARE", 1)

    def count(layout: Layout, day: str, rows: pa.Table) -> None:
        writes.append(len(rows))
        write_derived(layout, day, rows)

    monkeypatch.setattr("pipeline.derived.write_derived", count)
    assert derive_again(folder) == {"written": 2, "refused": 1}
    assert writes == [1, 2, 3]


def test_the_first_change_of_a_review_derives_what_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_of(folder)
    (row,) = [row for row in rows_of(layout) if row.destination == "others"]
    shutil.rmtree(folder / "lake" / "derived")
    then = AfterChanges(derivations_of(str(folder / "key"), str(folder / "research")))
    then(layout, [row])
    assert len(derived_rows(folder / "lake")) == 3
    shutil.rmtree(folder / "lake" / "derived")
    then(layout, [row])
    assert len(derived_rows(folder / "lake")) == 1  # only the changed row
    with monkeypatch.context() as full:
        full.setattr("pipeline.derived.write_derived", fail)
        with pytest.raises(OSError, match="no space"):
            shutil.rmtree(folder / "lake" / "derived")
            then(layout, [row])
    then(layout, [row])
    assert len(derived_rows(folder / "lake")) == 3


def fail(*args: object) -> None:
    raise OSError("no space")


def rows_of(layout: Layout) -> list[IndexRow]:
    return [
        row for uri in list_index(layout) for row in from_table(read_table(uri), partition_of(uri))
    ]


def test_verify_finds_violations(folder: Path) -> None:
    layout = layout_of(folder)
    (inside,) = (folder / "lake" / "derived_objects").rglob("*.dcm")
    data = inside.read_bytes()
    inside.write_bytes(data[:-1] + b"x")
    assert problems(folder) == ["derived object with other bytes"]
    inside.write_bytes(data[:-1])
    assert set(problems(folder)) == {
        "derived object of another size",
        "derived object with other bytes",
    }
    inside.unlink()
    assert problems(folder) == ["derived row without an object"]
    (inside.parent / "other.dcm").write_bytes(b"")
    (folder / "research" / "derived_objects" / "orphan.dcm").write_bytes(b"")
    assert sorted(problems(folder))[:2] == ["derived object without a row"] * 2
    remove_all([str(inside.parent / "other.dcm"), f"{folder}/research/derived_objects/orphan.dcm"])
    (row,) = [r for r in rows_of(layout) if r.destination == "others"]
    shutil.rmtree(folder / "lake" / "index")
    append_rows(layout, *[r for r in small_lake_rows(folder) if r.source_uri != row.source_uri])
    assert "derived object of another decision" in problems(folder)


def small_lake_rows(folder: Path) -> list[IndexRow]:
    other = Layout(str(folder / "copy"))
    new_lake(folder / "copy")
    return small_lake(other)


def test_erasure_includes_derived_objects(folder: Path) -> None:
    layout = layout_of(folder)
    contents = frozenset(row["content_sha256"] for row in derived_rows(folder / "lake"))
    (place,) = [one for one in PLACES if one.name == "derived objects"]
    assert place.erase(layout, Erasure(contents), False) == count_derived(layout, contents) == 3
    assert place.erase(layout, Erasure(contents), True) == 3
    assert files_in(folder) == {}
    assert not list((folder / "lake" / "derived").rglob("*.parquet"))
    assert remove_derived(layout, contents) == 0


def test_forgetting_a_study_forgets_what_was_derived_and_is_audited(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, audit = str(folder / "lake"), folder / "audit.xml"
    (inside,) = (folder / "lake" / "derived_objects").rglob("*.dcm")
    forget = ["forget", lake, "--study", f"{ROOT}.1.2", "--apply", "--ordered_by", "order 7"]
    assert main([*forget, "--audit_syslog", "tcp://127.0.0.1:1"]) == 1
    assert "--audit_syslog" in capsys.readouterr().err
    assert inside.exists()
    assert main([*forget, "--audit_file", str(audit)]) == 0
    assert not inside.exists()
    assert len(derived_rows(folder / "lake")) == 2
    assert problems(folder) == []
    *_, message = audit.read_text().splitlines()
    assert 'csd-code="110105"' in message  # DICOM Study Deleted
    assert f"{ROOT}.1.2" in message


def test_derived_objects_are_in_a_bucket(store: Store, tmp_path: Path) -> None:
    layout = Layout(f"{store.root}/lake", derived={"spine": f"{store.root}/research"})
    write_marker(layout)
    small_lake(layout)
    derivations = derivations_of(write_key(tmp_path), f"{store.root}/research")
    assert write_missing_derived(layout, derivations, "run", threads=1) == {
        "written": 2,
        "refused": 1,
    }
    names = [name for name in store.read_all() if "derived_objects/" in name]
    assert sorted(name.split("/")[0] for name in names) == ["lake", "research"]
    assert verify_lake(layout, deep=True).violations == []
    assert remove_derived(layout, [row.content_sha256 or "" for row in rows_of(layout)]) == 3
    assert not [name for name in store.read_all() if "derived" in name]


def test_objects_are_derived_beside_a_stream(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = layout_of(folder)
    policy = folder / "policy.yaml"
    derive = f"{{transform: deidentify, key_file: {folder}/key}}"
    policy.write_text(f"sinks:\n  others: {{derive: {derive}}}\n")
    append_rows(layout, stored(layout, "/in/e", 5, destination="others"))
    with lock_lake(layout, names=[WRITER_LOCK]):
        options = ["--policy", str(policy), "--audit_file", str(folder / "audit.xml")]
        assert main(["derive", layout.root, *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert f"{ROOT}.1.5" in (folder / "audit.xml").read_text()
    assert found["new"] == {"written": 1, "refused": 0, "failed": 0}
    assert problems(folder) == []


def test_an_object_that_cannot_be_derived_keeps_its_decision(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout = layout_of(folder)
    new = stored(layout, "/in/SECRET^NAME.dcm", 5, destination="others")
    append_rows(layout, new)
    Path(layout.absolute(str(new.object_uri))).write_bytes(b"other bytes")
    assert derive_again(folder) == {"failed": 1}
    (row,) = [r for r in derived_rows(folder / "lake") if r["object_key"] == new.object_key]
    assert (row["status"], row["reason"]) == ("failed", "changed")
    assert f"object {new.object_key}: nothing is derived (changed)" in caplog.text
    assert "SECRET" not in caplog.text
    Path(layout.absolute(str(new.object_uri))).write_bytes(object_of(5))
    assert derive_again(folder) == {"written": 1}
    assert problems(folder) == []


POLICY = """\
sinks:
  spine:
    derive: {transform: deidentify, key_file: KEY, root: /research, options: {dates: shift}}
"""


def test_the_policy_names_transforms(tmp_path: Path) -> None:
    policy = parse_policy(POLICY.replace("KEY", write_key(tmp_path)))
    assert policy.derived_roots == {"spine": "/research"}
    assert prepare(policy.derive["spine"]).options["dates"] == "shift"
    assert policy.policy_id == parse_policy("").policy_id


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("deidentify", "blur", "transform: unknown transform 'blur'"),
        ("shift", "all", "options: dates: must be"),
        ("key_file: KEY, ", "", "derive.key_file: missing"),
        ("/research", "research", "derive.root: must be an absolute"),
        ("spine", "review", "derive: only sinks of labels"),
        ("root", "rot", "did you mean root"),
        ("transform: deidentify", "transform: 1", "must be text"),
    ],
)
def test_an_invalid_derivation_is_named(old: str, new: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        parse_policy(POLICY.replace(old, new))


def test_a_key_is_needed(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"short")
    for name, message in ((str(short), "fewer than 16 bytes"), ("/missing", "cannot be read")):
        with pytest.raises(DerivationError, match=message):
            prepare(Derivation("deidentify", name))


def test_a_package_adds_a_transform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blurring_for_tests.py").write_text(
        "class Blur:\n    name, version = 'blur', '1'\n"
    )
    info = tmp_path / "blurring-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: blurring\nVersion: 1\n")
    entry = "[dicom_imaging_router.transforms]\nblur = blurring_for_tests:Blur\nbad = missing:Bad\n"
    (info / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_transform("blur").version == "1"
    with pytest.raises(ValueError, match=r"'bad' cannot be imported \(ModuleNotFoundError\)"):
        find_transform("bad")


@pytest.mark.slow
def test_a_run_derives_and_reports(
    routed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = Lake(tmp_path / "lake")
    one = f"{{derive: {{transform: deidentify, key_file: {write_key(tmp_path)}}}}}"
    labels = ("abdominal", "adult_chest", "pediatric_chest", "spine", "others")
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"{LENIENT}sinks:\n" + "".join(f"  {name}: {one}\n" for name in labels))
    options = ("--policy", str(policy))
    summary = route_into(lake, *options, inputs=(str(routed / "source"),))
    assert counts(summary) == {"routed": 3, "duplicate": 1, "not_xray": 1, "quarantined": 1}
    assert summary["derived"] == {"written": 3, "refused": 0, "failed": 0}
    before = {**files_in(tmp_path)}
    assert len(before) == 3
    assert violations(lake.root) == []
    capsys.readouterr()
    assert main(["derive", str(lake.root), *options]) == 0
    assert "new: 0 written" in capsys.readouterr().out
    assert main(["verify", str(lake.root), "--deep", *options]) == 0
    assert "derived objects: 3 written" in capsys.readouterr().out
    assert files_in(tmp_path) == before
    strict = tmp_path / "strict.yaml"
    strict.write_text(policy.read_text().replace("min_long_side: 10", "min_long_side: 4000"))
    reroute = ["reroute", str(lake.root), "--apply", "--quiet", "--policy"]
    assert main([*reroute, str(strict)]) == 0
    assert files_in(tmp_path) == {}
    assert main([*reroute, str(policy)]) == 0
    assert files_in(tmp_path) == before
    assert main(["verify", str(lake.root), "--deep", *options]) == 0
    assert main(["derive", str(lake.root), "--policy", str(routed / "lenient.yaml")]) == 2

"""Derived objects are written once, have a row, and are the same after every kill."""

from __future__ import annotations

import io
import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pydicom
import pytest

from pipeline import derived
from pipeline.cli import main
from pipeline.derived import write_missing_derived
from tests.audit.audit_messages import lines, summary_of
from tests.conformance import violations
from tests.conftest import Lake, counts, route_into
from tests.lake.conftest import LENIENT
from tests.lake.derived.lakes import (
    ROOT,
    derivations_of,
    derive_again,
    derived_rows,
    files_in,
    layout_of,
    object_of,
    problems,
    rows_of,
    small_lake,
    stored,
    write_key,
)
from tests.lake.rows import append_rows, new_lake
from tests.stores import Store
from transforms.lake.derived import remove_derived, write_derived
from transforms.lake.layout import WRITER_LOCK, Layout
from transforms.lake.lock import lock_lake
from transforms.lake.marker import write_marker
from transforms.lake.verify import verify_lake


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


def test_derivations_are_reported_before_their_rows_are_replaced(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, file, policy = str(folder / "lake"), folder / "audit.xml", folder / "policy.yaml"
    derive = f"{{transform: deidentify, key_file: {folder}/key}}"
    policy.write_text(f"sinks:\n  others: {{derive: {derive}}}\n")

    def derive_with(key: bytes, *options: str) -> int:
        (folder / "key").write_bytes(key * 32)
        return main(["derive", lake, "--policy", str(policy), *options])

    assert main(["audit", lake, "--audit_file", str(file)]) == 0
    number = len(lines(file))
    assert derive_with(b"1") == 0
    before = derived_rows(folder / "lake")
    assert derive_with(b"2", "--audit_syslog", f"unix://{folder}/absent") == 1
    assert "--audit_syslog" in capsys.readouterr().err
    assert derived_rows(folder / "lake") == before  # the only trace of what waits
    assert derive_with(b"2", "--audit_file", str(file)) == 0
    after = derived_rows(folder / "lake")
    derived_by = [summary_of(line)["details"]["run_id"] for line in lines(file)[number:]]
    assert derived_by == [
        next(row["run_id"] for row in rows if row["destination"] == "others")
        for rows in (before, after)
    ]
    assert len(set(derived_by)) == 2


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
    audit = ("--audit_file", str(tmp_path / "audit.xml"))
    assert main(["audit", str(lake.root), *audit]) == 0
    assert main([*reroute, str(policy)]) == 0
    assert files_in(tmp_path) == before
    assert main([*reroute, str(strict), *audit]) == 0  # removes what was not reported
    found = [summary_of(line) for line in lines(tmp_path / "audit.xml")]
    assert sum(one["instances"] for one in found if "derived" in one["types"]) == 3
    assert main([*reroute, str(policy), *audit]) == 0
    assert main(["verify", str(lake.root), "--deep", *options]) == 0
    assert main(["derive", str(lake.root), "--policy", str(routed / "lenient.yaml")]) == 2

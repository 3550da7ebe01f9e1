"""The audit trail: each event is reported, and reported once, whatever is killed or rewritten."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit.destinations import AuditError, deliver
from pipeline.audit.messages import NOT_READ
from pipeline.audit.notes import MAX_NOTES, Notes, Reported
from pipeline.audit.trail import AuditTrail
from pipeline.cli import main
from pipeline.derived import AfterChanges
from tests.audit.audit_messages import lines, summary_of
from tests.audit.trails import audited, change, instances, row_of
from tests.conftest import Lake, route_into
from tests.lake.rows import append_rows, erase, new_lake
from transforms.config.audit_options import AuditOptions
from transforms.core.reasons import Status
from transforms.core.run_id import new_run_id
from transforms.lake.append import append_after
from transforms.lake.append_log import LogEnd, LogShard
from transforms.lake.change_decisions import change_decisions, prepare_changes
from transforms.lake.files import list_files
from transforms.lake.index_files import list_index, read_matching, shard_of
from transforms.lake.labels import append_label, list_labels, new_label
from transforms.lake.layout import Layout
from transforms.lake.schema import IndexRow, to_table


def test_each_study_of_a_run_is_reported_once(tmp_path: Path) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    append_rows(layout, row_of(0, new_run_id()))  # before the trail begins
    run = new_run_id()
    trail = audited(layout, file)
    trail.begin(run)
    key = "cd" * 32
    append_rows(
        layout, row_of(1, run, patient_key=key), row_of(2, run), row_of(3, run, patient_key=key)
    )
    assert trail.report() == len(lines(file)) == 2
    first, second = map(summary_of, lines(file))
    assert (first["study"], first["patient"], first["instances"]) == ("1.9.0", NOT_READ, 1)
    assert first["types"] == ["routed", "decided"]
    assert (second["study"], second["patient"], second["instances"]) == ("1.9.1", key, 2)
    assert second["types"] == ["routed", "decided", "identity_read"]
    assert second["details"] == {"run_id": run, "destination:spine": "2"}
    assert trail.report() == 0
    append_rows(layout, row_of(4, new_run_id()))
    assert audited(layout, file).report() == 1
    assert b"SECRET" not in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o640


def test_changes_of_one_run_are_reported_while_it_continues(tmp_path: Path) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    trail, run = audited(layout, file), new_run_id()
    trail.begin(run)
    rows = [row_of(number, run) for number in range(3)]
    append_rows(layout, *rows)
    assert trail.report() == 2
    prepare_changes(layout)
    again, newer = new_run_id(), new_run_id()
    for row in rows:
        decided = replace(row, destination="others")
        assert change_decisions(layout, [decided], again).changed
        if row is rows[1]:
            assert change_decisions(layout, [replace(row, destination="abdominal")], newer).changed
        assert trail.report() == 1 + (row is rows[1])
    assert instances(file, "rerouted") == 4
    erase(layout, str(rows[0].content_sha256))
    assert audited(layout, file).report() == 0


def test_what_was_reported_is_not_read_again(tmp_path: Path) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    trail, run = audited(layout, file), new_run_id()
    trail.begin(run)
    row = row_of(0, run)
    append_rows(layout, row)
    append_label(layout, new_label(row, "spine", "bob", int(datetime.now(UTC).timestamp() * 1e6)))
    change(layout, row)
    assert trail.report() == 3
    changed = [*list_index(layout), *list_labels(layout)]
    changed += [one.uri for one in list_files(layout.history, ".parquet")]
    for uri in changed:
        Path(uri).write_bytes(b"damaged: whoever reads it fails")
    append_rows_unread(layout, row_of(2, run))
    assert trail.report() == 1
    assert audited(layout, file).report() == 0


def test_rows_that_replace_a_damaged_segment_are_reported(tmp_path: Path) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    trail, run = audited(layout, file), new_run_id()
    trail.begin(run)
    append_rows_unread(layout, row_of(0, run))
    assert trail.report() == 1
    for uri in list_index(layout):
        Path(uri).unlink()  # as the message about a damaged file says
    append_rows_unread(layout, row_of(0, new_run_id()))
    again = audited(layout, file)
    assert again.report() == 1
    assert again.report() == audited(layout, file).report() == 0


def append_rows_unread(layout: Layout, row: IndexRow) -> None:
    """Append a row to a log of its own, of which nothing is read."""
    log = LogShard(2, shard_of(row.identity, 2))
    table = to_table([row])
    append_after(layout, log, LogEnd(), table, run_id=row.run_id, ingest_date="2026-01-01")


def test_notes_are_merged(tmp_path: Path) -> None:
    layout = new_lake(tmp_path / "lake")
    one, other = Notes(layout), Notes(layout)
    one.begin("0")
    reported = Reported({"004-001": (7, "r")}, {"u"}, {"r"}, {"a"}, {"history/gone.parquet"})
    one.add(reported)
    for number in range(MAX_NOTES + 2):
        other.load()
        (one if number % 3 else other).add(
            Reported({"004-000": (number, "r")}, ended={f"r{number}"})
        )
    assert len(list(Path(layout.audit).iterdir())) < 8
    for notes in (one, other, Notes(layout)):
        found = notes.load()
        assert found.logs == {"004-000": (MAX_NOTES + 1, "r"), "004-001": (7, "r")}
        assert found.ended == {"r", *(f"r{number}" for number in range(MAX_NOTES + 2))}
        assert (found.units, found.answers) == ({"u"}, {"a"})
    assert Notes(layout).load().files == set()


@pytest.mark.parametrize("content", ["{", "[]", '{"logs": {"a": 1}}', '{"answers": 1}'])
def test_a_damaged_note_stops_no_writer(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    content: str,
) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    trail, run = audited(layout, file), new_run_id()
    trail.begin(run)
    append_rows(layout, row := row_of(0, run))
    note = tmp_path / "lake" / "audit" / "damaged.json"
    note.write_text(content)
    AfterChanges(audit=trail)(layout, [row])
    assert "damaged.json is damaged; remove it" in caplog.text
    assert main(["audit", layout.root, "--audit_file", str(file)]) == 1
    assert "damaged.json is damaged; remove it" in capsys.readouterr().err
    note.unlink()
    assert trail.report() == 1


def test_a_report_that_was_not_noted_is_delivered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    trail, run = audited(layout, file), new_run_id()
    trail.begin(run)
    append_rows(layout, row_of(0, run))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Notes, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            trail.report()
    assert (trail.report(), len(lines(file))) == (1, 2)


def test_answers_and_what_they_change_are_reported(tmp_path: Path) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    row = row_of(1, new_run_id(), status=Status.REVIEW, destination="review")
    append_rows(layout, row)
    trail = audited(layout, file)
    trail.begin()
    now = int(datetime.now(UTC).timestamp() * 1e6)
    append_label(layout, new_label(row, "spine", "bob", now))
    prepare_changes(layout)
    decided = replace(row, status=Status.ROUTED, destination="spine", decided_by="person")
    assert change_decisions(layout, [decided], new_run_id()).changed
    assert trail.report() == 2
    changed, answered = map(summary_of, lines(file))
    assert (changed["event"], changed["action"]) == ("DICOM Instances Accessed", "U")
    assert (changed["types"], changed["details"]["destination:spine"]) == (["rerouted"], "1")
    assert (answered["types"], answered["requestor"]) == (["reviewed"], ["bob"])
    assert answered["details"] == {"answer:spine": "1"}
    assert trail.report() == 0


def test_nothing_is_lost_if_a_destination_is_down(tmp_path: Path) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    run = new_run_id()
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    trail = AuditTrail(layout, AuditOptions(audit_syslog=url), "0.0.1")
    trail.begin(run)
    append_rows(layout, row_of(1, run))
    with pytest.raises(AuditError, match="--audit_syslog"):
        trail.report()
    assert audited(layout, file).report() == 1
    with pytest.raises(AuditError, match="cannot be written"):
        deliver([b"<x/>"], AuditOptions(audit_file=tmp_path), "host")


def test_all_runs_that_wait_are_reported(tmp_path: Path) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    trail, runs = audited(layout, file), sorted(new_run_id() for _ in range(40))
    trail.begin(runs[0])
    for run in runs:
        summary = {
            "run_id": run, "kind": "route", "complete": True, "counts": {"discovered": 0},
            "equation": "0", "started_at": "2026-01-02T03:04:05Z", "finished_at": "2026-01-02T03:04:06Z",
        }  # fmt: skip
        path = Path(layout.run_summary(run, complete=True))
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(summary))
    assert trail.report() == 2 * len(runs)
    assert trail.report() == 0


def test_erasures_are_reported_before_they_happen(tmp_path: Path) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    rows = [row_of(number, new_run_id()) for number in range(4)]
    append_rows(layout, *rows)
    erased = [str(row.content_sha256) for row in (rows[0], rows[1], rows[2])]
    assert audited(layout, file).forgetting(erased, "order 7") == 2
    whole, part = map(summary_of, lines(file))
    assert (whole["event"], whole["study"], whole["instances"]) == (
        "DICOM Study Deleted",
        "1.9.0",
        2,
    )
    assert (part["event"], part["action"]) == ("DICOM Instances Accessed", "D")
    assert part["types"] == ["forgotten"]
    assert part["details"] == {"ordered_by": "order 7"}
    assert audited(layout, file).forgetting([]) == 0


def test_nothing_is_written_without_options(tmp_path: Path) -> None:
    layout = new_lake(tmp_path / "lake")
    append_rows(layout, row_of(1, new_run_id()))
    trail = AuditTrail(layout, AuditOptions(), "0")
    trail.begin()
    assert trail.report() == trail.forgetting(["a"]) == 0
    assert not (tmp_path / "lake" / "audit").exists()


@pytest.mark.slow
def test_commands_report(routed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake, file = Lake(tmp_path / "lake"), tmp_path / "audit.xml"
    audit = ("--audit_file", str(file), "--audit_source", "ward 3")
    source, lenient = str(routed / "source"), ("--policy", str(routed / "lenient.yaml"))
    (tmp_path / "key").write_bytes(b"k" * 32)
    key = ("--patient_key_file", str(tmp_path / "key"))
    route_into(lake, *lenient, *key, *audit, inputs=(source,))
    found = [summary_of(line) for line in lines(file)]
    kinds = [one["event"] for one in found]
    assert kinds[0] == kinds[-1] == "Application Activity"
    assert sum(one["instances"] for one in found) == 6
    assert all(
        "identity_read" in one["types"] for one in found if one["patient"] not in (None, NOT_READ)
    )
    number = len(found)
    route_into(lake, *lenient, *audit, inputs=(source,))
    assert [summary_of(line)["event"] for line in lines(file)[number:]] == [
        "Application Activity"
    ] * 2
    number += 2
    strict = [
        "reroute",
        str(lake.root),
        "--policy",
        str(routed / "strict.yaml"),
        "--apply",
        "--quiet",
    ]
    assert main([*strict, *audit]) == 0
    again = [summary_of(line) for line in lines(file)[number:]]
    assert {one["types"][0] for one in again[1:-1]} == {"rerouted"}
    capsys.readouterr()
    assert main(["audit", str(lake.root), *audit]) == 0
    assert capsys.readouterr().out == "audit messages delivered: 0\n"
    text = file.read_bytes()
    assert b"SECRET" not in text
    assert source.encode() not in text
    assert json.loads((lake.root / "audit" / "since.json").read_text())["run_id"]


@pytest.mark.parametrize("lost", [False, True])
def test_history_that_an_erasure_replaces_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    trail, run = audited(layout, file), new_run_id()
    trail.begin(run)
    rows = [row_of(number, run) for number in range(2)]
    append_rows(layout, *rows)
    if not lost:
        assert trail.report() == 2
    change(layout, rows[0])
    change(layout, replace(rows[1], destination="spine"))
    replaced: list[str] = []

    def read(uri: str, *args: Any) -> Iterator[Any]:
        columns = args[0]
        if "/history/" in uri and "run_id" in columns and not replaced:
            replaced.append(uri)
            Path(uri).rename(Path(uri).with_name("part-replaced.parquet"))
        return read_matching(uri, *args)

    monkeypatch.setattr("pipeline.audit.unreported.read_matching", read)
    trail.report()
    assert replaced
    assert (instances(file), instances(file, "rerouted")) == (2, 2)

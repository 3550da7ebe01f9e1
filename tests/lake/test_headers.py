"""A lake with `--headers` has the header of each object once, whatever happens to the run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from tests.audit.audit_messages import lines, summary_of
from tests.conftest import Lake, route_into
from tests.lake.conftest import CT, LENIENT
from tests.lake.rows import append_rows, index_row, new_lake, place, replica_of
from tests.synthetic import dicom_bytes, image
from transforms.lake.content_compaction import compact_table
from transforms.lake.content_tables import write_rows
from transforms.lake.headers import HEADERS
from transforms.lake.layout import Layout
from transforms.lake.recovery import sweep_journal
from transforms.lake.verify import verify_lake

PAGE = Path(__file__).parents[2] / "docs" / "headers.md"
CANARIES = ("SECRET", "19630405", "Secret Street", "secret words")
POLICY = LENIENT + "header_attributes: [StudyDate, AccessionNumber, PatientID]\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `source`, `policy.yaml`, `key`, and the lake of a run with `--headers`."""
    folder = tmp_path_factory.mktemp("headers")
    source = folder / "source"
    source.mkdir()
    for number in range(4):
        data = dicom_bytes(
            image(number, (96, 64)),
            name=str(number),
            KVP=str(60 + number),
            StudyDate="20260102",
            AccessionNumber="SECRET-7",
            PatientID="SECRETID",
            PatientBirthDate="19630405",
            PatientAddress="Secret Street 1",
            ImageComments="secret words",
            Manufacturer="ACME",
            **({"SOPClassUID": CT} if number == 3 else {}),
        )
        (source / f"SECRET^NAME {number}.dcm").write_bytes(data)
    (source / "copy.dcm").write_bytes((source / "SECRET^NAME 0.dcm").read_bytes())
    (source / "broken.dcm").write_bytes(b"SECRET")
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "key").write_bytes(b"k" * 32)
    route_into(Lake(folder / "lake"), *options(folder), inputs=(str(source),))
    return folder


def options(folder: Path) -> tuple[str, ...]:
    policy, key = str(folder / "policy.yaml"), str(folder / "key")
    return "--headers", "--policy", policy, "--patient_key_file", key


def headers_of(root: Path) -> list[dict[str, Any]]:
    files = sorted((root / "headers").rglob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return sorted(rows, key=lambda row: row["content_sha256"])


def test_each_object_has_its_header_once(folder: Path) -> None:
    lake = Lake(folder / "lake")
    rows = {row["content_sha256"]: row for row in lake.rows() if row["sop_instance_uid"]}
    found = headers_of(lake.root)
    assert [row["content_sha256"] for row in found] == sorted(rows)
    assert len(found) == 4
    for row in found:
        of_index = rows[row["content_sha256"]]
        for column in ("sop_class_uid", "study_instance_uid", "series_instance_uid", "patient_key"):
            assert row[column] == of_index[column]
        header = json.loads(row["header"])
        assert header["00280010"]["Value"] == [of_index["rows"]]
        assert header["00080020"]["Value"] == ["20260102"]
        assert header["00100020"]["Value"] == [of_index["patient_key"]]
        assert header["00080050"]["Value"] != ["SECRET-7"]
    assert main(["verify", str(lake.root), "--deep"]) == 0


def test_nothing_in_the_table_identifies_a_patient(folder: Path) -> None:
    rows = headers_of(folder / "lake")
    text = json.dumps(rows)
    assert not [canary for canary in CANARIES if canary in text]


def test_without_the_option_a_lake_has_no_headers(folder: Path, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    route_into(lake, *options(folder)[1:], inputs=(str(folder / "source"),))
    with_headers = Lake(folder / "lake")
    assert not (lake.root / "headers").exists()
    names = [name for name in with_headers.tree() if not name.startswith("headers/")]
    assert [re.sub("[0-9a-f]{32}", "", name) for name in lake.tree()] == [
        re.sub("[0-9a-f]{32}", "", name) for name in names
    ]


def test_the_headers_of_an_existing_lake_are_those_of_a_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(folder / "lake", lake)
    shutil.rmtree(lake / "headers")
    (path,) = lake.glob("objects/body_part=not_xray/**/*.dcm")
    path.rename(tmp_path / "lost")
    command = ["headers", str(lake), *options(folder)[1:]]
    assert main([*command, "--audit_syslog", "tcp://127.0.0.1:1"]) == 1
    assert "--audit_syslog" in capsys.readouterr().err
    assert not (lake / "headers").exists()  # Patient IDs are not read unreported
    audit = tmp_path / "audit.xml"
    assert main([*command, "--audit_file", str(audit)]) == 1
    messages = list(map(summary_of, lines(audit)))
    assert sum(message["instances"] for message in messages) == 4
    for message in messages:
        assert (message["event"], message["action"]) == ("DICOM Instances Accessed", "R")
        assert message["types"] == ["identity_read"]
        assert message["patient"] == headers_of(folder / "lake")[0]["patient_key"]
    captured = capsys.readouterr()
    assert captured.out == "3 headers written, 0 cannot be parsed\n"
    assert ": disappeared" in captured.err and "SECRET" not in captured.err
    (tmp_path / "lost").rename(path)
    assert main(command) == 0
    assert headers_of(lake) == headers_of(folder / "lake")
    assert main(command) == 0
    assert "0 headers written" in capsys.readouterr().out
    assert main(["verify", str(lake), "--deep"]) == 0


def test_a_killed_run_loses_no_header(
    folder: Path, lake: Lake, interrupt: Callable[..., None]
) -> None:
    interrupt(folder / "source", *options(folder))
    assert not (lake.root / "headers").exists()
    route_into(lake, *options(folder), inputs=(str(folder / "source"),))
    assert headers_of(lake.root) == headers_of(folder / "lake")
    route_into(lake, *options(folder), inputs=(str(folder / "source"),))
    assert headers_of(lake.root) == headers_of(folder / "lake")


def test_a_stream_stores_headers_when_it_sweeps_the_journal(tmp_path: Path) -> None:
    layout = new_lake(tmp_path / "lake")
    row = place(layout, "/in/a", header='{"00280010":{"Value":[9],"vr":"US"}}', patient_key="k")
    append_rows(layout, replace(row, header=None))
    with replica_of(layout) as replica:
        assert sweep_journal(layout, replica) == 1
    (found,) = headers_of(tmp_path / "lake")
    assert (found["content_sha256"], found["header"]) == (row.content_sha256, row.header)
    assert (found["patient_key"], found["sop_instance_uid"]) == ("k", row.sop_instance_uid)


def test_the_queries_of_the_page_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "LAKE").symlink_to(folder / "lake")
    monkeypatch.chdir(folder)
    queries = re.findall(r"```sql\n(.+?)```", PAGE.read_text(), re.S)
    assert len(queries) >= 3
    database = duckdb.connect()
    views, voltage, regions, present = queries
    database.execute(views)
    by_label = database.sql(voltage).fetchall()
    assert sum(images for _, images, _ in by_label) == 4
    assert {kvp for label, _, kvp in by_label if label == "not_xray"} == {63.0}
    assert database.sql(regions).fetchall() == []
    assert ("00280010", 4) in database.sql(present).fetchall()


def row_of(content: str, header: str = "{}") -> dict[str, Any]:
    names = [name for name in HEADERS.schema.names if name not in ("content_sha256", "header")]
    return {"content_sha256": content, "header": header, **dict.fromkeys(names, "1.2")}


def test_compaction_merges_the_files_of_a_day(tmp_path: Path) -> None:
    layout = new_lake(tmp_path / "lake")
    contents = [f"{n:x}" * 64 for n in range(6)]
    rows = [index_row(f"/in/{n}", one) for n, one in enumerate(contents[:4])]
    append_rows(layout, *rows)
    for start in (0, 2, 4):
        write_rows(layout, HEADERS, "2026-01-01", map(row_of, contents[start : start + 3]))
    found = compact_table(layout, HEADERS, "2026-02-01")
    assert (found.merged_files, found.dropped, found.rows) == (3, 3, 4)
    assert [row["content_sha256"] for row in headers_of(tmp_path / "lake")] == contents[:4]


def test_verify_finds_a_damaged_file_and_a_header_that_is_not_json(tmp_path: Path) -> None:
    layout = Layout(str(new_lake(tmp_path / "lake").root))
    (uri,) = write_rows(layout, HEADERS, "2026-01-01", [row_of("a" * 64, "{")])
    kinds = [one.kind for one in verify_lake(layout, deep=True).violations]
    assert "header that is not JSON" in kinds
    data = bytearray(Path(uri).read_bytes())
    data[len(data) // 3] ^= 1
    Path(uri).write_bytes(data)
    kinds = [one.kind for one in verify_lake(layout, deep=True).violations]
    assert "header file with other bytes" in kinds

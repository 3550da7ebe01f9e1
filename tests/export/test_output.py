"""An export is continued after an interruption, and replaces nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.export import dataset
from pipeline.export.output import Output
from tests.conftest import Lake
from tests.export.conftest import Export, files_of


def test_a_full_disk_is_that_of_the_export(
    exported_lake: Lake, full_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(exported_lake.root), str(full_disk / "out")]) == 1
    assert f"{full_disk / 'out'} cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["folder", "webdataset"])
def test_an_export_interrupted_anywhere_is_completed(
    export: Export, exported_lake: Lake, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    options = ("--to", to, "--shard_rows", "4", "--size", "32", "--threads", "1")
    monkeypatch.setattr(dataset, "CHUNK_ROWS", 4)
    expected_out = export(*options, name="whole")
    expected = files_of(expected_out)
    writes = 0
    whole = Output.put, Output.open
    limit = 0

    def fail() -> None:
        nonlocal writes
        writes += 1
        if writes > limit:
            raise RuntimeError("interrupted")

    def put(self: Output, name: str, data: bytes) -> None:
        fail()
        whole[0](self, name, data)

    def open_file(self: Output, name: str):  # type: ignore[no-untyped-def]
        fail()
        return whole[1](self, name)

    monkeypatch.setattr(Output, "put", put)
    monkeypatch.setattr(Output, "open", open_file)
    out = expected_out.parent / "out"
    code = 1
    while code:
        limit, writes = limit + 1, 0
        code = main(["export", str(exported_lake.root), str(out), *options])
    assert limit > 3
    assert files_of(out) == expected
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_a_complete_export_is_left_as_it_is(
    export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    out = export("--size", "32")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    export("--size", "32")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert capsys.readouterr().out.count("10 images") == 2


def test_no_other_export_is_overwritten(export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    out = export("--size", "32")
    before = files_of(out)
    export("--size", "64", expect=2)
    assert "has another export" in capsys.readouterr().err
    export("--size", "32", "--where", "confidence >= 0 AND object_key < '8'", expect=2)
    assert "has an export of other rows" in capsys.readouterr().err
    assert files_of(out) == before


def test_a_folder_with_other_files_is_refused(
    export: Export, tmp_path: Path, exported_lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_bytes(b"x")
    export(expect=2)
    assert "has other files" in capsys.readouterr().err
    before = exported_lake.tree()
    for folder in (exported_lake.root, exported_lake.root / "objects", exported_lake.root.parent):
        assert main(["export", str(exported_lake.root), str(folder)]) == 2
        assert "outside the lake" in capsys.readouterr().err
    assert exported_lake.tree() == before


def test_a_missing_object_is_reported_and_exported_by_the_next_run(
    exported_lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(exported_lake.root, lake)
    row = next(row for row in exported_lake.rows() if row["status"] == "routed")
    path = lake / row["object_uri"]
    path.rename(tmp_path / "lost")
    command = ["export", str(lake), str(tmp_path / "out"), "--size", "32"]
    assert main(command) == 1
    err = capsys.readouterr().err
    assert f"object {row['object_key']}: disappeared" in err
    assert "run the same command again" in err and "SECRET" not in err
    (tmp_path / "lost").rename(path)
    assert main(command) == 0
    expected = [*command[:2], str(tmp_path / "other"), *command[3:]]
    assert main(expected) == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "other")


def test_an_image_that_cannot_be_decoded_is_left_out(
    exported_lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(exported_lake.root, lake)
    row = next(row for row in exported_lake.rows() if row["status"] == "routed")
    (lake / row["object_uri"]).write_bytes(b"damaged")
    for to in ("folder", "webdataset"):
        assert main(["export", str(lake), str(tmp_path / to), "--to", to]) == 0
        captured = capsys.readouterr()
        assert "9 images, 1 that cannot be decoded left out" in captured.out
        assert f"not exported: object {row['object_key']}: " in captured.err

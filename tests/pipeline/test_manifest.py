"""Manifests list the objects to route; a listed object that does not exist makes a run incomplete."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from tests.conftest import Lake, Route, counts, write
from tests.stores import Store
from tests.synthetic import dicom_bytes, image


@pytest.fixture
def images(source: Path) -> list[Path]:
    return [
        write(source, name, dicom_bytes(image(number, (96, 64)), name=str(number)))
        for number, name in enumerate(("a.dcm", 'with, "comma".dcm', "[glob]*.dcm"))
    ]


def as_text(path: Path, uris: list[str]) -> None:
    path.write_text("".join(f"{uri}\r\n\n" for uri in uris))


def as_csv(path: Path, uris: list[str]) -> None:
    quoted = ['"' + uri.replace('"', '""') + '"' for uri in uris]
    path.write_text("\ufeffnumber,uri\n" + "".join(f"1,{uri}\n" for uri in quoted))


def as_parquet(path: Path, uris: list[str]) -> None:
    pq.write_table(pa.table({"other": [1] * len(uris), "source_uri": uris}), path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write_list"), [("list.txt", as_text), ("L.CSV", as_csv), ("l.parquet", as_parquet)]
)
def test_objects_in_a_manifest_are_routed(
    images: list[Path],
    lake: Lake,
    route: Route,
    tmp_path: Path,
    name: str,
    write_list: Callable[[Path, list[str]], None],
) -> None:
    manifest = tmp_path / name
    write_list(manifest, [str(images[0]), str(images[1]), str(images[2]), str(images[0])])
    summary = route("--source", "manifest", inputs=(str(manifest),))
    assert summary["counts"]["discovered"] == 3
    assert {row["source_uri"] for row in lake.rows()} == {str(path) for path in images}
    assert counts(route("--source", "manifest", inputs=(str(manifest),))) == {"unchanged": 3}


@pytest.mark.slow
def test_standard_input_is_a_manifest(
    images: list[Path], lake: Lake, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images[0].parent)
    monkeypatch.setattr("sys.stdin", io.StringIO("a.dcm\n[glob]*.dcm\n"))
    assert route("--source", "manifest", inputs=("-",))["counts"]["discovered"] == 2
    assert [row["source_uri"] for row in lake.rows()] == sorted([str(images[0]), str(images[2])])


@pytest.mark.slow
def test_a_missing_object_makes_the_run_incomplete(
    images: list[Path], lake: Lake, route: Route, tmp_path: Path
) -> None:
    manifest = tmp_path / "list"
    as_text(manifest, [str(images[0]), str(tmp_path / "DOE^JANE.dcm"), "ftp://h/x", "nul\0.dcm"])
    summary = route("--source", "manifest", inputs=(str(manifest),), expect=1)
    assert sorted(f["reason"] for f in summary["failures"]) == [
        "disappeared",
        "read_failed",
        "read_failed",
    ]
    assert "DOE" not in str(summary)
    assert len(lake.rows()) == 1


@pytest.mark.slow
def test_a_manifest_in_a_store_lists_objects_in_a_store(
    store: Store, lake: Lake, route: Route, images: list[Path]
) -> None:
    uris = [store.write(f"in/{path.name}", path.read_bytes()) for path in images]
    manifest = store.write("list.txt", "\n".join(uris).encode())
    route("--source", "manifest", inputs=(manifest,))
    assert {row["source_uri"] for row in lake.rows()} == set(uris)


def test_a_manifest_without_the_column_is_refused(
    tmp_path: Path, lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "l.csv").write_text("name,age\nx,1\n")
    arguments = ["route", "--source", "manifest", "--lake", str(lake.root), "--input"]
    assert main([*arguments, str(tmp_path / "l.csv")]) == 2
    assert "has no column named uri, source_uri, path, file" in capsys.readouterr().err
    (tmp_path / "empty").write_text("\n\n")
    assert main([*arguments, str(tmp_path / "empty")]) == 2
    assert f"input 1 ({tmp_path / 'empty'}) matches no object" in capsys.readouterr().err

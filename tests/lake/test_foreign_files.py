"""Files of other programs in a lake are ignored and kept; folders that are not lakes are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake, Route, counts, write
from tests.lake.rows import index_row as row
from tests.lake.rows import lake_of, rows_in, sources_in
from transforms.lake.compaction import compact
from transforms.lake.layout import Layout
from transforms.lake.rewrite import rewrite
from transforms.lake.schema import to_table

FOLDERS: Final = ("index", "history", "journal", "runs", "objects", "quarantine", "dead_letters")
HIDDEN: Final = (
    ".DS_Store",
    "._part-x.parquet",
    "_SUCCESS",
    "_temporary/0/part-0.parquet",
    ".spark-staging/part-0.parquet",
)
VISIBLE: Final = "notes.txt"


def add_foreign_files(root: Path, *, partition: Path) -> dict[Path, bytes]:
    """Write files of other programs into each folder of a lake; return their content."""
    folders = [root / folder for folder in FOLDERS]
    files = [folder / name for folder in (*folders, partition) for name in HIDDEN]
    files += [root / folder / VISIBLE for folder in FOLDERS if folder not in WITHOUT_VISIBLE]
    files.append(partition / VISIBLE)
    return {write(path.parent, path.name, b"foreign"): b"foreign" for path in files}


WITHOUT_VISIBLE: Final = ("objects", "quarantine")
"""There every file but a hidden one must have a row."""


@pytest.mark.slow
def test_foreign_files_are_ignored_and_kept(copied: Lake, route: Route, routed: Path) -> None:
    (partition,) = (copied.root / "index").iterdir()
    before = [row["source_uri"] for row in copied.rows()]
    foreign = add_foreign_files(copied.root, partition=partition)
    inputs = (str(routed / "source"),)
    assert counts(route(inputs=inputs)) == {"unchanged": 6}
    strict = ("--policy", str(routed / "strict.yaml"), "--reprocess", "policy")
    assert counts(route(*strict, inputs=inputs))["review"] == 3
    assert main(["compact", str(copied.root)]) == 0
    assert main(["verify", str(copied.root), "--deep"]) == 0
    for path, data in foreign.items():
        assert path.read_bytes() == data
        path.unlink()  # plain readers of the index do not skip visible ones
    assert [row["source_uri"] for row in copied.rows()] == before
    assert violations(copied.root) == []


@pytest.mark.parametrize("folder", [True, False], ids=["with folders", "files alone"])
def test_compaction_and_rewrites_keep_foreign_files(tmp_path: Path, folder: bool) -> None:
    layout = lake_of(tmp_path / "lake", [row("/in/a")])
    (day,) = (str(row["ingest_date"]) for row in rows_in(layout))
    partition = Path(layout.partition(day))
    names = [name for name in (*HIDDEN, VISIBLE) if folder or "/" not in name]
    foreign = [write(partition, name, b"foreign") for name in names]
    assert rewrite(layout, day, [], [to_table([row("/in/b")])]) == 1
    assert rewrite(layout, day, [], [to_table([row("/in/c")])]) == 1
    (merged,) = compact(layout, "2999-01-01")
    assert merged.rows == 3
    for path in foreign:
        assert path.read_bytes() == b"foreign"
        path.unlink()
    assert sources_in(layout) == ["/in/a", "/in/b", "/in/c"]


@pytest.mark.slow
def test_foreign_files_in_the_scratch_folder_are_kept(
    copied: Lake, route: Route, routed: Path
) -> None:
    foreign = [
        write(copied.root / ".tmp", "of another program", b"foreign"),
        write(copied.root / ".tmp" / "folder", "of another program", b"foreign"),
    ]
    route(inputs=(str(routed / "source"),))
    assert [path.read_bytes() for path in foreign] == [b"foreign"] * 2


COMMANDS: Final = ("verify", "compact", "stop")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_not_a_lake_is_refused(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "objects", "photo.jpg", b"mine")
    write(tmp_path / "index", "table.parquet", b"mine")
    write(tmp_path / "runs", "notes.txt", b"mine")
    before = sorted(tmp_path.rglob("*"))
    assert main([command, str(tmp_path)]) == 2
    assert "is not a lake: it has no lake.json" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize("command", [*COMMANDS, "route"])
@pytest.mark.parametrize(
    ("marker", "message"),
    [
        (json.dumps({"format": 3, "lake_id": "x"}), "format 3 is of a later release"),
        ("{", "damaged"),
        (json.dumps({"lake_id": "x"}), "damaged"),
    ],
    ids=["later format", "not JSON", "no format"],
)
def test_a_lake_of_a_later_format_or_with_a_damaged_marker_is_refused(
    copied: Lake,
    routed: Path,
    command: str,
    marker: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (copied.root / "lake.json").write_text(marker)
    before = {path: path.stat().st_mtime_ns for path in copied.root.rglob("*")}
    arguments = {"route": ["--input", str(routed / "source"), "--lake", str(copied.root)]}
    assert main([command, *arguments.get(command, [str(copied.root)])]) == 2
    assert message in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in copied.root.rglob("*")} == before


@pytest.mark.slow
def test_a_new_lake_may_be_in_a_folder_with_other_files(
    route: Route, lake: Lake, source: Path
) -> None:
    foreign = write(lake.root, "README.txt", b"mine")
    write(source, "no.txt", b"no DICOM")
    route()
    assert foreign.read_bytes() == b"mine"
    assert main(["verify", str(lake.root)]) == 0
    assert Layout(str(lake.root)).marker

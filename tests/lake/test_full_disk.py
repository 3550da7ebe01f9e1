"""A full or read-only disk is reported as such, and changes nothing, wherever a rewrite meets it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.lake.rows import append_rows, index_row, new_lake, rows_in, set_clock, sources_in
from transforms.lake.layout import Layout

DAYS = ("2026-03-01", "2026-03-02")
ROWS = 60


@pytest.fixture
def layout(small_disk: Path) -> Layout:
    """A lake on the small disk, with a past day of two files of `ROWS` rows each."""
    layout = new_lake(small_disk / "lake")
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_clock(monkeypatch, DAYS[0])
        for part in range(2):
            append_rows(
                layout,
                *(
                    index_row(
                        f"/in/{part}-{n:03d}", os.urandom(32).hex(), sop_instance_uid=f"1.{n}"
                    )
                    for n in range(ROWS)
                ),
            )
        set_clock(monkeypatch, DAYS[1])
        append_rows(layout, index_row("/in/last", sop_instance_uid="1.9999"))
    return layout


def fill(disk: Path, *, left: int) -> None:
    """Leave some bytes of a disk free."""
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(b"\0" * (free - left))


def tree(root: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in sorted(root.rglob("*.parquet"))
        if ".tmp" not in path.parts
    }


@pytest.mark.parametrize("left", [0, 4096, 8192])
def test_compaction_on_a_full_disk_changes_nothing(
    layout: Layout, small_disk: Path, capsys: pytest.CaptureFixture[str], left: int
) -> None:
    before = rows_in(layout)
    fill(small_disk, left=left)
    files = tree(Path(layout.root))
    assert main(["compact", layout.root, "--before", DAYS[1]]) == 1
    error = capsys.readouterr().err
    assert "free space" in error
    assert "Traceback" not in error
    assert "damaged" not in error
    assert "restore it from a backup" not in error
    assert files.items() <= tree(Path(layout.root)).items()
    assert rows_in(layout) == before
    assert not list(Path(layout.scratch()).iterdir())

    (small_disk / "filler").unlink()
    assert main(["compact", layout.root, "--before", DAYS[1]]) == 0
    assert sources_in(layout) == sorted(row["source_uri"] for row in before)
    assert main(["verify", layout.root]) == 1, "its objects were never placed"
    assert "missing object" in capsys.readouterr().out


def test_a_full_temporary_folder_is_not_taken_for_a_damaged_file(
    layout: Layout,
    full_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = tree(Path(layout.root))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("tempfile.tempdir", str(full_disk))
        assert main(["compact", layout.root, "--before", DAYS[1]]) == 1
    error = capsys.readouterr().err
    assert "no_space (ENOSPC, temporary folder)" in error
    assert "restore it from a backup" not in error
    assert tree(Path(layout.root)) == files


def test_a_read_only_disk_is_reported_with_the_lake(
    layout: Layout, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for command in ("publish", "compact"):
        options = ["--delta"] if command == "publish" else []
        assert main([command, layout.root, *options]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {layout.root}")
        assert "permission" in error
        assert "Traceback" not in error


def test_compacting_twice_says_that_nothing_was_left(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compact", layout.root, "--before", DAYS[1]]
    assert main(command) == 0
    assert "\n1 day compacted\n" in capsys.readouterr().out
    assert main(command) == 0
    assert capsys.readouterr().out == f"the index has no files to merge before {DAYS[1]}\n"

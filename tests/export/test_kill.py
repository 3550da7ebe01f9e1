"""An export whose process is killed, again and again, ends with the same files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Lake
from tests.export.conftest import Export, files_of
from tests.export.kill_exports import OPTIONS

STEPS = ("1", "4", "9", "14", "17", "21")


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.parametrize("form", ["folder", "webdataset"])
def test_a_killed_export_is_continued(
    export: Export, exported_lake: Lake, tmp_path: Path, form: str
) -> None:
    expected = files_of(export("--to", form, *OPTIONS, name="expected"))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tests.export.kill_exports", str(exported_lake.root), str(out)]
    done = subprocess.run([*command, form, *STEPS], capture_output=True, text=True, check=True)
    reached = [line for line in done.stdout.splitlines() if line.startswith("reached")]
    assert len(reached) >= 4
    assert files_of(export("--to", form, *OPTIONS)) == expected

"""A short run of the fuzzer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_fuzzing_finds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.objects", str(tmp_path / "corpus")]
    run = subprocess.run(
        [*command, "-max_total_time=25", "-seed=1", f"-artifact_prefix={tmp_path}/"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    assert "DONE" in run.stderr
    executions = int(run.stderr.rsplit("Done ", 1)[1].split()[0])
    assert executions > 200, "the fuzzer ran too few inputs"

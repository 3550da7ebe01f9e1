"""A short run of the fuzzer, so that it keeps working and finds what is near."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_short_fuzz_finds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.objects", str(tmp_path / "corpus")]
    done = subprocess.run(
        [*command, "-max_total_time=25", "-seed=1", f"-artifact_prefix={tmp_path}/"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "DONE" in done.stderr
    ran = int(done.stderr.rsplit("Done ", 1)[1].split()[0])
    assert ran > 200, "the fuzzer hardly ran"

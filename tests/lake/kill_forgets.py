"""Forget a patient in processes that are killed: `kill_forgets.py LAKE FOLDER KEY STEP...`.

Each works on a copy of the lake, `FOLDER/<step>`. Prints the steps that were reached.
"""

from __future__ import annotations

import functools
import shutil
import sys
from pathlib import Path

from pipeline.cli import main
from tests.sigkill import run_killed


def kill_forgets(lake: Path, folder: Path, patient_key: str, steps: list[int]) -> None:
    """Run and kill the processes."""
    for step in steps:
        copy = folder / str(step)
        shutil.copytree(lake, copy)
        command = ["forget", str(copy), "--patient_key", patient_key, "--apply"]
        if run_killed(functools.partial(main, [*command, "--ordered_by", "x", "--json"]), step):
            print("killed", step)


if __name__ == "__main__":
    kill_forgets(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], [int(n) for n in sys.argv[4:]])

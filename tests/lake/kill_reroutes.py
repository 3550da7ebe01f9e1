"""Reroute copies of a lake in processes that are killed: `kill_reroutes.py LAKE FOLDER POLICY STEP...`.

The process killed at a step works on the copy `FOLDER/<step>`. Prints the steps that were reached.
"""

from __future__ import annotations

import functools
import shutil
import sys
from pathlib import Path

from pipeline.cli import main
from tests.sigkill import run_killed


def kill_reroutes(lake: Path, folder: Path, policy: Path, steps: list[int]) -> None:
    """Run and kill the processes."""
    for step in steps:
        copy = folder / str(step)
        shutil.copytree(lake, copy)
        command = ["reroute", str(copy), "--policy", str(policy), "--apply", "--quiet"]
        if run_killed(functools.partial(main, command), step):
            print(step)


if __name__ == "__main__":
    kill_reroutes(
        Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), [int(n) for n in sys.argv[4:]]
    )

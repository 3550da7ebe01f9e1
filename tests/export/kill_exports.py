"""Export a lake in processes that are killed: `kill_exports.py LAKE OUT FORM STEP...`.

All write to the same folder; the next continues what the one before has left. Prints the steps that were
reached.
"""

from __future__ import annotations

import functools
import sys

import pipeline.export.dataset
import pipeline.export.selection  # noqa: F401  # once, before processes are forked
from pipeline.cli import main
from tests.sigkill import run_killed

OPTIONS = ("--images", "dicom", "--identifiers", "objects", "--shard_rows", "3")

if __name__ == "__main__":
    lake, out, form, *steps = sys.argv[1:]
    command = ["export", lake, out, "--to", form, *OPTIONS]
    for step in map(int, steps):
        if run_killed(functools.partial(main, command), step):
            print("reached", step)

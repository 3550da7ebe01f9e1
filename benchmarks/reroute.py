"""Measure `dicom-router reroute` on an index of many rows: `python -m benchmarks.reroute --rows 1000000`.

Writes a lake of images that are only indexed, raises a threshold, and runs the command in new processes:
without and with `--where`, then with `--apply`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import processes
from benchmarks.report import DAYS, SEED, write_day
from models.bundle import read_info
from transforms.config.run_options import BUILT_IN_MODEL
from transforms.lake.layout import Layout
from transforms.lake.marker import write_marker

RESULTS: Final = Path(__file__).parent / "results" / "reroute.json"
POLICY: Final = """\
thresholds: {abdominal: 0.8, adult_chest: 0.95, pediatric_chest: 0.8, spine: 0.8, others: 0.8}
ood_threshold: 1000
"""
"""Rows were decided with 0.8 for each label."""
COMMANDS: Final = {
    "decide": [],
    "decide with --where": ["--where", "modality = 'CR' AND confidence < 0.9"],
    "apply": ["--apply"],
}


def main() -> None:
    """Write the lake, measure the commands, and print and store the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    processes.adopt_orphans()
    model_id = read_info(BUILT_IN_MODEL).model_id
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(str(Path(folder, "lake")))
        policy = Path(folder, "policy.yaml")
        policy.write_text(POLICY)
        write_marker(layout)
        rng = np.random.default_rng(SEED)
        for number in range(DAYS):
            write_day(layout, number, args.rows // DAYS, rng, model_id=model_id, only_indexed=True)
        measured = {
            name: _measure([layout.root, "--policy", str(policy), *options])
            for name, options in COMMANDS.items()
        }
    result = {
        "rows": args.rows,
        "processors": len(os.sched_getaffinity(0)),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "commands": measured,
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _measure(arguments: list[str]) -> dict[str, Any]:
    usage, printed = processes.measure(
        [sys.executable, "-m", "pipeline", "reroute", *arguments, "--json"]
    )
    found = json.loads(printed)
    return {
        "seconds": round(usage.wall_s, 1),
        "cpu_s": round(usage.cpu_s, 1),
        "peak_rss_mib": usage.peak_rss >> 20,
        "decided": found["decided"],
        "changed": found["changed"],
    }


if __name__ == "__main__":
    main()

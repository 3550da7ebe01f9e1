"""Time and memory of reading decisions by the Python API: python -m benchmarks.read_lake LAKE.

Each read is a process of its own, so that its peak of memory is its own, too; that of the imports is the
first line. `benchmarks.rows` writes lakes of many million rows.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.profile_route import machine
from pipeline.api import Lake

COLUMNS: Final = ["object_key", "destination", "confidence"]
CONDITION: Final = "status = 'review' AND confidence < 0.5"
READS: Final = {
    "imports only": lambda lake: lake.decisions(COLUMNS, where=CONDITION) and 0,
    "three columns, in batches": lambda lake: sum(map(len, lake.decisions(COLUMNS).batches())),
    "all columns, in batches": lambda lake: sum(map(len, lake.decisions().batches())),
    "three columns by a condition": lambda lake: len(
        lake.decisions(COLUMNS, where=CONDITION).to_arrow()
    ),
    "three columns, as a table": lambda lake: len(lake.decisions(COLUMNS).to_arrow()),
}


def measure(lake: str, name: str) -> dict[str, Any]:
    """Return rows, seconds and peak memory of a read in this process."""
    started = time.perf_counter()
    rows = READS[name](Lake(lake))  # type: ignore[no-untyped-call]
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()  # ru_maxrss has the peak of the parent, too
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.M)
    return {"rows": rows, "seconds": round(seconds, 2), "peak_mb": round(int(peak) / 1024)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("lake")
    parser.add_argument("--only", choices=READS, help="read in this process, and print JSON")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/read_lake.json"))
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.lake, args.only)))
        return 0
    results: dict[str, Any] = {"machine": machine(), "reads": {}}
    for name in READS:
        command = [sys.executable, "-m", "benchmarks.read_lake", args.lake, "--only", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = results["reads"][name] = json.loads(done.stdout)
        print(f"{name}: {found['rows']:,} rows, {found['seconds']} s, {found['peak_mb']:,} MB")
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Time and memory of reading decisions by the Python API: python -m benchmarks.read_lake LAKE.

Each read is a process of its own, so that its peak of memory is its own, too; that of the imports is the
first line. `benchmarks.rows` writes lakes of many million rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from benchmarks import processes
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


def read(lake: str, name: str) -> dict[str, Any]:
    """Return rows and seconds of a read in this process."""
    started = time.perf_counter()
    rows = READS[name](Lake(lake))  # type: ignore[no-untyped-call]
    return {"rows": rows, "seconds": round(time.perf_counter() - started, 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("lake")
    parser.add_argument("--only", choices=READS, help="read in this process, and print JSON")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/read_lake.json"))
    args = parser.parse_args()
    if args.only:
        print(json.dumps(read(args.lake, args.only)))
        return 0
    processes.adopt_orphans()
    results: dict[str, Any] = {"machine": machine(), "reads": {}}
    for name in READS:
        command = [sys.executable, "-m", "benchmarks.read_lake", args.lake, "--only", name]
        usage, printed = processes.measure(command)
        found = results["reads"][name] = json.loads(printed)
        found["peak_mb"] = round(usage.peak_rss / 2**20)
        print(f"{name}: {found['rows']:,} rows, {found['seconds']} s, {found['peak_mb']:,} MB")
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measure `dicom-router export` on an index of many rows: `python -m benchmarks.export --rows 500000`.

Writes a lake of rows without objects and exports it as FHIR and OMOP, and a smaller one with objects of a
few bytes and exports these: what the export itself costs, without decoding. Each in a new process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks import processes
from benchmarks.profile_route import machine
from benchmarks.row_lake import NONE, OWN, RowLake

RESULTS: Final = Path(__file__).parent / "results" / "export.json"
DAYS: Final = 20
UIDS: Final = ("--identifiers", "uids")
ROWS: Final = {"fhir": ("--to", "fhir", *UIDS), "omop": ("--to", "omop", *UIDS)}
OBJECTS: Final = {
    form: ("--to", form, "--images", "dicom", "--identifiers", "objects")
    for form in ("folder", "webdataset")
}


def main() -> None:
    """Write the lakes, measure the exports, and print and store the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--objects", type=int, default=4_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    processes.adopt_orphans()
    result: dict[str, Any] = {"machine": machine()}
    for kind, number, exports in ((NONE, args.rows, ROWS), (OWN, args.objects, OBJECTS)):
        with tempfile.TemporaryDirectory() as folder:
            RowLake(Path(folder, "lake"), objects=kind).write(number, DAYS)
            for name, options in exports.items():
                result[name] = {"rows": number, **_measure(Path(folder), name, options)}
                print(name, result[name], flush=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")


def _measure(folder: Path, name: str, options: tuple[str, ...]) -> dict[str, Any]:
    command = ["export", str(folder / "lake"), str(folder / name), *options]
    usage, printed = processes.measure([sys.executable, "-m", "pipeline", *command])
    return {
        "seconds": round(usage.wall_s, 1),
        "cpu_s": round(usage.cpu_s, 1),
        "peak_rss_mib": usage.peak_rss >> 20,
        "printed": printed.rpartition(": ")[2].strip(),
    }


if __name__ == "__main__":
    main()

"""Measure `dicom-router export` on an index of many rows: `python -m benchmarks.export --rows 500000`.

Writes a lake of rows without objects and exports it as FHIR and OMOP, and a smaller one with objects of a
few bytes and exports these: what the export itself costs, without decoding. Each in a new process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.profile_route import machine
from benchmarks.row_lake import NONE, OWN, RowLake

RESULTS: Final = Path(__file__).parent / "results" / "export.json"
DAYS: Final = 20
POLL_S: Final = 0.05
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
    result: dict[str, Any] = {"machine": machine()}
    for kind, number, exports in ((NONE, args.rows, ROWS), (OWN, args.objects, OBJECTS)):
        with tempfile.TemporaryDirectory() as folder:
            RowLake(Path(folder, "lake"), objects=kind).write(number, DAYS)
            for name, options in exports.items():
                result[name] = {"rows": number, **_measure(Path(folder), name, options)}
                print(name, result[name], flush=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")


def _measure(folder: Path, name: str, options: tuple[str, ...]) -> dict[str, Any]:
    started = time.monotonic()
    command = ["export", str(folder / "lake"), str(folder / name), *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *command], stdout=subprocess.PIPE, text=True
    )
    peak = 0
    while not (found := os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
        peak = max(peak, _peak_rss_mib(process.pid))
        time.sleep(POLL_S)
    assert found is not None and process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_rss_mib": peak,
        "printed": printed.rpartition(": ")[2].strip(),
    }


def _peak_rss_mib(pid: int) -> int:
    """Return the peak memory of a process; `ru_maxrss` would include that of this one, its parent."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) >> 10
    return 0


if __name__ == "__main__":
    main()

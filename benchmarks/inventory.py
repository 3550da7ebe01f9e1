"""Measure the memory of a run over a large inventory: `python -m benchmarks.inventory --lines 1000000`.

Prints the duration and the peak memory of `dicom-router route` for an inventory of few and of many lines,
of which 20 name an object and the others are excluded by name, as those of other kinds in a bucket are.
"""

from __future__ import annotations

import argparse
import gzip
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.synthetic import dicom_bytes, image

OBJECTS: Final = 20
FEW_LINES: Final = 1000


def main() -> None:
    """Write inventories and route them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    lines = parser.parse_args().lines
    with tempfile.TemporaryDirectory() as folder:
        bucket = Path(folder, "bucket")
        bucket.mkdir()
        for number in range(OBJECTS):
            data = dicom_bytes(image(number, (64, 64)), name=str(number))
            (bucket / f"{number}.dcm").write_bytes(data)
        for count in (FEW_LINES, lines):
            inventory = Path(folder, f"{count}.csv.gz")
            _write(inventory, count)
            seconds, peak = _route(inventory, bucket)
            print(f"{count:>10} lines  {seconds:6.1f} s  {peak / 2**20:7.2f} GB", flush=True)


def _write(path: Path, lines: int) -> None:
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write("Bucket,Key,Size\n")
        for number in range(lines):
            key = f"study{number // 100}/series{number // 10}/{number}.txt"
            file.write(f'"b","{f"{number}.dcm" if number < OBJECTS else key}","123"\n')


def _route(inventory: Path, bucket: Path) -> tuple[float, int]:
    """Return the duration in seconds, and the peak memory in KiB, of all its processes the largest."""
    lake = inventory.with_suffix(".lake")
    command = [sys.executable, "-m", "pipeline", "route", "--source", "manifest", "--quiet"]
    command += ["--input", str(inventory), "--inventory_root", str(bucket), "--lake", str(lake)]
    started = time.monotonic()
    process = subprocess.Popen([*command, "--include", "*.dcm"])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.monotonic() - started, usage.ru_maxrss


if __name__ == "__main__":
    main()

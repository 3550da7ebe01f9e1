"""Measure a run over a large inventory: `python -m benchmarks.inventory --lines 1000 1000000`.

Each line is another object. In `excluded`, all but a few are excluded by name, as objects of other kinds
in a bucket are. In `known`, they are the sources of a lake's rows, as in a nightly run over a whole
archive, and all have a reference. A few new objects are routed in both. Each run is a new process; memory
is that of all its processes at one moment.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import duckdb

from benchmarks import processes
from benchmarks.profile_route import machine
from benchmarks.row_lake import NONE, RowLake
from tests.stores import storefake
from tests.synthetic import dicom_bytes, image

RESULTS: Final = Path(__file__).parent / "results" / "inventory.json"
EXCLUDED, KNOWN = "excluded", "known"
OBJECTS: Final = 20
DAYS: Final = 10
ARCHIVE: Final = "gs://archive"
SAMPLE_S: Final = 0.5
MB: Final = 1e6


def main() -> None:
    """Write inventories, route them, and print and store the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, nargs="*", default=[1_000, 1_000_000])
    parser.add_argument("--only", nargs="*", default=[EXCLUDED, KNOWN])
    parser.add_argument("--work", type=Path, help="folder for the lakes [default: temporary]")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "runs": [],
    }
    processes.adopt_orphans()
    with storefake() as address:
        os.environ["STORAGE_EMULATOR_HOST"] = address  # only asked whether its folders are lakes
        for kind in args.only:
            for lines in args.lines:
                with tempfile.TemporaryDirectory(dir=args.work) as folder:
                    found = {"kind": kind, "lines": lines, **_measure(Path(folder), kind, lines)}
                print(json.dumps(found), flush=True)
                results["runs"].append(found)
                args.out.write_text(json.dumps(results, indent=2) + "\n")


def _measure(folder: Path, kind: str, lines: int) -> dict[str, Any]:
    """Write an inventory and what it names, and route it."""
    bucket, lake = folder / "bucket", folder / "lake"
    bucket.mkdir()
    for number in range(OBJECTS):
        data = dicom_bytes(image(number, (64, 64)), name=str(number))
        (bucket / f"{number}.dcm").write_bytes(data)
    new = folder / "new.txt"
    new.write_text("".join(f"{bucket}/{number}.dcm\n" for number in range(OBJECTS)))
    inventory = folder / "inventory.csv.gz"
    if kind == KNOWN:
        RowLake(lake, objects=NONE, archive=ARCHIVE).write(lines, DAYS)
        _write_known(lake, inventory)
    else:
        _write_excluded(inventory, lines)
    command = [sys.executable, "-m", "pipeline", "route", "--source", "manifest", "--json"]
    command += ["--lake", str(lake), "--input", str(new), str(inventory), "--include", "*.dcm"]
    out, err = folder / "out", folder / "err"
    started = time.time()
    usage = processes.watch(
        command, every_s=SAMPLE_S, stdout=out, stderr=err, kept=processes.children()
    )
    placed = [path.stat().st_ctime for path in (lake / "objects").rglob("*.dcm")]
    if usage.code or len(placed) != OBJECTS:
        raise SystemExit(err.read_text()[-2000:] or out.read_text()[-2000:])
    return {
        "discovered": json.loads(out.read_bytes())["counts"]["discovered"],
        "wall_s": round(usage.wall_s, 1),
        "cpu_s": round(usage.cpu_s, 1),
        "first_object_s": round(min(placed) - started, 1),
        "rss_mb": round(usage.rss[processes.TOTAL] / MB),
        "pss_mb": round(usage.pss[processes.TOTAL] / MB),
    }


def _write_excluded(path: Path, lines: int) -> None:
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write("bucket,name,size,generation\n")
        for number in range(lines):
            name = f"study{number // 100}/series{number // 10}/{number}.txt"
            file.write(f'"archive","{name}","123","{number}"\n')


def _write_known(lake: Path, path: Path) -> None:
    """Write an inventory of the sources of a lake's rows."""
    duckdb.execute(
        f"""
        COPY (
            SELECT 'archive' AS bucket, source_uri[{len(ARCHIVE) + 2}:] AS name,
                source_size_bytes AS size, source_version AS generation
            FROM read_parquet('{lake}/index/*/*') ORDER BY source_uri
        ) TO '{path}' (FORMAT csv, COMPRESSION gzip, FORCE_QUOTE *)"""
    )


if __name__ == "__main__":
    main()

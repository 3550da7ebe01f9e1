"""Measure what keeping Delta and Iceberg tables in step costs: `python -m benchmarks.publish`.

A lake of a million rows publishes both tables. Then a batch of as many rows is appended to it, as a run
does after it has classified its images, and published; and a run routes images into it. Shares are of the
append alone, of the run of those images, and of a run of a million images at the same pace.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from benchmarks.profile_route import machine
from benchmarks.row_lake import NONE, SHARDS, RowLake
from pipeline.cli import main as dicom_router
from tests.synthetic import dicom_bytes, image
from transforms.lake import published_tables
from transforms.lake.append import append_after, log_ends
from transforms.lake.append_log import LogEnd, LogShard
from transforms.lake.index_files import list_index, read_unified
from transforms.lake.layout import Layout
from transforms.lake.published_tables import publish
from transforms.lake.table_settings import IcebergSettings, TableSettings, record_settings

RESULTS: Final = Path(__file__).parent / "results" / "publish.json"
DAYS: Final = 30
PACKAGES: Final = "deltalake, pyiceberg.catalog.sql, pyiceberg.io.pyarrow"
SHAPE: Final = (1400, 1150)


def main() -> None:
    """Run all measurements, and print and store the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), args.rows, args.images)
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps({"machine": machine(), **result}, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def measure(folder: Path, rows: int, images: int) -> dict[str, Any]:
    """Return the seconds and shares of all measurements."""
    lake = RowLake(folder / "lake", objects=NONE)
    lake.write(rows, DAYS)
    layout = lake.layout
    catalog = IcebergSettings(f"sqlite:///{folder / 'catalog.db'}")
    files = len(list_index(layout))
    record_settings(layout, TableSettings(True, catalog))
    first_s, _ = _timed(layout)
    unchanged_s = statistics.median(_timed(layout)[0] for _ in range(5))
    append_s = _append(layout, rows)
    step_s, states = _timed(layout)
    size = sum(Path(uri).stat().st_size for uri in list_index(layout))
    run = _run(folder, layout, images)
    pace = run["run_s"] / images
    return {
        "rows": rows,
        "files": files,
        "index_bytes_per_row": round(size / (2 * rows)),
        "first_publish_s": round(first_s, 3),
        "in_step_s": round(unchanged_s, 3),
        "append_s": round(append_s, 3),
        "publish_s": round(step_s, 3),
        "share_of_append": round(step_s / append_s, 4),
        "share_of_run_of_as_many_images": round(step_s / (pace * rows), 7),
        "import_s": round(_import_s(), 3),
        "tables": [state.name for state in states],
        "run": run,
    }


def _timed(layout: Layout) -> tuple[float, list[published_tables.TableState]]:
    started = time.perf_counter()
    states = publish(layout)
    return time.perf_counter() - started, states


def _import_s() -> float:
    """Return the seconds that a process takes to import the packages of both formats, once."""
    times = []
    for code in ("import pyarrow.dataset", f"import pyarrow.dataset, {PACKAGES}"):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - started)
    return times[1] - times[0]


def _append(layout: Layout, rows: int) -> float:
    """Append as many rows as the lake has, in one segment for each log; return the seconds."""
    ends, tables = log_ends(layout), list(read_unified(list_index(layout)))
    number, total = -(-len(tables) // SHARDS), 0.0
    for shard in range(SHARDS):
        table = pa.concat_tables(tables[shard * number : (shard + 1) * number])
        log = LogShard(SHARDS, shard)
        started = time.perf_counter()
        append_after(
            layout, log, ends.get(log, LogEnd()), table, run_id="r", ingest_date="2026-03-01"
        )
        total += time.perf_counter() - started
    return total


def _run(folder: Path, layout: Layout, images: int) -> dict[str, Any]:
    """Route images into the lake; return the seconds of the run, and of publishing within it."""
    source = folder / "source"
    source.mkdir()
    pixels = [image(number, SHAPE) for number in range(4)]
    for number in range(images):
        data = dicom_bytes(pixels[number % 4], name=str(number))
        (source / f"{number}.dcm").write_bytes(data)
    spent: list[float] = []
    require_in_step = published_tables.require_in_step

    def timed(layout: Layout) -> None:
        started = time.perf_counter()
        try:
            require_in_step(layout)
        finally:
            spent.append(time.perf_counter() - started)

    published_tables.require_in_step = timed
    started = time.perf_counter()
    options = ("--placement", "index_only", "--quiet")
    code = dicom_router(["route", "--input", str(source), "--lake", layout.root, *options])
    run_s = time.perf_counter() - started
    assert code == 0
    return {
        "images": images,
        "run_s": round(run_s, 2),
        "publishing_s": round(sum(spent), 3),
        "calls": len(spent),
        "share": round(sum(spent) / run_s, 4),
    }


if __name__ == "__main__":
    main()

"""Measure what thumbnails and structured reports cost, and how fast thumbnails are read.

Runs `route` over the same images with each policy in this process, interleaved, and compares the CPU time
per object, of this process and its decoders: `python -m benchmarks.thumbnails --images 300 --rounds 3`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import pyarrow as pa

from benchmarks.profile_route import machine
from pipeline.cli import main as dicom_router
from tests.synthetic import dicom_bytes, image
from transforms.lake.content_tables import write_table
from transforms.lake.layout import Layout
from transforms.lake.thumbnails import SCHEMA, THUMBNAILS, read_thumbnails

RESULTS: Final = Path(__file__).parent / "results" / "thumbnails.json"
SHAPE: Final = (1400, 1150)
BASES: Final = 4
VARIANTS: Final = {
    "none": ("none", ()),
    "all": ("all", ()),
    "none, --write_sr": ("none", ("--write_sr",)),
}
"""Policy of thumbnails and options of each variant; the first is the baseline."""
ROUTES_ALL: Final = """\
thresholds: {abdominal: 0, adult_chest: 0, pediatric_chest: 0, spine: 0, others: 0}
ood_threshold: 1000
"""
"""Only routed images have structured reports."""
THUMBNAIL_BYTES: Final = 2900
"""Mean size of the WebP images of radiographs of 192 pixels."""
READS: Final = (1, 100, 3000)


def main() -> None:
    """Run all measurements, and print and store the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "machine": machine(),
            "images": args.images,
            "rounds": args.rounds,
            "cpu_ms_per_object": _measure_runs(Path(folder), args.images, args.rounds),
        }
        if args.rows:
            result["read"] = _measure_reads(Layout(str(Path(folder, "read"))), args.rows)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _measure_runs(folder: Path, images: int, rounds: int) -> dict[str, Any]:
    for name, number in (("one", 1), ("many", images)):
        (folder / name).mkdir()
        for n in range(number):
            data = dicom_bytes(image(n % BASES, SHAPE), name=f"{number}.{n}")
            (folder / name / f"{n}.dcm").write_bytes(data)
    for policy in ("none", "all"):
        (folder / f"{policy}.yaml").write_text(f"thumbnails: {policy}\n{ROUTES_ALL}")
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    warm_up = [
        "route",
        "--input",
        str(folder / "one"),
        "--lake",
        str(folder / "warm_up"),
        "--quiet",
    ]
    dicom_router([*warm_up, "--write_sr"])
    for number in range(rounds):
        for name, (policy, options) in VARIANTS.items():
            seconds = {}
            for source in ("one", "many"):
                lake = folder / f"lake-{number}-{name}-{source}"
                command = [
                    *("route", "--input", str(folder / source), "--lake", str(lake)),
                    *("--policy", str(folder / f"{policy}.yaml"), "--quiet", *options),
                ]
                seconds[source] = _cpu_seconds(command)
            found[name].append(1000 * (seconds["many"] - seconds["one"]) / (images - 1))
    baseline = statistics.median(found[next(iter(VARIANTS))])
    return {
        name: {
            "median": round(statistics.median(values), 1),
            "all": [round(value, 1) for value in values],
            "ratio": round(statistics.median(values) / baseline, 3),
        }
        for name, values in found.items()
    }


def _cpu_seconds(command: list[str]) -> float:
    before = _cpu_of_family()
    assert dicom_router(command) == 0
    return _cpu_of_family() - before


def _cpu_of_family() -> float:
    """Return the CPU seconds of this process and its descendants, also of those that have ended."""
    this = psutil.Process()
    return sum(sum(one.cpu_times()[:4]) for one in (this, *this.children(recursive=True)))


def _measure_reads(layout: Layout, rows: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    contents = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(rows)]
    for number, start in enumerate(range(0, rows, THUMBNAILS.max_file_rows)):
        ids = contents[start : start + THUMBNAILS.max_file_rows]
        data = rng.bytes(THUMBNAIL_BYTES * len(ids))
        images = [data[n : n + THUMBNAIL_BYTES] for n in range(0, len(data), THUMBNAIL_BYTES)]
        sizes = [192] * len(ids)
        columns = [ids, [one[:12] for one in ids], images, sizes, sizes]
        table = pa.Table.from_arrays(
            [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
        )
        write_table(layout, THUMBNAILS, f"2026-01-{1 + number % 28:02}", table)
    seconds = {}
    for wanted in READS:
        sample = random.Random(wanted).sample(contents, wanted)
        started = time.monotonic()
        assert len(read_thumbnails(layout, sample)) == wanted
        seconds[str(wanted)] = round(time.monotonic() - started, 2)
    stored = sum(path.stat().st_size for path in Path(layout.thumbnails).rglob("*.parquet"))
    return {"rows": rows, "bytes": stored, "seconds_by_number": seconds}


if __name__ == "__main__":
    main()

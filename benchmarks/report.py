"""Measure `dicom-router report` on an index of many rows.

Writes a lake whose rows have the columns of routed images, with thumbnails of the images that the page
shows, then runs the command in a new process: `python -m benchmarks.report --rows 1000000`.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks import processes
from pipeline.report import queries
from pipeline.report.content import IMAGES
from pipeline.report.database import Scope, open_report_data
from transforms.core.labels import LABELS
from transforms.core.reasons import BY_MODEL, Reason, Stage, Status
from transforms.lake.layout import Layout
from transforms.lake.marker import write_marker
from transforms.lake.schema import SCHEMA
from transforms.lake.thumbnails import Thumbnail, write_thumbnails

RESULTS: Final = Path(__file__).parent / "results" / "report.json"
DAYS: Final = 50
SEED: Final = 23


def main() -> None:
    """Write the lake, measure the report, and print and store the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(str(Path(folder, "lake")))
        write_marker(layout)
        rng = np.random.default_rng(SEED)
        for number in range(DAYS):
            write_day(layout, number, args.rows // DAYS, rng)
        _write_thumbnails(layout)
        result = _measure(layout, Path(folder, "report.html"), args.rows)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def write_day(
    layout: Layout,
    number: int,
    rows: int,
    rng: np.random.Generator,
    *,
    model_id: str = "model",
    only_indexed: bool = False,
) -> None:
    """Write the index file of a day, with rows of routed images and images in review.

    Args:
        layout: the lake.
        number: of the day, from 0.
        rows: number of rows.
        rng: source of random values.
        model_id: model of all rows.
        only_indexed: whether the objects are their sources, as of `--placement index_only`.
    """
    day = f"2026-{1 + number // 28:02}-{1 + number % 28:02}"
    label = rng.choice(len(LABELS), rows, p=[0.1, 0.4, 0.1, 0.1, 0.3])
    confidence = 1 - rng.beta(0.5, 12, rows)
    names = np.array(LABELS)
    header = np.where(rng.random(rows) < 0.15, rng.choice(len(LABELS), rows), label)
    is_review = confidence < 0.8
    keys = [f"{number * rows + n:012x}" for n in range(rows)]
    spread = (1 - confidence) / (len(LABELS) - 1)
    columns: dict[str, Any] = {
        "run_id": f"20260101T000000Z-{number:08x}",
        "object_key": keys,
        "ingested_at": 1_767_225_600_000_000 + number * 86_400_000_000,
        "router_version": "0",
        "source_uri": [f"/data/incoming/{day}/{key}.dcm" for key in keys],
        "source_version": [f"9000000-{key}" for key in keys],
        "source_size_bytes": 9_000_000,
        "content_sha256": [f"{key:>064}" for key in keys],
        "status": np.where(is_review, Status.REVIEW, Status.ROUTED),
        "stage": Stage.DECIDE,
        "reason": np.where(is_review, Reason.LOW_CONFIDENCE, Reason.CONFIDENT),
        "destination": np.where(is_review, "review", names[label]),
        "object_uri": [
            f"objects/body_part=x/study=1.{key}/series=1.{key}/1~{key}.dcm" for key in keys
        ],
        "conflict": rng.random(rows) < 1e-5,
        "predicted_label": names[label],
        "confidence": confidence,
        "ood_score": rng.gamma(2, 1, rows),
        "model_id": model_id,
        "policy_id": "policy",
        "header_label": names[header],
        "header_agrees": header == label,
        "sop_instance_uid": [f"1.2.826.0.1.3680043.{int(key, 16)}" for key in keys],
        "modality": rng.choice(["CR", "DX"], rows),
        "body_part_examined": np.char.upper(names[header]),
        "manufacturer": rng.choice([f"Manufacturer {n}" for n in range(20)], rows),
        "manufacturer_model_name": rng.choice([f"Model {n}" for n in range(60)], rows),
        "rows": 2800,
        "columns": 2300,
        "decided_by": BY_MODEL,
    }
    if only_indexed:
        columns["object_uri"] = columns["source_uri"]
    for position, name in enumerate(LABELS):
        columns[f"prob_{name}"] = np.where(label == position, confidence, spread)
    table = pa.table({f.name: _array(columns.get(f.name), f.type, rows) for f in SCHEMA})
    folder = Path(layout.partition(day))
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-0.parquet", compression="zstd")


def _array(values: Any, kind: pa.DataType, rows: int) -> pa.Array:
    if values is None:
        return pa.nulls(rows, kind)
    if isinstance(values, str | int):
        return pa.repeat(pa.scalar(values, kind if kind != pa.string() else None).cast(kind), rows)
    return pa.array(values).cast(kind)


def _write_thumbnails(layout: Layout) -> None:
    """Store a noisy picture, which compresses badly, for each image that the page shows."""
    with open_report_data(Scope(layout)) as data:
        shown = queries.disagreements(data, 2 * IMAGES) + queries.review_queue(data, IMAGES)
        for label in LABELS:
            shown += queries.least_confident(data, label, IMAGES)
    rng = np.random.default_rng(SEED)
    thumbnails = []
    for row in shown:
        buffer = io.BytesIO()
        smooth = rng.normal(128, 40, (24, 24)).clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(smooth).resize((192, 192), Image.Resampling.BICUBIC)
        picture.save(buffer, "WEBP", quality=70)
        thumbnails.append(
            Thumbnail(row["content_sha256"], row["object_key"], buffer.getvalue(), 192, 192)
        )
    write_thumbnails(layout, "2026-01-01", thumbnails)


def _measure(layout: Layout, target: Path, rows: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "pipeline", "report", layout.root, "--out", str(target)]
    usage, _ = processes.measure(command)
    index = sum(path.stat().st_size for path in Path(layout.index).rglob("*.parquet"))
    return {
        "rows": rows,
        "index_bytes": index,
        "seconds": round(usage.wall_s, 1),
        "cpu_s": round(usage.cpu_s, 1),
        "peak_rss_mib": usage.peak_rss >> 20,
        "page_bytes": target.stat().st_size,
        "pictures": target.read_text().count("<img "),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
    }


if __name__ == "__main__":
    main()

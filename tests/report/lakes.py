"""Lakes of reports: rows that are made without a run, run summaries and pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from tests.lake.rows import index_row
from transforms.core.labels import LABELS
from transforms.core.reasons import Reason, Status
from transforms.lake.layout import Layout
from transforms.lake.schema import IndexRow
from transforms.lake.thumbnails import Thumbnail, write_thumbnails

PROBABILITIES = {
    "prob_abdominal": 0.05,
    "prob_adult_chest": 0.0,
    "prob_pediatric_chest": 0.0,
    "prob_spine": 0.9,
    "prob_others": 0.05,
}


def row(number: int, **columns: object) -> IndexRow:
    """A row of an object of its own, routed to spine with a confidence of 0.9."""
    given = {"confidence": 0.9, "header_label": "spine", "header_agrees": True, "modality": "DX"}
    values = {**given, **PROBABILITIES, "sop_instance_uid": f"1.2.{number}", **columns}
    return index_row(f"/in/{number}", f"{number:064x}", **values)


WRONG = {"header_label": "abdominal", "header_agrees": False}
ROWS = (
    row(0),
    row(1, modality="CR"),
    row(2, **WRONG, prob_abdominal=0.02),
    row(3, **WRONG, prob_abdominal=0.001),
    row(4, header_label="adult_chest", header_agrees=False, prob_adult_chest=0.01),
    row(
        5, status=Status.REVIEW, destination="review", reason=Reason.LOW_CONFIDENCE, confidence=0.4
    ),
    row(
        6, status=Status.REVIEW, destination="review", reason=Reason.LOW_CONFIDENCE, confidence=0.3
    ),
    row(7, conflict=True, run_id="s.1"),
    row(8, conflict=True, run_id="s.2", sop_instance_uid="1.2.7"),
    index_row("/in/copy", f"{0:064x}", sop_instance_uid="1.2.0", status=Status.DUPLICATE),
)


def summary(run_id: str, **values: Any) -> dict[str, Any]:
    """Content of a run summary."""
    counts = dict.fromkeys((*Status, "unchanged", "failed"), 0)
    return {
        "run_id": run_id,
        "complete": True,
        "counts": {"discovered": 3, **counts, "routed": 3},
        "equation": "3 discovered = 3 routed",
        "finished_at": "2026-01-02T03:04:05Z",
        "options": {"policy_id": "p1", "thresholds": dict.fromkeys(LABELS, 0.5)},
        **values,
    }


def write_json(folder: str, name: str, content: Any) -> None:
    """Write a JSON file, folder and all."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / f"{name}.json").write_text(json.dumps(content))


def webp(shade: int) -> bytes:
    """Return a small gray image."""
    buffer = io.BytesIO()
    Image.new("L", (48, 32), shade).save(buffer, "WEBP")
    return buffer.getvalue()


def write_pictures(layout: Layout, number: int, day: str, step: int = 1) -> None:
    """Write the thumbnails of a day for the objects of the first rows; each is lighter by a step."""
    shown = [Thumbnail(f"{n:064x}", "k", webp(n * step), 48, 32) for n in range(number)]
    write_thumbnails(layout, day, shown)

"""Small lakes whose sinks have derived objects, and what is in them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from pipeline.derived import write_missing_derived
from tests.lake.rows import append_rows, index_row
from tests.synthetic import dicom_bytes, image
from transforms.config.derivation import Derivation, parse_derivation
from transforms.core.reasons import Status
from transforms.lake.files import put_bytes
from transforms.lake.index_files import list_index, read_table
from transforms.lake.layout import Layout, partition_of
from transforms.lake.schema import IndexRow, from_table
from transforms.lake.verify import verify_lake

ROOT = "1.2.826.0.1.3680043.10.1473"

LABELS = ("spine", "others")

KEY = b"a key of the research office"


def write_key(folder: Path) -> str:
    (folder / "key").write_bytes(KEY)
    return str(folder / "key")


def derivations_of(key: str, root: str | None = None, **options: Any) -> dict[str, Derivation]:
    """Derive de-identified objects of two labels, those of `spine` below another root."""
    one = {"transform": "deidentify", "key_file": key, "options": options}
    found = {}
    for label in LABELS:
        given = {**one, "root": root} if root and label == "spine" else one
        derivation, problems = parse_derivation(given)
        assert derivation is not None, problems
        found[label] = derivation
    return found


def object_of(number: int, **elements: Any) -> bytes:
    return dicom_bytes(
        image(number, (24, 16)), name=str(number), PatientID=f"PAT-{number}", **elements
    )


def stored(layout: Layout, source: str, number: int, **columns: Any) -> IndexRow:
    """Store an object in the lake; return its row."""
    data = object_of(number, **columns.pop("elements", {}))
    sha256 = hashlib.sha256(data).hexdigest()
    row = index_row(
        source,
        sha256,
        sop_instance_uid=f"{ROOT}.3.{number}",
        series_instance_uid=f"{ROOT}.2.{number}",
        study_instance_uid=f"{ROOT}.1.{number}",
        source_size_bytes=len(data),
        **columns,
    )
    uri = layout.object_uri(*row.uri_parts)
    put_bytes(uri, data, scratch=layout.scratch())
    return replace(row, object_uri=layout.relative(uri))


def small_lake(layout: Layout) -> list[IndexRow]:
    """Three routed images, the last with text burned in, and one in review."""
    rows = [
        stored(layout, "/in/a", 1, destination="spine"),
        stored(layout, "/in/b", 2, destination="others"),
        stored(layout, "/in/c", 3, elements={"BurnedInAnnotation": "YES"}),
        stored(layout, "/in/d", 4, destination="review", status=Status.REVIEW),
    ]
    append_rows(layout, *rows)
    return rows


def layout_of(folder: Path) -> Layout:
    return Layout(str(folder / "lake"), derived={"spine": str(folder / "research")})


def derive_again(folder: Path, **options: Any) -> dict[str, int]:
    derivations = derivations_of(str(folder / "key"), str(folder / "research"), **options)
    return write_missing_derived(layout_of(folder), derivations, "again", threads=1)


def derived_rows(lake: Path) -> list[dict[str, Any]]:
    """The rows that DuckDB finds."""
    query = f"SELECT * FROM '{lake}/derived/*/*.parquet' ORDER BY object_key"
    found: list[dict[str, Any]] = duckdb.sql(query).arrow().read_all().to_pylist()
    return found


def files_in(folder: Path) -> dict[str, str]:
    """sha256 of derived objects by name; and of nothing else in the lake but its table."""
    found = [
        p for name in ("research", "lake/derived_objects") for p in (folder / name).rglob("*.dcm")
    ]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def problems(folder: Path) -> list[str]:
    """The kinds of violations that `verify --deep` finds."""
    return [one.kind for one in verify_lake(layout_of(folder), deep=True).violations]


def rows_of(layout: Layout) -> list[IndexRow]:
    return [
        row for uri in list_index(layout) for row in from_table(read_table(uri), partition_of(uri))
    ]

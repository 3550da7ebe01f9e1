"""Read a lake and its tables in a loop: `python -m tests.lake.published_readers LAKE CATALOG FOLDER`.

Prints `ready`, runs until FOLDER has a file `stop`, and prints as JSON, for each reader, how often it has
read, how often a file was gone, and what was wrong: a row that was there twice, or one that was missing.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
from deltalake import DeltaTable

from transforms.lake.iceberg_table import open_catalog


def read_all(lake: str, catalog: str, folder: Path) -> dict[str, Any]:
    """Return what the readers have found."""
    table = open_catalog(catalog, lake).load_table("dicom_router.index")
    readers: dict[str, Callable[[], Any]] = {
        "delta": lambda: DeltaTable(f"{lake}/_tables/index").to_pyarrow_table(
            columns=["source_uri"]
        ),
        "iceberg": lambda: table.refresh().scan(selected_fields=("source_uri",)).to_arrow(),
        "plain": lambda: ds.dataset(f"{lake}/index", format="parquet").to_table(
            columns=["source_uri"]
        ),
    }
    found: dict[str, Any] = {name: {"reads": 0, "gone": 0, "wrong": []} for name in readers}
    seen: dict[str, set[str]] = {name: set() for name in readers}
    while True:
        last = (folder / "stop").exists()
        for name, read in readers.items():
            of_reader = found[name]
            try:
                counts = Counter(read()["source_uri"].to_pylist())
            except FileNotFoundError:
                of_reader["gone"] += 1
                continue
            of_reader["reads"] += 1
            erased = set((folder / "erased").read_text().split())
            twice = [uri for uri, number in counts.items() if number > 1]
            missing = seen[name] - counts.keys() - erased
            of_reader["wrong"] += [*twice, *missing]
            seen[name] |= counts.keys()
            of_reader["rows"] = sorted(counts)
        if last:
            return found
        if found["plain"]["reads"] == 1:
            print("ready", flush=True)


if __name__ == "__main__":
    print(json.dumps(read_all(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))

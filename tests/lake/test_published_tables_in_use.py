"""Readers in other processes see each row once, while writers change the lake and are killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.lake.published_writers import row_of
from tests.lake.rows import append_rows, new_lake
from transforms.lake.published_tables import publish, table_states
from transforms.lake.table_settings import IcebergSettings, TableSettings, record_settings

STEPS = 9, 24, 39


@pytest.mark.slow
@pytest.mark.kill
def test_readers_see_each_row_once_while_writers_are_killed(tmp_path: Path) -> None:
    layout = new_lake(tmp_path / "lake")
    append_rows(layout, *map(row_of, range(3)))
    catalog = f"sqlite:///{tmp_path / 'catalog.db'}"
    record_settings(layout, TableSettings(True, IcebergSettings(catalog)))
    publish(layout)
    erased = tmp_path / "erased"
    erased.touch()
    command = [
        sys.executable,
        "-m",
        "tests.lake.published_readers",
        layout.root,
        catalog,
        str(tmp_path),
    ]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    try:
        assert reader.stdout.readline() == "ready\n"
        writers = [
            sys.executable,
            "-m",
            "tests.lake.published_writers",
            layout.root,
            *map(str, STEPS),
        ]
        writing = subprocess.run(writers, capture_output=True, text=True)
        assert writing.returncode == 0, writing.stderr
        killed = writing.stdout.split()
        gone = row_of(1).source_uri
        erased.write_text(gone)
        command = ["forget", layout.root, "--object", row_of(1).object_key, "--apply"]
        assert main([*command, "--ordered_by", "request 7"]) == 0
    finally:
        (tmp_path / "stop").touch()
        output, _ = reader.communicate()
    found = json.loads(output)
    rows = {row_of(number).source_uri for number in (0, 1, 2, *map(int, killed))}
    for name, of_reader in found.items():
        assert of_reader["wrong"] == [], name
        assert of_reader["rows"] == sorted(rows - {gone}), name
        assert of_reader["reads"] > 1, name
    assert found["delta"]["gone"] <= 1 and found["iceberg"]["gone"] <= 1  # while rows are erased
    assert len(killed) == len(STEPS)
    assert all(state.in_step for state in table_states(layout))

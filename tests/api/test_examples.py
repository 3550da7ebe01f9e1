"""The examples run as a user would run them: another process, another folder, the installed package."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from pipeline.cli import main
from tests.conftest import Lake

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, folder: Path, *arguments: str) -> str:
    """Run an example in a folder; return what it printed."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def notebook(folder: Path) -> str:
    """What the cells of the notebook printed; their lake is `folder / "lake"`."""
    return run("route_from_notebook.py", folder, "lake")


def test_a_notebook_routes_and_reads(notebook: str, folder: Path) -> None:
    assert " 3 discovered = " in notebook
    assert "exit code 0: done and complete" in notebook
    assert "not possible: --placement: invalid choice: 'move'" in notebook
    assert "Computed Radiography Image Storage" in notebook
    assert "WEBP" in notebook
    for row in Lake(folder / "lake").rows():
        assert row["object_key"] in notebook
        assert row["ingest_date"] == "2026-11-30"
    assert main(["verify", str(folder / "lake"), "--deep"]) == 0


@pytest.mark.usefixtures("notebook")
def test_decisions_are_read_in_every_form(folder: Path) -> None:
    out = run("read_decisions.py", folder, "lake")
    index = ds.dataset(folder / "lake" / "index", format="parquet", partitioning="hive")
    statuses = Counter(index.to_table()["status"].to_pylist())
    assert f"{statuses['routed']} routed\n" in out
    assert out.endswith(f"{dict(sorted(statuses.items()))}\n")
    assert "confidence: Calibrated" in out
    assert "2026-11-30" in out


@pytest.mark.usefixtures("notebook")
def test_one_object_is_decided_as_a_run_decides_it(folder: Path) -> None:
    out = run("decide_one_object.py", folder)
    (row,) = [r for r in Lake(folder / "lake").rows() if r["source_uri"].endswith("RG1_UNCR.dcm")]
    assert f"{row['status']} to {row['destination']}: {row['reason']}\n" in out
    assert f"  adult_chest      {row['prob_adult_chest']:.4f}\n" in out
    assert f"bytes: {row['destination']} {row['header_agrees']}\n" in out
    assert "data set: " in out
    assert out.endswith(" False\n"), "the header was changed"


@pytest.mark.usefixtures("notebook")
def test_a_pipeline_writes_its_own_sink(folder: Path) -> None:
    run("own_sink.py", folder, "sink/decided")
    lines = [
        json.loads(line)
        for path in (folder / "sink").glob("decided-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    rows = {row["object_key"]: row for row in Lake(folder / "lake").rows()}
    assert {line["object_key"] for line in lines} == set(rows)
    for line in lines:
        row = rows[line["object_key"]]
        assert [line[n] for n in ("status", "reason", "content_sha256")] == [
            row[n] for n in ("status", "reason", "content_sha256")
        ]

"""Retried bundles: side effects happen twice, the results are the same."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import transforms.append_index_batch
import transforms.place
from tests.conftest import Lake, Route
from tests.synthetic import dicom_bytes, image

pytestmark = pytest.mark.slow

RETRIES = ("--runner", "BundleBasedDirectRunner")


def fail_once(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> list[int]:
    """Make the first call of a function fail after its side effects; return a list of its calls."""
    original, calls = getattr(module, name), []

    def failing(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        calls.append(1)
        if len(calls) == 1:
            raise OSError("injected after the side effect")
        return result

    monkeypatch.setattr(module, name, failing)
    return calls


@pytest.mark.parametrize(
    ("module", "function"),
    [(transforms.place, "place"), (transforms.append_index_batch, "append_after")],
)
def test_a_retried_bundle_gives_the_same_lake_as_a_run_without_faults(
    route: Route,
    lake: Lake,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    function: str,
) -> None:
    for number in range(4):
        data = dicom_bytes(image(number, (128, 96)), name=str(number))
        (source / f"{number}.dcm").write_bytes(data)
    (source / "duplicate.dcm").write_bytes((source / "0.dcm").read_bytes())
    calls = fail_once(monkeypatch, module, function)
    retried = route(*RETRIES, "--index_shards", "1")
    assert len(calls) > 1
    baseline = route("--index_shards", "1", "--lake", str(tmp_path / "baseline"))
    assert retried["counts"] == baseline["counts"]

    def comparable_rows(lake: Lake) -> list[dict[str, Any]]:
        excluded = {"run_id", "ingested_at", "decided_at"}
        return [{k: v for k, v in row.items() if k not in excluded} for row in lake.rows()]

    baseline_lake = Lake(tmp_path / "baseline")
    assert comparable_rows(lake) == comparable_rows(baseline_lake)
    objects = [
        {p for p in tree if p.startswith("objects")} for tree in (lake.tree(), baseline_lake.tree())
    ]
    assert objects[0] == objects[1]

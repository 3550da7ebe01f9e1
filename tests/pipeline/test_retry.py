"""A runner that retries bundles: side effects twice, results once."""

from __future__ import annotations

from pathlib import Path

import pytest

import transforms.append_index_batch
import transforms.place
from tests.conftest import Lake
from tests.synthetic import dicom_bytes, image

RETRIES = ("--runner", "BundleBasedDirectRunner")


def fail_once(monkeypatch: pytest.MonkeyPatch, module, name: str) -> list[int]:
    """Make a function do its work and then fail, the first time."""
    real, calls = getattr(module, name), []

    def once(*args, **kwargs):
        result = real(*args, **kwargs)
        calls.append(1)
        if len(calls) == 1:
            raise OSError("injected after the side effect")
        return result

    monkeypatch.setattr(module, name, once)
    return calls


@pytest.mark.parametrize(
    ("module", "function"),
    [(transforms.place, "place"), (transforms.append_index_batch, "write_index")],
)
def test_a_retried_bundle_leaves_the_lake_of_an_undisturbed_run(
    route, lake: Lake, source: Path, tmp_path: Path, monkeypatch, module, function: str
) -> None:
    for number in range(4):
        data = dicom_bytes(image(number, (128, 96)), name=str(number))
        (source / f"{number}.dcm").write_bytes(data)
    (source / "twin.dcm").write_bytes((source / "0.dcm").read_bytes())
    calls = fail_once(monkeypatch, module, function)
    disturbed = route(*RETRIES, "--index_shards", "1")
    assert len(calls) > 1
    baseline_lakes = route("--index_shards", "1", "--lake", str(tmp_path / "calm"))
    assert disturbed["counts"] == baseline_lakes["counts"]

    def comparable(of: Lake) -> list[dict]:
        drop = {"run_id", "ingested_at", "object_uri"}
        return [{k: v for k, v in row.items() if k not in drop} for row in of.rows()]

    baseline_lake = Lake(tmp_path / "calm")
    assert comparable(lake) == comparable(baseline_lake)
    objects = [
        {p for p in tree if p.startswith("objects")} for tree in (lake.tree(), baseline_lake.tree())
    ]
    assert objects[0] == objects[1]

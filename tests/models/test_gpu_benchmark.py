"""The benchmark of a GPU runs on a CPU too, where each way gives the values of the bare model."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks import gpu
from tests.models.tiny_bundles import write_bundle


def test_every_way_is_measured_and_gives_the_same_values(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    out = tmp_path / "results" / "gpu.json"
    arguments = ["--bundle", str(bundle), "--device", "cpu", "--contiguous", "--rounds", "1"]
    sizes = ["--batch_sizes", "1", "3", "--images", "8", "--precisions", "float32", "autocast"]
    assert gpu.main([*arguments, *sizes, "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    assert results["machine"]["device"] == "cpu"
    assert {"torch", "cuda", "cpu"} <= results["machine"].keys()
    measured = results["measurements"]
    assert [(one["precision"], one["channels_last"], one["batch_size"]) for one in measured] == [
        (precision, channels_last, size)
        for precision in ("float32", "autocast")
        for channels_last in (True, False)
        for size in (1, 3)
    ]
    assert [one["images"] for one in measured[:2]] == [8, 9], "at least three batches"
    for one in measured:
        assert one["rates"].keys() - {"served"} == {"bare", "overlapped", "in order"}
        assert ("served" in one["rates"]) == (one["precision"] == "float32")
        assert all(of["images_per_s"] > 0 for of in one["rates"].values())


def test_other_values_than_the_bare_model_fail(tmp_path: Path) -> None:
    """A batch that is overwritten before it is copied would show here."""
    bundle = write_bundle(tmp_path / "bundle")
    setup = gpu.Setup(gpu.FLOAT32, channels_last=True, compiled=False)
    device = torch.device("cpu")
    _, run = gpu.load(str(bundle), setup, device)
    batches = list(torch.randint(0, 256, (3, 2, 1, 32, 32), dtype=torch.uint8))
    ways = {
        "bare": lambda: gpu.bare(batches, run, device),
        "overwritten": lambda: gpu.in_order([batches[-1]] * 3, run, device),
    }
    found = gpu.measure(ways, 6, 1, device)
    assert found["bare"]["difference"] == 0
    assert found["overwritten"]["difference"] > gpu.TOLERANCE

"""An image of two views is decided by its views, in a run and when decided again from its columns."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from models.default_bundle import DEFAULT_BUNDLE
from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake, route_into, write
from tests.synthetic import dicom_bytes
from transforms.core.labels import LABELS
from transforms.core.reasons import Reason
from transforms.lake.view_columns import VIEW_COLUMNS

CHEST, SPINE_OR_LIMB = "RG1_UNCR.dcm", "RG3_UNCR.dcm"
Query = Callable[[str], list[tuple[Any, ...]]]


def radiograph(name: str) -> np.ndarray:
    """Return a radiograph of pydicom's test data: uint16[400, W] in 0..4095."""
    path = get_testdata_file(name, download=False)
    assert path is not None, "pydicom-data is among the packages that tests need"
    values = np.asarray(pydicom.dcmread(str(path)).pixel_array, np.float32)
    width = round(400 * values.shape[1] / values.shape[0])
    small = np.asarray(Image.fromarray(values).resize((width, 400), Image.Resampling.BOX))
    scaled = (small - small.min()) * (4095 / np.ptp(small))
    return np.asarray(scaled.round(), np.uint16)


def policy(threshold: float, ood_threshold: float) -> bytes:
    """Return a policy with one threshold for all labels."""
    thresholds = json.dumps(dict.fromkeys(LABELS, threshold))
    return f"thresholds: {thresholds}\nood_threshold: {ood_threshold}\n".encode()


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.hstack([left, np.zeros((400, 8), np.uint16), right])


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with plates whose views agree and disagree, a single view, and one with a bright line."""
    folder = tmp_path_factory.mktemp("plates")
    chest, other = radiograph(CHEST), radiograph(SPINE_OR_LIMB)
    lined = chest.copy()
    lined[:, 180:183] = 4095
    images = {
        "agreeing": beside(chest, chest),
        "disagreeing": beside(chest, other),
        "single": chest,
        "lined": lined,
    }
    for number, (name, pixels) in enumerate(images.items()):
        write(folder / "source", f"{name}.dcm", dicom_bytes(pixels, name=str(number)))
    lake = Lake(folder / "lake")
    write(folder, "policy.yaml", policy(0.7, 1000))
    options = ("--policy", str(folder / "policy.yaml"))
    route_into(lake, *options, inputs=(str(folder / "source"),))
    return lake


@pytest.fixture
def query(lake: Lake) -> Query:
    """Return rows of the lake by the names of their sources, with DuckDB."""

    def run(columns: str) -> list[tuple[Any, ...]]:
        return duckdb.sql(
            f"SELECT {columns} FROM read_parquet('{lake.root}/index/*/*.parquet') "
            "ORDER BY parse_filename(source_uri)"
        ).fetchall()

    return run


def test_views_that_agree_are_routed_and_others_are_reviewed(query: Query) -> None:
    agreeing, disagreeing, lined, single = query(
        "destination, reason, left_view_label, right_view_label, left_view_confidence > 0.9, "
        "prob_adult_chest > 0.9"
    )
    label = agreeing[0]
    assert agreeing == (label, "confident", label, label, True, True)
    assert disagreeing[:3] == ("review", Reason.VIEWS_DISAGREE, label)
    assert disagreeing[3] != label
    assert single == (label, "confident", None, None, None, True)
    assert lined[0] in (label, "review")
    assert lined[1] != Reason.VIEWS_DISAGREE, "a part of an image contradicts nothing"


def test_the_same_is_decided_from_columns_only(lake: Lake, query: Query, tmp_path: Path) -> None:
    columns = ", ".join(("destination", "reason", "confidence", "ood_score", *VIEW_COLUMNS))
    before = query(columns)
    strict = write(tmp_path, "strict.yaml", policy(1, 999))
    reroute = ["reroute", str(lake.root), "--apply", "--quiet", "--policy"]
    assert main([*reroute, str(strict)]) == 0
    reasons = query("reason")
    assert reasons[1] == (Reason.VIEWS_DISAGREE,)
    assert {reasons[0], reasons[2], reasons[3]} == {(Reason.LOW_CONFIDENCE,)}
    assert main([*reroute, str(lake.root.parent / "policy.yaml")]) == 0
    assert query(columns) == before
    assert main(["verify", str(lake.root), "--deep"]) == 0
    assert violations(lake.root) == []


@pytest.mark.slow
def test_another_model_decides_by_its_views(lake: Lake, tmp_path: Path) -> None:
    copy = Lake(tmp_path / "lake")
    shutil.copytree(lake.root, copy.root)
    bundle = tmp_path / "bundle"
    shutil.copytree(DEFAULT_BUNDLE, bundle)
    info = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**info, "temperature": 2.0}))
    options = ("--policy", str(lake.root.parent / "policy.yaml"), "--model", str(bundle))
    fresh = Lake(tmp_path / "fresh")
    route_into(fresh, *options, inputs=(str(lake.root.parent / "source"),))
    assert main(["reroute", str(copy.root), "--apply", "--quiet", *options]) == 0
    names = ("source_uri", "model_id", "destination", "reason", "confidence", *VIEW_COLUMNS)
    found, expected = (
        sorted(tuple(row[name] for name in names) for row in of.rows()) for of in (copy, fresh)
    )
    assert found == expected
    assert {row["model_id"] for row in copy.rows()} != {row["model_id"] for row in lake.rows()}
    assert violations(copy.root) == []


def test_inspect_names_the_views(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--policy", str(lake.root.parent / "policy.yaml"))
    file = str(lake.root.parent / "source" / "disagreeing.dcm")
    assert main(["inspect", file, *options]) == 0
    text = capsys.readouterr().out
    assert "two views side by side: the left one shows " in text
    assert "sent to review: two views side by side: " in text
    assert main(["inspect", file, "--json", *options]) == 0
    views = json.loads(capsys.readouterr().out)["prediction"]["views"]
    assert [set(view) for view in views] == [{"label", "confidence"}] * 2

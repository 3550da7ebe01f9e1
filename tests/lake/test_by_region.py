"""Sinks by region: objects are in the folder of the region that the model predicts, and move with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import torch

from models.bundle import RegionInfo, RegionsInfo, read_info
from models.default_bundle import DEFAULT_BUNDLE
from models.region_head import RegionHead
from models.training.calibration.fit_regions import fit_layer
from models.training.data.images import LabeledImage, load_inputs
from models.weights import load_network, save_bundle
from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake, route_into
from tests.lake.conftest import LENIENT
from tests.lake.rows import index_row
from transforms.config.decide_row import Prediction, decide_row
from transforms.config.policy import ModelLimits, Policy
from transforms.core.labels import LABELS, OTHERS, SPINE
from transforms.core.regions import PredictedRegion
from transforms.lake.label_decisions import decide_by_person
from transforms.lake.labels import new_label
from transforms.lake.layout import Layout, region_of, without_region

NAMES = ("0.dcm", "1.dcm", "conflict with 1.dcm")
KNEE, HAND, ELSEWHERE = "knee", "hand", "elsewhere"
"""No label has the region elsewhere, so that it is never given."""
BY_REGION = LENIENT + f"sinks: {{{', '.join(f'{label}: {{by: region}}' for label in LABELS)}}}\n"


def make_bundles(source: Path, bundles: dict[Path, tuple[str, ...]]) -> None:
    """Write copies of the default bundle with a head that predicts a region for each of `NAMES`."""
    info, network = read_info(DEFAULT_BUNDLE), load_network(DEFAULT_BUNDLE)
    images = [LabeledImage(source / name, OTHERS, "train", "s", name) for name in NAMES]
    inputs = load_inputs(images, info.input_size)
    with torch.inference_mode():
        features = network.features(inputs).clone()
    described = RegionsInfo(
        regions=(
            RegionInfo(name=HAND, labels=LABELS, code="85562004", meaning="Hand"),
            RegionInfo(name=KNEE, labels=LABELS),
            RegionInfo(name=ELSEWHERE, labels=()),
        ),
        temperature=0.1,
        threshold=0.6,
        target_precision=0.95,
    )
    kept = {"architecture", "input_size", "thresholds", "ood_threshold", "training", "metrics"}
    for output, regions in bundles.items():
        targets = [[one == name for name in (HAND, KNEE, ELSEWHERE)] for one in regions]
        layer = fit_layer(features, torch.tensor(targets))
        network.regions = RegionHead(*layer, described)
        save_bundle(output, network, info.model_dump(include=kept))


@pytest.fixture(scope="module")
def folder(routed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two bundles, a policy by region, and the lake of a run by the first."""
    folder, source = tmp_path_factory.mktemp("regions"), routed / "source"
    regions = {"first": (KNEE, HAND, ELSEWHERE), "second": (HAND, KNEE, ELSEWHERE)}
    make_bundles(source, {folder / name: of for name, of in regions.items()})
    first = ("--model", str(folder / "first"))
    (folder / "by_region.yaml").write_text(BY_REGION)
    policy = ("--policy", str(folder / "by_region.yaml"))
    route_into(Lake(folder / "lake"), *first, *policy, inputs=(str(source),))
    return folder


@pytest.fixture
def by_region(folder: Path, lake: Lake) -> Lake:
    """A copy of the lake by region."""
    shutil.copytree(folder / "lake", lake.root)
    return lake


def folders(lake: Lake) -> dict[str, str | None]:
    """Return the region in the name of each object that was routed, by the name of its source."""
    assert main(["verify", str(lake.root), "--deep"]) == 0
    assert violations(lake.root) == []
    return {
        Path(row["source_uri"]).name: region_of(row["object_uri"])
        for row in lake.rows()
        if row["destination"] in LABELS
    }


def reroute(lake: Lake, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["reroute", str(lake.root), "--json", "--apply", *options]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.slow
def test_objects_stand_in_the_folder_of_their_region(by_region: Lake) -> None:
    expected = {"0.dcm": KNEE, "copy of 0.dcm": KNEE, "1.dcm": HAND, NAMES[2]: None}
    assert folders(by_region) == expected
    rows = {Path(row["source_uri"]).name: row for row in by_region.rows()}
    assert {name: rows[name]["predicted_region"] for name in expected} == expected
    hand, unsure = rows["1.dcm"], rows[NAMES[2]]
    assert (hand["predicted_region_code"], rows["0.dcm"]["predicted_region_code"]) == (
        "85562004",
        None,
    )
    assert hand["region_confidence"] > 0.6
    assert (unsure["region_confidence"], unsure["predicted_region_code"]) == (None, None)
    assert rows["ct.dcm"]["predicted_region"] is rows["broken"]["predicted_region"] is None


@pytest.mark.slow
def test_partition_readers_find_the_regions(by_region: Lake) -> None:
    index = f"{by_region.root}/index/**/*.parquet"
    found = duckdb.sql(
        f"SELECT predicted_region, count(*) FROM '{index}' WHERE status = 'routed' GROUP BY ALL "
        "ORDER BY 1"
    ).fetchall()
    assert found == [(HAND, 1), (KNEE, 1), (None, 1)]
    objects = by_region.root / "objects"
    files = ds.dataset(
        objects, schema=pa.schema([("region", pa.string())]), format="parquet", partitioning="hive"
    ).get_fragments()
    regions = [ds.get_partition_keys(one.partition_expression).get("region") for one in files]
    assert sorted(map(str, regions)) == ["None", "None", HAND, KNEE]


@pytest.mark.slow
def test_objects_move_when_their_region_or_the_policy_changes(
    by_region: Lake, folder: Path, routed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = {name for name in by_region.tree() if name.startswith("objects/")}
    first, second = (("--model", str(folder / name)) for name in ("first", "second"))
    plain = ("--policy", str(routed / "lenient.yaml"))
    policy = ("--policy", str(folder / "by_region.yaml"))
    same = reroute(by_region, capsys, *plain, *first)
    assert (same["changed"], same["between_folders"]) == (0, 0)

    assert reroute(by_region, capsys, *plain, *second)["applied"]["moved"] == 2
    assert set(folders(by_region).values()) == {None}
    swapped = {"0.dcm": HAND, "copy of 0.dcm": HAND, "1.dcm": KNEE, NAMES[2]: None}
    named = {Path(row["source_uri"]).name: row["predicted_region"] for row in by_region.rows()}
    assert {name: named[name] for name in ("0.dcm", "1.dcm", NAMES[2])} == {
        name: swapped[name] for name in ("0.dcm", "1.dcm", NAMES[2])
    }

    moved = reroute(by_region, capsys, *policy, *second)
    assert (moved["changed"], moved["between_folders"], moved["applied"]["moved"]) == (2, 2, 2)
    assert folders(by_region) == swapped
    assert reroute(by_region, capsys, *policy, *second)["changed"] == 0

    again = ("--reprocess", "model", *policy, *first)
    route_into(by_region, *again, inputs=(str(routed / "source"),))
    assert {name for name in by_region.tree() if name.startswith("objects/")} == tree
    folders(by_region)


@pytest.mark.slow
def test_a_run_that_ended_early_leaves_no_second_object(
    lake: Lake, folder: Path, routed: Path, interrupt: Callable[..., None]
) -> None:
    policy = ("--policy", str(folder / "by_region.yaml"))
    interrupt(routed / "source", "--model", str(folder / "second"), *policy)
    options = ("--model", str(folder / "first"), *policy)
    route_into(lake, *options, inputs=(str(routed / "source"),))
    assert folders(lake) == folders(Lake(folder / "lake"))


def test_a_region_follows_the_decision_and_never_leads_it() -> None:
    probabilities = [0.0, 0.0, 0.0, 0.45, 0.55]
    policy = Policy(header_evidence="off").with_defaults(
        ModelLimits(dict.fromkeys(LABELS, 0.5), 10.0)
    )
    knee = PredictedRegion(KNEE, 0.9, "72696002")
    row = index_row("source")
    with_region, without = (
        decide_row(row, Prediction(probabilities, 0.0, "m", region), policy)
        for region in (knee, None)
    )
    assert with_region.region == knee
    without_columns = replace(
        with_region, predicted_region=None, region_confidence=None, predicted_region_code=None
    )
    assert replace(without_columns, decided_at=0) == replace(without, decided_at=0)
    answers = {answer: new_label(with_region, answer, "a", 1) for answer in (OTHERS, SPINE)}
    assert decide_by_person(with_region, answers[OTHERS]).region == knee
    assert decide_by_person(with_region, answers[SPINE]).region is None


def test_the_folder_of_a_region_is_part_of_the_name() -> None:
    layout = Layout("/lake", by_region=frozenset({OTHERS}))
    parts = ("1.2", "1.3", "1.4", "a" * 64)
    plain = f"body_part=others/study=1.2/series=1.3/1.4~{'a' * 16}.dcm"
    by_region = plain.replace("/study", "/region=knee/study")
    assert layout.object_uri(OTHERS, *parts) == f"/lake/objects/{plain}"
    assert layout.object_uri(OTHERS, *parts, region=KNEE) == f"/lake/objects/{by_region}"
    assert "region=" not in layout.object_uri(SPINE, *parts, region="lumbar_spine")
    assert layout.report_uri(OTHERS, *parts) == f"/lake/structured_reports/{plain}"
    assert (region_of(plain), region_of(by_region)) == (None, KNEE)
    assert without_region(by_region) == without_region(plain) == plain
    cases = [
        (plain, None, False, False),
        (plain, KNEE, True, False),
        (by_region, KNEE, False, False),
        (by_region, HAND, True, True),
        (by_region, None, True, True),
    ]
    for uri, region, by_this_policy, by_a_plain_one in cases:
        assert layout.is_misplaced(uri, OTHERS, region) == by_this_policy
        assert Layout("/lake").is_misplaced(uri, OTHERS, region) == by_a_plain_one

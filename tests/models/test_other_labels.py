"""A model with labels of its own: trained, calibrated, routed, reported, reviewed and rerouted."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest
from PIL import Image

from models.bundle import read_info
from pipeline.cli import main
from tests import conformance
from tests.conftest import Lake, route_into
from tests.models.tiny_bundles import SHAPE, SIDE, write_bundle
from tests.synthetic import dicom_bytes, image
from transforms.core.labels import DEFAULT_LABELS, LABELS, AgeGroups
from transforms.lake.label_sets import read_label_set
from transforms.lake.layout import Layout

pytestmark = pytest.mark.slow

NAMES = ("adult_knee", "child_knee", "hand", "skull")
EACH = 10
TINY = ("--architecture", "test_efficientnet", "--init", "none", "--input_size", str(SIDE),
        "--epochs", "1", "--batch_size", "8", "--workers", "0", "--device", "cpu")  # fmt: skip


def shown(label: int, number: int) -> np.ndarray:
    return (image(15 * label + number, SHAPE) >> 4).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images` by label, a bundle `trained` on them and `calibrated`, and DICOM objects.

    Their `lake` is routed by a `bundle` with the same labels, whose predictions vary.
    """
    root = tmp_path_factory.mktemp("labels")
    (root / "source").mkdir()
    for index, name in enumerate(("Adult Knee", "child_knee", "hand", "skull")):
        (root / "images" / name).mkdir(parents=True)
        for number in range(EACH):
            Image.fromarray(shown(index, number)).save(root / "images" / name / f"{number}.png")
        for number, age in enumerate(("050Y", "005Y", None)):
            data = dicom_bytes(
                shown(index, number).astype(np.uint16),
                name=f"{index}.{number}",
                BodyPartExamined="KNEE",
                **({"PatientAge": age} if age else {}),
            )
            (root / "source" / f"{index}-{number}.dcm").write_bytes(data)
    command = ["train", "--data", str(root / "images"), "--output", str(root / "trained"), *TINY]
    assert main([*command, "--age_groups", "child_knee", "adult_knee"]) == 0
    command = ["calibrate", "--model", str(root / "trained"), "--data", str(root / "images")]
    (root / "outliers" / "photograph" / "own").mkdir(parents=True)
    Image.new("L", (60, 40), 128).save(root / "outliers" / "photograph" / "own" / "gray.png")
    calibrated = ["--output", str(root / "calibrated"), "--device", "cpu"]
    outliers = ["--outlier_images", str(root / "outliers")]
    assert main([*command, *calibrated, *outliers]) == 2  # without --outliers
    without_age = ["--holdout_error_without_age", "0.02"]
    assert main([*command, *calibrated, *without_age]) == 2  # without --holdout_bundles
    assert main([*command, *calibrated, *outliers, "--outliers"]) == 0
    assert read_info(str(root / "calibrated")).training["outliers"][0]["source"] == "own"
    labels = read_info(str(root / "calibrated")).label_set
    write_bundle(root / "bundle", threshold=0, label_set=labels)
    route_into(Lake(root / "lake"), *options(root), inputs=(str(root / "source"),))
    return root


def options(folder: Path, bundle: str = "bundle") -> list[str]:
    return ["--model", str(folder / bundle), "--device", "cpu"]


def query(lake: Path, sql: str) -> list[tuple[object, ...]]:
    index = f"read_parquet('{lake}/index/**/*.parquet', hive_partitioning = true)"
    return duckdb.sql(sql.format(index=index)).fetchall()


def test_a_bundle_has_the_labels_of_its_data(folder: Path, tmp_path: Path) -> None:
    info = read_info(str(folder / "calibrated"))
    assert info.labels == NAMES
    assert info.label_set.age_groups == AgeGroups(child="child_knee", adult="adult_knee")
    hand = info.label_set.region_of("hand")
    assert hand is not None
    assert (hand.code, hand.meaning) == ("85562004", "Hand")
    assert set(info.thresholds) == set(NAMES)
    summary = route_into(
        Lake(tmp_path / "lake"),
        *options(folder, "calibrated"),
        inputs=(str(folder / "source"),),
    )
    assert (summary["model_id"], summary["complete"]) == (info.model_id, True)


def test_sinks_columns_and_regions_are_those_of_the_bundle(folder: Path) -> None:
    lake = folder / "lake"
    rows = query(
        lake,
        """
        SELECT destination, predicted_label, probabilities, prob_spine, region_code, status
        FROM {index}""",
    )
    assert len(rows) == 3 * len(NAMES)
    sinks = {path.name for path in (lake / "objects").iterdir()}
    assert sinks == {f"body_part={destination}" for destination, *_ in rows}
    for destination, predicted, probabilities, spine, code, status in rows:
        assert isinstance(probabilities, dict)
        assert tuple(probabilities) == NAMES
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert predicted == max(NAMES, key=lambda name: probabilities[name])
        assert spine is None
        assert status == "routed"
        assert destination in NAMES
        assert (code is not None) == (destination in ("hand", "skull"))
    assert not conformance.violations(lake)
    assert main(["verify", str(lake), "--deep"]) == 0


def test_the_age_decides_between_the_labels_that_the_bundle_names(folder: Path) -> None:
    rows = query(
        folder / "lake",
        """
        SELECT destination, reason, patient_age_years,
            probabilities['adult_knee'] + probabilities['child_knee'] AS knee, confidence,
            greatest(probabilities['hand'], probabilities['skull']) AS other
        FROM {index} WHERE patient_age_years IS NOT NULL AND reason <> 'age_contradicted'""",
    )
    decided = [row for row in rows if row[1] == "settled_by_age"]
    assert decided, "no image whose pixels show a knee"
    for destination, _, age, knee, confidence, other in decided:
        assert isinstance(age, float)
        assert destination == ("adult_knee" if age >= 18 else "child_knee")
        assert confidence == pytest.approx(knee, abs=1e-5)
        assert isinstance(knee, float)
        assert isinstance(other, float)
        assert knee >= other
    assert all(row[0] in ("hand", "skull") for row in rows if row not in decided)


def test_inspect_report_and_review_show_these_labels(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, page, waiting = str(folder / "lake"), tmp_path / "page.html", tmp_path / "waiting.csv"
    source = str(folder / "source" / "0-0.dcm")
    assert main(["inspect", source, *options(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    found = found[0] if isinstance(found, list) else found
    assert tuple(found["prediction"]["probabilities"]) == NAMES
    assert main(["report", lake, "--out", str(page)]) == 0
    (used,) = query(folder / "lake", "SELECT list(DISTINCT destination) FROM {index}")
    assert isinstance(used[0], list)
    assert all(str(name).replace("_", " ") in page.read_text() for name in used[0])
    sample = ["--sample", "1000", "--confidence_below", "1"]
    assert main(["review", lake, "--export", str(waiting), *sample]) == 0
    with waiting.open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * len(NAMES)
    assert {f"prob_{name}" for name in NAMES} <= set(lines[0])
    assert "prob_spine" not in lines[0]


@pytest.fixture
def lines(folder: Path, tmp_path: Path) -> Iterator[list[dict[str, str]]]:
    """The lines of an export of a lake of its own, `tmp_path / "lake"`."""
    lake = Lake(tmp_path / "lake")
    route_into(lake, *options(folder), inputs=(str(folder / "source"),))
    path = tmp_path / "waiting.csv"
    sample = ["--sample", "1000", "--confidence_below", "1"]
    assert main(["review", str(lake.root), "--export", str(path), *sample]) == 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield list(csv.DictReader(file))


def write(path: Path, lines: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)
    return path


def test_answers_are_labels_of_the_lake_and_calibrate_the_bundle(
    folder: Path,
    lines: list[dict[str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lake = str(tmp_path / "lake")
    lines[0]["answer"] = "spine"
    wrong = write(tmp_path / "wrong.csv", lines)
    assert main(["review", lake, "--import", str(wrong), "--reviewer", "ann"]) == 2
    assert f"write one of {', '.join(NAMES)}, not_radiograph" in capsys.readouterr().err
    for number, line in enumerate(lines):
        line["answer"] = "unreadable" if number == 1 else "hand" if number % 2 else "skull"
    path = write(tmp_path / "answers.csv", lines)
    assert main(["review", lake, "--import", str(path), "--reviewer", "ann"]) == 0
    answered = "FROM {index} WHERE destination <> 'review'"
    decided = Counter(query(tmp_path / "lake", f"SELECT destination, region_code {answered}"))
    assert decided == {("skull", "89546000"): 6, ("hand", "85562004"): 5}
    assert main(["verify", lake, "--deep"]) == 0
    command = ["calibrate", "--model", str(folder / "bundle"), "--from_labels", lake]
    command += ["--output", str(tmp_path / "new"), "--min_answers", "1", "--device", "cpu"]
    assert main([*command, "--target_error", "1"]) == 0
    assert read_info(str(tmp_path / "new")).label_set == read_info(str(folder / "bundle")).label_set


def test_a_lake_may_have_rows_of_models_with_different_labels(
    folder: Path,
    lines: list[dict[str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert lines
    lake = tmp_path / "lake"
    assert main(["reroute", str(lake), "--apply", "--device", "cpu"]) == 0
    assert "12 images were decided by" in capsys.readouterr().out, "another model decided them"
    default = str(Path(__file__).parents[2] / "models" / "default")
    command = ["reroute", str(lake), "--apply", "--device", "cpu", "--model"]
    assert main([*command, default]) == 0
    rows = query(
        lake, "SELECT probabilities, prob_spine, header_label, predicted_label FROM {index}"
    )
    assert all(row[0] is None and row[1] is not None and row[3] in LABELS for row in rows)
    assert read_label_set(Layout(str(lake))).names == (*LABELS, *NAMES)
    assert main(["report", str(lake), "--out", str(tmp_path / "page.html")]) == 0
    assert main([*command, str(folder / "bundle")]) == 0
    rows = query(lake, "SELECT probabilities, prob_spine FROM {index}")
    assert all(row[0] is not None and row[1] is None for row in rows)
    assert not conformance.violations(lake)
    assert main(["verify", str(lake), "--deep"]) == 0


def test_a_policy_for_other_labels_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("thresholds: {spine: 0.9}\nsinks: {hands: /mnt/hands}\n")
    command = ["route", "--input", str(folder / "source"), "--lake", str(tmp_path / "lake")]
    command += ["--model", str(folder / "bundle"), "--policy", str(policy)]
    assert main(command) == 2
    text = capsys.readouterr().err
    assert f"thresholds.spine: unknown; known: {', '.join(NAMES)}" in text
    assert "sinks.hands: unknown; did you mean hand?" in text
    assert not (tmp_path / "lake").exists()


def test_regions_are_fitted_within_other_labels(folder: Path, tmp_path: Path) -> None:
    lines = ["path,label,split,region"]
    for index, name in enumerate(("hand", "skull")):
        for number in range(EACH):
            split = "val" if number == EACH - 1 else "train"
            path = folder / "images" / name / f"{number}.png"
            lines.append(f"{path},{name},{split},{('Finger', 'Sinus')[index]}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    command = ["train", "--data", str(tmp_path / "manifest.csv"), *TINY]
    assert main([*command, "--output", str(tmp_path / "bundle")]) == 0
    info = read_info(str(tmp_path / "bundle"))
    assert info.regions is not None
    assert [(one.name, one.labels) for one in info.regions.regions] == [
        ("finger", ("hand",)),
        ("sinus", ("skull",)),
    ]


@pytest.mark.parametrize(
    ("names", "given", "problem"),
    [
        (("hand",), (), "only one label, 'hand'"),
        (("hand", "1st"), (), "'1st' must be lower-case letters, digits and _"),
        (("hand", "review"), (), "'review' is the name of another sink"),
        (("abdominal", "spin"), (), "did you mean spine?"),
        (("hand", "knee"), ("--labels", "hand", "foot"), "unknown label 'knee'"),
        (
            ("hand", "knee"),
            ("--age_groups", "hand", "foot"),
            "--age_groups: give two of hand, knee",
        ),
    ],
)
def test_labels_that_cannot_be_used_are_refused(
    names: tuple[str, ...],
    given: tuple[str, ...],
    problem: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in names:
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(8):
            Image.new("L", (8, 8)).save(tmp_path / "images" / name / f"{number}.png")
    command = ["train", "--data", str(tmp_path / "images"), "--output", str(tmp_path / "bundle")]
    assert main([*command, *TINY, *given]) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_a_lake_of_the_default_labels_needs_no_record_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom_bytes(image()))
    route_into(Lake(tmp_path / "lake"), "--device", "cpu", inputs=(str(tmp_path / "a.dcm"),))
    assert not (tmp_path / "lake" / "label_sets").exists()
    assert read_label_set(Layout(str(tmp_path / "lake"))) == DEFAULT_LABELS

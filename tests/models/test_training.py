"""`train`, `calibrate` and `evaluate` end to end: a data set becomes a bundle that routes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch

from models.bundle import read_info
from models.networks import BodyPartClassifier
from models.training.data.dataset import read_dataset
from models.training.data.outlier_folder import OutlierImages
from models.training.data.outliers import MAX_PER_KIND, SYNTHETIC_KINDS
from models.training.evaluation.corruptions import CORRUPTIONS, PAIRED
from models.training.fit import fit
from models.training.options import FitOptions
from models.training.training_state import CHECKPOINT_FILE, LOG_FILE, TrainingState
from models.weights import save_bundle
from pipeline.cli import main
from tests.conftest import Lake, Route
from tests.synthetic import dicom_bytes, image
from transforms.core.errors import UsageError
from transforms.core.labels import CHESTS, LABELS

pytestmark = [pytest.mark.training, pytest.mark.slow]

TINY = ("--architecture", "test_efficientnet", "--init", "none", "--input_size", "32",
        "--epochs", "1", "--batch_size", "8", "--workers", "0", "--device", "cpu")  # fmt: skip


def test_folders_become_a_bundle_that_routes(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    assert main(["train", "--data", str(folders), "--output", str(bundle), *TINY]) == 0
    info = read_info(str(bundle))
    assert info.architecture == "test_efficientnet"
    assert set(info.thresholds) == set(LABELS)
    (line,) = (bundle / "training.jsonl").read_text().splitlines()
    assert json.loads(line)["epoch"] == 1
    suggested = f"next: dicom-router evaluate --model {bundle} --data {folders}\n"
    assert suggested in capsys.readouterr().err
    arguments = ["evaluate", "--model", str(bundle), "--data", str(folders), "--split", "val"]
    arguments += ["--output", str(tmp_path / "evaluation")]
    assert main([*arguments, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["images"] == sum(f.split == "val" for f in read_dataset(folders))
    assert sum(map(sum, figures["confusion"])) == figures["images"]
    assert figures["macro_f1"] == info.metrics["val"]["macro_f1"]
    assert main(arguments) == 0
    assert "macro" in capsys.readouterr().out
    assert_the_card_shows_the_metrics(tmp_path / "evaluation", info.model_id)
    strict = tmp_path / "strict"
    again = ["calibrate", "--model", str(bundle), "--data", str(folders), "--output", str(strict)]
    assert main([*again, "--target_error", "0"]) == 0
    assert "threshold" in capsys.readouterr().out
    assert read_info(str(strict)).weights_sha256 == info.weights_sha256
    assert all(
        of["wrong"] == 0 or not of["target_met"]
        for of in read_info(str(strict)).calibration["labels"].values()
    )
    source = str(folders / LABELS[0] / "2.dcm")
    lake = str(tmp_path / "lake")
    assert main(["route", "--input", source, "--lake", lake, "--model", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model_id"] == info.model_id


def assert_the_card_shows_the_metrics(folder: Path, model_id: str) -> None:
    evaluation = json.loads((folder / "evaluation.json").read_text())
    card = (folder / "card.md").read_text()
    assert evaluation["model_id"] == model_id
    assert model_id in card
    figures = evaluation["figures"]
    low, high = figures["macro_f1_interval_95"]
    assert low <= figures["macro_f1"] <= high
    assert f"{figures['macro_f1']:.3f} ({low:.3f} to {high:.3f})" in card
    for label, of in figures["labels"].items():
        assert f"| {label} | {of['images']} |" in card
    for name in (*CORRUPTIONS, PAIRED):
        of = evaluation["corruptions"][name]
        assert of["images"] == figures["images"]
        assert f"| {name} | {of['images']} | {of['accuracy']} |" in card
    assert f"{sum(map(sum, figures['confusion']))} images" in card
    counts = evaluation["data"]["images"]
    assert sum(counts[evaluation["data"]["split"]].values()) == figures["images"]
    assert all(
        f"| {split} | {' | '.join(map(str, of.values()))} |" in card for split, of in counts.items()
    )
    assert evaluation["outliers"]["noise"]["images"] == min(MAX_PER_KIND, figures["images"])
    assert {"noise", "blank", "test pattern", "photograph", "CT", "MR", "US"} < set(
        evaluation["outliers"]
    )
    assert ("failures.png" in card) == (folder / "failures.png").exists()
    routed = [
        of["reviewed"] < 1 for kind, of in evaluation["outliers"].items() if kind in SYNTHETIC_KINDS
    ]
    assert ("failures.png" in card) == any(routed)
    for drawing in ("reliability.svg", "risk_coverage.svg"):
        assert drawing in card
        assert ElementTree.parse(folder / drawing).getroot().tag.endswith("svg")


def test_the_layout_of_the_papers_data_set_is_read(folders: Path, tmp_path: Path) -> None:
    """VinDr-BodyPartXR: folders by the classes' short names, below train and test."""
    short = {"abdominal": "abdominal", "adult_chest": "adult", "pediatric_chest": "pediatric",
             "spine": "Spine", "others": "other"}  # fmt: skip
    for label, name in short.items():
        for path in (folders / label).iterdir():
            split = "test" if path.stem in ("0", "1", "2") else "train"
            (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / split / name)
    images = read_dataset(tmp_path)
    assert len(images) == 12 * len(LABELS)
    assert {f.label for f in images} == set(LABELS)
    assert {f.path.parent.parent.name for f in images if f.split == "val"} == {"train"}
    assert all((f.split == "test") == (f.path.parent.parent.name == "test") for f in images)
    bundle = tmp_path / "bundle"
    assert main(["train", "--data", str(tmp_path), "--output", str(bundle), *TINY]) == 0


def test_a_held_out_source_is_only_evaluated(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    train = ["train", "--data", str(manifest), "--output", str(bundle), *TINY]
    assert main([*train, "--holdout_sources", "unknown"]) == 2
    assert "no source unknown" in capsys.readouterr().err
    assert main([*train, "--holdout_sources", "far"]) == 0
    info = read_info(str(bundle))
    assert {source["source"] for source in info.training["sources"]} == {"near"}
    held_out = [f for f in read_dataset(manifest) if f.source == "far" and f.split != "test"]
    assert info.metrics["holdout"]["images"] == len(held_out) > 0
    whole = tmp_path / "whole"
    again = ["calibrate", "--model", str(bundle), "--data", str(manifest), "--output", str(whole)]
    assert main([*again, "--holdout_bundles", str(bundle)]) == 0
    calibrated = read_info(str(whole))
    of_training = {"input_size": 32, "epochs": 1, "members": []}
    assert calibrated.training["holdout"] == [{**of_training, **info.metrics["holdout"]}]
    assert [of["images"] for of in calibrated.calibration["holdout"]] == [len(held_out)]
    assert main([*again, "--holdout_bundles", str(whole)]) == 2
    assert "without --holdout_sources" in capsys.readouterr().err
    capsys.readouterr()
    later = tmp_path / "later"
    again = ["calibrate", "--model", str(whole), "--data", str(manifest), "--output", str(later)]
    assert main(again) == 0
    assert "not proved" in capsys.readouterr().out
    evaluate = ["evaluate", "--data", str(manifest), "--split", "val"]
    for name, shown in (("whole", True), ("later", False)):
        where = ["--model", str(tmp_path / name), "--output", str(tmp_path / f"card of {name}")]
        assert main([*evaluate, *where]) == 0
        card = (tmp_path / f"card of {name}" / "card.md").read_text()
        assert ("| far | 32 | 1 |" in card) == shown


def test_an_interrupted_training_resumes(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = FitOptions(
        architecture="test_efficientnet", init="none", input_size=32, epochs=3, batch_size=8, workers=0,
        mixup=0.2, cutmix=0.5, pairs=0.3, style_mix=0.5, outlier_exposure=0.3, freeze=1,
        region_weight=0.5,
    )  # fmt: skip
    images = [replace(image, region=image.label) for image in read_dataset(folders)]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    expected = fit(images, options, "cpu", whole).state_dict()

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TrainingState, "save_checkpoint", end)
        with pytest.raises(KeyboardInterrupt):
            fit(images, options, "cpu", broken)  # in the first epoch: no checkpoint
    original = TrainingState.save_checkpoint

    def save_and_interrupt(self: TrainingState, *args: object) -> None:
        original(self, *args)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(
            "models.training.training_state.TrainingState.save_checkpoint", save_and_interrupt
        )
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                fit(images, options, "cpu", broken)
    for other_images, other_options in (
        (images, replace(options, seed=1)),
        ([replace(images[0], weight=2.0), *images[1:]], options),
        ([f for f in images if f.path.stem != "3"], options),  # as if a source were held out
    ):
        with pytest.raises(UsageError, match="other images or options"):
            fit(other_images, other_options, "cpu", broken)
    outliers = OutlierImages({("ct", "own"): [np.zeros((8, 8), np.uint8)]}, {"own": "CC0"})
    with pytest.raises(UsageError, match="other images or options"):
        fit(images, options, "cpu", broken, outliers=outliers)
    found = fit(images, replace(options, workers=1), "cpu", broken).state_dict()
    assert [json.loads(line)["epoch"] for line in (broken / LOG_FILE).read_text().splitlines()] == [
        1,
        2,
        3,
    ]
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("share", "last_epochs"), [(0, 1), (0.5, 2), (1, 3)])
def test_the_last_epochs_are_averaged_whatever_val_says(
    folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    last_epochs: int,
) -> None:
    options = FitOptions(
        architecture="test_efficientnet", init="none", input_size=32, epochs=3, batch_size=8, workers=0,
        averaged_share=share,
    )  # fmt: skip
    falling = iter([0.9, 0.8, 0.7])
    monkeypatch.setattr("models.training.fit._macro_f1", lambda *_: next(falling))
    ends: list[dict[str, torch.Tensor]] = []
    networks: list[dict[str, torch.Tensor]] = []

    def save(state: TrainingState, folder: Path, identity: dict[str, object]) -> None:
        save_checkpoint(state, folder, identity)
        saved = torch.load(folder / CHECKPOINT_FILE, weights_only=True)
        assert saved["epochs"] == len(ends) + 1
        ends.append(saved["averaged"])
        networks.append(saved["network"])

    save_checkpoint = TrainingState.save_checkpoint
    monkeypatch.setattr(TrainingState, "save_checkpoint", save)
    found = fit(read_dataset(folders), options, "cpu", tmp_path).state_dict()
    for name, tensor in found.items():
        of_epochs = torch.stack([end[name].float() for end in ends[-last_epochs:]])
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, of_epochs.mean(0), rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(found[name], tensor) for name, tensor in ends[0].items())
    assert any(not torch.equal(found[name], tensor) for name, tensor in networks[-1].items())


def test_a_checkpoint_is_kept_until_the_bundle_is_written(
    folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = tmp_path / "bundle"
    train = ["train", "--data", str(folders), "--output", str(bundle), *TINY]

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("models.training.train_bundle.fit_virtual_logit", end)
        assert main(train) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert (bundle / CHECKPOINT_FILE).exists()
    unlogged = Path(shutil.copytree(bundle, tmp_path / "unlogged"))
    (unlogged / LOG_FILE).unlink()
    assert main(train) == 0
    assert '"epoch"' not in capsys.readouterr().out, "an epoch was trained again"
    assert not (bundle / CHECKPOINT_FILE).exists()
    assert len((bundle / LOG_FILE).read_text().splitlines()) == 1
    assert main([*train, "--output", str(unlogged)]) == 0
    assert read_info(str(unlogged)).model_id == read_info(str(bundle)).model_id


def test_fewer_images_than_a_batch_are_refused(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--data", str(folders), "--output", str(tmp_path / "x"), *TINY]
    assert main([*train, "--batch_size", "1000"]) == 2
    assert "fewer than a batch of 1000; give a smaller --batch_size" in capsys.readouterr().err


def test_more_data_is_only_trained_on(folders: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    train = ["train", "--data", str(folders), "--output", str(bundle), *TINY]
    more = tmp_path / "more.csv"
    path = folders / LABELS[0] / "0.png"
    more.write_text(f"path,label,split,source,license\n{path},{LABELS[0]},val,simulated,CC0\n")
    assert main([*train, "--more_data", str(more), "--more_weight", "0.5"]) == 0
    info = read_info(str(bundle))
    assert {"source": "simulated", "license": "CC0", "images": 1} in info.training["sources"]
    assert info.calibration["images"] == sum(f.split == "val" for f in read_dataset(folders))
    assert info.calibration["data"] == folders.name


def test_a_held_out_source_is_held_out_of_more_data(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    train = ["train", "--data", str(manifest), "--output", str(bundle), *TINY]
    assert main([*train, "--more_data", str(manifest)]) == 2
    assert "groups of --more_data are in val or test" in capsys.readouterr().err
    header, *rows = manifest.read_text().splitlines()
    (far,) = (row for row in rows if f"{LABELS[0]}/3.png,{LABELS[0]},far" in row)
    more = tmp_path / "more.csv"
    more.write_text(f"{header}\n{far}9\n{far.replace(',far,', ',simulated,')}\n")  # of new groups
    assert main([*train, "--more_data", str(more), "--holdout_sources", "far"]) == 0
    training = read_info(str(bundle)).training
    assert {of["source"] for of in training["sources"]} == {"near", "simulated"}
    assert (training["more_data"], training["more_weight"]) == (["more.csv"], 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--input_size", "16"), "--input_size 16: must be 32 to 1024 pixels"),
        (
            ("--architecture", "vit_tiny_patch16_224"),
            "vit_tiny_patch16_224 does not support --input_size 32",
        ),
    ],
    ids=str,
)
def test_an_unsupported_size_is_refused_before_the_training(
    options: tuple[str, ...],
    message: str,
    folders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = tmp_path / "bundle"
    train = ["train", "--data", str(folders), "--output", str(bundle), *TINY, *options]
    assert main(train) == 2
    assert message in capsys.readouterr().err
    assert not (bundle / LOG_FILE).exists()


def test_labels_without_images_are_reported(
    folders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A data set of two labels without groups and first without validation images."""
    data, bundle, card = tmp_path / "data", tmp_path / "bundle", tmp_path / "card"
    for label in LABELS[:2]:
        for split, numbers in (("train", range(9)), ("test", range(9, 12))):
            for number in numbers:
                (path,) = (folders / label).glob(f"{number}.*")
                (data / split / label).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, data / split / label)
    train = ["train", "--data", str(data), "--output", str(bundle), *TINY]
    (data / "val").mkdir()
    assert main(train) == 2
    assert "no images in split 'val'" in capsys.readouterr().err
    (data / "train").rename(data / "valid")
    shutil.copytree(data / "valid", data / "train")
    (data / "val").rmdir()
    assert main(train) == 0
    assert f"no train images of {', '.join(LABELS[2:])}" in caplog.text
    capsys.readouterr()
    evaluate = ["evaluate", "--model", str(bundle), "--data", str(data), "--output", str(card)]
    assert main([*evaluate, "--device", "cpu"]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith(LABELS[2])]
    assert line.split() == [LABELS[2], "0"]
    text = (card / "card.md").read_text()
    assert f"| {LABELS[2]} | 0 |  |  |  |" in text
    assert "Every image is its own group" in text
    assert "it is exceeded for" in text
    assert "| test | 3 | 3 | 0 | 0 | 0 |" in text


def test_a_second_model_decides_again_only_on_request(
    folders: Path, route: Route, lake: Lake, source: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    assert main(["train", "--data", str(folders), "--output", str(bundle), *TINY]) == 0
    (source / "a.dcm").write_bytes(dicom_bytes(image(1)))
    (source / "b.txt").write_bytes(b"not DICOM")
    first = route()
    other = ("--model", str(bundle))
    assert route(*other)["counts"]["unchanged"] == 2
    again = route(*other, "--reprocess", "model")
    assert again["counts"]["unchanged"] == 1
    current = lake.row(source / "a.dcm")
    history = ds.dataset(lake.root / "history", format="parquet", partitioning="hive")
    (superseded,) = history.to_table().to_pylist()
    assert (superseded["model_id"], current["model_id"]) == (first["model_id"], again["model_id"])
    assert {superseded["status"], current["status"]} <= {"routed", "review"}
    assert route(*other, "--reprocess", "model")["counts"]["unchanged"] == 2
    assert main(["verify", str(lake.root), "--deep"]) == 0


def test_the_age_decides_between_chests(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network always predicts adult chest: the age alone identifies children.

    Since the pixels are confident, these are sent to review.
    """
    torch.manual_seed(0)
    network = BodyPartClassifier("test_efficientnet", LABELS).eval()
    with torch.no_grad():
        for weights in network.backbone.get_classifier().parameters():
            weights.zero_()
        network.backbone.get_classifier().bias[LABELS.index("adult_chest")] = 9.0
    fields = {"architecture": "test_efficientnet", "input_size": 32, "ood_threshold": 99.0}
    bundle = tmp_path / "bundle"
    save_bundle(bundle, network, {**fields, "thresholds": dict.fromkeys(LABELS, 0.9)})
    chests = [f for f in read_dataset(folders) if f.label in CHESTS and f.path.suffix == ".png"]
    age = {"adult_chest": "50", "pediatric_chest": "005Y"}
    data = tmp_path / "manifest.csv"
    evaluate = ["evaluate", "--model", str(bundle), "--data", str(data), "--json"]
    evaluate += ["--output", str(tmp_path / "evaluation")]

    def evaluated(with_age: bool) -> dict[str, Any]:
        lines = [f"{f.path},{f.label},test,{age[f.label] * with_age}" for f in chests]
        data.write_text("\n".join(["path,label,split,age", *lines]))
        assert main(evaluate) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    assert evaluated(with_age=False)["with_age"] is None
    assert "the patient's age" not in (tmp_path / "evaluation" / "card.md").read_text()
    figures = evaluated(with_age=True)
    assert figures["figures"]["accuracy"] == 0.5
    assert figures["decisions"]["wrong"] == len(chests) / 2
    assert figures["with_age"]["images_with_age"] == len(chests)
    assert figures["with_age"]["accuracy"] == figures["with_age"]["macro_f1"] == 1.0
    assert figures["with_age"]["decisions"]["wrong"] == 0
    assert figures["with_age"]["decisions"]["routed"] == len(chests) / 2
    card = (tmp_path / "evaluation" / "card.md").read_text()
    assert (
        f"known for {len(chests)} of the {len(chests)} images, macro-averaged F1 is 1.000" in card
    )

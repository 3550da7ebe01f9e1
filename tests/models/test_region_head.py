"""The second head predicts regions, says when it is unsure, and changes nothing in the first."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.bundle import RegionInfo, RegionsInfo, make_info, read_info
from models.networks import BodyPartClassifier
from models.ood_vim import VirtualLogit
from models.region_head import RegionHead
from models.regions import choose_region
from models.training.calibration.fit_regions import choose_threshold, fit_layer
from models.training.data.dataset import read_dataset
from models.training.data.images import LabeledImage
from models.training.data.regions import MIN_IMAGES, is_annotated, list_regions, regions_of
from models.training.evaluation.region_metrics import UNSUPPORTED, region_metrics
from models.weights import load_network, save_bundle
from pipeline.cli import main
from transforms.core.labels import LABELS

SIDE = 32
KNEE = RegionInfo(name="knee", labels=("others",), code="72696002", meaning="Knee")
HAND = RegionInfo(name="hand", labels=("others",))
CHEST = RegionInfo(name="chest", labels=("adult_chest", "pediatric_chest"))
INFO = RegionsInfo(
    regions=(KNEE, HAND, CHEST), temperature=2.0, threshold=0.6, target_precision=0.95
)


def network_with_ood(*, regions: bool, ood: bool) -> BodyPartClassifier:
    torch.manual_seed(0)
    network = BodyPartClassifier("test_efficientnet", LABELS).eval()
    features = network.backbone.num_features
    if ood:
        network.ood = VirtualLogit(torch.zeros(features), torch.eye(features, 2), torch.tensor(1.0))
    if regions:
        weight, bias = torch.randn(3, features).half().float(), torch.randn(3).half().float()
        network.regions = RegionHead(weight, bias, INFO)
    return network


def image_of(label: str, region: str) -> LabeledImage:
    return LabeledImage(Path(), label, "train", "s", "g", region=region)


@pytest.mark.parametrize("ood", [True, False])
def test_the_first_head_is_the_same_bit_by_bit(ood: bool) -> None:
    images = torch.randint(256, (3, 1, SIDE, SIDE), dtype=torch.uint8)
    plain, second = (network_with_ood(regions=regions, ood=ood) for regions in (False, True))
    with torch.inference_mode():
        expected, found = plain(images), second.forward_with_regions(images)
        assert torch.equal(plain.forward_with_regions(images), expected)
        assert torch.equal(second(images), expected)
    assert torch.equal(found[:, : len(LABELS) + 1], expected)
    torch.testing.assert_close(found[:, len(LABELS) + 1 :].sum(1), torch.ones(3))


def test_a_bundle_keeps_its_regions_and_one_without_its_identity(tmp_path: Path) -> None:
    fields = {
        "architecture": "test_efficientnet",
        "input_size": SIDE,
        "thresholds": dict.fromkeys(LABELS, 0.5),
        "ood_threshold": 1.0,
    }
    without = save_bundle(tmp_path / "without", network_with_ood(regions=False, ood=True), fields)
    assert "regions" not in json.loads((tmp_path / "without" / "bundle.json").read_text())
    assert load_network(str(tmp_path / "without")).regions is None

    info = save_bundle(tmp_path / "with", network_with_ood(regions=True, ood=True), fields)
    assert read_info(str(tmp_path / "with")).regions == INFO
    loaded = load_network(str(tmp_path / "with"))
    assert loaded.regions is not None
    assert torch.equal(
        loaded.regions.weight, network_with_ood(regions=True, ood=True).regions.weight
    )
    higher = {"regions": INFO.model_copy(update={"threshold": 0.9})}
    changed = make_info({**info.model_dump(), **higher})
    measured = {"regions": INFO.model_copy(update={"metrics": {"val": {}}})}
    assert len({without.model_id, info.model_id, changed.model_id}) == 3
    assert make_info({**info.model_dump(), **measured}).model_id == info.model_id


def test_a_region_is_given_if_it_is_probable_and_of_the_label() -> None:
    found = choose_region(INFO, [0.7, 0.2, 0.1], "others")
    assert found == ("knee", 0.7, "72696002")
    assert choose_region(INFO, [0.59, 0.31, 0.1], "others") is None
    assert choose_region(INFO, [0.7, 0.2, 0.1], "adult_chest") is None
    assert choose_region(None, [], "others") is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Knee", ("knee",)),
        ("pred:Knee", ("knee",)),
        ("Hand+Wrist", ("hand", "wrist")),
        ("dental_panoramic", ("dental",)),
        ("whole_spine", ("whole_spine",)),
        ("LumbarSpine+ThoracicSpine", ("thoracolumbar_spine",)),
        ("lumbar spine", ("lumbar_spine",)),
        ("pred:rare", ()),
        ("", ()),
    ],
)
def test_regions_have_one_spelling(text: str, names: tuple[str, ...]) -> None:
    image = image_of("others", text)
    assert regions_of(image) == names
    assert is_annotated(image) == (bool(names) and not text.startswith("pred:"))


def test_regions_belong_to_the_labels_that_show_them() -> None:
    images = [
        *[image_of("others", "Knee")] * (3 * MIN_IMAGES),
        image_of("spine", "knee"),  # a wrong label
        *[image_of("adult_chest", "chest")] * MIN_IMAGES,
        *[image_of("pediatric_chest", "Chest")] * MIN_IMAGES,
        *[image_of("others", "Clavicles")] * (MIN_IMAGES - 1),
        *[image_of("others", "left gizmo")] * MIN_IMAGES,
    ]
    assert [(one.name, one.labels, one.code) for one in list_regions(images)] == [
        ("chest", ("adult_chest", "pediatric_chest"), "816094009"),
        ("knee", ("others",), "72696002"),
        ("left_gizmo", ("others",), None),
    ]


def test_an_image_of_several_regions_counts_for_each() -> None:
    """The layer separates single regions, and gives an image of two a region that it shows."""
    centers = torch.eye(3) * 4
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(60) % 3
    features = centers[truth] + torch.randn(60, 3, generator=generator) * 0.3
    targets = torch.nn.functional.one_hot(truth, 3).bool()
    targets[:6, :2] = True
    weight, bias = fit_layer(features, targets)
    predicted = (features @ weight.T + bias).argmax(1)
    assert targets[torch.arange(60), predicted].all()


def test_accuracy_counts_only_what_people_named() -> None:
    images = [
        image_of("others", "Knee"),
        image_of("others", "Knee+Hand"),
        image_of("others", "Hand"),
        image_of("others", "Clavicles"),
        image_of("others", "pred:Knee"),
        image_of("others", ""),
        image_of("adult_chest", "chest"),
    ]
    knee, unsure, chest = [0.9, 0.1, 0.0], [0.3, 0.5, 0.2], [0.0, 0.0, 1.0]
    probabilities = np.array([knee, knee, unsure, knee, knee, knee, chest])
    found = region_metrics(INFO, images, probabilities, [image.label for image in images])
    assert (found["images"], found["given"], found["precision"]) == (5, 0.8, 0.75)
    assert (found["recall"], found["accuracy"]) == (0.6, 0.8)
    assert found["labels"]["adult_chest"]["precision"] == 1
    knees, hands = found["regions"]["knee"], found["regions"]["hand"]
    assert (knees["images"], knees["recall"], knees["precision"]) == (2, 1, 0.6667)
    assert (hands["images"], hands["given"], hands["precision"]) == (2, 0.5, None)
    assert found["regions"][UNSUPPORTED]["images"] == 1
    threshold = choose_threshold(INFO, images, probabilities, [image.label for image in images])
    assert threshold == 0.91


@pytest.mark.slow
def test_training_fits_regions_and_calibrate_fits_them_again(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, bundle = tmp_path / "manifest.csv", tmp_path / "bundle"
    lines = ["path,label,split,group,region"]
    for number, image in enumerate(read_dataset(folders)):
        split = "val" if number % 12 == 0 else "train"
        region = {"spine": "LumbarSpine", "adult_chest": "Chest"}.get(image.label, "")
        lines.append(f"{image.path},{image.label},{split},{number},{region}")
    manifest.write_text("\n".join(lines))
    train = ["train", "--architecture", "test_efficientnet", "--init", "none", "--input_size", "32"]
    train += ["--epochs", "1", "--batch_size", "8", "--workers", "0", "--device", "cpu"]
    train += ["--labels", *reversed(LABELS)]  # so that the bundle has definitions of its own
    assert main([*train, "--data", str(manifest), "--output", str(bundle)]) == 0
    assert "lumbar_spine" in capsys.readouterr().out
    trained = read_info(str(bundle))
    assert trained.regions is not None
    assert trained.regions.names == ("chest", "lumbar_spine")
    assert trained.regions.metrics["val"]["images"] == 2

    again = tmp_path / "again"
    calibrate = ["calibrate", "--model", str(bundle), "--regions", "--device", "cpu"]
    assert main([*calibrate, "--data", str(manifest), "--output", str(again)]) == 0
    fitted = read_info(str(again))
    kept = {"temperature", "thresholds", "age_thresholds", "ood_threshold"}
    kept |= {"calibration", "training", "metrics"}
    kept |= {"labels", "label_definitions"}
    assert trained.label_definitions is not None
    assert fitted.model_dump(include=kept) == trained.model_dump(include=kept)
    assert fitted.regions is not None and fitted.regions.names == trained.regions.names

    ensemble = tmp_path / "ensemble"
    calibrate = ["calibrate", "--model", str(bundle), "--ensemble", str(again), "--device", "cpu"]
    assert main([*calibrate, "--data", str(manifest), "--output", str(ensemble)]) == 0
    regions = load_network(str(ensemble)).regions
    assert regions is not None and regions.weight.shape[1] % 2 == 0

    card = tmp_path / "card"
    evaluate = ["evaluate", "--model", str(again), "--split", "val", "--device", "cpu"]
    assert main([*evaluate, "--data", str(manifest), "--output", str(card)]) == 0
    assert "## Regions" in (card / "card.md").read_text()
    capsys.readouterr()
    calibrate = ["calibrate", "--model", str(bundle), "--regions", "--device", "cpu"]
    assert main([*calibrate, "--data", str(folders), "--output", str(tmp_path / "no")]) == 2
    assert "too few regions" in capsys.readouterr().err

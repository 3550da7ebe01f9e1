"""A student learns its teachers' predictions; no teacher was trained on a held-out source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.bundle import read_info
from models.default_bundle import DEFAULT_BUNDLE
from models.ensemble import members_of
from models.fused import FusedEfficientNetLite
from models.networks import BodyPartClassifier
from models.training.distillation import TEMPERATURE, Teachers, distillation_loss
from models.weights import load_network, save_bundle
from pipeline.cli import main
from tests.synthetic import image
from transforms.core.labels import LABELS, SPINE

TINY = ("--architecture", "test_efficientnet", "--init", "none", "--input_size", "32",
        "--batch_size", "8", "--workers", "0", "--device", "cpu")  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    lines = ["path,label,source,group"]
    for index, label in enumerate(LABELS):
        for number in range(12):
            path = root / f"{label}-{number}.png"
            pixels = (image(100 * index + number, (48, 40)) >> 4).astype(np.uint8)
            Image.fromarray(pixels // 4 + 45 * index).save(path)
            lines.append(f"{path},{label},{'far' if number < 4 else 'near'},{path.stem}")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root / "manifest.csv"


def train(manifest: Path, output: Path, *options: str) -> str:
    command = ["train", "--data", str(manifest), "--output", str(output), *TINY, *options]
    assert main(command) == 0
    return str(output)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a bundle that predicts spine for everything, trained on two sources."""
    torch.manual_seed(0)
    network = BodyPartClassifier("test_efficientnet", LABELS)
    with torch.no_grad():
        network.backbone.classifier.bias[LABELS.index(SPINE)] = 8.0
    folder = tmp_path_factory.mktemp("teacher")
    fields = {
        "architecture": "test_efficientnet",
        "input_size": 64,
        "thresholds": dict.fromkeys(LABELS, 0.5),
        "ood_threshold": 0.0,
        "training": {
            "sources": [
                {"source": "near", "license": "", "images": 1},
                {"source": "clinic", "license": "CC BY 4.0", "images": 7},
            ]
        },
    }
    save_bundle(folder, network, fields)
    return str(folder)


@pytest.mark.training
@pytest.mark.slow
def test_a_student_learns_its_teachers_predictions(
    manifest: Path, teacher: str, tmp_path: Path
) -> None:
    paths = sorted(manifest.parent.glob("*.png"))
    shown = torch.stack(
        [torch.from_numpy(np.array(Image.open(p).resize((32, 32))))[None] for p in paths]
    )
    spines = {}
    for weight in (0, 1):
        how = ("--epochs", "6", "--batch_size", "2", "--learning_rate", "3e-3")
        student = train(manifest, tmp_path / str(weight), *how, "--teachers", teacher,
                        "--teacher_weight", str(weight))  # fmt: skip
        with torch.no_grad():
            called = load_network(student).logits(shown).argmax(1)
        spines[weight] = float((called == LABELS.index(SPINE)).float().mean())
    assert spines[1] >= 0.95
    assert spines[0] < 0.8
    info = read_info(student)
    assert info.training["options"]["teachers"] == [read_info(teacher).model_id]
    assert str(Path(teacher).parent) not in (tmp_path / "1" / "bundle.json").read_text()


@pytest.mark.slow
def test_a_teacher_trained_on_a_held_out_source_is_refused(
    manifest: Path, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ("--teachers", teacher, "--epochs", "1")
    fair = read_info(train(manifest, tmp_path / "fair", *how, "--holdout_sources", "far"))
    trained = {of["source"]: of for of in fair.training["sources"]}
    assert trained.keys() == {"near", "clinic"}
    assert trained["clinic"] == {"source": "clinic", "license": "CC BY 4.0", "images": 7}
    assert trained["near"]["images"] > 1
    capsys.readouterr()
    leaky = tmp_path / "leaky"
    command = ["train", "--data", str(manifest), "--output", str(leaky), *TINY, *how]
    assert main([*command, "--holdout_sources", "near"]) == 2
    assert "was trained on near" in capsys.readouterr().err
    assert not leaky.exists()


def test_targets_are_means_of_softened_probabilities() -> None:
    torch.manual_seed(0)
    networks = [BodyPartClassifier("test_efficientnet", LABELS).eval() for _ in range(2)]
    teachers = Teachers([], "cpu", LABELS, 8)
    teachers.networks = [(network, 32) for network in networks]
    images = torch.rand(3, 1, 32, 32) * 255
    before = images.clone()
    found = teachers.probabilities(images)
    assert torch.equal(images, before)
    with torch.no_grad():
        logits = [network.logits(images) / TEMPERATURE for network in networks]
    expected = torch.stack([part.softmax(1) for part in logits]).mean(0)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(distillation_loss(logits[0] * TEMPERATURE, logits[0].softmax(1)),
                          torch.zeros(3), atol=1e-5)  # fmt: skip
    assert (distillation_loss(logits[0], found) > 0).all()


@pytest.mark.parametrize("images", [4, 3], ids=["of a batch", "of a shorter batch"])
def test_fused_teachers_have_the_targets_of_their_networks(images: int) -> None:
    teachers = Teachers([str(DEFAULT_BUNDLE)], "cpu", LABELS, 4)
    ((network, size),) = teachers.networks
    assert isinstance(members_of(network.backbone)[0], FusedEfficientNetLite)
    generator = torch.Generator().manual_seed(0)
    shown = torch.rand(images, 1, size, size, generator=generator) * 255
    with torch.no_grad():
        expected = load_network(str(DEFAULT_BUNDLE)).logits(shown) / TEMPERATURE
    assert torch.allclose(teachers.probabilities(shown), expected.softmax(1), atol=1e-4)

"""The OOD score separates outliers from images like those trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from models.bundle import WEIGHTS_FILE, BundleError
from models.networks import BodyPartClassifier
from models.ood_vim import VirtualLogit
from models.training.calibration.fit_outliers import RELATIVE_SPREAD, fit_outlier_logit
from models.training.calibration.fit_vim import fit_virtual_logit
from models.training.data.outliers import Maker, synthetic_outlier
from models.training.data.phantoms import head, qa_phantom, section, sector, ultrasound
from models.weights import load_network, save_bundle
from transforms.core.labels import LABELS
from transforms.imaging.preprocessing import preprocess

FIELDS = {
    "architecture": "test_efficientnet",
    "input_size": 32,
    "ood_threshold": 1.0,
    "thresholds": dict.fromkeys(LABELS, 0.5),
}


@pytest.fixture(scope="module")
def network() -> BodyPartClassifier:
    torch.manual_seed(0)
    return BodyPartClassifier("test_efficientnet", LABELS).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Return smooth images, mixtures of two ramps."""
    generator = torch.Generator().manual_seed(1)
    ramp = torch.linspace(0, 255, 32)
    share = torch.rand(96, 1, 1, 1, generator=generator)
    mixed = share * ramp[None, None, None, :] + (1 - share) * ramp[None, None, :, None]
    return mixed.to(torch.uint8)


def test_the_score_is_the_residual_against_the_energy(
    network: BodyPartClassifier, images: torch.Tensor
) -> None:
    ood = fit_virtual_logit(network, images)
    assert ood is not None
    with torch.inference_mode():
        seen = network.features(images)
        features = seen.numpy().astype(np.float64)
        logits = network.logits(images).numpy()
        score = ood(seen, network.backbone.get_classifier()).numpy()
    axes = np.linalg.svd(features - features.mean(0))[2][: ood.axes.shape[1]].T
    centered = features - features.mean(0)
    residual = np.linalg.norm(centered - centered @ axes @ axes.T, axis=1)
    energy = -np.log(np.exp(logits).sum(1))
    scale = logits.max(1).mean() / residual.mean()
    assert ood.axes.shape[1] == len(images) // 4
    np.testing.assert_allclose(score, scale * residual + energy, rtol=0.02, atol=0.02)


def test_noise_scores_higher_than_images(network: BodyPartClassifier, images: torch.Tensor) -> None:
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8)
    network.ood = fit_virtual_logit(network, images[::2])
    with torch.inference_mode():
        assert network(noise)[:, -1].min() > network(images[1::2])[:, -1].max()
    network.ood = None


@pytest.mark.parametrize("make", [section, head, sector, ultrasound, qa_phantom])
def test_generated_images_are_repeatable_and_differ(make: Maker) -> None:
    one, same, other = (make(np.random.default_rng(seed), 48) for seed in (1, 1, 2))
    assert one.shape == (48, 48)
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert np.isfinite(one).all() and 0 <= one.min() < one.max() <= 1


def test_the_outlier_logit_recognizes_what_the_virtual_logit_does_not(
    network: BodyPartClassifier, images: torch.Tensor
) -> None:
    """Half of the images and the generated outliers of another seed were not used in the fit."""
    train, val = images[::2], images[1::2]
    fitted = fit_virtual_logit(network, train)
    assert fitted is not None
    ood = VirtualLogit(fitted.mean, fitted.axes, torch.tensor(0.0))  # the energy alone
    both = fit_outlier_logit(network, ood, train, val)
    rng = np.random.default_rng(5)
    made = [preprocess(synthetic_outlier(rng, 64), 32) for _ in range(80)]
    layer = network.backbone.get_classifier()
    with torch.inference_mode():
        seen, unseen = (
            network.features_and_statistics(x) for x in (val, torch.from_numpy(np.stack(made)))
        )
        old, new = (
            [score(features, layer, statistics).numpy() for features, statistics in (seen, unseen)]
            for score in (ood, both)
        )
        assert both.added_weight is not None and both.added_bias is not None
        assert both.statistics_weight is not None
        of_stages = seen[1] @ both.statistics_weight
        logits = (seen[0] @ both.added_weight + of_stages + both.added_bias).numpy()
    assert logits.mean() == pytest.approx(0, abs=0.1)
    assert logits.std() == pytest.approx(RELATIVE_SPREAD * old[0].std(), rel=0.05)
    assert np.allclose(new[0], old[0] + logits, atol=1e-3)

    def reviewed(scores: list[np.ndarray]) -> float:
        return float((scores[1] > np.quantile(scores[0], 0.98)).mean())

    assert reviewed(new) > 0.75 > reviewed(old)


def test_the_statistics_are_the_mean_and_deviation_of_each_channel(
    network: BodyPartClassifier, images: torch.Tensor
) -> None:
    with torch.inference_mode():
        _, stages = network.backbone.forward_intermediates(network.normalize(images[:3]))
        _, statistics = network.features_and_statistics(images[:3])
    expected = [
        part
        for maps in (one.numpy().astype(np.float64) for one in stages)
        for part in (maps.mean((2, 3)), np.sqrt(maps.var((2, 3)) + 1e-4))
    ]
    assert len(stages) > 1
    np.testing.assert_allclose(statistics, np.concatenate(expected, 1), rtol=1e-4, atol=1e-5)


def test_the_outlier_logit_of_a_network_without_stages_has_the_features_alone(
    network: BodyPartClassifier, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(type(network.backbone), "forward_intermediates")
    virtual = fit_virtual_logit(network, images)
    assert virtual is not None
    ood = fit_outlier_logit(network, virtual, images[::2], images[1::2])
    assert ood.added_weight is not None and ood.statistics_weight is None
    monkeypatch.setattr(network, "ood", ood)
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8)
    with torch.inference_mode():
        assert network(noise)[:, -1].min() > network(images)[:, -1].max()


def test_a_bundle_stores_the_ood_score(
    network: BodyPartClassifier, images: torch.Tensor, tmp_path: Path
) -> None:
    save_bundle(tmp_path / "plain", network, FIELDS)
    network.ood = fit_virtual_logit(network, images)
    assert network.ood is not None
    network.ood = fit_outlier_logit(network, network.ood, images, images)
    save_bundle(tmp_path / "whole", network, FIELDS)
    plain, whole = (load_network(str(tmp_path / name)) for name in ("plain", "whole"))
    with torch.inference_mode():
        energy = -torch.logsumexp(plain.logits(images), dim=1)
        assert torch.allclose(plain(images)[:, -1], energy)
        assert torch.allclose(whole(images)[:, -1], network(images)[:, -1], atol=0.05)
        assert torch.allclose(whole(images)[:, :-1], plain(images)[:, :-1], atol=1e-5)
    network.ood = None


def test_an_incomplete_ood_score_is_refused(
    network: BodyPartClassifier, images: torch.Tensor, tmp_path: Path
) -> None:
    network.ood = fit_virtual_logit(network, images)
    state = network.ood.state_dict()
    network.ood.state_dict = lambda prefix: {f"{prefix}mean": state["mean"]}  # type: ignore[method-assign]
    save_bundle(tmp_path, network, FIELDS)
    network.ood = None
    assert [n for n in safetensors.torch.load_file(tmp_path / WEIGHTS_FILE) if "ood" in n]
    with pytest.raises(BundleError, match="do not fit"):
        load_network(str(tmp_path))


def test_statistics_of_other_stages_are_refused(
    network: BodyPartClassifier,
    images: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of a version of timm whose network has other stages."""
    virtual = fit_virtual_logit(network, images)
    assert virtual is not None
    ood = fit_outlier_logit(network, virtual, images[::2], images[1::2])
    assert ood.statistics_weight is not None
    ood.statistics_weight = ood.statistics_weight[:-2]
    monkeypatch.setattr(network, "ood", ood)
    save_bundle(tmp_path, network, FIELDS)
    with pytest.raises(BundleError, match="do not fit"):
        load_network(str(tmp_path))


def test_a_network_with_a_longer_head_keeps_the_energy(images: torch.Tensor) -> None:
    """This network has a norm between timm's features and the last layer."""
    network = BodyPartClassifier("efficientvit_m0", LABELS).eval()
    inputs = torch.nn.functional.interpolate(images[:8].float(), 64).to(torch.uint8)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.add_(1.0)
    assert fit_virtual_logit(network, inputs) is None


def test_a_network_that_ends_in_a_convolution_keeps_the_energy(images: torch.Tensor) -> None:
    network = BodyPartClassifier("resnetv2_18", LABELS).eval()
    assert fit_virtual_logit(network, images[:8]) is None


@pytest.mark.parametrize(
    "architecture", ["test_resnet", "test_convnext", "test_vit", "mobilenetv1_100"]
)
def test_the_last_layer_maps_features_to_logits(architecture: str) -> None:
    network = BodyPartClassifier(architecture, LABELS).eval()
    images = torch.randint(0, 256, (2, 1, 160, 160), dtype=torch.uint8)
    with torch.inference_mode():
        logits = network.backbone.get_classifier()(network.features(images))
        assert torch.allclose(logits, network.logits(images), atol=1e-4)
        features, _ = network.features_and_statistics(images)
        assert torch.equal(features, network.features(images))

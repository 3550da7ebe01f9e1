"""An ensemble of bundles is a bundle: it serves, routes and is evaluated like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models.bundle import BUNDLE_FILE, BundleError, read_info
from models.ensemble import Ensemble, MeanOfLogits, resize
from models.fused import FusedEfficientNetLite, fuse
from models.handler import RadiographModelHandler
from models.networks import BodyPartClassifier
from models.ood_vim import VirtualLogit, VirtualLogits
from models.training.calibration.fit_vim import fit_virtual_logit
from models.training.data.dataset import read_dataset
from models.weights import load_network, save_bundle
from pipeline.cli import main
from tests.conftest import Lake
from tests.models.test_fused import classifier
from tests.models.test_training import TINY
from tests.synthetic import dicom_bytes, image
from transforms.core.labels import LABELS

FIELDS = {"input_size": 64, "ood_threshold": 1.0, "thresholds": dict.fromkeys(LABELS, 0.5)}


def images(count: int, side: int) -> torch.Tensor:
    noise = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 1, side, side), generator=noise, dtype=torch.uint8)


def of_two(architecture: str, *sides: int) -> tuple[BodyPartClassifier, list[BodyPartClassifier]]:
    """Return an ensemble and its two members."""
    members = [classifier(architecture, seed) for seed in range(2)]
    ensemble = classifier(architecture, 2)
    ensemble.backbone = Ensemble((member.backbone for member in members), sides)
    return ensemble, members


def fitted(member: BodyPartClassifier, to: torch.Tensor) -> VirtualLogit:
    score = fit_virtual_logit(member, to)
    assert score is not None
    return score


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["tf_efficientnet_lite0", "test_vit"])
@torch.inference_mode()
def test_the_mean_of_the_logits_counts(architecture: str) -> None:
    ensemble, (a, b) = of_two(architecture, 160, 160)
    given = images(3, 160)
    assert torch.allclose(
        ensemble.logits(given), (a.logits(given) + b.logits(given)) / 2, atol=1e-5
    )
    features = ensemble.features(given)
    assert torch.equal(features, torch.cat((a.features(given), b.features(given)), dim=1))
    layer = ensemble.backbone.get_classifier()
    assert torch.allclose(layer(features), ensemble.logits(given), atol=1e-4)


@pytest.mark.slow
@torch.inference_mode()
def test_images_are_downsampled_for_members_of_smaller_input() -> None:
    ensemble, (a, b) = of_two("tf_efficientnet_lite0", 128, 64)
    shown = torch.arange(0, 256, 4, dtype=torch.uint8).repeat(2, 1, 64, 1)
    larger = shown.repeat_interleave(2, 2).repeat_interleave(2, 3)
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    downsampled = resize(larger.float(), 64)
    assert torch.allclose(downsampled[inner], shown[inner].float(), atol=1.0)
    expected = (a.logits(larger) + b.logits(downsampled)) / 2
    assert torch.allclose(ensemble.logits(larger), expected, atol=1e-4)


@pytest.mark.slow
@torch.inference_mode()
def test_the_highest_ood_score_of_a_member_counts() -> None:
    ensemble, members = of_two("test_efficientnet", 64, 64)
    rough, smooth = images(64, 64), (images(64, 64) // 64).cumsum(2).to(torch.uint8)
    scores = [fitted(m, to) for m, to in zip(members, (rough, smooth), strict=True)]
    ensemble.ood = VirtualLogits(scores)
    given = torch.cat((rough[:4], smooth[:4]))
    for member, score in zip(members, scores, strict=True):
        member.ood = score
    each = [member(given)[:, -1] for member in members]
    assert {int(place) for place in torch.stack(each).argmax(0)} == {0, 1}
    assert torch.allclose(ensemble(given)[:, -1], torch.maximum(*each), atol=1e-4)


@torch.inference_mode()
def test_with_added_outlier_logits_the_mean_counts() -> None:
    """Of members that all have one; else the highest score of a member counts, as above."""
    layers = MeanOfLogits(torch.nn.Linear(3, 2) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 6, generator=generator)
    parts = (torch.zeros(3), torch.eye(3, 1), torch.tensor(1.0))
    plain = [VirtualLogit(*parts) for _ in range(2)]
    weights = torch.randn(2, 3, generator=generator)
    added = [VirtualLogit(*parts, weight, torch.ones(())) for weight in weights]

    def each(scores: list[VirtualLogit]) -> torch.Tensor:
        members = zip(scores, layers.by_member(features), strict=True)
        return torch.stack([score(own, layer) for score, (own, layer) in members])

    logits = torch.stack(features.chunk(2, dim=1)).bmm(weights[:, :, None])[:, :, 0] + 1.0
    assert torch.allclose(each(added), each(plain) + logits, atol=1e-6)
    assert torch.equal(VirtualLogits(added)(features, layers), each(added).mean(0))
    mixed = [added[0], plain[1]]
    assert torch.equal(VirtualLogits(mixed)(features, layers), each(mixed).amax(0))


@pytest.mark.slow
@torch.inference_mode()
def test_a_bundle_of_two_serves_fused(tmp_path: Path) -> None:
    ensemble, members = of_two("tf_efficientnet_lite0", 48, 64)
    given = images(8, 64)
    scores = [fitted(m, images(64, s)) for m, s in zip(members, (48, 64), strict=True)]
    ensemble.ood = VirtualLogits(scores)
    save_bundle(tmp_path, ensemble, {"architecture": "tf_efficientnet_lite0", **FIELDS})
    assert read_info(str(tmp_path)).members == (48, 64)
    loaded = load_network(str(tmp_path))
    expected = loaded(given)
    assert torch.allclose(expected, ensemble(given), atol=0.01)
    half = load_network(str(tmp_path)).half()
    assert torch.allclose(half(given[:1]).float(), expected[:1], atol=0.01)  # slow on a CPU
    fuse(loaded, 64)
    assert [type(member) for member in loaded.backbone] == [FusedEfficientNetLite] * 2
    assert torch.allclose(loaded(given), expected, rtol=0, atol=1e-4)
    served = RadiographModelHandler(str(tmp_path), device="cpu").load_model().current().network
    assert torch.equal(served(given), loaded(given))


@torch.inference_mode()
def test_an_ood_score_without_its_member_is_refused(tmp_path: Path) -> None:
    ensemble, members = of_two("test_efficientnet", 64, 64)
    ensemble.ood = VirtualLogits(fitted(m, images(64, 64)) for m in [*members, members[0]])
    save_bundle(tmp_path, ensemble, {"architecture": "test_efficientnet", **FIELDS})
    with pytest.raises(BundleError, match="other than 2 members"):
        load_network(str(tmp_path))


@torch.inference_mode()
def test_a_member_without_an_ood_score_leaves_the_energy(manifest: Path, tmp_path: Path) -> None:
    bundles = [str(tmp_path / name) for name in ("a", "b")]
    for seed, path in enumerate(bundles):
        member = classifier("test_efficientnet", seed)
        member.ood = fitted(member, images(64, 64)) if seed else None
        save_bundle(Path(path), member, {"architecture": "test_efficientnet", **FIELDS})
    joined = str(tmp_path / "joined")
    calibrate = ["calibrate", "--data", str(manifest), "--model", bundles[0], "--output", joined]
    assert main([*calibrate, "--ensemble", bundles[1]]) == 0
    network = load_network(joined)
    given = images(2, 64)
    energy = -torch.logsumexp(network.logits(given), dim=1)
    assert torch.allclose(network(given)[:, -1], energy, atol=1e-4)


@torch.inference_mode()
def test_a_member_that_cannot_be_fused_leaves_all_plain() -> None:
    ensemble, _ = of_two("tf_efficientnet_lite0", 64, 64)
    mixed = [ensemble.backbone[0], classifier("test_efficientnet", 0).backbone]
    ensemble.backbone = Ensemble(mixed, (64, 64))
    fuse(ensemble, 64)
    assert list(ensemble.backbone) == mixed


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([64], "do not fit"),
        ([64, 32, 32], "do not fit"),
        ([], "do not fit"),
        ([32, 32], "members: the largest must be input_size"),
        ([64, 128], "members: the largest must be input_size"),
        ([64, 31], r"members\[1\]: must be ≥ 32"),
        ([64, 40.5], r"members\[1\]: must be a whole number"),
        ([64, None], r"members\[1\]: must be a whole number"),
        ([64] * 17, "members: must have at most 16 entries"),
        (2, "members: must be a list"),
    ],
)
def test_wrong_members_are_refused(tmp_path: Path, members: object, problem: str) -> None:
    ensemble, _ = of_two("test_efficientnet", 64, 32)
    save_bundle(tmp_path, ensemble, {"architecture": "test_efficientnet", **FIELDS})
    written = json.loads((tmp_path / BUNDLE_FILE).read_text())
    assert written["members"] == [64, 32]
    other = read_info(str(tmp_path)).model_copy(update={"members": (32, 64)})
    assert other.model_id != read_info(str(tmp_path)).model_id
    (tmp_path / BUNDLE_FILE).write_text(json.dumps({**written, "members": members}))
    with pytest.raises(BundleError, match=problem):
        load_network(str(tmp_path))


def test_a_bundle_without_members_is_one_network(tmp_path: Path) -> None:
    network = classifier("test_efficientnet", 0)
    saved = save_bundle(tmp_path, network, {"architecture": "test_efficientnet", **FIELDS})
    written = json.loads((tmp_path / BUNDLE_FILE).read_text())
    del written["members"]
    (tmp_path / BUNDLE_FILE).write_text(json.dumps(written))
    assert read_info(str(tmp_path)) == saved
    load_network(str(tmp_path))


@pytest.mark.slow
def test_an_ensemble_of_bundles_routes(
    manifest: Path, source: Path, lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated = tmp_path / "simulated.csv"
    (path, *_) = [f.path for f in read_dataset(manifest) if f.source == "near"]
    simulated.write_text(f"path,label,source,license\n{path},{LABELS[0]},simulated,CC0\n")
    bundles = [str(tmp_path / name) for name in ("a", "b", "other", "all")]
    options = (("--seed", "0"), ("--input_size", "48", "--more_data", str(simulated)),
               ("--architecture", "test_resnet"), ())  # fmt: skip
    for bundle, more in zip(bundles, options, strict=True):
        train = ["train", "--data", str(manifest), "--output", bundle, *TINY, *more]
        assert main(train if not more else [*train, "--holdout_sources", "far"]) == 0
    joined = str(tmp_path / "joined")
    calibrate = ["calibrate", "--data", str(manifest), "--model", bundles[0], "--ensemble"]
    capsys.readouterr()
    assert main([*calibrate, bundles[1], "--output", joined, "--holdout_sources", "far"]) == 0
    assert "held out far: macro-F1" in capsys.readouterr().out
    info, of_one = read_info(joined), read_info(bundles[0])
    assert (info.members, info.input_size) == ((32, 48), 48)
    assert [of["model_id"] for of in info.training["members"]] == [
        read_info(bundle).model_id for bundle in bundles[:2]
    ]
    assert [of["options"]["input_size"] for of in info.training["members"]] == [32, 48]
    assert info.training["sources"] == [
        *of_one.training["sources"],
        {"source": "simulated", "license": "CC0", "images": 1},
    ]
    known = [f for f in read_dataset(manifest) if f.source == "near" and f.split == "val"]
    assert info.calibration["images"] == len(known)
    assert info.metrics["holdout"]["images"] == of_one.metrics["holdout"]["images"]

    assert main([*calibrate, bundles[2], "--output", str(tmp_path / "none")]) == 2
    assert "an ensemble needs bundles of one architecture" in capsys.readouterr().err
    assert main([*calibrate, bundles[3], "--output", joined, "--holdout_sources", "far"]) == 2
    assert "all: was trained on far" in capsys.readouterr().err
    assert main([*calibrate, *[bundles[1]] * 16, "--output", joined]) == 2
    assert "at most 16" in capsys.readouterr().err

    three = str(tmp_path / "three")
    again = ["calibrate", "--data", str(manifest), "--model", joined, "--ensemble", bundles[1]]
    assert main([*again, "--output", three, "--outliers"]) == 2
    assert "refit the members of an ensemble, then combine them" in capsys.readouterr().err
    assert main([*again, "--output", three, "--holdout_bundles", joined]) == 0
    ood = load_network(three).ood
    assert isinstance(ood, VirtualLogits) and len(ood) == 3
    assert read_info(three).members == (32, 48, 48)
    assert len(read_info(three).training["members"]) == 3
    assert main(["evaluate", "--model", three, "--data", str(manifest), "--output", three]) == 0
    card = (Path(three) / "card.md").read_text()
    assert "ensemble of 3 test_efficientnet, with input sizes of 32 + 48 + 48 pixels" in card
    assert "| far | 32 + 48 | 1 |" in card
    (source / "a.dcm").write_bytes(dicom_bytes(image(1)))
    capsys.readouterr()
    route = ["route", "--input", str(source), "--lake", str(lake.root), "--model", three, "--json"]
    assert main(route) == 0
    assert json.loads(capsys.readouterr().out)["model_id"] == read_info(three).model_id
    (row,) = lake.rows()
    assert row["status"] in ("routed", "review")
    assert main(["verify", str(lake.root), "--deep"]) == 0

"""Several bundles become one that serves, routes and is judged like any other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.bundle import BUNDLE_FILE, BundleError, load_network, read_info, save
from models.ensemble import Ensemble
from models.fused import FusedEfficientNetLite, fuse
from models.handler import FilmModelHandler
from models.networks import FilmClassifier
from models.training.films import read_films
from models.training.subspace import fit_virtual_logit
from pipeline.cli import main
from tests.models.test_fused import classifier
from tests.models.test_training import TINY
from tests.synthetic import dicom_bytes, film
from transforms.labels import LABELS

FIELDS = {"input_size": 64, "ood_threshold": 1.0, "thresholds": dict.fromkeys(LABELS, 0.5)}


def films(count: int, side: int) -> torch.Tensor:
    noise = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 1, side, side), generator=noise, dtype=torch.uint8)


def of_two(architecture: str) -> tuple[FilmClassifier, list[FilmClassifier]]:
    """Return a classifier and the two that it is made of."""
    members = [classifier(architecture, seed) for seed in range(2)]
    whole = classifier(architecture, 2)
    whole.backbone = Ensemble(member.backbone for member in members)
    return whole, members


@pytest.mark.parametrize("architecture", ["tf_efficientnet_lite0", "test_vit"])
@torch.inference_mode()
def test_the_mean_of_the_logits_counts(architecture: str) -> None:
    whole, (a, b) = of_two(architecture)
    given = films(3, 160)
    assert torch.allclose(whole.logits(given), (a.logits(given) + b.logits(given)) / 2, atol=1e-5)
    features = whole.features(given)
    assert torch.equal(features, torch.cat((a.features(given), b.features(given)), dim=1))
    layer = whole.backbone.get_classifier()
    assert torch.allclose(layer(features), whole.logits(given), atol=1e-4)


@torch.inference_mode()
def test_a_bundle_of_two_serves_fused(tmp_path: Path) -> None:
    whole, _ = of_two("tf_efficientnet_lite0")
    given = films(8, 64)
    whole.ood = fit_virtual_logit(whole, films(64, 64))
    assert whole.ood is not None
    assert whole.ood.mean.shape == (2 * 1280,)
    save(tmp_path, whole, {"architecture": "tf_efficientnet_lite0", **FIELDS})
    assert read_info(str(tmp_path)).members == 2
    loaded = load_network(str(tmp_path))
    expected = loaded(given)
    assert torch.allclose(expected, whole(given), atol=0.01)
    half = load_network(str(tmp_path)).half()
    assert torch.allclose(half(given).float(), expected, atol=0.01)
    fuse(loaded, 64)
    assert [type(member) for member in loaded.backbone] == [FusedEfficientNetLite] * 2
    assert torch.allclose(loaded(given), expected, rtol=0, atol=1e-4)
    served = FilmModelHandler(str(tmp_path), device="cpu").load_model().now().network
    assert torch.equal(served(given), loaded(given))


@torch.inference_mode()
def test_one_member_that_cannot_be_fused_leaves_all_plain() -> None:
    whole, _ = of_two("tf_efficientnet_lite0")
    mixed = [whole.backbone[0], classifier("test_efficientnet", 0).backbone]
    whole.backbone = Ensemble(mixed)
    fuse(whole, 64)
    assert list(whole.backbone) == mixed


@pytest.mark.parametrize("members", [0, 1, 1.5, 17, None, True])
def test_a_wrong_number_of_members_is_refused(tmp_path: Path, members: object) -> None:
    whole, _ = of_two("test_efficientnet")
    save(tmp_path, whole, {"architecture": "test_efficientnet", **FIELDS})
    said = json.loads((tmp_path / BUNDLE_FILE).read_text())
    assert said["members"] == 2
    (tmp_path / BUNDLE_FILE).write_text(json.dumps({**said, "members": members}))
    with pytest.raises(
        BundleError, match="do not fit" if type(members) is int and members == 1 else "must be"
    ):
        load_network(str(tmp_path))


def test_a_bundle_that_says_nothing_of_members_has_one(tmp_path: Path) -> None:
    network = classifier("test_efficientnet", 0)
    saved = save(tmp_path, network, {"architecture": "test_efficientnet", **FIELDS})
    said = json.loads((tmp_path / BUNDLE_FILE).read_text())
    del said["members"]
    (tmp_path / BUNDLE_FILE).write_text(json.dumps(said))
    assert read_info(str(tmp_path)) == replace(saved, members=1)
    load_network(str(tmp_path))


def test_bundles_become_one_that_routes(
    manifest: Path, source: Path, lake, tmp_path: Path, capsys
) -> None:
    simulated = tmp_path / "simulated.csv"
    (path, *_) = [f.path for f in read_films(manifest) if f.source == "near"]
    simulated.write_text(f"path,label,source,license\n{path},{LABELS[0]},simulated,CC0\n")
    bundles = [str(tmp_path / name) for name in ("a", "b", "larger", "all")]
    options = (("--seed", "0"), ("--seed", "1", "--more_data", str(simulated)),
               ("--input_size", "48"), ())  # fmt: skip
    for bundle, more in zip(bundles, options, strict=True):
        train = ["train", "--data", str(manifest), "--output", bundle, *TINY, *more]
        assert main(train if not more else [*train, "--leave_out", "far"]) == 0
    joined = str(tmp_path / "joined")
    calibrate = ["calibrate", "--data", str(manifest), "--model", bundles[0], "--ensemble"]
    capsys.readouterr()
    assert main([*calibrate, bundles[1], "--output", joined, "--leave_out", "far"]) == 0
    assert "on far: macro-F1" in capsys.readouterr().out
    info, of_one = read_info(joined), read_info(bundles[0])
    assert info.members == 2
    assert [of["model_id"] for of in info.training["members"]] == [
        read_info(bundle).model_id for bundle in bundles[:2]
    ]
    assert [of["options"]["seed"] for of in info.training["members"]] == [0, 1]
    assert info.training["sources"] == [
        *of_one.training["sources"],
        {"source": "simulated", "license": "CC0", "films": 1},
    ]
    known = [f for f in read_films(manifest) if f.source == "near" and f.split == "val"]
    assert info.calibration["films"] == len(known)
    assert info.metrics["left_out"]["films"] == of_one.metrics["left_out"]["films"]

    assert main([*calibrate, bundles[2], "--output", str(tmp_path / "none")]) == 2
    assert "make no ensemble" in capsys.readouterr().err
    assert main([*calibrate, bundles[3], "--output", joined, "--leave_out", "far"]) == 2
    assert "all: has learnt from far" in capsys.readouterr().err
    assert main([*calibrate, *[bundles[1]] * 16, "--output", joined]) == 2
    assert "at most 16" in capsys.readouterr().err

    three = str(tmp_path / "three")
    again = ["calibrate", "--data", str(manifest), "--model", joined, "--ensemble", bundles[1]]
    assert (
        main([*again, "--output", three, "--more_data", str(simulated), "--without", joined]) == 0
    )
    assert read_info(three).members == len(read_info(three).training["members"]) == 3
    assert main(["evaluate", "--model", three, "--data", str(manifest), "--output", three]) == 0
    card = (Path(three) / "card.md").read_text()
    assert "3 networks" in card
    assert "| far | 2 | 32 | 1 |" in card
    (source / "a.dcm").write_bytes(dicom_bytes(film(1)))
    capsys.readouterr()
    route = ["route", "--input", str(source), "--lake", str(lake.root), "--model", three, "--json"]
    assert main(route) == 0
    assert json.loads(capsys.readouterr().out)["model_id"] == read_info(three).model_id
    (row,) = lake.rows()
    assert row["status"] in ("routed", "review")
    assert main(["verify", str(lake.root), "--deep"]) == 0

"""A bundle is used as its digest says or refused, with a message that says what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from models.bundle import BUNDLE_FILE, WEIGHTS_FILE, BundleError, load_network, read_info
from models.default_bundle import DEFAULT_BUNDLE
from transforms.core.labels import LABELS
from transforms.imaging.preprocessing import PREPROCESSING


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle"))


def change(bundle: Path, **fields: object) -> None:
    path = bundle / BUNDLE_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_the_default_bundle_is_small_and_says_where_it_comes_from() -> None:
    info = read_info(DEFAULT_BUNDLE)
    assert info.labels == LABELS
    assert sum(p.stat().st_size for p in Path(DEFAULT_BUNDLE).iterdir()) < 20_000_000
    assert all(source["license"] for source in info.training["sources"])
    assert info.metrics["val"]["macro_f1"] > 0.96


def test_changed_weights_are_refused(copy: Path) -> None:
    weights = copy / WEIGHTS_FILE
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BundleError, match="copy the bundle again"):
        load_network(str(copy))


@pytest.mark.parametrize(
    "fields",
    [
        {"format_version": 99},
        {"temperature": 0},
        {"input_size": 5},
        {"thresholds": {}},
        {"thresholds": dict.fromkeys(LABELS, 2)},
        {"thresholds": dict.fromkeys(LABELS, "high")},
        {"ood_threshold": float("nan")},
        {"labels": None},
        {"preprocessing": "another one"},
        {"unheard_of": 1},
    ],
    ids=str,
)
def test_a_senseless_bundle_is_refused(copy: Path, fields: dict[str, object]) -> None:
    change(copy, **fields)
    with pytest.raises(BundleError, match="model bundle"):
        read_info(str(copy))


def test_weights_of_another_network_are_refused(copy: Path) -> None:
    change(copy, architecture="resnet18")
    with pytest.raises(BundleError, match="do not fit resnet18"):
        load_network(str(copy))


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot read"):
        read_info(str(tmp_path / "nowhere"))


def test_the_model_id_follows_what_can_change_a_decision(copy: Path) -> None:
    original = read_info(DEFAULT_BUNDLE).model_id
    change(copy, metrics={})
    assert read_info(str(copy)).model_id == original
    path = copy / BUNDLE_FILE
    bare = {k: v for k, v in json.loads(path.read_text()).items() if k != "preprocessing"}
    path.write_text(json.dumps(bare))
    with pytest.raises(BundleError, match="preprocessing"):
        read_info(str(copy))
    change(copy, preprocessing=PREPROCESSING, temperature=3.0)
    assert read_info(str(copy)).model_id != original

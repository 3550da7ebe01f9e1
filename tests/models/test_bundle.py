"""A bundle is used if it is valid and its digest matches, and refused with a remedy otherwise."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models.bundle import BUNDLE_FILE, WEIGHTS_FILE, BundleError, read_info
from models.default_bundle import DEFAULT_BUNDLE
from models.training.provenance import read_bundle
from models.weights import load_network
from transforms.core.labels import LABELS
from transforms.imaging.preprocessing import PREPROCESSING


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle"))


def change(bundle: Path, **fields: object) -> None:
    path = bundle / BUNDLE_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_the_default_bundle_is_small_and_names_its_sources() -> None:
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
    with pytest.raises(BundleError, match="copy the whole bundle again"):
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
        {"age_thresholds": {"adult_chest": 2}},
        {"age_thresholds": {"spine": 0.5}},
        {"ood_threshold": float("nan")},
        {"labels": None},
        {"preprocessing": "another one"},
        {"unheard_of": 1},
    ],
    ids=str,
)
def test_an_invalid_bundle_is_refused(copy: Path, fields: dict[str, object]) -> None:
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


def test_every_error_is_reported_at_once(copy: Path) -> None:
    change(copy, temperature=-1, ood_threshold="high", members=[5], sources=[])
    with pytest.raises(BundleError) as caught:
        read_info(str(copy))
    for problem in (
        "bundle.json: 4 errors",
        "temperature: must be > 0",
        "ood_threshold: must be a number",
        "members[0]: must be ≥ 32",
        "sources: unknown; known: architecture",
    ):
        assert problem in str(caught.value)


def test_a_description_is_read_without_torch() -> None:
    """Commands that need no network start faster."""
    code = (
        "import sys; from models.bundle import read_info; read_info('builtin:default'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_bundle_of_an_earlier_release_routes_and_is_not_trained_with(copy: Path) -> None:
    training = read_info(DEFAULT_BUNDLE).training
    sources = [{"source": of["source"], "license": "", "films": 1} for of in training["sources"]]
    change(copy, training={**training, "sources": sources})
    assert read_info(str(copy)).model_id == read_info(DEFAULT_BUNDLE).model_id
    with pytest.raises(BundleError, match="written by an earlier release"):
        read_bundle(str(copy))

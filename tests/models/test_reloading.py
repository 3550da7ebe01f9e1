"""A bundle added to a folder replaces the model between two batches; an invalid one does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from models.bundle import BUNDLE_FILE, WEIGHTS_FILE, read_info
from models.classifier import ModelOutput
from models.default_bundle import DEFAULT_BUNDLE
from models.handler import RadiographModelHandler
from models.reloading import ReloadingModel
from tests.models.test_handler import images


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def drop(folder: Path, name: str, **changed: object) -> Path:
    """Add the default bundle with changed fields to a folder: another model."""
    bundle = folder / name
    bundle.mkdir(parents=True)
    shutil.copy(Path(DEFAULT_BUNDLE) / WEIGHTS_FILE, bundle)
    fields = json.loads((Path(DEFAULT_BUNDLE) / BUNDLE_FILE).read_text())
    (bundle / BUNDLE_FILE).write_text(json.dumps({**fields, **changed}))
    return bundle


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def model(tmp_path: Path, clock: Clock) -> ReloadingModel:
    handler = RadiographModelHandler(DEFAULT_BUNDLE, device="cpu")
    first = handler.load_bundle(DEFAULT_BUNDLE)
    return ReloadingModel(first, handler.load_bundle, str(tmp_path), 30, clock)


def look(model: ReloadingModel, clock: Clock) -> str:
    clock.now += 31
    return model.current().info.model_id


@pytest.mark.slow
def test_the_last_bundle_by_name_is_used(
    tmp_path: Path, model: ReloadingModel, clock: Clock
) -> None:
    default = read_info(DEFAULT_BUNDLE).model_id
    assert look(model, clock) == default
    second = read_info(str(drop(tmp_path, "2026-02", temperature=2.0))).model_id
    clock.now += 1
    assert model.current().info.model_id == default, "checked too early"
    assert look(model, clock) == second != default
    drop(tmp_path, "2026-01", temperature=3.0)
    assert look(model, clock) == second
    shutil.rmtree(tmp_path / "2026-02")
    assert look(model, clock) == read_info(str(tmp_path / "2026-01")).model_id


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["cut", "missing", "labels", "input_size", "json"])
def test_an_invalid_bundle_is_refused_until_it_changes(
    tmp_path: Path,
    model: ReloadingModel,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    default = look(model, clock)
    changed: dict[str, object] = {"temperature": 2.0}
    if fault == "labels":
        changed |= {"labels": ["a", "b"], "thresholds": {"a": 0.5, "b": 0.5}}
    if fault == "input_size":
        changed["input_size"] = 160
    bundle = drop(tmp_path, "new", **changed)
    weights = bundle / WEIGHTS_FILE
    whole = weights.read_bytes()
    if fault == "cut":
        weights.write_bytes(whole[:1000])
    if fault == "missing":
        weights.unlink()
    if fault == "json":
        (bundle / BUNDLE_FILE).write_text("{")
    assert look(model, clock) == default
    assert look(model, clock) == default
    (message,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("refused")]
    assert f"{default} stays in use" in message
    shutil.rmtree(bundle)
    drop(tmp_path, "new", temperature=2.0)
    assert look(model, clock) != default


def test_results_carry_the_thresholds_of_the_bundle_that_classified(
    tmp_path: Path, model: ReloadingModel, clock: Clock
) -> None:
    handler = RadiographModelHandler(DEFAULT_BUNDLE, device="cpu")
    thresholds = {label: 0.99 for label in read_info(DEFAULT_BUNDLE).labels}
    drop(tmp_path, "strict", thresholds=thresholds, ood_threshold=-5.0)
    clock.now += 31
    (result,) = handler.run_inference(images(1), model)
    assert isinstance(result.inference, ModelOutput)
    assert result.inference.limits.thresholds == thresholds
    assert result.inference.limits.ood_threshold == -5.0
    assert result.model_id == read_info(str(tmp_path / "strict")).model_id

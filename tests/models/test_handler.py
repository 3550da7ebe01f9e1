"""The handler isolates a bad image, uses the requested device and keeps results in order."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax

from models.bundle import read_info
from models.classifier import DeviceError, ModelOutput, choose_device, effective_batch_size
from models.default_bundle import DEFAULT_BUNDLE
from models.fused import CPU_FORWARD_BATCH
from models.handler import RadiographModelHandler
from models.inference import InferenceError, forward
from models.networks import BodyPartClassifier
from models.reloading import LoadedBundle, ReloadingModel
from models.training.evaluation.predict import predict_image_logits, predict_images
from models.weights import load_network
from tests.synthetic import image
from transforms.core.labels import LABELS
from transforms.imaging.preprocessing import preprocess
from transforms.metrics import RUN_INFERENCE

SIDE = read_info(DEFAULT_BUNDLE).input_size


@pytest.fixture(scope="module")
def handler() -> RadiographModelHandler:
    return RadiographModelHandler(DEFAULT_BUNDLE, device="cpu")


@pytest.fixture(scope="module")
def model(handler: RadiographModelHandler) -> ReloadingModel:
    return handler.load_model()


def images(count: int) -> list[np.ndarray]:
    return [preprocess(image(seed, (300, 260)).astype(np.float32), SIDE) for seed in range(count)]


def loaded(network: BodyPartClassifier) -> ReloadingModel:
    def load(uri: str) -> LoadedBundle:
        return LoadedBundle(load_network(uri), read_info(uri))

    without_regions = read_info(DEFAULT_BUNDLE).model_copy(update={"regions": None})
    return ReloadingModel(LoadedBundle(network, without_regions), load, None, 0)


def inferences(
    handler: RadiographModelHandler, model: ReloadingModel, batch: list[np.ndarray]
) -> list[Any]:
    results = [result.inference for result in handler.run_inference(batch, model)]
    return [one.values if isinstance(one, ModelOutput) else one for one in results]


def test_probabilities_sum_to_one_and_results_carry_their_image(
    handler: RadiographModelHandler, model: ReloadingModel
) -> None:
    (one,) = images(1)
    (result,) = handler.run_inference([one], model)
    assert result.example is one
    assert isinstance(result.inference, ModelOutput)
    assert result.inference.values.shape == (len(LABELS) + 1,)
    assert result.inference.values[:-1].sum() == pytest.approx(1, abs=1e-5)
    assert np.isfinite(result.inference.values).all()


def test_passes_at_the_same_time_give_the_same_values(model: ReloadingModel) -> None:
    network, batch = model.current().network, images(2 * CPU_FORWARD_BATCH + 3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        together = forward(batch, network, CPU_FORWARD_BATCH)
        alone = [
            forward(batch[start : start + CPU_FORWARD_BATCH], network, CPU_FORWARD_BATCH)
            for start in range(0, len(batch), CPU_FORWARD_BATCH)
        ]
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(together, np.concatenate(alone))


@pytest.mark.slow
def test_a_result_does_not_depend_on_its_neighbours(
    handler: RadiographModelHandler, model: ReloadingModel
) -> None:
    batch = images(11)
    together = inferences(handler, model, batch)
    for index in (0, 5, 10):
        (alone,) = inferences(handler, model, [batch[index]])
        assert np.array_equal(alone, together[index])


@pytest.mark.slow
@pytest.mark.parametrize("position", [0, 3, 6])
@pytest.mark.parametrize("culprit", [np.zeros((1, SIDE, 9), np.uint8), "not an array"])
def test_only_the_culprit_fails(
    handler: RadiographModelHandler, model: ReloadingModel, position: int, culprit: np.ndarray
) -> None:
    good = images(6)
    batch = [*good[:position], culprit, *good[position:]]
    results = inferences(handler, model, batch)
    assert len(results) == 7
    assert isinstance(results.pop(position), InferenceError)
    for one, other in zip(results, inferences(handler, model, good), strict=True):
        assert np.array_equal(one, other)


def test_values_that_are_not_finite_are_an_error(handler: RadiographModelHandler) -> None:
    class Broken(BodyPartClassifier):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            out = torch.zeros(len(batch), len(LABELS) + 1)
            out[batch.flatten(1).amax(1) == 255] = torch.nan
            return out

    broken = Broken("test_efficientnet", LABELS).eval()
    dark, bright = np.zeros((1, SIDE, SIDE), np.uint8), np.full((1, SIDE, SIDE), 255, np.uint8)
    results = inferences(handler, loaded(broken), [dark, bright, dark])
    assert [isinstance(r, InferenceError) for r in results] == [False, True, False]


def test_a_plate_is_classified_by_its_views(
    handler: RadiographModelHandler, model: ReloadingModel
) -> None:
    whole, left, right = images(3)
    plate = np.concatenate([whole, left, right])
    results: list[Any] = list(handler.run_inference([left, plate, right], model))
    alone, together, other = (result.inference for result in results)
    assert alone.views is None and other.views is None
    chances = [one.values[:-1] for one in (alone, other)]
    product = np.sqrt(chances[0] * chances[1])
    assert together.values[:-1] == pytest.approx(product / product.sum(), abs=1e-5)
    assert together.values[-1] == max(alone.values[-1], other.values[-1])
    for view, own in zip(together.views, chances, strict=True):
        assert view == (LABELS[own.argmax()], own.max())


def test_evaluation_classifies_images_as_a_run_does(
    handler: RadiographModelHandler, model: ReloadingModel
) -> None:
    one, left, right = images(3)
    given = [one, np.concatenate([one, left, right]), right]
    served: list[Any] = [result.inference for result in handler.run_inference(given, model)]
    network = model.current().network
    evaluated = predict_images(network, given)
    logits, scores = predict_image_logits(network, given)
    for number, output in enumerate(served):
        assert evaluated.probabilities[number] == pytest.approx(output.values[:-1], abs=1e-5)
        calibrated = softmax(logits[number] / network.temperature)
        assert calibrated == pytest.approx(output.values[:-1], abs=1e-5)
        for of in (evaluated.ood_scores, scores):
            assert of[number] == pytest.approx(output.values[-1], abs=1e-4)
        for view, other in zip(evaluated.views[number] or (), output.views or (), strict=True):
            assert view.label == other.label
            assert view.confidence == pytest.approx(other.confidence, abs=1e-5)
    assert [views is not None for views in evaluated.views] == [False, True, False]
    chosen = evaluated.select(np.array([False, True, True]))
    assert np.array_equal(chosen.probabilities, evaluated.probabilities[1:])
    assert chosen.views == evaluated.views[1:]


def test_an_image_fails_with_a_view_of_it(handler: RadiographModelHandler) -> None:
    class Broken(BodyPartClassifier):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            out = torch.full((len(batch), len(LABELS) + 1), 0.2)
            out[batch.flatten(1).amax(1) == 255] = torch.nan
            return out

    broken = loaded(Broken("test_efficientnet", LABELS).eval())
    dark, bright = np.zeros((1, SIDE, SIDE), np.uint8), np.full((1, SIDE, SIDE), 255, np.uint8)
    plates = [np.concatenate(of) for of in ((bright, dark, dark), (dark, dark, bright))]
    results = inferences(handler, broken, [dark, *plates, dark])
    assert [isinstance(r, InferenceError) for r in results] == [False, False, True, False]


def test_a_model_that_fails_on_every_image_stops_the_run(handler: RadiographModelHandler) -> None:
    class Full(BodyPartClassifier):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError

    with pytest.raises(RuntimeError, match="fails on every image"):
        handler.run_inference(images(2), loaded(Full("test_efficientnet", LABELS).eval()))


def test_a_model_that_gives_too_few_results_is_caught(handler: RadiographModelHandler) -> None:
    class Short(BodyPartClassifier):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return torch.zeros(1, len(LABELS) + 1)

    with pytest.raises(AssertionError, match="results for 3 images"):
        handler.run_inference(images(3), loaded(Short("test_efficientnet", LABELS).eval()))


def test_bytes_are_counted_in_full(handler: RadiographModelHandler) -> None:
    assert handler.get_num_bytes(images(2)) == 2 * SIDE * SIDE


def test_beam_batches_and_counts_as_the_handler_says() -> None:
    handler = RadiographModelHandler(DEFAULT_BUNDLE, device="cpu", max_batch_size=5)
    pickled = pickle.loads(pickle.dumps(handler))
    options = pickled.batch_elements_kwargs()
    size_of = options.pop("element_size_fn")
    assert options == {"min_batch_size": 5, "max_batch_size": 5}
    (one,) = images(1)
    plate = np.concatenate([one, one, one])
    assert [size_of(element) for element in (one, plate, (None, plate))] == [1, 2, 2]
    assert pickled.get_metrics_namespace() == RUN_INFERENCE


def test_a_cpu_gets_the_images_of_the_passes_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert effective_batch_size("cpu", 32) == CPU_FORWARD_BATCH
    assert effective_batch_size("cpu", 4) == 4
    monkeypatch.delenv("OMP_NUM_THREADS")
    for processors, passes in ((1, 1), (2, 2), (3, 2), (8, 1)):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, n=processors: set(range(n)))
        assert effective_batch_size("cpu", 32) == passes * CPU_FORWARD_BATCH
    assert effective_batch_size("cuda", 32) == 32, "workers may have what this machine has not"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_is_never_replaced_silently() -> None:
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(DeviceError, match="--device"):
        choose_device("cuda")
    with pytest.raises(DeviceError):
        RadiographModelHandler(DEFAULT_BUNDLE, device="cuda").load_model()


def test_halving_frees_memory_on_a_device(
    handler: RadiographModelHandler, model: ReloadingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more than four images this device is out of memory; each image still gets its result."""
    seen: list[int] = []

    def forward(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        if len(batch) > 4:
            raise torch.OutOfMemoryError
        return torch.zeros(len(batch), len(LABELS) + 1)

    class Device:
        type = "cuda"

    small = BodyPartClassifier("test_efficientnet", LABELS).eval()
    monkeypatch.setattr(BodyPartClassifier, "device", Device())
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **k: self)
    pinned: list[torch.Tensor] = []

    def pin(self: torch.Tensor) -> torch.Tensor:
        pinned.append(self)
        return self

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    small.forward = forward  # type: ignore[assignment, method-assign]
    results = inferences(handler, loaded(small), images(9))
    assert not any(isinstance(r, InferenceError) for r in results)
    assert max(seen) == 32
    assert seen[-1] <= 4
    assert all(images.dtype is torch.uint8 for images in pinned)
    assert pinned


@pytest.mark.slow
def test_half_precision_as_on_a_device_gives_nearly_the_same() -> None:
    network = load_network(DEFAULT_BUNDLE)
    given = torch.from_numpy(np.stack(images(4)))
    with torch.inference_mode():
        expected, half = network(given), network.half()(given)
    assert half.dtype is torch.float32
    assert torch.allclose(half[:, :-1], expected[:, :-1], rtol=0, atol=0.01)
    assert torch.allclose(half[:, -1], expected[:, -1], rtol=0, atol=0.1)


def test_the_bundle_loads_as_it_was_saved() -> None:
    network = load_network(DEFAULT_BUNDLE)
    assert network.labels == LABELS
    assert network.dtype is torch.float32

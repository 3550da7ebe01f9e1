"""An ONNX file becomes a bundle that is calibrated, evaluated and routed with like any other."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import duckdb
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from models.bundle import BUNDLE_FILE, ONNX_FILE, BundleError, read_info
from models.classifier import ModelOutput
from models.handler import RadiographModelHandler
from models.inference import InferenceError
from models.networks import energy
from models.onnx_graph import GraphError, require_self_contained
from models.training.distillation import Teachers
from models.weights import load_network
from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake, counts, route_into
from tests.models.onnx_graphs import SIDE, export, linear_graph, weights
from tests.models.tiny_bundles import IMAGES, SHAPE, write_bundle
from tests.synthetic import dicom_bytes, image
from transforms.core.labels import LABELS
from transforms.imaging.preprocessing import preprocess

NAMES = ("hand", "knee", "skull")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = ("--mean", *map(str, MEAN), "--std", *map(str, STD))


def thumbnails(number: int) -> np.ndarray:
    pixels = (image(seed, (96, 80)).astype(np.float32) for seed in range(number))
    return np.stack([preprocess(one, SIDE) for one in pixels])


def outputs(handler: RadiographModelHandler, images: np.ndarray) -> np.ndarray:
    """What the model of a handler answers, float32[N, n_labels + 1]."""
    results = handler.run_inference(list(images), handler.load_model())
    answers = [cast(ModelOutput, result.inference) for result in results]
    return np.stack([answer.values for answer in answers])


def import_model(file: Path, output: Path, *options: str) -> int:
    return main(["import-model", str(file), "--output", str(output), *options])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle of PyTorch, `torch`, and one with the same network as a graph, `onnx`."""
    folder = tmp_path_factory.mktemp("onnx")
    write_bundle(folder / "torch")
    network = load_network(str(folder / "torch"))
    (folder / "tiny-net.onnx").write_bytes(export(network.backbone, SIDE))
    options = ("--labels", *LABELS, "--mean", "0.5", "--std", "0.5", "--license", "CC0-1.0")
    assert import_model(folder / "tiny-net.onnx", folder / "onnx", *options) == 0
    (folder / "source").mkdir()
    for number in range(12):
        data = dicom_bytes(image(number, (96, 80)), StudyInstanceUID=f"1.2.{number}")
        (folder / "source" / f"{number}.dcm").write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    """A manifest of images with the labels that the network gives them."""
    network = load_network(str(folder / "torch"))
    lines = ["path,label,split"]
    for number in range(IMAGES):
        pixels = (image(number, SHAPE) >> 4).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        shown = torch.from_numpy(preprocess(pixels.astype(np.float32), SIDE))[None]
        with torch.inference_mode():
            label = LABELS[int(network.logits(shown).argmax())]
        lines.append(f"{number}.png,{label},val")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder / "manifest.csv"


@pytest.fixture
def write_graph(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    """Write a graph to a file."""

    def write(model: onnx.ModelProto) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


def test_a_graph_answers_as_the_network_that_it_was_exported_from(folder: Path) -> None:
    images = torch.from_numpy(thumbnails(9))
    with torch.inference_mode():
        network, graph = (load_network(str(folder / name)) for name in ("torch", "onnx"))
        expected, found = network(images), graph(images)
        assert network(images)[:, :-1].std(0).max() > 0.01, "answers that vary"
        assert torch.allclose(found, expected, atol=1e-3)
        assert torch.allclose(found[:, -1], energy(graph.logits(images)))
        assert torch.allclose(graph.forward_with_energy(images)[:, :-1], found)


def test_a_new_bundle_says_where_it_is_from_and_reviews_everything(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    info = read_info(str(folder / "onnx"))
    assert info.model_id.startswith("tiny_net-")
    assert info.training["imported"]["license"] == "CC0-1.0"
    assert info.labels == LABELS
    lake = Lake(tmp_path / "lake")
    summary = route_into(
        lake, "--model", str(folder / "onnx"), "--device", "cpu", inputs=(str(folder / "source"),)
    )
    assert counts(summary) == {"review": 12}
    assert "is not calibrated: every image is reviewed" in caplog.text
    answers = ["calibrate", "--model", str(folder / "onnx"), "--from_labels", str(lake.root)]
    assert main([*answers, "--output", str(tmp_path / "new")]) == 2


@pytest.mark.slow
def test_a_calibrated_graph_routes_as_the_network_that_it_was_exported_from(
    folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("torch", "onnx"):
        calibrated, lake = str(tmp_path / kind), Lake(tmp_path / f"{kind}-lake")
        command = ["calibrate", "--model", str(folder / kind), "--data", str(data)]
        command += ["--output", calibrated, "--target_error", "0.2", "--device", "cpu"]
        assert main(command) == 0
        summary = route_into(
            lake, "--model", calibrated, "--device", "cpu", inputs=(str(folder / "source"),)
        )
        assert counts(summary)["routed"] > 3
        assert not violations(lake.root)
    info = read_info(str(tmp_path / "onnx"))
    assert info.is_calibrated
    assert info.onnx == read_info(str(folder / "onnx")).onnx
    assert info.model_id != read_info(str(folder / "onnx")).model_id
    index = "read_parquet('{}/index/**/*.parquet', hive_partitioning = true)"
    columns = ", ".join(f"abs(a.prob_{label} - b.prob_{label})" for label in LABELS)
    (rows, difference, same) = duckdb.sql(
        f"SELECT count(*), max(greatest({columns})), count(*) FILTER (a.destination = b.destination) "
        f"FROM {index.format(tmp_path / 'torch-lake')} a "
        f"JOIN {index.format(tmp_path / 'onnx-lake')} b USING (source_uri)"
    ).fetchall()[0]
    assert rows == same == 12
    assert difference < 1e-3
    capsys.readouterr()
    command = ["evaluate", "--model", str(tmp_path / "onnx"), "--data", str(data), "--json"]
    command += ["--split", "val"]
    assert main([*command, "--output", str(tmp_path / "card"), "--device", "cpu"]) == 0
    evaluation = json.loads(capsys.readouterr().out)
    assert evaluation["model_id"] == info.model_id
    assert "tiny_net" in (tmp_path / "card" / "card.md").read_text()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (("n", 3, SIDE, SIDE), TensorProto.FLOAT),
        (("n", SIDE, SIDE, 3), TensorProto.FLOAT),
        ((4, 3, SIDE, SIDE), TensorProto.FLOAT),
        (("n", 3, "height", "width"), TensorProto.FLOAT16),
    ],
    ids=["nchw", "nhwc", "fixed-batch", "float16"],
)
@pytest.mark.parametrize("last", [None, "Softmax"])
def test_three_channels_normalized_as_for_imagenet(
    write_graph: Callable[[onnx.ModelProto], Path],
    tmp_path: Path,
    shape: tuple[Any, ...],
    dtype: int,
    last: str | None,
) -> None:
    file = write_graph(linear_graph(shape, dtype=dtype, last=last))
    options = ("--labels", *NAMES, *IMAGENET, "--input_size", str(SIDE))
    assert import_model(file, tmp_path / "bundle", *options) == 0
    info = read_info(str(tmp_path / "bundle"))
    assert info.onnx.output_kind == ("probabilities" if last else "logits")
    assert info.label_set.labels[0].region is not None, "hand is a region of CID 4031"
    images = thumbnails(6)
    inputs = (np.repeat(images, 3, axis=1) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(
        STD, (3, 1, 1)
    )
    if info.onnx.layout == "NHWC":
        inputs = inputs.transpose(0, 2, 3, 1)
    logits = torch.from_numpy(inputs.reshape(6, -1) @ weights())
    probabilities = torch.softmax(logits, dim=1)
    handler = RadiographModelHandler(str(tmp_path / "bundle"), device="cpu")
    found = outputs(handler, images)
    tolerance = 0.02 if dtype == TensorProto.FLOAT16 else 1e-3
    np.testing.assert_allclose(found[:, :-1], probabilities, atol=tolerance)
    score = -probabilities.amax(1).log() if last else energy(logits)
    np.testing.assert_allclose(found[:, -1], score, atol=tolerance)


def test_an_image_on_which_a_graph_fails_is_isolated(folder: Path) -> None:
    handler = RadiographModelHandler(str(folder / "onnx"), device="cpu")
    good, bad = list(thumbnails(3)), np.zeros((1, SIDE + 1, SIDE), np.uint8)
    results = handler.run_inference([*good, bad], handler.load_model())
    kinds = [type(result.inference) for result in results]
    assert kinds == [ModelOutput, ModelOutput, ModelOutput, InferenceError]


def test_a_graph_replaces_a_network_and_answers_beside_it(folder: Path, tmp_path: Path) -> None:
    handler = RadiographModelHandler(
        str(folder / "torch"),
        device="cpu",
        shadow_uri=str(folder / "onnx"),
        models=str(tmp_path),
        model_poll_interval=0,
    )
    model = handler.load_model()
    images = list(thumbnails(2))
    for result in handler.run_inference(images, model):
        assert isinstance(result.inference, ModelOutput)
        assert result.inference.shadow.model_id == read_info(str(folder / "onnx")).model_id
        assert result.inference.shadow.confidence == pytest.approx(
            result.inference.values[:-1].max(), abs=1e-3
        )
        assert result.model_id == read_info(str(folder / "torch")).model_id
    shutil.copytree(folder / "onnx", tmp_path / "later")
    for result in handler.run_inference(images, model):
        assert result.model_id == read_info(str(folder / "onnx")).model_id


def test_a_graph_teaches_as_the_network_that_it_was_exported_from(folder: Path) -> None:
    shown = torch.from_numpy(thumbnails(4)).float()  # as augmentation returns them
    teachers = [Teachers([str(folder / name)], "cpu", LABELS, 8) for name in ("torch", "onnx")]
    expected, found = (one.probabilities(shown) for one in teachers)
    assert torch.allclose(expected, found, atol=1e-3)


def with_external_data(model: onnx.ModelProto) -> onnx.ModelProto:
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return model


def with_operator(name: str, domain: str) -> onnx.ModelProto:
    model = linear_graph()
    model.graph.node[-1].op_type, model.graph.node[-1].domain = name, domain
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


def with_a_tensor_in_a_branch() -> onnx.ModelProto:
    """A graph whose external data are in a constant within a branch."""
    value = TensorProto(data_type=TensorProto.FLOAT, dims=[1], name="hidden")
    value.data_location = TensorProto.EXTERNAL
    value.external_data.add(key="location", value="/etc/hostname")
    constant = helper.make_node("Constant", [], ["c"], value=value)
    branch = helper.make_graph(
        [constant], "branch", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [1])]
    )
    model = linear_graph()
    model.graph.node.insert(
        0, helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch)
    )
    return model


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: with_external_data(linear_graph()), (), "external data"),
        (with_a_tensor_in_a_branch, (), "external data"),
        (lambda: with_operator("Shell", "com.example"), (), "custom operators: com.example:Shell"),
        (lambda: with_operator("RandomNormalLike", ""), (), "random operators: RandomNormalLike"),
        (lambda: with_operator("NoSuchOperator", ""), (), "ONNX Runtime refuses it"),
        (lambda: linear_graph(outputs=5), (), "has the shape 2 x 5 for two images; 3 labels need"),
        (linear_graph, ("--input_size", "64"), "has 32 x 32 pixels, not --input_size 64"),
        (linear_graph, ("--channels", "1"), "has 3 channels, not --channels 1"),
        (linear_graph, ("--mean", "0.5", "0.5"), "--mean: give one value, or one for each of"),
        (linear_graph, ("--std", "0"), "--std: must be above 0"),
        (linear_graph, ("--graph_output", "z"), "give --graph_output, one of its outputs: y"),
        (linear_graph, ("--output_kind", "probabilities"), "outputs are not in 0..1"),
        (linear_graph, ("--name", "../x"), "--name: must be letters, digits and _"),
        (linear_graph, ("--labels", "Hand", "knee", "skull"), "must be lower-case letters"),
        (lambda: linear_graph(("n", 2, SIDE, SIDE), values=2 * SIDE**2), (), "must have 1 or 3"),
        (lambda: linear_graph(("n", 3, SIDE, 64), values=6 * SIDE**2), (), "not square"),
        (lambda: linear_graph(("n", 3, "h", "w")), (), "no fixed size; give --input_size"),
        (lambda: linear_graph(("n", "c", 32, 32)), (), "give --channels 1 or 3"),
        (lambda: linear_graph(("n", 3072)), (), "has 2 dimensions; a batch of images has 4"),
        (lambda: linear_graph(dtype=TensorProto.UINT8), (), "its input is tensor(uint8)"),
        (lambda: linear_graph(("n", 3, "h", "w")), ("--input_size", "48"), "fails on a blank image"),
    ],
)  # fmt: skip
def test_a_graph_that_does_not_fit_is_refused(
    write_graph: Callable[[onnx.ModelProto], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[], onnx.ModelProto],
    options: tuple[str, ...],
    message: str,
) -> None:
    arguments = ["--labels", *NAMES] if "--labels" not in options else []
    for flag, values in (("--mean", MEAN), ("--std", STD)):
        arguments += [flag, *map(str, values)] if flag not in options else []
    assert import_model(write_graph(make()), tmp_path / "bundle", *arguments, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert message in error
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("data", [b"", b"no graph at all", b"\x3a\xff\xff\xff\xff\x0f", bytes(64)])
def test_what_is_no_graph_is_refused(data: bytes) -> None:
    with pytest.raises(GraphError, match="not an ONNX model"):
        require_self_contained(data)


def test_the_graph_of_a_bundle_is_checked_when_it_is_loaded(folder: Path, tmp_path: Path) -> None:
    fields = json.loads((folder / "onnx" / BUNDLE_FILE).read_text())
    graph = (folder / "onnx" / ONNX_FILE).read_bytes()

    def load(graph: bytes, **changed: Any) -> None:
        (tmp_path / ONNX_FILE).write_bytes(graph)
        (tmp_path / BUNDLE_FILE).write_text(json.dumps({**fields, **changed}))
        load_network(str(tmp_path))

    load(graph)
    with pytest.raises(BundleError, match="has sha256"):
        load(graph + b"\0")
    for changed, message in (
        ({"input_size": 64}, "has 32 x 32 pixels, not 64"),
        ({"onnx": {**fields["onnx"], "output": "other"}}, "no output 'other'"),
        ({"onnx": {**fields["onnx"], "layout": "NHWC"}}, "its input is NCHW"),
        ({"onnx": {**fields["onnx"], "more": 1}}, "onnx.more"),
        ({"onnx": {**fields["onnx"], "std": [0.0]}}, "onnx.std"),
        ({"onnx": {**fields["onnx"], "mean": [0.5, 0.5]}}, "one value for each channel"),
        ({"members": [32, 32]}, "neither an ensemble nor a network with regions"),
    ):
        with pytest.raises(BundleError, match=message):
            load(graph, **changed)


def test_only_what_a_graph_has_is_used(folder: Path, tmp_path: Path) -> None:
    """Neither ensembles nor fits on features take a graph."""
    model = str(folder / "onnx")
    command = ["calibrate", "--model", model, "--data", str(tmp_path)]
    for more in (["--ensemble", model], ["--regions"]):
        assert main([*command, *more, "--output", str(tmp_path / "new")]) == 2
    network = load_network(model)
    with pytest.raises(ValueError, match="has no features"):
        network.features(torch.from_numpy(thumbnails(1)))


def test_a_graph_needs_the_extra(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    lake = ["--lake", str(tmp_path / "lake"), "--input", str(folder / "source")]
    assert main(["route", "--model", str(folder / "onnx"), *lake]) == 2
    assert "'onnxruntime>=1.24'" in capsys.readouterr().err
    assert not (tmp_path / "lake").exists()


def test_models_without_a_graph_keep_their_id(folder: Path) -> None:
    info = read_info(str(folder / "torch"))
    assert info.onnx is None
    assert info.model_copy(update={"onnx": read_info(str(folder / "onnx")).onnx}).model_id != (
        info.model_id
    )

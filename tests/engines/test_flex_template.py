"""The flex templates: parameters, launcher and what the API of Dataflow accepts."""

from __future__ import annotations

import importlib.util
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from docs.flex_template import options_of_template, pattern_of
from pipeline import runners
from pipeline.cli import main, parse
from pipeline.cli.resolve_config import route_config
from pipeline.run_batch import checked_options
from tests.engines.dataflow_api import TEMPLATES, metadata, parameters, problems, validate
from tests.storage.secret_server import secret_server
from transforms.config.route_config import ConfigError, RouteConfig
from transforms.core.option import BATCH, EVERY_TEMPLATE, STREAMING
from transforms.storage.secrets import EMULATOR

GPU = "type:nvidia-l4;count:1;install-nvidia-driver"
SERVICE_GPU = f"worker_accelerator={GPU}"
REQUIRED = {
    BATCH: {"input": "gs://hospital/in", "lake": "gs://hospital/lake", "sdk_container_image": "i"},
    STREAMING: {
        "input": "gs://hospital/in",
        "source": "watch",
        "lake": "gs://hospital/lake",
        "sdk_container_image": "europe-docker.pkg.dev/p/r/router:1",
    },
}
SAMPLES = {
    "include": "*.dcm",
    "exclude": "old",
    "inventory_root": "gs://hospital/mirror",
    "ingest_date": "2026-11-29",
    "model": "builtin:default",
    "policy": "policy.yaml",
    "frame": "2",
    "shadow_model": "builtin:default",
    "batch_size": "16",
    "fetch_threads": "4",
    "read_ahead_bytes": "67108864",
    "max_reads": "8",
    "index_shards": "8",
    "accelerator": GPU,
    "dataflow_service_options": "enable_prime",
    "experiments": "one,two",
    "number_of_worker_harness_threads": "2",
    "poll_interval": "0.5",
    "index_interval": "60",
    "max_batch_wait": "2",
    "retry_after": "600.5",
    "max_in_flight": "500",
    "ack_deadline": "600",
    "log_interval": "30",
    "patient_key_file": "projects/p/secrets/s/versions/1",
    "models": "gs://hospital/models",
    "model_poll_interval": "10",
}
"""A value of each parameter that is neither required nor a choice."""
NOT_RUN = {"model", "policy", "shadow_model"}
"""Their samples are not in Cloud Storage, because the launcher reads them."""


@pytest.fixture(autouse=True, scope="module")
def installed() -> Iterator[None]:
    """Pretend that the extras of the image are installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runners, "is_installed", lambda module: True)
        patch.setattr("transforms.config.route_config.is_installed", lambda module: True)
        yield


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Answer requests for secrets on this machine."""
    with secret_server({"projects/p/secrets/s/versions/1": b"sixteen bytes and more"}) as url:
        monkeypatch.setenv(EMULATOR, url)
        yield


def launcher() -> Any:
    spec = importlib.util.spec_from_file_location("launch", TEMPLATES / "launch.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def launch(given: dict[str, str]) -> RouteConfig:
    """Pass parameters through launcher and parser, and check them as the launcher's process does."""
    passed = launcher().arguments(f"--{name}={value}" for name, value in given.items())
    own = ["--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://tmp/x"]
    args = parse(["route", *passed, *own])
    config = route_config(args)
    checked_options(config, args.runner, args.beam_options)
    return config


@pytest.mark.parametrize("template", EVERY_TEMPLATE)
def test_the_api_accepts_the_metadata(template: str) -> None:
    found = metadata(template)
    validate(found, "TemplateMetadata")
    validate({"image": "i", "sdkInfo": {"language": "PYTHON"}, "metadata": found}, "ContainerSpec")
    for one in found["parameters"]:
        assert one["name"] and one["label"] and one["helpText"]
        assert "parentName" in one or one["groupName"]
        assert one.get("parentName") in (None, *parameters(template))


@pytest.mark.parametrize(
    "wrong",
    [{"name": "x", "isStreaming": True}, {"parameters": [{"name": "x", "paramType": "INT"}]}],
)
def test_the_schema_reports_a_wrong_key_or_type(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate(wrong, "TemplateMetadata")


def test_a_stream_is_declared_as_one() -> None:
    assert [metadata(template)["streaming"] for template in EVERY_TEMPLATE] == [False, True]
    streaming = parameters(BATCH).keys() - parameters(STREAMING).keys()
    assert streaming == {
        "allow_empty", "ingest_date", "inventory_root", "overrule_people", "reprocess",
    }  # fmt: skip


@pytest.mark.parametrize("template", EVERY_TEMPLATE)
def test_the_required_parameters_suffice(template: str) -> None:
    assert problems(template, REQUIRED[template]) == []
    config = launch(REQUIRED[template])
    assert config.is_streaming == metadata(template)["streaming"]
    assert config.device == "cpu"
    required = {name for name, one in parameters(template).items() if not one["isOptional"]}
    assert required == REQUIRED[template].keys()


@pytest.mark.parametrize("template", EVERY_TEMPLATE)
def test_every_parameter_reaches_the_configuration(
    template: str, tmp_path: Path, secrets: None
) -> None:
    known = parameters(template)
    samples = {n: value for n, value in SAMPLES.items() if n in known}
    choices = {
        n: one["enumOptions"][-1]["value"] for n, one in known.items() if "enumOptions" in one
    }
    flags = {n: "true" for n, one in known.items() if one["paramType"] == "BOOLEAN"}
    given = REQUIRED[template] | samples | choices | flags
    if template == STREAMING:
        given["input"] = "projects/p/subscriptions/s"
    assert given.keys() == known.keys()
    assert problems(template, {n: v for n, v in given.items() if n not in NOT_RUN}) == []
    (tmp_path / "policy.yaml").write_text("thresholds: {spine: 0.9}\n")
    given["policy"] = str(tmp_path / "policy.yaml")
    config = launch(given)
    for name, one in options_of_template(template).items():
        if name in NOT_RUN:
            continue
        value = one.value_in(config)
        text = (
            " ".join(value) if one.repeated else f"{value:g}" if one.kind is float else str(value)
        )
        assert text.lower() == given[name].lower(), name
    assert config.policy.thresholds["spine"] == 0.9
    assert config.device == "cuda"


@pytest.mark.parametrize("template", EVERY_TEMPLATE)
def test_every_combination_of_choices_runs(template: str) -> None:
    known = parameters(template)
    choices = {
        n: [o["value"] for o in one["enumOptions"]]
        for n, one in known.items()
        if "enumOptions" in one
    }
    for values in itertools.product(*choices.values()):
        given = REQUIRED[template] | dict(zip(choices, values, strict=True))
        if given["source"] == "pubsub":
            given["input"] = "projects/p/subscriptions/s"
        assert problems(template, given) == []
        launch(given)


@pytest.mark.parametrize("template", EVERY_TEMPLATE)
def test_patterns_accept_the_numbers_that_are_in_range(template: str) -> None:
    for name, one in options_of_template(template).items():
        if one.kind not in (int, float):
            continue
        pattern = pattern_of(template, one)
        assert pattern
        for number in (0, 1, 9, 10, 99, 100, 599, 600, 601, 999, 1000, 20_000, 0.5, 10.25):
            fits = one.declaration.problem(number) is None and (
                one.kind is float or number % 1 == 0
            )
            if name == "index_shards" and number > 999:
                fits = False
            assert bool(re.fullmatch(pattern, f"{number:g}")) == fits, (name, number)
    assert problems(BATCH, {**REQUIRED[BATCH], "ingest_date": "29.11.2026"}) == [
        "value of ingest_date"
    ]


@pytest.mark.parametrize("template", EVERY_TEMPLATE)
def test_defaults_are_those_of_the_router(template: str) -> None:
    options = options_of_template(template)
    for name, one in parameters(template).items():
        if "defaultValue" in one:
            assert one["defaultValue"] == str(options[name].default).lower()


@pytest.mark.parametrize(
    ("template", "given"),
    [
        (BATCH, {"source": "watch"}),
        (BATCH, {"source": "pubsub", "input": "projects/p/subscriptions/s"}),
        (BATCH, {"source": "dicomweb", "input": "dicomweb+https://pacs/dicom-web"}),
        (BATCH, {"study_date": "20260131"}),
        (BATCH, {"input": "s3://hospital/in"}),
        (BATCH, {"lake": "/mnt/lake"}),
        (BATCH, {"policy": "/template/policy.yaml"}),
        (BATCH, {"model": "/models/own"}),
        (BATCH, {"patient_key_file": "/keys/patient"}),
        (BATCH, {"placement": "link"}),
        (BATCH, {"device": "cuda"}),
        (BATCH, {"index_interval": "30"}),
        (BATCH, {"index_shards": "1000"}),
        (BATCH, {"accelerator": "nvidia-l4"}),
        (STREAMING, {"source": "files"}),
        (STREAMING, {"ingest_date": "2026-11-29"}),
        (STREAMING, {"reprocess": "all"}),
        (STREAMING, {"stable_for": "5"}),
        (STREAMING, {"ack_deadline": "5"}),
    ],
    ids=str,
)
def test_what_cannot_run_is_not_offered(template: str, given: dict[str, str]) -> None:
    assert problems(template, REQUIRED[template] | given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"accelerator": GPU, "dataflow_service_options": SERVICE_GPU}, "exclude each other"),
        ({"input": "projects/p/subscriptions/s"}, "does not exist"),
        ({"source": "pubsub"}, "write projects/PROJECT/subscriptions/NAME"),
    ],
)
def test_the_launcher_refuses_what_no_pattern_can(given: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        launch(REQUIRED[STREAMING] | given)


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (["--allow_empty=true", "--log_uris=false"], ["--allow_empty", "--device=cpu"]),
        (
            ["--lake=gs://b/true", "--allow_empty"],
            ["--lake=gs://b/true", "--allow_empty", "--device=cpu"],
        ),
        (["--policy=", "--lake=l"], ["--lake=l", "--device=cpu"]),
        (
            [f"--accelerator={GPU}"],
            [
                f"--accelerator={GPU}",
                "--device=cuda",
                "--experiments=no_use_multiple_sdk_containers",
            ],
        ),
    ],
)
def test_the_launcher_passes_flags_and_the_device(given: list[str], passed: list[str]) -> None:
    assert list(launcher().arguments(given)) == passed


def test_a_gpu_for_every_worker_reaches_the_job() -> None:
    given = {**REQUIRED[BATCH], "dataflow_service_options": SERVICE_GPU, "experiments": "one"}
    passed = list(launcher().arguments(f"--{name}={value}" for name, value in given.items()))
    own = ["--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://tmp/x"]
    args = parse(["route", *passed, *own])
    options = checked_options(route_config(args), args.runner, args.beam_options).get_all_options()
    assert options["dataflow_service_options"] == [SERVICE_GPU]
    assert options["experiments"] == ["one", "no_use_multiple_sdk_containers"]
    assert args.device == "cuda"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device=cuda"], "the workers have no GPU"),
        (["--device=cpu", f"--accelerator={GPU}"], "GPUs are requested for the workers"),
    ],
)
def test_a_device_that_the_workers_lack_is_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://tmp/x"]
    given = [f"--{name}={value}" for name, value in REQUIRED[BATCH].items()]
    assert main(["route", *given, *own, *options]) == 2
    assert message in capsys.readouterr().err

"""The job that is sent to Dataflow, built without network or credentials; it is not run."""

from __future__ import annotations

import base64
import bz2
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, StandardOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.runners.runner import create_runner

from pipeline import runners
from pipeline.cli import main
from pipeline.runners import RUNNERS, beam_options_of
from tests.graphs import IN_STORE, attach, config_of
from tests.stores import GS, Store

IMAGE = "europe-west4-docker.pkg.dev/project/router/router:1"
OPTIONS = [
    "--project=project",
    "--region=europe-west4",
    "--temp_location=gs://hospital-tmp/dataflow",
    f"--sdk_container_image={IMAGE}",
]
HINT = "type:nvidia-l4;count:1;install-nvidia-driver"
ACCELERATOR = common_urns.resource_hints.ACCELERATOR.urn
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def extra() -> Iterator[None]:
    """Pretend that the extra `gcp` is installed: these tests need only its client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runners, "is_installed", lambda module: True)
        yield


@pytest.fixture(scope="module")
def job() -> Callable[..., Any]:
    """Return a function that builds the job as Beam's runner does, up to the first request."""
    pytest.importorskip("google.cloud.dataflow", reason="needs google-cloud-dataflow-client")
    from apache_beam.runners.dataflow.internal import apiclient

    def built(*arguments: str, options: list[str] | None = None) -> Any:
        config = config_of(*arguments)
        given = [*OPTIONS, *(options or []), "--dry_run=true"]
        beam_options = beam_options_of(given, "DataflowRunner")
        beam_options.view_as(StandardOptions).streaming = config.is_streaming
        result: Any = attach(beam.Pipeline(options=beam_options), config).run()
        job = result.job
        job.proto.environment = apiclient.Environment(
            proto_pipeline_staged_url="gs://hospital-tmp/pipeline.pb",
            packages=[],
            options=job.options,
            environment_version="8",
            proto_pipeline=job.proto_pipeline,
        ).proto
        return job

    return built


@pytest.fixture(scope="module", params=["files", "watch"])
def default_job(request: pytest.FixtureRequest, job: Callable[..., Any]) -> Any:
    return job(f"--source={request.param}")


@pytest.fixture(scope="module")
def gpu_job(job: Callable[..., Any]) -> Any:
    return job("--accelerator", HINT, "--device", "cuda")


def image_of(environment: Any) -> str:
    assert environment.urn == common_urns.environments.DOCKER.urn
    payload = beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
    return str(payload.container_image)


def hints_by_step(pipeline: Any) -> dict[str, bytes | None]:
    """Return the accelerator hint of each step that runs code."""
    return {
        step.unique_name: pipeline.components.environments[step.environment_id].resource_hints.get(
            ACCELERATOR
        )
        for step in pipeline.components.transforms.values()
        if step.environment_id
    }


def texts_of(data: bytes) -> Iterator[bytes]:
    """Yield the bytes of a proto and of the pickles in it."""
    yield data
    for found in re.findall(rb"[A-Za-z0-9+/]{40,}={0,2}", data):
        for unpacked in (zlib.decompress, bz2.decompress, bytes):
            try:
                yield unpacked(base64.b64decode(found))
            except (ValueError, OSError, zlib.error):
                continue


@pytest.mark.slow
def test_the_job_runs_in_the_given_image(default_job: Any) -> None:
    is_streaming = default_job.options.view_as(StandardOptions).streaming
    kind = "JOB_TYPE_STREAMING" if is_streaming else "JOB_TYPE_BATCH"
    assert default_job.proto.type_.name == kind
    environments = default_job.proto_pipeline.components.environments.values()
    assert {image_of(e) for e in environments} == {IMAGE}
    staged = [d.role_payload for e in environments for d in e.dependencies]
    listing = b"submission_environment_dependencies.txt"  # for the job page, where pip is available
    assert [s for s in staged if listing not in s] == [], "nothing else is staged"
    (pool,) = default_job.proto.environment.worker_pools
    assert {i.container_image for i in pool.sdk_harness_container_images} == {IMAGE}
    assert f'"{kind}"' in default_job.json()


@pytest.mark.slow
def test_main_is_not_pickled(default_job: Any) -> None:
    assert default_job.options.view_as(SetupOptions).save_main_session is False


@pytest.mark.slow
def test_every_step_is_deserialized_from_the_proto(default_job: Any) -> None:
    rebuilt = beam.Pipeline.from_runner_api(
        default_job.proto_pipeline, create_runner("FnApiRunner"), PipelineOptions()
    )
    assert rebuilt.to_runner_api().components.transforms


@pytest.mark.slow
def test_labels_are_unique(default_job: Any) -> None:
    names = Counter(
        t.unique_name for t in default_job.proto_pipeline.components.transforms.values()
    )
    assert [name for name, number in names.items() if number > 1] == []


@pytest.mark.slow
def test_all_keys_have_deterministic_coders(default_job: Any) -> None:
    components = default_job.proto_pipeline.components
    context = PipelineContext(components)
    grouped = [
        (step.unique_name, components.pcollections[next(iter(step.inputs.values()))].coder_id)
        for step in components.transforms.values()
        if step.spec.urn == common_urns.primitives.GROUP_BY_KEY.urn
    ]
    assert len(grouped) >= 2
    for name, coder_id in grouped:
        assert context.coders.get_by_id(coder_id).key_coder().is_deterministic(), name


@pytest.mark.slow
def test_no_local_path_is_sent(gpu_job: Any) -> None:
    """Except names of source files, which tracebacks contain."""
    roots = "|".join(re.escape(str(root)) for root in (ROOT, Path(sys.prefix), Path.home()))
    pattern = re.compile(rb"(?<![\w/.:-])(?:%s)/[-\w./]*" % roots.encode())
    sent = texts_of(gpu_job.proto_pipeline.SerializeToString())
    paths = {path for text in sent for path in pattern.findall(text)}
    assert paths, "pickles were searched"
    assert {path for path in paths if not path.endswith(b".py")} == set()


@pytest.mark.slow
def test_only_inference_has_the_accelerator_hint(default_job: Any, gpu_job: Any) -> None:
    assert set(hints_by_step(default_job.proto_pipeline).values()) == {None}
    hints = hints_by_step(gpu_job.proto_pipeline)
    inner = "Classify/RunInference"
    assert {hint for name, hint in hints.items() if name.startswith(inner)} == {HINT.encode()}
    assert {hint for name, hint in hints.items() if not name.startswith(inner)} == {None}
    (pool,) = gpu_job.proto.environment.worker_pools
    assert len(pool.sdk_harness_container_images) == 2


@pytest.mark.slow
def test_service_options_reach_the_job(job: Callable[..., Any]) -> None:
    option = f"worker_accelerator={HINT}"
    made = job(options=[f"--dataflow_service_options={option}"])
    assert list(made.proto.environment.service_options) == [option]


def test_missing_dataflow_options_are_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["route", *IN_STORE, "--runner=DataflowRunner"]) == 2
    message = capsys.readouterr().err
    for option in RUNNERS["DataflowRunner"].needs:
        assert f"needs --{option}: " in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--input", "{here}", "--lake", "gs://b/lake"],
            "{here}): the workers of DataflowRunner cannot read files on this machine",
        ),
        (["--input", "gs://b/in", "--lake", "{here}"], "--lake: the workers of DataflowRunner"),
        ([*IN_STORE, "--model", "{bundle}"], "--model: the workers of DataflowRunner"),
        ([*IN_STORE, "--policy", "{policy}"], "sinks.review: the workers of DataflowRunner"),
        ([*IN_STORE, "--patient_key_file", "{key}"], "--patient_key_file: the workers of"),
        ([*IN_STORE, "--temp_location=/tmp/x"], "--temp_location /tmp/x: must begin with gs://"),
        ([*IN_STORE, "--accelerator", "gpu"], "--accelerator 'gpu': write it as type:nvidia-l4"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_local_paths_are_refused_for_remote_workers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "policy.yaml").write_text(f"sinks: {{review: {tmp_path / 'review'}}}")
    (tmp_path / "key").write_bytes(b"sixteen bytes and more")
    paths = {
        "here": tmp_path, "policy": tmp_path / "policy.yaml", "key": tmp_path / "key",
        "bundle": ROOT / "models" / "default",
    }  # fmt: skip
    given = [a.format(**paths) for a in arguments]
    assert main(["route", "--runner=DataflowRunner", *OPTIONS, *given]) == 2
    assert message.format(**paths) in capsys.readouterr().err


def test_a_missing_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "is_installed", lambda module: False)
    assert main(["route", *IN_STORE, "--runner=DataflowRunner", *OPTIONS]) == 2
    assert "'apache-beam[gcp]<2.78,>=2.77'" in capsys.readouterr().err


def test_a_template_is_built_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    monkeypatch.setattr("pipeline.run_batch._check_first_matches", lambda config: None)
    monkeypatch.setattr(beam.Pipeline, "run", lambda self: built.append("template"))
    monkeypatch.setattr(
        "apache_beam.options.pipeline_options.GoogleCloudOptions._warn_if_soft_delete_policy_enabled",
        lambda self, name: None,
    )
    template = "--template_location=gs://hospital-tmp/job"
    assert main(["route", *IN_STORE, "--runner=DataflowRunner", *OPTIONS, template]) == 0
    assert built == ["template"]


@pytest.mark.parametrize("store", [GS], indirect=True)
def test_a_stream_from_a_template_opens_the_lake_and_withdraws_a_request_to_stop(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process waits for such a stream that could do this: an old request would end it at once."""
    policy = store.write("policy.yaml", b"expect: {min_objects: 1}\n")
    store.write("lake/.stream/stop", b"stop\n")
    monkeypatch.setattr(beam.Pipeline, "run", lambda self: None)
    monkeypatch.setattr(
        "apache_beam.options.pipeline_options.GoogleCloudOptions._warn_if_soft_delete_policy_enabled",
        lambda self, name: None,
    )
    given = [f"--input={store.root}/in", f"--lake={store.root}/lake", f"--policy={policy}"]
    template = "--template_location=gs://hospital-tmp/job"
    runner = ["--runner=DataflowRunner", *OPTIONS, template]
    assert main(["route", "--source=watch", *given, *runner]) == 0
    names = store.read_all().keys()
    assert "lake/lake.json" in names
    assert "lake/.stream/stop" not in names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "needs --flink_master: HOST:PORT of the JobManager"),
        (["--flink_master=h:8081"], "needs --flink_job_server_jar: "),
        (["--flink_master=[auto]"], "needs --flink_master"),
        (["--flink_master=h:8081", "--flink_job_server_jar=/no/such"], "no such file"),
        (["--job_endpoint=h:8099"], "needs --environment_type: EXTERNAL"),
    ],
)
def test_missing_flink_options_are_reported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], message: str
) -> None:
    arguments = ["route", "--input", str(ROOT), "--lake", str(tmp_path / "lake")]
    assert main([*arguments, "--runner=FlinkRunner", *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "lake").exists()


def test_flink_accepts_a_running_job_server() -> None:
    given = ["--job_endpoint=h:8099", "--environment_type=EXTERNAL", "--environment_config=h:1"]
    options = beam_options_of(given, "FlinkRunner").get_all_options()
    assert (options["runner"], options["job_endpoint"]) == ("FlinkRunner", "h:8099")

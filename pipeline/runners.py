"""Supported Beam runners: their defaults and requirements."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    _BeamArgumentParser,
)

from pipeline.beam_caches import cache_graph_construction
from pipeline.beam_options import FLINK_OPTIONS
from pipeline.sources.periodic_trigger import FLINK, PERIODIC
from transforms.config.route_config import ConfigError, RouteConfig
from transforms.config.run_options import BUILT_IN_MODEL
from transforms.core.choices import CPU, CUDA
from transforms.storage.extras import how_to_install, is_installed
from transforms.storage.schemes import is_local
from transforms.storage.secrets import is_secret

IN_PROCESS: Final = "FnApiRunner"
WORKER_ACCELERATOR: Final = "worker_accelerator="
"""Service option of Dataflow by which every worker has a GPU."""
POOL: Final = (
    "EXTERNAL with --environment_config=HOST:PORT of a worker pool that has the router installed, or "
    "LOOPBACK to run workers in this process"
)


@dataclass(frozen=True)
class Runner:
    """A Beam runner and its requirements.

    Attributes:
        beam_name: name of the runner in Beam.
        needs: description by required option.
        needs_unless: as `needs`, by the option that makes them unnecessary.
        defaults: value by option to add unless given; a flag has the value "".
        files: options whose value must be a file on this machine.
        options: names of options of its job server that Beam does not know.
        impulse: impulse of `PeriodicTrigger` for streaming sources; None if it does not support streams.
        streams_as: name of the runner to use for a streaming source instead, or None.
        begins: required prefix of the value by option.
        modules: extra by module that must be installed.
        remote: whether workers cannot read files on this machine.
    """

    beam_name: str
    needs: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    options: Collection[str] = ()
    impulse: str | None = None
    streams_as: str | None = None
    needs_unless: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    begins: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)
    remote: bool = False


RUNNERS: Final[Mapping[str, Runner]] = {
    "DirectRunner": Runner(IN_PROCESS, streams_as="PrismRunner"),
    IN_PROCESS: Runner(IN_PROCESS),
    "BundleBasedDirectRunner": Runner("BundleBasedDirectRunner"),
    "PrismRunner": Runner(
        "PrismRunner",
        needs={
            "prism_location": "the path of the binary; "
            "'go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0' builds it"
        },
        defaults={"environment_type": "LOOPBACK", "prism_log_level": "warn"},
        files=("prism_location",),
        impulse=PERIODIC,
    ),
    "PortableRunner": Runner(
        "PortableRunner",
        needs={
            "job_endpoint": "HOST:PORT of a job server, such as that of Flink or Prism",
            "environment_type": POOL,
        },
        options=FLINK_OPTIONS,
        impulse=PERIODIC,
    ),
    "FlinkRunner": Runner(
        "FlinkRunner",
        needs={"environment_type": POOL},
        needs_unless={
            "job_endpoint": {
                "flink_master": "HOST:PORT of the JobManager's REST interface; or give "
                "--job_endpoint=HOST:PORT of a running job server",
                "flink_job_server_jar": "the file of Beam's job server for this version of Flink and of "
                "Beam; it is started with java, and never downloaded automatically",
            }
        },
        # Otherwise the output of a bundle that a checkpoint ends waits for the next element.
        defaults={"finish_bundle_before_checkpointing": ""},
        files=("flink_job_server_jar",),
        options=FLINK_OPTIONS,
        impulse=FLINK,
    ),
    "DataflowRunner": Runner(
        "DataflowRunner",
        needs={
            "project": "the project in which the job runs",
            "region": "the region of the workers; choose that of the buckets",
            "temp_location": "gs://BUCKET/FOLDER for what Dataflow stages",
            "sdk_container_image": "an image that has this version of the router "
            "and of Beam, in a registry that the workers can read",
        },
        defaults={"sdk_location": "container", "no_save_main_session": ""},
        begins={"temp_location": "gs://", "staging_location": "gs://"},
        modules={"google.cloud.dataflow": "gcp", "google_auth_httplib2": "gcp"},
        remote=True,
        impulse=PERIODIC,
    ),
}
"""Runners by value of `--runner`. Beam's own DirectRunner chooses one of three runners by what is
installed; here it is always the in-process runner for batch, and Prism for streams."""


def for_source(name: str, *, streaming: bool) -> str:
    """Return the name of the runner to use for a source: `DirectRunner` runs streams on Prism.

    Raises:
        ConfigError: the runner is unknown.
    """
    return _runner(name).streams_as or name if streaming else name


def impulse_of(name: str) -> str:
    """Return the impulse of `PeriodicTrigger` for a runner.

    Raises:
        ConfigError: the runner is unknown or does not support streams.
    """
    impulse = _runner(name).impulse
    if impulse is None:
        able = ", ".join(sorted(name for name, runner in RUNNERS.items() if runner.impulse))
        raise ConfigError(f"--runner {name} cannot run a streaming source; use one of {able}")
    return impulse


def resolve(name: str) -> str:
    """Return the name of a runner in Beam.

    Raises:
        ConfigError: the runner is unknown.
    """
    return _runner(name).beam_name


def beam_options_of(arguments: Sequence[str], name: str) -> PipelineOptions:
    """Return Beam's options for a runner.

    Raises:
        ConfigError: the runner is unknown, a required option is missing, or an option is unknown to Beam,
            which itself only logs a warning.
    """
    runner = _runner(name)
    parser = _BeamArgumentParser(add_help=False, allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    parsed, unknown = parser.parse_known_args(list(arguments))
    unknown = [one for one in unknown if _option_name(one) not in runner.options]
    if unknown:
        raise ConfigError(f"unknown options: {' '.join(unknown)}; see 'dicom-router route --help'")
    given = {o: value for o, value in vars(parsed).items() if value != parser.get_default(o)}
    if problems := _problems(runner, name, given):
        raise ConfigError("; ".join(problems))
    names = set(map(_option_name, arguments))
    added = [
        f"--{option}={value}" if value else f"--{option}"
        for option, value in runner.defaults.items()
        if not given.get(option) and option not in names
    ]
    cache_graph_construction()
    return PipelineOptions([*arguments, *added, f"--runner={runner.beam_name}"])


def _option_name(argument: str) -> str:
    return argument.lstrip("-").partition("=")[0]


def _problems(runner: Runner, name: str, given: Mapping[str, Any]) -> list[str]:
    """Return the requirements of a runner that the given options do not meet."""
    missing = sorted({extra for m, extra in runner.modules.items() if not is_installed(m)})
    problems = [
        f"--runner {name} needs packages that are not installed: {how_to_install(extra)}"
        for extra in missing
    ]
    needs = dict(runner.needs)
    for alternative, needed in runner.needs_unless.items():
        needs |= {} if given.get(alternative) else needed
    problems += [
        f"--runner {name} needs --{option}: {remedy}"
        for option, remedy in needs.items()
        if not given.get(option)
    ]
    problems += [
        f"--{option} {given[option]}: no such file"
        for option in runner.files
        if given.get(option) and not Path(given[option]).is_file()
    ]
    problems += [
        f"--{option} {given[option]}: must begin with {beginning}"
        for option, beginning in runner.begins.items()
        if given.get(option) and not given[option].startswith(beginning)
    ]
    return problems


def is_remote(name: str) -> bool:
    """Return whether the workers of a runner cannot read files on this machine.

    Raises:
        ConfigError: the runner is unknown.
    """
    return _runner(name).remote


def require_reach(config: RouteConfig, name: str) -> None:
    """Raise `ConfigError` if the workers of a runner cannot read a location of a configuration."""
    if not is_remote(name):
        return
    no_access = f"the workers of {name} cannot read files on this machine"
    locations = config.locations()
    if config.stream is not None and config.stream.models:
        locations["--models"] = config.stream.models
    problems = [
        f"{name}: {no_access}; give a gs:// or s3:// URI"
        for name, text in locations.items()
        if is_local(text)
    ]
    if is_local(config.model_uri) and config.model_uri != BUILT_IN_MODEL:
        problems.append(
            f"--model: {no_access}; copy the bundle to gs:// or s3://, or omit the option for the "
            "bundle that comes with the router"
        )
    if config.patient_key_file and not is_secret(config.patient_key_file):
        problems.append(
            f"--patient_key_file: {no_access}; give projects/P/secrets/S/versions/V of Secret Manager, "
            "or omit it"
        )
    if problems:
        raise ConfigError("; ".join(problems))


def require_accelerators(config: RouteConfig, name: str, options: PipelineOptions) -> None:
    """Raise `ConfigError` if Dataflow's workers would have GPUs twice, or none for `--device cuda`."""
    if name != "DataflowRunner":
        return
    service = options.view_as(GoogleCloudOptions).dataflow_service_options or []
    every_worker = any(one.startswith(WORKER_ACCELERATOR) for one in service)
    if config.accelerator and every_worker:
        raise ConfigError(
            f"--accelerator and --dataflow_service_options={WORKER_ACCELERATOR}… exclude each other: the "
            "first gives GPUs to the workers of the model, the second to all"
        )
    if config.device == CUDA and not config.accelerator and not every_worker:
        raise ConfigError(
            "--device cuda: the workers have no GPU; add --accelerator or "
            f"--dataflow_service_options={WORKER_ACCELERATOR}type:nvidia-l4;count:1;install-nvidia-driver"
        )
    if config.device == CPU and (config.accelerator or every_worker):
        raise ConfigError(
            "--device cpu: GPUs are requested for the workers; omit them, or --device"
        )


def starts_later(arguments: Sequence[str]) -> bool:
    """Return whether Beam's options request only the description of a job, as a flex template does."""
    return any(a.partition("=")[0] == "--template_location" for a in arguments)


def _runner(name: str) -> Runner:
    if name not in RUNNERS:
        raise ConfigError(f"--runner {name}: unknown; use one of {', '.join(RUNNERS)}")
    return RUNNERS[name]

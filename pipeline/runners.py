"""Which runner a name means, with its defaults, chosen openly and never by what is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

from models.default_bundle import BUILT_IN
from pipeline.sources.periodic_trigger import FLINK, PERIODIC
from transforms.config.route_config import PUBSUB, ConfigError, RouteConfig
from transforms.storage.schemes import is_installed, is_local

IN_PROCESS: Final = "FnApiRunner"
POOL: Final = (
    "EXTERNAL with --environment_config=HOST:PORT of a worker pool that has the router installed, or "
    "LOOPBACK to work in this process"
)


FLINK_OPTIONS: Final = (
    "allow_non_restored_state attached_mode auto_watermark_interval checkpoint_timeout_millis "
    "checkpointing_interval checkpointing_mode execution_mode_for_batch execution_retry_delay "
    "externalized_checkpoints_enabled fail_on_checkpointing_errors finish_bundle_before_checkpointing "
    "latency_tracking_interval max_bundle_size max_bundle_time_mills max_parallelism "
    "min_pause_between_checkpoints number_of_execution_retries object_reuse operator_chaining "
    "parallelism re_iterable_group_by_key_result retain_externalized_checkpoints_on_cancellation "
    "savepoint_path shutdown_sources_after_idle_ms state_backend state_backend_storage_path "
    "unaligned_checkpoint_enabled"
).split()
"""Options that Beam's job server for Flink knows; not all of them are known to Beam's Python."""


@dataclass(frozen=True)
class Runner:
    """A runner of Beam's, and what it needs to run this graph.

    Attributes:
        beam_name: as Beam knows it.
        needs: options that must be given, with what to give.
        needs_unless: the same, where the option that stands as key is not given.
        defaults: options that are given unless the operator gives them; flags without a value.
        files: options that must name a file of this machine.
        options: names that the job server knows beyond Beam's own.
        impulse: of `PeriodicTrigger` for streaming sources; None: it does not stream.
        streams_as: the runner that it means for a streaming source.
        begins: options that must begin in a certain way.
        modules: what must be installed, and the extra that brings it.
        remote: whether workers see nothing of this machine.
    """

    beam_name: str
    needs: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    options: Sequence[str] = ()
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
        defaults={"environment_type": "LOOPBACK"},
        files=("prism_location",),
        impulse=PERIODIC,
    ),
    "PortableRunner": Runner(
        "PortableRunner",
        needs={
            "job_endpoint": "HOST:PORT of a job server, as Flink's or Prism's",
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
                "--job_endpoint=HOST:PORT of a job server that runs",
                "flink_job_server_jar": "the file of Beam's job server for that Flink, in Beam's own "
                "version; it is started with java, and never downloaded unasked",
            }
        },
        # Else the output of a bundle that a checkpoint ends waits for the next element, however late.
        defaults={"finish_bundle_before_checkpointing": ""},
        files=("flink_job_server_jar",),
        options=FLINK_OPTIONS,
        impulse=FLINK,
    ),
    "DataflowRunner": Runner(
        "DataflowRunner",
        needs={
            "project": "the project that runs and pays for the job",
            "region": "where the workers run; choose that of the buckets",
            "temp_location": "gs://BUCKET/FOLDER for what Dataflow stages",
            "sdk_container_image": "an image that has this version of the router; "
            "templates/dataflow/Dockerfile builds it",
        },
        defaults={"sdk_location": "container", "no_save_main_session": ""},
        begins={"temp_location": "gs://", "staging_location": "gs://"},
        modules={"google.cloud.dataflow": "gcp", "google_auth_httplib2": "gcp"},
        remote=True,
        impulse=PERIODIC,
    ),
}
"""What `--runner` may name. Beam's own DirectRunner picks one of three runners by what it finds; here
it is always the in-process one for batch, and Prism for streams."""


def for_source(name: str, *, streaming: bool) -> str:
    """Return the name that a runner has for a source: `DirectRunner` streams on Prism.

    Raises:
        ConfigError: this version does not run on it.
    """
    return _runner(name).streams_as or name if streaming else name


def impulse_of(name: str) -> str:
    """Return the impulse of `PeriodicTrigger` on a runner.

    Raises:
        ConfigError: it does not stream.
    """
    impulse = _runner(name).impulse
    if impulse is None:
        able = ", ".join(sorted(name for name, runner in RUNNERS.items() if runner.impulse))
        raise ConfigError(f"--runner {name} cannot run a streaming source; use one of {able}")
    return impulse


def resolve(name: str) -> str:
    """Return the runner of Beam's that a name means here.

    Raises:
        ConfigError: this version does not run on it.
    """
    return _runner(name).beam_name


def beam_options_of(arguments: Sequence[str], name: str) -> PipelineOptions:
    """Return Beam's options for a runner.

    Raises:
        ConfigError: the runner is unknown or lacks an option, or an argument is no option of Beam
            either, of which Beam itself would only warn.
    """
    runner = _runner(name)
    parser = _BeamArgumentParser(add_help=False, allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    parsed, unknown = parser.parse_known_args(list(arguments))
    unknown = [
        given for given in unknown if given.lstrip("-").partition("=")[0] not in runner.options
    ]
    if unknown:
        raise ConfigError(f"unknown options: {' '.join(unknown)}; see --help")
    given = {o: value for o, value in vars(parsed).items() if value != parser.get_default(o)}
    problems = [
        f"--runner {name} needs a package that is not installed: pip install "
        f"'dicom-imaging-router[{extra}]'"
        for extra in sorted({e for m, e in runner.modules.items() if not is_installed(m)})
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
        f"--{option} {given[option]}: there is no such file"
        for option in runner.files
        if given.get(option) and not Path(given[option]).is_file()
    ]
    problems += [
        f"--{option} {given[option]}: it must begin with {beginning}"
        for option, beginning in runner.begins.items()
        if given.get(option) and not given[option].startswith(beginning)
    ]
    if problems:
        raise ConfigError("; ".join(problems))
    named = {argument.lstrip("-").partition("=")[0] for argument in arguments}
    added = [
        f"--{option}={value}" if value else f"--{option}"
        for option, value in runner.defaults.items()
        if not given.get(option) and option not in named
    ]
    return PipelineOptions([*arguments, *added, f"--runner={runner.beam_name}"])


def is_remote(name: str) -> bool:
    """Whether the workers of a runner see nothing of this machine.

    Raises:
        ConfigError: this version does not run on it.
    """
    return _runner(name).remote


def require_reach(config: RouteConfig, name: str) -> None:
    """Raise `ConfigError` if the workers of a runner cannot reach what a configuration names."""
    if not is_remote(name):
        return
    named = () if config.source == PUBSUB else config.inputs
    inputs = {f"input {number}": text for number, text in enumerate(named, 1)}
    sinks = {f"sinks.{sink}": root for sink, root in config.layout.sinks.items()}
    problems = [
        f"{what}: the workers of {name} cannot see this machine; give a gs:// or s3:// URI"
        for what, text in {**inputs, "--lake": config.layout.root, **sinks}.items()
        if is_local(text)
    ]
    if is_local(config.model_uri) and config.model_uri != BUILT_IN:
        problems.append(
            f"--model: the workers of {name} cannot see this machine; copy the bundle to gs:// or "
            "s3://, or leave the option out for the bundle that comes with the router"
        )
    if config.stream is not None and config.stream.models and is_local(config.stream.models):
        problems.append(
            f"--models: the workers of {name} cannot see this machine; give a gs:// or s3:// URI"
        )
    if config.patient_key_file:
        problems.append(
            f"--patient_key_file: the workers of {name} cannot see this machine; leave it out, or run "
            "on an engine whose workers have the file"
        )
    if problems:
        raise ConfigError("; ".join(problems))


def starts_later(arguments: Sequence[str]) -> bool:
    """Whether Beam's options ask only for a job's description, as a launcher of templates does."""
    return any(a.partition("=")[0] == "--template_location" for a in arguments)


def _runner(name: str) -> Runner:
    if name not in RUNNERS:
        known = ", ".join(sorted(RUNNERS))
        raise ConfigError(f"--runner {name}: this version runs on {known}")
    return RUNNERS[name]

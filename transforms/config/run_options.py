"""Declare the options of `route` and those that other commands share; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from transforms.config.audit_options import AuditOptions
from transforms.config.monitoring_options import MonitoringOptions
from transforms.config.stream_options import CLOUD_STORAGE_PATTERN, StreamConfig
from transforms.core.batch_sizes import MODEL_BATCH
from transforms.core.choices import (
    COPY,
    DEVICES,
    FILES,
    PLACEMENTS,
    REPROCESS,
    REPROCESS_NONE,
    RUNNERS,
    SOURCES,
)
from transforms.core.option import BATCH, EVERY_TEMPLATE, Group, option
from transforms.core.worker_resources import MAX_READS, Concurrency
from transforms.imaging.limits import Limits
from transforms.storage.secrets import SECRET

BUILT_IN_MODEL: Final = "builtin:default"
"""Stands for the bundle in the router's package, whose path differs between machines."""
DEFAULT_RUNNER: Final = "DirectRunner"
DATE_PATTERN: Final = r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"
ACCELERATOR_PATTERN: Final = r"^type:[^;\s]+;count:[1-9][0-9]*(;[^;\s]+)*$"


@dataclass(frozen=True, kw_only=True)
class ObjectOptions:
    """Options for reading and classifying one object.

    Attributes:
        model_uri: path or URI of the model bundle.
        policy_file: path or URI of the policy; None for the default policy.
        device: auto, cpu or cuda.
        frame_number: frame to classify, from 1.
        limits: resource limits on one object.
    """

    model_uri: str = option(
        BUILT_IN_MODEL,
        flag="model",
        group=Group.DECISION,
        metavar="URI",
        help="model bundle: a folder, local, gs:// or s3://",
        default_text="the bundle that comes with the router",
        templates=EVERY_TEMPLATE,
        pattern=CLOUD_STORAGE_PATTERN,
    )
    policy_file: str | None = option(
        None,
        flag="policy",
        group=Group.DECISION,
        metavar="URI",
        help="policy, a YAML file, local, gs:// or s3://; 'dicom-router init' writes one",
        templates=EVERY_TEMPLATE,
        pattern=CLOUD_STORAGE_PATTERN,
    )
    device: str = option(
        "auto",
        group=Group.SPEED,
        choices=DEVICES,
        help="where the model runs; cuda without a usable GPU is an error",
        public=True,
    )
    frame_number: int = option(
        1,
        flag="frame",
        group=Group.DECISION,
        above=0,
        help="frame of multi-frame objects to classify, from 1; shorter objects use their last",
        public=True,
        in_fingerprint=True,
        templates=EVERY_TEMPLATE,
    )
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True)
class RouteOptions(ObjectOptions):
    """Options of `route` that describe a run, as given by the user.

    Attributes:
        inputs: files, folders and globs, manifests, or subscriptions.
        include: globs of the files to read.
        exclude: globs of the files and folders to skip.
        inventory_root: folder or URI to which the names in an inventory are relative.
        no_default_exclude: whether to read the names that are skipped by default.
        source: files, manifest, watch or pubsub.
        study_date: date or range of dates of the studies to list on a DICOMweb server; empty for all.
        modalities: modalities of the instances to list on a DICOMweb server; empty for all.
        lake: root of the lake.
        ingest_date: partition of the index, YYYY-MM-DD; empty for the current date in UTC.
        reprocess: none, model, policy or all.
        placement: copy, link or index_only.
        file_mode: permissions of new files, in octal; empty for those of the lake.
        write_sr: whether to write a structured report about each routed object.
        headers: whether to write the header of each object as JSON.
        patient_key_file: file or secret with the key of the hash of Patient ID; read on the workers.
        allow_empty: whether an input may match nothing.
        log_uris: whether error messages may contain source URIs.
        batch_size: maximum number of images per model call; lower on a CPU.
        fetch_threads: number of objects that a worker decodes concurrently, and places concurrently;
            None: chosen by each worker.
        read_ahead_bytes: memory of a worker for objects that wait for a decoder; None: chosen by each
            worker.
        max_reads: maximum number of concurrent reads of a worker.
        index_shards: number of append logs, and maximum number of index files of a batch run.
        accelerator: resource hint for the workers that run the model.
        lock_timeout: maximum time to wait for the locks of the lake, in seconds; 0 for no limit.
        allow_open_ports: whether to start servers that listen beyond loopback.
        stream: options of streaming sources; None in a batch run.
    """

    inputs: tuple[str, ...] = option(
        flag="input",
        group=Group.INPUT_OUTPUT,
        metavar="PATTERN",
        help="files, folders (searched recursively) and globs; local, gs:// or s3://; may be given "
        "more than once",
        templates=EVERY_TEMPLATE,
        pattern=CLOUD_STORAGE_PATTERN,
    )
    include: tuple[str, ...] = option(
        (),
        group=Group.INPUT_OUTPUT,
        metavar="GLOB",
        help="read only files with these names, in any case: '*.dcm'; a glob with a slash matches the "
        "path below the input",
        default_text="all",
        templates=EVERY_TEMPLATE,
    )
    exclude: tuple[str, ...] = option(
        (),
        group=Group.INPUT_OUTPUT,
        metavar="GLOB",
        help="skip files and folders with these names, as for --include; counted in the run summary",
        default_text="what file managers, copying programs and editors leave",
        templates=EVERY_TEMPLATE,
    )
    no_default_exclude: bool = option(
        False,
        group=Group.INPUT_OUTPUT,
        help="read the names that are skipped by default, such as .DS_Store, ._*, Thumbs.db, *.part "
        "and .NAME.XXXXXX of rsync",
        public=True,
        templates=EVERY_TEMPLATE,
    )
    source: str = option(
        FILES,
        group=Group.INPUT_OUTPUT,
        choices=SOURCES,
        help="what --input is. files: objects; manifest: lists of objects (text, .csv, .parquet; - "
        "reads standard input; inventories of S3, Cloud Storage and Azure); watch: objects, and those "
        "that arrive later; dicomweb: servers (dicomweb+https://HOST/dicom-web); pubsub: subscriptions "
        "(projects/P/subscriptions/S) to notifications of Cloud Storage",
        public=True,
        templates=EVERY_TEMPLATE,
    )
    inventory_root: str | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="ROOT",
        help="folder or URI to which names in an inventory are relative, such as a mounted bucket",
        default_text="the bucket in the inventory",
        templates=(BATCH,),
        pattern=CLOUD_STORAGE_PATTERN,
    )
    study_date: str = option(
        "",
        group=Group.INPUT_OUTPUT,
        metavar="DATE",
        help="with --source dicomweb: studies of this date (20260131) or range (20260101-20260131, "
        "20260101-)",
        default_text="all",
        public=True,
    )
    modalities: tuple[str, ...] = option(
        (),
        flag="modality",
        group=Group.INPUT_OUTPUT,
        metavar="CODE",
        help="with --source dicomweb: instances of these modalities (DX CR)",
        default_text="all",
        public=True,
    )
    lake: str = option(
        group=Group.INPUT_OUTPUT,
        metavar="ROOT",
        help="root of the lake: a folder, gs:// or s3://",
        templates=EVERY_TEMPLATE,
        pattern=CLOUD_STORAGE_PATTERN,
    )
    ingest_date: str = option(
        "",
        group=Group.INPUT_OUTPUT,
        metavar="DATE",
        help="partition of the index, YYYY-MM-DD",
        default_text="today, UTC",
        public=True,
        templates=(BATCH,),
        pattern=DATE_PATTERN,
    )
    placement: str = option(
        COPY,
        group=Group.INPUT_OUTPUT,
        choices=PLACEMENTS,
        help="copy objects, hard-link them (same file system), or write only the index; the source is "
        "never moved or deleted",
        public=True,
        in_fingerprint=True,
    )
    file_mode: str = option(
        "",
        group=Group.INPUT_OUTPUT,
        metavar="MODE",
        help="permissions of new local files of the lake, in octal; who may read a file may open its "
        "folder; the umask can only narrow them",
        default_text="those with which the lake was made; 0640 for a new one",
        public=True,
    )
    write_sr: bool = option(
        False,
        group=Group.INPUT_OUTPUT,
        help="write a DICOM Structured Report (TID 1500) about each routed object below "
        "structured_reports/; needs the extra sr",
        public=True,
        in_fingerprint=True,
        templates=EVERY_TEMPLATE,
    )
    headers: bool = option(
        False,
        group=Group.INPUT_OUTPUT,
        help="write allow-listed attributes of the header of each object as JSON below headers/",
        public=True,
        in_fingerprint=True,
        templates=EVERY_TEMPLATE,
    )
    patient_key_file: str | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="FILE",
        help="key (16 bytes or more) of the column patient_key, the HMAC-SHA-256 of Patient ID: a file, "
        "or projects/P/secrets/S/versions/V in Secret Manager; without it the column is null",
        templates=EVERY_TEMPLATE,
        pattern=f"^{SECRET}$",
    )
    allow_empty: bool = option(
        False,
        group=Group.INPUT_OUTPUT,
        help="accept inputs that match nothing",
        public=True,
        templates=(BATCH,),
    )
    log_uris: bool = option(
        False,
        group=Group.INPUT_OUTPUT,
        help="report failed objects by URI as well as by key; URIs can contain patient names",
        templates=EVERY_TEMPLATE,
    )
    reprocess: str = option(
        REPROCESS_NONE,
        group=Group.DECISION,
        choices=REPROCESS,
        help="which ingested objects to decide again. none; model: those that another model decided; "
        "policy: those that another model or policy decided; all: every object, and place it again if "
        "the lake has lost it",
        public=True,
        templates=(BATCH,),
    )
    shadow_model: str | None = option(
        None,
        group=Group.DECISION,
        metavar="URI",
        help="second model bundle, whose answers are recorded (columns shadow_*) and decide nothing",
        templates=EVERY_TEMPLATE,
        pattern=CLOUD_STORAGE_PATTERN,
    )
    overrule_people: bool = option(
        False,
        group=Group.DECISION,
        help="decide again also what a person has decided",
        public=True,
        templates=(BATCH,),
    )
    batch_size: int = option(
        MODEL_BATCH,
        group=Group.SPEED,
        above=0,
        help="maximum number of images per model call; at most 8 on a CPU",
        public=True,
        templates=EVERY_TEMPLATE,
    )
    fetch_threads: int | None = option(
        None,
        group=Group.SPEED,
        above=0,
        help="number of objects that a worker decodes concurrently, and places concurrently",
        default_text="processors of the worker + 1, at most 8",
        templates=EVERY_TEMPLATE,
    )
    read_ahead_bytes: int | None = option(
        None,
        group=Group.SPEED,
        unit="bytes",
        above=0,
        help="memory of a worker process for objects that are read before a decoder is free: more hides "
        "the delay of a store that is farther away",
        default_text="a sixteenth of the worker's memory per processor, 64 to 512 MiB",
        templates=EVERY_TEMPLATE,
    )
    max_reads: int = option(
        MAX_READS,
        group=Group.SPEED,
        above=0,
        help="maximum number of concurrent reads of a worker process; how many are needed is measured",
        public=True,
        templates=EVERY_TEMPLATE,
    )
    index_shards: int = option(
        4,
        group=Group.SPEED,
        above=0,
        help="maximum number of index files of a batch run; number of append logs of a stream",
        templates=EVERY_TEMPLATE,
        pattern="^[1-9][0-9]{0,2}$",  # at most MAX_SHARDS
    )
    accelerator: str | None = option(
        None,
        group=Group.SPEED,
        metavar="HINT",
        help="resource hint for the workers that run the model, on engines that support it: "
        "type:nvidia-l4;count:1;install-nvidia-driver; images then cross a shuffle",
        public=True,
        templates=EVERY_TEMPLATE,
        pattern=ACCELERATOR_PATTERN,
    )
    lock_timeout: float = option(
        0.0,
        group=Group.RUNNER,
        unit="seconds",
        at_least=0,
        help="maximum time to wait while another run writes to the lake; 0 waits without limit",
        public=True,
    )
    allow_open_ports: bool = option(
        False,
        group=Group.RUNNER,
        help="start Prism or a job server also where it cannot be restricted to loopback: whoever "
        "reaches its ports can run code",
    )
    stream: StreamConfig | None = field(default_factory=StreamConfig)

    @property
    def concurrency(self) -> Concurrency:
        """How much a worker does at the same time."""
        return Concurrency(self.fetch_threads, self.read_ahead_bytes, self.max_reads)


@dataclass(frozen=True, kw_only=True)
class CommandOptions(RouteOptions):
    """All options of `route`.

    Attributes:
        runner: name of a Beam runner.
        quiet: whether to print neither progress nor the summary.
        json: whether to print only the run summary, as JSON.
        report: HTML file to which a report on the run is written when it ends; None writes none.
        monitoring: where metrics and lineage go.
        audit: where audit messages go.
    """

    runner: str = option(
        DEFAULT_RUNNER,
        group=Group.RUNNER,
        metavar="NAME",
        choices=RUNNERS,
        help="Beam runner: DirectRunner (in this process; Prism for streams), PrismRunner, FlinkRunner, "
        "PortableRunner or DataflowRunner",
    )
    quiet: bool = option(False, group=Group.TERMINAL, help="print neither progress nor the summary")
    json: bool = option(False, group=Group.TERMINAL, help="print only the run summary, as JSON")
    report: Path | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="FILE",
        help="write a report on the run to this HTML file when it has ended; see 'dicom-router report'",
    )
    monitoring: MonitoringOptions = field(default_factory=MonitoringOptions)
    audit: AuditOptions = field(default_factory=AuditOptions)

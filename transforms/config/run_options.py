"""The options of `route`, and those that other commands share with it; imports nothing heavy."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

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
from transforms.core.option import Group, option
from transforms.imaging.limits import Limits

BUILT_IN_MODEL: Final = "builtin:default"
"""Names the bundle that comes with the router, wherever a machine has it."""
DEFAULT_RUNNER: Final = "DirectRunner"
IN_A_STORE: Final = r"^(gs|s3)://[^\n\r]+$"


def _fetch_threads() -> int:
    return min(8, (os.cpu_count() or 1) + 1)


@dataclass(frozen=True, kw_only=True)
class ObjectOptions:
    """What decides how one object is read and classified.

    Attributes:
        model_uri: the bundle.
        policy_file: None: the default policy.
        device: auto, cpu or cuda.
        frame_number: from 1.
        limits: on one object.
    """

    model_uri: str = option(
        BUILT_IN_MODEL,
        flag="model",
        group=Group.DECISION,
        metavar="URI",
        help="model bundle: a folder, local, gs:// or s3://",
        default_text="the bundle that comes with the router",
        in_template=True,
        pattern=IN_A_STORE,
    )
    policy_file: Path | None = option(
        None,
        flag="policy",
        group=Group.DECISION,
        metavar="FILE",
        help="YAML policy; templates/policy.yaml has every key",
        in_template=True,
    )
    device: str = option(
        "auto",
        group=Group.SPEED,
        choices=DEVICES,
        help="where the model runs; cuda without a usable GPU is an error",
        public=True,
        in_template=True,
    )
    frame_number: int = option(
        1,
        flag="frame",
        group=Group.DECISION,
        above=0,
        help="frame of multi-frame objects to classify, from 1; shorter objects use their last",
        public=True,
        in_fingerprint=True,
        in_template=True,
    )
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Options of the streaming sources; times in seconds.

    Attributes:
        poll_interval: between two polls of a source.
        stable_for: a local file is read once it has not changed for this long.
        index_interval: within which placed objects get their rows.
        max_batch_wait: within which a batch of references is passed on, full or not.
        retry_after: until an object without a row is retried; doubled with each retry.
        max_in_flight: most objects between the source and the index.
        ack_deadline: after which Pub/Sub redelivers a message that a lost worker held.
        models: folder of bundles, of which the last by name decides; None: the run's model does.
        model_poll_interval: between two polls of that folder.
    """

    poll_interval: float = option(
        5.0,
        group=Group.STREAMING,
        unit="seconds",
        above=0,
        help="time between two polls for new objects",
        public=True,
    )
    stable_for: float = option(
        5.0,
        group=Group.STREAMING,
        unit="seconds",
        above=0,
        help="read a local file only after this time without change",
        public=True,
    )
    index_interval: int = option(
        30,
        group=Group.STREAMING,
        unit="seconds",
        above=0,
        help="write the index rows of placed objects at least this often",
        public=True,
    )
    max_batch_wait: float = option(
        1.0,
        group=Group.STREAMING,
        unit="seconds",
        above=0,
        help="longest wait for a batch to fill",
        public=True,
    )
    retry_after: float = option(
        900.0,
        group=Group.STREAMING,
        unit="seconds",
        above=0,
        help="time until an object without a row is retried; doubled with each retry",
        public=True,
    )
    max_in_flight: int = option(
        10_000,
        group=Group.STREAMING,
        above=0,
        help="maximum number of objects in flight",
        public=True,
    )
    ack_deadline: int = option(
        60,
        group=Group.STREAMING,
        unit="seconds",
        at_least=10,
        at_most=600,
        help="time, 10 to 600, after which Pub/Sub redelivers a message that a lost worker held",
        public=True,
    )
    models: str | None = option(
        None,
        group=Group.STREAMING,
        metavar="FOLDER",
        help="folder of model bundles: the last by name decides from the next batch on, without a "
        "restart; --model decides until there is one",
    )
    model_poll_interval: float = option(
        30.0,
        group=Group.STREAMING,
        unit="seconds",
        above=0,
        help="time between two polls of --models",
        public=True,
    )


@dataclass(frozen=True, kw_only=True)
class RouteOptions(ObjectOptions):
    """The options of `route` that describe a run, as they are given.

    Attributes:
        inputs: files, folders and globs, manifests, or subscriptions.
        source: files, manifest, watch or pubsub.
        lake: root of the lake.
        ingest_date: partition of the index, YYYY-MM-DD; empty: today, UTC.
        reprocess: none, model, policy or all.
        placement: copy, link or index_only.
        patient_key_file: key of the hash of Patient ID; read on the workers, never in the graph.
        allow_empty: whether an input may match nothing.
        log_uris: whether error messages may hold source URIs.
        batch_size: most images in one call of the model; fewer on a CPU.
        fetch_threads: objects that one worker reads and decodes at once; it places as many.
        index_shards: most index files of a batch run; append logs of a stream.
        accelerator: resource hint for the workers that run the model.
        stream: None in a batch run.
    """

    inputs: tuple[str, ...] = option(
        flag="input",
        group=Group.INPUT_OUTPUT,
        metavar="PATTERN",
        help="files, folders (searched recursively) and globs; local, gs:// or s3://; may be given "
        "more than once",
        in_template=True,
        pattern=IN_A_STORE,
    )
    source: str = option(
        FILES,
        group=Group.INPUT_OUTPUT,
        choices=SOURCES,
        help="what --input names. files: objects; manifest: lists of objects (text, .csv, .parquet; - "
        "reads standard input); watch: objects, and those that arrive later; pubsub: subscriptions "
        "(projects/P/subscriptions/S) to notifications of Cloud Storage",
        public=True,
        in_template=True,
    )
    lake: str = option(
        group=Group.INPUT_OUTPUT,
        metavar="ROOT",
        help="root of the lake: a folder, gs:// or s3://",
        in_template=True,
        pattern=IN_A_STORE,
    )
    ingest_date: str = option(
        "",
        group=Group.INPUT_OUTPUT,
        metavar="DATE",
        help="partition of the index, YYYY-MM-DD",
        default_text="today, UTC",
        public=True,
        in_template=True,
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
    patient_key_file: str | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="FILE",
        help="key (16 bytes or more) of the column patient_key, the HMAC-SHA-256 of Patient ID; without "
        "it the column is null",
    )
    allow_empty: bool = option(
        False,
        group=Group.INPUT_OUTPUT,
        help="accept inputs that match nothing",
        public=True,
        in_template=True,
    )
    log_uris: bool = option(
        False,
        group=Group.INPUT_OUTPUT,
        help="name failed objects by URI as well as by key; URIs can contain patient names",
        in_template=True,
    )
    reprocess: str = option(
        REPROCESS_NONE,
        group=Group.DECISION,
        choices=REPROCESS,
        help="what to decide again of what the lake already holds. none: nothing; model: what another "
        "model decided; policy: what another model or policy decided; all: everything, placing again "
        "objects that the lake has lost",
        public=True,
        in_template=True,
    )
    batch_size: int = option(
        MODEL_BATCH,
        group=Group.SPEED,
        above=0,
        help="most images in one call of the model; at most 8 on a CPU",
        public=True,
        in_template=True,
    )
    fetch_threads: int = option(
        factory=_fetch_threads,
        group=Group.SPEED,
        above=0,
        help="objects that a worker reads and decodes at once, and places at once",
        default_text="processors + 1, at most 8",
        in_template=True,
    )
    index_shards: int = option(
        4,
        group=Group.SPEED,
        above=0,
        help="most index files of a run",
        in_template=True,
    )
    accelerator: str | None = option(
        None,
        group=Group.SPEED,
        metavar="HINT",
        help="resource hint for the workers that run the model, where the engine places steps by "
        "resources: type:nvidia-l4;count:1;install-nvidia-driver; images then cross a shuffle",
        public=True,
        in_template=True,
    )
    stream: StreamConfig | None = field(default_factory=StreamConfig)


@dataclass(frozen=True, kw_only=True)
class CommandOptions(RouteOptions):
    """All options of `route`.

    Attributes:
        runner: name of a Beam runner.
        quiet: whether to print neither progress nor the table.
        json: whether to print only the run summary, as JSON.
    """

    runner: str = option(
        DEFAULT_RUNNER,
        group=Group.RUNNER,
        metavar="NAME",
        choices=RUNNERS,
        help="Beam runner: DirectRunner (in this process; Prism for streams), PrismRunner, FlinkRunner, "
        "PortableRunner or DataflowRunner",
    )
    quiet: bool = option(False, group=Group.TERMINAL, help="print neither progress nor the table")
    json: bool = option(
        False, group=Group.TERMINAL, help="print only the run summary, as JSON for machines"
    )

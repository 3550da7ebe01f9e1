"""Everything a run needs to know, checked before any worker starts."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final

from transforms.config.policy import Policy
from transforms.core.batch_sizes import MODEL_BATCH
from transforms.core.errors import UsageError
from transforms.imaging.limits import Limits
from transforms.lake.append_log import MAX_SHARDS
from transforms.lake.layout import Layout
from transforms.lake.resolve_duplicates import (
    REPROCESS_ALL,
    REPROCESS_MODEL,
    REPROCESS_NONE,
    REPROCESS_POLICY,
)
from transforms.storage.local import uri_to_path
from transforms.storage.names import MAGIC
from transforms.storage.schemes import is_installed, is_local, uri_problem

COPY, LINK, INDEX_ONLY = "copy", "link", "index_only"
FILES, MANIFEST, WATCH, PUBSUB = "files", "manifest", "watch", "pubsub"
STREAMING_SOURCES: Final = (WATCH, PUBSUB)
SOURCES: Final = (FILES, MANIFEST, *STREAMING_SOURCES)
NOT_DECISIVE: Final = (
    "inputs source run_id ingest_date batch_size fetch_threads device index_shards allow_empty "
    "log_uris reprocess patient_key_file accelerator stream"
).split()
"""Fields of a configuration that do not bear on what becomes of an object."""
PLACEMENTS: Final = (COPY, LINK, INDEX_ONLY)
REPROCESS: Final = (REPROCESS_NONE, REPROCESS_MODEL, REPROCESS_POLICY, REPROCESS_ALL)
_SUBSCRIPTION: Final = re.compile(r"projects/[^/]+/subscriptions/[^/]+")
MIN_PATIENT_KEY_BYTES: Final = 16
_ACCELERATOR: Final = re.compile(r"type:[^;\s]+;count:[1-9][0-9]*(;[^;\s]+)*")


class ConfigError(UsageError):
    """A run cannot start; the message lists every problem with its remedy."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """What only a run with a streaming source needs to know; times in seconds.

    Attributes:
        poll_every: how often a source looks for new objects.
        settle_for: how long a local file must stay as it is before it is read.
        index_every: how long placed objects wait, at most, for their rows.
        max_batch_wait: how long references wait, at most, for others of their batch.
        retry_after: when an object without a row is tried again; twice as long each time.
        max_in_flight: most objects that a source gives out before their rows stand in the index.
        ack_deadline: after which Pub/Sub brings a message again that a lost worker held; 10 to 600.
        models: folder of bundles, of which the last by name decides; None: the run's model does.
        models_every: how often that folder is looked at.
    """

    poll_every: float = 5.0
    settle_for: float = 5.0
    index_every: int = 30
    max_batch_wait: float = 1.0
    retry_after: float = 900.0
    max_in_flight: int = 10_000
    ack_deadline: int = 60
    models: str | None = None
    models_every: float = 30.0


@dataclass(frozen=True, kw_only=True)
class RouteConfig:
    """One run of `route`.

    Attributes:
        inputs: what the source starts from: files, folders and globs, manifests, or subscriptions.
        source: files, manifest, watch or pubsub.
        layout: the lake.
        run_id: names the run's summary.
        ingest_date: partition of the index, YYYY-MM-DD.
        router_version: of this package.
        model_uri: the bundle.
        model_id: of the bundle.
        model_input_size: side of the network's input, pixels.
        device: auto, cpu or cuda.
        accelerator: that the engine should give the workers which run the model, as Beam writes it.
        batch_size: most films in one call of the model; on a CPU fewer are enough.
        fetch_threads: objects that one worker reads and decodes at once; as many it places.
        frame_number: frame of multi-frame objects that is classified, from 1.
        policy: complete, with thresholds for every label.
        own_policy: the same as the operator gave it, without what the bundle filled in.
        limits: on one object.
        placement: copy, link or index_only.
        reprocess: none, model, policy or all.
        patient_key_file: key of the hash of Patient ID; read on the workers, never in the graph.
        index_shards: files that a batch run writes into the index, at most; chains of a stream.
        allow_empty: whether inputs may match nothing.
        log_uris: whether source URIs may stand in error messages.
        stream: for streaming sources.
    """

    inputs: tuple[str, ...]
    layout: Layout
    run_id: str
    ingest_date: str
    router_version: str
    model_uri: str
    model_id: str
    model_input_size: int
    source: str = FILES
    device: str = "auto"
    accelerator: str | None = None
    batch_size: int = MODEL_BATCH
    fetch_threads: int = field(default_factory=lambda: min(8, (os.cpu_count() or 1) + 1))
    frame_number: int = 1
    policy: Policy = field(default_factory=Policy)
    own_policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)
    placement: str = COPY
    reprocess: str = REPROCESS_NONE
    patient_key_file: str | None = None
    index_shards: int = 4
    allow_empty: bool = False
    log_uris: bool = False
    stream: StreamConfig | None = None

    @property
    def is_streaming(self) -> bool:
        """Whether the run goes on until it is stopped."""
        return self.source in STREAMING_SOURCES

    @property
    def policy_id(self) -> str:
        """Digest of everything in the policy that decides, the bundle's defaults filled in."""
        return self.policy.policy_id

    def check(self) -> None:
        """Raise `ConfigError` with every problem found."""
        problems = [
            f"--{name} must be above 0" for name, value in self._counts().items() if not value > 0
        ]
        problems += [
            f"input {number} is empty" for number, text in enumerate(self.inputs, 1) if not text
        ]
        places = self._places()
        problems += [
            f"{what}: {why}" for what, text in places.items() if (why := uri_problem(text))
        ]
        if self.placement == LINK and not all(map(is_local, places.values())):
            problems.append("--placement link: an object store has no links; use copy")
        problems += [
            f"{what}: the path is no Unicode; give another, since the index must name it"
            for what, text in places.items()
            if text in self.layout.object_roots and text.startswith("file://")
        ]
        problems += self._stream_problems()
        if not is_date(self.ingest_date):
            problems.append(f"--ingest_date {self.ingest_date!r} is no date; write YYYY-MM-DD")
        if self.accelerator is not None and not _ACCELERATOR.fullmatch(self.accelerator):
            problems.append(
                f"--accelerator {self.accelerator!r}: write it as type:nvidia-l4;count:1, and after it "
                "what the engine knows besides, as ;install-nvidia-driver"
            )
        if self.patient_key_file:
            problems += _key_problems(self.patient_key_file)
        root = self.layout.root
        if is_local(root) and (path := uri_to_path(root)).exists() and not path.is_dir():
            problems.append("--lake is a file; give a folder")
        if problems:
            raise ConfigError("; ".join(problems))

    def fingerprint(self) -> str:
        """Digest of all that decides what becomes of an object: rows of equal digest are equal."""
        decisive = asdict(self)
        for name in NOT_DECISIVE:
            del decisive[name]
        if self.patient_key_file:
            key = read_patient_key(self.patient_key_file)
            decisive["patient_key"] = hmac.new(key, b"journal", hashlib.sha256).hexdigest()
        text = json.dumps(decisive, sort_keys=True, default=sorted)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _stream_problems(self) -> list[str]:
        if not self.is_streaming:
            return []
        problems = []
        if self.reprocess != REPROCESS_NONE:
            problems.append(
                f"--reprocess {self.reprocess}: a stream takes what is new; reprocess with --source files"
            )
        if self.source == PUBSUB:
            problems += [
                f"input {number}: write projects/PROJECT/subscriptions/NAME"
                for number, name in enumerate(self.inputs, 1)
                if not _SUBSCRIPTION.fullmatch(name)
            ]
            if not is_installed("google.cloud.pubsub_v1"):
                problems.append("--source pubsub: pip install 'dicom-imaging-router[pubsub]'")
        elif not self.allow_empty:
            problems += [
                f"input {number} does not exist; correct it, or allow it with --allow_empty"
                for number, text in enumerate(self.inputs, 1)
                if is_local(text) and not MAGIC.search(text) and not uri_to_path(text).exists()
            ]
        if self.index_shards > MAX_SHARDS:
            problems.append(f"--index_shards must be at most {MAX_SHARDS} in a stream")
        if self.stream is not None and not 10 <= self.stream.ack_deadline <= 600:
            problems.append("--ack_deadline must be in 10..600")
        if (
            self.stream is not None
            and self.stream.models
            and (why := uri_problem(self.stream.models))
        ):
            problems.append(f"--models: {why}")
        return problems

    def _counts(self) -> dict[str, float]:
        stream = {} if self.stream is None else asdict(self.stream)
        return {
            **{name: value for name, value in stream.items() if isinstance(value, (int, float))},
            "batch_size": self.batch_size,
            "fetch_threads": self.fetch_threads,
            "frame": self.frame_number,
            "index_shards": self.index_shards,
            **asdict(self.limits),
        }

    def _places(self) -> dict[str, str]:
        named = () if self.source == PUBSUB else self.inputs
        inputs = {f"input {number}": text for number, text in enumerate(named, 1)}
        sinks = {f"sinks.{sink}": root for sink, root in self.layout.sinks.items()}
        return {**inputs, "--lake": self.layout.root, **sinks}

    def public(self) -> dict[str, Any]:
        """The options as the run summary may show them: inputs could hold names, so only a count."""
        return {
            "inputs": len(self.inputs),
            "source": self.source,
            "ingest_date": self.ingest_date,
            "device": self.device,
            "accelerator": self.accelerator,
            "batch_size": self.batch_size,
            "frame": self.frame_number,
            "placement": self.placement,
            "reprocess": self.reprocess,
            "patient_key": self.patient_key_file is not None,
            **asdict(self.limits),
            "thresholds": self.policy.thresholds,
            "ood_threshold": self.policy.ood_threshold,
            "min_long_side": self.policy.min_long_side,
            "adult_from_years": self.policy.adult_from_years,
            "age_contradiction": self.policy.age_contradiction,
            "on_age_contradiction": self.policy.on_age_contradiction,
        }


def is_date(text: str) -> bool:
    """Whether a text is a date, YYYY-MM-DD."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def read_patient_key(path: str) -> bytes:
    """Return the key, white space at its ends dropped."""
    return Path(path).read_bytes().strip()


def _key_problems(path: str) -> list[str]:
    try:
        key = read_patient_key(path)
    except OSError as error:
        return [f"--patient_key_file cannot be read ({error.strerror})"]
    if len(key) < MIN_PATIENT_KEY_BYTES:
        return [f"--patient_key_file holds fewer than {MIN_PATIENT_KEY_BYTES} bytes"]
    return []

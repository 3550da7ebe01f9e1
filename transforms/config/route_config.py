"""The resolved configuration of a run, checked before any worker starts."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import socket
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import Any, Final

from transforms.config.derivation import derivation_problems
from transforms.config.policy import Policy
from transforms.config.run_options import ACCELERATOR_PATTERN, RouteOptions
from transforms.core.choices import (
    DICOMWEB,
    LINK,
    MANIFEST,
    PUBSUB,
    REPROCESS_NONE,
    STREAMING_SOURCES,
)
from transforms.core.errors import UsageError
from transforms.core.option import (
    Group,
    fingerprint_values,
    fingerprinted,
    options_of,
    range_problems,
)
from transforms.imaging.header_evidence import HeaderReliability
from transforms.lake.append_log import MAX_SHARDS
from transforms.lake.layout import Layout
from transforms.lake.table_settings import settings_problems
from transforms.storage.extras import how_to_install, is_installed
from transforms.storage.local import uri_to_path
from transforms.storage.names import MAGIC
from transforms.storage.schemes import DICOMWEB as SERVERS
from transforms.storage.schemes import is_local, scheme_of, uri_problem
from transforms.storage.secrets import read_secret
from transforms.storage.selection import Selection

MIN_PATIENT_KEY_BYTES: Final = 16
FINGERPRINT_LENGTH: Final = 16
_DATE_RANGE: Final = re.compile(r"[0-9]{8}|[0-9]{8}-([0-9]{8})?|-[0-9]{8}")
_CODE: Final = re.compile(r"[A-Z0-9_]{1,16}")
_SUBSCRIPTION: Final = re.compile(r"projects/[^/]+/subscriptions/[^/]+")


class ConfigError(UsageError):
    """A run cannot start; the message lists every problem and its remedy."""


@dataclass(frozen=True, kw_only=True)
class RouteConfig(RouteOptions):
    """The configuration of one run: its options, and the values resolved from them.

    Attributes:
        layout: layout of the lake.
        run_id: id of the run.
        router_version: version of this package.
        model_id: id of the model bundle.
        shadow_model_id: id of the bundle of --shadow_model, or None.
        model_input_size: side of the network's input, in pixels.
        policy: the policy in force, with a threshold for every label.
        own_policy: the operator's policy, without the defaults of the bundle.
        started_at: when the command started, seconds since 1970.
        host: name of the host on which the command runs.
    """

    layout: Layout
    run_id: str
    router_version: str = fingerprinted()
    model_id: str = fingerprinted()
    model_input_size: int = fingerprinted()
    shadow_model_id: str | None = fingerprinted(None)
    policy: Policy = fingerprinted(factory=Policy)
    own_policy: Policy = fingerprinted(factory=Policy)
    started_at: float = field(default_factory=time.time)
    host: str = field(default_factory=socket.gethostname)

    @property
    def is_streaming(self) -> bool:
        """Whether the run continues until it is stopped."""
        return self.source in STREAMING_SOURCES

    @property
    def policy_id(self) -> str:
        """Id of the policy in force, with the defaults of the bundle."""
        return self.policy.policy_id

    @property
    def selection(self) -> Selection:
        """The names that are inputs."""
        return Selection(
            self.include,
            self.exclude,
            not self.no_default_exclude,
            tuple(dict.fromkeys((*self.layout.object_roots, *self.layout.derived_roots))),
        )

    def with_header_reliability(self, reliability: HeaderReliability) -> RouteConfig:
        """Return the configuration with what its lake shows about headers."""
        return replace(
            self,
            policy=replace(self.policy, header_reliability=reliability),
            own_policy=replace(self.own_policy, header_reliability=reliability),
        )

    def check(self) -> None:
        """Check the configuration, without reading inputs or writing anything.

        Raises:
            ConfigError: with every problem found.
        """
        problems = [*range_problems(self), *self._location_problems()]
        if self.is_streaming:
            problems += self._stream_problems()
        if self.index_shards > MAX_SHARDS:
            problems.append(f"--index_shards must be at most {MAX_SHARDS}")
        if not is_date(self.ingest_date):
            problems.append(f"--ingest_date {self.ingest_date!r}: write a date as YYYY-MM-DD")
        problems += self._dicomweb_problems()
        if self.accelerator is not None and not re.fullmatch(ACCELERATOR_PATTERN, self.accelerator):
            problems.append(
                f"--accelerator {self.accelerator!r}: write it as type:nvidia-l4;count:1, followed by "
                "other parameters of the engine, such as ;install-nvidia-driver"
            )
        if self.write_sr and not is_installed("highdicom"):
            problems.append(f"--write_sr needs a package: {how_to_install('sr')}")
        if self.patient_key_file:
            try:
                require_patient_key(self.patient_key_file)
            except ConfigError as error:
                problems.append(str(error))
        problems += derivation_problems(self.policy.derive)
        if self.policy.publish is not None:
            problems += settings_problems(self.layout.root, self.policy.publish)
        if problems:
            raise ConfigError("; ".join(problems))

    def fingerprint(self) -> str:
        """Return a digest of all values that affect decisions and placement, 16 hex digits.

        Two runs with equal fingerprints write equal rows for an object, except for times and run ids.

        Raises:
            OSError: the patient key cannot be read.
        """
        values = fingerprint_values(self)
        if self.patient_key_file:
            key = read_patient_key(self.patient_key_file)
            values["patient_key"] = hmac.new(key, b"journal", hashlib.sha256).hexdigest()
        text = json.dumps(values, sort_keys=True, default=_plain)
        return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_LENGTH]

    def public(self) -> dict[str, Any]:
        """Return the options for the run summary, without inputs, whose names may identify patients."""
        shown = {
            one.flag: one.value_in(self)
            for one in options_of(type(self))
            if one.declaration.public
            and (self.is_streaming or one.declaration.group is not Group.STREAMING)
        }
        return {
            "inputs": len(self.inputs),
            **shown,
            "shadow_model_id": self.shadow_model_id,
            "patient_key": self.patient_key_file is not None,
            "thresholds": self.policy.thresholds,
            "age_thresholds": self.policy.own_age_thresholds,
            "ood_threshold": self.policy.ood_threshold,
            "min_long_side": self.policy.min_long_side,
            "adult_from_years": self.policy.adult_from_years,
            "age_contradiction": self.policy.age_contradiction,
            "on_age_contradiction": self.policy.on_age_contradiction,
            "thumbnails": self.policy.thumbnails,
            "header_evidence": self.policy.header_evidence,
            "policy_id": self.policy_id,
        }

    def locations(self) -> dict[str, str]:
        """Return the paths and URIs of inputs, lake and sinks, by their names in messages."""
        inputs = () if self.source == PUBSUB else self.inputs
        named = {f"input {number} ({text})": text for number, text in enumerate(inputs, 1)}
        sinks = {f"sinks.{sink}": root for sink, root in self.layout.sinks.items()}
        derived = {f"sinks.{sink}.derive": root for sink, root in self.layout.derived.items()}
        return {**named, "--lake": self.layout.root, **sinks, **derived}

    def _location_problems(self) -> list[str]:
        problems = [
            f"input {number} is empty" for number, text in enumerate(self.inputs, 1) if not text
        ]
        locations = self.locations()
        problems += [
            f"{name}: {why}" for name, text in locations.items() if (why := uri_problem(text))
        ]
        if self.placement == LINK and not all(map(is_local, locations.values())):
            problems.append("--placement link: an object store has no links; use copy")
        problems += [
            f"{name}: the path is not valid Unicode, so the index cannot contain it; use another"
            for name, text in locations.items()
            if text in self.layout.object_roots and text.startswith("file://")
        ]
        root = self.layout.root
        if is_local(root) and (path := uri_to_path(root)).exists() and not path.is_dir():
            problems.append("--lake is a file; give a folder")
        return problems

    def _dicomweb_problems(self) -> list[str]:
        if self.source != DICOMWEB:
            given = [("--study_date", self.study_date), ("--modality", self.modalities)]
            problems = [f"{flag} needs --source dicomweb" for flag, value in given if value]
            if self.source != MANIFEST and any(scheme_of(one) in SERVERS for one in self.inputs):
                problems.append(
                    f"--source {self.source}: list DICOMweb servers by --source dicomweb"
                )
            return problems
        problems = [
            f"input {number}: write dicomweb+https://HOST/dicom-web"
            for number, text in enumerate(self.inputs, 1)
            if scheme_of(text) not in SERVERS
        ]
        if not problems:
            from transforms.storage.dicomweb_sessions import server_problem

            found = enumerate(map(server_problem, self.inputs), 1)
            problems = [f"input {number}: {why}" for number, why in found if why]
        if self.study_date and not _DATE_RANGE.fullmatch(self.study_date):
            problems.append(
                "--study_date: write 20260131, 20260101-20260131, 20260101- or -20260131"
            )
        if not all(map(_CODE.fullmatch, self.modalities)):
            problems.append("--modality: write codes like DX or CR")
        return problems

    def _stream_problems(self) -> list[str]:
        problems = []
        if self.reprocess != REPROCESS_NONE:
            problems.append(
                f"--reprocess {self.reprocess}: a stream routes new objects only; reprocess with "
                "--source files"
            )
        if self.source == PUBSUB:
            problems += [
                f"input {number} ({name}): write projects/PROJECT/subscriptions/NAME"
                for number, name in enumerate(self.inputs, 1)
                if not _SUBSCRIPTION.fullmatch(name)
            ]
            if not is_installed("google.cloud.pubsub_v1"):
                problems.append(f"--source pubsub needs a package: {how_to_install('pubsub')}")
        elif not self.allow_empty:
            problems += [
                f"input {number} ({text}) does not exist; correct it, or allow it with --allow_empty"
                for number, text in enumerate(self.inputs, 1)
                if is_local(text) and not MAGIC.search(text) and not uri_to_path(text).exists()
            ]
        models = self.stream.models if self.stream else None
        if models and (why := uri_problem(models)):
            problems.append(f"--models: {why}")
        return problems


def is_date(text: str) -> bool:
    """Return whether a text is a valid date, YYYY-MM-DD."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def read_patient_key(name: str) -> bytes:
    """Return the key in a file or a secret, without surrounding white space.

    Raises:
        OSError: it cannot be read.
    """
    return read_secret(name).strip()


def require_patient_key(name: str) -> bytes:
    """Return the key of `--patient_key_file`; see `read_patient_key`.

    Raises:
        ConfigError: it cannot be read, or is too short.
    """
    try:
        key = read_patient_key(name)
    except OSError as error:
        raise ConfigError(f"--patient_key_file cannot be read ({error.strerror})") from error
    if len(key) < MIN_PATIENT_KEY_BYTES:
        raise ConfigError(f"--patient_key_file has fewer than {MIN_PATIENT_KEY_BYTES} bytes")
    return key


def _plain(value: Any) -> Any:
    """Return a value of the fingerprint in a form that JSON supports."""
    if isinstance(value, Policy):
        return value.rules()
    return sorted(value) if isinstance(value, frozenset) else asdict(value)

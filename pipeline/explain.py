"""Explain the decision about a single object, as text or JSON."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.classifier import Classifier, Device
from models.decide import decide_image
from pipeline.sources.archives import expand_archive, is_archive
from pipeline.sources.listing import list_objects
from transforms.config.explain_decision import claim_lines, explain_decision, views_line
from transforms.config.policy import Policy
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import ObjectRef
from transforms.core.reasons import BY_PERSON, MEANINGS, Reason, Status
from transforms.core.shared_bytes import SharedBytes
from transforms.lake.layout import is_relative
from transforms.lake.probabilities import probabilities_of
from transforms.lake.schema import IndexRow
from transforms.lake.view_columns import views_of
from transforms.sandbox.child_process import SandboxProcess
from transforms.sandbox.describe import HEADER_BYTES
from transforms.sandbox.examine import Examined, ExamineOptions, examine, examine_fetched
from transforms.sandbox.object_read import Fetched
from transforms.storage.schemes import absolute, storage_of
from transforms.storage.selection import Skipped

HEADER_COLUMNS: Final = (
    "modality body_part_examined view_position laterality patient_age_years patient_sex manufacturer "
    "manufacturer_model_name rows columns bits_stored photometric_interpretation number_of_frames "
    "transfer_syntax_uid sop_class_uid study_instance_uid series_instance_uid sop_instance_uid"
).split()
OUTCOMES: Final = {
    Status.ROUTED: "routed to {destination}",
    Status.REVIEW: "sent to review",
    Status.NOT_XRAY: "not a projection radiograph",
    Status.QUARANTINED: "quarantined",
}
SHADES: Final = " .:-=+*#%@"
SHOWN_COLUMNS, SHOWN_ROWS = 56, 28
BAR_WIDTH: Final = 30


class FoundObject(NamedTuple):
    """An object to explain, and whether it was listed in a folder or by a glob rather than named."""

    ref: ObjectRef
    is_listed: bool


@dataclass(frozen=True)
class Decision:
    """The decision about one object, and its explanation.

    Attributes:
        row: what a run would write about the object; docs/index-schema.md describes the values.
        image: the network's inputs, uint8[1 or 3, S, S], as `plates.network_inputs` returns them; None if
            the object is not classified.
        policy: the policy in force.
        stored: the row of the lake, if the object was found by its key in a lake.
    """

    row: IndexRow
    image: npt.NDArray[np.uint8] | None
    policy: Policy
    stored: IndexRow | None = None

    @property
    def status(self) -> str:
        """The outcome: routed, review, not_xray or quarantined."""
        return str(self.row.status)

    @property
    def destination(self) -> str:
        """The sink: a label, `review`, `not_xray` or `quarantine`."""
        return str(self.row.destination)

    @property
    def label(self) -> str | None:
        """The label that the model predicts; None if the object is not classified."""
        return self.row.predicted_label

    @property
    def confidence(self) -> float | None:
        """The calibrated confidence of `label`, 0..1; None if the object is not classified."""
        return self.row.confidence

    @property
    def probabilities(self) -> dict[str, float] | None:
        """The calibrated probabilities by label, which sum to 1; None if it is not classified."""
        found = probabilities_of(self.row, self._labels)
        return None if found is None else dict(zip(self._labels, found, strict=True))

    @property
    def reason(self) -> str:
        """Why the object has its status, a value of the column `reason`."""
        return str(self.row.reason)

    @property
    def explanation(self) -> str:
        """The reason in a sentence, with the numbers that decided."""
        return self._why(self.row)

    @property
    def remedy(self) -> str:
        """What to do about the reason, or "" if nothing needs to be done or a person has decided."""
        if self.stored is not None and self.stored.decided_by == BY_PERSON:
            return ""
        return MEANINGS[Reason(str(self.row.reason))].remedy

    def text(self) -> str:
        """Return all of it as text, as `dicom-router inspect` prints it."""
        row = self.row
        key = row.object_key if self.stored is None else self.stored.object_key
        lines = [
            f"object {key}, {row.source_size_bytes} bytes, sha256 {row.content_sha256}",
            "",
        ]
        if self.stored is not None:
            lines += [*_stored_lines(self.stored), "", *self._heading(self.stored), ""]
        lines += [f"  {name:<28}{value}" for name, value in self._header().items()]
        if self.image is not None:
            lines += ["", *_draw(self.image[0]), "", *self._prediction()]
        outcome = f"{_outcome(row)}: {self.explanation}"
        lines += ["", "; ".join(filter(None, [outcome, self.remedy]))]
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return all of it, ready for JSON, as `dicom-router inspect --json` prints it."""
        row = self.row
        found = {
            "object_key": row.object_key if self.stored is None else self.stored.object_key,
            "size_bytes": row.source_size_bytes,
            "content_sha256": row.content_sha256,
            "header": self._header(),
            "header_label": row.header_label,
            "header_agrees": row.header_agrees,
            "header_claims": claim_lines(row),
            "prediction": None,
            "decision": {**_decision(row), "why": self.explanation, "remedy": self.remedy},
        }
        if self.image is not None:
            found["prediction"] = {
                "model_id": row.model_id,
                "probabilities": self._probabilities(),
                "thresholds": {label: self.policy.thresholds[label] for label in self._labels},
                "age_thresholds": self.policy.own_age_thresholds,
                "ood_score": row.ood_score,
                "ood_threshold": self.policy.ood_threshold,
                "views": [view._asdict() for view in views_of(row) or ()],
                "combined_label": row.combined_label,
                "combined_confidence": row.combined_confidence,
                "region": row.predicted_region,
                "region_confidence": row.region_confidence,
                "region_code": row.predicted_region_code,
            }
        if self.stored is not None:
            found["stored"] = {
                **_decision(self.stored),
                "object_uri": _shown_uri(self.stored),
                "run_id": self.stored.run_id,
                "model_id": self.stored.model_id,
                "policy_id": self.stored.policy_id,
                "decided_at": _utc(self.stored.decided_at),
            }
        return found

    def _heading(self, stored: IndexRow) -> list[str]:
        """Return what decides now, and whether another model has classified the row of the lake."""
        row = self.row
        model = f"model {row.model_id}, " if row.model_id else ""
        lines = [f"Decided now by {model}policy {row.policy_id} (not stored)"]
        if row.model_id and stored.model_id and row.model_id != stored.model_id:
            lines.append(
                f"  the row was decided by model {stored.model_id}; --model decides as that did"
            )
        return lines

    def _header(self) -> dict[str, Any]:
        values = {name: getattr(self.row, name) for name in HEADER_COLUMNS}
        return {name: value for name, value in values.items() if value is not None}

    def _why(self, row: IndexRow) -> str:
        return explain_decision(row, self.policy)

    @property
    def _labels(self) -> tuple[str, ...]:
        return self.policy.label_set.names

    def _probabilities(self) -> dict[str, float | None]:
        """Return the probabilities by label; None where the model failed on the image."""
        return dict.fromkeys(self._labels) | (self.probabilities or {})

    def _prediction(self) -> list[str]:
        row, lines = self.row, []
        for label, known in self._probabilities().items():
            probability = known or 0.0
            bar = "█" * round(BAR_WIDTH * probability)
            threshold = f"routed from {self.policy.thresholds[label]:g}"
            if label in self.policy.own_age_thresholds:
                threshold += f" (by age {self.policy.age_thresholds[label]:g})"
            lines.append(f"  {label:<17}{probability:>7.4f}  {bar:<{BAR_WIDTH}} {threshold}")
        if row.ood_score is not None:
            limit = self.policy.ood_threshold
            lines.append(f"  {'ood_score':<17}{row.ood_score:>7.2f}  reviewed above {limit:.2f}")
        if row.predicted_region is not None:
            code = f"SNOMED CT {row.predicted_region_code}" if row.predicted_region_code else ""
            lines.append(
                f"  {'region':<17}{row.region_confidence:>7.4f}  {row.predicted_region}  {code}".rstrip()
            )
        if (line := views_line(row)) is not None:
            lines.append(f"  {line}")
        if row.header_label:
            verdict = "agrees" if row.header_agrees else "disagrees"
            lines.append(f"  the header says {row.header_label}: {verdict}")
        lines += [f"  {line}" for line in claim_lines(row)]
        if row.combined_label is not None and row.combined_confidence is not None:
            lines.append(
                f"  pixels and header together: {row.combined_label} {row.combined_confidence:.4f}"
            )
        return lines


class Explainer:
    """Decide and explain objects, with one loaded model and one sandbox."""

    def __init__(self, config: RouteConfig) -> None:
        self._config = config
        self._classifier = Classifier(config.model_uri, device=cast(Device, config.device))
        self._model = self._classifier.load()
        limits = config.limits
        self._sandbox = SandboxProcess(
            timeout_s=limits.max_object_seconds, memory_bytes=limits.max_memory_bytes
        )

    def __enter__(self) -> Explainer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the sandbox."""
        self._sandbox.close()

    def reference(self, name: str) -> ObjectRef:
        """Return the reference to one object.

        Args:
            name: path or URI of an object, not of a folder.

        Raises:
            OSError: there is no such object, or its storage does not answer.
        """
        uri = absolute(name)
        info = storage_of(uri).stat(uri)
        if info is None:
            raise FileNotFoundError(
                errno.ENOENT, f"{os.strerror(errno.ENOENT)}, or no regular file"
            )
        return ObjectRef.of(info)

    def find(self, name: str) -> Iterator[FoundObject | OSError]:
        """Yield the objects of a name, and the errors of those that cannot be listed, without a list.

        Args:
            name: path or URI of an object or a folder, or a glob.
        """
        uri = absolute(name)
        try:
            info = storage_of(uri).stat(uri)
        except OSError as error:
            yield error
            return
        if info is not None and not is_archive(ObjectRef.of(info)):
            yield FoundObject(ObjectRef.of(info), is_listed=False)
            return
        is_empty = True
        for listed in list_objects([uri], self._config.selection):
            if isinstance(listed, Skipped):
                continue
            members = (
                [listed] if isinstance(listed, OSError) else expand_archive(listed, self._config)
            )
            for found in members:
                if isinstance(found, ObjectRef):
                    is_empty = False
                    yield FoundObject(found, is_listed=True)
                elif isinstance(found, OSError):
                    is_empty = False
                    yield found
        if is_empty:
            yield FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def explain(
        self, ref: ObjectRef, *, thumbnail: Path | None = None, stored: IndexRow | None = None
    ) -> Decision:
        """Return the decision about an object.

        Args:
            ref: reference to the object.
            stored: row of a lake that the object was found by.
            thumbnail: PNG file to which the network's input is written if there is one.

        Raises:
            OSError: the object cannot be read.
            ProcessingFailure: the object could not be processed.
        """
        return self._decide(examine(ref, self._options, self._sandbox), thumbnail, stored)

    def explain_bytes(self, content: bytes) -> Decision:
        """Return the decision about an object in memory.

        Args:
            content: bytes of the object (PS3.10). Its `object_key` follows from their sha256.

        Raises:
            ProcessingFailure: the object could not be processed.
        """
        sha256, size = hashlib.sha256(content).hexdigest(), len(content)
        is_oversized = size > self._config.limits.max_object_bytes
        data = SharedBytes()
        data.write_at(0, content[:HEADER_BYTES] if is_oversized else content)
        ref = ObjectRef(f"sha256:{sha256}", sha256, size)
        fetched = Fetched(ref, data, sha256, size, is_oversized)
        return self._decide(examine_fetched(fetched, self._options, self._sandbox))

    @property
    def _options(self) -> ExamineOptions:
        """Nothing is placed afterwards, so that no bytes are kept, in memory or in a file."""
        options = ExamineOptions.from_config(self._config)
        return replace(options, cache_objects=False, scratch=None)

    def _decide(
        self, examined: Examined, thumbnail: Path | None = None, stored: IndexRow | None = None
    ) -> Decision:
        row = examined.row
        if examined.image is not None:
            (answer,) = self._classifier.classify([examined.image], self._model)
            row = decide_image(row, answer, self._config.own_policy)
            if thumbnail:
                Image.fromarray(examined.image[0]).save(thumbnail)
        return Decision(row, examined.image, self._config.policy, stored)


def _outcome(row: IndexRow) -> str:
    """Return the outcome of a row in words."""
    if row.status == Status.DUPLICATE:
        return f"a duplicate of an object in {row.destination}"
    return OUTCOMES[Status(str(row.status))].format(destination=row.destination)


def _decision(row: IndexRow) -> dict[str, Any]:
    names = "status stage reason destination predicted_label confidence decided_by".split()
    return {name: getattr(row, name) for name in names}


def _stored_lines(row: IndexRow) -> list[str]:
    """Return what the lake has of the object."""
    by = f", by {row.decided_by}" if row.decided_by else ""
    return [
        f"In the lake: {_outcome(row)} at {row.stage}, {row.reason}{by}, {_utc(row.decided_at) or ''}",
        f"  run {row.run_id}, model {row.model_id}, policy {row.policy_id}",
        f"  {_shown_uri(row) or 'outside the lake'}",
    ]


def _shown_uri(row: IndexRow) -> str | None:
    """Return the name of the object in its lake; None outside, as names of sources may name patients."""
    return row.object_uri if row.object_uri and is_relative(row.object_uri) else None


def _utc(microseconds: int | None) -> str | None:
    if microseconds is None:
        return None
    text = datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="seconds")
    return text.replace("+00:00", "Z")


def _draw(image: npt.NDArray[np.uint8]) -> list[str]:
    """Return a thumbnail, uint8[H, W], as lines of characters."""
    size = (SHOWN_COLUMNS, SHOWN_ROWS)
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    return ["  " + "".join(SHADES[v * len(SHADES) // 256] for v in line) for line in small.tolist()]

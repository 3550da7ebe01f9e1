"""Explain the decision about a single object as text."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.classify import decide_image
from models.handler import Device, RadiographModelHandler
from pipeline.sources.archives import expand_archive, is_archive
from pipeline.sources.files import list_objects
from transforms.config.explain_decision import claim_lines, explain_decision
from transforms.config.route_config import RouteConfig
from transforms.core.labels import LABELS
from transforms.core.object_ref import ObjectRef
from transforms.core.reasons import MEANINGS, Reason, Status
from transforms.lake.schema import IndexRow
from transforms.sandbox.child_process import SandboxProcess
from transforms.sandbox.examine import Examined, ExamineOptions, examine
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


class Explainer:
    """Explain objects, with one loaded model and one sandbox."""

    def __init__(self, config: RouteConfig) -> None:
        self._config = config
        self._handler = RadiographModelHandler(config.model_uri, device=cast(Device, config.device))
        self._model = self._handler.load_model()
        limits = config.limits
        self._sandbox = SandboxProcess(
            timeout_s=limits.max_object_seconds, memory_bytes=limits.max_memory_bytes
        )

    def __enter__(self) -> Explainer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._sandbox.close()

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

    def explain(self, ref: ObjectRef, *, thumbnail: Path | None = None) -> str:
        """Return an explanation of an object.

        Args:
            ref: reference to the object.
            thumbnail: PNG file to which the network's input is written if there is one.

        Raises:
            OSError: the object cannot be read.
            ProcessingFailure: the object could not be processed.
        """
        examined = self._examine(ref)
        row = examined.row
        if examined.image is not None:
            (result,) = self._handler.run_inference([examined.image], self._model)
            row = decide_image(row, result, self._config.own_policy)
            if thumbnail:
                Image.fromarray(examined.image[0]).save(thumbnail)
        return "\n".join(self._lines(row, examined.image)) + "\n"

    def _examine(self, ref: ObjectRef) -> Examined:
        options = ExamineOptions.from_config(self._config)
        # Nothing is placed afterwards, so that no bytes are kept, in memory or in a file.
        return examine(ref, replace(options, cache_objects=False, scratch=None), self._sandbox)

    def _lines(self, row: IndexRow, image: npt.NDArray[np.uint8] | None) -> list[str]:
        lines = [
            f"object {row.object_key}, {row.source_size_bytes} bytes, sha256 {row.content_sha256}",
            "",
        ]
        for name in HEADER_COLUMNS:
            value = getattr(row, name)
            if value is not None:
                lines.append(f"  {name:<28}{value}")
        if image is not None:
            lines += ["", *_draw(image[0]), "", *self._prediction(row)]
        outcome = OUTCOMES[Status(str(row.status))].format(destination=row.destination)
        why = explain_decision(row, self._config.policy)
        remedy = MEANINGS[Reason(str(row.reason))].remedy
        return [*lines, "", "; ".join(filter(None, [f"{outcome}: {why}", remedy]))]

    def _prediction(self, row: IndexRow) -> list[str]:
        lines = []
        for label in LABELS:
            probability = getattr(row, f"prob_{label}") or 0.0
            bar = "█" * round(BAR_WIDTH * probability)
            threshold = self._config.policy.thresholds[label]
            lines.append(
                f"  {label:<17}{probability:>7.4f}  {bar:<{BAR_WIDTH}} routed from {threshold:.2f}"
            )
        if row.ood_score is not None:
            limit = self._config.policy.ood_threshold
            lines.append(f"  {'ood_score':<17}{row.ood_score:>7.2f}  reviewed above {limit:.2f}")
        if row.header_label:
            verdict = "agrees" if row.header_agrees else "disagrees"
            lines.append(f"  the header says {row.header_label}: {verdict}")
        lines += [f"  {line}" for line in claim_lines(row)]
        if row.combined_label is not None and row.combined_confidence is not None:
            lines.append(
                f"  pixels and header together: {row.combined_label} {row.combined_confidence:.4f}"
            )
        return lines


def _draw(image: npt.NDArray[np.uint8]) -> list[str]:
    """Return a thumbnail, uint8[H, W], as lines of characters."""
    size = (SHOWN_COLUMNS, SHOWN_ROWS)
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    return ["  " + "".join(SHADES[v * len(SHADES) // 256] for v in line) for line in small.tolist()]

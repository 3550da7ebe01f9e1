"""`dicom-router inspect`: explain what the router makes of one object."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.classify import decide_row
from models.handler import RadiographModelHandler
from pipeline.cli.arguments import add_model_argument, add_object_arguments
from pipeline.cli.config import object_config
from transforms.config.route_config import ConfigError, RouteConfig
from transforms.core.labels import LABELS
from transforms.core.object_ref import ObjectRef
from transforms.core.reasons import MEANINGS, ProcessingFailure, Reason
from transforms.lake.schema import IndexRow
from transforms.sandbox.child_process import SandboxProcess
from transforms.sandbox.examine import Examined, ExamineOptions, examine
from transforms.storage.schemes import absolute, storage_of

HEADER_COLUMNS = (
    "modality body_part_examined view_position laterality patient_age_years patient_sex manufacturer "
    "manufacturer_model_name rows columns bits_stored photometric_interpretation number_of_frames "
    "transfer_syntax_uid sop_class_uid study_instance_uid series_instance_uid sop_instance_uid"
).split()
SHADES = " .:-=+*#%@"
SHOWN_COLUMNS, SHOWN_ROWS = 56, 28


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `inspect`."""
    parser.add_argument(
        "file", nargs="+", metavar="FILE", help="DICOM objects, whatever their names"
    )
    add_model_argument(parser)
    add_object_arguments(parser)
    parser.add_argument(
        "--thumbnail", type=Path, metavar="PNG", help="write the network's input of a single FILE"
    )


def run(args: argparse.Namespace) -> int:
    """Explain each file; 1 if one could not be read."""
    if args.thumbnail and len(args.file) > 1:
        raise ConfigError("--thumbnail goes with one FILE")
    config = object_config(args, args.file, os.curdir)
    handler = RadiographModelHandler(config.model_uri, device=config.device)  # type: ignore[arg-type]
    model = handler.load_model()
    limits = config.limits
    child = SandboxProcess(
        timeout_s=limits.max_object_seconds, memory_bytes=limits.max_memory_bytes
    )
    unread = 0
    for number, name in enumerate(args.file, 1):
        try:
            examined = _examined(name, config, child)
        except (ProcessingFailure, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            print(f"file {number}: cannot be read ({why})", file=sys.stderr)
            unread += 1
            continue
        row = examined.row
        if examined.image is not None:
            (result,) = handler.run_inference([examined.image], model)
            row = decide_row(row, result, config.own_policy)
            if args.thumbnail:
                Image.fromarray(examined.image[0]).save(args.thumbnail)
        print(_explained(row, examined.image, config))
    child.close()
    return 1 if unread else 0


def _examined(name: str, config: RouteConfig, child: SandboxProcess) -> Examined:
    uri = absolute(name)
    found = storage_of(uri).stat(uri)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "no such file")
    options = ExamineOptions.from_config(config)
    return examine(ObjectRef(uri, found.version, found.size), options, child)


def _explained(row: IndexRow, image: npt.NDArray[np.uint8] | None, config: RouteConfig) -> str:
    lines = [
        f"object {row.object_key}, {row.source_size_bytes} bytes, sha256 {row.content_sha256}",
        "",
    ]
    for name in HEADER_COLUMNS:
        value = getattr(row, name)
        if value is not None:
            lines.append(f"  {name:<28}{value}")
    if image is not None:
        lines += ["", *_shaded(image[0]), ""]
        for label in LABELS:
            probability = getattr(row, f"prob_{label}") or 0.0
            bar = "█" * round(30 * probability)
            needs = config.policy.thresholds[label]
            lines.append(f"  {label:<17}{probability:>7.4f}  {bar:<30} routed from {needs:.2f}")
        if row.ood_score is not None:
            limit = config.policy.ood_threshold
            lines.append(f"  {'ood_score':<17}{row.ood_score:>7.2f}  reviewed above {limit:.2f}")
        if row.header_label:
            verdict = "agrees" if row.header_agrees else "disagrees"
            lines.append(f"  the header says {row.header_label}: {verdict}")
    meaning = MEANINGS[Reason(str(row.reason))]
    lines += [
        "",
        f"{row.status} to {row.destination}: {meaning.text}"
        + (f"; {meaning.remedy}" if meaning.remedy else ""),
    ]
    return "\n".join(lines) + "\n"


def _shaded(image: npt.NDArray[np.uint8]) -> list[str]:
    small = np.asarray(
        Image.fromarray(image).resize((SHOWN_COLUMNS, SHOWN_ROWS), Image.Resampling.BOX)
    )
    return ["  " + "".join(SHADES[v * len(SHADES) // 256] for v in line) for line in small.tolist()]

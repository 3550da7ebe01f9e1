"""Calibrate a bundle on the answers of reviewers in a lake: `dicom-router calibrate --from_labels`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.bundle import BundleError, BundleInfo
from models.training import provenance
from models.training.calibration.refit import (
    NOT_A_LABEL,
    Answers,
    Images,
    Present,
    Refit,
    refit,
)
from models.training.calibration.thresholds import Flags
from models.training.data.lake_images import LakeImages, read_lake_images
from models.training.evaluation.predict import load_for_prediction, predict_images
from models.weights import load_network, save_recalibrated
from transforms.core.labels import REVIEW
from transforms.core.reasons import Reason
from transforms.imaging.limits import Limits
from transforms.lake.labels import UNREADABLE, Label
from transforms.lake.layout import Layout
from transforms.lake.probabilities import (
    PROBABILITY_COLUMNS,
    probability_arrays,
    stored_probabilities,
)
from transforms.sandbox.child_process import SandboxProcess
from transforms.sandbox.render import RenderOptions, render_inputs


@dataclass(frozen=True)
class AnswerCounts:
    """Which answers of a lake were used.

    Attributes:
        answers: number of images with an answer.
        used: number of them that were used.
        unreadable: number whose answer was that the image cannot be read; not used.
        classified: number that another model had decided, and were classified again.
        failed: keys of objects that could not be read or decoded again; not used.
        disagreements: number of images on which reviewers disagree; the latest answer is used.
    """

    answers: int
    used: int
    unreadable: int
    classified: int
    failed: list[str]
    disagreements: int


@dataclass(frozen=True)
class CalibratedOnLabels:
    """Result of a calibration on answers.

    Attributes:
        counts: which answers were used.
        present: the bundle as it was.
        info: the new bundle, or None if there were too few answers, and nothing was written.
        refit: None if there was no answer at all.
    """

    counts: AnswerCounts
    present: BundleInfo
    info: BundleInfo | None
    refit: Refit | None


def calibrate_from_labels(
    uri: str,
    layout: Layout,
    output: Path,
    target_error: float,
    min_answers: int,
    device: str = "cpu",
) -> CalibratedOnLabels:
    """Refit temperature and thresholds of a bundle on the answers in a lake; see `refit.refit`.

    Predictions that are stored are used. Images that another model decided are read and classified. The
    age thresholds of the bundle are kept, unless the temperature changes, with which they were chosen.
    Where a label's threshold is raised, its age threshold is at least that.

    Args:
        uri: of the bundle.
        layout: the lake.
        output: folder of the new bundle, which is not written if no label has enough answers.
        target_error: maximum error rate among the images routed to a label, 0..1.
        min_answers: minimum number of answers about images that are routed to a label.
        device: "cpu" or "cuda", where the network runs if images have to be classified.

    Raises:
        BundleError: The bundle cannot be read.
        DamagedFile: A file of the lake cannot be read.
    """
    info = provenance.read_bundle(uri)
    if not info.is_calibrated:
        raise BundleError(
            f"model bundle {uri}: not calibrated, and answers only adjust thresholds; calibrate with "
            "--data first, which can be a lake with answers"
        )
    lake = read_lake_images(layout).having(info.labels)
    answers, counts = _answers(uri, info, layout, lake, device)
    if not counts.used:
        return CalibratedOnLabels(counts, info, None, None)
    thresholds = {label: info.thresholds[label] for label in info.labels}
    present = Present(info.temperature, thresholds, info.ood_threshold)
    found = refit(
        _images(lake, info), answers, present, target_error=target_error, min_answers=min_answers
    )
    if not found.changeable:
        return CalibratedOnLabels(counts, info, None, found)
    network = load_network(uri)
    network.temperature = found.temperature
    described = {
        "architecture": info.architecture,
        "input_size": info.input_size,
        "label_definitions": info.label_definitions,
        "training": info.training,
        "metrics": info.metrics,
        "thresholds": found.thresholds,
        "age_thresholds": _age_thresholds(info, found),
        "ood_threshold": info.ood_threshold,
        "calibration": {
            "data": layout.root.rstrip("/").rpartition("/")[2],
            "split": "answers of reviewers",
            "previous_model": info.model_id,
            **found.evidence,
        },
    }
    return CalibratedOnLabels(
        counts, info, save_recalibrated(output, uri, network, described), found
    )


def _age_thresholds(info: BundleInfo, found: Refit) -> dict[str, float]:
    if found.temperature != info.temperature:
        return {}
    return {
        label: max(own, found.thresholds[label])
        if found.thresholds[label] > info.thresholds[label]
        else own
        for label, own in info.age_thresholds.items()
    }


def _images(lake: LakeImages, info: BundleInfo) -> Images:
    table = lake.table
    probabilities = np.stack(
        [column.to_numpy() for column in probability_arrays(table, info.labels)], axis=1
    )
    in_review = np.array(_flags(pc.equal(table["destination"], REVIEW)))
    for position, label in lake.answers():
        in_review[position] = lake.first[label.content_sha256].destination == REVIEW
    far = pc.and_kleene(
        pc.equal(table["model_id"], info.model_id),
        pc.greater(table["ood_score"], info.ood_threshold),
    )
    predicted = zip(table["header_label"].to_pylist(), probabilities.argmax(1), strict=True)
    disagrees = [
        info.label_set.agree(header, info.labels[index]) is False for header, index in predicted
    ]
    return Images(probabilities, ~_flags(far), in_review, np.array(disagrees))


def _flags(values: pa.ChunkedArray) -> Flags:
    """Return booleans, false where they are unknown, bool[N]."""
    return np.asarray(pc.fill_null(values, False).to_numpy(), dtype=np.bool_)


def _answers(
    uri: str, info: BundleInfo, layout: Layout, lake: LakeImages, device: str
) -> tuple[Answers, AnswerCounts]:
    """Return the usable answers with the bundle's predictions."""
    given = lake.answers()
    readable = [(at, label) for at, label in given if label.answer != UNREADABLE]
    columns = ["object_uri", "object_key", "model_id", "ood_score", *PROBABILITY_COLUMNS]
    positions = pa.array([at for at, _ in readable], pa.int64())
    rows = lake.table.select(columns).take(positions)
    outputs: list[Sequence[float] | None] = []
    missing: dict[int, str] = {}
    for number, (row, (_, label)) in enumerate(zip(rows.to_pylist(), readable, strict=True)):
        outputs.append(_stored(row, label, info))
        if outputs[-1] is None:
            missing[number] = layout.absolute(row["object_uri"])
    for number, classified in _classified(uri, info, missing, device).items():
        outputs[number] = classified
    known = [number for number, found in enumerate(outputs) if found is not None]
    keys = rows["object_key"].to_pylist()
    counts = AnswerCounts(
        answers=len(given),
        used=len(known),
        unreadable=len(given) - len(readable),
        classified=len([number for number in missing if outputs[number] is not None]),
        failed=[keys[number] for number in missing if outputs[number] is None],
        disagreements=sum(lake.labels[label.content_sha256].disagrees for _, label in given),
    )
    values = np.array([outputs[number] for number in known], np.float64).reshape(
        -1, len(info.labels) + 1
    )
    answers = Answers(
        np.array([readable[number][0] for number in known], np.int64),
        np.array([_index(readable[number][1].answer, info) for number in known], np.int64),
        values[:, :-1],
        values[:, -1],
    )
    return answers, counts


def _stored(row: dict[str, Any], label: Label, info: BundleInfo) -> list[float] | None:
    """Return the stored outputs of a model for an image, or None."""
    if row["model_id"] == info.model_id:
        known, ood_score = stored_probabilities(row), row["ood_score"]
    elif label.model_id == info.model_id:
        known, ood_score = stored_probabilities(label), label.ood_score
    else:
        return None
    outputs = [*map(known.get, info.labels), ood_score]
    return None if None in outputs else outputs


def _classified(
    uri: str, info: BundleInfo, objects: dict[int, str], device: str
) -> dict[int, list[float]]:
    """Return the outputs for objects, by their numbers; without those that cannot be decoded."""
    if not objects:
        return {}
    limits, images = Limits(), {}
    options = RenderOptions(size=info.input_size, limits=limits)
    child = SandboxProcess(
        timeout_s=limits.max_object_seconds, memory_bytes=limits.max_memory_bytes
    )
    try:
        for number, object_uri in objects.items():
            image = render_inputs(object_uri, options, child)
            if not isinstance(image, Reason):
                images[number] = image
    finally:
        child.close()
    if not images:
        return {}
    found = predict_images(load_for_prediction(uri, device), list(images.values()))
    outputs = np.column_stack((found.probabilities, found.ood_scores))
    return dict(zip(images, outputs.tolist(), strict=True))


def _index(answer: str, info: BundleInfo) -> int:
    """Return the index of an answer; one that is not of the model's labels makes every one wrong."""
    return info.labels.index(answer) if answer in info.labels else NOT_A_LABEL

"""`dicom-router calibrate`: set the thresholds of a model bundle on labelled images."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.training.options import HOLDOUT_ERROR, TARGET_ERROR
from pipeline.cli.arguments import (
    add_device_argument,
    add_model_argument,
    add_options,
    existing_lake,
)
from pipeline.cli.next_steps import route_arguments, suggest
from pipeline.cli.region_table import region_lines
from pipeline.cli.train import HoldoutOptions, print_holdout, require_ranges
from pipeline.exit_codes import DONE, FAILED
from transforms.core.errors import UsageError
from transforms.core.option import Group, from_values, option
from transforms.storage.extras import extra_note

if TYPE_CHECKING:
    from models.training.calibrate_from_labels import CalibratedOnLabels


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(HoldoutOptions):
    """The options of `calibrate`."""

    data: Path | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="PATH",
        help="manifest, folder per label or lake, as for train; its val split is used, and for "
        "--holdout_sources and --holdout_bundles its train split too",
    )
    from_labels: str | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="LAKE",
        help="instead of --data: a lake; the answers of its reviewers set temperature and thresholds, "
        "weighted against what reviewers see first; labels with too few answers keep their threshold",
    )
    output: Path = option(group=Group.INPUT_OUTPUT, metavar="DIR", help="folder of the new bundle")
    ensemble: tuple[str, ...] = option(
        (),
        group=Group.DECISION,
        metavar="BUNDLE",
        help="more bundles of the same architecture to serve with --model as an ensemble: the mean of "
        "their logits, at the cost of all",
        default_text="none",
    )
    holdout_bundles: tuple[str, ...] = option(
        (),
        group=Group.DECISION,
        metavar="BUNDLE",
        help="bundles of the same recipe trained with --holdout_sources; their predictions on the "
        "held-out images are used for the thresholds, and shown in the model card",
        default_text="none",
    )
    target_error: float = option(
        TARGET_ERROR,
        group=Group.DECISION,
        metavar="E",
        at_least=0,
        at_most=1,
        help="maximum error rate among the images routed to a label",
    )
    outliers: bool = option(
        False,
        group=Group.DECISION,
        help="fit what recognizes images that are no radiographs first, on the frozen features of train "
        "images and generated outliers, as train does at its end",
    )
    outlier_images: Path | None = option(
        None,
        group=Group.DECISION,
        metavar="DIR",
        help="with --outliers: folder of images that are no radiographs, KIND/SOURCE/NAME.png, to fit on "
        "besides generated ones",
    )
    regions: bool = option(
        False,
        group=Group.DECISION,
        help="instead of thresholds, fit the head that predicts regions, on the features of the frozen "
        "network and by the column region of the manifest; labels and their probabilities do not change",
    )
    holdout_error: float = option(
        HOLDOUT_ERROR,
        group=Group.DECISION,
        metavar="E",
        at_least=0,
        at_most=1,
        help="with --holdout_bundles: maximum error rate among the held-out images that are routed",
    )
    holdout_error_without_age: float | None = option(
        None,
        group=Group.DECISION,
        metavar="E",
        at_least=0,
        at_most=1,
        help="with --holdout_bundles: the same if no patient's age is known, for labels between which an "
        "age decides; --holdout_error is the limit for images that an age decides",
        default_text="that of --holdout_error",
    )
    min_answers: int = option(
        20,
        group=Group.DECISION,
        above=0,
        help="with --from_labels: minimum number of answers about images that are routed to a label, "
        "below which its threshold is kept",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `calibrate`."""
    parser.epilog = extra_note("train")
    add_model_argument(parser)
    add_options(parser, CalibrateOptions)
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Calibrate a bundle, and print thresholds, coverage and error."""
    options = from_values(CalibrateOptions, vars(args))
    require_ranges(options)
    if (options.data is None) == (options.from_labels is None):
        raise UsageError("give one of --data and --from_labels")
    if options.outlier_images is not None and not options.outliers:
        raise UsageError("--outlier_images needs --outliers")
    if options.holdout_error_without_age is not None and not options.holdout_bundles:
        raise UsageError("--holdout_error_without_age needs --holdout_bundles")
    if options.from_labels is not None:
        return _calibrate_from_labels(args, options, options.from_labels)
    assert options.data is not None
    if options.regions:
        return _calibrate_regions(args, options, options.data)
    from models.classifier import choose_device
    from models.training.calibrate_bundle import calibrate_bundle

    info = calibrate_bundle(
        [args.model, *options.ensemble],
        options.data,
        options.output,
        options.target_error,
        holdout_sources=options.holdout_sources,
        holdout_bundles=options.holdout_bundles,
        holdout_error=options.holdout_error,
        holdout_error_without_age=options.holdout_error_without_age,
        refit_outliers=options.outliers,
        outlier_images=options.outlier_images,
        device=choose_device(args.device),
    )
    print(f"{info.model_id} written to {options.output}; temperature {info.temperature}")
    by_age = info.calibration.get("by_age")
    _print_labels(info.thresholds, info.calibration, "")
    if by_age:
        _print_labels(info.age_thresholds, by_age, ", by age")
    print(_summary("val", info.calibration))
    if by_age:
        print(_summary("val, with right ages", by_age["all_images"]))
    if not info.calibration["target_proved"]:
        print(f"the target error of {options.target_error:.1%} is not proved: see the upper bound")
    if together := info.calibration["holdout_together"]:
        print(_summary("held-out images together", together))
    if by_age and (together := by_age["holdout_together"]):
        print(_summary("the same with right ages", together["all_images"]))
    for training, of in zip(
        info.training.get("holdout", ()), info.calibration["holdout"], strict=True
    ):
        sources = ", ".join(training["sources"])
        print(_summary(f"thresholds of the others, on held-out {sources}", of))
    print_holdout(info.metrics)
    for line in region_lines(info):
        print(line)
    suggest(
        evaluate=("--model", options.output, "--data", options.data),
        route=route_arguments(options.output),
    )
    return 0


def _calibrate_regions(args: argparse.Namespace, options: CalibrateOptions, data: Path) -> int:
    """Fit the region head, and print its accuracy."""
    others = options.ensemble or options.holdout_bundles or options.holdout_sources
    if others or options.outliers:
        raise UsageError(
            "--regions takes no --ensemble, --holdout_bundles, --holdout_sources or --outliers; "
            "calibrate without it first"
        )
    from models.classifier import choose_device
    from models.training.calibrate_regions import calibrate_regions

    info = calibrate_regions(args.model, data, options.output, choose_device(args.device))
    print(f"{info.model_id} written to {options.output}")
    for line in region_lines(info):
        print(line)
    suggest(
        evaluate=("--model", options.output, "--data", data), route=route_arguments(options.output)
    )
    return DONE


def _print_labels(thresholds: dict[str, float], of: dict[str, Any], suffix: str) -> None:
    """Print a line for each label; those of images whose label an age chose have a suffix."""
    if not suffix:
        print(f"{'label':<25}{'threshold':>10}{'predicted':>11}{'routed':>8}{'wrong':>7}")
    for label, found in of["labels"].items():
        note = "" if found["target_met"] else "  target not met"
        print(
            f"{label + suffix:<25}{thresholds[label]:>10g}{found['predicted']:>11}"
            f"{found['routed']:>8}{found['wrong']:>7}{note}"
        )


def _summary(data: str, of: dict[str, Any]) -> str:
    return (
        f"{data}: coverage {of['coverage']:.1%}, error {of['error']:.2%} "
        f"(95 % upper bound {of['error_upper_95']:.2%})"
    )


def _calibrate_from_labels(args: argparse.Namespace, options: CalibrateOptions, lake: str) -> int:
    """Calibrate on answers, and print what they say; return 1 if there are too few to change anything."""
    others = options.ensemble or options.holdout_bundles or options.holdout_sources
    if others or options.regions or options.outliers:
        raise UsageError(
            "--from_labels takes no --ensemble, --holdout_bundles, --holdout_sources, --regions or "
            "--outliers; calibrate with --data first"
        )
    layout = existing_lake(lake)
    from models.classifier import choose_device
    from models.training.calibrate_from_labels import calibrate_from_labels

    found = calibrate_from_labels(
        args.model,
        layout,
        options.output,
        options.target_error,
        options.min_answers,
        choose_device(args.device),
    )
    for line in _lines(found, options):
        print(line)
    if found.info is None:
        print(
            f"error: too few answers: nothing is changed, and {options.output} is not written; answer "
            f"more images, also confident ones: dicom-router review {lake} --sample 200",
            file=sys.stderr,
        )
        return FAILED
    suggest(reroute=(lake, "--model", options.output))
    return DONE


def _lines(found: CalibratedOnLabels, options: CalibrateOptions) -> list[str]:
    """Return what is printed about a calibration on answers."""
    counts, refit, info = found.counts, found.refit, found.info
    lines = [
        f"images with an answer: {counts.answers}; used: {counts.used}, classified again: "
        f"{counts.classified}, unreadable: {counts.unreadable}, reviewers disagree: "
        f"{counts.disagreements}"
    ]
    if counts.failed:
        lines.append(f"not used, cannot be read or decoded: {', '.join(counts.failed)}")
    if refit is None:
        return lines
    lines.append(
        f"{'label':<17}{'images':>8}{'answers':>9}{'routed':>8}{'represented':>13}{'threshold':>11}"
        f"{'new':>7}{'error':>8}"
    )
    for label, of in refit.labels.items():
        routed = refit.evidence["labels"][label]
        new = f"{refit.thresholds[label]:g}" if of.is_enough else "kept"
        error = f"{routed['error']:.1%}" if routed["routed"] else ""
        note = "" if routed["target_met"] else "  target not met"
        if not of.is_enough:
            note = _too_few(of.routed_answers, options.min_answers)
        lines.append(
            f"{label:<17}{of.images:>8}{of.answers:>9}{of.routed_answers:>8}{of.represented:>13.0%}"
            f"{found.present.thresholds[label]:>11g}{new:>7}{error:>8}{note}"
        )
    lines.append(_summary("before", refit.before))
    if info is not None:
        lines.append(_summary("after", refit.evidence))
        if not refit.evidence["target_proved"]:
            lines.append(
                f"the target error of {options.target_error:.1%} is not proved: see the upper bound; no "
                "threshold is lowered without proof, which more answers may give"
            )
        if info.model_id == found.present.model_id:
            lines.append("nothing that decides has changed: the new bundle has the same model_id")
        temperature = f"temperature {found.present.temperature} to {refit.temperature}"
        if refit.temperature == found.present.temperature:
            temperature = f"temperature {refit.temperature}, kept"
        lines.append(f"{info.model_id} written to {options.output}; {temperature}")
    lines.append(
        "Coverage and errors are weighted: reviewers see doubtful images first, so each answer counts "
        "for the images of its kind in the lake."
    )
    return lines


def _too_few(routed_answers: int, min_answers: int) -> str:
    if routed_answers < min_answers:
        return f"  {routed_answers} of {min_answers} answers about routed images"
    return "  too many images of kinds without an answer"

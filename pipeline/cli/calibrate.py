"""`dicom-router calibrate`: set the thresholds of a model bundle on labelled images."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.training.options import TARGET_ERROR
from pipeline.cli.arguments import (
    NEEDS_TRAIN_EXTRA,
    add_device_argument,
    add_model_argument,
    add_options,
)
from pipeline.cli.train import HoldoutOptions, print_holdout, require_ranges
from transforms.core.option import Group, from_values, option


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(HoldoutOptions):
    """The options of `calibrate`."""

    data: Path = option(
        group=Group.INPUT_OUTPUT,
        metavar="PATH",
        help="manifest or folder per label, as for train; its val split is used, and for "
        "--holdout_sources and --holdout_bundles its train split too",
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `calibrate`."""
    parser.epilog = NEEDS_TRAIN_EXTRA
    add_model_argument(parser)
    add_options(parser, CalibrateOptions)
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Calibrate a bundle, and print thresholds, coverage and error."""
    from models.handler import choose_device
    from models.training.calibrate_bundle import calibrate_bundle

    options = from_values(CalibrateOptions, vars(args))
    require_ranges(options)
    info = calibrate_bundle(
        [args.model, *options.ensemble],
        options.data,
        options.output,
        options.target_error,
        holdout_sources=options.holdout_sources,
        holdout_bundles=options.holdout_bundles,
        device=choose_device(args.device),
    )
    print(f"{info.model_id} written to {options.output}; temperature {info.temperature}")
    print(f"{'label':<17}{'threshold':>10}{'predicted':>11}{'routed':>8}{'wrong':>7}")
    for label, of in info.calibration["labels"].items():
        note = "" if of["target_met"] else "  target not met"
        print(
            f"{label:<17}{info.thresholds[label]:>10.2f}{of['predicted']:>11}{of['routed']:>8}"
            f"{of['wrong']:>7}{note}"
        )
    print(_summary("val", info.calibration))
    if not info.calibration["target_proved"]:
        print(f"the target error of {options.target_error:.1%} is not proved: see the upper bound")
    for training, of in zip(
        info.training.get("holdout", ()), info.calibration["holdout"], strict=True
    ):
        print(_summary(f"held out ({', '.join(training['sources'])})", of))
    print_holdout(info.metrics)
    return 0


def _summary(data: str, of: dict[str, Any]) -> str:
    return (
        f"{data}: coverage {of['coverage']:.1%}, error {of['error']:.2%} "
        f"(95 % upper bound {of['error_upper_95']:.2%})"
    )

"""`dicom-router calibrate`: set the thresholds of a bundle on images of one's own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.cli.arguments import NEEDS_TRAIN_EXTRA, add_device_argument, add_model_argument
from pipeline.cli.left_out import add_holdout_argument, print_holdout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `calibrate`."""
    parser.epilog = NEEDS_TRAIN_EXTRA
    add_model_argument(parser)
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="PATH",
        help="manifest or folder per label, as for train; its val split is used, and for "
        "--holdout_sources and --holdout_bundles its train split too",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder of the new bundle"
    )
    parser.add_argument(
        "--ensemble",
        nargs="+",
        default=[],
        metavar="BUNDLE",
        help="more bundles of the same architecture: all become one, which takes the mean of their "
        "logits and the time of them all",
    )
    add_holdout_argument(parser)
    parser.add_argument(
        "--holdout_bundles",
        nargs="+",
        default=[],
        metavar="BUNDLE",
        help="bundles of the same training with --holdout_sources: their predictions on the images that "
        "they did not see count in the thresholds, and stand in the card",
    )
    parser.add_argument(
        "--target_error",
        type=float,
        metavar="E",
        help="share of wrong images that may be routed under a label, 0 to 1 [0.02]",
    )
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Calibrate and print what the thresholds cost."""
    from models.handler import choose_device
    from models.training.bundles import calibrate_bundle
    from models.training.calibration.calibrate import TARGET_ERROR

    target = TARGET_ERROR if args.target_error is None else args.target_error
    info = calibrate_bundle(
        [args.model, *args.ensemble],
        args.data,
        args.output,
        target,
        holdout_sources=args.holdout_sources,
        holdout_bundles=args.holdout_bundles,
        device=choose_device(args.device),
    )
    print(f"{info.model_id} written to {args.output}; temperature {info.temperature}")
    print(f"{'label':<17}{'threshold':>10}{'predicted':>11}{'routed':>8}{'wrong':>7}")
    for label, of in info.calibration["labels"].items():
        note = "" if of["target_met"] else "  target not met"
        print(
            f"{label:<17}{info.thresholds[label]:>10.2f}{of['predicted']:>11}{of['routed']:>8}"
            f"{of['wrong']:>7}{note}"
        )
    print(_summary("here", info.calibration))
    if not info.calibration["target_proved"]:
        print(f"the target error of {target:.1%} is not proved: see the bound")
    for figures, of in zip(
        info.training.get("holdout", ()), info.calibration["holdout"], strict=True
    ):
        print(_summary(f"elsewhere ({', '.join(figures['sources'])})", of))
    print_holdout(info.metrics)
    return 0


def _summary(where: str, of: dict[str, Any]) -> str:
    return (
        f"{where}: coverage {of['coverage']:.1%}, error {of['error']:.2%}, "
        f"95 % sure below {of['error_upper_95']:.2%}"
    )

"""`dicom-router evaluate`: figures of a bundle on labelled films."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pipeline.cli.arguments import NEEDS_TRAIN_EXTRA, add_model_argument
from transforms.labels import LABELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate`."""
    parser.epilog = NEEDS_TRAIN_EXTRA
    add_model_argument(parser)
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="PATH",
        help="manifest or folder per label, as for train",
    )
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="test", help="films to evaluate"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print a table."""
    from models.training.bundles import evaluate_bundle

    figures = evaluate_bundle(args.model, args.data, args.split)
    print(json.dumps(figures, indent=2) if args.json else _table(figures))
    return 0


def _table(figures: dict[str, Any]) -> str:
    lines = [f"{figures['model_id']} on {figures['films']} films ({figures['split']})", ""]
    lines.append(f"{'label':<17}{'films':>7}{'precision':>11}{'recall':>8}{'F1':>8}")
    for label in LABELS:
        of = figures["labels"][label]
        lines.append(
            f"{label:<17}{of['films']:>7}{of['precision']:>11.4f}{of['recall']:>8.4f}{of['f1']:>8.4f}"
        )
    low, high = figures["macro_f1_interval_95"]
    lines.append(
        f"{'macro':<17}{figures['films']:>7}{figures['macro_precision']:>11.4f}"
        f"{figures['macro_recall']:>8.4f}{figures['macro_f1']:>8.4f}"
        f"   95 % of F1 by patient group: {low:.4f} to {high:.4f}"
    )
    lines.append(f"accuracy {figures['accuracy']:.4f}, ECE {figures['ece']:.4f}")
    return "\n".join(lines)

"""`dicom-router evaluate`: figures of a bundle on labelled images."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pipeline.cli.arguments import NEEDS_TRAIN_EXTRA, add_device_argument, add_model_argument
from transforms.core.labels import LABELS


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
        "--split", choices=("train", "val", "test"), default="test", help="images to evaluate"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of the card, the figures and the drawings [evaluation-MODEL_ID]",
    )
    add_device_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(args: argparse.Namespace) -> int:
    """Evaluate, write the card and print a table."""
    from models.bundle import read_info
    from models.handler import choose_device
    from models.training.evaluation.card import write_card
    from models.training.evaluation.evaluate import evaluate_bundle

    evaluated = evaluate_bundle(args.model, args.data, args.split, choose_device(args.device))
    evaluation = evaluated.figures
    folder = args.output or Path(f"evaluation-{evaluation['model_id']}")
    write_card(read_info(args.model), evaluated, folder)
    print(json.dumps(evaluation, indent=2) if args.json else table(evaluation))
    print(f"card, figures and drawings written to {folder}", file=sys.stderr)
    return 0


def table(evaluation: dict[str, Any]) -> str:
    """Return what `evaluate` prints of the figures in `evaluation.json`."""
    figures, decided = evaluation["figures"], evaluation["decisions"]
    lines = [
        f"{evaluation['model_id']} on {figures['images']} images ({evaluation['data']['split']})",
        "",
        f"{'label':<17}{'images':>7}{'precision':>11}{'recall':>8}{'F1':>8}",
    ]
    for label in LABELS:
        of = figures["labels"][label]
        rates = f"{of['precision']:>11.4f}{of['recall']:>8.4f}{of['f1']:>8.4f}"
        lines.append(f"{label:<17}{of['images']:>7}{rates if of['images'] else ''}")
    low, high = figures["macro_f1_interval_95"]
    lines += [
        f"{'macro':<17}{figures['images']:>7}{figures['macro_precision']:>11.4f}"
        f"{figures['macro_recall']:>8.4f}{figures['macro_f1']:>8.4f}"
        f"   95 % of F1 by patient group: {low:.4f} to {high:.4f}",
        f"accuracy {figures['accuracy']:.4f}, ECE {figures['ece']:.4f}",
        f"routed {decided['coverage']:.1%}, wrong among them {decided['error']:.2%} "
        f"(95 % sure: below {decided['error_upper_95']:.2%})",
    ]
    if aged := evaluation.get("with_age"):
        made = aged["decisions"]
        lines.append(
            f"with the patient's age of {aged['images_with_age']} images: "
            f"macro F1 {aged['macro_f1']:.4f}, routed {made['coverage']:.1%}, "
            f"wrong among them {made['error']:.2%}"
        )
    lines += [
        f"{kind}: {of['reviewed']:.0%} of {of['images']} reviewed, AUROC {of['auroc']:.3f}"
        for kind, of in evaluation["outliers"].items()
    ]
    return "\n".join(lines)

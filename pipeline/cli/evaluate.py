"""`dicom-router evaluate`: measure a model bundle on labelled images."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cli.arguments import (
    add_device_argument,
    add_model_argument,
    add_options,
)
from pipeline.cli.next_steps import route_arguments, suggest
from pipeline.cli.region_table import table as region_table
from transforms.core.choices import SPLITS
from transforms.core.option import Group, from_values, option
from transforms.storage.extras import extra_note


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The options of `evaluate`."""

    data: Path = option(
        group=Group.INPUT_OUTPUT,
        metavar="PATH",
        help="manifest, folder per label or lake, as for train",
    )
    split: str = option("test", group=Group.INPUT_OUTPUT, choices=SPLITS, help="split to evaluate")
    output: Path | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="DIR",
        help="folder of the model card and its figures",
        default_text="evaluation-MODEL_ID",
    )
    json: bool = option(False, group=Group.TERMINAL, help="print the evaluation as JSON")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate`."""
    parser.epilog = extra_note("train")
    add_model_argument(parser)
    add_options(parser, EvaluateOptions)
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate a bundle, write the model card and print a table."""
    from models.classifier import choose_device
    from models.training.evaluation.card import write_card
    from models.training.evaluation.evaluate import evaluate_bundle

    options = from_values(EvaluateOptions, vars(args))
    evaluation = evaluate_bundle(
        args.model, options.data, options.split, choose_device(args.device)
    )
    folder = options.output or Path(f"evaluation-{evaluation.info.model_id}")
    write_card(evaluation, folder)
    print(json.dumps(evaluation.figures, indent=2) if options.json else table(evaluation.figures))
    print(f"model card and figures written to {folder}", file=sys.stderr)
    suggest(
        calibrate=("--model", args.model, "--data", options.data, "--output", "BUNDLE"),
        route=route_arguments(args.model),
    )
    return 0


def table(evaluation: dict[str, Any]) -> str:
    """Return the content of `evaluation.json` as a table for the terminal."""
    figures, decided = evaluation["figures"], evaluation["decisions"]
    lines = [
        f"{evaluation['model_id']} on {figures['images']} images ({evaluation['data']['split']})",
        "",
        f"{'label':<17}{'images':>7}{'precision':>11}{'recall':>8}{'F1':>8}",
    ]
    for label, of in figures["labels"].items():
        rates = f"{of['precision']:>11.4f}{of['recall']:>8.4f}{of['f1']:>8.4f}"
        lines.append(f"{label:<17}{of['images']:>7}{rates if of['images'] else ''}")
    low, high = figures["macro_f1_interval_95"]
    lines += [
        f"{'macro':<17}{figures['images']:>7}{figures['macro_precision']:>11.4f}"
        f"{figures['macro_recall']:>8.4f}{figures['macro_f1']:>8.4f}"
        f"   95 % interval of F1 by patient group: {low:.4f} to {high:.4f}",
        f"accuracy {figures['accuracy']:.4f}, ECE {figures['ece']:.4f}",
        f"routed {decided['coverage']:.1%}, error {decided['error']:.2%} "
        f"(95 % upper bound {decided['error_upper_95']:.2%})",
    ]
    if aged := evaluation.get("with_age"):
        with_age = aged["decisions"]
        lines.append(
            f"with patient age, known for {aged['images_with_age']} images: "
            f"macro F1 {aged['macro_f1']:.4f}, routed {with_age['coverage']:.1%}, "
            f"error {with_age['error']:.2%}"
        )
    if regions := evaluation.get("regions"):
        split = evaluation["data"]["split"]
        lines += ["", *region_table(split, regions, by_region=False), ""]
    lines += [
        f"{kind}: {of['reviewed']:.0%} of {of['images']} reviewed, AUROC {of['auroc']:.3f}"
        for kind, of in evaluation["outliers"].items()
    ]
    return "\n".join(lines)

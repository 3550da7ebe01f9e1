"""`dicom-router train`: fine-tune a network and write a model bundle."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.training.options import FitOptions
from pipeline.cli.arguments import add_device_argument, add_options
from pipeline.cli.next_steps import route_arguments, suggest
from pipeline.cli.region_table import region_lines
from transforms.core.errors import UsageError
from transforms.core.option import Group, from_values, option, range_problems
from transforms.storage.extras import extra_note


@dataclass(frozen=True, kw_only=True)
class HoldoutOptions:
    """The options that `train` and `calibrate` share."""

    holdout_sources: tuple[str, ...] = option(
        (),
        group=Group.INPUT_OUTPUT,
        metavar="SOURCE",
        help="sources to exclude from training and calibration; the bundle has the metrics on their "
        "images",
        default_text="none",
    )


@dataclass(frozen=True, kw_only=True)
class TrainOptions(HoldoutOptions):
    """The options of `train`."""

    data: Path = option(
        group=Group.INPUT_OUTPUT,
        metavar="PATH",
        help="CSV manifest with the columns path and label, and optionally split, source, group, "
        "license, age and region; or a folder with one sub-folder per label; PNG, JPEG or DICOM; or a "
        "lake, for the objects whose body part reviewers have named",
    )
    output: Path = option(group=Group.INPUT_OUTPUT, metavar="DIR", help="folder of the bundle")
    labels: tuple[str, ...] = option(
        (),
        group=Group.INPUT_OUTPUT,
        metavar="LABEL",
        help="labels of the model, in order of its outputs: lower-case letters, digits and _",
        default_text="those of the data",
    )
    age_groups: tuple[str, ...] = option(
        (),
        group=Group.INPUT_OUTPUT,
        metavar="LABEL",
        help="two labels, of children and of adults, between which Patient's Age (0010,1010) decides",
        default_text="pediatric_chest and adult_chest, if the data has both",
    )
    more_data: tuple[Path, ...] = option(
        (),
        group=Group.INPUT_OUTPUT,
        metavar="PATH",
        help="further data sets to train on, with all their splits, such as simulated images or lakes",
        default_text="none",
    )
    more_weight: float = option(
        1.0,
        group=Group.INPUT_OUTPUT,
        metavar="FACTOR",
        above=0,
        help="sampling weight of the images of --more_data, relative to others",
    )
    outlier_images: Path | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="DIR",
        help="folder of images that are no radiographs, KIND/SOURCE/NAME.png, to fit what recognizes "
        "them on besides generated ones; with --outlier_exposure, half of the outliers are of it",
    )
    fit: FitOptions = field(default_factory=FitOptions)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    parser.epilog = extra_note("train")
    add_options(parser, TrainOptions)
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Train a network, and print the validation metrics."""
    from models.classifier import choose_device
    from models.training.train_bundle import train_bundle

    options = from_values(TrainOptions, vars(args))
    require_ranges(options)
    info = train_bundle(
        options.data,
        options.output,
        options.fit,
        choose_device(args.device),
        more_data=options.more_data,
        more_weight=options.more_weight,
        holdout_sources=options.holdout_sources,
        labels=options.labels,
        age_groups=options.age_groups,
        outlier_images=options.outlier_images,
    )
    val = info.metrics["val"]
    print(f"{info.model_id} written to {options.output}")
    print(f"macro-F1 on val {val['macro_f1']} {val['macro_f1_interval_95']}")
    print_holdout(info.metrics)
    for line in region_lines(info):
        print(line)
    suggest(
        evaluate=("--model", options.output, "--data", options.data),
        route=route_arguments(options.output),
    )
    return 0


def require_ranges(options: object) -> None:
    """Raise `UsageError` if options are out of range."""
    if problems := range_problems(options):
        raise UsageError("; ".join(problems))


def print_holdout(metrics: dict[str, Any]) -> None:
    """Print the metrics of a bundle on its held-out sources, if it has any."""
    if holdout := metrics.get("holdout"):
        print(f"held out {', '.join(holdout['sources'])}: macro-F1 {holdout['macro_f1']}, recall:")
        for label, of in holdout["labels"].items():
            if of["images"]:
                print(f"  {label:<16}{of['recall']:.3f} of {of['images']}")

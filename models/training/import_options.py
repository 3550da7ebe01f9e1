"""Options of `import-model`: what an ONNX file does not say about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from transforms.core.option import Group, option

AUTO: Final = "auto"
OUTPUT_KINDS: Final = (AUTO, "logits", "probabilities")


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What an ONNX file does not say about itself."""

    labels: tuple[str, ...] = option(
        group=Group.INPUT_OUTPUT,
        metavar="LABEL",
        help="labels of the graph's outputs, in their order: lower-case letters, digits and _",
    )
    age_groups: tuple[str, ...] = option(
        (),
        group=Group.INPUT_OUTPUT,
        metavar="LABEL",
        help="two labels, of children and of adults, between which Patient's Age (0010,1010) decides",
        default_text="pediatric_chest and adult_chest, if all labels of the router are there",
    )
    mean: tuple[float, ...] = option(
        group=Group.INPUT_OUTPUT,
        metavar="MEAN",
        help="what is subtracted from an image with values in 0..1: one value, or one for each channel; "
        "0.485 0.456 0.406 for most networks that began with ImageNet weights",
    )
    std: tuple[float, ...] = option(
        group=Group.INPUT_OUTPUT,
        metavar="STD",
        help="what the result is divided by, likewise; 0.229 0.224 0.225 for ImageNet, 1 for an input in "
        "0..1, 0.5 with --mean 0.5 for -1..1, 0.00392157 with --mean 0 for 0..255",
    )
    input_size: int | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        unit="pixels",
        above=0,
        help="side of the square input",
        default_text="that of the graph",
    )
    channels: int | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="{1,3}",
        at_least=1,
        at_most=3,
        help="channels of the input; three get the same gray image",
        default_text="those of the graph",
    )
    graph_output: str | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="NAME",
        help="name of the output with the labels, if the graph has several",
    )
    output_kind: str = option(
        AUTO,
        group=Group.INPUT_OUTPUT,
        choices=OUTPUT_KINDS,
        help="whether the outputs are logits or probabilities; auto tells by their sum",
    )
    name: str | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="NAME",
        help="name of the network, with which the model_id begins: letters, digits and _",
        default_text="name of the file",
    )
    license: str = option(
        "", group=Group.INPUT_OUTPUT, metavar="TEXT", help="licence of the weights, for the bundle"
    )

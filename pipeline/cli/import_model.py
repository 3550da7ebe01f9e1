"""`dicom-router import-model`: make a model bundle from an ONNX file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.training.import_options import ImportOptions
from pipeline.cli.arguments import add_options
from pipeline.cli.next_steps import suggest
from pipeline.cli.train import require_ranges
from transforms.core.option import Group, from_values, option
from transforms.storage.extras import extra_note


@dataclass(frozen=True, kw_only=True)
class ImportModelOptions:
    """The options of `import-model`."""

    output: Path = option(group=Group.INPUT_OUTPUT, metavar="DIR", help="folder of the new bundle")
    description: ImportOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file and the options of `import-model`."""
    parser.epilog = extra_note("onnx")
    parser.add_argument("file", metavar="FILE", help="ONNX file: path, gs:// or s3://")
    add_options(parser, ImportModelOptions)


def run(args: argparse.Namespace) -> int:
    """Write a bundle, and print what the graph takes and returns."""
    options = from_values(ImportModelOptions, vars(args))
    require_ranges(options)
    from models.training.import_onnx import import_onnx

    info = import_onnx(args.file, options.output, options.description)
    assert info.onnx is not None
    print(f"{info.model_id} written to {options.output}")
    black, white = info.onnx.value_of(0.0), info.onnx.value_of(1.0)
    print(
        f"input: {info.onnx.layout}, {info.input_size} pixels, {info.onnx.channels} channel(s), black is "
        f"{_numbers(black)}, white is {_numbers(white)}"
    )
    print(f"output: {info.onnx.output_kind} of {len(info.labels)} labels")
    print("not calibrated: until then, every image is reviewed")
    suggest(calibrate=("--model", options.output, "--data", "DATA", "--output", "CALIBRATED"))
    return 0


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3g}" for value in dict.fromkeys(values))

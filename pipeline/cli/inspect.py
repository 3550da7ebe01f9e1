"""`dicom-router inspect`: explain the decisions about single objects."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from pipeline.allocator import imports_without_collection
from pipeline.cli.arguments import add_options
from transforms.config.run_options import ObjectOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `inspect`."""
    parser.add_argument("file", nargs="+", metavar="FILE", help="DICOM objects; any file names")
    parser.add_argument(
        "--thumbnail", type=Path, metavar="PNG", help="write the network's input of a single FILE"
    )
    add_options(parser, ObjectOptions)


def run(args: argparse.Namespace) -> int:
    """Explain each file; return 1 if one could not be read."""
    with imports_without_collection(freeze=False):
        from pipeline.cli.resolve_config import object_config
        from pipeline.explain import Explainer
        from transforms.config.route_config import ConfigError
        from transforms.core.reasons import ProcessingFailure

    if args.thumbnail and len(args.file) > 1:
        raise ConfigError("--thumbnail takes one FILE")
    for number, name in enumerate(args.file, 1):
        if Path(name).is_dir():
            raise ConfigError(
                f"file {number} ({name}) is a folder; give the files in it, or route it with "
                f"'dicom-router route --input {name} --lake LAKE'"
            )
    unread = 0
    with Explainer(object_config(args, args.file, os.curdir)) as explainer:
        for number, name in enumerate(args.file, 1):
            try:
                print(explainer.explain(name, thumbnail=args.thumbnail))
            except (ProcessingFailure, OSError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                print(f"error: file {number} ({name}) cannot be read: {why}", file=sys.stderr)
                unread += 1
    return 1 if unread else 0

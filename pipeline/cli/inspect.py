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
    parser.add_argument(
        "file",
        nargs="+",
        metavar="FILE",
        help="DICOM objects, folders or globs, local, gs:// or s3://; any file names",
    )
    parser.add_argument(
        "--thumbnail", type=Path, metavar="PNG", help="write the network's input of a single FILE"
    )
    parser.add_argument(
        "--log_uris",
        action="store_true",
        help="print the URI of each object in a folder; URIs can contain patient names",
    )
    add_options(parser, ObjectOptions)


def run(args: argparse.Namespace) -> int:
    """Explain each object, one after the other; return 1 if one could not be read."""
    with imports_without_collection(freeze=False):
        from pipeline.cli.resolve_config import object_config
        from pipeline.explain import Explainer
        from transforms.config.route_config import ConfigError
        from transforms.core.reasons import ProcessingFailure

    if args.thumbnail and (len(args.file) > 1 or Path(args.file[0]).is_dir()):
        raise ConfigError("--thumbnail takes one FILE")
    unread = 0
    with Explainer(object_config(args, args.file, os.curdir)) as explainer:
        for number, name in enumerate(args.file, 1):
            for found in explainer.find(name):
                label = f"file {number} ({name})"
                try:
                    if isinstance(found, OSError):
                        raise found
                    if found.is_listed:
                        label = f"object {found.ref.key} of {label}"
                    text = explainer.explain(found.ref, thumbnail=args.thumbnail)
                except (ProcessingFailure, OSError) as error:
                    why = error.strerror if isinstance(error, OSError) else error
                    print(f"error: {label} cannot be read: {why}", file=sys.stderr)
                    unread += 1
                    continue
                if found.is_listed and args.log_uris:
                    print(found.ref.uri)
                print(text)
    return 1 if unread else 0

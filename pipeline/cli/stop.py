"""`dicom-router stop`: drain and stop a stream."""

from __future__ import annotations

import argparse

from pipeline.cli.arguments import existing_lake


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `stop`."""
    parser.add_argument("lake", metavar="LAKE", help="root of the lake")


def run(args: argparse.Namespace) -> int:
    """Write the request into the lake; the stream's own process reports when it has drained."""
    from transforms.lake import drain

    drain.request(existing_lake(args.lake))
    return 0

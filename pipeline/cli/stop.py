"""`dicom-router stop`: drain and stop a stream."""

from __future__ import annotations

import argparse

from pipeline.cli.arguments import existing_lake


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `stop`."""
    parser.add_argument("lake", metavar="LAKE", help="root of the lake")


def run(args: argparse.Namespace) -> int:
    """Request a drain; the process of the stream reports when it is done."""
    from transforms.lake import drain

    drain.request(existing_lake(args.lake))
    return 0

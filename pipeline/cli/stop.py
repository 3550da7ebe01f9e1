"""`dicom-router stop`: asks a stream to end what it began and to stop."""

from __future__ import annotations

import argparse

from pipeline.cli.arguments import require_lake
from transforms.lake import drain
from transforms.lake.layout import Layout
from transforms.storage.schemes import canonical


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `stop`."""
    parser.add_argument("lake", metavar="LAKE", help="root of the lake")


def run(args: argparse.Namespace) -> int:
    """Leave the request in the lake; the stream's own process says when it is done."""
    require_lake(args.lake)
    drain.request(Layout(canonical(args.lake)))
    return 0

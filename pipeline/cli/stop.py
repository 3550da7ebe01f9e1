"""`dicom-router stop`: asks a stream to end what it began and to stop."""

from __future__ import annotations

import argparse

from transforms.config import ConfigError
from transforms.lake import stop
from transforms.lake.layout import Layout
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import canonical, is_local, why_not


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `stop`."""
    parser.add_argument("lake", metavar="LAKE", help="root of the lake")


def run(args: argparse.Namespace) -> int:
    """Leave the request in the lake; the stream's own process says when it is done."""
    if why := why_not(args.lake):
        raise ConfigError(f"{args.lake}: {why}")
    if is_local(args.lake) and not uri_to_path(args.lake).is_dir():
        raise ConfigError(f"{args.lake} is no folder; give the root of a lake")
    stop.ask(Layout(canonical(args.lake)))
    return 0

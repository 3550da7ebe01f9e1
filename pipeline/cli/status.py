"""`dicom-router status`: show what runs in a lake, how far it is, and what fails."""

from __future__ import annotations

import argparse
import json

from pipeline.cli.arguments import existing_lake


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `status`."""
    parser.epilog = "Takes no lock and writes nothing, so it can be run at any time."
    parser.add_argument("lake", metavar="LAKE", help="root of the lake")
    parser.add_argument("--json", action="store_true", help="print the status as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the status of a lake."""
    from pipeline.exit_codes import DONE
    from pipeline.status import render, status_of

    status = status_of(existing_lake(args.lake))
    print(json.dumps(status, indent=2) if args.json else render(status))
    return DONE

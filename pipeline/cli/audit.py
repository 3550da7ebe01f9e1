"""`dicom-router audit`: deliver the audit messages of a lake that wait."""

from __future__ import annotations

import argparse

from pipeline.cli.arguments import add_options, existing_lake
from transforms.config.audit_options import AuditOptions
from transforms.core.option import from_values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `audit`."""
    parser.epilog = (
        "Commands with the same options report by themselves. Use it after a destination was down, "
        "or for runs that an engine starts. The first use notes that events are reported from then on."
    )
    parser.add_argument("lake", metavar="LAKE", help="root of the lake; a run may be in progress")
    add_options(parser, AuditOptions)


def run(args: argparse.Namespace) -> int:
    """Deliver messages, and print how many."""
    from pipeline import __version__
    from pipeline.audit.trail import AuditTrail
    from transforms.core.errors import UsageError

    options = from_values(AuditOptions, vars(args))
    if not options.is_on:
        raise UsageError("give --audit_file or --audit_syslog")
    trail = AuditTrail(existing_lake(args.lake), options, __version__)
    print(f"audit messages delivered: {trail.report()}")
    return 0

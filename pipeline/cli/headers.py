"""`dicom-router headers`: write the headers that a lake lacks."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from pipeline.cli.arguments import add_lock_timeout, add_options, add_run_options, lake_and_policy
from pipeline.exit_codes import DONE, FAILED
from transforms.config.audit_options import AuditOptions
from transforms.core.option import from_values

MAX_SHOWN: Final = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `headers`."""
    parser.epilog = (
        "Reads the stored objects that have no row in headers/, as 'route --headers' would have written "
        "it. An interrupted command is continued by the same one."
    )
    parser.add_argument("lake", metavar="LAKE", help="root of the lake")
    parser.add_argument(
        "--policy", metavar="FILE", help="policy of the runs: its sinks, and its header_attributes"
    )
    add_run_options(parser, ("patient_key_file",))
    add_options(parser, AuditOptions)
    add_lock_timeout(parser)


def run(args: argparse.Namespace) -> int:
    """Write the headers; return 1 if objects could not be read."""
    from pipeline import __version__
    from pipeline.audit.trail import AuditTrail
    from pipeline.missing_headers import write_missing_headers
    from transforms.config.route_config import require_patient_key
    from transforms.imaging.header_attributes import allowed_tags
    from transforms.lake.lock import lock_lake
    from transforms.sandbox.read_header import HeaderOptions

    layout, policy = lake_and_policy(args.lake, args.policy)
    key = require_patient_key(args.patient_key_file) if args.patient_key_file else None
    trail = AuditTrail(layout, from_values(AuditOptions, vars(args)), __version__)
    options = HeaderOptions(tags=allowed_tags(policy.header_attributes))
    with lock_lake(layout, timeout=args.lock_timeout):
        found = write_missing_headers(layout, options, key, trail.reading_identities)
    for what, reasons in (("no header", found.unreadable), ("error", found.failed)):
        for object_key, reason in sorted(reasons.items())[:MAX_SHOWN]:
            print(f"{what}: object {object_key}: {reason}", file=sys.stderr)
    print(f"{found.written} headers written, {len(found.unreadable)} cannot be parsed")
    if found.failed:
        print(
            f"error: {len(found.failed)} objects could not be read; fix the cause and run the same "
            "command again",
            file=sys.stderr,
        )
        return FAILED
    return DONE

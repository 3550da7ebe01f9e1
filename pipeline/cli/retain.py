"""`dicom-router retain`: erase objects whose retention period has ended, by the policy."""

from __future__ import annotations

import argparse

from pipeline.cli.arguments import add_lock_timeout, add_options, lake_and_policy
from pipeline.cli.forget import holds_of, run_request
from pipeline.erasure_options import RetainOptions
from transforms.config.audit_options import AuditOptions
from transforms.core.option import from_values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `retain`."""
    parser.epilog = (
        "Without --apply nothing is changed. The section retention of the policy says after how many "
        "days the objects of each sink are erased. What is under a legal hold is kept."
    )
    parser.add_argument("lake", metavar="LAKE", help="root of the lake")
    add_options(parser, RetainOptions)
    add_options(parser, AuditOptions)
    add_lock_timeout(parser)


def run(args: argparse.Namespace) -> int:
    """Print what is older than its retention period, and erase it with `--apply`."""
    from pipeline import __version__
    from pipeline.audit.trail import trail_of
    from pipeline.erasure import RETAIN, Request
    from transforms.config.route_config import ConfigError

    options = from_values(RetainOptions, vars(args))
    layout, policy = lake_and_policy(args.lake, options.policy)
    if not policy.retention.days:
        raise ConfigError(f"--policy {options.policy}: has no retention.days, such as review: 90")
    return run_request(
        Request(
            layout,
            kind=RETAIN,
            retention=policy.retention,
            holds=holds_of(policy, options.erasure),
            ordered_by=options.erasure.ordered_by or f"retention of policy {policy.policy_id}",
            apply=options.erasure.apply,
            deep=options.erasure.deep,
            lock_timeout=args.lock_timeout,
            audit=trail_of(layout, vars(args), __version__) if options.erasure.apply else None,
        ),
        as_json=options.erasure.json,
    )

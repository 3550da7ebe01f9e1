"""`dicom-router retain`: erase objects whose retention period has ended, by the policy."""

from __future__ import annotations

import argparse
from dataclasses import replace

from pipeline.cli.arguments import add_lock_timeout, add_options, lake_and_policy
from pipeline.cli.forget import request_of, run_request
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
    from pipeline.erasure import RETAIN
    from transforms.config.route_config import ConfigError

    options = from_values(RetainOptions, vars(args))
    layout, policy = lake_and_policy(args.lake, options.policy)
    if not policy.retention.days:
        raise ConfigError(f"--policy {options.policy}: has no retention.days, such as review: 90")
    request = request_of(args, layout, policy, options.erasure)
    request = replace(
        request,
        kind=RETAIN,
        retention=policy.retention,
        ordered_by=request.ordered_by or f"retention of policy {policy.policy_id}",
    )
    return run_request(request, as_json=options.erasure.json)

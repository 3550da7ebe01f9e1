"""`dicom-router forget`: erase patients, studies or objects from a lake, and keep them out."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.cli.arguments import add_lock_timeout, add_options, lake_and_policy
from pipeline.erasure_options import ErasureOptions, ForgetOptions
from transforms.config.audit_options import AuditOptions
from transforms.core.option import from_values

if TYPE_CHECKING:
    from pipeline.erasure import Request
    from transforms.config.policy import Policy
    from transforms.lake.erasure_selection import Selection
    from transforms.lake.layout import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `forget`."""
    parser.epilog = (
        "Without --apply nothing is changed. A run that is interrupted is completed by the same command, "
        "or by the next one that writes to the lake. Backups, copies and the source are out of reach."
    )
    parser.add_argument("lake", metavar="LAKE", help="root of the lake")
    add_options(parser, ForgetOptions)
    add_options(parser, AuditOptions)
    add_lock_timeout(parser)


def run(args: argparse.Namespace) -> int:
    """Print what is selected, and erase it with `--apply`."""
    from pipeline.erasure import STDIN, patients_in, read_list, selection_of
    from transforms.config.route_config import ConfigError

    options = from_values(ForgetOptions, vars(args))
    selection = selection_of(options.patient_key, options.study, options.object)
    if [options.list, options.patient_ids, options.erasure.legal_holds].count(STDIN) > 1:
        raise ConfigError(
            "only one of --list, --patient_ids and --legal_holds can be standard input"
        )
    if options.list is not None:
        selection |= read_list(options.list, "--list")
    if options.patient_ids is not None:
        selection |= patients_in(options.patient_ids, options.erasure.patient_key_file)
    if not selection and (options.list or options.patient_ids):
        raise ConfigError("the list is empty: nothing is selected")
    if not selection:
        raise ConfigError("give --patient_key, --patient_ids, --study, --object or --list")
    layout, policy = lake_and_policy(args.lake, options.policy)
    request = request_of(args, layout, policy, options.erasure)
    request = replace(request, selection=selection, without_policy=options.policy is None)
    return run_request(request, as_json=options.erasure.json)


def request_of(
    args: argparse.Namespace, layout: Layout, policy: Policy, options: ErasureOptions
) -> Request:
    """Return a request for nothing yet, as the options that `forget` and `retain` share say."""
    from pipeline import __version__
    from pipeline.audit.trail import trail_of
    from pipeline.erasure import Request
    from transforms.config.route_config import require_patient_key

    key_file = options.patient_key_file
    return Request(
        layout,
        patient_key=None if key_file is None else require_patient_key(key_file),
        holds=_holds_of(policy, options),
        ordered_by=options.ordered_by,
        apply=options.apply,
        deep=options.deep,
        lock_timeout=args.lock_timeout,
        audit=trail_of(layout, vars(args), __version__) if options.apply else None,
    )


def _holds_of(policy: Policy, options: ErasureOptions) -> Selection:
    """Return the legal holds of the policy and of the command line."""
    from pipeline.erasure import read_list
    from transforms.lake.erasure_selection import Selection

    found = Selection()
    if options.legal_holds is not None:
        found |= read_list(options.legal_holds, "--legal_holds")
    uri = policy.retention.legal_holds
    return found if uri is None else found | read_list(uri, "retention.legal_holds")


def run_request(request: Request, *, as_json: bool) -> int:
    """Run a request, print its outcome, and return the exit code."""
    from pipeline.erasure import render, run_erasure, to_json, trace_lines, warnings_of
    from pipeline.exit_codes import DONE, FAILED

    for warning in warnings_of(request):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    outcome = run_erasure(request)
    print(json.dumps(to_json(outcome, request), indent=2) if as_json else render(outcome, request))
    if outcome.traces:
        print(
            f"error: {len(outcome.traces)} files still have a trace of what was erased; if they belong "
            "to the lake, give their objects to another 'forget', else remove them:",
            *trace_lines(outcome),
            sep="\n",
            file=sys.stderr,
        )
        return FAILED
    return DONE

"""`dicom-router derive`: write the derived objects that are missing in a lake."""

from __future__ import annotations

import argparse
import json
from collections import Counter

from pipeline.cli.arguments import add_lock_timeout, add_options, lake_and_policy
from transforms.config.audit_options import AuditOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `derive`."""
    parser.epilog = (
        "Runs do this by themselves when they end. Use it beside a stream, or after the policy has "
        "changed. Objects from which nothing is derived keep their decision, and are listed by key."
    )
    parser.add_argument("lake", metavar="LAKE", help="root of the lake; a stream may be running")
    parser.add_argument(
        "--policy", metavar="URI", required=True, help="policy with the key derive of a sink"
    )
    parser.add_argument("--json", action="store_true", help="print only the counts, as JSON")
    add_options(parser, AuditOptions)
    add_lock_timeout(parser)


def run(args: argparse.Namespace) -> int:
    """Write missing derived objects, and print how many."""
    from pipeline import __version__
    from pipeline.audit.trail import trail_of
    from pipeline.derived import write_missing_derived
    from transforms.config.derivation import require_derivable
    from transforms.config.route_config import ConfigError
    from transforms.core.run_id import new_run_id
    from transforms.lake.derived import DERIVED_STATUSES, FAILED, derived_days, read_derived
    from transforms.lake.layout import LOCK
    from transforms.lake.lock import lock_lake
    from transforms.lake.marker import require_claimable, write_marker
    from transforms.lake.supersede import list_supersede_intents

    layout, policy = lake_and_policy(args.lake, args.policy)
    if not policy.derive:
        raise ConfigError(
            f"--policy {args.policy}: no sink has the key derive, such as sinks: {{spine: {{derive: "
            "{transform: deidentify, key_file: KEY}}}"
        )
    require_derivable(policy.derive)
    require_claimable(layout)
    trail = trail_of(layout, vars(args), __version__)
    with lock_lake(layout, names=[LOCK], timeout=args.lock_timeout):
        if list_supersede_intents(layout):
            raise ConfigError(
                f"{layout.root}: a change of decisions was interrupted; repeat it first (reroute "
                "--apply, review, or route --reprocess)"
            )
        write_marker(layout)
        if trail is not None:
            trail.report_derived()
        counts = write_missing_derived(layout, policy.derive, new_run_id())
        present: Counter[str] = Counter()
        for day in derived_days(layout):
            present.update(read_derived(layout, day)["status"].to_pylist())
    if args.json:
        print(json.dumps({"new": {s: counts.get(s, 0) for s in DERIVED_STATUSES}, "all": present}))
    else:
        new = ", ".join(f"{counts.get(status, 0)} {status}" for status in DERIVED_STATUSES)
        every = ", ".join(f"{present[status]} {status}" for status in DERIVED_STATUSES)
        print(f"derived objects, new: {new}\nderived objects, all: {every}")
    if trail is not None:
        trail.report()
    return 1 if counts.get(FAILED) else 0

"""`dicom-router reroute`: decide the images of a lake again, with another policy or model."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace

from pipeline.allocator import imports_without_collection
from pipeline.cli.arguments import add_options, add_run_options, existing_lake
from transforms.config.audit_options import AuditOptions
from transforms.config.monitoring_options import MonitoringOptions
from transforms.config.run_options import BUILT_IN_MODEL, ObjectOptions
from transforms.core.option import from_values

RUN_OPTIONS = (
    "overrule_people", "batch_size", "fetch_threads", "read_ahead_bytes", "max_reads", "accelerator",
    "runner", "allow_open_ports", "lock_timeout", "quiet", "json", "metrics_file", "otlp", "lineage",
    "audit_file", "audit_syslog", "audit_source",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `reroute`."""
    parser.epilog = (
        "Without --apply nothing is changed. Images that the chosen model has already classified are "
        "decided from their rows, without reading objects. Images of other models are classified again "
        "from the lake's objects if --model is given, and kept otherwise. Options of Beam are passed on "
        "to it."
    )
    parser.add_argument("lake", metavar="LAKE", help="root of the lake")
    parser.add_argument(
        "--where",
        metavar="SQL",
        help="decide again only rows that fulfil this condition over the columns of the index, such "
        "as \"reason = 'low_confidence' AND manufacturer LIKE 'ACME%%'\"",
    )
    parser.add_argument(
        "--apply", action="store_true", help="move objects and rows; without it, only print changes"
    )
    add_options(parser, ObjectOptions)
    add_run_options(parser, RUN_OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Print what deciding again changes, and change it with `--apply`."""
    with imports_without_collection(freeze=False):
        from pipeline.audit.trail import AuditTrail
        from pipeline.cli.resolve_config import object_config
        from pipeline.observability.observer import observer_of
        from pipeline.reroute.plan import Rules
        from pipeline.reroute.run import Request, failure_lines, render, reroute, to_json
        from pipeline.summaries import REROUTE
        from pipeline.summary import read_summary
        from transforms.lake.header_reliability import read_reliability
        from transforms.lake.row_condition import RowCondition

    layout = existing_lake(args.lake)
    config = object_config(vars(args), [layout.root], layout.root)
    config = replace(
        config,
        batch_size=args.batch_size,
        fetch_threads=args.fetch_threads,
        read_ahead_bytes=args.read_ahead_bytes,
        max_reads=args.max_reads,
        accelerator=args.accelerator,
        allow_open_ports=args.allow_open_ports,
        lock_timeout=args.lock_timeout,
    ).with_header_reliability(read_reliability(layout))
    rules = Rules(
        config.policy,
        config.model_id,
        condition=RowCondition(args.where) if args.where else None,
        overrule_people=args.overrule_people,
    )
    trail = AuditTrail(layout, from_values(AuditOptions, vars(args)), config.router_version)
    request = Request(
        config,
        rules,
        classify=args.model != BUILT_IN_MODEL,
        apply=args.apply,
        runner=args.runner,
        beam_options=args.beam_options,
        quiet=args.quiet or args.json,
        audit=trail,
    )
    monitoring = from_values(MonitoringOptions, vars(args)) if args.apply else MonitoringOptions()
    if args.apply:
        trail.begin(config.run_id)
    with observer_of(config, monitoring, REROUTE, args.runner) as observer:
        plan, applied = reroute(request)
        if summary := read_summary(config):
            observer.started()
            observer.finished(summary)
    if args.json:
        print(json.dumps(to_json(plan, applied, config), indent=2))
    elif not args.quiet:
        print(render(plan, applied, config))
    if applied is not None:
        trail.report(config.run_id)
    if applied is not None and applied.failures:
        print(
            f"error: {len(applied.failures)} objects could not be moved and keep their decision; fix "
            "the cause and run the same command again",
            *failure_lines(applied),
            sep="\n",
            file=sys.stderr,
        )
        return 1
    return 1 if plan.unclassified else 0

"""`dicom-router publish`: publish the index as Delta and Iceberg tables."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pipeline.cli.arguments import existing_lake
from transforms.core.choices import DEFAULT_TABLE, KEEP_HOURS
from transforms.core.errors import UsageError

if TYPE_CHECKING:
    from transforms.lake.table_settings import TableSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `publish`."""
    parser.add_argument("lake", metavar="LAKE", help="root of the lake; runs may be writing to it")
    parser.add_argument(
        "--delta", action="store_true", help="publish a Delta table, in LAKE/_tables/index"
    )
    parser.add_argument(
        "--iceberg",
        metavar="CATALOG",
        help="publish an Iceberg table in this catalog: its URI (sqlite, postgresql, http, https or "
        "thrift), glue, or the name of a catalog in pyiceberg's configuration",
    )
    parser.add_argument(
        "--table",
        metavar="NAME",
        help=f"namespace and name of the Iceberg table [default: {DEFAULT_TABLE}]",
    )
    parser.add_argument(
        "--keep_hours",
        type=float,
        metavar="HOURS",
        help="how long readers of an earlier version of a table find files that were replaced since "
        f"[default: {KEEP_HOURS:g}]",
    )
    parser.add_argument(
        "--stop",
        action="store_true",
        help="keep no table in step any more; the tables remain as they are",
    )
    parser.add_argument("--json", action="store_true", help="print only the tables, as JSON")


def run(args: argparse.Namespace) -> int:
    """Record what to publish, bring the tables into step and print them."""
    import json
    from dataclasses import asdict, replace

    from transforms.lake.marker import FORMAT, format_of
    from transforms.lake.published_tables import publish, require_usable
    from transforms.lake.table_settings import (
        TableSettings,
        record_settings,
        recorded_settings,
        settings_problems,
    )

    layout = existing_lake(args.lake)
    if format_of(layout) != FORMAT:
        raise UsageError(f"{layout.root} has format 1; run 'dicom-router compact' on it first")
    recorded = recorded_settings(layout)
    if args.stop:
        if args.delta or args.iceberg:
            raise UsageError("--stop cannot be combined with --delta or --iceberg")
        if recorded is not None:
            record_settings(layout, replace(recorded, stopped=True))
        if not args.json:
            print("no table is kept in step any more")
        return 0
    settings = _settings(args, recorded or TableSettings())
    if not (settings.delta or settings.iceberg):
        raise UsageError(
            f"{layout.root} publishes no table yet: give --delta, or --iceberg CATALOG, or both"
        )
    if problems := settings_problems(layout.root, settings):
        raise UsageError("; ".join(problems))
    if settings != recorded:
        require_usable(layout, settings)
        record_settings(layout, settings)
    states = publish(layout, moved=True)
    if args.json:
        print(json.dumps([asdict(state) for state in states], indent=2))
        return 0
    for state in states:
        print(f"{state.name}: {state.version}, {state.files} files, {state.location}")
    return 0


def _settings(args: argparse.Namespace, recorded: TableSettings) -> TableSettings:
    """Return the recorded settings with those of the arguments."""
    import re
    from dataclasses import replace

    from transforms.lake.table_settings import (
        TABLE_PATTERN,
        IcebergSettings,
        TableSettings,
        catalog_problem,
    )

    iceberg = recorded.iceberg
    if args.iceberg:
        if why := catalog_problem(args.iceberg):
            raise UsageError(f"--iceberg: {why}")
        iceberg = IcebergSettings(args.iceberg)
    if args.table:
        if not re.fullmatch(TABLE_PATTERN, args.table):
            raise UsageError(f"--table {args.table!r}: write a namespace, a dot and a name")
        if iceberg is None:
            raise UsageError("--table names an Iceberg table: give --iceberg too")
        iceberg = replace(iceberg, table=args.table)
    keep_hours = recorded.keep_hours if args.keep_hours is None else args.keep_hours
    if not 0 <= keep_hours < float("inf"):
        raise UsageError("--keep_hours must be at least 0")
    return TableSettings(recorded.delta or args.delta, iceberg, keep_hours)

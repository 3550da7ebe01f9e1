"""`dicom-router compact`: merges index files, a day's into one."""

from __future__ import annotations

import argparse

from pipeline.cli.arguments import existing_lake
from pipeline.run_batch import report_waiting
from transforms.config.route_config import ConfigError, is_date
from transforms.lake.append import today
from transforms.lake.compaction import compact
from transforms.lake.layout import LOCK
from transforms.lake.lock import lock_lake
from transforms.lake.marker import FORMAT, format_of
from transforms.lake.migration import migrate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `compact`."""
    parser.add_argument(
        "lake", metavar="LAKE", help="root of the lake; a stream may go on meanwhile"
    )
    parser.add_argument(
        "--before",
        metavar="D",
        help="merge the days before this one, YYYY-MM-DD; default, and at most: today, UTC",
    )


def run(args: argparse.Namespace) -> int:
    """Compact, and say what was done to each day."""
    before = args.before or today()
    layout = existing_lake(args.lake)
    if not is_date(before):
        raise ConfigError(f"--before {before!r} is no date; write YYYY-MM-DD")
    if before > today():
        raise ConfigError(
            f"--before {before}: streams write into today's partition; give {today()}"
        )
    if format_of(layout) != FORMAT:
        with lock_lake(layout, report_waiting):
            migrate(layout)
    with lock_lake(layout, report_waiting, names=[LOCK]):
        done = compact(layout, before)
    for one in done:
        print(f"{one.ingest_date}: {one.files} files merged, {one.rows} rows, now {one.left} files")
    print(f"{len(done)} days compacted")
    return 0

"""`dicom-router compact`: merge the small files of past days."""

from __future__ import annotations

import argparse

from pipeline.cli.arguments import add_lock_timeout, existing_lake


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `compact`."""
    parser.add_argument("lake", metavar="LAKE", help="root of the lake; a stream may be running")
    parser.add_argument(
        "--before",
        metavar="DATE",
        help="merge the days before this one, YYYY-MM-DD, at most today [default: today, UTC]",
    )
    add_lock_timeout(parser)


def run(args: argparse.Namespace) -> int:
    """Compact index, thumbnails, headers and labels, and print the result."""
    from transforms.config.route_config import ConfigError, is_date
    from transforms.lake.append import today
    from transforms.lake.compaction import compact
    from transforms.lake.content_compaction import compact_table
    from transforms.lake.headers import HEADERS
    from transforms.lake.labels import merge_labels
    from transforms.lake.layout import LOCK
    from transforms.lake.lock import lock_lake
    from transforms.lake.marker import FORMAT, format_of
    from transforms.lake.migration import migrate
    from transforms.lake.thumbnails import THUMBNAILS

    before = args.before or today()
    layout = existing_lake(args.lake)
    if not is_date(before):
        raise ConfigError(f"--before {before!r}: write a date as YYYY-MM-DD")
    if before > today():
        raise ConfigError(f"--before {before}: streams append to today's partition; give {today()}")
    if format_of(layout) != FORMAT:
        with lock_lake(layout, timeout=args.lock_timeout):
            migrate(layout)
    with lock_lake(layout, names=[LOCK], timeout=args.lock_timeout):
        compacted = compact(layout, before)
        tables = [(one, compact_table(layout, one, before)) for one in (THUMBNAILS, HEADERS)]
        labels = merge_labels(layout, before)
    for day in compacted:
        print(
            f"{day.ingest_date}: {day.merged_files} files merged, {day.rows} rows, "
            f"now {day.remaining_files} files"
        )
    if compacted:
        print(f"{len(compacted)} {'day' if len(compacted) == 1 else 'days'} compacted")
    else:
        print(f"the index has no files to merge before {before}")
    for table, found in tables:
        if found.merged_files:
            print(
                f"{table.folder}: {found.merged_files} files merged, {found.rows} {table.what}s, "
                f"{found.dropped} without a row dropped"
            )
    if labels:
        print(f"labels: {labels} files merged")
    return 0

"""`dicom-router verify`: check a lake against its delivery contract."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final

from pipeline.cli.arguments import lake_and_policy

if TYPE_CHECKING:
    from transforms.lake.verify_report import VerifyReport

MAX_SHOWN: Final = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `verify`."""
    parser.add_argument("lake", metavar="LAKE", help="root of the lake")
    parser.add_argument(
        "--deep",
        action="store_true",
        help="read every object and index file, and compare checksums",
    )
    parser.add_argument(
        "--policy",
        metavar="URI",
        help="policy of the runs, if it has sinks outside the lake",
    )
    parser.add_argument("--json", action="store_true", help="print only the report, as JSON")


def run(args: argparse.Namespace) -> int:
    """Verify a lake and print the report; return 0 if there are no violations, else 1."""
    from transforms.lake.verify import verify_lake

    layout, _ = lake_and_policy(args.lake, args.policy)
    on_terminal = sys.stderr.isatty() and not args.json

    def progress(what: str, number: int) -> None:
        if on_terminal:
            print(f"\r{number} {what}", end="\x1b[K", file=sys.stderr, flush=True)

    report = verify_lake(layout, deep=args.deep, progress=progress)
    if on_terminal:
        print(file=sys.stderr)
    print(report.to_json() if args.json else _format(report))
    return 0 if report.holds else 1


def _format(report: VerifyReport) -> str:
    from transforms.lake.verify_report import MAX_LISTED

    lines = [f"{v.kind}: {v.object_key} {v.where}".rstrip() for v in report.violations[:MAX_SHOWN]]
    if report.number > MAX_SHOWN:
        lines.append(
            f"… and {report.number - MAX_SHOWN} more; --json lists up to {MAX_LISTED} of each kind"
        )
    lines += [
        f"conflict (not a violation): SOP Instance UID {uid} has different contents"
        for uid in report.conflicts[:MAX_SHOWN]
    ]
    if report.journal_files:
        lines.append(
            f"{report.journal_files} journal files: a run is in progress, or the next run recovers "
            "an interrupted one"
        )
    if report.incomplete_runs:
        lines.append(
            f"{report.incomplete_runs} incomplete runs since the last complete one; run again"
        )
    if report.temporary_files:
        lines.append(f"{report.temporary_files} temporary files; the next run removes them")
    if report.derived:
        shown = ", ".join(f"{number} {status}" for status, number in sorted(report.derived.items()))
        lines.append(f"derived objects: {shown}")
    verdict = "OK" if report.holds else f"FAILED, {report.number} violations"
    superseded = f", {report.superseded_rows} superseded" if report.superseded_rows else ""
    lines.append(
        f"{report.rows} rows{superseded}, {report.objects} objects, {report.runs} runs, "
        f"format {report.format}: {verdict}"
    )
    return "\n".join(lines)

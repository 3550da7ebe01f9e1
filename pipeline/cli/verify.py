"""`dicom-router verify`: audit a lake."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.cli.arguments import existing_lake, read_policy

if TYPE_CHECKING:
    from transforms.lake.verify import VerifyReport

MAX_SHOWN: Final = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `verify`."""
    parser.add_argument("lake", metavar="LAKE", help="root of the lake")
    parser.add_argument(
        "--deep", action="store_true", help="read every object and compare its sha256"
    )
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="the policy that the lake was routed with, if it names sinks",
    )
    parser.add_argument(
        "--json", action="store_true", help="print only the report, as JSON for machines"
    )


def run(args: argparse.Namespace) -> int:
    """Audit, and print the findings; return 0 only if there is no violation."""
    from transforms.lake.layout import Layout
    from transforms.lake.verify import verify_lake

    layout, policy = existing_lake(args.lake), read_policy(args.policy)
    on_terminal = sys.stderr.isatty() and not args.json

    def progress(what: str, number: int) -> None:
        if on_terminal:
            print(f"\r{number} {what}", end="\x1b[K", file=sys.stderr, flush=True)

    found = verify_lake(Layout(layout.root, policy.sinks), deep=args.deep, progress=progress)
    if on_terminal:
        print(file=sys.stderr)
    print(found.to_json() if args.json else _table(found))
    return 0 if found.holds else 1


def _table(found: VerifyReport) -> str:
    lines = [f"{v.kind}: {v.object_key} {v.where}".rstrip() for v in found.violations[:MAX_SHOWN]]
    if len(found.violations) > MAX_SHOWN:
        lines.append(f"… and {len(found.violations) - MAX_SHOWN} more; --json lists all")
    lines += [
        f"conflict (not a violation): SOP Instance UID {uid} has different contents"
        for uid in found.conflicts[:MAX_SHOWN]
    ]
    if found.journal_files:
        lines.append(
            f"{found.journal_files} journal files: a run is in progress, or was interrupted and the "
            "next run recovers it"
        )
    if found.incomplete_runs:
        lines.append(
            f"{found.incomplete_runs} runs ended incomplete since the last complete one; run again"
        )
    if found.temporary_files:
        lines.append(f"{found.temporary_files} temporary files; the next run removes them")
    verdict = "OK" if found.holds else f"FAILED, {len(found.violations)} violations"
    superseded = f", {found.superseded_rows} superseded" if found.superseded_rows else ""
    lines.append(
        f"{found.rows} rows{superseded}, {found.objects} objects, {found.runs} runs, "
        f"format {found.format}: {verdict}"
    )
    return "\n".join(lines)

"""`dicom-router report`: write what a lake or a run contains as one HTML page, as text or as JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Final

from pipeline.cli.arguments import existing_lake

IMAGES: Final = 24
DEFAULT: Final = Path("report.html")
LATEST: Final = "latest"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `report`."""
    parser.add_argument("lake", metavar="LAKE", help="root of the lake; runs may be in progress")
    parser.add_argument(
        "--run",
        metavar="RUN",
        help="report the rows of one run, as it wrote them; latest: of the latest one [default: all]",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="HTML file to write [default: report.html; none with --text or --json]",
    )
    parser.add_argument(
        "--text",
        action="store_true",
        help="print what arrived, what waits and what is wrong, for a mail",
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument(
        "--baseline",
        metavar="LAKE_OR_RUN",
        help="compare with another lake, or another run of this one, for drift [default: earlier rows]",
    )
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        default=IMAGES,
        help="pictures of each list, and twice as many of the wrong headers; 0 writes none",
    )


def run(args: argparse.Namespace) -> int:
    """Write the page, and print where it is, or print the text or JSON."""
    from pipeline.report.database import Scope
    from pipeline.report.digest import digest_text
    from pipeline.report.formats import bytes_text, plural
    from pipeline.report.runs import latest_run
    from pipeline.report.write import read_digest, write_report
    from transforms.config.route_config import ConfigError

    if args.images < 0:
        raise ConfigError("--images must be at least 0")
    if args.text and args.json:
        raise ConfigError("give --text or --json, not both")
    layout = existing_lake(args.lake)
    run_id = latest_run(layout) if args.run == LATEST else args.run
    if args.run == LATEST and run_id is None:
        raise ConfigError(f"--run {LATEST}: no run of {layout.root} has ended yet")
    scope = Scope(layout, run_id)
    if args.text or args.json:
        summary = read_digest(scope, baseline=args.baseline)
        print(json.dumps(summary, indent=2, default=str) if args.json else digest_text(summary))
        if args.out is None:
            return 0
    out = args.out or DEFAULT
    found = write_report(out, scope, baseline=args.baseline, images=args.images)
    if args.text or args.json:
        return 0
    print(
        f"{out}: {plural(found['images'], 'image')}, "
        f"{plural(found['disagreements'], 'header')} against the pixels, "
        f"{found['review']:,} in review; {bytes_text(found['bytes'])}"
    )
    return 0
